"""SIZE: what the advertised limit keeps at home, and servers that refuse what they had not announced to refuse."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from smtpconn import (
    ConnectionLostError,
    ConnectionPool,
    Delivery,
    ExtensionUnavailableError,
    InvalidInputError,
    PasswordAuth,
    PermanentReplyError,
    TlsMode,
)

from .clients import SENDER, TIMEOUT, Dial, connect, mail, trusting
from .postfix import SIZE_LIMIT
from .servers import LOGIN

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .dovecot import Dovecot, DovecotSubmission
    from .exim import Exim
    from .postfix import Postfix
    from .servers import MailServer

pytestmark = pytest.mark.interop

chunked = pytest.mark.parametrize("chunked", [False, True], ids=["DATA", "BDAT"])


class Untouched:
    """A stream that nobody may pull from."""

    def __iter__(self) -> Iterator[bytes]:
        raise AssertionError("the stream was touched")


@chunked
def test_a_mail_above_the_advertised_limit_is_refused_here(smtp_server: MailServer, chunked: bool) -> None:
    """features:F64, E207, BS12: bytes and a stream with a size alike; one octet less is sent."""
    with connect(smtp_server) as connection:
        assert connection.capabilities.size_limit == SIZE_LIMIT
        send = connection.send_bdat if chunked else connection.send
        for message, size in ((b"x" * (SIZE_LIMIT - 1) + b"\r\n", None), (Untouched(), SIZE_LIMIT + 1)):
            with pytest.raises(ExtensionUnavailableError) as refused:
                send(SENDER, [smtp_server.users[6]], message, timeout=TIMEOUT, size=size)
            assert refused.value.extension == "SIZE"
            assert refused.value.permanent
            assert refused.value.retry_safe
        assert connection.send(SENDER, [smtp_server.users[6]], b"x\r\n", timeout=TIMEOUT).all_delivered


def test_postfix_has_seen_no_mail_of_what_is_too_large(postfix: Postfix) -> None:
    """features:F64, E207: 0 octets, by the server's own count."""
    dial = Dial()
    with connect(postfix, dial=dial) as connection, pytest.raises(ExtensionUnavailableError):
        connection.send(SENDER, [postfix.users[6]], Untouched(), timeout=TIMEOUT, size=SIZE_LIMIT + 1)
    assert postfix.commands_of(dial.address) == {"ehlo": (1, 1), "quit": (1, 1), "commands": (2, 2)}


@chunked
def test_a_stream_as_long_as_it_said_arrives(smtp_server: MailServer, chunked: bool, message_id: str) -> None:
    """features:F64, E80, MP1, F63."""
    sent = mail(message_id)
    sent += b"x" * (100_000 - len(sent) - 2) + b"\r\n"
    with connect(smtp_server) as connection:
        send = connection.send_bdat if chunked else connection.send
        stream = iter([sent[:70_000], sent[70_000:]])
        assert send(SENDER, [smtp_server.users[6]], stream, timeout=TIMEOUT, size=100_000).all_delivered
    assert smtp_server.original(smtp_server.wait_for_mail(smtp_server.users[6], message_id), message_id) == sent


@chunked
@pytest.mark.parametrize("kind", ["bytes", "stream"])
def test_a_server_that_changes_its_mind_refuses_at_the_end_and_the_connection_lives(
    postfix: Postfix, kind: str, chunked: bool, message_id: str
) -> None:
    """features:F64, F71a: 20 MiB are advertised, 552 comes for 200 KiB."""
    large = b"Subject: large\r\n\r\n" + (b"x" * 98 + b"\r\n") * 2_000
    with connect(postfix, port=postfix.small_port) as connection:
        assert connection.capabilities.size_limit == SIZE_LIMIT
        send = connection.send_bdat if chunked else connection.send
        message = large if kind == "bytes" else iter([large[:70_000], large[70_000:150_000], large[150_000:]])
        with pytest.raises(PermanentReplyError) as refused:
            send(SENDER, [postfix.users[6]], message, timeout=TIMEOUT)
        assert refused.value.reply is not None
        assert refused.value.reply.code == 552
        assert str(refused.value.reply.enhanced) == "5.3.4"
        assert refused.value.delivery is Delivery.NOT_DELIVERED
        assert refused.value.scope == "message"
        assert connection.usable
        assert send(SENDER, [postfix.users[6]], mail(message_id), timeout=TIMEOUT).all_delivered
    assert postfix.wait_for_mail(postfix.users[6], message_id)


def test_a_limit_that_is_not_announced_is_the_servers_business(dovecot_submission: DovecotSubmission) -> None:
    """features:F30, F64, F53, F57: SIZE without a number; MAIL's SIZE= lets the Postfix behind refuse before the body.

    Dovecot 2.3.19 then panics at the RSET without which its session would be out of step: the next mail is provably not
    delivered, and a pool sends it by another connection.
    """
    user = dovecot_submission.users[6]
    with connect(dovecot_submission, TlsMode.STARTTLS, credentials=PasswordAuth(*LOGIN)) as connection:
        assert connection.capabilities.supports_size
        assert connection.capabilities.size_limit is None
        with pytest.raises(PermanentReplyError) as refused:
            connection.send(SENDER, [user], Untouched(), timeout=TIMEOUT, size=SIZE_LIMIT + 1)
        assert refused.value.stage == "MAIL"
        assert refused.value.reply is not None
        assert refused.value.reply.code == 552
        with pytest.raises(ConnectionLostError) as lost:
            connection.send(SENDER, [user], b"x\r\n", timeout=TIMEOUT)
        assert lost.value.stage == "RSET"
        assert lost.value.retry_safe


def test_a_pool_sends_on_where_a_refused_mail_costs_the_connection(
    dovecot_submission: DovecotSubmission, message_id: str
) -> None:
    """design D7: the failed connection was a reused one and no reply to MAIL had been read."""
    server, user = dovecot_submission, dovecot_submission.users[6]
    with ConnectionPool(
        server.host,
        server.port,
        TlsMode.STARTTLS,
        tls_config=trusting(server),
        credentials=PasswordAuth(*LOGIN),
        timeout=TIMEOUT,
    ) as pool:
        with pytest.raises(PermanentReplyError):
            pool.send(SENDER, [user], Untouched(), size=SIZE_LIMIT + 1)
        assert pool.send(SENDER, [user], mail(message_id)).all_delivered
        assert pool.stats().opened == 2
    assert server.wait_for_mail(user, message_id)
    assert len(server.find_mail(user, message_id)) == 1


def test_where_size_is_not_offered_it_is_not_sent(dovecot: Dovecot, message_id: str) -> None:
    """features:F64: Dovecot LMTP answers 555 to SIZE=."""
    with connect(dovecot) as connection:
        assert not connection.capabilities.supports_size
        sent = mail(message_id)
        assert connection.send(SENDER, [dovecot.users[1]], sent, timeout=TIMEOUT, size=len(sent)).all_delivered


@chunked
@pytest.mark.parametrize("wrong", [-1, 1])
def test_a_stream_that_is_not_as_long_as_it_said_is_not_delivered(
    exim: Exim, wrong: int, chunked: bool, message_id: str
) -> None:
    """features:F64, F92a, E167: by DATA the connection goes, by BDAT it stays; Exim has no such mail."""
    sent = mail(message_id)
    with connect(exim) as connection:
        send = connection.send_bdat if chunked else connection.send
        with pytest.raises(InvalidInputError) as refused:
            send(SENDER, [exim.users[6]], iter([sent]), timeout=TIMEOUT, size=len(sent) + wrong)
        assert refused.value.delivery is Delivery.NOT_DELIVERED
        assert connection.usable is chunked
    with connect(exim) as connection:  # on a connection of its own: what came before it has been dealt with
        assert connection.send(SENDER, [exim.users[6]], mail(f"{message_id[:-1]}.2>"), timeout=TIMEOUT).all_delivered
    assert exim.wait_for_mail(exim.users[6], f"{message_id[:-1]}.2>")
    assert exim.find_mail(exim.users[6], message_id) == []


def test_no_installed_server_advertises_limits(mail_server: MailServer) -> None:
    """features:F30, BS26: `capabilities.limits` of a server without the keyword is empty."""
    with connect(mail_server) as connection:
        assert not connection.capabilities.supports("LIMITS")
        assert dict(connection.capabilities.limits) == {}
