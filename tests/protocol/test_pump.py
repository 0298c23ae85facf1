"""The pump: what the owner of a stream that does not block writes, delivers and gets, without a stream."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any

import pytest

from smtpconn.protocol.body import SLICE
from smtpconn.protocol.errors import (
    ConnectionLostError,
    Delivery,
    DeliveryUnknownError,
    ExtensionUnavailableError,
    InvalidInputError,
    PermanentReplyError,
    ProtocolError,
    ServiceUnavailableError,
    SmtpError,
    SmtpTimeoutError,
    StartTlsInjectionError,
    UsageError,
)
from smtpconn.protocol.flow import Flow
from smtpconn.protocol.ledger import Entry
from smtpconn.protocol.mail import Mail
from smtpconn.protocol.policy import BoundedPolicy
from smtpconn.protocol.pump import Pump
from smtpconn.protocol.sasl import LoginAuth, PasswordAuth, PlainAuth, ScramAuth
from smtpconn.protocol.session import ProtocolName, Session, SessionState

from .dialogue import Delivery as Arrival
from .dialogue import pieces, raised, rendered

DOMAIN = "client.example.com"
BODY = b"Subject: x\r\n\r\n.text\r\n"
LARGE = b"x" * 78 + b"\r\n"
EHLO = b"EHLO client.example.com\r\n"
MAIL = b"MAIL FROM:<s@example.com>\r\n"
A, B = b"RCPT TO:<a@example.com>\r\n", b"RCPT TO:<b@example.com>\r\n"
OK = b"250 ok\r\n"
ENVELOPE = b"250 sender\r\n250 recipient\r\n354 go\r\n"
DL, ND, UN = Delivery.DELIVERED, Delivery.NOT_DELIVERED, Delivery.UNKNOWN


class Owner:
    """Owns a stream that is a list: takes all that the pump gives, at most `most` octets at a time."""

    def __init__(self, session: Session, arrival: Arrival = "whole", most: int = SLICE) -> None:
        self.pump = Pump(session)
        self.session = session
        self.arrival = arrival
        self.most = most
        self.written = bytearray()

    def write(self) -> None:
        while octets := self.pump.to_write():
            taken = octets[: self.most]
            self.written += taken
            self.pump.wrote(len(taken))

    def deliver(self, octets: bytes) -> None:
        for piece in pieces(octets, self.arrival):
            self.pump.received(piece)

    def finish(self, *script: bytes) -> Any:
        """Write what there is, deliver what the server says to it, and so on; then the result."""
        for octets in script:
            self.write()
            assert not self.pump.finished, f"the flow ended in front of {octets!r}"
            self.deliver(octets)
        self.write()
        return self.pump.result()

    def run(self, flow: Flow[Any], *script: bytes) -> Any:
        self.pump.start(flow)
        return self.finish(*script)

    def send(self, mail: Mail, *script: bytes, **options: Any) -> Any:
        self.pump.start_mail(mail, **options)
        return self.finish(*script)

    def fails(self, *script: bytes) -> SmtpError:
        error = raised(self.finish, *script)
        assert isinstance(error, SmtpError)
        assert self.pump.error is error
        return error


def ready(*capabilities: str, protocol: ProtocolName = "smtp", arrival: Arrival = "whole", most: int = SLICE) -> Owner:
    """An owner behind greeting and EHLO; what was written is forgotten."""
    owner = Owner(Session(protocol, DOMAIN), arrival, most)
    owner.session.secure = True
    owner.run(owner.session.greet(), b"220 mx.example.com ESMTP\r\n")
    lines = ["mx.example.com", *capabilities]
    owner.run(
        owner.session.hello(),
        b"".join(f"250-{line}\r\n".encode() for line in lines[:-1]) + b"250 %s\r\n" % lines[-1].encode(),
    )
    owner.written.clear()
    return owner


def mail(*recipients: str, message: Any = BODY, **options: Any) -> Mail:
    return Mail("s@example.com", recipients or ("a@example.com",), message, **options)


# --- conversations that go well


@pytest.mark.parametrize("most", [1, 7, SLICE])
def test_a_whole_conversation_writes_what_the_flows_say(delivery: Arrival, most: int) -> None:
    owner = Owner(Session("smtp", DOMAIN), delivery, most)
    pump, session = owner.pump, owner.session
    assert owner.run(session.greet(), b"220 mx\r\n").code == 220
    owner.run(session.hello(demands="STARTTLS"), b"250-mx\r\n250 STARTTLS\r\n")
    owner.run(session.starttls(), b"220 go\r\n")
    assert (bytes(owner.written), pump.usable) == (EHLO + b"STARTTLS\r\n", True)
    pump.upgraded()
    assert session.secure
    owner.written.clear()
    owner.run(session.hello(fallback=False), b"250-mx\r\n250-AUTH PLAIN\r\n250-PIPELINING\r\n250 CHUNKING\r\n")
    pump.start_auth(PlainAuth("u", "p"))
    owner.finish(b"235 welcome\r\n")
    result = owner.send(
        mail("a@example.com", "b@example.com"), b"250 s\r\n250 r\r\n550 no\r\n354 go\r\n", b"250 queued\r\n"
    )
    assert [entry.delivery for entry in result.recipients] == [DL, ND]
    assert result.reply.raw == b"250 queued\r\n"
    result = owner.send(mail(message=[b"a\r\n", b"b"], chunking=True), b"250 s\r\n250 r\r\n", b"250 last\r\n")
    assert result.all_delivered
    assert owner.run(session.noop(), OK).code == 250
    assert owner.run(session.quit(), b"221 bye\r\n") is True
    assert bytes(owner.written) == (
        EHLO + b"AUTH PLAIN AHUAcA==\r\n"
        + MAIL + A + B + b"DATA\r\nSubject: x\r\n\r\n..text\r\n.\r\n"
        + MAIL + A + b"BDAT 6 LAST\r\na\r\nb\r\nNOOP\r\nQUIT\r\n"
    )  # fmt: skip


def test_a_pump_tells_its_observer_of_each_entry_once() -> None:
    settled: list[tuple[str, int]] = []

    def observe(entry: Entry) -> None:
        assert entry.reply is not None
        settled.append((entry.kind.stage, entry.reply.code))

    owner = Owner(Session("smtp", DOMAIN))
    owner.pump = Pump(owner.session, observe)
    owner.run(owner.session.greet(), b"220 mx\r\n")
    assert isinstance(raised(owner.run, owner.session.hello(), b"421 no\r\n"), ServiceUnavailableError)
    assert settled == [("greeting", 220), ("EHLO", 421)]


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt])
def test_what_an_observer_raises_passes_and_ends_the_connection(error: type[BaseException]) -> None:
    def observe(entry: Entry) -> None:
        raise error

    owner = Owner(Session("smtp", DOMAIN))
    owner.pump = Pump(owner.session, observe)
    owner.pump.start(owner.session.greet())
    if error is KeyboardInterrupt:
        assert isinstance(raised(owner.deliver, b"220 mx\r\n"), error)
    else:
        owner.deliver(b"220 mx\r\n")
    assert isinstance(raised(owner.pump.result), error)
    assert not owner.pump.usable


def test_LMTP_has_a_verdict_for_each_recipient_and_a_421_among_them_ends_nothing_but_the_connection(
    delivery: Arrival,
) -> None:
    owner = ready("PIPELINING", protocol="lmtp", arrival=delivery)
    recipients = ("a@example.com", "b@example.com", "c@example.com")
    result = owner.send(mail(*recipients), b"250 s\r\n" + OK * 3 + b"354 go\r\n", OK + b"421 busy\r\n" + OK)
    assert [entry.delivery for entry in result.recipients] == [DL, ND, DL]
    assert (owner.pump.usable, owner.session.state) == (False, SessionState.CLOSED)


# --- what is not exactly the reply that was owed (D5, D6)


@pytest.mark.parametrize(
    ("octets", "error", "code", "unanswered"),
    [
        pytest.param(b"421 closing\r\n", ServiceUnavailableError, 421, True, id="421"),
        pytest.param(b"221 closing\r\n", ServiceUnavailableError, 221, True, id="221"),
        pytest.param(b"354 go\r\n", ProtocolError, 354, False, id="3yz"),
        pytest.param(b"250-a\r\n251 b\r\n", ProtocolError, None, False, id="malformed"),
        pytest.param(b"250 a\n", ProtocolError, None, False, id="bare LF"),
        pytest.param(None, ConnectionLostError, None, True, id="EOF"),
        pytest.param(b"250 o", ConnectionLostError, None, False, id="EOF in a reply"),
    ],
)
def test_a_wrong_reply_poisons_as_the_driver_does(
    octets: bytes | None, error: type[SmtpError], code: int | None, unanswered: bool, delivery: Arrival
) -> None:
    owner = ready(arrival=delivery)
    owner.pump.start(owner.session.noop())
    owner.write()
    owner.deliver(octets or b"")
    if not owner.pump.finished:
        owner.pump.ended()
    found = owner.fails()
    assert type(found) is error
    assert (found.stage, found.reply.code if found.reply else None) == ("NOOP", code)
    assert found._unanswered is unanswered
    assert owner.session.lost is (error is ConnectionLostError)
    assert (owner.pump.usable, owner.session.state) == (False, SessionState.CLOSED)
    dead = raised(owner.pump.start, owner.session.noop())
    assert type(dead) is (ServiceUnavailableError if error is ServiceUnavailableError else ConnectionLostError)
    owner.deliver(OK)
    owner.pump.ended()
    assert owner.pump.to_write() == b""
    assert bytes(owner.written) == b"NOOP\r\n"


def test_a_refusal_leaves_the_session_usable(delivery: Arrival) -> None:
    owner = ready(arrival=delivery)
    owner.pump.start(owner.session.noop())
    assert isinstance(owner.fails(b"500 what\r\n"), PermanentReplyError)
    assert owner.run(owner.session.noop(), OK).code == 250


@pytest.mark.parametrize("octets", [OK, b"421 idle\r\n"])
def test_what_comes_behind_a_flow_that_was_refused_is_not_overlooked(octets: bytes, delivery: Arrival) -> None:
    owner = ready(arrival=delivery)
    owner.pump.start(owner.session.noop())
    assert isinstance(owner.fails(b"500 what\r\n"), PermanentReplyError)
    owner.deliver(octets)
    assert not owner.pump.usable
    owner.pump.start(owner.session.noop())
    assert type(owner.fails()) is (ProtocolError if octets is OK else ServiceUnavailableError)
    assert bytes(owner.written) == b"NOOP\r\n"


def test_a_session_that_is_used_up_is_closed() -> None:
    owner = ready("ENHANCEDSTATUSCODES")
    owner.pump.start(owner.session.noop())
    assert owner.fails(b"451 4.4.2 idle\r\n").reply is not None
    assert (owner.pump.usable, owner.session.state) == (False, SessionState.CLOSED)


@pytest.mark.parametrize(
    ("octets", "ends", "error", "message"),
    [
        pytest.param(OK, False, ProtocolError, "a reply that answers no command", id="reply"),
        pytest.param(OK + OK, False, ProtocolError, "octets that answer no command", id="two replies"),
        pytest.param(b"25", False, ProtocolError, "octets that answer no command", id="cut"),
        pytest.param(b"what\r\n", False, ProtocolError, "not a reply", id="garbage"),
        pytest.param(b"421 idle\r\n", False, ServiceUnavailableError, "closes the connection", id="421"),
        pytest.param(b"421 idle\r\n", True, ServiceUnavailableError, "closes the connection", id="421 EOF"),
        pytest.param(b"", True, ConnectionLostError, "the server closed the connection", id="EOF"),
        pytest.param(b"421 i", True, ConnectionLostError, "the server closed the connection inside", id="cut EOF"),
    ],
)
@pytest.mark.parametrize("late", [False, True])
def test_what_comes_between_two_flows_ends_the_connection_without_an_octet_of_the_next(
    octets: bytes, ends: bool, error: type[SmtpError], message: str, late: bool, delivery: Arrival
) -> None:
    """BR1; late: it comes behind `start`, before the first octet is asked for."""
    owner = ready(arrival=delivery)
    if late:
        owner.pump.start(owner.session.noop())
    owner.deliver(octets)
    if ends:
        owner.pump.ended()
    if not late:
        assert not owner.pump.usable
        owner.pump.start(owner.session.noop())
    assert owner.pump.finished is (late and ends)
    found = owner.fails()
    assert type(found) is error
    assert (message in str(found), found.stage) == (True, "NOOP")
    assert (bytes(owner.written), owner.pump.usable) == (b"", False)


def test_the_end_between_two_flows_is_the_end_of_one_that_only_reads() -> None:
    owner = Owner(Session("smtp", DOMAIN))
    owner.pump.ended("reset")
    owner.pump.start(owner.session.greet())
    assert str(owner.fails()) == "greeting: connection lost: reset"


def test_a_flood_between_two_flows_is_not_kept() -> None:
    owner = ready()
    for _ in range(100):
        owner.pump.received(b"x" * 65_536)
    assert owner.session.parser.pending <= 3 * 65_536


def test_a_flood_while_nothing_is_written_is_not_kept() -> None:
    owner = ready()
    owner.pump.start(owner.session.noop())
    owner.pump.received(b"x" * 70_000)
    assert "more octets" in str(owner.fails())
    owner = ready("PIPELINING", most=5)
    owner.pump.start_mail(mail())
    owner.pump.wrote(len(owner.pump.to_write(5)))
    owner.pump.received(b"2" * 70_000)
    assert "MAIL: more octets" in str(owner.fails())


def test_the_replies_to_one_flight_have_room_for_65536_octets_and_512_each() -> None:
    long = b"250-" + b"x" * 15_994 + b"\r\n"
    for extra, fails in ((b"", False), (b"250-x\r\n" * 250, True)):
        owner = ready("PIPELINING")
        owner.pump.start_mail(mail())
        owner.write()
        owner.deliver(long * 2 + OK)
        owner.deliver(long * 2 + extra + b"250 " + b"x" * 1_600 + b"\r\n")
        assert owner.pump.finished is fails
    assert "RCPT: more octets of replies to one flight than allowed" in str(owner.fails())


def test_octets_behind_the_final_reply_leave_the_verdict_in_doubt_and_end_the_session() -> None:
    owner = ready("PIPELINING")
    owner.pump.start_mail(mail())
    found = owner.fails(ENVELOPE, b"250 queued\r\n550 no\r\n")
    assert isinstance(found, DeliveryUnknownError)
    assert not owner.pump.usable


def test_octets_in_front_of_AUTHs_own_end_are_its_end() -> None:
    owner = ready("AUTH PLAIN")
    owner.pump.start_auth(PlainAuth("u", "p"))
    assert isinstance(owner.fails(b"235 yes\r\n250 ok\r\n"), ProtocolError)
    assert not owner.pump.usable


# --- the verdict of a mail that was cut off


@pytest.mark.parametrize(
    ("given", "taken", "verdict"),
    [
        pytest.param(2, 2, ND, id="the end was not given"),
        pytest.param(3, 2, UN, id="the end was given"),
        pytest.param(3, 3, UN, id="the end was taken"),
    ],
)
@pytest.mark.parametrize("how", ["ended", "reset", "timed out"])
@pytest.mark.parametrize("protocol", ["smtp", "lmtp"])
def test_what_the_owner_was_given_separates_NOT_DELIVERED_from_UNKNOWN(
    given: int, taken: int, verdict: Delivery, how: str, protocol: ProtocolName, delivery: Arrival
) -> None:
    owner = ready("PIPELINING", protocol=protocol, arrival=delivery)
    pump = owner.pump
    attempt = pump.start_mail(mail(message=LARGE * 420))  # two slices and a rest
    assert pump.commits is False
    owner.write()
    owner.deliver(ENVELOPE)
    for number in range(given):
        assert pump.commits is (number == 2)
        octets = pump.to_write()
        assert len(octets) == SLICE or number == 2
        if number < taken:
            pump.wrote(len(octets))
    assert pump.commits is (taken == 2)
    assert attempt.results()[0].delivery is verdict
    pump.timed_out() if how == "timed out" else pump.ended("reset" if how == "reset" else None)
    found = owner.fails()
    cause: Any = found.__cause__ if verdict is UN else found
    assert isinstance(found, DeliveryUnknownError) is (verdict is UN)
    assert type(cause) is (SmtpTimeoutError if how == "timed out" else ConnectionLostError)
    assert [entry.delivery for entry in found.recipients] == [verdict]
    assert cause.stage == ("end of data" if taken == 3 else "body")
    assert found.retry_safe is (verdict is ND)
    pump.wrote(len(octets))  # what the transport says when all is over changes nothing
    assert not pump.usable


def test_a_step_whose_end_has_not_begun_shows_it_too() -> None:
    owner = ready("PIPELINING", "CHUNKING")
    owner.pump.start_mail(mail(chunking=True))
    owner.write()
    owner.deliver(b"250 s\r\n250 r\r\n")
    assert owner.pump.commits
    owner.pump.timed_out()
    assert [entry.delivery for entry in owner.fails().recipients] == [ND]


def test_a_chunk_larger_than_a_slice_is_in_doubt_from_its_last_octet_on(delivery: Arrival) -> None:
    owner = ready("PIPELINING", "CHUNKING", arrival=delivery)
    attempt = owner.pump.start_mail(mail(message=LARGE * 420, chunking=True))
    owner.write()
    owner.deliver(b"250 s\r\n250 r\r\n")
    for _ in range(3):
        owner.pump.wrote(len(owner.pump.to_write()))
        assert attempt.results()[0].delivery is ND
    assert owner.finish(b"", b"250 queued\r\n").all_delivered


@pytest.mark.parametrize(
    ("said", "error", "code", "text"),
    [
        pytest.param(b"552 too big\r\n", PermanentReplyError, 552, "refused before the end of data", id="552"),
        pytest.param(b"421 closing\r\n", ServiceUnavailableError, 421, "closes", id="421"),
        pytest.param(b"250 thanks\r\n", ProtocolError, 250, "answers no command", id="250"),
        pytest.param(None, ConnectionLostError, None, "lost while writing: reset", id="reset"),
    ],
)
def test_what_comes_in_the_middle_of_a_body_stops_it_and_nobody_can_have_the_mail(
    said: bytes | None, error: type[SmtpError], code: int | None, text: str
) -> None:
    owner = ready("PIPELINING")
    owner.pump.start_mail(mail(message=LARGE * 420))
    owner.write()
    owner.deliver(ENVELOPE)
    owner.pump.wrote(len(owner.pump.to_write()))
    owner.deliver(said) if said is not None else owner.pump.ended("reset")
    found = owner.fails()
    assert type(found) is error
    assert (found.reply.code if found.reply else None, text in str(found)) == (code, True)
    assert (found.stage, [entry.delivery for entry in found.recipients]) == ("body", [ND])
    assert not owner.pump.usable


@pytest.mark.parametrize(
    ("said", "error", "code", "unanswered"),
    [
        pytest.param(b"421 closing\r\n", ServiceUnavailableError, 421, True, id="421"),
        pytest.param(b"550 never\r\n", ConnectionLostError, 550, False, id="550"),
        pytest.param(b"what\r\n", ConnectionLostError, None, False, id="garbage"),
        pytest.param(b"", ConnectionLostError, None, True, id="nothing"),
    ],
)
def test_BR16_after_a_failed_write_what_the_server_had_said_is_still_heard(
    said: bytes, error: type[SmtpError], code: int | None, unanswered: bool
) -> None:
    owner = ready("PIPELINING")
    owner.pump.start_mail(mail())
    owner.pump.wrote(len(owner.pump.to_write(limit=9)))
    owner.deliver(said)
    owner.pump.ended("reset")
    found = owner.fails()
    assert type(found) is error
    assert (found.reply.code if found.reply else None) == code
    assert (found.stage, found._unanswered) == ("MAIL", unanswered)
    assert [entry.delivery for entry in found.recipients] == [ND]


def test_what_a_body_raises_passes_and_ends_a_DATA(delivery: Arrival) -> None:
    class BrokenError(Exception):
        pass

    def broken() -> Iterator[bytes]:
        yield b"a\r\n"
        raise BrokenError

    owner = ready("PIPELINING", "CHUNKING", arrival=delivery)
    attempt = owner.pump.start_mail(mail(message=broken(), chunking=True))
    assert isinstance(raised(owner.finish, b"250 s\r\n250 r\r\n"), BrokenError)
    assert attempt.results()[0].delivery is ND
    assert (owner.pump.usable, owner.session.rset_owed) == (True, True)
    owner.pump.start_mail(mail(message=broken()))
    assert isinstance(raised(owner.finish, b"250 reset\r\n" + ENVELOPE), BrokenError)
    assert owner.pump.usable is False
    assert bytes(owner.written) == MAIL + A + b"RSET\r\n" + MAIL + A + b"DATA\r\n"


def test_an_interrupt_in_a_body_passes_through_the_owner_and_ends_the_connection() -> None:
    def interrupted() -> Iterator[bytes]:
        yield b"a\r\n"
        raise KeyboardInterrupt

    owner = ready("PIPELINING", "CHUNKING")
    attempt = owner.pump.start_mail(mail(message=interrupted(), chunking=True))
    owner.write()
    assert isinstance(raised(owner.deliver, b"250 s\r\n250 r\r\n"), KeyboardInterrupt)
    assert isinstance(raised(owner.pump.result), KeyboardInterrupt)
    assert attempt.results()[0].delivery is ND
    assert not owner.pump.usable


# --- STARTTLS and AUTH


@pytest.mark.parametrize("injected", [b"250 ok\r\n", b"x", b"\0"])
def test_E25_octets_behind_the_220_are_refused_before_the_owner_upgrades(injected: bytes, delivery: Arrival) -> None:
    owner = ready("STARTTLS")
    owner.session.secure = False
    owner.pump.start(owner.session.starttls())
    owner.write()
    if delivery == "whole":  # the flow's own outcome
        owner.pump.received(b"220 go\r\n" + injected)
        found = raised(owner.pump.result)
    else:  # behind it, as long as the owner has not upgraded
        owner.pump.received(b"220 go\r\n")
        assert owner.pump.result() is None
        owner.pump.received(injected)
        assert not owner.pump.usable
        found = raised(owner.pump.upgraded)
    assert isinstance(found, StartTlsInjectionError)
    assert found.octets == len(injected)
    assert (owner.pump.usable, owner.session.secure) == (False, False)
    assert isinstance(raised(owner.pump.upgraded), ConnectionLostError)
    assert isinstance(raised(owner.pump.start, owner.session.hello()), ConnectionLostError)
    assert bytes(owner.written) == b"STARTTLS\r\n"


def test_an_upgrade_belongs_to_a_220() -> None:
    owner = ready("STARTTLS")
    assert isinstance(raised(owner.pump.upgraded), UsageError)
    owner.session.secure = False
    owner.run(owner.session.starttls(), b"220 go\r\n")
    owner.pump.upgraded()
    assert isinstance(raised(owner.pump.upgraded), UsageError)


def test_what_a_flow_refuses_at_once_is_its_outcome() -> None:
    owner = ready()
    owner.session.secure = False
    owner.pump.start(owner.session.starttls())
    assert "does not offer STARTTLS" in str(owner.fails())
    assert owner.run(owner.session.noop(), OK).code == 250


def test_D12_a_secret_does_not_go_out_in_the_clear_unless_it_is_allowed() -> None:
    owner = ready("AUTH PLAIN SCRAM-SHA-256-PLUS")
    owner.session.secure = False
    assert isinstance(raised(owner.pump.start_auth, PasswordAuth("u", "p")), UsageError)
    assert isinstance(raised(owner.pump.start_auth, LoginAuth("u", "p")), ExtensionUnavailableError)
    bound = ScramAuth("u", "p", channel_binding="tls-server-end-point")
    assert isinstance(raised(owner.pump.start_auth, bound), ExtensionUnavailableError)
    owner.pump.start_auth(bound, channel_binding=b"x" * 32)
    owner.write()
    assert owner.written.startswith(b"AUTH SCRAM-SHA-256-PLUS ")
    owner.pump.timed_out()
    assert owner.fails().stage == "AUTH SCRAM-SHA-256-PLUS"
    owner = ready("AUTH PLAIN")
    owner.session.secure = False
    owner.pump.start_auth(PasswordAuth("u", "p"), allow_plaintext_auth=True)
    owner.finish(b"235 yes\r\n")
    assert owner.session.authenticated
    assert owner.pump.error is None


def test_SEC2_a_secret_that_a_server_echoes_is_in_no_frame(delivery: Arrival) -> None:
    owner = ready("AUTH PLAIN", arrival=delivery)
    owner.pump.start_auth(PlainAuth("user", "correct horse"))
    secret = base64.b64encode(b"\0user\0correct horse")
    owner.write()
    for octets in pieces(b"535 " + secret + b" correct horse\r\n", delivery):
        owner.pump.received(octets)
    del octets
    shown = rendered(raised(owner.pump.result))
    assert "correct horse" not in shown
    assert secret.decode() not in shown


# --- what is not possible


def test_one_flow_at_a_time() -> None:
    owner = ready("AUTH PLAIN")
    owner.pump.start(owner.session.noop())
    for call in (
        lambda: owner.pump.start(owner.session.noop()),
        lambda: owner.pump.start_mail(mail()),
        lambda: owner.pump.start_auth(PlainAuth("u", "p")),
        owner.pump.upgraded,
        owner.pump.result,
    ):
        assert isinstance(raised(call), UsageError)
    assert owner.finish(OK).code == 250


def test_octets_that_were_not_given_cannot_have_been_taken() -> None:
    owner = ready()
    owner.pump.start(owner.session.noop())
    assert isinstance(raised(owner.pump.wrote, 1), UsageError)
    assert owner.pump.to_write(3) == b"NOO"
    for count in (-1, 4):
        assert isinstance(raised(owner.pump.wrote, count), UsageError)
    owner.pump.wrote(2)
    assert owner.pump.to_write() == b"OP\r\n"
    assert not owner.pump.commits


def test_a_mail_that_cannot_be_sent_here_begins_nothing() -> None:
    owner = ready()
    assert isinstance(raised(owner.pump.start_mail, mail(chunking=True)), ExtensionUnavailableError)
    policy = BoundedPolicy(max_recipients=1)
    two = mail("a@example.com", "b@example.com")
    assert isinstance(raised(owner.pump.start_mail, two, policy=policy), SmtpError)
    assert owner.pump.finished
    assert isinstance(raised(Owner(Session("smtp", DOMAIN)).pump.start_mail, mail()), UsageError)
    assert isinstance(raised(mail, "a b@example.com"), InvalidInputError)
    assert owner.run(owner.session.noop(), OK).code == 250


def test_patience_that_ends_between_two_flows_ends_nothing() -> None:
    owner = ready()
    owner.pump.timed_out()
    assert owner.run(owner.session.noop(), OK).code == 250
