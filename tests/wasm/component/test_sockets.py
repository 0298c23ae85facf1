"""The component with Python's own sockets (wasi:sockets), run by jco in Node: plain TCP to a loopback server."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any, Literal

import pytest

from smtpconn import ForwardPath, Mail, ScramAuth, TlsMode
from smtpconn.oneshot import SendConfig, send_once
from smtpconn.testing import LoopbackServer, Relay

if TYPE_CHECKING:
    from .conftest import Jco

# npm may have to fetch jco, and the component is built and transpiled.
pytestmark = pytest.mark.timeout(420)

SENDER, RECIPIENTS = "a@example.com", ["b@example.com", "c@example.com"]
BODY = "Subject: x\r\n\r\n.a line that is stuffed\r\n" + "y" * 70 + "\r\n"
USER, SECRET = "user", "pencil"


def sending(port: int, protocol: str = "smtp", **changed: Any) -> dict[str, Any]:
    config = {
        "host": "127.0.0.1",
        "port": port,
        "tlsMode": "none",
        "protocol": protocol,
        "ehloDomain": "client.example.com",
        "timeout": 20,
    }
    mail = {"sender": SENDER, "recipients": RECIPIENTS, "message": BODY, "chunking": changed.pop("chunking", False)}
    credentials = changed.pop("credentials", None)
    made = {"call": "send", "config": config | changed, "mail": mail}
    return made | ({"credentials": credentials} if credentials else {})


@pytest.mark.parametrize("chunking", [False, True], ids=["DATA", "BDAT"])
@pytest.mark.parametrize("protocol", ["smtp", "lmtp"])
def test_SY27_the_wire_is_the_same_as_on_cpython(jco: Jco, protocol: Literal["smtp", "lmtp"], chunking: bool) -> None:
    wires: list[bytes] = []
    transactions: list[tuple[object, ...]] = []
    for here in (True, False):
        with LoopbackServer(protocol=protocol) as server, Relay(server) as relay:
            if here:
                config = SendConfig(
                    host="127.0.0.1",
                    port=relay.port,
                    tls_mode=TlsMode.NONE,
                    protocol=protocol,
                    ehlo_domain="client.example.com",
                )
                mail = Mail(SENDER, [ForwardPath(path) for path in RECIPIENTS], BODY.encode(), chunking=chunking)
                assert send_once(config, mail, timeout=20).code == 250
            else:
                [outcome] = jco.run(sending(relay.port, protocol, chunking=chunking))
                assert [entry["delivery"] for entry in outcome["ok"]["recipients"]] == ["delivered"] * 2
            server.wait_for_connections(0, 10)
        wires.append(relay.octets_to_server)  # the relay has stopped: nothing is missing
        [captured], [session] = server.mails, server.sessions
        transactions.append((captured.content, captured.recipients, session.lines, session.octets))
        assert session.closed_by == "QUIT"
        assert server.violations == []
    assert wires[0] == wires[1]
    assert transactions[0] == transactions[1]
    assert wires[0].startswith(b"EHLO client" if protocol == "smtp" else b"LHLO client")
    assert wires[0].endswith(b"QUIT\r\n")


def test_SY27_SY19_scram_works_without_tls_and_without_hashlibs_pbkdf2(jco: Jco) -> None:
    credentials = {"mechanism": "scram-sha256", "user": USER, "secret": SECRET}
    with LoopbackServer(auth={USER: SECRET}) as server:
        [sent, modules] = jco.run(
            sending(server.port, credentials=credentials), {"call": "python", "modules": ["ssl", "socket"]}
        )
        config = SendConfig(host="127.0.0.1", port=server.port, tls_mode=TlsMode.NONE, ehlo_domain="client.example.com")
        mail = Mail(SENDER, RECIPIENTS, BODY.encode())
        send_once(config, mail, timeout=20, credentials=ScramAuth(USER, SECRET))
    assert sent["ok"]["code"] == 250
    assert modules["ok"][1] == ["ssl"]
    there, here = server.sessions
    assert (there.user, there.lines, there.octets) == (here.user, here.lines, here.octets)
    assert len(server.mails) == 2
    assert server.violations == []


def test_what_goes_wrong_comes_back_as_its_kind(jco: Jco) -> None:
    credentials = {"mechanism": "scram-sha256", "user": USER, "secret": SECRET}
    with LoopbackServer(auth={USER: "another"}) as server:
        outcomes = jco.run(
            sending(server.port, credentials=credentials),
            sending(server.port, credentials={**credentials, "mechanism": "plain"}),
            sending(server.port, tlsMode="implicit"),
            sending(server.port, maxRecipients=1),
            sending(server.port),
        )
    kinds = [outcome["err"]["kind"] for outcome in outcomes]
    assert kinds == ["auth-rejected", "invalid-input", "io", "policy-rejected", "protocol"]
    assert "module ssl" in outcomes[2]["err"]["text"]
    assert SECRET not in repr(outcomes)
    assert server.mails == []


@pytest.mark.parametrize("row", ["E114", "E128", "E130", "E143", "E165", "E191", "a host name", "large mails"])
def test_SY27_a_row_that_needs_a_socket_stands_there_too(jco: Jco, row: str) -> None:
    """features:E114, E128, E130, E143, E165, E191."""
    with LoopbackServer(tokens={USER: SECRET} if row == "E143" else None) as server:
        [outcome] = jco.run({"call": "check", "row": row, "port": server.port})
        assert "ok" in outcome, outcome["err"]
        server.wait_for_connections(0, 10)
    assert server.violations == []
    if row == "E114":
        assert server.sessions[0].ehlo_domain == "[127.0.0.1]"
    elif row == "E143":
        assert server.sessions[0].user == USER
        assert server.sessions[0].commands.count("AUTH") == 1
    elif row == "E165":
        assert [mail.content for mail in server.mails] == [b"Subject: x\r\n\r\nhello\r\n"]
    elif row == "large mails":
        assert [len(mail.content) for mail in server.mails] == [int(outcome["ok"])] * 3
    elif row in ("E128", "E130"):
        assert server.sessions == []


def test_SY27_E194_quit_that_fails_changes_nothing(jco: Jco) -> None:
    with LoopbackServer() as server:
        server.fault("QUIT", "silence")
        [outcome] = jco.run({"call": "check", "row": "E194", "port": server.port})
    assert "ok" in outcome, outcome["err"]


def test_SY27_E30_a_closed_port_is_a_connect_error(jco: Jco) -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        [outcome] = jco.run({"call": "check", "row": "E30", "port": bound.getsockname()[1]})
    assert "ok" in outcome, outcome["err"]


def test_SY27_SY0_3_tls_that_is_demanded_there_names_the_missing_module(jco: Jco) -> None:
    with LoopbackServer() as server:
        [outcome] = jco.run({"call": "check", "row": "TLS demanded", "port": server.port})
    assert "ok" in outcome, outcome["err"]
    assert outcome["ok"].count("module ssl") == 2
    assert server.sessions == []
