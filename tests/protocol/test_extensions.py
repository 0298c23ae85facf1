"""EHLO replies to `ServerCapabilities`."""

from __future__ import annotations

import copy
import dataclasses
import datetime
import pickle

import pytest

from smtpconn.protocol.errors import ExtensionUnavailableError
from smtpconn.protocol.extensions import NO_CAPABILITIES, ServerCapabilities
from smtpconn.protocol.reply import Reply


def offered(*lines: str, first: str = "mx.example.com Hello") -> ServerCapabilities:
    """The capabilities of a 250 reply with these lines after the first."""
    every = [first, *lines]
    text = [f"250{' ' if index == len(every) - 1 else '-'}{line}\r\n" for index, line in enumerate(every)]
    return ServerCapabilities.parse(Reply(250, "".join(text).encode("utf-8")))


FLAGS = {
    "8BITMIME": "supports_8bitmime",
    "AUTH": "supports_auth_extension",
    "BINARYMIME": "supports_binarymime",
    "CHUNKING": "supports_chunking",
    "DSN": "supports_dsn",
    "ENHANCEDSTATUSCODES": "supports_enhanced_status",
    "PIPELINING": "supports_pipelining",
    "REQUIRETLS": "supports_requiretls",
    "SIZE": "supports_size",
    "SMTPUTF8": "supports_smtputf8",
    "STARTTLS": "supports_starttls",
}
OTHERS = ["DELIVERBY", "FUTURERELEASE", "MT-PRIORITY", "VRFY", "EXPN", "HELP", "NO-SOLICITING", "LIMITS", "XFOO"]


@pytest.mark.parametrize("keyword", FLAGS)
@pytest.mark.parametrize("line", ["{0}", "{1}", "{0} x", "{0}  x y", "{0} "])
def test_a_keyword_is_the_first_word_in_any_case_e117_f32(keyword: str, line: str) -> None:
    capabilities = offered(line.format(keyword, keyword.lower()))
    assert [name for name in FLAGS.values() if getattr(capabilities, name)] == [FLAGS[keyword]]
    assert capabilities.supports(keyword)
    assert capabilities.supports(keyword.lower())


@pytest.mark.parametrize("keyword", FLAGS)
@pytest.mark.parametrize("line", ["{}PLUS", "{}X", "X{}", "x {}", "{}:1", " x {}", "-{}"])
def test_a_keyword_is_a_whole_word_e18_f32(keyword: str, line: str) -> None:
    capabilities = offered(line.format(keyword))
    assert not any(getattr(capabilities, name) for name in FLAGS.values())
    assert not capabilities.supports(keyword)


@pytest.mark.parametrize("keyword", OTHERS)
def test_other_keywords_are_kept_f31(keyword: str) -> None:
    capabilities = offered(keyword.lower() + " One two")
    assert capabilities.extensions == {keyword: ("One", "two")}
    assert capabilities.supports(keyword)
    capabilities.require(keyword)


def test_the_lines_are_kept_as_they_were_written_f29() -> None:
    capabilities = offered("pipelining", "", "Size 10", "xü  y", "A\x07B")
    assert capabilities.lines == ("pipelining", "", "Size 10", "xü  y", "A\\x07B")
    assert capabilities.greeting_name == "mx.example.com"
    assert capabilities.is_esmtp


@pytest.mark.parametrize(("first", "name"), [("mx Hello", "mx"), ("mx", "mx"), ("", ""), (" mx", "mx")])
def test_the_first_word_is_the_servers_name_f7(first: str, name: str) -> None:
    assert offered("SIZE", first=first).greeting_name == name


def test_a_reply_of_bare_codes_has_no_name_and_no_extension() -> None:
    capabilities = ServerCapabilities.parse(Reply(250, b"250\r\n"))
    assert (capabilities.greeting_name, capabilities.lines, dict(capabilities.extensions)) == ("", (), {})


def test_an_empty_last_line_is_kept_e15() -> None:
    assert offered("PIPELINING", "").lines[-1] == ""


@pytest.mark.parametrize(
    ("lines", "mechanisms"),
    [
        pytest.param(["AUTH PLAIN", "AUTH LOGIN"], {"PLAIN", "LOGIN"}, id="E16 two lines"),
        pytest.param(["auth login"], {"LOGIN"}, id="E17 lower case"),
        pytest.param(["AUTH=PLAIN LOGIN"], {"PLAIN", "LOGIN"}, id="E116 old form"),
        pytest.param(["AUTH=PLAIN LOGIN", "AUTH SCRAM-SHA-256"], {"PLAIN", "LOGIN", "SCRAM-SHA-256"}, id="F33 united"),
        pytest.param(["Auth="], set(), id="old form without a mechanism"),
        pytest.param(["AUTH"], set(), id="no mechanism"),
        pytest.param(["AUTH LOG\u0131N"], set(), id="AK4 a dotless i is no I"),
        pytest.param(["AUTH PLAIN PLAIN plain"], {"PLAIN"}, id="repeated"),
        pytest.param(["AUTH " + "X" * 21], set(), id="too long for a mechanism"),
    ],
)
def test_all_auth_lines_are_united_f33_c35(lines: list[str], mechanisms: set[str]) -> None:
    capabilities = offered(*lines)
    assert capabilities.auth_mechanisms == mechanisms
    assert capabilities.supports_auth_extension
    assert set(capabilities.extensions["AUTH"]) == mechanisms
    for mechanism in mechanisms:
        assert capabilities.supports_auth(mechanism)
        assert capabilities.supports_auth(mechanism.lower())
    assert not capabilities.supports_auth("XOAUTH2")


def test_any_case_is_a_matter_of_ascii_f30_ak4() -> None:
    capabilities = offered("AUTH SCRAM-SHA-256", "SIZE 5", "HELP")
    assert not capabilities.supports_auth("\u017fCRAM-SHA-256")
    assert not capabilities.supports("\u017fIZE")
    assert not capabilities.supports("")
    assert capabilities.supports("help")


def test_without_auth_there_is_no_mechanism() -> None:
    assert offered("SIZE").auth_mechanisms == frozenset()
    assert not offered("SIZE").supports_auth_extension


@pytest.mark.parametrize(
    ("lines", "limit"),
    [
        (["SIZE"], None),
        (["SIZE 0"], None),
        (["SIZE 1000"], 1000),
        (["SIZE abc"], None),
        (["SIZE 12_3"], None),
        (["SIZE -1"], None),
        (["SIZE \u0661\u0662"], None),
        (["SIZE " + "9" * 20], 10**20 - 1),
        (["SIZE " + "1" * 21], None),
        (["SIZE 10", "SIZE 20"], 10),
        (["SIZE 10 20"], 10),
    ],
)
def test_the_size_limit_e118_e120_f30(lines: list[str], limit: int | None) -> None:
    capabilities = offered(*lines)
    assert capabilities.supports_size
    assert capabilities.size_limit == limit


def test_only_256_lines_are_kept_e121_lm3() -> None:
    capabilities = offered(*[f"X{index}" for index in range(300)])
    assert len(capabilities.lines) == 256
    assert capabilities.lines[-1] == "X255"
    assert capabilities.supports("X255")
    assert not capabilities.supports("X256")


def test_helo_gives_a_name_and_nothing_else_e122() -> None:
    capabilities = ServerCapabilities.helo(Reply(250, b"250-mx.example.com\r\n250 SIZE 10\r\n"))
    assert (capabilities.greeting_name, capabilities.lines, capabilities.is_esmtp) == ("mx.example.com", (), False)
    assert capabilities.extensions == {}


@pytest.mark.parametrize(
    ("line", "limits"),
    [
        ("LIMITS MAILMAX=20 RCPTMAX=x", {"MAILMAX": 20}),
        ("LIMITS MAILMAX=1 RCPTMAX=999999 RCPTDOMAINMAX=3", {"MAILMAX": 1, "RCPTMAX": 999999, "RCPTDOMAINMAX": 3}),
        ("limits mailmax=5", {"MAILMAX": 5}),
        ("LIMITS MAILMAX=0 RCPTMAX=1000000 RCPTDOMAINMAX=", {}),
        ("LIMITS MAILMAX=1 MAILMAX=2", {"MAILMAX": 1}),
        ("LIMITS XMAX=1 MAILMAX=\u0661", {}),
        ("LIMITS", {}),
        ("SIZE", {}),
    ],
)
def test_limits_as_far_as_they_are_well_formed_e123_li1(line: str, limits: dict[str, int]) -> None:
    assert offered(line).limits == limits


def test_lines_that_are_no_keyword_harm_nothing_e124_f34() -> None:
    capabilities = offered("XVERP=Courier", "!x", "Ok SESSIONID=<x>")
    assert capabilities.lines == ("XVERP=Courier", "!x", "Ok SESSIONID=<x>")
    assert capabilities.extensions == {}


UTC = datetime.timezone.utc


@pytest.mark.parametrize(
    ("line", "seconds", "latest"),
    [
        ("FUTURERELEASE 3600 2030-01-02T03:04:05Z", 3600, datetime.datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)),
        ("FUTURERELEASE 3600 2030-01-02t03:04:05.25z", 3600, datetime.datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)),
        ("FUTURERELEASE 3600", 3600, None),
        ("FUTURERELEASE", None, None),
        ("FUTURERELEASE x 2030-01-02T03:04:05Z", None, datetime.datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)),
        ("FUTURERELEASE 1000000000 2030-13-02T03:04:05Z", None, None),
        ("FUTURERELEASE 1 2030-01-02T03:04:05+00:00", 1, None),
        ("FUTURERELEASE 1 2030-01-02T03:04:\u0660\u0665Z", 1, None),
    ],
)
def test_the_maxima_of_futurerelease(line: str, seconds: int | None, latest: datetime.datetime | None) -> None:
    capabilities = offered(line)
    assert capabilities.hold_for_maximum == seconds
    assert capabilities.hold_until_maximum == latest


@pytest.mark.parametrize(
    ("line", "least"), [("DELIVERBY 240", 240), ("DELIVERBY", None), ("DELIVERBY x", None), ("DELIVERBY 0", 0)]
)
def test_the_minimum_of_deliverby(line: str, least: int | None) -> None:
    assert offered(line).deliver_by_minimum == least


def test_require_names_what_is_missing_f78() -> None:
    with pytest.raises(ExtensionUnavailableError, match="does not offer SMTPUTF8") as caught:
        offered("SIZE").require("SMTPUTF8")
    assert caught.value.extension == "SMTPUTF8"
    assert caught.value.permanent is True
    assert caught.value.stage == "input"


@pytest.mark.parametrize(
    "capabilities", [NO_CAPABILITIES, offered("SIZE 10", "AUTH PLAIN", "LIMITS MAILMAX=2", "", "ü")], ids=repr
)
def test_a_snapshot_survives_pickle_copy_and_dict_e201_f121(capabilities: ServerCapabilities) -> None:
    for twin in (
        pickle.loads(pickle.dumps(capabilities)),  # noqa: S301  # made here
        copy.copy(capabilities),
        copy.deepcopy(capabilities),
        ServerCapabilities.from_dict(capabilities.to_dict()),
    ):
        assert twin == capabilities
        assert hash(twin) == hash(capabilities)
        assert dict(twin.extensions) == dict(capabilities.extensions)
        assert twin.auth_mechanisms == capabilities.auth_mechanisms
        assert twin.supports_size == capabilities.supports_size


def test_a_snapshot_is_immutable_e119() -> None:
    before, after = offered("SIZE 10"), offered("SIZE 20")
    assert before != after
    assert before == offered("SIZE 10")
    with pytest.raises(dataclasses.FrozenInstanceError):
        before.size_limit = 5  # type: ignore[misc]
    with pytest.raises(TypeError):
        before.extensions["X"] = ()  # type: ignore[index]
    with pytest.raises(TypeError):
        before.limits["MAILMAX"] = 1  # type: ignore[index]


@pytest.mark.parametrize(
    ("capabilities", "shown"),
    [
        (NO_CAPABILITIES, "<ServerCapabilities of nobody: no ESMTP>"),
        (offered("SIZE 10", "DSN"), "<ServerCapabilities of mx.example.com: SIZE DSN>"),
        (offered(), "<ServerCapabilities of mx.example.com: none>"),
    ],
)
def test_repr_tells_who_offers_what(capabilities: ServerCapabilities, shown: str) -> None:
    assert repr(capabilities) == shown
