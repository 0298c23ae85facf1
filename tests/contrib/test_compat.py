"""`smtpconn.contrib.compat` beside the smtplib of the running Python: the same calls at the same server (users 6)."""

from __future__ import annotations

import base64
import contextlib
import email.message
import logging
import smtplib
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest

from smtpconn import BoundedPolicy, ConnectionPool, InvalidInputError, PoolTimeoutError, TlsConfig, UsageError
from smtpconn.contrib import compat
from smtpconn.testing import LoopbackServer, TestAuthority

SENDER, RECIPIENT = "anna@example.com", "ben@example.net"
MESSAGE = b"Subject: hello\r\n\r\nthe content\r\n"
PASSWORD: dict[str, Any] = {"auth": {"user": "secret"}}

Calls = Callable[[Any], Any]
Setup = Callable[[LoopbackServer], object]


def message(**headers: str) -> email.message.EmailMessage:
    made = email.message.EmailMessage()
    for name, value in {"Subject": "hello", "From": SENDER, "To": RECIPIENT, **headers}.items():
        made[name.replace("_", "-")] = value
    made.set_content("the content\n")
    return made


def several(*calls: Calls) -> Calls:
    """One call after the other: all that they return or raise."""
    return lambda smtp: [outcome_of(call, smtp) for call in calls]


def outcome_of(call: Calls, smtp: Any) -> Any:
    """What a call gives: its value, or smtplib's exception that it raises, with the attributes that callers read."""
    try:
        return call(smtp)
    except smtplib.SMTPException as error:
        names = ("smtp_code", "smtp_error", "sender", "recipients")
        family = next(cls for cls in type(error).__mro__ if cls.__module__ == "smtplib")
        return family.__name__, {name: getattr(error, name) for name in names if hasattr(error, name)}


def nothing(server: LoopbackServer) -> None:
    """No rule."""


def refusing(server: LoopbackServer) -> None:
    server.refuse("nobody@example.net", "550 5.1.1 No such user")
    server.refuse("later@example.net", "451 4.2.1 Later\r\n")
    server.refuse(f"<{'blocked@example.com'}>", "550 5.7.1 Go away")


def of(**options: Any) -> dict[str, Any]:
    return options


def raw(*recipients: str) -> Calls:
    return several(
        lambda s: s.ehlo(), lambda s: s.mail(SENDER), *(lambda s, to=to: s.rcpt(to) for to in recipients),
        lambda s: s.data(MESSAGE), lambda s: s.noop(),
    )  # fmt: skip


CASES: list[tuple[str, dict[str, Any], Setup, Calls]] = [
    ("greeted, nothing known", {}, nothing, lambda s: (s.does_esmtp, s.esmtp_features, s.ehlo_resp, s.helo_resp)),
    ("ehlo", {}, nothing, lambda s: (s.ehlo(), s.ehlo_resp, s.does_esmtp, s.esmtp_features, s.has_extn("SIZE"))),
    ("ehlo with a name", {}, nothing, lambda s: s.ehlo("client.example.com")),
    ("helo", {}, nothing, lambda s: (s.helo("client.example.com"), s.helo_resp, s.does_esmtp, s.esmtp_features)),
    ("ehlo refused", {}, lambda v: v.reply("EHLO", "502 5.5.1 No"), several(
        lambda s: s.ehlo(), lambda s: s.does_esmtp, lambda s: s.helo(), lambda s: s.sendmail(SENDER, RECIPIENT, MESSAGE)
    )),
    ("helo instead of ehlo", {}, lambda v: v.reply("EHLO", "502 5.5.1 No"), several(
        lambda s: s.ehlo_or_helo_if_needed(), lambda s: s.does_esmtp, lambda s: s.sendmail(SENDER, RECIPIENT, MESSAGE)
    )),
    ("both refused", {}, lambda v: (v.reply("EHLO", "502 5.5.1 No"), v.reply("HELO", "502 5.5.1 No")),
     lambda s: outcome_of(lambda t: t.ehlo_or_helo_if_needed(), s)),
    ("both forms of AUTH", of(extensions=("AUTH=LOGIN", "AUTH PLAIN X")), nothing,
     lambda s: (s.ehlo(), s.esmtp_features["auth"])),
    ("before EHLO", {}, nothing, several(lambda s: s.noop(), lambda s: s.help(), lambda s: s.rset())),
    ("sendmail", {}, nothing, lambda s: s.sendmail(SENDER, [RECIPIENT], MESSAGE)),
    ("sendmail to one string", {}, nothing, lambda s: s.sendmail(SENDER, RECIPIENT, MESSAGE)),
    ("sendmail with names", {}, nothing, lambda s: s.sendmail(
        "Anna <anna@example.com>", ["Ben <ben@example.net>", "<carl@example.net>"], MESSAGE)),
    ("sendmail from nobody", {}, nothing, lambda s: (s.sendmail("<>", [RECIPIENT], MESSAGE))),
    ("sendmail str", {}, nothing, lambda s: s.sendmail(SENDER, RECIPIENT, "Subject: a\n\nb\r\nc\rd\n.\ne")),
    ("some refused", {}, refusing, lambda s: s.sendmail(
        SENDER, [RECIPIENT, "nobody@example.net", "Later <later@example.net>"], MESSAGE)),
    ("all refused", {}, refusing, several(
        lambda s: s.sendmail(SENDER, ["nobody@example.net", "later@example.net"], MESSAGE),
        lambda s: s.sendmail(SENDER, RECIPIENT, MESSAGE),
    )),
    ("sender refused", {}, refusing, several(
        lambda s: s.sendmail("blocked@example.com", RECIPIENT, MESSAGE),
        lambda s: s.sendmail(SENDER, RECIPIENT, MESSAGE),
    )),
    ("DATA refused", {}, lambda v: v.reply("DATA", "451 4.3.0 Full"), several(
        lambda s: s.sendmail(SENDER, RECIPIENT, MESSAGE))),
    ("message refused", {}, lambda v: v.reply("end of data", "554 5.7.1 Spam", nth=1), several(
        lambda s: s.sendmail(SENDER, RECIPIENT, MESSAGE), lambda s: s.sendmail(SENDER, RECIPIENT, MESSAGE))),
    ("421 to MAIL", {}, lambda v: v.reply("MAIL", "421 4.3.2 Bye"), several(
        lambda s: s.sendmail(SENDER, RECIPIENT, MESSAGE), lambda s: s.sock, lambda s: s.noop())),
    ("421 to RCPT", {}, lambda v: v.reply("RCPT", "421 4.3.2 Bye"), several(
        lambda s: s.sendmail(SENDER, RECIPIENT, MESSAGE), lambda s: s.sock, lambda s: s.noop())),
    ("options", {}, nothing, lambda s: s.sendmail(
        SENDER, RECIPIENT, MESSAGE, ["BODY=8BITMIME", "RET=HDRS"], ["NOTIFY=FAILURE,DELAY"])),
    ("SMTPUTF8 not offered", of(extensions=("SIZE",)), nothing, lambda s: outcome_of(
        lambda t: t.sendmail(SENDER, RECIPIENT, MESSAGE, ["SMTPUTF8"]), s)),
    ("send_message", {}, nothing, lambda s: s.send_message(message(Cc="carl@example.net", Bcc="dora@example.net"))),
    ("send_message resent", {}, nothing, lambda s: s.send_message(message(
        Resent_Date="Sat, 28 Nov 2026 08:00:00 +0000", Resent_From="r@example.com", Resent_To="s@example.net"))),
    ("send_message elsewhere", {}, refusing, lambda s: s.send_message(
        message(), "other@example.com", ["nobody@example.net", "carl@example.net"])),
    ("by steps", {}, nothing, raw(RECIPIENT)),
    ("by steps, one refused", {}, refusing, raw("nobody@example.net", RECIPIENT)),
    ("by steps, DATA refused", {}, lambda v: v.reply("DATA", "451 4.3.0 Full"), raw(RECIPIENT)),
    ("by steps, message refused", {}, lambda v: v.reply("end of data", "554 5.7.1 Spam"), raw(RECIPIENT)),
    ("by steps, sender refused", {}, refusing, several(
        lambda s: s.ehlo(), lambda s: s.mail("blocked@example.com"), lambda s: s.noop())),
    ("by steps, given up", {}, nothing, several(
        lambda s: s.ehlo(), lambda s: s.mail(SENDER), lambda s: s.rcpt(RECIPIENT), lambda s: s.rset(),
        lambda s: s.sendmail(SENDER, RECIPIENT, MESSAGE))),
    ("by docmd", {}, nothing, several(
        lambda s: s.docmd("EHLO", "client.example.com"), lambda s: s.docmd("MAIL FROM:<anna@example.com>"),
        lambda s: s.docmd("RCPT", "TO:<ben@example.net>"), lambda s: s.data(MESSAGE), lambda s: s.docmd("NOOP"))),
    ("docmd of a word unknown", {}, nothing, lambda s: s.docmd("XYZZY", "plugh")),
    ("commands", of(lists={"all": ["anna@example.com", "ben@example.net"]}), nothing, several(
        lambda s: s.verify("Anna <anna@example.com>"), lambda s: s.vrfy("anna@example.com"), lambda s: s.expn("all"),
        lambda s: s.expn("none"), lambda s: s.help(), lambda s: s.help("MAIL"), lambda s: s.noop(),
        lambda s: s.rset())),
    ("421 to NOOP", {}, lambda v: v.reply("NOOP", "421 4.3.2 Bye"), lambda s: s.noop()),
    ("quit", {}, nothing, several(lambda s: s.quit(), lambda s: s.sock, lambda s: s.quit(), lambda s: s.noop())),
    ("quit answered otherwise", {}, lambda v: v.reply("QUIT", "500 5.5.1 What"), lambda s: s.quit()),
    ("closed twice", {}, nothing, several(
        lambda s: s.close(), lambda s: s.close(), lambda s: s.sock, lambda s: s.ehlo())),
    ("login not offered", {}, nothing, lambda s: outcome_of(lambda t: t.login("user", "secret"), s)),
    ("STARTTLS not offered", {}, nothing, lambda s: outcome_of(lambda t: t.starttls(), s)),
]  # fmt: skip


@pytest.mark.parametrize(("case", "options", "setup", "calls"), CASES, ids=[case[0] for case in CASES])
def test_the_facade_gives_what_smtplib_gives(
    case: str, options: dict[str, Any], setup: Setup, calls: Calls
) -> None:
    """users:SC1, SC5, SC6, SC7, SC11, SC12, SC13, SC14, SC15, SC16, SC17, SC21, SC22, SC23, SC25, SC27, SC33, SC34."""
    given = {}
    for module in (smtplib, compat):
        with LoopbackServer(**options) as server:
            setup(server)
            smtp = module.SMTP(server.host, server.port, "client.example.com", timeout=10)
            values = calls(smtp)
            smtp.close()
            server.wait_for_connections(0, 10)
            mails = [(mail.sender, sorted(mail.recipients), mail.message.get_content()) for mail in server.mails]
            given[module.__name__] = values, mails
    assert given["smtpconn.contrib.compat"] == given["smtplib"]


def in_clear(module: ModuleType) -> dict[str, Any]:
    """What only the facade asks for: consent to a password without TLS."""
    return {} if module is smtplib else {"allow_plaintext_auth": True}


AUTH_CASES: list[tuple[str, Calls]] = [
    ("login", several(lambda s: s.login("user", "secret"), lambda s: s.sendmail(SENDER, RECIPIENT, MESSAGE))),
    ("wrong password", several(lambda s: s.login("user", "guess"), lambda s: s.login("user", "secret"))),
    ("mail before AUTH", lambda s: outcome_of(lambda t: t.sendmail(SENDER, RECIPIENT, MESSAGE), s)),
    ("own mechanism at once", several(
        lambda s: s.ehlo(), lambda s: s.auth("PLAIN", lambda challenge=None: "\0user\0secret"))),
    ("own mechanism, no argument", several(lambda s: s.ehlo(), lambda s: s.auth("PLAIN", lambda: "\0user\0secret"))),
    ("own mechanism, asked", several(lambda s: s.ehlo(), lambda s: s.auth(
        "PLAIN", lambda challenge: "\0user\0secret", initial_response_ok=False))),
    ("own mechanism, two questions", several(lambda s: s.ehlo(), lambda s: s.auth(
        "LOGIN", lambda challenge: "user" if challenge and b"name" in challenge else "secret",
        initial_response_ok=False))),
    ("own mechanism refused", several(lambda s: s.ehlo(), lambda s: s.auth("PLAIN", lambda: "\0user\0guess"))),
]  # fmt: skip


@pytest.mark.parametrize(("case", "calls"), AUTH_CASES, ids=[case[0] for case in AUTH_CASES])
def test_the_facade_logs_in_as_smtplib_does(case: str, calls: Calls) -> None:
    """users:SC9, SC10, XT12."""
    given = {}
    for module in (smtplib, compat):
        with LoopbackServer(**PASSWORD, mechanisms=("PLAIN", "LOGIN")) as server:
            smtp = module.SMTP(server.host, server.port, "client.example.com", timeout=10, **in_clear(module))
            given[module.__name__] = calls(smtp), [mail.recipients for mail in server.mails]
            smtp.close()
    assert given["smtpconn.contrib.compat"] == given["smtplib"]


@pytest.mark.parametrize("text", ["554 5.3.2 No service", "421 4.3.2 Full"])
def test_a_refused_greeting_is_an_answer_of_connect_and_an_exception_of_the_constructor(text: str) -> None:
    """users:SC1, SC5, XT9."""
    given = {}
    for module in (smtplib, compat):
        with LoopbackServer(greeting=text) as server:
            later = module.SMTP(timeout=10)
            at_once = outcome_of(lambda made: made(server.host, server.port, timeout=10), module.SMTP)
            given[module.__name__] = later.connect(server.host, server.port), at_once
            later.close()
    assert given["smtpconn.contrib.compat"] == given["smtplib"]


def test_host_and_port_may_stand_in_one_string(server: LoopbackServer) -> None:
    """users:SC1, SC33."""
    for module in (smtplib, compat):
        with module.SMTP(f"{server.host}:{server.port}", timeout=10) as smtp:
            assert smtp.noop() == (250, b"2.0.0 Ok")
        with pytest.raises(OSError, match="nonnumeric port"):
            module.SMTP("localhost:smtp", timeout=10)


@pytest.fixture(scope="module")
def ca() -> Iterator[TestAuthority]:
    with TestAuthority() as authority:
        yield authority


def test_STARTTLS_and_implicit_TLS_give_what_smtplib_gives(ca: TestAuthority) -> None:
    """users:SC2, SC5, SC8, SC25: the host given to connect() is the name that is verified."""
    given: dict[str, list[Any]] = {}
    for module in (smtplib, compat):
        context = ssl.create_default_context(cafile=str(ca.path))
        found = given[module.__name__] = []
        with LoopbackServer(tls="starttls", ca=ca) as server:
            smtp = module.SMTP(timeout=10)
            # smtplib verifies the name of its constructor only: that is what SC5 puts right
            smtp = smtp if module is compat else module.SMTP(server.host, server.port, timeout=10)
            if module is compat:
                smtp.connect(server.host, server.port)
            found += [smtp.starttls(context=context), smtp.esmtp_features, smtp.ehlo_resp, smtp.ehlo()[0]]
            found += [smtp.has_extn("starttls"), smtp.sendmail(SENDER, RECIPIENT, MESSAGE), smtp.quit()]
        with LoopbackServer(tls="implicit", ca=ca) as server:
            smtp = module.SMTP_SSL(server.host, server.port, timeout=10, context=context)
            found += [smtp.sendmail(SENDER, RECIPIENT, MESSAGE), isinstance(smtp.sock, ssl.SSLSocket), smtp.quit()]
    assert given["smtpconn.contrib.compat"] == given["smtplib"]


def test_a_subclass_and_a_class_handed_over_work_as_with_smtplib(server: LoopbackServer) -> None:
    """Libraries take the class (`cls_smtp=`), or derive from it."""

    class Tagged(compat.SMTP):
        def sendmail(self, *args: Any, **keywords: Any) -> dict[str, tuple[int, bytes]]:
            self.calls = getattr(self, "calls", 0) + 1
            return super().sendmail(*args, **keywords)

    with Tagged(host=server.host, port=server.port, local_hostname="a.example.com", timeout=10) as smtp:
        smtp.sendmail(SENDER, [RECIPIENT], MESSAGE)
        assert smtp.calls == 1
        assert (smtp.default_port, smtp.timeout, smtp.local_hostname) == (25, 10, "a.example.com")
    server.wait_for_connections(0, 10)
    assert server.sessions[0].ehlo_domain == "a.example.com"
    assert server.sessions[0].commands[-1] == "QUIT"


# --- LMTP: where smtplib loses results (SC30, SC31, U1) ---


@pytest.fixture
def lmtp() -> Iterator[LoopbackServer]:
    with LoopbackServer(protocol="lmtp", unix_socket=True) as server:
        server.refuse("full@example.net", "452 4.2.2 Full", when="data")
        server.refuse("nobody@example.net", "550 5.1.1 No such user")
        yield server


def test_smtplib_loses_a_recipients_refusal_over_LMTP_and_the_facade_does_not(lmtp: LoopbackServer) -> None:
    """users:U1, SC3, SC30."""
    recipients = [RECIPIENT, "full@example.net", "nobody@example.net"]
    refused = {"full@example.net": (452, b"4.2.2 Full"), "nobody@example.net": (550, b"5.1.1 No such user")}
    with smtplib.LMTP(str(lmtp.unix_socket)) as old:
        assert set(old.sendmail(SENDER, recipients, MESSAGE)) == {"nobody@example.net"}, "smtplib learnt it: say so"
        old.close()
    with compat.LMTP(str(lmtp.unix_socket), timeout=10) as smtp:
        assert smtp.sendmail(SENDER, recipients, MESSAGE) == refused
        assert smtp.sendmail(SENDER, [RECIPIENT], MESSAGE) == {}, "the replies of one mail are not the next one's"
        with pytest.raises(smtplib.SMTPRecipientsRefused) as caught:
            smtp.sendmail(SENDER, recipients[1:], MESSAGE)
        assert caught.value.recipients == refused


def test_LMTP_that_is_cut_off_names_those_who_provably_have_no_mail(lmtp: LoopbackServer) -> None:
    """users:SC30, XT15."""
    lmtp.fault("end of data", "EOF-unbooked", recipient="carl@example.net")
    with compat.LMTP(str(lmtp.unix_socket), timeout=10) as smtp:
        with pytest.raises(compat.SMTPDeliveryUnknown) as caught:
            smtp.sendmail(SENDER, ["full@example.net", RECIPIENT, "carl@example.net"], MESSAGE)
        assert caught.value.recipients == {"full@example.net": (452, b"4.2.2 Full")}
        assert not isinstance(caught.value, (smtplib.SMTPServerDisconnected, TimeoutError))
        assert not hasattr(caught.value, "smtp_code")


def test_LMTP_has_no_mail_by_steps(lmtp: LoopbackServer) -> None:
    """users:SC14."""
    with compat.LMTP(str(lmtp.unix_socket), timeout=10) as smtp:
        assert smtp.ehlo()[0] == 250
        smtp.mail(SENDER)
        smtp.rcpt(RECIPIENT)
        with pytest.raises(UsageError, match="sendmail"):
            smtp.data(MESSAGE)
    lmtp.wait_for_connections(0, 10)
    assert lmtp.sessions[-1].commands[0] == "LHLO"


def test_equal_strings_share_an_entry_which_is_there_if_one_was_refused(lmtp: LoopbackServer) -> None:
    """users:SC31."""
    with compat.LMTP(str(lmtp.unix_socket), timeout=10) as smtp:
        refused = smtp.sendmail(SENDER, [RECIPIENT, "full@example.net", "full@example.net"], MESSAGE)
    assert refused == {"full@example.net": (452, b"4.2.2 Full")}


# --- the documented differences, one by one (SC32) ---


def test_a_certificate_that_nobody_vouches_for_gets_no_password(ca: TestAuthority) -> None:
    """users:U15, U16, SC8, SC32, XT6: verified TLS; `tls_config` names the private CA."""
    with LoopbackServer(tls="starttls", ca=ca, **PASSWORD) as server:
        with compat.SMTP(server.host, server.port, timeout=10) as smtp:
            with pytest.raises(compat.SMTPCertificateFailed) as caught:
                smtp.starttls()
            assert isinstance(caught.value, ssl.SSLCertVerificationError)
            assert isinstance(caught.value, smtplib.SMTPException)
            assert smtp.sock is None
        assert "AUTH" not in " ".join(server.sessions[0].commands)
        unverified = ssl.create_default_context()
        unverified.check_hostname = False
        unverified.verify_mode = ssl.CERT_NONE
        with compat.SMTP(server.host, server.port, timeout=10) as smtp, pytest.raises(ValueError):
            smtp.starttls(context=unverified)
        with compat.SMTP(server.host, server.port, timeout=10, tls_config=TlsConfig(trust=ca.path)) as smtp:
            assert smtp.starttls()[0] == 220
            assert smtp.login("user", "secret")[0] == 235


@pytest.mark.parametrize(
    "call", [lambda s: s.ehlo(), lambda s: s.noop(), lambda s: s.sendmail(SENDER, RECIPIENT, MESSAGE)]
)
def test_a_timeout_is_the_total_of_a_call(call: Calls) -> None:
    """users:U13, SC4, SC32, XT1: a server that drips cannot keep it longer."""
    with LoopbackServer() as server:
        for stage in ("EHLO", "NOOP"):
            server.fault(stage, "drip")
        smtp = compat.SMTP(server.host, server.port, timeout=0.4)
        began = time.monotonic()
        with pytest.raises(compat.SMTPTimeout) as caught:
            call(smtp)
        assert time.monotonic() - began < 5
        assert isinstance(caught.value, TimeoutError)
        assert isinstance(caught.value, smtplib.SMTPServerDisconnected)
        assert smtp.sock is None


def test_a_timeout_of_zero_is_refused_and_none_is_not_endless() -> None:
    """users:SC4."""
    with pytest.raises(ValueError):
        compat.SMTP("127.0.0.1", 1, timeout=0)
    assert compat.SMTP(timeout=socket._GLOBAL_DEFAULT_TIMEOUT).timeout is None  # type: ignore[attr-defined]  # as subclasses pass it


def test_a_password_in_clear_needs_consent() -> None:
    """users:SC9, SC10, SC32, XT22."""
    with LoopbackServer(**PASSWORD, mechanisms=("PLAIN",)) as server:
        with compat.SMTP(server.host, server.port, timeout=10) as smtp:
            calls: list[Calls] = [
                lambda s: s.login("user", "secret"), lambda s: s.auth("PLAIN", lambda: "\0user\0secret")
            ]  # fmt: skip
            for call in calls:
                with pytest.raises(smtplib.SMTPAuthenticationError) as caught:
                    call(smtp)
                assert caught.value.smtp_code == 538
                assert b"allow_plaintext_auth" in caught.value.smtp_error
                found = compat.original(caught.value)
                assert found is not None
                assert found.reply is None
        server.wait_for_connections(0, 10)
        assert not [verb for verb in server.sessions[0].commands if verb.startswith("AUTH")]


def test_a_mechanism_that_shows_nothing_is_preferred_and_CRAM_MD5_is_never_used() -> None:
    """users:U21, SC9, SC32."""
    with LoopbackServer(**PASSWORD) as server, compat.SMTP(server.host, server.port, timeout=10) as smtp:
        assert smtp.login("user", "secret")[0] == 235, "SCRAM needs no TLS"
    with LoopbackServer(extensions=("AUTH CRAM-MD5",)) as server:
        smtp = compat.SMTP(server.host, server.port, timeout=10)
        with pytest.raises(smtplib.SMTPException, match="CRAM-MD5") as caught:
            smtp.login("user", "secret")
        assert type(caught.value) is smtplib.SMTPException, "XT19: offered, but nothing that we use"
        smtp.close()


@pytest.mark.parametrize(
    "address",
    [
        "a@b.c>\r\nRSET", "a@example.net, b@example.net", "A <a@example.net> b",
        "A <a@example.net> <b@example.net>", "A <a>",
    ],
)
def test_an_address_that_is_not_exactly_one_is_refused(server: LoopbackServer, address: str) -> None:
    """users:U44, SC18, SC32, XT23."""
    with compat.SMTP(server.host, server.port, timeout=10) as smtp:
        smtp.ehlo()
        for call in (
            lambda: smtp.sendmail(SENDER, [address], MESSAGE),
            lambda: smtp.sendmail(address, [RECIPIENT], MESSAGE),
            lambda: smtp.mail(address),
            lambda: smtp.verify(address),
        ):
            with pytest.raises(InvalidInputError):
                call()
    server.wait_for_connections(0, 10)
    assert server.sessions[0].commands == ["EHLO", "QUIT"]


@pytest.mark.parametrize("smuggled", [b"a\r.\r\nb", b"a\n\r.\nb", b"a\0b"])
def test_octets_that_smuggle_are_refused_and_a_bare_LF_becomes_CRLF(server: LoopbackServer, smuggled: bytes) -> None:
    """users:U35, SC20, SC32."""
    with compat.SMTP(server.host, server.port, timeout=10) as smtp:
        with pytest.raises(ValueError):
            smtp.sendmail(SENDER, RECIPIENT, smuggled)
        smtp.mail(SENDER)
        smtp.rcpt(RECIPIENT)
        with pytest.raises(ValueError):
            smtp.data(smuggled)
        smtp.rset()
        smtp.sendmail(SENDER, RECIPIENT, b"Subject: a\n\n.\nb\n")
    assert [mail.content for mail in server.mails] == [b"Subject: a\r\n\r\n.\r\nb\r\n"]


def test_a_str_that_is_not_ASCII_is_refused_as_smtplib_refuses_it(server: LoopbackServer) -> None:
    """users:SC19."""
    for module in (smtplib, compat):
        with module.SMTP(server.host, server.port, timeout=10) as smtp, pytest.raises(UnicodeEncodeError):
            smtp.sendmail(SENDER, RECIPIENT, "Subject: ä\n")


def test_RSET_goes_in_front_of_the_mail_behind_a_refused_one(server: LoopbackServer) -> None:
    """users:U2, SC32: by `sendmail`, and by steps."""
    server.reply("DATA", "451 4.3.0 Full", nth=(1, 2))
    with compat.SMTP(server.host, server.port, timeout=10) as smtp:
        for _ in range(2):
            with pytest.raises(smtplib.SMTPDataError):
                smtp.sendmail("other@example.com", RECIPIENT, MESSAGE)
        smtp.mail(SENDER)
        smtp.rcpt(RECIPIENT)
        assert smtp.data(MESSAGE)[0] == 250
    assert [mail.sender for mail in server.mails] == [SENDER]
    assert server.sessions[0].commands.count("RSET") == 2


def test_leaving_a_block_never_raises_and_hides_nothing(server: LoopbackServer) -> None:
    """users:U26, SC22, SC23, SC32."""
    server.fault("QUIT", "RST")
    with pytest.raises(KeyError, match="the body's own"), compat.SMTP(server.host, server.port, timeout=10):
        raise KeyError("the body's own")
    with compat.SMTP(server.host, server.port, timeout=10) as smtp:
        code, text = smtp.quit()
    assert (code, type(text)) == (-1, bytes)


def test_half_an_exchange_is_not_offered(server: LoopbackServer) -> None:
    """users:SC17, SC26, SC32: what has a method, and what would write without reading."""
    with compat.SMTP(server.host, server.port, timeout=10) as smtp:
        for call in (lambda: smtp.send(b"NOOP\r\n"), lambda: smtp.putcmd("NOOP"), smtp.getreply):
            with pytest.raises(UsageError, match="docmd"):
                call()
        for verb in ("DATA", "bdat", "STARTTLS", "auth", "QUIT", "BDAT 5 LAST"):
            with pytest.raises(UsageError):
                smtp.docmd(verb)
        for line in ("NOOP\r\nRSET", "NOOP \n", "NO\0OP", "NOOP ä"):
            with pytest.raises(ValueError):
                smtp.docmd(line)
        with pytest.raises(UsageError, match="mail"):
            smtp.rcpt(RECIPIENT)
        with pytest.raises(UsageError, match="mail"):
            smtp.data(MESSAGE)
        assert smtp.noop()[0] == 250
    server.wait_for_connections(0, 10)
    assert server.sessions[0].commands == ["NOOP", "QUIT"]


def test_DATA_without_an_accepted_recipient_sends_nothing() -> None:
    """users:SC14: also where the server is so kind as to ask for the message."""
    with LoopbackServer(quirks=("354-without-recipients",)) as server:
        server.refuse("nobody@example.net", "550 5.1.1 No such user")
        with compat.SMTP(server.host, server.port, timeout=10) as smtp:
            smtp.ehlo()
            smtp.mail(SENDER)
            smtp.rcpt("nobody@example.net")
            with pytest.raises(UsageError, match="accepted"):
                smtp.data(MESSAGE)
    assert server.mails == []


def test_the_debug_output_goes_to_a_logger_without_the_password(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """users:U41, SC24, SC32: of this connection alone, and nothing is printed."""
    with LoopbackServer(**PASSWORD, mechanisms=("PLAIN",)) as server, caplog.at_level(logging.DEBUG, "smtpconn"):
        logging.getLogger("smtpconn.wire").setLevel(logging.WARNING)
        with compat.SMTP(server.host, server.port, timeout=10, allow_plaintext_auth=True) as smtp:
            smtp.set_debuglevel(1)
            smtp.login("user", "secret")
            smtp.set_debuglevel(0)
            smtp.noop()
    wire = [record.getMessage() for record in caplog.records if record.name == "smtpconn.wire"]
    assert [text.rpartition(": C: ")[2] for text in wire if ": C: " in text][1:] == ["AUTH PLAIN ***"]
    shown = "\n".join(wire)
    assert "secret" not in shown
    assert base64.b64encode(b"\0user\0secret").decode() not in shown
    assert capfd.readouterr() == ("", "")


def test_a_mail_whose_fate_is_not_known_is_no_disconnection(server: LoopbackServer) -> None:
    """users:U25, XT8, XT15, XT28: neither by `sendmail` nor by steps."""
    server.fault("end of data", "EOF")
    for send in (lambda s: s.sendmail(SENDER, RECIPIENT, MESSAGE), lambda s: [
        s.ehlo(), s.mail(SENDER), s.rcpt(RECIPIENT), s.data(MESSAGE)]):  # fmt: skip
        with compat.SMTP(server.host, server.port, timeout=10) as smtp:
            with pytest.raises(compat.SMTPDeliveryUnknown) as caught:
                send(smtp)
            assert isinstance(caught.value, smtplib.SMTPException)
            assert not isinstance(caught.value, smtplib.SMTPServerDisconnected)
            assert smtp.sock is None


def test_a_policy_is_asked_for_a_mail_by_steps_too(server: LoopbackServer) -> None:
    policy = BoundedPolicy(max_recipients=1, max_message_bytes=100)
    with compat.SMTP(server.host, server.port, timeout=10, policy=policy) as smtp:
        smtp.ehlo()
        smtp.mail(SENDER)
        smtp.rcpt(RECIPIENT)
        with pytest.raises(smtplib.SMTPException, match="recipients"):
            smtp.rcpt("carl@example.net")
        with pytest.raises(smtplib.SMTPException, match="100"):
            smtp.data(b"x" * 101)
    assert server.mails == []


def test_threads_may_share_a_connection(server: LoopbackServer) -> None:
    """users:SC28: smtplib mixes their replies up."""
    failures: list[BaseException] = []
    with compat.SMTP(server.host, server.port, timeout=30) as smtp:

        def work(number: int) -> None:
            try:
                for _ in range(10):
                    assert smtp.sendmail(f"s{number}@example.com", [f"r{number}@example.net"], MESSAGE) == {}
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert failures == []
    assert all(mail.sender[1] == mail.recipients[0][1] for mail in server.mails)
    assert len(server.mails) == 40


# --- over a pool ---


def test_a_class_over_a_pool_leases_on_first_use_and_gives_back(server: LoopbackServer) -> None:
    """users:SC29: where a library makes and quits a connection for each mail, the pool keeps it."""
    with ConnectionPool.from_url(server.url, timeout=10, max_size=2) as pool:
        made = compat.smtp_class(pool)
        for _ in range(5):
            smtp = made("ignored.example.com", 2525, timeout=5)
            assert pool.stats().leased == 0
            assert smtp.ehlo()[0] == 250
            assert smtp.has_extn("size")
            assert pool.stats().leased == 1
            assert smtp.sendmail(SENDER, [RECIPIENT], MESSAGE) == {}
            assert smtp.quit()[0] == 221
            assert pool.stats().leased == 0
        with made() as smtp:
            smtp.mail("left@example.com")
        assert pool.stats().leased == 0
        with made() as smtp:
            smtp.send_message(message())
        with pytest.raises(smtplib.SMTPNotSupportedError), made() as smtp:
            smtp.starttls()
        with pytest.raises(smtplib.SMTPNotSupportedError), made() as smtp:
            smtp.login("user", "secret")
        assert pool.stats().leased == 0
    assert [mail.sender for mail in server.mails] == [SENDER] * 6
    assert len(server.sessions) == 1


def test_a_class_over_a_pool_with_TLS_and_an_account_has_nothing_to_do_for_them(ca: TestAuthority) -> None:
    """users:SC29: a library that calls `starttls` and `login` for each mail need not be told not to."""
    with LoopbackServer(tls="starttls", ca=ca, auth={"user": "secret"}) as server:
        with ConnectionPool.from_url(server.url, timeout=10) as pool:
            for _ in range(2):
                with compat.smtp_class(pool)() as smtp:
                    assert smtp.ehlo_or_helo_if_needed() is None  # type: ignore[func-returns-value]  # as smtplib's
                    assert [smtp.starttls()[0], smtp.login("whoever", "whatever")[0]] == [220, 235]
                    assert smtp.sendmail(SENDER, [RECIPIENT], MESSAGE) == {}
        server.wait_for_connections(0, 10)
        assert server.sessions[0].user == "user"
        commands = server.sessions[0].commands
        assert len(server.sessions) == commands.count("STARTTLS") == 1
        assert len([verb for verb in commands if verb.startswith("AUTH")]) == 1


def test_the_module_has_the_classes_the_exceptions_and_the_ports_of_smtplib() -> None:
    """users:SC34: an import is the whole change. What smtplib raises is the very same class."""
    for name in smtplib.__all__:
        theirs = getattr(smtplib, name)
        if isinstance(theirs, type):
            assert name in compat.__all__
            assert issubclass(theirs, smtplib.SMTP) or getattr(compat, name) is theirs, name
    assert (compat.SMTP_PORT, compat.SMTP_SSL_PORT, compat.LMTP_PORT) == (25, 465, smtplib.LMTP_PORT)


def test_a_dead_connection_of_the_pool_is_replaced_between_mails(server: LoopbackServer) -> None:
    """users:SC29, U5."""
    with ConnectionPool.from_url(server.url, timeout=10) as pool, compat.smtp_class(pool)() as smtp:
        smtp.sendmail(SENDER, [RECIPIENT], MESSAGE)
        server.fault("NOOP", "EOF", nth=1)
        with contextlib.suppress(smtplib.SMTPException):
            smtp.noop()
        assert smtp.sendmail(SENDER, [RECIPIENT], MESSAGE) == {}
    assert len(server.mails) == 2


def test_a_pool_that_has_no_connection_left_says_so_in_smtplibs_family(server: LoopbackServer) -> None:
    """users:XT7."""
    with ConnectionPool.from_url(server.url, timeout=10, max_size=1, acquire_timeout=0.1) as pool, pool.connection():
        smtp = compat.smtp_class(pool)()
        with pytest.raises(compat.SMTPPoolTimeout) as caught:
            smtp.noop()
    assert isinstance(caught.value, TimeoutError)
    assert isinstance(compat.original(caught.value), PoolTimeoutError)
