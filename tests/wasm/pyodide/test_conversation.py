"""smtpconn's core in Pyodide, JavaScript owning the socket: what servers see, and what the caller is told."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest

from smtpconn import Delivery, PasswordAuth, PlainAuth, SmtpConnection, TlsConfig, TlsMode
from smtpconn.testing import LoopbackServer, Relay, TestAuthority

from ...interop.dovecot import Dovecot
from ...interop.postfix import Postfix
from ...interop.servers import LOGIN, UNKNOWN, MailServer
from .worker import Worker

# The first test waits for Node and Pyodide, and perhaps for npm and the real servers.
pytestmark = pytest.mark.timeout(400)

DOMAIN = "client.example.com"
TIMEOUT = 20.0
USER, PASSWORD = "tester", "correct horse 4 battery"
SENDER = "sender@elsewhere.test"
MESSAGE = b"Subject: x\r\nMessage-ID: <x@lab.test>\r\n\r\n.dots\r\n..\r\n" + b"line of text\r\n" * 10

TlsName = Literal["none", "implicit", "starttls"]
TLS: tuple[TlsName, ...] = ("none", "implicit", "starttls")
_MODES = {"none": TlsMode.NONE, "implicit": TlsMode.IMPLICIT, "starttls": TlsMode.STARTTLS}


@pytest.fixture(scope="module")
def authority() -> Iterator[TestAuthority]:
    with TestAuthority() as made:
        yield made


def mail(*recipients: str, message: bytes = MESSAGE, chunking: bool = False, pieces: int = 0) -> dict[str, Any]:
    encoded = base64.b64encode(message).decode()
    to = list(recipients or ("a@example.com",))
    return {"sender": SENDER, "recipients": to, "message": encoded, "chunking": chunking, "pieces": pieces}


def job(where: Any, *mails: dict[str, Any], tls: TlsName = "none", **options: Any) -> dict[str, Any]:
    """A job for the worker; `where` has host and port."""
    port = where.tls_port if tls == "implicit" and isinstance(where, MailServer) else where.port
    described = {"host": where.host, "port": port, "tls": tls, "protocol": "smtp", "domain": DOMAIN}
    return described | {"mails": list(mails or (mail(),)), "timeout": int(TIMEOUT * 1_000)} | options


def sent_by_cpython(described: dict[str, Any]) -> list[list[Delivery]]:
    """The same job by `SmtpConnection`; the verdicts of each mail."""
    trust = TlsConfig(trust=described["ca"].encode(), server_name="localhost") if "ca" in described else None
    credentials: Any = None
    if "user" in described:
        credentials = (PlainAuth if described.get("plain") else PasswordAuth)(described["user"], described["password"])
    connect: Any = SmtpConnection.connect_lmtp if described["protocol"] == "lmtp" else SmtpConnection.connect
    with connect(
        described["host"],
        described["port"],
        _MODES[described["tls"]],
        timeout=TIMEOUT,
        tls_config=trust,
        credentials=credentials,
        ehlo_domain=DOMAIN,
    ) as connection:
        verdicts = []
        for one in described["mails"]:
            octets = base64.b64decode(one["message"])
            size = one["pieces"]
            message: Any = [octets[at : at + size] for at in range(0, len(octets), size)] if size else octets
            send = connection.send_bdat if one["chunking"] else connection.send
            result = send(one["sender"], one["recipients"], message, timeout=TIMEOUT)
            verdicts.append([entry.delivery for entry in result.recipients])
        return verdicts


def verdicts_of(answer: dict[str, Any]) -> list[list[Delivery]]:
    assert "outcomes" in answer, answer
    return [[Delivery(entry["delivery"]) for entry in outcome["recipients"]] for outcome in answer["outcomes"]]


def failed(answer: dict[str, Any]) -> tuple[str, str | None, list[str]]:
    """The class of the error, its stage, and the verdicts."""
    assert "error" in answer, answer
    return answer["error"], answer.get("stage"), [entry["delivery"] for entry in answer.get("recipients") or ()]


# --- the same wire as CPython's


LARGE = b"x" * 998 + b"\r\n"
SCRIPTS: dict[str, dict[str, Any]] = {
    "DATA": {"mails": [mail(), mail("a@example.com", "b@example.com")]},
    "BDAT": {"mails": [mail(chunking=True)]},
    "DATA stream": {"mails": [mail(message=LARGE * 200, pieces=7_001)]},
    "BDAT stream": {"mails": [mail(message=LARGE * 3_000, pieces=200_000, chunking=True)]},
    "DATA large": {"mails": [mail(message=LARGE * 3_000)]},
    "refused": {"mails": [mail("a@example.com", "refused@example.com")]},
}


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize("protocol", ["smtp", "lmtp"])
def test_SY28_the_octets_on_the_wire_are_CPythons(
    worker: Worker, script: str, protocol: Literal["smtp", "lmtp"]
) -> None:
    """features:D1, SY14, SY17: bodies, dot-stuffing and framing, octet for octet."""
    wires, all_verdicts = [], []
    for side in ("pyodide", "cpython"):
        with LoopbackServer(protocol=protocol) as server, Relay(server) as relay:
            server.refuse("refused@example.com", "550 5.1.1 No such user")
            described = job(relay, protocol=protocol, **SCRIPTS[script])
            all_verdicts.append(verdicts_of(worker.run(described)) if side == "pyodide" else sent_by_cpython(described))
            server.wait_for_connections(0, 10)
            assert server.violations == []
            wires.append(relay.octets_to_server)
    assert wires[0] == wires[1]
    assert wires[0].startswith(b"EHLO " if protocol == "smtp" else b"LHLO ")
    assert wires[0].endswith(b"QUIT\r\n")
    assert all_verdicts[0] == all_verdicts[1]


@pytest.mark.parametrize("delivery", ["coalesced", "whole", "line", "octet"])
@pytest.mark.parametrize("tls", ["implicit", "starttls"])
@pytest.mark.parametrize("mechanism", ["SCRAM-SHA-256", "PLAIN"])
def test_SY28_inside_TLS_the_server_sees_what_CPython_would_have_said(
    worker: Worker, authority: TestAuthority, tls: Literal["implicit", "starttls"], mechanism: str, delivery: Any
) -> None:
    """features:SY19, SY26, SY30: both TLS modes by Node, AUTH by the core, in each way in which replies may arrive."""
    seen = []
    for side in ("pyodide", "cpython"):
        with LoopbackServer(
            tls=tls, ca=authority, auth={USER: PASSWORD}, mechanisms=[mechanism], delivery=delivery
        ) as server:
            described = job(
                server, mail(), mail("a@example.com", "b@example.com", chunking=True), tls=tls,
                ca=authority.pem.decode(), servername="localhost", user=USER, password=PASSWORD,
                plain=mechanism == "PLAIN",
            )  # fmt: skip
            verdicts = verdicts_of(worker.run(described)) if side == "pyodide" else sent_by_cpython(described)
            assert verdicts == [[Delivery.DELIVERED], [Delivery.DELIVERED] * 2]
            server.wait_for_connections(0, 10)
            assert server.violations == []
            (session,) = server.sessions
            assert (session.user, session.closed_by) == (USER, "QUIT")
            assert session.tls is not None
            seen.append((session.lines, session.octets, [one.content for one in server.mails]))
    assert seen[0] == seen[1]
    assert seen[0][2] == [MESSAGE, MESSAGE]


# --- TLS that does not come about


@pytest.mark.parametrize("surplus", [b"250 injected\r\n", b"250-injected\r\n250 AUTH PLAIN\r\n", b"x"])
def test_SY28_E25_octets_injected_behind_the_220_are_refused_before_the_handshake(
    worker: Worker, authority: TestAuthority, surplus: bytes
) -> None:
    with LoopbackServer(tls="starttls", ca=authority) as server:
        server.reply("STARTTLS", b"220 2.0.0 go\r\n" + surplus)
        answer = worker.run(job(server, tls="starttls", ca=authority.pem.decode(), servername="localhost"))
        assert failed(answer) == ("StartTlsInjectionError", "STARTTLS", [])
        server.wait_for_connections(0, 10)
        (session,) = server.sessions
        assert (session.commands, session.tls) == (["EHLO", "STARTTLS"], None)
        assert session.octets == len(f"EHLO {DOMAIN}\r\nSTARTTLS\r\n")
        assert server.mails == []


@pytest.mark.parametrize("tls", ["implicit", "starttls"])
@pytest.mark.parametrize("wrong", ["authority", "name"])
def test_SY28_E28_a_certificate_that_is_not_trusted_gets_no_octet_of_SMTP_after_the_refusal(
    worker: Worker, authority: TestAuthority, tls: Literal["implicit", "starttls"], wrong: str
) -> None:
    with LoopbackServer(tls=tls, ca=authority, auth={USER: PASSWORD}) as server, TestAuthority("stranger") as stranger:
        trusted = stranger if wrong == "authority" else authority
        name = "localhost" if wrong == "authority" else "mx.example.com"
        described = job(server, tls=tls, ca=trusted.pem.decode(), servername=name, user=USER, password=PASSWORD)
        error, _, verdicts = failed(worker.run(described))
        assert verdicts == []
        assert error in (
            ("ERR_TLS_CERT_ALTNAME_INVALID",)
            if wrong == "name"
            else ("SELF_SIGNED_CERT_IN_CHAIN", "UNABLE_TO_VERIFY_LEAF_SIGNATURE", "UNABLE_TO_GET_ISSUER_CERT_LOCALLY")
        )
        server.wait_for_connections(0, 10)
        (session,) = server.sessions
        before = b"" if tls == "implicit" else f"EHLO {DOMAIN}\r\nSTARTTLS\r\n".encode()
        assert session.octets == len(before)
        assert session.commands == (["EHLO", "STARTTLS"] if before else [])


def test_D11_STARTTLS_that_is_demanded_and_not_offered_is_an_error_and_nothing_follows(worker: Worker) -> None:
    with LoopbackServer() as server:
        answer = worker.run(job(server, tls="starttls", ca="", servername="localhost"))
        assert failed(answer)[0] == "StartTlsUnavailableError"
        server.wait_for_connections(0, 10)
        assert server.sessions[0].commands == ["EHLO"]


# --- verdicts


@pytest.mark.parametrize("kind", ["EOF", "RST", "cut-reply"])
@pytest.mark.parametrize("chunking", [False, True])
def test_SY28_the_end_of_the_stream_behind_the_end_of_data_is_UNKNOWN(
    worker: Worker, kind: str, chunking: bool
) -> None:
    with LoopbackServer() as server:
        server.fault("end of data", kind)
        answer = worker.run(job(server, mail("a@example.com", "b@example.com", chunking=chunking)))
        assert failed(answer) == ("DeliveryUnknownError", "end of data", ["unknown", "unknown"])


@pytest.mark.parametrize(
    ("stage", "kind", "error", "where"),
    [
        ("DATA", "EOF", "ConnectionLostError", "DATA"),
        ("MAIL", "421", "ServiceUnavailableError", "MAIL"),
        ("RCPT", "malformed", "ProtocolError", "RCPT"),
        ("end of data", "5yz", "PermanentReplyError", "end of data"),
    ],
)
def test_SY28_in_front_of_it_nobody_can_have_the_mail(
    worker: Worker, stage: str, kind: str, error: str, where: str
) -> None:
    with LoopbackServer() as server:
        server.fault(stage, kind)
        assert failed(worker.run(job(server))) == (error, where, ["not delivered"])


def test_SY28_a_server_that_says_nothing_is_left_in_time(worker: Worker) -> None:
    """features:D4: before the end of data there must be time for its reply; behind it the verdict is UNKNOWN."""
    with LoopbackServer() as server:
        server.fault("end of data", "silence")
        assert failed(worker.run(job(server, timeout=2_500))) == ("DeliveryUnknownError", "end of data", ["unknown"])
        server.clear_rules()
        server.fault("DATA", "silence")
        assert failed(worker.run(job(server, timeout=2_500))) == ("SmtpTimeoutError", "DATA", ["not delivered"])


def test_SY28_E82_LMTP_has_a_verdict_for_each_recipient(worker: Worker) -> None:
    with LoopbackServer(protocol="lmtp") as server:
        server.refuse("b@example.com", "550 5.1.1 No such user")
        server.refuse("c@example.com", "452 4.2.2 Mailbox full", when="data")
        answer = worker.run(job(server, mail("a@example.com", "b@example.com", "c@example.com"), protocol="lmtp"))
        (outcome,) = answer["outcomes"]
        assert [(entry["delivery"], entry["reply"][:11]) for entry in outcome["recipients"]] == [
            ("delivered", "250 [2.1.5]"),
            ("not delivered", "550 [5.1.1]"),
            ("not delivered", "452 [4.2.2]"),
        ]


# --- real servers


@pytest.mark.interop
@pytest.mark.parametrize("tls", ["implicit", "starttls"])
@pytest.mark.parametrize("plain", [False, True], ids=["SCRAM", "PLAIN"])
@pytest.mark.parametrize("chunking", [False, True], ids=["DATA", "BDAT"])
def test_SY28_SY19_postfix_takes_the_mail_octet_for_octet(
    worker: Worker, postfix: Postfix, tls: TlsName, plain: bool, chunking: bool
) -> None:
    """Node's `net` and `tls` own the sockets; STARTTLS is handed over between two flows."""
    message_id = f"<pyodide-{tls}-{plain}-{chunking}@lab.test>"
    message = MESSAGE.replace(b"<x@lab.test>", message_id.encode())
    described = job(
        postfix, mail(postfix.users[0], message=message, chunking=chunking), tls=tls, plain=plain,
        ca=Path(postfix.ca_path).read_text(encoding="ascii"), servername=postfix.tls_name,
        user=LOGIN[0], password=LOGIN[1],
    )  # fmt: skip
    assert verdicts_of(worker.run(described)) == [[Delivery.DELIVERED]]
    stored = postfix.wait_for_mail(postfix.users[0], message_id)
    assert postfix.original(stored, message_id) == message
    assert re.search(rf"sasl_method={'PLAIN' if plain else 'SCRAM-SHA-256'}", postfix.log())


@pytest.mark.interop
@pytest.mark.parametrize("tls", ["implicit", "starttls"])
def test_SY28_postfix_whose_certificate_is_not_trusted_is_not_spoken_to(
    worker: Worker, postfix: Postfix, tls: TlsName
) -> None:
    described = job(
        postfix, mail(postfix.users[1]), tls=tls, user=LOGIN[0], password=LOGIN[1], servername=postfix.tls_name,
        ca=postfix.certificates.other_ca_path.read_text(encoding="ascii"),
    )  # fmt: skip
    assert failed(worker.run(described))[0] in ("SELF_SIGNED_CERT_IN_CHAIN", "UNABLE_TO_VERIFY_LEAF_SIGNATURE")
    assert postfix.mailbox(postfix.users[1]) == []


@pytest.mark.interop
def test_SY28_E82_dovecot_says_over_LMTP_what_became_of_each_recipient(worker: Worker, dovecot: Dovecot) -> None:
    for tls in ("none", "implicit"):
        described = job(
            dovecot, mail(dovecot.users[0], UNKNOWN), protocol="lmtp", tls=tls, servername=dovecot.tls_name,
            ca=Path(dovecot.ca_path).read_text(encoding="ascii"),
        )  # fmt: skip
        assert verdicts_of(worker.run(described)) == [[Delivery.DELIVERED, Delivery.NOT_DELIVERED]]
