"""The component against a real Postfix and a real Dovecot, over a stream of the host."""

from __future__ import annotations

import socket
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

# The fixtures of the interoperability tests, which say what is missing where a server is.
from ...interop.conftest import certificates, dovecot, postfix  # noqa: F401  # pytest finds them here
from ...interop.servers import LOGIN, MailServer

if TYPE_CHECKING:
    from .host import Host

pytestmark = [pytest.mark.interop, pytest.mark.timeout(300)]

SENDER = "sender@elsewhere.test"


@pytest.fixture(params=["postfix", "dovecot"])
def server(request: pytest.FixtureRequest) -> MailServer:
    """Postfix by SMTP, Dovecot by LMTP."""
    found: MailServer = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def named(server: MailServer, monkeypatch: pytest.MonkeyPatch) -> str:
    """The server's name, which this host resolves: the guest asks nobody."""
    dial = socket.create_connection

    def dialled(address: tuple[str, int], timeout: float | None) -> Any:
        assert address[0] == server.tls_name
        return dial((server.host, address[1]), timeout)

    monkeypatch.setattr(socket, "create_connection", dialled)
    return server.tls_name


@pytest.mark.parametrize("tls_mode", ["implicit", "starttls"])
@pytest.mark.parametrize("chunking", [False, True], ids=["DATA", "BDAT"])
def test_SY27_a_mail_arrives_on_a_real_server(
    host: Host, server: MailServer, named: str, tls_mode: str, chunking: bool
) -> None:
    message_id = f"<{uuid.uuid4()}@elsewhere.test>"
    lmtp = server.name == "Dovecot"
    config = {
        "host": named,
        "port": server.tls_port if tls_mode == "implicit" else server.port,
        "tls_mode": tls_mode,
        "protocol": "lmtp" if lmtp else "smtp",
        "ehlo_domain": "client.example.com",
        "trust": Path(server.ca_path).read_bytes(),
        "timeout": 30.0,
        "max_recipients": None,
        "max_message_octets": None,
    }
    mail = {
        "sender": SENDER,
        "recipients": [server.users[0]],
        "message": f"From: {SENDER}\r\nMessage-ID: {message_id}\r\n\r\n.hello\r\n".encode(),
        "chunking": chunking,
    }
    user, secret = LOGIN
    account = None if lmtp else {"mechanism": "scram-sha256", "user": user, "secret": secret}
    tag, outcome = host.send(config, account, mail)
    assert tag == "ok", outcome
    assert [entry["delivery"] for entry in outcome["recipients"]] == ["delivered"]
    assert server.wait_for_mail(server.users[0], message_id)
