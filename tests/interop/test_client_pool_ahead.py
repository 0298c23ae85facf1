"""PREFETCH and BURST against Postfix, Exim and Dovecot LMTP, which take both: flights counted, and mailboxes read."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytest

from smtpconn import ConnectionPool, Delivery, Mail, Pipelining, TlsMode
from smtpconn.protocol.burst import TRANSACTIONS
from smtpconn.testing import Relay

from .clients import SENDER, TIMEOUT, connect
from .clients import mail as content
from .dovecot import Dovecot
from .servers import UNKNOWN, MailServer

if TYPE_CHECKING:
    from collections.abc import Sequence

pytestmark = pytest.mark.interop

N = 100
LEVELS = [Pipelining.OFF, Pipelining.GROUPED, Pipelining.PREFETCH, Pipelining.BURST]
AHEAD = LEVELS[2:]


def batch(user: str, message_id: str, count: int = N) -> list[Mail]:
    """Mails of a Message-ID each."""
    names = [f"{message_id[:-1]}.{number}>" for number in range(count)]
    return [Mail(SENDER, [user], content(name), tag=name) for name in names]


def each_arrived_once(server: MailServer, user: str, mails: Sequence[Mail]) -> None:
    for mail in mails:
        server.wait_for_mail(user, str(mail.tag), timeout=30.0)
        assert len(server.find_mail(user, str(mail.tag))) == 1


@pytest.mark.parametrize("level", AHEAD)
def test_PL36_RT11_RT12_a_hundred_mails_over_one_connection(
    mail_server: MailServer, level: Pipelining, message_id: str
) -> None:
    """pipelining:PL36: N + 1 flights at PREFETCH, ceil(N/W) at BURST; all delivered, in step."""
    user = mail_server.users[3 % len(mail_server.users)]
    mails = batch(user, message_id)
    with (
        Relay((mail_server.host, mail_server.port), delay=0.01) as relay,
        connect(mail_server, port=relay.port, pipelining=level) as connection,
    ):
        before = relay.flights
        outcomes = list(connection.send_many(mails, timeout=TIMEOUT))
        flights = relay.flights - before
    assert [outcome.delivery for outcome in outcomes] == [Delivery.DELIVERED] * N
    assert flights == (N + 1 if level is Pipelining.PREFETCH else math.ceil(N / TRANSACTIONS))
    each_arrived_once(mail_server, user, mails)


@pytest.mark.parametrize("level", AHEAD)
def test_PL36_a_hundred_mails_through_a_pool(mail_server: MailServer, level: Pipelining, message_id: str) -> None:
    """pool:SM4, pipelining:FB1: all delivered, none twice, nothing is marked."""
    user = mail_server.users[4 % len(mail_server.users)]
    mails = batch(user, message_id)
    protocol = "lmtp" if isinstance(mail_server, Dovecot) else "smtp"
    options = {"timeout": TIMEOUT, "max_size": 2, "protocol": protocol, "pipelining": level}
    with Relay((mail_server.host, mail_server.port), delay=0.01) as relay:
        with ConnectionPool(relay.host, relay.port, TlsMode.NONE, **options) as pool:  # type: ignore[arg-type]  # by name
            with pool.send_many(mails, concurrency=2) as found:
                outcomes = list(found)
            stats = pool.stats()
        flights = relay.flights
    assert [outcome.delivery for outcome in outcomes] == [Delivery.DELIVERED] * N
    assert [(entry.pipelining, entry.mark) for entry in stats.endpoints] == [(level, None)]
    assert (stats.stale_retries, stats.unknown) == (0, 0)
    assert flights < (1.5 * N if level is Pipelining.PREFETCH else N / 2)
    each_arrived_once(mail_server, user, mails)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("chunking", [False, True], ids=["DATA", "BDAT"])
def test_PL11_a_mail_after_a_refused_one_arrives_from_its_own_sender(
    mail_server: MailServer, level: Pipelining, chunking: bool, message_id: str
) -> None:
    """pipelining:PL11, on each level: the refused one in front, then again between two that are delivered."""
    user = mail_server.users[5 % len(mail_server.users)]
    mails = [
        Mail(f"s{number}@elsewhere.test", [UNKNOWN if number % 2 else user], content(f"{message_id[:-1]}.{number}>"),
             chunking=chunking, tag=f"{message_id[:-1]}.{number}>")
        for number in range(1, 6)
    ]  # fmt: skip
    with connect(mail_server, pipelining=level) as connection:
        outcomes = list(connection.send_many(mails, timeout=TIMEOUT))
    for number, outcome in enumerate(outcomes, 1):
        assert outcome.delivery is (Delivery.NOT_DELIVERED if number % 2 else Delivery.DELIVERED)
        if number % 2 == 0:
            stored = mail_server.wait_for_mail(user, str(outcome.mail.tag))
            assert mail_server.envelope_sender(stored) == f"s{number}@elsewhere.test"
        else:
            assert mail_server.find_mail(user, str(outcome.mail.tag)) == []
