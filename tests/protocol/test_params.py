"""Parameters of MAIL and RCPT: what is accepted, how it is spelt, what is refused."""

from __future__ import annotations

import copy
import dataclasses
import datetime
import enum
import pickle
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest

from smtpconn.protocol import xtext
from smtpconn.protocol.errors import InvalidInputError
from smtpconn.protocol.params import DeliverBy, ExtraParameters, MailParams, Notify, RcptParams, exact_int

UTC = datetime.timezone.utc
CONTROLS = {
    "V1 CRLF and a command": "\r\nRSET",
    "V2 CR": "\r",
    "V3 LF": "\n",
    "V4 NUL": "\0",
    "V5 TAB": "\t",
    "V5 ESC": "\x1b",
    "V5 VT": "\v",
    "V5 FF": "\f",
    "V6 DEL": "\x7f",
    "V7 U+0085": "\x85",
    "V7 U+009B": "\x9b",
    "V8 U+2028": "\u2028",
    "V8 U+2029": "\u2029",
    "V9 surrogate": "\ud800",
    "V10 U+760D": "\u760d",
    "V10 U+760A": "\u760a",
    "V10 U+010A": "\u010a",
    "V10 U+020D": "\u020d",
}
NO_TEXT = [0, 1.5, True, b"x", bytearray(b"x"), ["x"], object()]


class Text(str):
    """A str subclass that lies (V18)."""

    __slots__ = ()

    def __str__(self) -> str:
        return "\r\nRSET"

    def encode(self, encoding: str = "utf-8", errors: str = "strict") -> bytes:
        return b"\r\nRSET"


def refused(maker: Callable[..., object], **given: object) -> InvalidInputError:
    """The InvalidInputError of the call; its text is safe to show and short."""
    with pytest.raises(InvalidInputError) as caught:
        maker(**given)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 300
    return caught.value


# --- xtext (MP16) ---


@pytest.mark.parametrize(
    ("text", "encoded"),
    [
        ("", ""),
        ("abc", "abc"),
        ("QQ+3 1", "QQ+2B3+201"),
        ("a=b", "a+3Db"),
        ("!~", "!~"),
        ("\x00\x1f\x7f", "+00+1F+7F"),
        ("é", "+C3+A9"),
        ("a\r\nb", "a+0D+0Ab"),
    ],
)
def test_xtext_encodes_and_decodes_mp16(text: str, encoded: str) -> None:
    assert xtext.encode(text) == encoded
    assert xtext.decode(encoded) == text


@pytest.mark.parametrize("text", ["+", "+4", "+2b", "a b", "a=b", "+GG", "é", "\r", "a\n"])
def test_what_is_no_xtext_is_not_decoded(text: str) -> None:
    with pytest.raises(InvalidInputError, match="must be xtext"):
        xtext.decode(text)


def test_xtext_of_octets_that_are_no_utf8_is_not_decoded() -> None:
    with pytest.raises(InvalidInputError, match="envid must be the xtext of UTF-8"):
        xtext.decode("+FF", argument="envid")
    with pytest.raises(TypeError):
        xtext.decode(b"x")  # type: ignore[arg-type]


def test_every_character_survives_xtext() -> None:
    text = "".join(map(chr, range(0x300)))
    encoded = xtext.encode(text)
    assert xtext.decode(encoded) == text
    assert set(encoded) <= {chr(code) for code in range(0x21, 0x7F)} - {"="}


@pytest.mark.parametrize(
    ("text", "encoded"),
    [
        ("ü@x", r"\x{FC}@x"),
        ("a+b=c d", r"a\x{2B}b\x{3D}c\x{20}d"),
        ("\\", r"\x{5C}"),
        ("\U0001f600", r"\x{1F600}"),
        ("!]^~", "!]^~"),
    ],
)
def test_a_utf8_address_is_embedded_as_code_points_rfc6533(text: str, encoded: str) -> None:
    assert xtext.encode_utf8_address(text) == encoded


# --- MailParams ---


@pytest.mark.parametrize(
    ("given", "octets"),
    [
        ({}, b""),
        ({"body": "8BITMIME"}, b""),
        ({"smtputf8": True}, b""),
        ({"ret": "FULL"}, b" RET=FULL"),
        ({"ret": "HDRS"}, b" RET=HDRS"),
        ({"envid": "QQ+3 1"}, b" ENVID=QQ+2B3+201"),
        ({"envid": " "}, b" ENVID=+20"),
        ({"envid": "a> SIZE=1"}, b" ENVID=a>+20SIZE+3D1"),
        ({"auth": "<>"}, b" AUTH=<>"),
        ({"auth": "e+mc2@example.com"}, b" AUTH=e+2Bmc2@example.com"),
        ({"requiretls": True}, b" REQUIRETLS"),
        ({"requiretls": False}, b""),
        ({"hold_for": 1}, b" HOLDFOR=1"),
        ({"hold_for": 999_999_999}, b" HOLDFOR=999999999"),
        ({"deliver_by": DeliverBy(120, "R")}, b" BY=120;R"),
        ({"deliver_by": DeliverBy(-5, "N", trace=True)}, b" BY=-5;NT"),
        ({"mt_priority": -9}, b" MT-PRIORITY=-9"),
        ({"mt_priority": 0}, b" MT-PRIORITY=0"),
        ({"mt_priority": 9}, b" MT-PRIORITY=9"),
        ({"extra": {"XFOO": "1", "XBAR": None}}, b" XFOO=1 XBAR"),
        ({"extra": {"x-y9": "!<>~"}}, b" x-y9=!<>~"),
    ],
    ids=repr,
)
def test_how_a_parameter_is_spelt_mp4_to_mp12_e177_e214_e215(given: dict[str, Any], octets: bytes) -> None:
    assert MailParams(**given).octets == octets


def test_all_of_them_stand_in_the_order_of_the_table_e176() -> None:
    params = MailParams(
        extra={"XFOO": None},
        mt_priority=3,
        deliver_by=DeliverBy(0, "N"),
        hold_for=5,
        requiretls=True,
        auth="<>",
        envid="e",
        ret="HDRS",
    )
    assert params.octets == b" RET=HDRS ENVID=e AUTH=<> REQUIRETLS HOLDFOR=5 BY=0;N MT-PRIORITY=3 XFOO"


@pytest.mark.parametrize("field", ["body", "ret", "envid", "auth"])
@pytest.mark.parametrize("value", NO_TEXT, ids=repr)
def test_a_text_parameter_takes_str_only_v17(field: str, value: object) -> None:
    with pytest.raises(TypeError, match=field):
        MailParams(**{field: value})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("field", "values"),
    [("body", ["7BIT", "8BITMIME", "BINARYMIME"]), ("ret", ["FULL", "HDRS"])],
)
def test_an_enumeration_takes_the_exact_strings_in10_mp2_mp4(field: str, values: list[str]) -> None:
    for value in values:
        assert getattr(MailParams(**{field: value}), field) == value  # type: ignore[arg-type]
        for wrong in (value.lower(), value + " ", " " + value, value + "\r\n", value[:-1], value + "\u760d"):
            assert field in str(refused(MailParams, **{field: wrong}))
    for wrong in ("", " ", "ü", "<", "x" * 1000, *CONTROLS.values()):
        refused(MailParams, **{field: wrong})


def test_a_str_enumeration_of_the_callers_own_is_copied_v18() -> None:
    class Body(str, enum.Enum):
        EIGHT = "8BITMIME"

    params = MailParams(body=Body.EIGHT, envid=Text("abc"), auth=Text("a@b"), extra={Text("XA"): Text("1")})
    assert type(params.body) is str
    assert (params.body, params.envid, params.auth) == ("8BITMIME", "abc", "a@b")
    assert params.octets == b" ENVID=abc AUTH=a@b XA=1"
    assert all(type(word) is str for item in params.extra.items() for word in item)


@pytest.mark.parametrize("field", ["smtputf8", "requiretls"])
@pytest.mark.parametrize("value", [0, 1, "True", "", b"", [], 1.0], ids=repr)
def test_a_switch_takes_bool_only(field: str, value: object) -> None:
    with pytest.raises(TypeError, match=f"{field} must be a bool"):
        MailParams(**{field: value})  # type: ignore[arg-type]


def test_requiretls_is_true_or_false_and_smtputf8_may_be_none() -> None:
    assert MailParams().smtputf8 is None
    assert MailParams(smtputf8=False).smtputf8 is False
    with pytest.raises(TypeError, match="requiretls"):
        MailParams(requiretls=None)  # type: ignore[arg-type]


@pytest.mark.parametrize("value", CONTROLS.values(), ids=CONTROLS)
def test_an_envid_has_no_controls_and_is_ascii_in11_mp5(value: str) -> None:
    for text in (value, f"a{value}b", f"a{value}", f"{value}b"):
        assert "envid" in str(refused(MailParams, envid=text))


@pytest.mark.parametrize(
    ("text", "fits"),
    [("a" * 100, True), ("a" * 101, False), ("+" * 33, True), ("+" * 34, False), ("", False), ("é", False)],
)
def test_an_envid_has_100_octets_of_xtext_e177(text: str, fits: bool) -> None:
    if fits:
        assert MailParams(envid=text).envid == text
    else:
        refused(MailParams, envid=text)


@pytest.mark.parametrize(
    ("text", "octets"),
    [
        ("a\tb@c", b" AUTH=a+09b@c"),
        ("a\x1b@c", b" AUTH=a+1B@c"),
        ("a@c\x7f", b" AUTH=a@c+7F"),
        ("a@b> SIZE=1", b" AUTH=a@b>+20SIZE+3D1"),
        ('"a b"@c', b' AUTH="a+20b"@c'),
        ("a@" + "b" * 498, b" AUTH=a@" + b"b" * 498),
    ],
)
def test_xtext_carries_what_stands_in_auth_in12(text: str, octets: bytes) -> None:
    assert MailParams(auth=text).octets == octets


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "a",
        "@",
        "a@",
        "@b",
        "a@\u00e9",
        "\u00e9@b",
        "<a",
        "a@" + "b" * 499,
        "a\r@b",
        "a\n@b",
        "a\0@b",
        "a\x85@b",
        "a\u2028@b",
        "a\u760d@b",
        "a\ud800@b",
    ],
)
def test_auth_is_a_mailbox_in_ascii_in12_mp6_e214(text: str) -> None:
    assert "auth" in str(refused(MailParams, auth=text))


@pytest.mark.parametrize(
    ("field", "refused_values", "accepted"),
    [
        ("hold_for", [0, -1, 1_000_000_000, 10**400], [1, 999_999_999]),
        ("mt_priority", [-10, 10, 10**30], [-9, 0, 9]),
    ],
)
def test_numbers_have_bounds_e210_e212_v20(field: str, refused_values: list[int], accepted: list[int]) -> None:
    for value in refused_values:
        assert field in str(refused(MailParams, **{field: value}))
    for value in accepted:
        assert getattr(MailParams(**{field: value}), field) == value  # type: ignore[arg-type]
    for wrong in (True, False, "1", 1.0, float("nan"), float("inf"), b"1", [1]):
        with pytest.raises(TypeError, match=field):
            MailParams(**{field: wrong})  # type: ignore[arg-type]


def test_an_int_subclass_is_copied_v18() -> None:
    class Priority(enum.IntEnum):
        HIGH = 4

    params = MailParams(mt_priority=Priority.HIGH)
    assert type(params.mt_priority) is int
    assert params.octets == b" MT-PRIORITY=4"
    assert exact_int("n", 5) == 5


@pytest.mark.parametrize(
    ("instant", "octets"),
    [
        ("2026-01-01T00:00:00+02:00", b" HOLDUNTIL=2025-12-31T22:00:00Z"),
        ("2026-01-01T00:00:00.999999+00:00", b" HOLDUNTIL=2026-01-01T00:00:00Z"),
        ("0900-01-01T00:00:00+00:00", b" HOLDUNTIL=0900-01-01T00:00:00Z"),
    ],
)
def test_hold_until_is_sent_in_utc_and_whole_seconds_e211_mp9(instant: str, octets: bytes) -> None:
    params = MailParams(hold_until=datetime.datetime.fromisoformat(instant))
    assert params.octets == octets
    assert params.hold_until is not None
    assert (params.hold_until.tzinfo, params.hold_until.microsecond) == (UTC, 0)


def test_hold_until_is_an_aware_datetime_e211() -> None:
    naive = datetime.datetime(2026, 1, 1)  # noqa: DTZ001  # a naive one is what is refused
    assert "tzinfo" in str(refused(MailParams, hold_until=naive))
    for wrong in ("2026-01-01T00:00:00Z", 0, datetime.date(2026, 1, 1), True):
        with pytest.raises(TypeError, match="hold_until must be a datetime"):
            MailParams(hold_until=wrong)  # type: ignore[arg-type]


def test_hold_until_outside_the_years_of_utc_is_refused() -> None:
    east = datetime.timezone(datetime.timedelta(hours=5))
    assert "hold_until" in str(refused(MailParams, hold_until=datetime.datetime.min.replace(tzinfo=east)))


def test_a_datetime_subclass_is_copied_v18() -> None:
    class Instant(datetime.datetime):
        def isoformat(self, *_: Any, **__: Any) -> str:
            return "\r\nRSET"

    params = MailParams(hold_until=Instant(2026, 1, 1, tzinfo=UTC))
    assert type(params.hold_until) is datetime.datetime
    assert params.octets == b" HOLDUNTIL=2026-01-01T00:00:00Z"


def test_hold_for_and_hold_until_exclude_each_other_e210() -> None:
    refused(MailParams, hold_for=1, hold_until=datetime.datetime(2026, 1, 1, tzinfo=UTC))


@pytest.mark.parametrize(
    ("seconds", "mode", "fits"),
    [
        (0, "R", False),
        (0, "N", True),
        (-1, "N", True),
        (-1, "R", False),
        (1, "R", True),
        (1_000_000_000, "N", False),
        (-1_000_000_000, "N", False),
        (999_999_999, "R", True),
        (-999_999_999, "N", True),
        (1, "r", False),
        (1, "", False),
        (1, "RT", False),
        (1, "R\r\n", False),
    ],
)
def test_deliver_by_e84_f79_mp10(seconds: int, mode: str, fits: bool) -> None:
    if fits:
        value = DeliverBy(seconds, mode)
        assert (value.seconds, value.mode, value.trace) == (seconds, mode, False)
    else:
        refused(DeliverBy, seconds=seconds, mode=mode)


def test_deliver_by_takes_its_types_only_v17() -> None:
    for seconds, mode, trace in (
        (True, "R", False),
        ("1", "R", False),
        (1.5, "R", False),
        (1, 1, False),
        (1, None, False),
        (1, "R", 1),
    ):
        with pytest.raises(TypeError):
            DeliverBy(seconds, mode, trace)  # type: ignore[arg-type]
    for wrong in ("120;R", 120, (120, "R")):
        with pytest.raises(TypeError, match="deliver_by must be a DeliverBy"):
            MailParams(deliver_by=wrong)  # type: ignore[arg-type]


# --- extra (MP12, MP15) ---

MODELLED = [
    "SIZE",
    "BODY",
    "SMTPUTF8",
    "RET",
    "ENVID",
    "AUTH",
    "REQUIRETLS",
    "HOLDFOR",
    "HOLDUNTIL",
    "BY",
    "MT-PRIORITY",
]


@pytest.mark.parametrize("maker", [MailParams, RcptParams])
@pytest.mark.parametrize("keyword", MODELLED)
def test_extra_has_nothing_that_is_modelled_mp12_e215(maker: Callable[..., object], keyword: str) -> None:
    for spelt in (keyword, keyword.lower()):
        for value in ("1", None):
            assert "extra" in str(refused(maker, extra={spelt: value}))


@pytest.mark.parametrize("keyword", ["NOTIFY", "ORCPT", "orcpt"])
def test_extra_of_rcpt_has_nothing_that_is_modelled_mp15(keyword: str) -> None:
    refused(RcptParams, extra={keyword: "x"})


@pytest.mark.parametrize("maker", [MailParams, RcptParams])
@pytest.mark.parametrize("word", ["X Y", "X_Y", "X=1", "", " ", "-X", "Ü", "X>", "X.", "Xé", *CONTROLS.values()])
def test_a_keyword_of_extra_is_letters_digits_and_hyphens_in13(maker: Callable[..., object], word: str) -> None:
    refused(maker, extra={word: "1"})
    refused(maker, extra={"XFOO": None, word: None})


@pytest.mark.parametrize("maker", [MailParams, RcptParams])
@pytest.mark.parametrize("value", ["", " ", "a b", "a=b", "=", "é", "a SIZE=1", *CONTROLS.values()])
def test_a_value_of_extra_is_printable_ascii_in13(maker: Callable[..., object], value: str) -> None:
    for text in (value, "a" + value if value else ""):
        assert "extra['XFOO']" in str(refused(maker, extra={"XFOO": text}))


@pytest.mark.parametrize("maker", [MailParams, RcptParams])
def test_extra_takes_a_mapping_of_str_v17(maker: Callable[..., object]) -> None:
    for wrong in ("XFOO", b"X", 1, ["XFOO"], [("XFOO", "1")], True):
        with pytest.raises(TypeError, match="extra must be a mapping"):
            maker(extra=wrong)
    for keyword, value in ((b"X", "1"), (1, "1"), (None, "1"), ("X", 1), ("X", b"1"), ("X", True)):
        with pytest.raises(TypeError, match="must be a str"):
            maker(extra={keyword: value})


def test_extra_has_no_keyword_twice() -> None:
    assert "twice" in str(refused(MailParams, extra={"XFOO": "1", "xfoo": "2"}))


def test_extra_is_read_once_and_kept_v19() -> None:
    given: dict[str, str | None] = {"XFOO": "1"}
    params = MailParams(extra=given)
    given["SIZE"] = "9"
    assert dict(params.extra) == {"XFOO": "1"}
    assert params.octets == b" XFOO=1"


def test_extra_is_a_mapping_to_read_and_to_hash() -> None:
    extra = MailParams(extra={"XA": "1", "XB": None}).extra
    assert isinstance(extra, ExtraParameters)
    assert (extra["XA"], extra["XB"], len(extra), list(extra)) == ("1", None, 2, ["XA", "XB"])
    assert extra == {"XA": "1", "XB": None}
    assert repr(extra) == "{'XA': '1', 'XB': None}"
    turned = MailParams(extra={"XB": None, "XA": "1"}).extra
    assert hash(turned) == hash(extra)
    with pytest.raises(TypeError):
        extra["XA"] = "2"  # type: ignore[index]


def test_a_mapping_that_is_no_dict_will_do() -> None:
    class Single(Mapping[str, str]):
        def __getitem__(self, key: str) -> str:
            return "1"

        def __iter__(self) -> Iterator[str]:
            return iter(["XFOO"])

        def __len__(self) -> int:
            return 0

    assert MailParams(extra=Single()).octets == b" XFOO=1"


# --- RcptParams ---


@pytest.mark.parametrize(
    ("notify", "octets"),
    [
        (None, b""),
        ("FAILURE", b" NOTIFY=FAILURE"),
        (Notify.NEVER, b" NOTIFY=NEVER"),
        (["DELAY", "SUCCESS", "DELAY"], b" NOTIFY=SUCCESS,DELAY"),
        pytest.param({Notify.DELAY, "FAILURE", Notify.SUCCESS}, b" NOTIFY=SUCCESS,FAILURE,DELAY", id="a set"),
        (iter([Notify.NEVER]), b" NOTIFY=NEVER"),
        (("NEVER", Notify.NEVER), b" NOTIFY=NEVER"),
        ([Text("DELAY")], b" NOTIFY=DELAY"),
    ],
    ids=repr,
)
def test_notify_is_sent_once_each_and_in_order_mp13_e208(notify: Any, octets: bytes) -> None:
    assert RcptParams(notify=notify).octets == octets


@pytest.mark.parametrize(
    "notify",
    [
        ["NEVER", "SUCCESS"],
        [],
        (),
        "",
        ["success"],
        "never",
        "SUCCESS,FAILURE",
        [""],
        ["FAILURE "],
        ["NEVER\r\n"],
        *CONTROLS.values(),
    ],
    ids=repr,
)
def test_notify_that_is_refused_mp13_e208_in10(notify: Any) -> None:
    assert "notify" in str(refused(RcptParams, notify=notify))


@pytest.mark.parametrize(
    "notify",
    [1, True, b"NEVER", bytearray(b"x"), memoryview(b"x"), [b"NEVER"], [1], [None], [["NEVER"]], object()],
    ids=repr,
)
def test_notify_takes_its_types_only_v17(notify: Any) -> None:
    with pytest.raises(TypeError, match="notify"):
        RcptParams(notify=notify)


@pytest.mark.parametrize(
    ("orcpt", "octets"),
    [
        ("rfc822;a+b@c", b" ORCPT=rfc822;a+2Bb@c"),
        ("rfc822;a b", b" ORCPT=rfc822;a+20b"),
        ("rfc822; ", b" ORCPT=rfc822;+20"),
        ("rfc822;a;b> SIZE=1", b" ORCPT=rfc822;a;b>+20SIZE+3D1"),
        ("utf-8;\u00fc@x", b" ORCPT=utf-8;\\x{FC}@x"),
        ("UTF-8;a+b", b" ORCPT=UTF-8;a\\x{2B}b"),
        ("rfc822;" + "a" * 493, b" ORCPT=rfc822;" + b"a" * 493),
    ],
)
def test_orcpt_is_spelt_in_xtext_mp14_e209(orcpt: str, octets: bytes) -> None:
    params = RcptParams(orcpt=orcpt)
    assert (params.octets, params.orcpt) == (octets, orcpt)
    assert params.needs_dsn
    assert params.needs_smtputf8 is orcpt.lower().startswith("utf-8")


@pytest.mark.parametrize(
    "orcpt",
    [
        "a@b",
        "",
        ";",
        ";a",
        "rfc822;",
        "rfc 822;a",
        "rfc822.x@;a",
        "r(c;a",
        "rfc822;\u00fc",
        "\u00fc;a",
        "rfc822;" + "a" * 494,
    ]
    + ["utf-8;" + "\u00fc" * 83]
    + [f"{kind};a{value}b" for kind in ("rfc822", "utf-8") for value in CONTROLS.values()]
    + [f"rfc{value}822;a" for value in CONTROLS.values()],
)
def test_orcpt_that_is_refused_mp14_e209_in11(orcpt: str) -> None:
    assert "orcpt" in str(refused(RcptParams, orcpt=orcpt))


@pytest.mark.parametrize("orcpt", NO_TEXT, ids=repr)
def test_orcpt_takes_str_only_v17(orcpt: Any) -> None:
    with pytest.raises(TypeError, match="orcpt"):
        RcptParams(orcpt=orcpt)


def test_the_order_of_rcpt_is_notify_orcpt_extra_e176() -> None:
    params = RcptParams(extra={"XA": "1"}, orcpt="rfc822;a@b", notify="DELAY")
    assert params.octets == b" NOTIFY=DELAY ORCPT=rfc822;a@b XA=1"


def test_what_the_parameters_of_rcpt_need() -> None:
    assert not RcptParams().needs_dsn
    assert not RcptParams(extra={"XA": None}).needs_dsn
    assert RcptParams(notify="NEVER").needs_dsn
    assert not RcptParams(notify="NEVER").needs_smtputf8


# --- values (F121) ---

VALUES = [
    MailParams(),
    MailParams(
        body="BINARYMIME",
        smtputf8=False,
        ret="FULL",
        envid="x y",
        auth="<>",
        requiretls=True,
        hold_until=datetime.datetime(2026, 1, 1, tzinfo=UTC),
        deliver_by=DeliverBy(-3, "N", trace=True),
        mt_priority=0,
        extra={"XA": "1", "XB": None},
    ),
    MailParams(hold_for=3),
    DeliverBy(1, "R"),
    RcptParams(),
    RcptParams(notify=["FAILURE", "DELAY"], orcpt="utf-8;\u00fc@x", extra={"XC": "2"}),
]


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_parameters_survive_pickle_copy_and_dict_e201_f121(value: MailParams | RcptParams | DeliverBy) -> None:
    twins = [
        pickle.loads(pickle.dumps(value)),  # noqa: S301  # made here
        copy.copy(value),
        copy.deepcopy(value),
        dataclasses.replace(value),
        type(value).from_dict(value.to_dict()),
    ]
    for twin in twins:
        assert twin == value
        assert hash(twin) == hash(value)
        assert str(twin) == str(value)
        assert getattr(twin, "octets", None) == getattr(value, "octets", None)


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_dicts_hold_json_types_only_f121(value: MailParams | RcptParams | DeliverBy) -> None:
    def plain(item: object) -> bool:
        if isinstance(item, dict):
            return all(type(key) is str and plain(each) for key, each in item.items())
        if isinstance(item, list):
            return all(plain(each) for each in item)
        return item is None or type(item) in (str, int, bool)

    assert plain(value.to_dict())


def test_parameters_are_immutable_and_keyword_only() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        MailParams().ret = "FULL"  # type: ignore[misc]
    with pytest.raises(dataclasses.FrozenInstanceError):
        RcptParams().orcpt = "a;b"  # type: ignore[misc]
    with pytest.raises(TypeError):
        MailParams("8BITMIME")  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        RcptParams("NEVER")  # type: ignore[call-arg]
    assert RcptParams(notify="NEVER") != RcptParams()
    assert MailParams(envid="a") != MailParams(envid="b")


def test_repr_of_a_notify_is_its_name() -> None:
    assert repr(Notify.NEVER) == "Notify.NEVER"
    assert [each.value for each in Notify] == ["SUCCESS", "FAILURE", "DELAY", "NEVER"]
