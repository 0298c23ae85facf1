from __future__ import annotations

import pytest

from smtpconn.testing.envelope import (
    EnvelopeError,
    decode_xtext,
    parse_forward_path,
    parse_reverse_path,
    valid_ehlo_domain,
)

ALL = frozenset((
    "SIZE", "8BITMIME", "BINARYMIME", "SMTPUTF8", "DSN", "AUTH", "DELIVERBY", "FUTURERELEASE", "MT-PRIORITY",
    "REQUIRETLS", "XVERP",
))  # fmt: skip

GOOD_MAIL = [
    ("FROM:<>", "", {}),
    ("FROM:<a@x.test>", "a@x.test", {}),
    ("from:<a@x.test>", "a@x.test", {}),
    ('FROM:<"a b"@x.test>', '"a b"@x.test', {}),
    ('FROM:<"a\\"b"@x.test>', '"a\\"b"@x.test', {}),
    ("FROM:<@r1.test,@r2.test:a@x.test>", "a@x.test", {}),
    ("FROM:<a@[127.0.0.1]>", "a@[127.0.0.1]", {}),
    ("FROM:<a@[IPv6:::1]>", "a@[IPv6:::1]", {}),
    ("FROM:<a@x.test> SIZE=12 BODY=8BITMIME", "a@x.test", {"SIZE": "12", "BODY": "8BITMIME"}),
    ("FROM:<é@x.test> SMTPUTF8", "é@x.test", {"SMTPUTF8": None}),
    ("FROM:<> RET=HDRS ENVID=a+2Bb", "", {"RET": "HDRS", "ENVID": "a+2Bb"}),
    ("FROM:<a@x.test> AUTH=+3C+3E", "a@x.test", {"AUTH": "+3C+3E"}),
    ("FROM:<a@x.test> BY=-120;NT", "a@x.test", {"BY": "-120;NT"}),
    ("FROM:<a@x.test> HOLDFOR=3600", "a@x.test", {"HOLDFOR": "3600"}),
    ("FROM:<a@x.test> HOLDUNTIL=2030-01-02T03:04:05Z", "a@x.test", {"HOLDUNTIL": "2030-01-02T03:04:05Z"}),
    ("FROM:<a@x.test> MT-PRIORITY=-4 REQUIRETLS", "a@x.test", {"MT-PRIORITY": "-4", "REQUIRETLS": None}),
    ("FROM:<a@x.test> XVERP", "a@x.test", {"XVERP": None}),
]
BAD_MAIL = [
    ("FROM: <a@x.test>", "501"),
    ("FROM:a@x.test", "501"),
    ("FROM:<a@x.test", "501"),
    ("FROM:<a>", "501"),
    ("FROM:<a..b@x.test>", "501"),
    ("FROM:<a@x..test>", "501"),
    ("FROM:<a@-x.test>", "501"),
    ("FROM:<a b@x.test>", "501"),
    ("FROM:<a@[127.0.0.300]>", "501"),
    ("FROM:<a@[IPv6:1::2::3]>", "501"),
    ("FROM:<" + "a" * 250 + "@x.test>", "501"),
    ("FROM:<a@x.test>  SIZE=1", "501"),
    ("FROM:<a@x.test>SIZE=1", "501"),
    ("FROM:<a@x.test> ", "501"),
    ("FROM:<a@x.test> SIZE=1 SIZE=1", "501"),
    ("FROM:<a@x.test> SIZE=", "501"),
    ("FROM:<a@x.test> SIZE=x", "501"),
    ("FROM:<a@x.test> BODY=9BIT", "501"),
    ("FROM:<a@x.test> SMTPUTF8=1", "501"),
    ("FROM:<a@x.test> ENVID=a+2b", "501"),
    ("FROM:<a@x.test> ENVID=" + "x" * 101, "501"),
    ("FROM:<a@x.test> RET=ALL", "501"),
    ("FROM:<a@x.test> HOLDFOR=1 HOLDUNTIL=2030-01-02T03:04:05Z", "501"),
    ("FROM:<a@x.test> FOO=1", "555"),
    ("FROM:<é@x.test>", "553"),
]
RCPT = [
    ("TO:<b@x.test>", {}),
    ("TO:<Postmaster>", {}),
    ("TO:<b@x.test> NOTIFY=NEVER", {"NOTIFY": "NEVER"}),
    ("TO:<b@x.test> NOTIFY=SUCCESS,DELAY ORCPT=rfc822;b+2Bc@x.test", {"NOTIFY": "SUCCESS,DELAY",
                                                                    "ORCPT": "rfc822;b+2Bc@x.test"}),
    ("TO:<b@x.test> ORCPT=utf-8;\\x{E9}@x.test", {"ORCPT": "utf-8;\\x{E9}@x.test"}),
]  # fmt: skip
BAD_RCPT = [
    ("TO:<>", "501"),
    ("TO:<b@x.test> NOTIFY=NEVER,SUCCESS", "501"),
    ("TO:<b@x.test> NOTIFY=SUCCESS,SUCCESS", "501"),
    ("TO:<b@x.test> NOTIFY", "501"),
    ("TO:<b@x.test> ORCPT=b@x.test", "501"),
    ("TO:<b@x.test> ORCPT=rfc822;a+b", "501"),
    ("TO:<b@x.test> SIZE=1", "501,555"),
    ("TO:<é@x.test>", "553"),
]


@pytest.mark.parametrize(("argument", "path", "parameters"), GOOD_MAIL)
def test_a_good_mail_command_is_taken_as_written(argument: str, path: str, parameters: dict[str, str | None]) -> None:
    assert parse_reverse_path(argument, ALL) == (path, parameters)


@pytest.mark.parametrize(("argument", "code"), BAD_MAIL)
def test_a_bad_mail_command_is_refused(argument: str, code: str) -> None:
    with pytest.raises(EnvelopeError) as caught:
        parse_reverse_path(argument, ALL)
    assert caught.value.reply.startswith(code)
    assert caught.value.broken


@pytest.mark.parametrize(("argument", "parameters"), RCPT)
def test_a_good_rcpt_command_is_taken_as_written(argument: str, parameters: dict[str, str | None]) -> None:
    assert parse_forward_path(argument, ALL, smtputf8=False)[1] == parameters


@pytest.mark.parametrize(("argument", "codes"), BAD_RCPT)
def test_a_bad_rcpt_command_is_refused(argument: str, codes: str) -> None:
    with pytest.raises(EnvelopeError) as caught:
        parse_forward_path(argument, ALL - {"SIZE"} if "555" in codes else ALL, smtputf8=False)
    assert caught.value.reply[:3] in codes.split(",")


@pytest.mark.parametrize("parameter", ["SIZE=1", "BODY=8BITMIME", "SMTPUTF8", "RET=FULL", "BY=1;R", "REQUIRETLS"])
def test_a_parameter_that_was_not_offered_is_a_555(parameter: str) -> None:
    with pytest.raises(EnvelopeError, match="555"):
        parse_reverse_path(f"FROM:<a@x.test> {parameter}", frozenset())


def test_binarymime_needs_its_own_keyword() -> None:
    with pytest.raises(EnvelopeError, match="555"):
        parse_reverse_path("FROM:<a@x.test> BODY=BINARYMIME", {"8BITMIME"})


def test_an_address_may_be_non_ascii_only_with_smtputf8() -> None:
    assert parse_forward_path("TO:<é@bücher.test>", ALL, smtputf8=True) == ("é@bücher.test", {})


def test_xtext_is_decoded() -> None:
    assert decode_xtext("a+2Bb+3D") == "a+b="
    with pytest.raises(ValueError, match="xtext"):
        decode_xtext("a+2b")


@pytest.mark.parametrize(
    ("domain", "valid"),
    [
        ("client.test", True), ("localhost", True), ("[127.0.0.1]", True), ("[IPv6:::1]", True), ("[x]", False),
        ("", False), ("a b", False), ("a..b", False), ("[tag:thing]", True), ("-a.test", False),
    ],
)  # fmt: skip
def test_the_ehlo_domain_is_a_domain_or_an_address_literal(domain: str, valid: bool) -> None:
    assert valid_ehlo_domain(domain) is valid
