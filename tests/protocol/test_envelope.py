"""What is checked before the first octet, and what the envelope's lines and the octets of a stream become."""

from __future__ import annotations

import io
import pickle
from collections.abc import Sequence
from typing import Any

import pytest

from smtpconn.protocol.address import ForwardPath, ReversePath
from smtpconn.protocol.envelope import Outgoing, missing_end
from smtpconn.protocol.errors import ExtensionUnavailableError, InvalidInputError, PolicyError
from smtpconn.protocol.mail import Mail, Recipient
from smtpconn.protocol.params import MailParams, Notify, RcptParams
from smtpconn.protocol.policy import BoundedPolicy
from smtpconn.protocol.session import ProtocolName

from .transactions import SENDER, mail_of, session_of

TEXT = b"a\r\n"


def outgoing(mail: Mail, *offered: str, protocol: ProtocolName = "smtp", policy: Any = None) -> Outgoing:
    return Outgoing(mail, session_of(*(offered or ("PIPELINING",)), protocol=protocol), policy)


# --- what the mail's content is: F50, F61 ---


@pytest.mark.parametrize(
    ("message", "newlines", "offset"),
    [
        (b"a\nb", "strict", 1),
        (b"a\rb", "strict", 1),
        (b"ab\0", "strict", 2),
        (b"\r\n\n", "strict", 2),
        (b"a\rb", "crlf", 1),
        (b"a\nb\0", "crlf", 3),
        (b"a\nb\r", "crlf", 3),
    ],
)
def test_E160_E161_a_bare_octet_is_refused_with_its_offset(message: bytes, newlines: str, offset: int) -> None:
    with pytest.raises(InvalidInputError) as caught:
        mail_of(message=message, newlines=newlines)
    assert caught.value.offset == offset


def test_E161_crlf_converts_bare_line_feeds() -> None:
    assert mail_of(message=b"a\nb\r\nc\n", newlines="crlf").content == b"a\r\nb\r\nc\r\n"


def test_D10_BINARYMIME_passes_unchanged() -> None:
    octets = b"\0\r\n\r\n"[::-1]
    assert mail_of(message=octets, chunking=True, params=MailParams(body="BINARYMIME")).content == octets


def test_a_stream_has_no_content_yet() -> None:
    assert mail_of(message=[b"a\n"]).content is None


def test_the_content_is_made_once_and_travels_with_the_mail() -> None:
    """F75b: validated when built."""
    mail = mail_of(message=b"a\nb\n", newlines="crlf")
    copied = pickle.loads(pickle.dumps(mail))  # noqa: S301
    assert copied == mail
    assert copied.content == mail.content == b"a\r\nb\r\n"


@pytest.mark.parametrize("size", [2, 4])
def test_E167_a_size_that_is_not_the_one_of_the_bytes_is_refused(size: int) -> None:
    with pytest.raises(InvalidInputError, match=f"size is {size}, but message has 3 octets"):
        mail_of(message=TEXT, size=size)
    assert mail_of(message=TEXT, size=3).content == TEXT


# --- the MAIL line: F64, F64a, F65 ---


@pytest.mark.parametrize(
    ("message", "options", "offered", "tail"),
    [
        (TEXT, {}, ("SIZE",), b" SIZE=3"),
        (TEXT, {}, ("SIZE 3",), b" SIZE=3"),
        (b"a", {}, ("SIZE",), b" SIZE=3"),
        (b"", {}, ("SIZE",), b" SIZE=0"),
        (b".\r\n", {}, ("SIZE",), b" SIZE=3"),
        (b"a\nb", {"newlines": "crlf"}, ("SIZE",), b" SIZE=6"),
        (TEXT, {}, ("8BITMIME",), b""),
        ([TEXT], {}, ("SIZE",), b""),
        ([TEXT], {"size": 3}, ("SIZE",), b" SIZE=3"),
        ([b"a\n"], {"size": 2, "newlines": "crlf"}, ("SIZE",), b""),
        ([TEXT], {"size": 3}, ("8BITMIME",), b" BODY=8BITMIME"),
        ([TEXT], {}, ("SIZE", "8BITMIME"), b" BODY=8BITMIME"),
        ([TEXT], {}, ("PIPELINING",), b""),
        (b"\xc3\xa9\r\n", {}, ("SIZE", "8BITMIME"), b" SIZE=4 BODY=8BITMIME"),
        (TEXT, {"params": MailParams(body="7BIT")}, ("8BITMIME",), b" BODY=7BIT"),
        (TEXT, {"params": MailParams(body="8BITMIME")}, ("8BITMIME",), b" BODY=8BITMIME"),
        ([TEXT], {"params": MailParams(body="7BIT")}, ("8BITMIME",), b" BODY=7BIT"),
        (
            b"\0",
            {"params": MailParams(body="BINARYMIME"), "chunking": True},
            ("SIZE", "BINARYMIME", "CHUNKING"),
            b" SIZE=1 BODY=BINARYMIME",
        ),
        (TEXT, {"params": MailParams(smtputf8=True)}, ("SMTPUTF8",), b" SMTPUTF8"),
        (TEXT, {"recipients": ["é@x.test"]}, ("SMTPUTF8",), b" SMTPUTF8"),
    ],
)
def test_E80_E168_E170_E171_the_MAIL_line_declares_what_is_known(
    message: Any, options: dict[str, Any], offered: tuple[str, ...], tail: bytes
) -> None:
    made = outgoing(mail_of(message=message, **options), *offered)
    assert made.mail_line == b"MAIL FROM:<s@client.test>" + tail + b"\r\n"


@pytest.mark.parametrize(
    ("message", "options", "offered", "extension"),
    [
        (TEXT, {"chunking": True}, ("SIZE",), "CHUNKING"),
        (TEXT, {}, ("SIZE 2",), "SIZE"),
        (b"a", {}, ("SIZE 2",), "SIZE"),
        ([TEXT], {"size": 3}, ("SIZE 2",), "SIZE"),
        (b"\xc3\xa9\r\n", {}, ("SIZE",), "8BITMIME"),
        (TEXT, {"recipients": ["é@x.test"]}, ("SIZE",), "SMTPUTF8"),
        (TEXT, {"params": MailParams(smtputf8=True)}, ("SIZE",), "SMTPUTF8"),
        (TEXT, {"params": MailParams(body="7BIT")}, ("SIZE",), "8BITMIME"),
        (TEXT, {"params": MailParams(body="BINARYMIME"), "chunking": True}, ("CHUNKING",), "BINARYMIME"),
        (TEXT, {"recipients": [Recipient("a@x.test", RcptParams(notify=Notify.NEVER))]}, ("SIZE",), "DSN"),
        (TEXT, {"recipients": ["a@x.test", "b@x.test"]}, ("LIMITS RCPTMAX=1",), "LIMITS"),
    ],
    ids=["E79", "E207", "E207-added-CRLF", "E207-stream", "E168", "E69", "E69-asked", "MP2", "E172", "DSN", "LI3"],
)
def test_what_the_server_does_not_offer_is_refused_here(
    message: Any, options: dict[str, Any], offered: tuple[str, ...], extension: str
) -> None:
    session = session_of(*offered)
    before = vars(session).copy()
    with pytest.raises(ExtensionUnavailableError) as caught:
        Outgoing(mail_of(message=message, **options), session, None)
    assert caught.value.extension == extension
    assert caught.value.permanent is True
    assert caught.value.stage == "input"
    assert vars(session) == before


def test_E69_a_sender_that_is_not_ascii_needs_SMTPUTF8() -> None:
    mail = Mail("é@x.test", ["a@x.test"], TEXT)
    with pytest.raises(ExtensionUnavailableError) as caught:
        outgoing(mail, "SIZE")
    assert caught.value.extension == "SMTPUTF8"
    assert outgoing(mail, "SMTPUTF8").mail_line == "MAIL FROM:<é@x.test> SMTPUTF8\r\n".encode()


def test_E70_SMTPUTF8_stands_on_MAIL_and_never_on_RCPT() -> None:
    assert outgoing(mail_of(recipients=["é@x.test"]), "SMTPUTF8").rcpt_lines == ["RCPT TO:<é@x.test>\r\n".encode()]


def test_E172_BINARYMIME_by_DATA_contradicts_itself() -> None:
    with pytest.raises(InvalidInputError, match="BDAT only"):
        mail_of(params=MailParams(body="BINARYMIME"))


@pytest.mark.parametrize("address", ["postmaster", "Postmaster"])
def test_a_recipient_without_domain_is_postmaster_or_local_delivery(address: str) -> None:
    path = ForwardPath(address, local=True)
    assert outgoing(mail_of(recipients=[path])).rcpt_lines == [b"RCPT TO:<%s>\r\n" % address.encode()]
    local = mail_of(recipients=["a@x.test", ForwardPath("bob", local=True)])
    assert outgoing(local, protocol="lmtp").rcpt_lines[1] == b"RCPT TO:<bob>\r\n"
    with pytest.raises(InvalidInputError, match="'bob' needs a domain"):
        outgoing(local)


# --- D18 ---


@pytest.mark.parametrize(
    ("given", "places"),
    [
        (["a@x.test"], [0]),
        (["a@x.test", "a@x.test"], [0, 0]),
        (["a@x.test", "b@x.test", "a@X.TEST"], [0, 1, 0]),
        (["a@x.test", "A@x.test"], [0, 1]),
        ([Recipient("a@x.test", RcptParams(notify=Notify.NEVER)), "a@x.test", "a@x.test"], [0, 1, 1]),
    ],
)
def test_D18_LV11_the_same_path_with_the_same_parameters_is_one_RCPT(given: list[Any], places: list[int]) -> None:
    made = outgoing(mail_of(recipients=given), "DSN")
    assert made.given == places
    assert len(made.rcpt_lines) == len(made.wire) == max(places) + 1
    assert len(made.recipients) == len(given)


# --- policy: F98, F99 ---


class Recording:
    """A policy that writes down what it is asked, and may fail at one question."""

    def __init__(self, fails: str = "", failure: Exception | None = None) -> None:
        self.asked: list[tuple[str, object]] = []
        self.fails = fails
        self.failure = failure

    def _ask(self, name: str, value: object) -> None:
        self.asked.append((name, value))
        if name == self.fails and self.failure is not None:
            raise self.failure

    def check_sender(self, sender: ReversePath) -> None:
        self._ask("sender", sender)

    def check_recipients(self, recipients: Sequence[Recipient]) -> None:
        self._ask("recipients", tuple(entry.address for entry in recipients))

    def check_message_size(self, size: int | None) -> None:
        self._ask("size", size)


def test_E178_F98_a_policy_is_asked_once_each_in_this_order() -> None:
    policy = Recording()
    outgoing(mail_of(message=b"a\nb", newlines="crlf", recipients=["a@x.test"] * 2), "SIZE", policy=policy)
    assert policy.asked == [
        ("sender", ReversePath(SENDER)),
        ("recipients", ("a@x.test", "a@x.test")),
        ("size", 3),
    ]


def test_F50_a_policy_is_asked_after_everything_else_was_found_right() -> None:
    policy = Recording()
    with pytest.raises(ExtensionUnavailableError):
        outgoing(mail_of(chunking=True), "SIZE", policy=policy)
    assert policy.asked == []


@pytest.mark.parametrize("question", ["sender", "recipients", "size"])
def test_E94_the_first_refusal_wins(question: str) -> None:
    refusal = PolicyError("no")
    policy = Recording(question, refusal)
    with pytest.raises(PolicyError) as caught:
        outgoing(mail_of(), policy=policy)
    assert caught.value is refusal
    assert policy.asked[-1][0] == question
    assert caught.value.permanent is True


@pytest.mark.parametrize("question", ["sender", "recipients", "size"])
def test_E179_whatever_else_a_policy_raises_refuses_too(question: str) -> None:
    failure = ValueError("broken")
    with pytest.raises(PolicyError, match="the policy failed: ValueError") as caught:
        outgoing(mail_of(), policy=Recording(question, failure))
    assert caught.value.__cause__ is failure


def test_E95_E183_recipients_are_counted_before_they_are_merged() -> None:
    policy = BoundedPolicy(max_recipients=2)
    assert len(outgoing(mail_of(2), policy=policy).wire) == 2
    with pytest.raises(PolicyError):
        outgoing(mail_of(recipients=["a@x.test"] * 3), policy=policy)


def test_E181_a_stream_of_known_size_is_refused_before_it_is_read() -> None:
    with pytest.raises(PolicyError):
        outgoing(mail_of(message=[b"x" * 11], size=11), policy=BoundedPolicy(max_message_bytes=10))


def test_E180_F99_a_stream_of_unknown_size_is_asked_about_slice_by_slice() -> None:
    policy = Recording()
    made = outgoing(mail_of(message=[b"abc", b"\r\n"]), policy=policy)
    assert b"".join(made.source()) == b"abc\r\n"
    assert [value for name, value in policy.asked if name == "size"] == [None, 3, 5]


def test_F99_a_stream_of_known_size_is_asked_about_once() -> None:
    policy = Recording()
    made = outgoing(mail_of(message=[b"abc", b"\r\n"], size=5), policy=policy)
    assert b"".join(made.source()) == b"abc\r\n"
    assert [value for name, value in policy.asked if name == "size"] == [5]


def test_E180_a_policy_that_refuses_or_fails_in_the_middle_of_a_stream_refuses() -> None:
    made = outgoing(mail_of(message=[b"x" * 11]), policy=BoundedPolicy(max_message_bytes=10))
    with pytest.raises(PolicyError, match="11 octets"):
        list(made.source())
    policy = Recording()
    made = outgoing(mail_of(message=[TEXT]), policy=policy)
    policy.fails, policy.failure = "size", KeyError("x")
    with pytest.raises(PolicyError, match="KeyError") as caught:
        list(made.source())
    assert caught.value.__cause__ is policy.failure


# --- the octets of a stream: F59, F61, F63, F64, F71 ---


def test_E165_a_file_is_read_from_its_position_to_its_end_and_not_closed() -> None:
    file = io.BytesIO(b"0123456789ab\r\n")
    file.seek(10)
    assert b"".join(outgoing(mail_of(message=file)).source()) == b"ab\r\n"
    assert not file.closed


@pytest.mark.parametrize(
    ("items", "newlines", "result"),
    [
        ([b"a\r", b"\n"], "strict", b"a\r\n"),
        ([b"", b"a\r\n", b"", bytearray(b"b\r\n"), memoryview(b"c\r\n")], "strict", b"a\r\nb\r\nc\r\n"),
        ([b"a\n", b"\nb"], "crlf", b"a\r\n\r\nb"),
        ([b"a\r", b"\r\n"[1:], b"\n"], "crlf", b"a\r\n\r\n"),
    ],
)
def test_E163_F61_chunk_borders_do_not_matter(items: list[Any], newlines: str, result: bytes) -> None:
    made = outgoing(mail_of(message=items, newlines=newlines))
    assert b"".join(made.source()) == result
    assert b"".join(outgoing(mail_of(message=items, newlines=newlines, chunking=True), "CHUNKING").source()) == (
        result + missing_end(result)
    )


def test_no_empty_piece_leaves_the_source() -> None:
    assert list(outgoing(mail_of(message=[b"", b"\r", b"\n"])).source()) == [b"\r\n"]


def test_E170_BINARYMIME_of_a_stream_is_untouched_and_an_empty_text_gets_nothing() -> None:
    params = MailParams(body="BINARYMIME")
    binary = outgoing(mail_of(message=[b"\0\r", b"\n."], chunking=True, params=params), "CHUNKING", "BINARYMIME")
    assert list(binary.source()) == [b"\0\r", b"\n."]
    assert list(outgoing(mail_of(message=[], chunking=True), "CHUNKING").source()) == []


@pytest.mark.parametrize(("size", "match"), [(4, "more octets"), (6, "message has 5 octets")])
def test_E167_a_stream_must_have_the_size_that_was_declared(size: int, match: str) -> None:
    with pytest.raises(InvalidInputError, match=match):
        list(outgoing(mail_of(message=[b"abc", b"\r\n"], size=size)).source())


def test_E163_a_CR_at_the_end_of_a_stream_is_bare() -> None:
    with pytest.raises(InvalidInputError) as caught:
        list(outgoing(mail_of(message=[b"a\r\n", b"b\r"])).source())
    assert caught.value.offset == 4


def test_E168_an_octet_above_127_stops_a_stream_where_8BITMIME_is_not_offered() -> None:
    made = outgoing(mail_of(message=[TEXT, b"\xc3\xa9\r\n"]))
    source = made.source()
    assert next(source) == TEXT
    with pytest.raises(ExtensionUnavailableError) as caught:
        next(source)
    assert caught.value.extension == "8BITMIME"
    assert "the server does not offer 8BITMIME" in str(caught.value)
    assert list(outgoing(mail_of(message=[b"\xc3\xa9\r\n"]), "8BITMIME").source()) == [b"\xc3\xa9\r\n"]


def test_MP2_a_stream_that_is_declared_7BIT_and_is_not_contradicts_the_caller_not_the_server() -> None:
    made = outgoing(mail_of(message=[b"\xc3\xa9\r\n"], params=MailParams(body="7BIT")), "8BITMIME")
    with pytest.raises(InvalidInputError, match=r"params\.body is 7BIT"):
        list(made.source())


@pytest.mark.parametrize(("content", "end"), [(b"", b""), (b"a", b"\r\n"), (b"a\r\n", b""), (b"\r\n", b"")])
def test_F71_a_text_that_is_not_empty_ends_in_CRLF(content: bytes, end: bytes) -> None:
    assert missing_end(content) == end


def test_E206_a_line_that_is_too_long_is_refused_before_anything_is_written() -> None:
    long = "a" * 64 + "@" + ".".join(["b" * 61] * 3)
    params = RcptParams(extra={"X": "y" * 300})
    with pytest.raises(InvalidInputError, match="RCPT"):
        outgoing(mail_of(recipients=[Recipient(long, params)]))
