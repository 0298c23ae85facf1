"""Command lines: their exact octets, their limits, and that nothing gets past the choke point."""

from __future__ import annotations

import datetime
import traceback
from collections.abc import Callable
from typing import Any

import pytest

from smtpconn.protocol import commands
from smtpconn.protocol.address import ForwardPath, ReversePath
from smtpconn.protocol.errors import ExtensionUnavailableError, InvalidInputError
from smtpconn.protocol.extensions import NO_CAPABILITIES, ServerCapabilities
from smtpconn.protocol.mail import Recipient
from smtpconn.protocol.params import DeliverBy, MailParams, RcptParams

UTC = datetime.timezone.utc
EVERYTHING = ServerCapabilities(
    "mx",
    (
        "SIZE",
        "8BITMIME",
        "BINARYMIME",
        "CHUNKING",
        "SMTPUTF8",
        "AUTH PLAIN",
        "DSN",
        "REQUIRETLS",
        "FUTURERELEASE",
        "DELIVERBY",
        "MT-PRIORITY",
    ),
    is_esmtp=True,
)
UTF8 = ServerCapabilities("mx", ("SMTPUTF8",), is_esmtp=True)
DSN = ServerCapabilities("mx", ("DSN",), is_esmtp=True)


def mail(
    sender: str = "a@b",
    params: MailParams | None = None,
    capabilities: ServerCapabilities = NO_CAPABILITIES,
    *,
    size: int | None = None,
    body: str | None = None,
    smtputf8: bool = False,
) -> bytes:
    return commands.mail(
        ReversePath(sender),
        size=size,
        body=body,
        smtputf8=smtputf8,
        params=params or MailParams(),
        capabilities=capabilities,
    )


@pytest.mark.parametrize(
    ("line", "octets"),
    [
        (commands.ehlo("client.example.com"), b"EHLO client.example.com\r\n"),
        (commands.ehlo("[192.0.2.1]"), b"EHLO [192.0.2.1]\r\n"),
        (commands.lhlo("[IPv6:2001:db8::1]"), b"LHLO [IPv6:2001:db8::1]\r\n"),
        (commands.helo("localhost"), b"HELO localhost\r\n"),
        (commands.starttls(), b"STARTTLS\r\n"),
        (commands.noop(), b"NOOP\r\n"),
        (commands.rset(), b"RSET\r\n"),
        (commands.quit_(), b"QUIT\r\n"),
        (commands.data(), b"DATA\r\n"),
        (commands.bdat(0, last=True), b"BDAT 0 LAST\r\n"),
        (commands.bdat(65536, last=False), b"BDAT 65536\r\n"),
        (commands.auth("PLAIN", b"AGEAYg=="), b"AUTH PLAIN AGEAYg==\r\n"),
        (commands.auth("LOGIN", None), b"AUTH LOGIN\r\n"),
        (commands.auth("EXTERNAL", b""), b"AUTH EXTERNAL =\r\n"),
        (commands.auth_response(b"AQ=="), b"AQ==\r\n"),
        (commands.auth_response(b""), b"\r\n"),
        (commands.auth_cancel(), b"*\r\n"),
        (commands.vrfy("alice", NO_CAPABILITIES), b"VRFY alice\r\n"),
        (commands.vrfy("Alice Smith", UTF8), b"VRFY Alice Smith\r\n"),
        (commands.expn("staff", NO_CAPABILITIES), b"EXPN staff\r\n"),
        (commands.help_(None, NO_CAPABILITIES), b"HELP\r\n"),
        (commands.help_("MAIL", NO_CAPABILITIES), b"HELP MAIL\r\n"),
        (commands.verbatim("XFORWARD NAME=mx.test"), b"XFORWARD NAME=mx.test\r\n"),
    ],
    ids=repr,
)
def test_how_a_command_is_spelt(line: bytes, octets: bytes) -> None:
    assert line == octets


@pytest.mark.parametrize(
    ("line", "octets"),
    [
        (mail(), b"MAIL FROM:<a@b>\r\n"),
        (mail(""), b"MAIL FROM:<>\r\n"),
        (mail("@x:a@b"), b"MAIL FROM:<a@b>\r\n"),
        (mail(size=0), b"MAIL FROM:<a@b> SIZE=0\r\n"),
        (mail(size=10**20 - 1), b"MAIL FROM:<a@b> SIZE=99999999999999999999\r\n"),
        (mail(body="8BITMIME"), b"MAIL FROM:<a@b> BODY=8BITMIME\r\n"),
        (mail("\u00fc@b", smtputf8=True), b"MAIL FROM:<\xc3\xbc@b> SMTPUTF8\r\n"),
        (mail(params=MailParams(envid="QQ+3 1")), b"MAIL FROM:<a@b> ENVID=QQ+2B3+201\r\n"),
        (mail(params=MailParams(body="8BITMIME")), b"MAIL FROM:<a@b>\r\n"),
    ],
    ids=repr,
)
def test_how_mail_is_spelt_f51_mp1_to_mp5(line: bytes, octets: bytes) -> None:
    assert line == octets


def test_all_parameters_stand_in_the_order_of_the_table_e176() -> None:
    params = MailParams(
        body="BINARYMIME",
        smtputf8=True,
        ret="FULL",
        envid="x",
        auth="e+mc2@example.com",
        requiretls=True,
        hold_until=datetime.datetime(2026, 1, 1, tzinfo=UTC),
        deliver_by=DeliverBy(5, "R", trace=True),
        mt_priority=-1,
        extra={"XFOO": "1", "XBAR": None},
    )
    assert mail("a@b", params, EVERYTHING, size=7, body="BINARYMIME", smtputf8=True) == (
        b"MAIL FROM:<a@b> SIZE=7 BODY=BINARYMIME SMTPUTF8 RET=FULL ENVID=x AUTH=e+2Bmc2@example.com REQUIRETLS"
        b" HOLDUNTIL=2026-01-01T00:00:00Z BY=5;RT MT-PRIORITY=-1 XFOO=1 XBAR\r\n"
    )
    recipient = Recipient("c@d", RcptParams(extra={"XA": "1"}, orcpt="rfc822;c+x@d", notify=["DELAY", "SUCCESS"]))
    assert commands.rcpt(recipient, EVERYTHING) == b"RCPT TO:<c@d> NOTIFY=SUCCESS,DELAY ORCPT=rfc822;c+2Bx@d XA=1\r\n"


@pytest.mark.parametrize(
    ("recipient", "octets"),
    [
        (Recipient("a@b"), b"RCPT TO:<a@b>\r\n"),
        (Recipient("Postmaster"), b"RCPT TO:<Postmaster>\r\n"),
        (Recipient(ForwardPath("user", local=True)), b"RCPT TO:<user>\r\n"),
        (Recipient("@a,@b:u@h"), b"RCPT TO:<u@h>\r\n"),
        (Recipient('"a b"@c'), b'RCPT TO:<"a b"@c>\r\n'),
        (Recipient("\u00fc@b"), b"RCPT TO:<\xc3\xbc@b>\r\n"),
    ],
    ids=repr,
)
def test_how_rcpt_is_spelt_e70_e199_e200(recipient: Recipient, octets: bytes) -> None:
    assert commands.rcpt(recipient, NO_CAPABILITIES) == octets


# --- VRFY, EXPN, HELP (F88, F89) ---

Inquiry = Callable[[Any, ServerCapabilities], bytes]
INQUIRIES: dict[str, Inquiry] = {"VRFY": commands.vrfy, "EXPN": commands.expn, "HELP": commands.help_}
CONTROLS = [
    "\r\nRSET",
    "\r",
    "\n",
    "\0",
    "\t",
    "\x1b",
    "\v",
    "\f",
    "\x7f",
    "\x85",
    "\x9b",
    "\u2028",
    "\u2029",
    "\ud800",
]
CONTROLS += ["\u760d", "\u760a", "\u010a", "\u020d"]


@pytest.mark.parametrize("verb", INQUIRIES)
@pytest.mark.parametrize("capabilities", [NO_CAPABILITIES, UTF8], ids=["plain", "SMTPUTF8"])
@pytest.mark.parametrize("control", CONTROLS, ids=repr)
def test_an_inquiry_has_no_controls_in16_ak1(verb: str, capabilities: ServerCapabilities, control: str) -> None:
    for text in (control, "a" + control, control + "a", f"a{control}b"):
        with pytest.raises(InvalidInputError, match=verb):
            INQUIRIES[verb](text, capabilities)


@pytest.mark.parametrize("verb", INQUIRIES)
@pytest.mark.parametrize("text", ["", " ", "  ", "\u3000"])
def test_an_inquiry_is_not_blank_in16_e196(verb: str, text: str) -> None:
    with pytest.raises(InvalidInputError, match="must not be empty or blank"):
        INQUIRIES[verb](text, UTF8)


@pytest.mark.parametrize("verb", INQUIRIES)
@pytest.mark.parametrize("text", ["<a@b>", "> ORCPT=x", " SIZE=1", "a  b ", "a SMTPUTF8"])
def test_an_inquiry_is_sent_as_given_in16_f88(verb: str, text: str) -> None:
    assert INQUIRIES[verb](text, NO_CAPABILITIES) == f"{verb} {text}\r\n".encode("ascii")


@pytest.mark.parametrize("verb", INQUIRIES)
@pytest.mark.parametrize("value", [1, True, b"a", ["a"], object()], ids=repr)
def test_an_inquiry_takes_str_only_in16(verb: str, value: object) -> None:
    with pytest.raises(TypeError, match=verb):
        INQUIRIES[verb](value, UTF8)


@pytest.mark.parametrize("verb", ["VRFY", "EXPN"])
def test_vrfy_and_expn_need_an_argument(verb: str) -> None:
    with pytest.raises(TypeError):
        INQUIRIES[verb](None, UTF8)


@pytest.mark.parametrize("verb", INQUIRIES)
def test_an_inquiry_outside_ascii_needs_smtputf8_e196_e197(verb: str) -> None:
    suffix = b"" if verb == "HELP" else b" SMTPUTF8"
    assert INQUIRIES[verb]("\u00fc", UTF8) == verb.encode() + b" \xc3\xbc" + suffix + b"\r\n"
    with pytest.raises(ExtensionUnavailableError) as caught:
        INQUIRIES[verb]("\u00fc", NO_CAPABILITIES)
    assert caught.value.extension == "SMTPUTF8"


def test_a_lying_str_subclass_is_copied_v18() -> None:
    class Text(str):
        __slots__ = ()

        def encode(self, encoding: str = "utf-8", errors: str = "strict") -> bytes:
            return b"\r\nRSET"

        def isascii(self) -> bool:
            return False

    assert commands.vrfy(Text("alice"), NO_CAPABILITIES) == b"VRFY alice\r\n"
    assert commands.ehlo(Text("localhost")) == b"EHLO localhost\r\n"


# --- limits (F67, L7-L9, LM5) ---


@pytest.mark.parametrize("verb", INQUIRIES)
@pytest.mark.parametrize(("capabilities", "limit"), [(NO_CAPABILITIES, 512), (UTF8, 522)], ids=["plain", "SMTPUTF8"])
def test_the_limit_of_an_inquiry_l7_l9(verb: str, capabilities: ServerCapabilities, limit: int) -> None:
    if verb == "HELP":
        limit = 512
    room = limit - len(verb) - 3
    assert len(INQUIRIES[verb]("a" * room, capabilities)) == limit
    with pytest.raises(
        InvalidInputError, match=f"the {verb} line has {limit + 1} octets with CRLF, the limit is {limit}"
    ):
        INQUIRIES[verb]("a" * (room + 1), capabilities)


def extra_of(octets: int) -> dict[str, str | None]:
    """Extra parameters that add so many octets to a line."""
    return {"X": "v" * (octets - 3)}


@pytest.mark.parametrize(
    ("capabilities", "limit"), [(NO_CAPABILITIES, 512), (DSN, 1048), (EVERYTHING, 1048), (UTF8, 512)]
)
def test_the_limit_of_rcpt_e206_l9(capabilities: ServerCapabilities, limit: int) -> None:
    room = limit - len(b"RCPT TO:<a@b>\r\n")
    assert len(commands.rcpt(Recipient("a@b", RcptParams(extra=extra_of(room))), capabilities)) == limit
    with pytest.raises(InvalidInputError, match=f"the RCPT line has {limit + 1} octets"):
        commands.rcpt(Recipient("a@b", RcptParams(extra=extra_of(room + 1))), capabilities)


@pytest.mark.parametrize(
    ("keywords", "limit"),
    [
        ((), 512),
        (("SIZE",), 538),
        (("8BITMIME",), 529),
        (("BINARYMIME",), 529),
        (("8BITMIME", "BINARYMIME"), 529),
        (("SMTPUTF8",), 522),
        (("AUTH PLAIN",), 1012),
        (("DSN",), 628),
        (("REQUIRETLS",), 523),
        (("FUTURERELEASE",), 548),
        (("DELIVERBY",), 529),
        (("MT-PRIORITY",), 527),
        (("XFOO", "VRFY"), 512),
        (EVERYTHING.lines, 512 + 26 + 17 + 10 + 500 + 116 + 11 + 36 + 17 + 15),
    ],
    ids=repr,
)
def test_the_limit_of_mail_l8(keywords: tuple[str, ...], limit: int) -> None:
    capabilities = ServerCapabilities("mx", keywords, is_esmtp=True)
    assert commands.mail_limit(capabilities) == limit
    room = limit - len(b"MAIL FROM:<a@b>\r\n")
    assert len(mail(params=MailParams(extra=extra_of(room)), capabilities=capabilities)) == limit
    with pytest.raises(InvalidInputError, match=f"the MAIL line has {limit + 1} octets"):
        mail(params=MailParams(extra=extra_of(room + 1)), capabilities=capabilities)


def test_the_longest_sender_and_recipient_fit() -> None:
    address = "a" * 64 + "@" + ".".join(["b" * 63, "c" * 63, "d" * 61])
    assert len(address) == 254
    assert len(mail(address)) < 512
    assert len(commands.rcpt(Recipient(address), NO_CAPABILITIES)) < 512


def test_the_limits_of_auth_f45_lm6() -> None:
    room = commands.AUTH_INITIAL_LIMIT - len(b"AUTH PLAIN \r\n")
    assert len(commands.auth("PLAIN", b"A" * room)) == 512
    with pytest.raises(InvalidInputError, match="the AUTH line has 513 octets"):
        commands.auth("PLAIN", b"A" * (room + 1))
    assert len(commands.auth_response(b"A" * commands.AUTH_RESPONSE_LIMIT)) == 12_290
    with pytest.raises(InvalidInputError, match="the AUTH line has 12291 octets"):
        commands.auth_response(b"A" * (commands.AUTH_RESPONSE_LIMIT + 1))


@pytest.mark.parametrize(
    "call", [lambda secret: commands.auth("PLAIN", secret), commands.auth_response], ids=["initial", "response"]
)
@pytest.mark.parametrize("tail", [b"A" * 13_000, b"\x00"], ids=["too long", "control"])
def test_a_refused_secret_is_in_no_error_and_no_frame_sec2_sec3(call: Callable[[bytes], bytes], tail: bytes) -> None:
    secrets = [b"c2VjcmV0" + tail]
    with pytest.raises(InvalidInputError) as caught:
        call(secrets.pop())
    assert "c2VjcmV0" not in str(caught.value)
    frames = [frame for frame, _ in traceback.walk_tb(caught.value.__traceback__)]
    frames = [frame for frame in frames if frame.f_code.co_filename == commands.__file__]
    assert len(frames) == 2
    for frame in frames:
        assert not any(b"c2VjcmV0" in value for value in frame.f_locals.values() if isinstance(value, bytes))


# --- the choke point (F67a, SEC8) ---


@pytest.mark.parametrize("octet", [*range(0x20), 0x7F])
def test_no_control_octet_leaves_even_if_a_value_had_one_f67a_sec8(octet: int) -> None:
    recipient = Recipient("a@b")
    object.__setattr__(recipient.path, "mailbox", f"a{chr(octet)}@b")
    with pytest.raises(InvalidInputError, match="the RCPT line of 16 octets has a control character"):
        commands.rcpt(recipient, NO_CAPABILITIES)


@pytest.mark.parametrize("mailbox", ["a@b>\r\nRSET", "a@b>\r\n", "\r\n", "a\r", "a\n"])
def test_no_second_line_leaves_even_if_a_value_had_one_f67a_sec8(mailbox: str) -> None:
    sender = ReversePath("a@b")
    object.__setattr__(sender, "mailbox", mailbox)
    with pytest.raises(InvalidInputError, match="MAIL"):
        commands.mail(sender, size=None, body=None, smtputf8=False, params=MailParams(), capabilities=NO_CAPABILITIES)


def test_octets_above_ascii_pass_the_choke_point() -> None:
    assert (
        commands.rcpt(Recipient("\u0100\U0010fffd@b"), NO_CAPABILITIES) == "RCPT TO:<\u0100\U0010fffd@b>\r\n".encode()
    )


@pytest.mark.parametrize("verb", [commands.ehlo, commands.lhlo, commands.helo])
@pytest.mark.parametrize("domain", ["", "a b", "a\r\nRSET", "b\u00fccher.example", "[300.1.1.1]"])
def test_a_hello_checks_its_domain_e3_in5(verb: Callable[[str], bytes], domain: str) -> None:
    with pytest.raises(InvalidInputError, match="ehlo_domain"):
        verb(domain)


@pytest.mark.parametrize("line", ["NOOP\r\nRSET", "NOOP\n", "NO\0OP", "NOOP \u00e4", "X" * 511])
def test_F67a_a_line_of_the_callers_own_passes_the_same_choke_point(line: str) -> None:
    with pytest.raises(InvalidInputError):
        commands.verbatim(line)
