"""Mails, recipients, and what the arguments of the send verbs become."""

from __future__ import annotations

import array
import codecs
import copy
import dataclasses
import enum
import io
import pickle
import tempfile
from collections.abc import Iterator
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest

from smtpconn.protocol.address import ForwardPath, ReversePath
from smtpconn.protocol.errors import InvalidInputError
from smtpconn.protocol.mail import (
    BinaryFile,
    Mail,
    Recipient,
    message_of,
    newlines_of,
    params_of,
    recipients_of,
    sender_of,
    size_of,
    wants_smtputf8,
)
from smtpconn.protocol.params import MailParams, Notify, RcptParams

NEVER = RcptParams(notify=Notify.NEVER)


# --- Recipient ---


def test_a_recipient_takes_a_str_or_a_path_f75a() -> None:
    assert Recipient("a@b") == Recipient(ForwardPath("a@b")) == Recipient("a@b", RcptParams())
    recipient = Recipient("@r:a@b", params=NEVER)
    assert (recipient.path, recipient.address, recipient.params) == (ForwardPath("@r:a@b"), "@r:a@b", NEVER)


@pytest.mark.parametrize("path", [None, 1, True, b"a@b", ["a@b"], ReversePath("a@b")], ids=repr)
def test_a_recipient_of_a_wrong_type_is_a_type_error_in7(path: Any) -> None:
    with pytest.raises(TypeError, match="must be a str or ForwardPath"):
        Recipient(path)


@pytest.mark.parametrize("params", [None, "NEVER", {"notify": "NEVER"}, MailParams()], ids=repr)
def test_the_parameters_of_a_recipient_are_rcpt_params(params: Any) -> None:
    with pytest.raises(TypeError, match="must be RcptParams"):
        Recipient("a@b", params)


def test_a_recipient_is_refused_at_birth() -> None:
    with pytest.raises(InvalidInputError):
        Recipient("a@b\r\nRSET")


def test_the_key_says_which_recipients_are_sent_once_d18_e136() -> None:
    assert Recipient("a@B").key == Recipient("a@b").key == Recipient("@r:a@b").key
    assert Recipient("A@b").key != Recipient("a@b").key
    assert Recipient("a@b", NEVER).key != Recipient("a@b").key
    assert Recipient("a@b", NEVER).key == Recipient("a@b", RcptParams(notify=["NEVER"])).key
    assert Recipient(ForwardPath("postmaster", local=True)).key == Recipient("postmaster").key
    assert len({Recipient("a@b").key, Recipient("a@B").key}) == 1


def test_a_recipient_is_immutable_and_hashable() -> None:
    recipient = Recipient("a@b")
    assert {recipient, Recipient("a@b")} == {recipient}
    with pytest.raises(dataclasses.FrozenInstanceError):
        recipient.path = ForwardPath("c@d")  # type: ignore[misc]
    assert dataclasses.replace(recipient, params=NEVER) == Recipient("a@b", NEVER)


# --- arguments of the send verbs ---


class LyingText(str):
    __slots__ = ()

    def __str__(self) -> str:
        return "\r\nRSET"


@pytest.mark.parametrize(
    "given",
    [
        ["a@b", ForwardPath("c@d"), Recipient("e@f", NEVER)],
        ("a@b", ForwardPath("c@d"), Recipient("e@f", NEVER)),
        (item for item in ("a@b", ForwardPath("c@d"), Recipient("e@f", NEVER))),
        [LyingText("a@b"), "c@d", Recipient("e@f", NEVER)],
    ],
    ids=["list", "tuple", "generator", "str subclass"],
)
def test_recipients_are_an_iterable_of_addresses_f58a(given: Any) -> None:
    assert recipients_of(given) == (Recipient("a@b"), Recipient("c@d"), Recipient("e@f", NEVER))


def test_recipients_keep_order_and_repetition_d18() -> None:
    assert [recipient.address for recipient in recipients_of(["b@x", "a@x", "b@x", "b@X"])] == [
        "b@x",
        "a@x",
        "b@x",
        "b@X",
    ]


def test_recipients_are_consumed_once_v19() -> None:
    asked = []

    def addresses() -> Iterator[str]:
        asked.append(1)
        yield "a@b"

    assert len(recipients_of(addresses())) == 1
    assert asked == [1]


@pytest.mark.parametrize(
    "given",
    [
        "a@b",
        "",
        LyingText("a@b"),
        b"a@b",
        bytearray(b"a@b"),
        memoryview(b"a@b"),
        ForwardPath("a@b"),
        Recipient("a@b"),
        None,
        1,
        object(),
    ],
    ids=repr,
)
def test_a_single_address_is_no_list_of_recipients_in7_f58a(given: Any) -> None:
    with pytest.raises(TypeError, match=r"recipients must be an iterable of addresses.*give a list"):
        recipients_of(given)


@pytest.mark.parametrize("given", [["a@b", None], [1], [b"a@b"], [["a@b"]], [ReversePath("a@b")]], ids=repr)
def test_each_recipient_has_its_type_in7(given: Any) -> None:
    with pytest.raises(TypeError, match="a recipient must be"):
        recipients_of(given)


@pytest.mark.parametrize("given", [[], (), iter([])], ids=["list", "tuple", "iterator"])
def test_no_recipients_are_refused_e54(given: Any) -> None:
    with pytest.raises(InvalidInputError, match="recipients must not be empty"):
        recipients_of(given)


def test_a_bad_recipient_among_good_ones_is_refused_e55() -> None:
    with pytest.raises(InvalidInputError, match="recipient must not have the character U"):
        recipients_of(["a@b", "c@d\r\nDATA"])


def test_what_an_iterable_of_recipients_raises_passes() -> None:
    def addresses() -> Iterator[str]:
        yield "a@b"
        raise LookupError("the database")

    with pytest.raises(LookupError):
        recipients_of(addresses())


def test_the_sender_is_a_str_or_a_reverse_path_f84a() -> None:
    path = ReversePath("a@b")
    assert sender_of(path) is path
    assert sender_of("a@b") == path
    assert sender_of("") == ReversePath("")


@pytest.mark.parametrize("given", [None, 1, b"a@b", ForwardPath("a@b"), ["a@b"]], ids=repr)
def test_a_sender_of_a_wrong_type_is_a_type_error_in6(given: Any) -> None:
    with pytest.raises(TypeError, match=r"sender must be a str or ReversePath.*null path"):
        sender_of(given)


def test_params_are_mail_params_or_none() -> None:
    params = MailParams(ret="FULL")
    assert params_of(params) is params
    assert params_of(None) == MailParams()
    wrongs: list[object] = [{}, "RET=FULL", RcptParams(), 0]
    for wrong in wrongs:
        with pytest.raises(TypeError, match="params must be MailParams"):
            params_of(wrong)


@pytest.mark.parametrize("given", ["strict", "crlf"])
def test_newlines_that_are_in19(given: str) -> None:
    assert newlines_of(given) == given
    assert type(newlines_of(LyingText(given))) is str


@pytest.mark.parametrize("given", ["", " ", "STRICT", "lf", "crlf\r\n", "crlf\0", "\u760d", "\ud800", "x" * 1000])
def test_newlines_that_are_not_in19(given: str) -> None:
    with pytest.raises(InvalidInputError, match="newlines must be one of strict, crlf"):
        newlines_of(given)


@pytest.mark.parametrize("given", [None, True, 1, b"crlf"], ids=repr)
def test_newlines_of_a_wrong_type_in19(given: Any) -> None:
    with pytest.raises(TypeError, match="newlines"):
        newlines_of(given)


class Count(enum.IntEnum):
    TEN = 10


@pytest.mark.parametrize(("given", "size"), [(None, None), (0, 0), (1, 1), (10**20 - 1, 10**20 - 1), (Count.TEN, 10)])
def test_a_size_is_a_number_of_octets_in9_f64(given: Any, size: int | None) -> None:
    assert size_of(given) == size
    assert type(size_of(given)) in (int, type(None))


@pytest.mark.parametrize("given", [-1, 10**20, 10**400])
def test_a_size_out_of_range_is_refused_in9_v20(given: int) -> None:
    with pytest.raises(InvalidInputError, match="size must be 0 to"):
        size_of(given)


@pytest.mark.parametrize("given", [True, False, 1.0, float("nan"), float("inf"), "1", b"1", [1]], ids=repr)
def test_a_size_of_a_wrong_type_is_a_type_error_in9_v20(given: Any) -> None:
    with pytest.raises(TypeError, match="size must be an int"):
        size_of(given)


# --- the message (F59) ---


class LyingBytes(bytes):
    """bytes that show other octets to `bytes()` than to whoever reads the buffer (V18)."""

    def __bytes__(self) -> bytes:
        return b"other"


def test_bytes_are_taken_as_they_are_and_bytes_like_is_copied_v19() -> None:
    octets = b"abc"
    assert message_of(octets) is octets
    buffer = bytearray(b"abc")
    taken = [
        message_of(buffer),
        message_of(memoryview(buffer)),
        message_of(LyingBytes(b"abc")),
        message_of(array.array("B", b"abc")),
    ]
    buffer[:] = b"xyz1"  # resized: no export is left behind
    assert taken == [b"abc"] * 4
    assert all(type(each) is bytes for each in taken)


@pytest.mark.parametrize("given", [b"", bytearray(), memoryview(b"")], ids=repr)
def test_an_empty_message_is_one_in17(given: Any) -> None:
    assert message_of(given) == b""


def test_a_memoryview_with_holes_is_refused_f59() -> None:
    with pytest.raises(InvalidInputError, match="contiguous"):
        message_of(memoryview(b"abcdef")[::2])


def test_a_released_memoryview_is_refused() -> None:
    view = memoryview(b"abc")
    view.release()
    with pytest.raises(InvalidInputError, match="released"):
        message_of(view)


def test_a_binary_file_is_taken_unread_f59(tmp_path: Path) -> None:
    path = tmp_path / "message.eml"
    path.write_bytes(b"abcdef")
    with path.open("rb") as file:
        file.seek(2)
        assert message_of(file) is file
        assert file.tell() == 2
    with tempfile.SpooledTemporaryFile() as spooled:
        for stream in (io.BytesIO(b"x"), spooled, io.BufferedReader(io.BytesIO(b"x"))):
            assert message_of(stream) is stream
            assert isinstance(stream, BinaryFile)


def test_a_mapped_file_is_taken_unread_f59(tmp_path: Path) -> None:
    mmap = pytest.importorskip("mmap", reason="this platform maps no files")
    path = tmp_path / "message.eml"
    path.write_bytes(b"abcdef")
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        assert message_of(mapped) is mapped


def test_a_text_file_is_a_type_error_f59_e166(tmp_path: Path) -> None:
    path = tmp_path / "message.eml"
    path.write_text("abc", encoding="ascii")
    codec = codecs.lookup("ascii")
    with (
        path.open(encoding="ascii") as file,
        codecs.StreamReaderWriter(path.open("rb"), codec.streamreader, codec.streamwriter) as wrapped,
    ):
        for text in (file, wrapped, io.StringIO("abc")):
            with pytest.raises(TypeError, match="mode 'rb'"):
                message_of(text)


def test_an_iterable_is_taken_unread_f59() -> None:
    pulled = []

    def pieces() -> Iterator[bytes]:
        pulled.append(1)
        yield b"abc"

    for stream in (pieces(), [b"a", b"b"], (b"a",), iter([b"a"]), {b"a"}):
        assert message_of(stream) is stream
    assert pulled == []


@pytest.mark.parametrize("given", ["abc", LyingText("abc"), ""], ids=repr)
def test_text_is_no_message_in17_wm9_e166(given: str) -> None:
    with pytest.raises(TypeError, match=r"encode it.*send_message"):
        message_of(given)


def test_an_email_message_is_no_message_of_send() -> None:
    with pytest.raises(TypeError, match=r"use send_message or Mail\.from_message"):
        message_of(EmailMessage())


@pytest.mark.parametrize("given", [None, 1, True, 1.5, object(), Path("x")], ids=repr)
def test_what_gives_no_octets_is_a_type_error_v17(given: Any) -> None:
    with pytest.raises(TypeError, match="message must be bytes, a binary file or an iterable of bytes"):
        message_of(given)


# --- SMTPUTF8 (F65) ---


@pytest.mark.parametrize(
    ("sender", "recipients", "asked", "wanted"),
    [
        ("a@b", ["c@d"], None, False),
        ("a@b", ["c@d"], True, True),
        ("a@b", ["c@d"], False, False),
        ("\u00fc@b", ["c@d"], None, True),
        ("a@b", ["c@d", "\u00fc@d"], None, True),
        ("", ["c@\u00fc"], True, True),
        ("", ["c@d"], None, False),
    ],
)
def test_smtputf8_is_asked_for_where_a_path_needs_it_f65(
    sender: str, recipients: list[str], asked: bool | None, wanted: bool
) -> None:
    params = MailParams(smtputf8=asked)
    assert wants_smtputf8(ReversePath(sender), recipients_of(recipients), params) is wanted
    Mail(sender, recipients, b"", params=params)


@pytest.mark.parametrize(("sender", "recipient"), [("\u00fc@b", "c@d"), ("a@b", "c@\u00fc")])
def test_smtputf8_refused_by_the_caller_refuses_such_a_path_e70_f65(sender: str, recipient: str) -> None:
    params = MailParams(smtputf8=False)
    with pytest.raises(InvalidInputError, match="smtputf8=False"):
        Mail(sender, [recipient], b"", params=params)
    with pytest.raises(InvalidInputError, match="smtputf8=False"):
        Mail.from_message(EmailMessage(), sender=sender, recipients=[recipient], params=params)


def test_an_email_message_does_not_go_as_BINARYMIME() -> None:
    with pytest.raises(InvalidInputError, match=r"params\.body BINARYMIME is not possible for an email message"):
        Mail.from_message(EmailMessage(), sender="a@b", recipients=["c@d"], params=MailParams(body="BINARYMIME"))


# --- Mail ---


def test_a_mail_holds_what_its_arguments_became_f75b() -> None:
    stream = iter([b"abc"])
    params = MailParams(ret="HDRS")
    mail = Mail("a@b", ["c@d"], stream, params=params, newlines="crlf", size=3, chunking=True, tag={"id": 7})
    assert mail.sender == ReversePath("a@b")
    assert mail.recipients == (Recipient("c@d"),)
    assert mail.message is stream
    assert (mail.params, mail.newlines, mail.size, mail.chunking, mail.tag) == (params, "crlf", 3, True, {"id": 7})
    assert mail.email_message is None


def test_the_defaults_of_a_mail() -> None:
    mail = Mail("", iter(["c@d"]), bytearray(b"abc"))
    assert (mail.params, mail.newlines, mail.size, mail.chunking, mail.tag) == (
        MailParams(),
        "strict",
        None,
        False,
        None,
    )
    assert mail.message == b"abc"


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ({"sender": "a"}, InvalidInputError),
        ({"sender": None}, TypeError),
        ({"recipients": []}, InvalidInputError),
        ({"recipients": "c@d"}, TypeError),
        ({"message": "text"}, TypeError),
        ({"params": {}}, TypeError),
        ({"newlines": "lf"}, InvalidInputError),
        ({"size": -1}, InvalidInputError),
        ({"chunking": 1}, TypeError),
        ({"email_message": None}, TypeError),
        ({"message": b"a\nb"}, InvalidInputError),
        ({"message": b"a", "size": 2}, InvalidInputError),
        ({"message": b"\xc3\r\n", "params": MailParams(body="7BIT")}, InvalidInputError),
        ({"sender": "\u00fc@b", "params": MailParams(smtputf8=False)}, InvalidInputError),
    ],
    ids=repr,
)
def test_a_mail_is_refused_at_birth_f75b_mp2(given: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        Mail(**{"sender": "a@b", "recipients": ["c@d"], "message": b"", **given})


def test_the_options_of_a_mail_are_keyword_only() -> None:
    with pytest.raises(TypeError):
        Mail("a@b", ["c@d"], b"", None)  # type: ignore[call-arg]


def test_a_mail_is_immutable() -> None:
    mail = Mail("a@b", ["c@d"], b"x")
    with pytest.raises(dataclasses.FrozenInstanceError):
        mail.message = b"y"  # type: ignore[misc]
    assert dataclasses.replace(mail, message=b"y", tag=1) == Mail("a@b", ["c@d"], b"y", tag=1)
    assert hash(mail) == hash(Mail("a@b", ["c@d"], b"x"))


def test_a_mail_of_an_email_message_is_serialised_later() -> None:
    message = EmailMessage()
    mail = Mail.from_message(message, tag="t")
    assert mail.email_message is message
    assert (mail.message, mail.sender, mail.recipients, mail.tag) == (b"", None, None, "t")
    assert (mail.params, mail.newlines, mail.size, mail.chunking) == (MailParams(), "strict", None, False)
    settled = dataclasses.replace(mail, sender=ReversePath("a@b"), recipients=(Recipient("c@d"),), message=b"x")
    assert settled == Mail("a@b", ["c@d"], b"x", tag="t")


def test_a_mail_of_an_email_message_takes_an_envelope() -> None:
    params = MailParams(envid="1", smtputf8=False)
    mail = Mail.from_message(EmailMessage(), sender="", recipients=["c@d"], params=params)
    assert (mail.sender, mail.recipients, mail.params) == (ReversePath(""), (Recipient("c@d"),), params)
    envelopes: list[dict[str, Any]] = [{"sender": "a"}, {"recipients": []}, {"recipients": ["x"]}]
    for envelope in envelopes:
        with pytest.raises(InvalidInputError):
            Mail.from_message(EmailMessage(), **envelope)
    with pytest.raises(InvalidInputError, match="smtputf8=False"):
        Mail.from_message(EmailMessage(), recipients=["c@\u00fc"], params=params)


class OnlyBytes:
    def as_bytes(self) -> bytes:
        return b""


@pytest.mark.parametrize(
    "given", [None, b"octets", "text", io.BytesIO(b""), {}, OnlyBytes()], ids=lambda given: type(given).__name__
)
def test_what_is_no_email_message_goes_to_send(given: Any) -> None:
    with pytest.raises(TypeError, match=r"must be an EmailMessage.*send"):
        Mail.from_message(given)


@pytest.mark.parametrize(
    ("mail", "shown"),
    [
        (Mail("a@b", ["c@d", "e@f"], b"secret"), "<Mail recipients: 2, message: 6 octets>"),
        (Mail("a@b", ["c@d"], iter([b"secret"])), "<Mail recipients: 1, message: a stream>"),
        (Mail.from_message(EmailMessage()), "<Mail recipients: of its headers, message: EmailMessage>"),
        (Mail.from_message(EmailMessage(), recipients=["c@d"]), "<Mail recipients: 1, message: EmailMessage>"),
    ],
)
def test_repr_shows_no_address_and_no_content(mail: Mail, shown: str) -> None:
    assert repr(mail) == shown


VALUES: list[Recipient | Mail] = [
    Recipient("a@b"),
    Recipient(ForwardPath("user", local=True), RcptParams(notify="DELAY", extra={"XA": None})),
    Mail("", ["c@d"], b""),
    Mail(
        "\u00fc@b",
        [Recipient("c@d", NEVER), "e@f"],
        b"\xfe\xff",
        params=MailParams(hold_for=3, extra={"XA": "1"}),
        newlines="crlf",
        size=2,
        chunking=True,
        tag=["x", 1],
    ),
]


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_values_survive_pickle_copy_and_dict_e201_f121(value: Recipient | Mail) -> None:
    for twin in (
        pickle.loads(pickle.dumps(value)),  # noqa: S301  # made here
        copy.copy(value),
        copy.deepcopy(value),
        type(value).from_dict(value.to_dict()),
    ):
        assert twin == value
        assert repr(twin) == repr(value)


def test_a_mail_of_an_email_message_survives_pickle() -> None:
    message = EmailMessage()
    message["Subject"] = "x"
    twin = pickle.loads(pickle.dumps(Mail.from_message(message, sender="a@b")))  # noqa: S301  # made here
    assert (twin.sender, twin.recipients, twin.email_message["Subject"]) == (ReversePath("a@b"), None, "x")


def test_what_is_cached_beside_the_fields_does_not_travel() -> None:
    mail = Mail("a@b", ["c@d"], b"x")
    mail.__dict__["_cache"] = b"large"
    for twin in (pickle.loads(pickle.dumps(mail)), copy.copy(mail)):  # noqa: S301  # made here
        assert twin == mail
        assert "_cache" not in twin.__dict__


@pytest.mark.parametrize("mail", [Mail("a@b", ["c@d"], [b"x"]), Mail.from_message(EmailMessage())])
def test_a_stream_has_no_dict(mail: Mail) -> None:
    with pytest.raises(TypeError, match="whose message is bytes"):
        mail.to_dict()
