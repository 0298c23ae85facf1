"""What the migrations of the documentation must come to, judged by the ledger of our own server (users 18).

Their texts run at real servers in `test_migrations_delivered`, Django's in `test_django_project`, Celery's beside it.
"""

from __future__ import annotations

import smtplib
import ssl
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from email.message import EmailMessage
from typing import Any

import pytest

from smtpconn import (
    AuthenticationError,
    CertificateError,
    ConnectionPool,
    Delivery,
    DeliveryUnknownError,
    Mail,
    PasswordAuth,
    Pipelining,
    RecipientsRefusedError,
    SmtpConnection,
    SmtpTimeoutError,
    TlsConfig,
    TlsMode,
)
from smtpconn.contrib import compat
from smtpconn.testing import LoopbackServer, TestAuthority

SENDER, MESSAGE = "anna@example.com", b"Subject: Hello\r\n\r\nHello.\r\n"


def email_message() -> EmailMessage:
    message = EmailMessage()
    message["From"], message["To"], message["Subject"] = SENDER, "ben@example.net, nobody@example.net", "Hello"
    message.set_content("Hello.\n")
    return message


@pytest.fixture(scope="module")
def ca() -> Iterator[TestAuthority]:
    with TestAuthority() as authority:
        yield authority


# --- MG1: a script ---


def before(smtp_module: Any, server: LoopbackServer, **options: Any) -> Any:
    """The script as it was, but for the import."""
    with smtp_module.SMTP(server.host, server.port, **options) as s:
        s.starttls()
        s.login("user", "secret")
        return s.send_message(email_message())


def after(server: LoopbackServer, tls_config: TlsConfig | None = None, limit: float = 10) -> Any:
    with SmtpConnection.connect(
        server.host, server.port, TlsMode.STARTTLS, timeout=limit, tls_config=tls_config
    ) as c:
        c.auth(PasswordAuth("user", "secret"), timeout=limit)
        return c.send_message(email_message(), timeout=limit)


def test_MG1_a_script_gets_a_queue_id_and_the_refused_recipients(ca: TestAuthority) -> None:
    """users:MG1, U1, U15, U24."""
    with LoopbackServer(tls="starttls", ca=ca, auth={"user": "secret"}) as server:
        server.refuse("nobody@example.net", "550 5.1.1 No such user")
        trusting = TlsConfig(trust=ca.path)
        result = after(server, trusting)
        assert result.queue_id == server.mails[0].queue_id
        assert [entry.address for entry in result.rejected] == ["nobody@example.net"]
        refused = before(compat, server, timeout=10, tls_config=trusting)
        assert refused == {"nobody@example.net": (550, b"5.1.1 No such user")}


def test_MG1_a_self_signed_server_gets_no_credential_where_smtplib_gives_it(ca: TestAuthority) -> None:
    """users:MG1, U15."""
    with LoopbackServer(tls="starttls", ca=ca, auth={"user": "secret"}) as server:
        with pytest.raises(CertificateError):
            after(server)
        with pytest.raises(compat.SMTPCertificateFailed):
            before(compat, server, timeout=10)
        assert [session.user for session in server.sessions] == [None, None]
        smtplib_context = ssl._create_stdlib_context()  # type: ignore[attr-defined]  # what smtplib takes by itself
        assert smtplib_context.verify_mode is ssl.CERT_NONE, "smtplib verifies now: the page must say so"


def test_MG1_a_dripping_server_costs_the_timeouts_and_no_more(ca: TestAuthority) -> None:
    """users:MG1, U13."""
    with LoopbackServer(tls="starttls", ca=ca, auth={"user": "secret"}) as server:
        server.fault("end of data", "drip-unbooked")
        began = time.monotonic()
        with pytest.raises((DeliveryUnknownError, SmtpTimeoutError)):
            after(server, TlsConfig(trust=ca.path), limit=2)
        assert time.monotonic() - began < 3 * 2 + 5


# --- MG3: Flask and threads (the rest is in test_flask) ---


def test_MG3_two_hundred_calls_of_sixteen_threads_use_four_connections(server: LoopbackServer) -> None:
    """users:MG3, U29: every call ends within its timeout, and its result is seen."""
    server.refuse("r13@example.net", "550 5.1.1 No such user")
    with ConnectionPool.from_url(server.url, max_size=4) as pool, ThreadPoolExecutor(16) as executor:
        message = email_message()
        calls = [
            executor.submit(pool.send_message, message, recipients=[f"r{number}@example.net"], timeout=30)
            for number in range(200)
        ]
        errors = [call.exception(timeout=60) for call in calls]
    assert [number for number, error in enumerate(errors) if error] == [13]
    assert isinstance(errors[13], RecipientsRefusedError)
    assert server.received == 199
    assert server.connections_peak <= 4


# --- MG5: LMTP ---


def deliver(path: str, recipients: list[str]) -> Any:
    with SmtpConnection.connect_lmtp(unix_socket=path, timeout=5) as c:
        try:
            return c.send_lmtp(SENDER, recipients, MESSAGE, timeout=60).recipients
        except DeliveryUnknownError as error:
            return error.recipients


def test_MG5_fifty_recipients_are_one_transaction_with_fifty_results() -> None:
    """users:MG5, U1: also where one address is there twice; in the end the connection is cut after reply 20."""
    recipients = [f"r{number}@example.net" for number in range(50)]
    with LoopbackServer(protocol="lmtp", unix_socket=True) as server:
        for number in range(0, 50, 5):
            server.refuse(recipients[number], "452 4.2.2 Full", when="data")
        server.refuse(recipients[1], "550 5.1.1 No such user")
        entries = deliver(str(server.unix_socket), [*recipients, recipients[2]])
        assert [entry.address for entry in entries] == [*recipients, recipients[2]]
        expected = dict.fromkeys(range(0, 50, 5), False) | {1: True}
        refused = {place: entry.permanent for place, entry in enumerate(entries) if entry.permanent is not None}
        assert refused == expected
        assert entries[50].delivery is Delivery.DELIVERED
        assert server.connections_total == 1
        assert server.sessions[0].transactions == 1
        server.clear_rules()
        server.fault("end of data", "EOF", recipient=recipients[20])
        entries = deliver(str(server.unix_socket), recipients)
    verdicts = [entry.delivery for entry in entries]
    assert verdicts[:20] == [Delivery.DELIVERED] * 20
    assert verdicts[20:] == [Delivery.UNKNOWN] * 30


# --- MG6: ten thousand personalised messages ---


class Source:
    """Mails made one by one; knows how many were pulled."""

    def __init__(self, count: int, bad: frozenset[int] = frozenset()) -> None:
        self.count, self.bad, self.pulled = count, bad, 0

    def __iter__(self) -> Iterator[Mail]:
        for number in range(self.count):
            self.pulled += 1
            to = "nobody@example.net" if number in self.bad else f"r{number}@example.net"
            yield Mail(SENDER, [to], b"Subject: %d\r\n\r\nHello.\r\n" % number, tag=number)


def test_MG6_a_long_batch_is_read_lazily_and_a_refused_mail_spoils_only_itself(server: LoopbackServer) -> None:
    """users:MG6: connections are replaced at `max_messages`; stopped and resumed, nothing is missing or double."""
    server.refuse("nobody@example.net", "550 5.1.1 No such user")
    source = Source(600, frozenset({7, 300}))
    recorded: dict[int, Delivery] = {}
    with ConnectionPool.from_url(server.url, max_size=4, max_messages=100) as pool:
        with pool.send_many(source, concurrency=4, timeout=60) as outcomes:
            for outcome in outcomes:
                assert source.pulled <= len(recorded) + 1 + 16
                recorded[outcome.mail.tag] = outcome.delivery
                if len(recorded) == 400:
                    break
        sent_before = server.received
        rest = [mail for mail in Source(600, source.bad) if mail.tag >= source.pulled]
        for outcome in pool.send_many(rest, concurrency=4, timeout=60):
            recorded[outcome.mail.tag] = outcome.delivery
        assert sent_before >= 398
    assert {tag for tag, verdict in recorded.items() if verdict is not Delivery.DELIVERED} == {7, 300}
    delivered = [int(mail.message["Subject"]) for mail in server.mails]
    assert len(delivered) == len(set(delivered))
    assert max(session.transactions for session in server.sessions) <= 100
    assert server.connections_peak <= 4


def test_MG6_a_wrong_password_ends_the_batch_with_the_rest_unread(ca: TestAuthority) -> None:
    """users:MG6, U10: at most `max_connecting` AUTHs."""
    with LoopbackServer(tls="implicit", ca=ca, auth={"user": "another"}, mechanisms=("PLAIN",)) as server:
        source = Source(10_000)
        pool = ConnectionPool(
            server.host, server.port, TlsMode.IMPLICIT, tls_config=TlsConfig(trust=ca.path),
            credentials=PasswordAuth("user", "wrong"), timeout=10, max_connecting=2,
        )  # fmt: skip
        with pool, pytest.raises(AuthenticationError):
            list(pool.send_many(source, concurrency=4))
        assert source.pulled <= 16 + 4
        attempts = [verb for session in server.sessions for verb in session.commands if verb.startswith("AUTH")]
        assert 1 <= len(attempts) <= 2


def test_MG6_prefetching_needs_one_flight_for_each_mail(server: LoopbackServer) -> None:
    """users:MG6, UA2."""
    from smtpconn.testing import Relay

    with Relay(server) as relay, SmtpConnection.connect(
        relay.host, relay.port, TlsMode.NONE, timeout=30, pipelining=Pipelining.PREFETCH
    ) as c:
        outcomes = list(c.send_many(Source(50), timeout=30))
    assert all(outcome.delivery is Delivery.DELIVERED for outcome in outcomes)
    assert relay.flights <= 50 + 4, "greeting and EHLO, the first envelope and QUIT stand beside them"


def test_smtplib_itself_runs_the_script_of_before(server: LoopbackServer) -> None:
    """The text of MG1 is smtplib's: what can be run without TLS gives the same with both."""
    given = []
    for module in (smtplib, compat):
        with module.SMTP(server.host, server.port, timeout=10) as s:
            given.append(s.send_message(email_message()))
    assert given == [{}, {}]
