"""PREFETCH and BURST of one connection over a socket: flights counted by a relay, and servers that cannot take them.

Counts are equalities (pipelining 12). What each mail gets is compared with the server's own ledger.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from smtpconn import (
    ConnectionLostError,
    Delivery,
    DeliveryUnknownError,
    ExtensionUnavailableError,
    Mail,
    MailOutcome,
    MailParams,
    PermanentReplyError,
    Pipelining,
    ProtocolError,
    RecipientsRefusedError,
    ServiceUnavailableError,
    SmtpConnection,
    SmtpError,
    SmtpTimeoutError,
    Timeouts,
    TlsMode,
    TransientReplyError,
    UsageError,
)
from smtpconn.chain import PAUSE, Chain, nothing
from smtpconn.deadline import Budget
from smtpconn.testing import EOF, RESET, FakeClock, LoopbackServer, Relay, ScriptedTransport

DL, ND, UN = Delivery.DELIVERED, Delivery.NOT_DELIVERED, Delivery.UNKNOWN
PREFETCH, BURST = Pipelining.PREFETCH, Pipelining.BURST


def connect(place: Any, level: Pipelining, **options: Any) -> SmtpConnection:
    opened = SmtpConnection.connect_lmtp if options.pop("lmtp", False) else SmtpConnection.connect
    return opened(place.host, place.port, TlsMode.NONE, timeout=20, pipelining=level, **options)


def mail(number: int, recipients: int | Sequence[str] = 1, *, size: int = 30, **options: Any) -> Mail:
    """A mail of its own Message-ID."""
    to = [f"u{place}@b.test" for place in range(recipients)] if isinstance(recipients, int) else recipients
    text = f"Message-ID: <m{number}@a.test>\r\n\r\n".encode()
    options.setdefault("message", text + b"x" * max(0, size - len(text) - 2) + b"\r\n")
    return Mail(f"s{number}@a.test", to, tag=f"<m{number}@a.test>", **options)


def sound(server: LoopbackServer, outcomes: Sequence[MailOutcome]) -> None:
    """G-T-1: what was said agrees with what the server has."""
    for outcome in outcomes:
        for entry in outcome.recipients:
            copies = server.ledger.count(str(outcome.mail.tag), str(entry.address))
            assert copies <= 1
            if entry.delivery is not UN:
                assert copies == (entry.delivery is DL), (outcome.mail.tag, entry.address)


def sent(
    server: LoopbackServer,
    level: Pipelining,
    mails: Sequence[Mail],
    *,
    timeout: float | Timeouts = 20.0,
    **options: Any,
) -> tuple[list[MailOutcome], int]:
    """The outcomes of a batch, and its flights."""
    with Relay(server, delay=0.01) as relay, connect(relay, level, **options) as connection:
        before = relay.flights
        outcomes = list(connection.send_many(mails, timeout=timeout))
        flights = relay.flights - before
    sound(server, outcomes)
    return outcomes, flights


@pytest.fixture(params=["smtp", "lmtp"])
def server(request: pytest.FixtureRequest) -> Iterator[LoopbackServer]:
    with LoopbackServer(protocol=request.param) as server:
        yield server


@pytest.fixture
def smtp() -> Iterator[LoopbackServer]:
    with LoopbackServer() as server:
        yield server


@pytest.mark.parametrize("count", [1, 2, 10])
@pytest.mark.parametrize("how", ["DATA", "DATA to 50", "BINARYMIME", "mixed"])
def test_PL6_RT11_prefetch_costs_one_flight_a_mail_and_one_more(server: LoopbackServer, count: int, how: str) -> None:
    """features:BS8."""

    def one(number: int) -> Mail:
        if how == "BINARYMIME" or (how == "mixed" and number % 2):
            return mail(number, chunking=True, params=MailParams(body="BINARYMIME"))
        return mail(number, 50 if how == "DATA to 50" else 1)

    outcomes, flights = sent(
        server, PREFETCH, [one(number) for number in range(count)], lmtp=server.protocol == "lmtp"
    )
    assert [outcome.delivery for outcome in outcomes] == [DL] * count
    assert flights == count + 1
    commands = [line.split(" ")[0] for line in server.sessions[0].commands]
    assert commands.count("RSET") == count - 1
    assert commands[-1] == "QUIT"
    assert server.violations == []


@pytest.mark.parametrize("quirks", [(), ("354-without-recipients",)], ids=["DATA 503", "DATA 354"])
def test_PL7_refused_mails_never_add_a_flight(smtp: LoopbackServer, quirks: tuple[str, ...]) -> None:
    smtp.quirks = quirks
    smtp.reply("MAIL", "550 5.1.0 not you", nth=[3])
    for number in (5, 7):
        smtp.refuse(f"r{number}@b.test", "550 nobody")
    smtp.refuse("r10@b.test", "451 later", when="data")
    outcomes, flights = sent(smtp, PREFETCH, [mail(number, [f"r{number}@b.test"]) for number in range(1, 11)])
    kinds: dict[int, type[SmtpError]] = {
        3: PermanentReplyError,
        5: RecipientsRefusedError,
        7: RecipientsRefusedError,
        10: TransientReplyError,
    }
    assert [type(outcome.error) for outcome in outcomes] == [kinds.get(number, type(None)) for number in range(1, 11)]
    assert flights == 11
    assert len(smtp.mails) == 6
    for captured in smtp.mails:
        name = captured.content.split(b"<m")[1].split(b"@")[0].decode()
        assert captured.sender == f"s{name}@a.test"
        assert list(captured.recipients) == [f"r{name}@b.test"]


@pytest.mark.parametrize(
    ("count", "size", "flights"), [(1, 1_024, 1), (64, 1_024, 2), (64, 10_240, 3)], ids=["one", "1 KiB", "10 KiB"]
)
def test_PL8_RT12_a_burst_is_one_flight(server: LoopbackServer, count: int, size: int, flights: int) -> None:
    """features:BS8."""
    mails = [mail(number, size=size) for number in range(count)]
    outcomes, seen = sent(server, BURST, mails, lmtp=server.protocol == "lmtp")
    assert [outcome.delivery for outcome in outcomes] == [DL] * count
    assert seen == flights
    assert server.violations == []


@pytest.mark.parametrize("recipients", [1, 50])
def test_PL8_send_bdat_at_burst_is_one_flight(smtp: LoopbackServer, recipients: int) -> None:
    with Relay(smtp, delay=0.01) as relay, connect(relay, BURST) as connection:
        for number in (1, 2):
            before = relay.flights
            one = mail(number, recipients)
            result = connection.send_bdat(one.sender, one.recipients, one.message, timeout=20)  # type: ignore[arg-type]
            assert result.all_delivered
            assert relay.flights - before == 1


def test_PL9_what_cannot_go_in_a_burst_goes_as_grouped_or_prefetched(smtp: LoopbackServer) -> None:
    smtp.extensions = ("PIPELINING", "8BITMIME")
    _, flights = sent(smtp, BURST, [mail(number) for number in range(4)])
    assert flights == 5  # as PREFETCH without CHUNKING
    smtp.extensions = ("PIPELINING", "CHUNKING")
    streams = [mail(number, message=iter([f"Message-ID: <m{number}@a.test>\r\n".encode()])) for number in (10, 11)]
    _, flights = sent(smtp, BURST, streams)
    assert flights == 4
    with Relay(smtp, delay=0.01) as relay, connect(relay, BURST) as connection:
        before = relay.flights
        assert connection.send("s@a.test", ["u@b.test"], b"x\r\n", timeout=20).all_delivered
        assert relay.flights - before == 2
        clock = FakeClock()
        connection.clock = clock
        connection._active = clock()
        clock.advance(2.0)
        before = relay.flights
        assert connection.send_bdat("s@a.test", ["u@b.test"], b"x\r\n", timeout=20).all_delivered
        assert relay.flights - before == 2


@pytest.mark.parametrize("level", [PREFETCH, BURST])
def test_PL24_like_Courier(smtp: LoopbackServer, level: Pipelining) -> None:
    """What stands behind an end of data is swallowed: the first verdict stands, the others are not delivered."""
    smtp.quirks = ("swallow-behind-end-of-data",)
    outcomes, _ = sent(smtp, level, [mail(number) for number in range(3)], timeout=Timeouts(total=8, rset=0.2))
    if level is PREFETCH:
        assert [outcome.delivery for outcome in outcomes] == [DL, ND, ND]
        assert isinstance(outcomes[1].error, SmtpTimeoutError)
        assert all(outcome.retry_safe for outcome in outcomes[1:])
    else:
        assert outcomes[0].delivery is DL
        assert [type(outcome.error) for outcome in outcomes[1:]] == [DeliveryUnknownError] * 2


def test_PL25_like_Haraka(smtp: LoopbackServer) -> None:
    smtp.quirks = ("503-behind-end-of-data",)
    outcomes, _ = sent(smtp, PREFETCH, [mail(number) for number in range(3)])
    assert outcomes[0].delivery is DL
    assert isinstance(outcomes[1].error, ProtocolError)
    assert all(outcome.permanent is not True for outcome in outcomes)


def test_PL26_like_the_submission_service_of_Dovecot(smtp: LoopbackServer) -> None:
    smtp.quirks = ("die-behind-end-of-data",)
    outcomes, _ = sent(smtp, PREFETCH, [mail(number) for number in range(3)])
    assert [outcome.delivery for outcome in outcomes] == [UN, ND, ND]
    assert isinstance(outcomes[0].error, DeliveryUnknownError)
    assert [type(outcome.error) for outcome in outcomes[1:]] == [ConnectionLostError] * 2
    assert all(outcome.retry_safe for outcome in outcomes[1:])


def test_PL27_like_OpenSMTPD() -> None:
    with LoopbackServer(extensions=("8BITMIME",), quirks=("close-on-pipelining",)) as server:
        outcomes, flights = sent(server, PREFETCH, [mail(number) for number in range(3)])
        assert [outcome.delivery for outcome in outcomes] == [DL] * 3
        assert flights == 3 * 4


@pytest.mark.parametrize("level", [Pipelining.GROUPED, PREFETCH, BURST])
def test_PL28_like_go_smtp(smtp: LoopbackServer, level: Pipelining) -> None:
    """A refused chunk whose octets are run as commands: only a burst gives them to it (FB7)."""
    smtp.quirks = ("run-refused-chunks",)
    smtp.refuse("nobody@b.test", "550 nobody")
    inner = b"RSET\r\nMAIL FROM:<evil@a.test>\r\nRCPT TO:<u@b.test>\r\nDATA\r\nMessage-ID: <evil@a.test>\r\n.\r\n"
    body = b"Message-ID: <m1@a.test>\r\n\r\n" + inner
    mails = [mail(1, ["nobody@b.test"], message=body, chunking=True), mail(2)]
    with connect(smtp, level) as connection:
        outcomes = list(connection.send_many(mails, timeout=5))
        marked = connection._session.flightless
    assert outcomes[0].delivery is not DL
    if level is BURST:
        assert marked is not None
        assert not connection.usable
    else:
        assert "<evil@a.test>" not in smtp.ledger
        assert outcomes[1].delivery is DL


def test_PL32_LI2_nothing_is_announced_beyond_MAILMAX() -> None:
    with LoopbackServer(limits={"MAILMAX": 3}) as server:
        outcomes, flights = sent(server, PREFETCH, [mail(number) for number in range(3)])
        assert [outcome.delivery for outcome in outcomes] == [DL] * 3
        assert flights == 4


def _scripted(level: Pipelining, *replies: bytes | tuple[Any, ...]) -> tuple[ScriptedTransport, SmtpConnection]:
    hello = b"250-server.test\r\n250-PIPELINING\r\n250 CHUNKING\r\n"
    transport = ScriptedTransport([b"220 hi\r\n", hello, *replies], when_dry="silence")
    connection = SmtpConnection.from_transport(
        transport, tls_mode=TlsMode.NONE, timeout=20, pipelining=level, ehlo_domain="client.test"
    )
    return transport, connection


ENVELOPE = b"250 mail\r\n250 rcpt\r\n354 go\r\n"
FLIGHT = b"250 taken\r\n250 rset\r\n" + ENVELOPE


def test_PL33_LV7_after_a_long_pause_the_end_of_data_goes_alone_until_a_pause_is_short_again() -> None:
    alone = (b"250 taken\r\n", b"250 rset\r\n" + ENVELOPE)
    transport, connection = _scripted(PREFETCH, ENVELOPE, FLIGHT, *alone, FLIGHT, b"250 taken\r\n", b"221 bye\r\n")
    clock = FakeClock()
    chain = Chain(connection, 20.0, clock)
    mails = [mail(number) for number in range(1, 5)]

    def send(number: int) -> None:
        def peek(place: int) -> Mail | None:
            return mails[number + place] if number + place < len(mails) else None

        assert chain.send(mails[number - 1], peek).all_delivered

    send(1)
    clock.advance(PAUSE + 1)
    send(2)  # the end of data alone
    assert transport.writes[-1].endswith(b"\r\n.\r\n")
    clock.advance(PAUSE - 1)
    send(3)
    assert transport.writes[-1].endswith(b"DATA\r\n")
    send(4)
    assert transport.flights == 1 + 1 + 1 + 1 + 1 + 1 + 1
    chain.close()
    connection.close()


def test_LV6_CN1_an_envelope_of_more_than_one_group_is_not_written_behind_an_end_of_data() -> None:
    transport, connection = _scripted(PREFETCH, ENVELOPE, b"250 taken\r\n")
    batch = connection.send_many([mail(1), mail(2, 300)], timeout=20)
    assert next(batch).delivery is DL
    assert transport.writes[-1].endswith(b"\r\n.\r\n")
    batch.close()
    connection.close()


def test_PL34_PF9_a_consumer_who_leaves_an_open_354_closes_the_connection_without_a_dot() -> None:
    transport, connection = _scripted(PREFETCH, ENVELOPE, FLIGHT)
    batch = connection.send_many([mail(1), mail(2), mail(3)], timeout=20)
    assert next(batch).delivery is DL
    before = transport.written
    batch.close()
    assert transport.written == before
    assert transport.closed
    assert not connection.usable


def test_LV8_PF9_the_thread_that_began_a_batch_may_close_its_connection_in_the_middle() -> None:
    """`close` is silent: it does not wait for the batch of its own thread, which would be for ever."""
    transport, connection = _scripted(PREFETCH, ENVELOPE, FLIGHT)
    batch = connection.send_many([mail(1), mail(2), mail(3)], timeout=20)
    assert next(batch).delivery is DL
    before = transport.written
    connection.close()
    assert transport.closed
    assert [(type(outcome.error), outcome.delivery) for outcome in batch] == [(UsageError, ND)] * 2
    assert transport.written == before
    connection.close()


@pytest.mark.parametrize("answered", [b"", b"554 no\r\n", b"554 no\r\n250 rset\r\n", b"554 no\r\n421 bye\r\n"])
def test_PL7_a_flight_that_is_lost_behind_a_lone_dot_leaves_nobody_in_doubt(answered: bytes) -> None:
    """It has no end of data: neither the mail that was refused nor the one that was announced can have been taken."""
    envelope = b"250 mail\r\n550 nobody\r\n354 go\r\n"
    transport, connection = _scripted(PREFETCH, envelope, (answered, EOF) if answered else (EOF,))
    outcomes = list(connection.send_many([mail(1), mail(2)], timeout=20))
    assert transport.writes[-1].startswith(b".\r\nRSET\r\nMAIL FROM:")
    lost = ServiceUnavailableError if b"421" in answered else ConnectionLostError
    assert [(type(outcome.error), outcome.delivery) for outcome in outcomes] == [(lost, ND)] * 2
    assert all(outcome.retry_safe for outcome in outcomes)
    assert transport.closed


def test_PL34_D4_a_deadline_below_the_reserve_stops_in_front_of_the_commit_point() -> None:
    transport, connection = _scripted(PREFETCH, ENVELOPE, FLIGHT)
    clock = FakeClock()
    chain = Chain(connection, 20.0, clock)
    mails = [mail(1), mail(2)]
    assert chain.send(mails[0], lambda place: mails[1] if not place else None).all_delivered

    class Slow:
        def __iter__(self) -> Iterator[bytes]:
            clock.advance(19.0)
            yield b"late\r\n"

    attempt = chain._announced
    assert attempt is not None
    attempt[1].outgoing.content = None
    attempt[1].outgoing.mail = mail(2, message=Slow())
    with pytest.raises(SmtpTimeoutError) as caught:
        chain.send(mails[1])
    assert caught.value.delivery is ND
    assert transport.written.endswith(b"DATA\r\n")
    chain.close()
    connection.close()


@pytest.mark.parametrize("level", [PREFETCH, BURST])
def test_D3_D4_a_mail_whose_time_runs_already_gets_no_new_time_from_the_chain(level: Pipelining) -> None:
    """It had waited for its connection."""
    transport, connection = _scripted(level, ENVELOPE)
    clock = FakeClock()
    budget = Budget.of(20.0, clock)
    clock.advance(19.0)
    with pytest.raises(SmtpTimeoutError) as caught:
        Chain(connection, 20.0, clock).in_turn(mail(1, chunking=level is BURST), nothing, budget)
    assert caught.value.delivery is ND
    assert transport.written.endswith(b"DATA\r\n" if level is PREFETCH else b"EHLO client.test\r\n")
    connection.close()


def test_PF10_SM9_an_invalid_mail_and_an_input_that_raises_come_in_their_turn(smtp: LoopbackServer) -> None:
    def mails() -> Iterator[Mail]:
        yield mail(1)
        yield mail(2, params=MailParams(mt_priority=1))  # not offered
        yield mail(3)
        raise ValueError("the input's own")

    with connect(smtp, PREFETCH) as connection:
        batch = connection.send_many(mails(), timeout=20)
        outcomes = [next(batch), next(batch), next(batch)]
        with pytest.raises(ValueError, match="the input's own"):
            next(batch)
        assert list(batch) == []
    assert [outcome.delivery for outcome in outcomes] == [DL, ND, DL]
    sound(smtp, outcomes)


def test_F98_policies_are_asked_once_for_each_mail_whatever_flight_it_goes_in(smtp: LoopbackServer) -> None:
    asked: list[str] = []

    class Policy:
        def check_sender(self, sender: Any) -> None:
            asked.append(str(sender))

        def check_recipients(self, recipients: Any) -> None: ...

        def check_message_size(self, size: int | None) -> None: ...

    for level in (PREFETCH, BURST):
        asked.clear()
        streamed = mail(2, message=iter([b"Message-ID: <m2@a.test>\r\n"]))
        with connect(smtp, level, policy=Policy()) as connection:
            list(connection.send_many([mail(1), streamed, mail(3), mail(4)], timeout=20))
        assert asked == [f"s{number}@a.test" for number in range(1, 5)]
        smtp.clear()


def test_LV8_a_batch_that_is_under_way_has_the_connection(smtp: LoopbackServer) -> None:
    with connect(smtp, PREFETCH) as connection:
        batch = connection.send_many([mail(1), mail(2)], timeout=20)
        next(batch)
        with pytest.raises(UsageError):
            connection.noop(timeout=1)
        assert next(batch).delivery is DL
        assert list(batch) == []
        connection.noop(timeout=5)


def test_a_capability_that_is_missing_is_told_in_the_turn_of_its_mail(smtp: LoopbackServer) -> None:
    smtp.extensions = ("PIPELINING",)
    with connect(smtp, PREFETCH) as connection:
        outcomes = list(connection.send_many([mail(1), mail(2, chunking=True), mail(3)], timeout=20))
    assert [type(outcome.error) for outcome in outcomes] == [type(None), ExtensionUnavailableError, type(None)]


@pytest.mark.parametrize("level", [PREFETCH, BURST])
@pytest.mark.parametrize(
    ("cut", "untouched"), [(b"MAIL FROM:<s2", False), (b"Message-ID: <m1@", True), (b"SET\r\nMAIL FROM:<s2", False)]
)
def test_LO3_FB5_a_mail_of_which_nothing_was_written_may_be_sent_as_new(
    level: Pipelining, cut: bytes, untouched: bool
) -> None:
    """The write breaks in front of `cut`, so maybe no octet of the mail behind it was taken."""
    mails = [mail(1), mail(2)]
    whole = ENVELOPE + FLIGHT if level is PREFETCH else b"250 ok\r\n" * 7
    replies = (ENVELOPE, FLIGHT, b"250 taken\r\n") if level is PREFETCH else (whole,)
    transport, connection = _scripted(level, *replies)
    chain = Chain(connection, 20.0, FakeClock())
    chain.send(mails[0], lambda place: mails[1] if not place else None)
    offset = transport.written.index(cut)
    chain.close()
    connection.close()

    hello = b"250-server.test\r\n250-PIPELINING\r\n250 CHUNKING\r\n"
    first = [ENVELOPE] if level is PREFETCH else []
    broken = ScriptedTransport(
        [b"220 hi\r\n", hello, *first, RESET], when_dry="silence", accept=offset, then=ConnectionResetError
    )
    connection = SmtpConnection.from_transport(
        broken, tls_mode=TlsMode.NONE, timeout=20, pipelining=level, ehlo_domain="client.test"
    )
    chain = Chain(connection, 20.0, FakeClock())
    with pytest.raises(SmtpError) as caught:
        chain.send(mails[0], lambda place: mails[1] if not place else None)
    assert caught.value.delivery is (ND if untouched else UN)
    assert chain.awaits(mails[1])
    assert chain.releases(mails[1]) is untouched
    if not untouched:
        with pytest.raises(SmtpError) as caught:
            chain.send(mails[1])
        assert caught.value.delivery is ND
    assert not chain.awaits(mails[1])
    connection.close()
