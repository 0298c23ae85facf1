"""What is wrong with a mail, an envelope or an inquiry, at every door (faults.md 11: IN6 to IN19).

Each row asserts the class and the words of the error, a verdict for each recipient, no octet at the peer, and that the
connection, the lease or the pool then carries a mail whose octets are exactly those of a mail that comes first.
"""

from __future__ import annotations

import datetime
import io
from collections.abc import Callable, Iterator
from email.message import EmailMessage
from typing import Any

import pytest

from smtpconn import (
    DeliverBy,
    Delivery,
    ForwardPath,
    InvalidInputError,
    Mail,
    MailParams,
    Notify,
    RcptParams,
    Recipient,
    ReversePath,
    SmtpError,
)

from .subjects import (
    BODY,
    MAIL,
    NO_NUMBERS,
    NUMBER_TRAPS,
    ONE,
    SENDER,
    Lines,
    Lying,
    Row,
    Subject,
    by_door,
    connection_over,
    pool_over,
    refusal_of,
    rows,
    texts,
    wrong_types,
)

Door = Callable[[Subject, Any], object]


def note() -> EmailMessage:
    made = EmailMessage()
    made["From"], made["To"], made["Subject"] = SENDER, ONE, "x"
    made.set_content("hello\n")
    return made


def of(subject: Subject, door: str) -> Any:
    """`pool.send` -> the bound `send` of the subject's pool."""
    owner, verb = door.split(".")
    return getattr(getattr(subject, owner), verb)


OWNERS = ("connection", "lease", "pool")
SENDS = [f"{owner}.{verb}" for owner in OWNERS for verb in ("send", "send_bdat")]
LMTP_SENDS = [f"{owner}.{verb}" for owner in ("connection", "lease") for verb in ("send_lmtp", "send_lmtp_bdat")]
MESSAGES = [f"{owner}.send_message" for owner in OWNERS]


def call_send(subject: Subject, door: str, **changed: Any) -> object:
    """The verb with a good mail, but for what is changed."""
    changed.setdefault("timeout", 5)
    if door.endswith("send_message"):
        return of(subject, door)(changed.pop("message", None) or note(), **changed)
    arguments = [changed.pop(name, good) for name, good in (("sender", SENDER), ("recipients", [ONE]))]
    return of(subject, door)(*arguments, changed.pop("message", BODY), **changed)


def protocol_of(door: str) -> str:
    return "lmtp" if "lmtp" in door else "smtp"


def judge(
    listed: list[Row], call: Callable[[Subject, Row], object], *, verdicts: bool = False, protocol: str | None = None
) -> None:
    """Every row at one door, by one connection, lease or pool; `verdicts`: the recipients were good."""
    subject = Subject(protocol or protocol_of(listed[0].door))
    for row in listed:
        error = refusal_of(row, lambda: call(subject, row))  # noqa: B023  # called at once
        if verdicts and isinstance(error, SmtpError):
            assert [(e.address, e.delivery) for e in error.recipients] == [(ONE, Delivery.NOT_DELIVERED)], row.id
        subject.is_untouched(row.code)
    subject.serves()


# --- IN6: the sender --------------------------------------------------------------------------------------------------

TOO_LONG = [
    ("V16 a local part of 65 octets", "x" * 65 + "@example.com", "E"),
    ("V16 a label of 64 octets", "a@" + "x" * 64 + ".example", "E"),
    ("V16 255 octets", "a@" + "x" * 60 + (".x" * 97)[:193], "E"),
    ("V16 a local part of 33 letters of two octets", "\u00e9" * 33 + "@example.com", "E"),
    ("V16 100,000 octets", "x" * 100_000 + "@example.com", "E"),
]
QUOTED = [
    ("IN8 CR behind a backslash", '"a\\\rb"@example.com', "E"),
    ("IN8 LF behind a backslash", '"a\\\nb"@example.com', "E"),
    ("IN8 NUL behind a backslash", '"a\\\0b"@example.com', "E"),
    ("IN8 CRLF inside quotes", '"a\r\nRSET"@example.com', "E"),
    ("IN8 not closed", '"a b@example.com', "E"),
    ("IN8 closed too early", '"a"b@example.com', "E"),
]
SHAPES = [
    ("V12 in angle brackets", "<a@example.com>", "E"),
    ("V13 a name in front", "A B <a@example.com>", "E"),
    ("a list", "a@example.com, c@example.com", "E"),
    ("nothing in front of the @", "@example.com", "E"),
    ("nothing behind the @", "a@", "E"),
    ("no @", "root", "E"),
    ("two @", "a@b@example.com", "E"),
    ("two dots", "a..b@example.com", "E"),
    ("a dot at the end of the domain", "a@example.com.", "E"),
    ("a domain with a port", "a@example.com:25", "E"),
    ("a literal that is none", "a@[300.1.1.1]", "E"),
    ("a literal with a command", "a@[127.0.0.1]\r\nRSET", "E"),
]
ADDRESS = [*texts(lambda inside: f"a{inside}b@example.com", V11="X"), *TOO_LONG, *QUOTED, *SHAPES]
DOMAIN = [(f"domain {name}", value, code) for name, value, code in texts(
    lambda inside: f"a@exam{inside}ple.com", V11="X", V14="-", V15="-"
)]  # fmt: skip
IN6 = [
    row
    for row in [
        *rows([*SENDS, *LMTP_SENDS], [*ADDRESS, *DOMAIN, *wrong_types()], r"\bsender\b|SMTPUTF8"),
        *rows(MESSAGES, [*ADDRESS, *DOMAIN, *wrong_types("V17 None")], r"\bsender\b|SMTPUTF8"),
    ]
    if row.value_id != "V14 empty"  # the null path
]


@pytest.mark.parametrize("listed", by_door(IN6))
def test_IN6_IN8_a_hostile_sender(listed: list[Row]) -> None:
    """faults:AK1-AK3, V1-V17."""
    judge(
        listed,
        lambda subject, row: call_send(subject, row.door, sender=row.value, recipients=[ONE]),
        verdicts=True,
    )


@pytest.mark.parametrize(
    "listed", by_door(rows(["ReversePath"], [*ADDRESS, *DOMAIN, *wrong_types()], "sender"))
)
def test_IN6_a_hostile_reverse_path_is_no_value(listed: list[Row]) -> None:
    for row in listed:
        if row.value_id == "V14 empty" or row.code == "X":
            assert ReversePath(row.value).address == row.value
        else:
            refusal_of(row, lambda: ReversePath(row.value))  # noqa: B023  # called at once


# --- IN7: the recipients ----------------------------------------------------------------------------------------------

LISTS: list[tuple[str, Any, str]] = [
    ("a bare str", ONE, "T"),
    ("bare bytes", ONE.encode(), "T"),
    ("a bare ForwardPath", ForwardPath(ONE), "T"),
    ("V17 None", None, "T"),
    ("V17 int", 5, "T"),
    ("V17 bool", True, "T"),
    ("V17 object", object(), "T"),
    ("V14 no recipient", [], "E"),
    ("V14 a tuple of none", (), "E"),
    ("V19 a generator of none", iter(()), "E"),
    ("V17 a list in a list", [[ONE]], "T"),
    ("V17 a pair", [(ONE, None)], "T"),
    ("V17 a sender", [ReversePath(ONE)], "T"),
]
RECIPIENTS = [*ADDRESS, *DOMAIN]
ITEMS = [(f"[{name}]", [value], code) for name, value, code in [*RECIPIENTS, *wrong_types()]]
IN7 = [
    *rows([*SENDS, *LMTP_SENDS, *MESSAGES], ITEMS, "recipient|UTF8"),
    *rows(SENDS + LMTP_SENDS, LISTS, "recipient"),
    *rows(MESSAGES, [entry for entry in LISTS if entry[1] is not None], "recipient"),
]


@pytest.mark.parametrize("listed", by_door(IN7))
def test_IN7_IN8_a_hostile_recipient(listed: list[Row]) -> None:
    """faults:AK1-AK3, V1-V19."""
    judge(listed, lambda subject, row: call_send(subject, row.door, recipients=row.value))


@pytest.mark.parametrize("door", [*SENDS, *LMTP_SENDS, *MESSAGES])
@pytest.mark.parametrize("bad", ["c@exa mple.com", "c\r\nRSET@example.com", "c@example.com> ORCPT=b@y"])
def test_IN7_AK2_one_hostile_recipient_among_good_ones_stops_the_mail(door: str, bad: str) -> None:
    """faults:V19: the iterator is consumed once, before the wire."""
    subject = Subject(protocol_of(door))
    taken: list[str] = []

    def addresses() -> Iterator[str]:
        for address in (ONE, bad, "d@example.com"):
            taken.append(address)
            yield address

    row = Row(door, "V13", bad, "E", "recipient")
    refusal_of(row, lambda: call_send(subject, door, recipients=addresses()))
    assert taken == [ONE, bad]
    subject.is_untouched("E")
    subject.serves()


@pytest.mark.parametrize("door", [*SENDS, *MESSAGES])
def test_IN7_F84_a_local_part_alone_is_for_lmtp(door: str) -> None:
    row = Row(door, "bare", None, "E", "recipient")
    judge([row], lambda subject, _: call_send(subject, door, recipients=[ForwardPath("bob", local=True)]))


MAKERS: dict[str, Callable[[Any], object]] = {
    "ForwardPath": ForwardPath,
    "Recipient": Recipient,
    "Recipient of a ForwardPath": lambda value: Recipient(ForwardPath(value)),
}


@pytest.mark.parametrize("listed", by_door(rows(MAKERS, [*RECIPIENTS, *wrong_types()], "recipient")))
def test_IN7_a_hostile_recipient_is_no_value(listed: list[Row]) -> None:
    for row in listed:
        if row.code == "X":
            MAKERS[row.door](row.value)
        else:
            refusal_of(row, lambda: MAKERS[row.door](row.value))  # noqa: B023  # called at once


@pytest.mark.parametrize("value", [5, "FAILURE", {}, MailParams()], ids=repr)
def test_IN7_the_params_of_a_recipient_are_of_their_type(value: Any) -> None:
    refusal_of(Row("Recipient", "V17", value, "T", "params"), lambda: Recipient(ONE, value))
    refusal_of(Row("ForwardPath", "V17", value, "T", "local"), lambda: ForwardPath(ONE, local=value))


# --- IN9: the size; IN17, IN18: the message; IN19: newlines -----------------------------------------------------------

SIZES: list[tuple[str, Any, str]] = [
    *((name, value, "E") for name, value in NUMBER_TRAPS.items()),
    ("V16 21 digits", 10**20, "E"),
    ("too small for what is given", 20, "E"),
    ("too large for what is given", 22, "E"),
    *((name, value, "T") for name, value in NO_NUMBERS.items()),
    ("V20 float", 21.0, "T"),
    ("V20 NaN", float("nan"), "T"),
]
TEXT: list[tuple[str, Any, str]] = [
    ("V2 CR", b"a\rb\r\n", "E"),
    ("V2 CR at the end", b"a\r", "E"),
    ("V3 LF", b"a\nb\r\n", "E"),
    ("V3 LF at the beginning", b"\nb\r\n", "E"),
    ("V4 NUL", b"a\0b\r\n", "E"),
    ("a bytearray", bytearray(b"a\nb\r\n"), "E"),
    ("a memoryview", memoryview(b"a\nb\r\n"), "E"),
    ("V11 eight bits", b"caf\xc3\xa9\r\n", "X"),
    ("V16 above SIZE", b"x" * 100_001, "X"),
    ("V17 str", "text\r\n", "T"),
    ("V17 None", None, "T"),
    ("V17 int", 5, "T"),
    ("V17 bool", True, "T"),
    ("V17 object", object(), "T"),
    ("V17 a text file", io.StringIO("text"), "T"),
    ("V17 an EmailMessage", EmailMessage(), "T"),
    ("a memoryview with gaps", memoryview(b"abcd")[::2], "E"),
]
NEWLINES: list[tuple[str, Any, str]] = [
    *texts(lambda inside: f"cr{inside}lf"),
    ("other", "lf", "E"),
    ("capitals", "STRICT", "E"),
    ("blank behind", "crlf ", "E"),
    ("V16", "x" * 10_000, "E"),
    *wrong_types(),
]
IN9 = rows([*SENDS, *LMTP_SENDS], SIZES, "size")
IN17 = rows([*SENDS, *LMTP_SENDS], TEXT, "message|SIZE|8BITMIME")
IN19 = rows([*SENDS, *LMTP_SENDS], NEWLINES, "newlines")


@pytest.mark.parametrize("listed", by_door(IN9))
def test_IN9_a_hostile_size(listed: list[Row]) -> None:
    """faults:V17, V20."""
    judge(listed, lambda subject, row: call_send(subject, row.door, size=row.value), verdicts=True)


@pytest.mark.parametrize("listed", by_door(IN17))
def test_IN17_a_hostile_message(listed: list[Row]) -> None:
    """faults:V1-V19; the offset of the octet is in the error (D10)."""
    judge(listed, lambda subject, row: call_send(subject, row.door, message=row.value), verdicts=True)


NO_EMAIL = [entry for entry in TEXT if entry[2] == "T" and not isinstance(entry[1], EmailMessage)]


@pytest.mark.parametrize("listed", by_door(rows(MESSAGES, NO_EMAIL, "EmailMessage")))
def test_IN17_what_is_no_email_message(listed: list[Row]) -> None:
    judge(
        listed,
        lambda subject, row: of(subject, row.door)(row.value, timeout=5, sender=SENDER, recipients=[ONE]),
        verdicts=True,
    )


@pytest.mark.parametrize("listed", by_door(rows([*SENDS, *LMTP_SENDS], TEXT[:2] + TEXT[4:5], "message")))
def test_IN17_crlf_converts_a_bare_LF_and_nothing_else(listed: list[Row]) -> None:
    judge(listed, lambda subject, row: call_send(subject, row.door, message=row.value, newlines="crlf"), verdicts=True)


@pytest.mark.parametrize("listed", by_door(IN19))
def test_IN19_hostile_newlines(listed: list[Row]) -> None:
    judge(listed, lambda subject, row: call_send(subject, row.door, newlines=row.value), verdicts=True)


@pytest.mark.parametrize("door", [door for door in [*SENDS, *LMTP_SENDS, *MESSAGES] if "bdat" not in door])
def test_IN18_BINARYMIME_contradicts_DATA(door: str) -> None:
    row = Row(door, "BINARYMIME", MailParams(body="BINARYMIME"), "E", "params.body")
    judge([row], lambda subject, row: call_send(subject, door, params=row.value, recipients=[ONE]), verdicts=True)


NO_PARAMS: list[tuple[str, Any, str]] = [
    *wrong_types("V17 None"),
    ("a dict", {"body": "7BIT"}, "T"),
    ("RcptParams", RcptParams(), "T"),
]


@pytest.mark.parametrize("listed", by_door(rows([*SENDS, *LMTP_SENDS, *MESSAGES], NO_PARAMS, "params")))
def test_IN10_params_of_another_type(listed: list[Row]) -> None:
    judge(listed, lambda subject, row: call_send(subject, row.door, params=row.value, recipients=[ONE]), verdicts=True)


# --- IN10 to IN13: the parameters -------------------------------------------------------------------------------------

ENUMERATED = [*texts(lambda inside: f"8BIT{inside}MIME"), *wrong_types("V17 None"), ("V16", "x" * 10_000, "E")]
FLAGS: list[tuple[str, Any, str]] = [("V17 None", None, "T"), ("V20 int", 1, "T"), ("V17 str", "true", "T")]
ENVID: list[tuple[str, Any, str]] = [
    *(entry for entry in texts(lambda inside: f"QQ{inside}1", V12="-", V13="-", V15="-")),
    ("V15 TAB", "\t", "E"),
    ("V16 101 octets", "x" * 101, "E"),
    ("V16 51 that need xtext", "+" * 34, "E"),
    *wrong_types("V17 None"),
]
ORCPT: list[tuple[str, Any, str]] = [
    *texts(lambda inside: f"rfc822;b{inside}@example.com", V12="-", V13="-", V15="E"),
    ("no type", "b@example.com", "E"),
    ("no address", "rfc822;", "E"),
    ("a blank in the type", "rfc 822;b@example.com", "E"),
    ("V1 a command in the type", "rfc822\r\nRSET;b@example.com", "E"),
    ("V16 501 octets", "rfc822;" + "x" * 494, "E"),
    *wrong_types("V17 None"),
]
MAIL_AUTH: list[tuple[str, Any, str]] = [
    ("V1 CRLF", "a\r\nRSET@example.com", "E"),
    ("V2 CR", "a\r@example.com", "E"),
    ("V3 LF", "a\n@example.com", "E"),
    ("V4 NUL", "a\0@example.com", "E"),
    ("V9", "a\ud800@example.com", "E"),
    ("V10 U+760D", "a\u760d@example.com", "E"),
    ("V10 U+010A", "a\u010a@example.com", "E"),
    ("V11", "\u00e9@example.com", "E"),
    ("V14 empty", "", "E"),
    ("V15 blank", " ", "E"),
    ("no domain", "a@", "E"),
    ("V16", "x" * 500 + "@example.com", "E"),
    *wrong_types("V17 None"),
]
NUMBERS: list[tuple[str, Any, str]] = [
    *((name, value, "E") for name, value in NUMBER_TRAPS.items() if "5,000" in name),
    ("V16 10**10", 10**10, "E"),
    *((name, value, "T") for name, value in NO_NUMBERS.items()),
    ("V20 float", 5.0, "T"),
]
KEYWORD = [*texts(lambda inside: f"X{inside}Y"), ("V13 a hyphen in front", "-X", "E"), ("modelled", "SIZE", "E"),
           ("modelled, in another case", "Body", "E"), ("an equals sign", "X=1", "E"), *wrong_types()]  # fmt: skip
VALUE = [*texts(lambda inside: f"1{inside}2", V12="-"), ("an equals sign", "a=b", "E"), *wrong_types("V17 None")]


def _as_keyword(value: Any) -> Any:
    """A mapping with this key; with another one of a wrong type where it cannot be a key."""
    return {(value if value.__hash__ else ()): "1"}


NOW = datetime.datetime(2030, 1, 1, tzinfo=datetime.timezone.utc)
PARAMETERS: dict[str, tuple[Callable[[Any], object], list[tuple[str, Any, str]], str]] = {
    "MailParams(body)": (lambda v: MailParams(body=v), ENUMERATED, "body"),
    "MailParams(ret)": (lambda v: MailParams(ret=v), ENUMERATED, r"\bret\b"),
    "MailParams(envid)": (lambda v: MailParams(envid=v), ENVID, "envid"),
    "MailParams(auth)": (lambda v: MailParams(auth=v), MAIL_AUTH, "auth"),
    "MailParams(smtputf8)": (lambda v: MailParams(smtputf8=v), FLAGS[1:], "smtputf8"),
    "MailParams(requiretls)": (lambda v: MailParams(requiretls=v), FLAGS, "requiretls"),
    "MailParams(hold_for)": (lambda v: MailParams(hold_for=v), [*NUMBERS, ("V20 zero", 0, "E")], "hold_for"),
    "MailParams(mt_priority)": (lambda v: MailParams(mt_priority=v), [*NUMBERS, ("V20 ten", 10, "E")], "mt_priority"),
    "MailParams(hold_until)": (lambda v: MailParams(hold_until=v), [
        ("naive", datetime.datetime(2030, 1, 1), "E"),  # noqa: DTZ001  # what is refused
        ("V16 beyond UTC", datetime.datetime.max.replace(tzinfo=datetime.timezone(-datetime.timedelta(hours=1))), "E"),
        ("V17 a date", datetime.date(2030, 1, 1), "T"), *wrong_types("V17 None"),
    ], "hold_until"),
    "MailParams(hold_for, hold_until)": (
        lambda v: MailParams(hold_for=5, hold_until=v), [("both", NOW, "E")], "hold_for and hold_until",
    ),
    "MailParams(deliver_by)": (lambda v: MailParams(deliver_by=v), list(wrong_types("V17 None")), "deliver_by"),
    "DeliverBy(seconds)": (lambda v: DeliverBy(v, "R"), [*NUMBERS, ("V20 zero", 0, "E")], "seconds"),
    "DeliverBy(mode)": (lambda v: DeliverBy(5, v), [*texts(lambda inside: f"R{inside}"), *wrong_types()], "mode"),
    "DeliverBy(trace)": (lambda v: DeliverBy(5, "R", v), FLAGS, "trace"),
    "MailParams(extra) keyword": (lambda v: MailParams(extra=_as_keyword(v)), KEYWORD, "extra"),
    "MailParams(extra) value": (lambda v: MailParams(extra={"X": v}), VALUE, "extra"),
    "MailParams(extra)": (lambda v: MailParams(extra=v), list(wrong_types()), "extra"),
    "MailParams(extra) twice": (lambda v: MailParams(extra=v), [("case", {"X": "1", "x": "2"}, "E")], "extra"),
    "RcptParams(notify)": (lambda v: RcptParams(notify=v), [
        *texts(lambda inside: f"FAIL{inside}URE"), ("V14 none", [], "E"), ("never and more", ["NEVER", "FAILURE"], "E"),
        ("NEVER twice, and more", [Notify.NEVER, Notify.NEVER, Notify.DELAY], "E"), ("V17 a list of int", [5], "T"),
        *wrong_types("V17 None", "V17 list"),
    ], "notify"),
    "RcptParams(orcpt)": (lambda v: RcptParams(orcpt=v), ORCPT, "orcpt"),
    "RcptParams(extra) keyword": (lambda v: RcptParams(extra=_as_keyword(v)), KEYWORD, "extra"),
    "RcptParams(extra) value": (lambda v: RcptParams(extra={"X": v}), VALUE, "extra"),
    "Mail(chunking)": (lambda v: Mail(SENDER, [ONE], BODY, chunking=v), FLAGS, "chunking"),
    "Mail.from_message": (Mail.from_message, list(wrong_types()), "email_message"),
}  # fmt: skip
IN10 = [row for door, (_, values, named) in PARAMETERS.items() for row in rows([door], values, named)]


@pytest.mark.parametrize("listed", by_door(IN10))
def test_IN10_IN11_IN12_IN13_a_hostile_parameter_is_no_value(listed: list[Row]) -> None:
    """faults:AK1, AK2, V1-V20: what cannot be made can be sent by nobody."""
    for row in listed:
        refusal_of(row, lambda: PARAMETERS[row.door][0](row.value))  # noqa: B023  # called at once


@pytest.mark.parametrize("verb", ["MAIL", "RCPT"])
def test_IN13_LM5_a_line_that_is_too_long_is_refused_before_it_is_written(verb: str) -> None:
    value = "x" * 4_096
    changed: dict[str, Any] = {"params": MailParams(extra={"X": value})}
    if verb == "RCPT":
        changed = {"recipients": [Recipient(ONE, RcptParams(extra={"X": value}))]}
    row = Row("connection.send", "V16", value, "E", f"{verb} line")
    judge([row], lambda subject, _: call_send(subject, "connection.send", **changed), verdicts=True)


# --- IN16: inquiries --------------------------------------------------------------------------------------------------

INQUIRIES = [f"{owner}.{verb}" for owner in OWNERS for verb in ("vrfy", "expn", "help")]
INQUIRY: list[tuple[str, Any, str]] = [
    *texts(lambda inside: f"po{inside}st", V11="X", V12="-", V13="-"),
    ("V16 518 octets", "x" * 518, "E"),
    ("V16 100,000 octets", "x" * 100_000, "E"),
]
IN16 = [
    *rows(INQUIRIES, INQUIRY, "VRFY|EXPN|HELP|SMTPUTF8"),
    *rows([door for door in INQUIRIES if "help" not in door], list(wrong_types()), "VRFY|EXPN"),
    *rows([door for door in INQUIRIES if "help" in door], list(wrong_types("V17 None")), "HELP"),
]


@pytest.mark.parametrize("listed", by_door(IN16))
def test_IN16_a_hostile_inquiry(listed: list[Row]) -> None:
    """faults:AK1, V1-V17."""
    judge(listed, lambda subject, row: of(subject, row.door)(row.value, timeout=5))


# --- before anybody waits ---------------------------------------------------------------------------------------------

JUDGED_EARLY: dict[str, tuple[list[Row], Callable[[Subject, Row], object]]] = {
    "sender": (IN6, lambda subject, row: call_send(subject, row.door, sender=row.value, recipients=[ONE])),
    "recipients": (IN7, lambda subject, row: call_send(subject, row.door, recipients=row.value)),
    "size": (IN9, lambda subject, row: call_send(subject, row.door, size=row.value)),
    "message": (IN17, lambda subject, row: call_send(subject, row.door, message=row.value)),
    "newlines": (IN19, lambda subject, row: call_send(subject, row.door, newlines=row.value)),
    "inquiry": (IN16, lambda subject, row: of(subject, row.door)(row.value, timeout=5)),
}


@pytest.mark.parametrize("name", JUDGED_EARLY)
@pytest.mark.parametrize("protocol", ["smtp", "lmtp"])
def test_arguments_are_judged_before_the_lock(name: str, protocol: str) -> None:
    """faults:NN23: while this thread is in the middle of a mail, all that the lock would tell it is `UsageError`."""
    listed, call = JUDGED_EARLY[name]
    subject = Subject(protocol)
    judged = 0

    def body() -> Iterator[bytes]:
        nonlocal judged
        for row in listed:
            if row.door.startswith("connection.") and row.code != "X" and protocol_of(row.door) in (protocol, "smtp"):
                judged += 1
                refusal_of(row, lambda: call(subject, row))  # noqa: B023  # called at once
        yield BODY

    result = subject.connection.send(SENDER, [ONE], body(), timeout=5, size=len(BODY))
    assert judged >= (14 if name in ("size", "message") else 30)
    assert result.all_delivered
    assert subject.lines.told == MAIL
    subject.connection.close()


@pytest.mark.parametrize("name", JUDGED_EARLY)
def test_arguments_are_judged_before_a_connection_of_a_pool_is_waited_for(name: str) -> None:
    """faults:NN4: its only connection is leased, so that whoever acquires first meets `PoolTimeoutError`."""
    listed, call = JUDGED_EARLY[name]
    subject = Subject("smtp")
    subject._pool = pool_over(subject.lines, max_size=1, acquire_timeout=0.01)
    with subject.pool.connection(timeout=30) as lease:
        mine = [row for row in listed if row.door.startswith("pool.") and row.code != "X"]
        for row in mine:
            refusal_of(row, lambda: call(subject, row))  # noqa: B023  # called at once
        assert subject.pool.stats().acquired == 1
        assert lease.send(SENDER, [ONE], BODY).all_delivered
    assert len(mine) >= 14
    assert subject.lines.told == MAIL
    subject.pool.close()


# --- V18, V19: values that change or lie ------------------------------------------------------------------------------


@pytest.mark.parametrize("door", [door for door in [*SENDS, *LMTP_SENDS] if "bdat" not in door])
def test_V18_a_str_that_lies_is_taken_for_what_it_is_made_of(door: str) -> None:
    """faults:IN6, IN7, IN19: one exact copy is taken on entry, and it is what is checked and sent."""
    subject = Subject(protocol_of(door))
    call_send(subject, door, sender=Lying(SENDER), recipients=[Lying(ONE)], newlines=Lying("strict"))
    assert subject.lines.told == MAIL
    subject.close_all()


@pytest.mark.parametrize("argument", ["sender", "recipients"])
def test_V18_a_lie_hides_no_control_octet(argument: str) -> None:
    lie = Lying("a\r\nRSET@example.com")
    given: dict[str, Any] = {argument: lie if argument == "sender" else [lie]}
    row = Row("connection.send", "V18", lie, "E", "sender|recipient")
    judge([row], lambda subject, _: call_send(subject, "connection.send", **given))


def test_V18_a_lying_inquiry_is_sent_as_what_it_is_made_of() -> None:
    lines = Lines()
    connection = connection_over(lines)
    connection.vrfy(Lying("bob"), timeout=5)
    assert lines.told == b"VRFY bob\r\n"
    connection.close()


def test_V19_octets_that_change_after_the_call_began_are_not_what_is_sent() -> None:
    """faults:IN17: a bytearray is copied once; what was checked is what leaves."""
    lines = Lines()
    connection = connection_over(lines)
    body = bytearray(BODY)

    class Sink:
        def on_event(self, event: object) -> None:
            body[:] = b"\n.\nRCPT TO:<evil@x>\n"

    connection._opening = connection._opening.__class__(tls_mode=connection._opening.tls_mode, audit=Sink())
    assert connection.send(SENDER, [ONE], body, timeout=5).all_delivered
    assert lines.told == MAIL
    assert body != BODY
    connection.close()


@pytest.mark.parametrize("spent", [io.BytesIO, lambda: iter(())], ids=["a file", "an iterator"])
def test_V19_an_exhausted_source_fails_as_BR19_and_is_no_empty_message(spent: Callable[[], Any]) -> None:
    lines = Lines()
    connection = connection_over(lines)
    with pytest.raises(InvalidInputError, match="no octet") as caught:
        connection.send(SENDER, [ONE], spent(), timeout=5)
    assert (caught.value.delivery, caught.value.retry_safe) == (Delivery.NOT_DELIVERED, True)
    assert lines.told == MAIL.replace(b" SIZE=21", b"").partition(BODY)[0]
    assert not connection.usable


@pytest.mark.parametrize(
    ("message", "size"),
    [([], None), (io.BytesIO(), 0), (iter(()), 0)],
    ids=["a list", "a file said to be empty", "an iterator said to be empty"],
)
def test_IN17_V14_what_is_empty_on_purpose_is_an_empty_message(message: Any, size: int | None) -> None:
    lines = Lines()
    connection = connection_over(lines)
    assert connection.send(SENDER, [ONE], message, size=size, timeout=5).all_delivered
    assert lines.told == MAIL.replace(b" SIZE=21", b"" if size is None else b" SIZE=0").replace(BODY, b"\r\n")
    connection.close()


# --- what a mail of a batch is ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("owner", OWNERS)
@pytest.mark.parametrize("mails", [None, 5, "abc", b"abc", object(), Mail(SENDER, [ONE], BODY)], ids=repr)
def test_IN24_what_is_no_iterable_of_mails(owner: str, mails: Any) -> None:
    subject = Subject("smtp")
    row = Row(f"{owner}.send_many", "V17", mails, "T", "Mail")
    refusal_of(row, lambda: of(subject, row.door)(mails, timeout=5))
    subject.is_untouched("T")
    subject.serves()


@pytest.mark.parametrize("owner", OWNERS)
@pytest.mark.parametrize("item", [None, 5, "abc", (SENDER, [ONE], BODY)], ids=repr)
def test_IN24_a_batch_of_what_is_no_mail(owner: str, item: Any) -> None:
    """The mail in front of it is sent."""
    subject = Subject("smtp")
    outcomes = of(subject, f"{owner}.send_many")([Mail(SENDER, [ONE], BODY), item], timeout=5)
    assert next(outcomes).delivery is Delivery.DELIVERED
    refusal_of(Row(owner, "V17", item, "T", "Mail"), lambda: next(outcomes))
    assert subject.lines.told == MAIL
    outcomes.close()
    subject.close_all()


def test_the_table_is_as_large_as_it_is_said_to_be() -> None:
    """faults:G-C-2."""
    assert sum(map(len, (IN6, IN7, IN9, IN10, IN16, IN17, IN19))) >= 2_000
