"""TLS sessions with real servers: what resumes, and that it goes unnoticed where nothing does.

Postfix keeps the keys of its tickets in one place (tlsmgr); Dovecot has those of each process, and one process serves
LMTP to one client after the other, but each submission login has a process of its own; Exim, whose TLS is GnuTLS, gives
no ticket unless it is told to (`tls_resumption_hosts`).
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from smtpconn import ConnectionPool, PasswordAuth, TlsConfig, TlsMode

from .clients import SENDER, TIMEOUT, connect, mail, trusting
from .servers import LOGIN

if TYPE_CHECKING:
    from .dovecot import Dovecot, DovecotSubmission
    from .exim import Exim
    from .postfix import Postfix
    from .servers import MailServer

pytestmark = pytest.mark.interop

modes = pytest.mark.parametrize("tls_mode", [TlsMode.STARTTLS, TlsMode.IMPLICIT], ids=["STARTTLS", "IMPLICIT"])


_numbers = itertools.count(1)


def unknown_to(server: MailServer) -> TlsConfig:
    """A configuration without tickets: what other tests did with this server, bound logins among it, is not its."""
    pem = Path(server.ca_path).read_bytes()
    return trusting(server, trust=pem + b"\n" * next(_numbers))


def visits(server: MailServer, tls_mode: TlsMode, count: int) -> list[bool]:
    """So many connections that do something, one after the other: which of them were resumed."""
    config = unknown_to(server)
    found, certificates = [], set()
    for _ in range(count):
        with connect(server, tls_mode, tls_config=config) as connection:
            connection.noop(timeout=TIMEOUT)
            assert connection.tls is not None
            assert connection.tls.version == "TLSv1.3"
            found.append(connection.tls.resumed)
            certificates.add(connection.tls.peer_certificate)
    assert len(certificates) == 1
    assert certificates != {b""}
    return found


@modes
def test_postfix_resumes(postfix: Postfix, tls_mode: TlsMode) -> None:
    """features:F112a"""
    assert visits(postfix, tls_mode, 4)[-3:] == [True] * 3


@modes
def test_postfix_takes_mail_from_a_pool_whose_connections_are_resumed(
    postfix: Postfix, tls_mode: TlsMode, message_id: str
) -> None:
    """features:F112a, SY24: with a login in each, and one mail for each connection."""
    port = postfix.tls_port if tls_mode is TlsMode.IMPLICIT else postfix.port
    with ConnectionPool(
        postfix.host,
        port,
        tls_mode,
        tls_config=unknown_to(postfix),
        credentials=PasswordAuth(*LOGIN),
        max_messages=1,
        timeout=TIMEOUT,
    ) as pool:
        for _ in range(2):
            assert pool.send(SENDER, [postfix.users[6]], mail(message_id)).all_delivered
        with pool.connection() as lease:
            assert lease.tls is not None
            assert lease.tls.resumed
    assert postfix.wait_for_mail(postfix.users[6], message_id)


def test_dovecot_resumes_over_LMTP(dovecot: Dovecot) -> None:
    """features:F112a: where the process is the same, which is Dovecot's choice; one of few, and it has many chances."""
    assert any(any(visits(dovecot, TlsMode.STARTTLS, 5)) for _ in range(20))


@modes
def test_a_server_that_takes_no_ticket_back_is_greeted_all_the_same(
    dovecot_submission: DovecotSubmission, tls_mode: TlsMode
) -> None:
    """features:F112a: more often than tickets are tried."""
    assert visits(dovecot_submission, tls_mode, 10) == [False] * 10


@modes
def test_a_server_that_gives_no_ticket_is_greeted_all_the_same(exim: Exim, tls_mode: TlsMode) -> None:
    """features:F112a"""
    assert visits(exim, tls_mode, 10) == [False] * 10
