"""Paths, domains, literals and hosts: what is accepted, what is refused, and that nothing is repaired."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from collections.abc import Callable

import pytest

from smtpconn.protocol.address import (
    ForwardPath,
    ReversePath,
    address_literal,
    check_address_literal,
    check_domain,
    check_ehlo_domain,
    check_host,
    check_mailbox,
    exact_text,
    quoted,
)
from smtpconn.protocol.errors import InvalidInputError

HOSTILE = {
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
    "V9 high surrogate": "\ud800",
    "V9 low surrogate": "\udfff",
    "V10 U+760D": "\u760d",
    "V10 U+760A": "\u760a",
    "V10 U+010A": "\u010a",
    "V10 U+020D": "\u020d",
    "V12 <": "<",
    "V12 >": ">",
    "V13 space": " ",
    "V13 ORCPT": "> ORCPT=b@y",
    "V13 SIZE": " SIZE=1",
}
WRONG_TYPES = [None, 0, 1.5, True, ["a@b"], b"a@b", bytearray(b"a@b"), ("a@b",), object()]
MAKERS: dict[str, Callable[[str], ReversePath | ForwardPath]] = {"sender": ReversePath, "recipient": ForwardPath}


class LyingText(str):
    """A str that shows one text to checks and another to whoever encodes it (V18)."""

    __slots__ = ()

    def __str__(self) -> str:
        return "x@y\r\nRSET"

    def __len__(self) -> int:
        return 3

    def encode(self, encoding: str = "utf-8", errors: str = "strict") -> bytes:
        return b"x@y\r\nRSET"


def hostile_cases() -> list[tuple[str, str]]:
    """Each hostile value in front, in the local part, in front of the @, behind it, in the domain, and at the end."""
    places = [
        "{}user@example.com",
        "us{}er@example.com",
        "user{}@example.com",
        "user@{}example.com",
        "user@exa{}mple.com",
    ]
    places += ["user@example.com{}", "user@[192.0.2.1{}]", '"us{}er@example.com']
    return [(name, place.format(value)) for name, value in HOSTILE.items() for place in places]


@pytest.mark.parametrize("argument", MAKERS)
@pytest.mark.parametrize(("name", "text"), hostile_cases())
def test_a_hostile_value_in_a_path_is_refused_and_shown_escaped_in6_in7_ak1_ak2(
    argument: str, name: str, text: str
) -> None:
    with pytest.raises(InvalidInputError) as caught:
        MAKERS[argument](text)
    shown = str(caught.value)
    assert argument in shown
    assert shown.isprintable()
    assert len(shown) < 300
    assert caught.value.stage == "input"
    assert caught.value.permanent is True


@pytest.mark.parametrize("maker", [ReversePath, ForwardPath, check_domain, check_address_literal, check_ehlo_domain])
@pytest.mark.parametrize("value", WRONG_TYPES, ids=repr)
def test_a_wrong_type_is_a_type_error_v17(maker: Callable[[object], object], value: object) -> None:
    with pytest.raises(TypeError, match="must be a str"):
        maker(value)


@pytest.mark.parametrize("maker", [check_host, address_literal])
@pytest.mark.parametrize("value", WRONG_TYPES, ids=repr)
def test_a_host_of_a_wrong_type_is_a_type_error_in1(maker: Callable[[object], object], value: object) -> None:
    with pytest.raises(TypeError):
        maker(value)


@pytest.mark.parametrize("argument", MAKERS)
def test_a_lying_str_subclass_is_copied_once_v18(argument: str) -> None:
    path = MAKERS[argument](LyingText("user@example.com"))
    assert type(path.address) is str
    assert path.octets == b"user@example.com"
    assert path.mailbox == path.address == str(path) == "user@example.com"


def test_exact_text_keeps_an_exact_str_and_copies_a_subclass() -> None:
    text = "x"
    assert exact_text("name", text) is text
    assert type(exact_text("name", LyingText("abc"))) is str
    assert exact_text("name", LyingText("abc")) == "abc"


def test_a_class_that_only_pretends_to_be_a_str_is_a_type_error() -> None:
    class Pretender:
        __class__ = str  # type: ignore[assignment]  # the lie under test

    with pytest.raises(TypeError):
        exact_text("name", Pretender())


@pytest.mark.parametrize(
    ("text", "local_part", "domain"),
    [
        ("user@example.com", "user", "example.com"),
        ("a@b", "a", "b"),
        ("first.last+tag@sub.example.com", "first.last+tag", "sub.example.com"),
        ("!#$%&'*+-/=?^_`{|}~@a-b.example", "!#$%&'*+-/=?^_`{|}~", "a-b.example"),
        ("user@[192.0.2.1]", "user", "[192.0.2.1]"),
        ("user@[IPv6:2001:db8::1]", "user", "[IPv6:2001:db8::1]"),
        ('"a b"@example.com', '"a b"', "example.com"),
        ('"a@b"@example.com', '"a@b"', "example.com"),
        ('"<a>, b"@example.com', '"<a>, b"', "example.com"),
        (r'"a\"b\\c\ d"@example.com', r'"a\"b\\c\ d"', "example.com"),
        ('""@example.com', '""', "example.com"),
        ("user@123", "user", "123"),
    ],
)
@pytest.mark.parametrize("argument", MAKERS)
def test_an_ascii_mailbox_is_taken_as_it_is_f84(argument: str, text: str, local_part: str, domain: str) -> None:
    path = MAKERS[argument](text)
    assert (path.address, path.mailbox, str(path), path.octets) == (text, text, text, text.encode("ascii"))
    assert (path.local_part, path.domain, path.requires_smtputf8) == (local_part, domain, False)


@pytest.mark.parametrize(
    ("text", "local_part", "domain"),
    [
        ("dörte@example.com", "dörte", "example.com"),
        ("user@bücher.example", "user", "bücher.example"),
        ("用户@例え.テスト", "用户", "例え.テスト"),
        ("ชื่อ@example.com", "ชื่อ", "example.com"),
        ("a\u3000b@example.com", "a\u3000b", "example.com"),
        ('"ü ü"@example.com', '"ü ü"', "example.com"),
        ("e\u0301@example.com", "e\u0301", "example.com"),
        ("Å@STRASSE-ß.example", "Å", "STRASSE-ß.example"),
        ("\U0001f600@example.com", "\U0001f600", "example.com"),
    ],
)
@pytest.mark.parametrize("argument", MAKERS)
def test_utf8_is_taken_as_given_and_flagged_f66_f84_e73(argument: str, text: str, local_part: str, domain: str) -> None:
    path = MAKERS[argument](text)
    assert path.octets == text.encode("utf-8")
    assert (path.local_part, path.domain, path.requires_smtputf8) == (local_part, domain, True)


@pytest.mark.parametrize("argument", MAKERS)
@pytest.mark.parametrize(
    "text",
    [
        "<a@b>",
        "<>",
        "Joe <joe@example.com>",
        "a b@c",
        "a@b c",
        "a,b@c",
        "a@b,c@d",
        "a@b>",
        "a@b> SIZE=1",
        "a@b ORCPT=x",
        ".a@b",
        "a.@b",
        "a..b@c",
        "@b",
        "a@",
        "a@b@c",
        "a@.b",
        "a@b.",
        "a@b..c",
        "a@-b",
        "a@b-",
        "a@b_c",
        "a@b!c",
        '"a"b@c',
        'a"b"@c',
        '"a"."b"@c',
        '"ab@c',
        '"a\\"@c',
        '"a\\é"@c',
        "a\\ b@c",
        "a(comment)@b",
        "a@[b]",
        "a@[300.1.1.1]",
        "a@[::1]",
        "a@[192.0.2.1",
        "a@[192.0.2.1]x",
        "a@b\u3000c",
        "a@b\u3002c",
        "a@b\uff0ec",
        "a@é-",
        "a@-é",
        " ",
        "   ",
        "\u3000",
        " a@b",
        "a@b ",
        "a",
        "@a:b",
        "@a",
    ],
)
def test_what_is_no_path_is_refused_never_repaired_f84d_e74(argument: str, text: str) -> None:
    with pytest.raises(InvalidInputError, match=argument):
        MAKERS[argument](text)


@pytest.mark.parametrize(
    ("text", "remedy"),
    [
        ("<a@b>", "without < and >"),
        ("Joe <joe@example.com>", "no display name"),
        ("a..b@c", "dot in the wrong place"),
        ("user", "local=True"),
        ("a@b_c", "letters, digits and inner hyphens"),
        ("a@b..c", "empty label"),
        ("a@[127.0.0.300]", r"\[<IPv4 address>\]"),
        ("a\r@b", r"U\+000D \(at index 1\)"),
        ('"a@b', "closed in front"),
        ("@nobody", "source route"),
        ("a@", "must not be empty"),
    ],
)
def test_an_error_says_what_to_do_f86(text: str, remedy: str) -> None:
    with pytest.raises(InvalidInputError, match=remedy):
        ForwardPath(text)


def of_octets(local: int, domain: int, letter: str = "a") -> str:
    """An address with a local part and a domain of so many octets."""
    width = len(letter.encode("utf-8"))
    labels, rest = [], domain
    while rest > 0:
        size = min(rest, 63 - 63 % width)
        if rest - size == 1:
            size -= width
        labels.append(letter * (size // width) + "a" * (size % width))
        rest -= size + 1
    return letter * (local // width) + "a" * (local % width) + "@" + ".".join(labels)


@pytest.mark.parametrize("letter", ["a", "é", "漢"])
@pytest.mark.parametrize("argument", MAKERS)
@pytest.mark.parametrize(
    ("local", "domain", "fits"), [(64, 189, True), (64, 190, False), (65, 10, False), (1, 252, True)]
)
def test_sizes_count_octets_not_characters_e72_f85(
    argument: str, letter: str, local: int, domain: int, fits: bool
) -> None:
    text = of_octets(local, domain, letter)
    assert len(text.encode("utf-8")) == local + 1 + domain
    if fits:
        assert len(MAKERS[argument](text).octets) == local + 1 + domain
    else:
        with pytest.raises(InvalidInputError, match="octets"):
            MAKERS[argument](text)


@pytest.mark.parametrize("label", ["a" * 64, "é" * 32, "a" * 63 + "b.c"])
def test_a_label_of_more_than_63_octets_is_refused(label: str) -> None:
    with pytest.raises(InvalidInputError, match="63 octets"):
        ForwardPath("a@" + label)
    assert ForwardPath("a@" + "a" * 63).domain == "a" * 63
    assert ForwardPath("a@" + "é" * 31).domain == "é" * 31


def test_an_error_shows_at_most_80_characters_escaped_f86() -> None:
    assert quoted("a" * 80) == "'" + "a" * 80 + "'"
    assert quoted("a" * 81) == "'" + "a" * 80 + "'..."
    assert quoted("\r\n") == r"'\x0d\x0a'"
    assert quoted("\r" * 40) == "'" + "\\x0d" * 20 + "'..."
    assert quoted("\u202e") == r"'\u202e'"
    with pytest.raises(InvalidInputError) as caught:
        ForwardPath("z" * 100_000)
    assert str(caught.value).count("z") == 80


def test_the_null_path_is_empty_f84a() -> None:
    path = ReversePath("")
    assert (path.mailbox, path.octets, path.local_part, path.domain, str(path)) == ("", b"", "", None, "")
    assert path.requires_smtputf8 is False
    assert path.key == (b"", b"")
    with pytest.raises(InvalidInputError, match="recipient must not be empty"):
        ForwardPath("")


@pytest.mark.parametrize("text", ["postmaster", "Postmaster", "POSTMASTER"])
def test_postmaster_stands_without_a_domain_in_any_case_f84b_e199(text: str) -> None:
    path = ForwardPath(text)
    assert (path.mailbox, path.octets, path.local_part, path.domain) == (text, text.encode(), text, None)
    with pytest.raises(InvalidInputError, match="needs a domain"):
        ReversePath(text)


@pytest.mark.parametrize("text", ["user", "po\u017ftmaster", "postmasters", "postmaste"])
def test_another_local_part_needs_a_domain_e199(text: str) -> None:
    with pytest.raises(InvalidInputError, match="needs a domain"):
        ForwardPath(text)


@pytest.mark.parametrize("text", ["user", "first.last", '"a b"', '"a@b"', "dörte", "a" * 64])
def test_local_takes_a_bare_local_part_for_lmtp_f84b_e199(text: str) -> None:
    path = ForwardPath(text, local=True)
    assert (path.local, path.local_part, path.domain, path.mailbox) == (True, text, None, text)
    assert path.key == (text.encode("utf-8"), b"")
    assert path.requires_smtputf8 is not text.isascii()


@pytest.mark.parametrize("text", ["", " ", "a@b", '"a"@b', "a b", ".a", "<a>", "a\r", "a" * 65, '"a', "x" * 300])
def test_local_refuses_what_is_no_bare_local_part(text: str) -> None:
    with pytest.raises(InvalidInputError, match="recipient"):
        ForwardPath(text, local=True)


def test_local_with_a_domain_names_the_remedy() -> None:
    with pytest.raises(InvalidInputError, match="leave local=True away"):
        ForwardPath("a@b", local=True)


@pytest.mark.parametrize("value", [None, 1, 0, "yes"])
def test_local_must_be_a_bool(value: object) -> None:
    with pytest.raises(TypeError, match="local must be a bool"):
        ForwardPath("user", local=value)  # type: ignore[arg-type]


@pytest.mark.parametrize("argument", MAKERS)
@pytest.mark.parametrize(
    ("text", "mailbox"),
    [
        ("@a,@b:u@h", "u@h"),
        ("@relay.example:u@h", "u@h"),
        ("@[192.0.2.1],@[IPv6:::1]:u@h", "u@h"),
        ('@a:"x y"@h', '"x y"@h'),
        ("@bücher.example:u@h", "u@h"),
    ],
)
def test_a_source_route_is_dropped_f84c_e200(argument: str, text: str, mailbox: str) -> None:
    path = MAKERS[argument](text)
    assert (path.address, path.mailbox, path.octets) == (text, mailbox, mailbox.encode("utf-8"))


@pytest.mark.parametrize(
    "text", ["@:u@h", "@a,:u@h", "@a,b:u@h", "@-a:u@h", "@[1]:u@h", "@a:", "@a:@h", "@a b:u@h", "@a@b:u@h"]
)
def test_a_broken_source_route_is_refused_f84c(text: str) -> None:
    with pytest.raises(InvalidInputError):
        ForwardPath(text)


def test_the_key_folds_the_ascii_case_of_the_domain_only_d18() -> None:
    assert ForwardPath("a@EXAMPLE.com").key == ForwardPath("a@example.COM").key
    assert ForwardPath("A@example.com").key != ForwardPath("a@example.com").key
    assert ForwardPath("a@BÜCHER.example").key != ForwardPath("a@bücher.example").key
    assert ForwardPath("@relay:a@b").key == ForwardPath("a@b").key
    assert ForwardPath("a@\u212a").key != ForwardPath("a@k").key  # KELVIN SIGN (AK4)
    assert ForwardPath('"a@b"', local=True).key == (b'"a@b"', b"")


def test_paths_are_immutable_ordered_and_hashable() -> None:
    first, second = ForwardPath("a@b"), ForwardPath("b@b")
    assert sorted([second, first]) == [first, second]
    assert {first, ForwardPath("a@b")} == {first}
    assert first != ForwardPath("a@B")
    other: object = ReversePath("a@b")
    assert first != other
    assert ForwardPath("postmaster") != ForwardPath("postmaster", local=True)
    with pytest.raises(dataclasses.FrozenInstanceError):
        first.address = "x"  # type: ignore[misc]
    assert dataclasses.replace(first, address="c@d") == ForwardPath("c@d")


@pytest.mark.parametrize(
    "path",
    [
        ReversePath(""),
        ReversePath("a@b"),
        ReversePath("@x:ü@b"),
        ForwardPath("a@b"),
        ForwardPath("Postmaster"),
        ForwardPath("user", local=True),
    ],
    ids=repr,
)
def test_paths_survive_pickle_copy_and_dict_e201_f121(path: ReversePath | ForwardPath) -> None:
    twins = [
        pickle.loads(pickle.dumps(path)),  # noqa: S301  # made here
        copy.copy(path),
        copy.deepcopy(path),
        type(path).from_dict(path.to_dict()),
    ]
    for twin in twins:
        assert twin == path
        assert (twin.octets, twin.local_part, twin.domain) == (path.octets, path.local_part, path.domain)


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        (ReversePath("a@b"), "ReversePath('a@b')"),
        (ForwardPath("a@b"), "ForwardPath('a@b')"),
        (ForwardPath("user", local=True), "ForwardPath('user', local=True)"),
    ],
)
def test_repr_is_the_call_that_makes_it(path: ReversePath | ForwardPath, shown: str) -> None:
    assert repr(path) == shown


@pytest.mark.parametrize("text", ["a", "a-b.example", "example.com", "123.example", "A.b", "bücher.example", "a" * 63])
def test_domains_that_are_e85_f82(text: str) -> None:
    assert check_domain(text) == text


@pytest.mark.parametrize(
    "text", ["", "mail..x", "-x", "x-", "a" * 64, "[127.0.0.1]", "a_b", "a b", ".a", "a.", "a\r", "é" * 128]
)
def test_domains_that_are_not_e85_f82(text: str) -> None:
    with pytest.raises(InvalidInputError, match="domain"):
        check_domain(text)


def test_a_domain_has_at_most_255_octets_e72() -> None:
    longest = ".".join(["a" * 63] * 4)
    assert len(longest) == 255
    assert check_domain(longest) == check_ehlo_domain(longest) == longest
    wide = "é" * 31 + ".a" * 96 + "a"
    assert len(wide.encode("utf-8")) == 255
    assert check_domain(wide) == wide
    for text in ("a." + longest, wide + "a"):
        with pytest.raises(InvalidInputError, match="255 octets"):
            check_domain(text)
    with pytest.raises(InvalidInputError, match="255 octets"):
        check_ehlo_domain("a." + longest)


@pytest.mark.parametrize(
    "text", ["[127.0.0.1]", "[IPv6:::1]", "[ipv6:2001:db8::1]", "[IPv6:::ffff:192.0.2.1]", "[0.0.0.0]"]
)
def test_address_literals_that_are_e86_f83(text: str) -> None:
    assert check_address_literal(text) == text


@pytest.mark.parametrize(
    "text",
    [
        "127.0.0.1",
        "[]",
        "[::1]",
        "",
        "[",
        "[127.0.0.1",
        "127.0.0.1]",
        "[127.0.0.01]",
        "[127.1]",
        "[300.1.1.1]",
        "[IPv6:]",
        "[IPv6:1]",
        "[IPv6:127.0.0.1]",
        "[IPv6:fe80::1%eth0]",
        "[IPv4:127.0.0.1]",
        "[tag:content]",
        "[127.0.0.1\r]",
        "[127.0.0.\u0661]",
        "[\u0131Pv6:::1]",
        "[ 127.0.0.1]",
    ],
)
def test_address_literals_that_are_not_e86_f83(text: str) -> None:
    with pytest.raises(InvalidInputError, match="address literal must be"):
        check_address_literal(text)


@pytest.mark.parametrize(
    ("ip", "literal"),
    [
        ("192.0.2.1", "[192.0.2.1]"),
        ("2001:db8::1", "[IPv6:2001:db8::1]"),
        ("::1", "[IPv6:::1]"),
        ("fe80::1%eth0", "[IPv6:fe80::1]"),
    ],
)
def test_the_literal_of_an_address_f9a(ip: str, literal: str) -> None:
    assert address_literal(ip) == literal
    assert check_ehlo_domain(literal) == literal


@pytest.mark.parametrize("ip", ["", "localhost", "[::1]", "1.2.3", "192.0.2.1%eth0", "::g", "::1\r\n", "1.2.3.400"])
def test_what_is_no_address_has_no_literal(ip: str) -> None:
    with pytest.raises(InvalidInputError, match="ip must be"):
        address_literal(ip)


@pytest.mark.parametrize(
    "text",
    [
        "localhost",
        "mail.example.com",
        "my_host.lan",
        "_x",
        "[192.0.2.1]",
        "[IPv6:2001:db8::1]",
        "a" * 63,
        ".".join(["a" * 63] * 4),  # 255 octets
    ],
)
def test_ehlo_domains_that_are_f9_e3(text: str) -> None:
    assert check_ehlo_domain(text) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "a b",
        "a\r\nMAIL FROM:<>",
        "bücher.example",
        "[300.1.1.1]",
        "[::1]",
        "-a",
        "a-",
        "a.",
        "a..b",
        "a" * 64,
        "a>b",
        ".".join(["a" * 63] * 3 + ["a" * 61, "aa"]),  # 256 octets
    ]
    + ["a" + value + "b" for value in HOSTILE.values()],
)
def test_ehlo_domains_that_are_not_f9_e2_e3_in5(text: str) -> None:
    with pytest.raises(InvalidInputError, match="ehlo_domain"):
        check_ehlo_domain(text)


@pytest.mark.parametrize(
    ("text", "host"),
    [
        ("mail.example.com", "mail.example.com"),
        ("mail.example.com.", "mail.example.com"),
        ("localhost", "localhost"),
        ("mail_server", "mail_server"),
        ("xn--bcher-kva.example", "xn--bcher-kva.example"),
        ("Mail.Example.COM", "Mail.Example.COM"),
        ("192.0.2.1", "192.0.2.1"),
        ("2001:db8::1", "2001:db8::1"),
        ("::1", "::1"),
        ("4.example", "4.example"),
        (".".join(["a" * 63] * 3 + ["b" * 61]) + ".", ".".join(["a" * 63] * 3 + ["b" * 61])),
    ],
)
def test_hosts_that_are_f1_e129(text: str, host: str) -> None:
    assert check_host(text) == host


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".",
        " ",
        "a..",
        ".a",
        "a..b",
        "bücher.example",
        "fa\u00df.de",
        "\u212a.example",
        "a\u2024b",
        "[::1]",
        "[192.0.2.1]",
    ]
    + [
        "300.1.1.1",
        "127.1",
        "1",
        "192.0.2.1.",
        "::g",
        "::1%eth0",
        "a" * 64,
        "-a.example",
        "a-",
        "user@host",
        "a:25",
        "a/b",
    ]
    + [".".join(["a" * 63] * 3 + ["b" * 62])]
    + ["a" + value + "b" for value in HOSTILE.values()],
)
def test_hosts_that_are_not_f1_in1_e129_ak4(text: str) -> None:
    with pytest.raises(InvalidInputError, match="host"):
        check_host(text)


@pytest.mark.parametrize(("text", "remedy"), [("bücher.example", "A-label"), ("[::1]", "without brackets")])
def test_a_host_error_says_what_to_do(text: str, remedy: str) -> None:
    with pytest.raises(InvalidInputError, match=remedy):
        check_host(text)


@pytest.mark.parametrize("checker", [check_domain, check_address_literal, check_ehlo_domain, check_host])
def test_an_error_names_the_argument_that_the_caller_knows(checker: Callable[..., str]) -> None:
    with pytest.raises(InvalidInputError, match=r"^server_name "):
        checker("a b", argument="server_name")


def test_a_mailbox_is_found_without_its_route() -> None:
    assert check_mailbox("auth", "user@example.com") == "user@example.com"
    assert check_mailbox("auth", '@a.example,@b.example:"a@b"@example.com') == '"a@b"@example.com'


@pytest.mark.parametrize(
    ("path", "local_part", "domain"),
    [
        pytest.param(ForwardPath("user@example.com"), "user", "example.com", id="plain"),
        pytest.param(ForwardPath('"a@b"@example.com'), '"a@b"', "example.com", id="an @ in quotes"),
        pytest.param(ForwardPath('"a@b"', local=True), '"a@b"', None, id="nothing but quotes"),
        pytest.param(ForwardPath("user@[IPv6:::1]"), "user", "[IPv6:::1]", id="a literal"),
        pytest.param(ForwardPath("@a.example:user@example.com"), "user", "example.com", id="behind a route"),
        pytest.param(ForwardPath("Postmaster"), "Postmaster", None, id="postmaster"),
    ],
)
def test_a_path_is_told_apart_at_the_at_in_front_of_its_domain(
    path: ForwardPath, local_part: str, domain: str | None
) -> None:
    assert (path.local_part, path.domain) == (local_part, domain)
    assert path.key == (local_part.encode(), (domain or "").lower().encode())
