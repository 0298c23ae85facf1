"""`ConnectionPool` against Postfix, Exim and Dovecot: many threads, refusals, and connections that the server ends."""

from __future__ import annotations

import select
import socket
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from smtpconn import ConnectionPool, Delivery, RecipientsRefusedError, SmtpError, TlsConfig, TlsMode

from .dovecot import Dovecot
from .exim import Exim
from .postfix import Postfix
from .servers import LOGIN, UNKNOWN, MailServer

if TYPE_CHECKING:
    from typing import Any

pytestmark = pytest.mark.interop

SENDER = "sender@elsewhere.test"


def pool_of(server: MailServer, port: int | None = None, **options: Any) -> ConnectionPool:
    protocol = "lmtp" if isinstance(server, Dovecot) else "smtp"
    options = {"tls_mode": TlsMode.NONE, "timeout": 30, "protocol": protocol, **options}
    return ConnectionPool(server.host, port or server.port, **options)


def test_two_hundred_mails_from_eight_threads_all_have_their_verdict(mail_server: MailServer) -> None:
    """users:UA1, pool:PO17 in short: every tenth mail is refused, and Exim closes at the 11th command without mail."""
    user = mail_server.users[5 % len(mail_server.users)]
    before = len(mail_server.mailbox(user))
    failures: list[BaseException] = []
    refused: list[int] = []

    def work(number: int) -> None:
        try:
            for count in range(25):
                place = number * 25 + count
                recipient = UNKNOWN if place % 10 == 0 else user
                try:
                    result = pool.send(SENDER, [recipient], b"Subject: %d\r\n\r\nx\r\n" % place)
                except RecipientsRefusedError:
                    refused.append(place)
                else:
                    if result.delivery is Delivery.NOT_DELIVERED:
                        refused.append(place)
        except BaseException as error:  # handed to the test's thread
            failures.append(error)

    with pool_of(mail_server, max_messages=10) as pool:
        threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(50)
        stats = pool.stats()
    assert not failures, failures
    assert sorted(refused) == list(range(0, 200, 10))
    assert stats.messages == 200
    assert len(mail_server.wait_for_mails(user, before + 180)) == before + 180


def test_a_server_that_hangs_up_on_idle_connections_is_invisible(postfix: Postfix) -> None:
    """pool:CS1: Postfix says 421 4.4.2 after five seconds of silence, unasked; the next mail goes out all the same."""
    sockets: list[socket.socket] = []

    def dial(host: str, port: int, timeout: float | None) -> socket.socket:
        sockets.append(socket.create_connection((host, port), timeout=timeout))
        return sockets[-1]

    with pool_of(postfix, postfix.strict_port, dial=dial) as pool:
        assert pool.send(SENDER, [postfix.users[6]], b"x\r\n").all_delivered
        assert select.select([sockets[0]], [], [], 20)[0], "Postfix has said something"
        assert pool.send(SENDER, [postfix.users[6]], b"x\r\n").all_delivered
        stats = pool.stats()
    assert (stats.opened, stats.stale_retries) == (2, 0)


def test_a_limit_on_connections_makes_the_pool_smaller_and_no_caller_sees_it(postfix: Postfix) -> None:
    """pool:BO7, CS5: the third parallel connection is greeted with 421 4.7.0."""
    failures: list[BaseException] = []

    def work() -> None:
        try:
            for _ in range(10):
                assert pool.send(SENDER, [postfix.users[6]], b"x\r\n").all_delivered
        except BaseException as error:  # handed to the test's thread
            failures.append(error)

    with pool_of(postfix, postfix.limited_port) as pool:
        assert pool.send(SENDER, [postfix.users[6]], b"x\r\n").all_delivered
        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(50)
    assert not failures, failures


def test_tls_and_auth_once_per_connection(postfix: Postfix, exim: Exim) -> None:
    for server in (postfix, exim):
        config = TlsConfig(trust=Path(server.ca_path), server_name=server.tls_name)
        options: dict[str, Any] = {"tls_mode": TlsMode.STARTTLS, "tls_config": config, "credentials": LOGIN}
        with pool_of(server, **options) as pool:
            for _ in range(5):
                assert pool.send(SENDER, [server.users[6]], b"x\r\n").all_delivered
            assert pool.stats().opened == 1
        with pool_of(server, **{**options, "credentials": (LOGIN[0], "wrong")}) as pool:
            with pytest.raises(SmtpError) as refused:
                pool.send(SENDER, [server.users[6]], b"x\r\n")
            assert refused.value.permanent
            assert refused.value.delivery is Delivery.NOT_DELIVERED
