"""LMTP against Dovecot, on TCP and on a Unix socket, with and without TLS: what became of each recipient."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from smtpconn import (
    CertificateError,
    ConnectionPool,
    Delivery,
    InvalidInputError,
    Mail,
    PermanentReplyError,
    Pipelining,
    Recipient,
    RecipientsRefusedError,
    SmtpConnection,
    TlsMode,
    UsageError,
)

from .clients import SENDER, TIMEOUT, connect, mail, trusting
from .corpus import assert_same_octets
from .servers import UNKNOWN

if TYPE_CHECKING:
    from typing import Any

    from .dovecot import Dovecot
    from .postfix import Postfix

pytestmark = pytest.mark.interop

chunked = pytest.mark.parametrize("chunked", [False, True], ids=["DATA", "BDAT"])
places = pytest.mark.parametrize("place", ["TCP", "STARTTLS", "implicit TLS", "Unix socket", "Unix socket STARTTLS"])


def connect_at(dovecot: Dovecot, place: str, **options: Any) -> SmtpConnection:
    if place == "Unix socket STARTTLS":
        options.update(tls_mode=TlsMode.STARTTLS, tls_config=trusting(dovecot))
    if place.startswith("Unix socket"):
        return SmtpConnection.connect_lmtp(unix_socket=dovecot.unix_socket, timeout=TIMEOUT, **options)
    mode = {"STARTTLS": TlsMode.STARTTLS, "implicit TLS": TlsMode.IMPLICIT}.get(place, TlsMode.NONE)
    return connect(dovecot, mode, **options)


@chunked
@places
@pytest.mark.parametrize("pipelining", [Pipelining.GROUPED, Pipelining.OFF], ids=["GROUPED", "OFF"])
def test_each_recipient_has_a_verdict_of_its_own(
    dovecot: Dovecot, place: str, chunked: bool, pipelining: Pipelining, message_id: str
) -> None:
    """features:F2, F72, F73, F74, E82, E135, KM3, KM4, KM20, KM22, BS20, D9, SY1.

    Accepted, unknown, over quota, a mailbox that cannot be written to, and accepted again, in one transaction.
    """
    recipients = [dovecot.users[0], UNKNOWN, dovecot.full, dovecot.broken, dovecot.users[1]]
    sent = mail(message_id)
    with connect_at(dovecot, place, pipelining=pipelining) as connection:
        assert (connection.tls is not None) is ("TLS" in place)
        send = connection.send_lmtp_bdat if chunked else connection.send_lmtp
        result = send(SENDER, recipients, sent, timeout=TIMEOUT)
        assert [entry.address for entry in result.recipients] == recipients
        assert [entry.reply and entry.reply.code for entry in result.recipients] == [250, 550, 552, 451, 250]
        assert [str(entry.reply and entry.reply.enhanced) for entry in result.recipients] == [
            "2.0.0",
            "5.1.1",
            "5.2.2",
            "4.2.0",
            "2.0.0",
        ]
        assert [entry.stage for entry in result.recipients] == ["end of data", "RCPT", *["end of data"] * 3]
        assert [entry.permanent for entry in result.recipients] == [None, True, True, False, None]
        assert [entry.delivery is Delivery.DELIVERED for entry in result.recipients] == [
            True,
            False,
            False,
            False,
            True,
        ]
        assert Delivery.UNKNOWN not in [entry.delivery for entry in result.recipients]
        assert result.reply is None
        assert connection.usable
        with pytest.raises(RecipientsRefusedError) as raised:
            result.raise_for_refused()
        assert raised.value.delivery is Delivery.DELIVERED
        # The next mail of the same connection is none the worse for it.
        assert send(SENDER, [dovecot.users[2]], sent, timeout=TIMEOUT).all_delivered
    for user in (dovecot.users[0], dovecot.users[1], dovecot.users[2]):
        assert_same_octets(dovecot.original(dovecot.wait_for_mail(user, message_id), message_id), sent)
    assert dovecot.find_mail(dovecot.full, message_id) == []


@chunked
def test_nobody_accepted_is_a_result_and_no_exception(dovecot: Dovecot, chunked: bool) -> None:
    """features:E134, F56, F72."""
    with connect(dovecot) as connection:
        send = connection.send_lmtp_bdat if chunked else connection.send_lmtp
        at_rcpt = send(SENDER, [UNKNOWN, f"also.{UNKNOWN}"], b"x\r\n", timeout=TIMEOUT)
        assert [entry.reply and entry.reply.code for entry in at_rcpt.recipients] == [550, 550]
        assert not at_rcpt.accepted
    with connect(dovecot) as connection:
        send = connection.send_lmtp_bdat if chunked else connection.send_lmtp
        at_the_end = send(SENDER, [dovecot.full, dovecot.broken], b"x\r\n", timeout=TIMEOUT)
        assert [entry.reply and entry.reply.code for entry in at_the_end.recipients] == [552, 451]
        assert connection.usable


@chunked
def test_a_recipient_given_twice_gets_one_mail_and_has_two_entries(
    dovecot: Dovecot, chunked: bool, message_id: str
) -> None:
    """features:D18, E136, F58a, BS9."""
    alice, bob = dovecot.users[:2]
    with connect(dovecot) as connection:
        send = connection.send_lmtp_bdat if chunked else connection.send_lmtp
        result = send(SENDER, [alice, bob, Recipient(alice)], mail(message_id), timeout=TIMEOUT)
    assert [entry.address for entry in result.recipients] == [alice, bob, alice]
    assert result.all_delivered
    for user in (alice, bob):
        dovecot.wait_for_mail(user, message_id)
        assert len(dovecot.find_mail(user, message_id)) == 1


@chunked
def test_a_stream_in_many_chunks_arrives_for_each_recipient(dovecot: Dovecot, chunked: bool, message_id: str) -> None:
    """features:F63, F71, F73: one reply a chunk, and one a recipient for the last."""
    sent = mail(message_id) + b"".join(b".line %d\r\n" % number for number in range(20_000))
    pieces = [sent[start : start + 5_003] for start in range(0, len(sent), 5_003)]
    with connect(dovecot, TlsMode.STARTTLS) as connection:
        send = connection.send_lmtp_bdat if chunked else connection.send_lmtp
        result = send(SENDER, [dovecot.users[0], dovecot.full, dovecot.users[3]], iter(pieces), timeout=TIMEOUT)
    assert [entry.delivery is Delivery.DELIVERED for entry in result.recipients] == [True, False, True]
    for user in (dovecot.users[0], dovecot.users[3]):
        assert_same_octets(dovecot.original(dovecot.wait_for_mail(user, message_id), message_id), sent)


@pytest.mark.parametrize("prefetch", list(Pipelining)[1:], ids=lambda level: level.name)
@chunked
def test_a_pool_on_the_unix_socket_gives_every_mail_its_recipients_verdicts(
    dovecot: Dovecot, prefetch: Pipelining, chunked: bool, message_id: str
) -> None:
    """features:BS20, F73, E137: verdicts of mails that travelled together are not exchanged."""
    recipients = [dovecot.users[0], UNKNOWN, dovecot.full, dovecot.users[1]]
    mails = [
        Mail(SENDER, recipients[number % 4 :], mail(f"{message_id[:-1]}.{number}>"), chunking=chunked)
        for number in range(12)
    ]
    with (
        ConnectionPool(
            None,
            None,
            TlsMode.NONE,
            protocol="lmtp",
            unix_socket=dovecot.unix_socket,
            timeout=TIMEOUT,
            pipelining=prefetch,
        ) as pool,
        pool.send_many(mails, concurrency=2) as outcomes,
    ):
        verdicts = {outcome.index: outcome for outcome in outcomes}
    for number in range(12):
        outcome = verdicts[number]
        assert outcome.error is None
        codes = [entry.reply and entry.reply.code for entry in outcome.recipients]
        assert codes == [250, 550, 552, 250][number % 4 :]
    assert dovecot.wait_for_mail(dovecot.users[1], f"{message_id[:-1]}.11>")
    assert [len(dovecot.find_mail(dovecot.users[1], f"{message_id[:-1]}.{number}>")) for number in range(12)] == [
        1
    ] * 12


# --- doors


@pytest.mark.parametrize("tls_mode", [TlsMode.STARTTLS, TlsMode.IMPLICIT])
@pytest.mark.parametrize("fault", ["untrusted", "wrong name"])
def test_lmtp_under_tls_is_verified_like_smtp(dovecot: Dovecot, tls_mode: TlsMode, fault: str) -> None:
    """features:E28, F16."""
    config = (
        trusting(dovecot, trust=dovecot.certificates.other_ca_path)
        if fault == "untrusted"
        else trusting(dovecot, server_name="wrong.lab.test")
    )
    with pytest.raises(CertificateError) as refused:
        connect(dovecot, tls_mode, tls_config=config)
    assert refused.value.permanent
    assert refused.value.stage == "tls"


def test_each_protocol_has_its_verbs(dovecot: Dovecot, postfix: Postfix) -> None:
    """features:F74, E81: send follows the connection, send_lmtp demands LMTP."""
    with connect(dovecot) as connection:
        assert connection.send(SENDER, [dovecot.users[1]], b"x\r\n", timeout=TIMEOUT).all_delivered
        assert connection.send_bdat(SENDER, [dovecot.users[1]], b"x\r\n", timeout=TIMEOUT).all_delivered
    with connect(postfix) as connection:
        for send in (connection.send_lmtp, connection.send_lmtp_bdat):
            with pytest.raises(UsageError):
                send(SENDER, [postfix.users[6]], b"x\r\n", timeout=TIMEOUT)
        assert connection.send(SENDER, [postfix.users[6]], b"x\r\n", timeout=TIMEOUT).all_delivered


def test_lhlo_falls_back_to_nothing(postfix: Postfix) -> None:
    """features:F8: an SMTP server refuses LHLO, and neither EHLO nor HELO follows."""
    with pytest.raises(PermanentReplyError) as refused:
        SmtpConnection.connect_lmtp(postfix.host, postfix.port, TlsMode.NONE, timeout=TIMEOUT)
    assert refused.value.reply is not None
    assert refused.value.reply.code == 500


@pytest.mark.parametrize("port", [25, 24])
def test_lmtp_wants_one_place_and_not_port_25(dovecot: Dovecot, port: int) -> None:
    """features:F2: port 25 is refused, and so is any port beside the path of a socket."""
    places: dict[str, Any] = {"unix_socket": dovecot.unix_socket} if port != 25 else {}
    with pytest.raises(InvalidInputError):
        SmtpConnection.connect_lmtp(dovecot.host, port, TlsMode.NONE, timeout=TIMEOUT, **places)
