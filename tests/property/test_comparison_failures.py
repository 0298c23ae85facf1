"""users:DO7: rows of docs/comparison.rst that say what happens when something is amiss; see `test_comparison.py`."""

from __future__ import annotations

import asyncio
import contextlib
import email.utils
import io
import logging
import os
import signal
import smtplib
import socket
import ssl
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import aiosmtplib
import pytest

import smtpconn
from smtpconn import (
    ConnectionPool,
    DeliveryUnknownError,
    SmtpConnection,
    TlsConfig,
    TlsMode,
    XOAuth2Auth,
)
from smtpconn.testing import LoopbackServer, TestAuthority

from .comparing import (
    BEN,
    MESSAGE,
    SENDER,
    Peer,
    Said,
    ehlo_and_noop,
    noop,
    old,
    ours,
    outcome,
    with_asyncio,
)

# --- when something fails ---


def test_CT22_a_connection_that_is_lost_before_and_after_the_message_was_handed_over(
    said: Said, server: LoopbackServer
) -> None:
    """users:CT22: whether code can tell "not delivered" from "nobody knows"."""

    def by_smtplib() -> None:
        with contextlib.closing(old(server)) as client:
            client.sendmail(SENDER, [BEN], MESSAGE)

    def by_aiosmtplib() -> None:
        with_asyncio(server, lambda client: client.sendmail(SENDER, [BEN], MESSAGE))

    def by_smtpconn() -> None:
        with ours(server) as connection:
            connection.send(SENDER, [BEN], MESSAGE, timeout=20)

    words = []
    for call in (by_smtplib, by_aiosmtplib, by_smtpconn):
        kinds = []
        for stage in ("MAIL", "end of data"):
            server.fault(stage, "EOF", nth=1)
            with pytest.raises(Exception) as caught:
                call()
            kinds.append(caught.type)
        words.append("the same exception" if kinds[0] is kinds[1] else "two exceptions")
    assert kinds[1] is DeliveryUnknownError
    said(*words)


def test_CT8_an_idle_connection_that_the_server_has_closed(said: Said, server: LoopbackServer) -> None:
    """users:U5, CT6, CT8."""
    words = {"good": "is replaced", "bad": "an exception"}
    with contextlib.closing(old(server)) as client:
        client.sendmail(SENDER, [BEN], MESSAGE)
        server.close_idle("421 4.4.2 Idle too long")
        one = outcome(lambda: client.sendmail(SENDER, [BEN], MESSAGE), smtplib.SMTPException, **words)

    async def twice(client: aiosmtplib.SMTP) -> None:
        await client.sendmail(SENDER, [BEN], MESSAGE)
        server.close_idle("421 4.4.2 Idle too long")
        await client.sendmail(SENDER, [BEN], MESSAGE)

    two = outcome(lambda: with_asyncio(server, twice), aiosmtplib.SMTPException, **words)
    with ConnectionPool.from_url(server.url, timeout=20) as pool:
        pool.send(SENDER, [BEN], MESSAGE)
        server.close_idle("421 4.4.2 Idle too long")
        three = outcome(lambda: pool.send(SENDER, [BEN], MESSAGE), smtpconn.SmtpError, **words)
    said(one, two, three + " (pool)")


def test_CT39_the_mail_behind_one_whose_DATA_was_refused(said: Said, server: LoopbackServer) -> None:
    """users:U2."""

    def word(sends: Callable[[], object], error: type[Exception]) -> str:
        server.reply("DATA", "451 4.3.0 Try later", nth=1)
        with pytest.raises(error):
            sends()
        return outcome(sends, error, good="is sent", bad="is refused, too")

    with contextlib.closing(old(server)) as client:
        one = word(lambda: client.sendmail(SENDER, [BEN], MESSAGE), smtplib.SMTPException)

    async def both(client: aiosmtplib.SMTP) -> str:
        server.reply("DATA", "451 4.3.0 Try later", nth=1)
        with pytest.raises(aiosmtplib.SMTPException):
            await client.sendmail(SENDER, [BEN], MESSAGE)
        try:
            await client.sendmail(SENDER, [BEN], MESSAGE)
        except aiosmtplib.SMTPException:
            return "is refused, too"
        return "is sent"

    two = with_asyncio(server, both)
    with ours(server) as connection:
        three = word(lambda: connection.send(SENDER, [BEN], MESSAGE, timeout=20), smtpconn.SmtpError)
    said(one, two, three)


class InterruptedCallError(Exception):
    """What a signal handler raises."""


@pytest.fixture
def interrupting() -> Iterator[Callable[[], None]]:
    """Interrupts the main thread, which waits for a server."""

    def interrupted(*_: object) -> None:
        raise InterruptedCallError

    before = signal.signal(signal.SIGUSR1, interrupted)
    yield lambda: os.kill(os.getpid(), signal.SIGUSR1)
    signal.signal(signal.SIGUSR1, before)


def test_CT40_the_call_behind_one_that_was_interrupted(said: Said, interrupting: Callable[[], None]) -> None:
    """users:U4: an exception out of a signal handler, or a task that is cancelled, while the reply is awaited."""
    asked = threading.Event()

    def talk(interrupt: Callable[[], None]) -> Callable[[Peer], None]:
        def conversation(peer: Peer) -> None:
            peer.line()
            interrupt()
            peer.line()  # the next command; a client that is wise closes
            peer.say(b"250 answer to the first\r\n250 answer to the second\r\n")
            with contextlib.suppress(OSError):
                peer.line()

        return conversation

    with Peer(talk(interrupting)) as peer, contextlib.closing(old(peer)) as client:
        client.ehlo()
        with pytest.raises(InterruptedCallError):
            client.noop()
        _, text = client.noop()
    one = "is given the other's reply" if text == b"answer to the first" else "?"

    async def cancelled(client: aiosmtplib.SMTP) -> str:
        await client.ehlo()
        task = asyncio.ensure_future(client.noop())
        while not asked.is_set():
            await asyncio.sleep(0.01)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        try:
            reply = await client.noop()
        except aiosmtplib.SMTPException:
            return "is refused"
        return "is given the other's reply" if reply.message == "answer to the first" else "?"

    with Peer(talk(asked.set)) as peer:
        two = with_asyncio(peer, cancelled)
    with Peer(talk(interrupting)) as peer, contextlib.closing(ours(peer)) as connection:
        with pytest.raises(InterruptedCallError):
            connection.noop(timeout=20)
        with pytest.raises(smtpconn.SmtpError):
            connection.noop(timeout=20)
        three = "is refused" if not connection.usable else "?"
    said(one, two, three)


# --- time ---


def test_CT12_without_a_timeout(said: Said) -> None:
    client: Any = smtplib.SMTP(local_hostname="client.test")
    assert socket.getdefaulttimeout() is None
    endless = client.timeout is socket._GLOBAL_DEFAULT_TIMEOUT  # type: ignore[attr-defined]  # what smtplib itself says
    with pytest.raises(TypeError, match="timeout"):
        SmtpConnection.connect("127.0.0.1", 25, TlsMode.NONE)  # type: ignore[call-arg]  # that is the point
    said(
        "waits for ever" if endless else "?",
        f"{aiosmtplib.SMTP().timeout:g} s for each command",
        "is a TypeError",
    )


def test_CT10_a_reply_that_takes_longer_than_the_timeout_octet_by_octet(said: Said) -> None:
    """users:U13, CT10: one second, and two seconds of an octet each 50 ms."""

    def drip(peer: Peer) -> None:
        peer.line()
        for octet in b"250 " + b"x" * 34 + b"\r\n":
            peer.say(bytes([octet]))
            time.sleep(0.05)

    with Peer(drip) as peer, contextlib.closing(old(peer, timeout=1)) as client:
        client.ehlo_resp = b"peer.test"
        client.ehlo()
        one = outcome(client.noop, OSError, good="is waited for", bad="ends the call")
    with Peer(drip) as peer:
        two = outcome(
            lambda: with_asyncio(peer, ehlo_and_noop, timeout=1),
            aiosmtplib.SMTPException,
            good="is waited for",
            bad="ends the call",
        )
    with Peer(drip) as peer, contextlib.closing(ours(peer)) as connection:
        three = outcome(
            lambda: connection.noop(timeout=1), smtpconn.SmtpTimeoutError, good="is waited for", bad="ends the call"
        )
    said(one, two, three)


def test_CT11_a_mail_whose_replies_together_take_longer_than_the_timeout(said: Said) -> None:
    """users:CT11: 2.5 s, and 1.4 s for each flight."""

    def by_smtplib(server: LoopbackServer) -> str:
        with contextlib.closing(old(server, timeout=2.5)) as client:
            return outcome(
                lambda: client.sendmail(SENDER, [BEN], MESSAGE), OSError, good="takes its time", bad="ends in time"
            )

    def by_aiosmtplib(server: LoopbackServer) -> str:
        return outcome(
            lambda: with_asyncio(server, lambda client: client.sendmail(SENDER, [BEN], MESSAGE), timeout=2.5),
            aiosmtplib.SMTPException,
            good="takes its time",
            bad="ends in time",
        )

    def by_smtpconn(server: LoopbackServer) -> str:
        with contextlib.closing(ours(server)) as connection:
            return outcome(
                lambda: connection.send(SENDER, [BEN], MESSAGE, timeout=2.5),
                smtpconn.SmtpTimeoutError,
                DeliveryUnknownError,
                good="takes its time",
                bad="ends in time",
            )

    def measured(call: Callable[[LoopbackServer], str]) -> str:
        with LoopbackServer(rtt=1.4) as server:
            return call(server)

    with ThreadPoolExecutor(3) as threads:
        said(*threads.map(measured, (by_smtplib, by_aiosmtplib, by_smtpconn)))


# --- security ---


def test_CT27_certificates_by_default(said: Said, authority: TestAuthority) -> None:
    """users:CT27, U15: of an authority that nobody knows."""
    with LoopbackServer(tls="starttls", ca=authority) as server:
        words = {"good": "are not verified", "bad": "are verified"}
        with contextlib.closing(old(server)) as client:
            one = outcome(client.starttls, ssl.SSLError, **words)
        two = outcome(
            lambda: with_asyncio(server, noop, start_tls=True), aiosmtplib.SMTPException, ssl.SSLError, **words
        )
        three = outcome(lambda: ours(server, TlsMode.STARTTLS).close(), smtpconn.CertificateError, **words)
    said(one, two, three)


def test_CT28_a_password_where_the_server_offers_no_STARTTLS(said: Said) -> None:
    """users:CT28, U19: with each library's defaults."""
    with LoopbackServer(auth={"anna": "secret"}, mechanisms=("PLAIN",)) as server:

        def word() -> str:
            return "is sent in clear" if server.sessions[-1].user == "anna" else "is not sent"

        with old(server) as client:
            client.login("anna", "secret")
        one = word()
        with_asyncio(server, noop, start_tls=None, username="anna", password="secret")
        two = word()
        with pytest.raises(smtpconn.UsageError):
            ours(server, credentials=("anna", "secret"))
        three = word()
    said(one, two, three)


def test_CT29_octets_that_stand_behind_the_answer_to_STARTTLS(said: Said, authority: TestAuthority) -> None:
    """users:U44."""
    words = {"good": "are dropped", "bad": "end the connection"}
    trust = ssl.create_default_context(cafile=authority.path)
    with LoopbackServer(tls="starttls", ca=authority) as server:
        server.fault("STARTTLS", "surplus")
        with contextlib.closing(old(server)) as client:
            one = outcome(lambda: (client.starttls(context=trust), client.noop()), OSError, **words)
        two = outcome(
            lambda: with_asyncio(server, noop, start_tls=True, tls_context=trust), aiosmtplib.SMTPException, **words
        )
        three = outcome(
            lambda: ours(server, TlsMode.STARTTLS, tls_config=TlsConfig(trust=authority.path)).close(),
            smtpconn.StartTlsInjectionError,
            **words,
        )
    said(one, two, three)


def test_CT30_a_reply_of_4_MB(said: Said) -> None:
    def flood(peer: Peer) -> None:
        peer.line()
        for _ in range(4_000):
            peer.say(b"250-" + b"x" * 994 + b"\r\n")
        peer.say(b"250 that is all\r\n")

    words = {"good": "is taken", "bad": "is refused"}
    with Peer(flood) as peer, contextlib.closing(old(peer)) as client:
        client.ehlo()
        one = outcome(client.noop, OSError, **words)
    with Peer(flood) as peer:
        two = outcome(lambda: with_asyncio(peer, ehlo_and_noop), aiosmtplib.SMTPException, **words)
    with Peer(flood) as peer, contextlib.closing(ours(peer)) as connection:
        three = outcome(lambda: connection.noop(timeout=20), smtpconn.ProtocolError, **words)
    said(one, two, three)


def test_CT31_a_bare_CR_in_the_octets_of_a_message(said: Said) -> None:
    """users:CT31, U35: some servers take it for a line end, and so see a second mail."""
    smuggling = b"Subject: x\r\n\r\nfirst\r.\rMAIL FROM:<victim@example.com>\r\n"

    def measured(send: Callable[[Peer], object], error: type[Exception]) -> str:
        got: list[bytes] = []

        def talk(peer: Peer) -> None:
            while not (line := peer.line()).upper().startswith(b"DATA"):
                peer.say(b"250 ok\r\n" if not line.upper().startswith(b"QUIT") else b"221 bye\r\n")
            peer.say(b"354 go on\r\n")
            while not b"".join(got).endswith(b"\r\n.\r\n"):
                got.append(peer.line())
            peer.say(b"250 taken\r\n")

        with Peer(talk) as peer:
            try:
                send(peer)
            except error:
                assert not got
                return "is refused"
        return "is sent" if b"\r.\r" in b"".join(got) else "is converted"

    def by_smtplib(peer: Peer) -> None:
        with contextlib.closing(old(peer)) as client:
            client.sendmail(SENDER, [BEN], smuggling)

    def by_smtpconn(peer: Peer) -> None:
        with contextlib.closing(ours(peer)) as connection:
            connection.send(SENDER, [BEN], smuggling, timeout=20)

    said(
        measured(by_smtplib, ValueError),
        measured(lambda peer: with_asyncio(peer, lambda client: client.sendmail(SENDER, [BEN], smuggling)), ValueError),
        measured(by_smtpconn, smtpconn.InvalidInputError),
    )


def test_CT41_a_line_end_in_an_address(said: Said, server: LoopbackServer) -> None:
    """users:U44: the other two do as `email.utils.parseaddr` of Python does, which became strict in 2024."""
    hostile = "anna@example.com>\r\nRSET\r\nMAIL FROM:<victim@example.com"
    words = {"good": "is cut off, the rest sent", "bad": "is refused"}
    with old(server) as client:
        one = outcome(lambda: client.sendmail(hostile, [BEN], MESSAGE), ValueError, smtplib.SMTPException, **words)
    two = outcome(
        lambda: with_asyncio(server, lambda client: client.sendmail(hostile, [BEN], MESSAGE)),
        ValueError,
        aiosmtplib.SMTPException,
        **words,
    )
    with ours(server) as connection:
        three = outcome(
            lambda: connection.send(hostile, [BEN], MESSAGE, timeout=20), smtpconn.InvalidInputError, **words
        )
    assert {mail.sender for mail in server.mails} <= {SENDER}
    assert one == two == words["bad" if hasattr(email.utils, "supports_strict_parsing") else "good"]
    parsed = "is refused by newer Pythons; else cut off, the rest sent"
    said(parsed, parsed, three)


def test_CT32_the_password_in_the_log_of_a_login(
    said: Said, authority: TestAuthority, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """users:CT32, U41: at the most talkative level that each has."""
    hidden = "AGFubmEAc2VjcmV0"  # PLAIN of anna and secret
    config = TlsConfig(trust=authority.path)
    with LoopbackServer(tls="starttls", ca=authority, auth={"anna": "secret"}, mechanisms=("PLAIN",)) as server:
        printed = io.StringIO()
        with old(server) as client:
            client.starttls(context=ssl.create_default_context(cafile=authority.path))
            monkeypatch.setattr(sys, "stderr", printed)
            client.set_debuglevel(1)
            client.login("anna", "secret")
            client.set_debuglevel(0)
            monkeypatch.undo()
        caplog.set_level(logging.DEBUG)
        with_asyncio(
            server,
            noop,
            start_tls=True,
            tls_context=ssl.create_default_context(cafile=authority.path),
            username="anna",
            password="secret",
        )
        told = [record for record in caplog.records if record.name.startswith("aiosmtplib")]
        caplog.set_level(logging.DEBUG, logger="smtpconn.wire")
        ours(server, TlsMode.STARTTLS, tls_config=config, credentials=("anna", "secret")).close()
    ours_told = [record.getMessage() for record in caplog.records if record.name == "smtpconn.wire"]
    assert any("AUTH PLAIN" in text for text in ours_told)
    said(
        "is printed" if hidden in printed.getvalue() else "?",
        "there is no log" if not told else "?",
        "is hidden" if not any(hidden in text or "secret" in text for text in ours_told) else "?",
    )


def test_CT18_octets_above_127_where_the_server_does_not_offer_8BITMIME(said: Said) -> None:
    eight_bit = b"Subject: x\r\n\r\n\xc3\xbc\r\n"
    words = {"good": "are sent", "bad": "are refused"}
    with LoopbackServer(extensions=("PIPELINING",)) as server:
        with old(server) as client:
            one = outcome(lambda: client.sendmail(SENDER, [BEN], eight_bit), smtplib.SMTPException, **words)
        two = outcome(
            lambda: with_asyncio(server, lambda client: client.sendmail(SENDER, [BEN], eight_bit)),
            aiosmtplib.SMTPException,
            **words,
        )
        with ours(server) as connection:
            three = outcome(
                lambda: connection.send(SENDER, [BEN], eight_bit, timeout=20),
                smtpconn.ExtensionUnavailableError,
                **words,
            )
    said(one, two, three)


def test_CT17_a_message_that_is_larger_than_the_server_takes(said: Said) -> None:
    large = b"Subject: x\r\n\r\n" + b"x" * 2_000 + b"\r\n"
    with LoopbackServer(size_limit=1_000) as server:
        with old(server) as client, pytest.raises(smtplib.SMTPException):
            client.sendmail(SENDER, [BEN], large)
        with pytest.raises(aiosmtplib.SMTPException):
            with_asyncio(server, lambda client: client.sendmail(SENDER, [BEN], large))
        with ours(server) as connection, pytest.raises(smtpconn.ExtensionUnavailableError):
            connection.send(SENDER, [BEN], large, timeout=20)
        asked = ["MAIL" in session.commands for session in server.sessions]
        assert not any("DATA" in session.commands for session in server.sessions)
    said(*("the server is asked first" if mail else "is refused before anything is written" for mail in asked))


def test_CT25_mechanisms_of_AUTH(said: Said) -> None:
    by_smtplib = {name.removeprefix("auth_").replace("_", "-").upper() for name in dir(smtplib.SMTP) if "auth_" in name}
    by_aiosmtplib = {str(name).upper() for name in aiosmtplib.SMTP.AUTH_METHODS}
    by_smtpconn = {name.removeprefix("auth_").upper() for name in dir(SmtpConnection) if name.startswith("auth_")}
    assert by_smtpconn == {"PLAIN", "LOGIN", "SCRAM", "XOAUTH2", "OAUTHBEARER"}
    assert by_aiosmtplib <= {"PLAIN", "LOGIN", "CRAM-MD5"}
    said(
        ", ".join(sorted(by_smtplib)),
        ", ".join([*sorted(by_aiosmtplib), "XOAUTH2"] if hasattr(aiosmtplib.SMTP, "auth_xoauth2") else ["?"]),
        "LOGIN, OAUTHBEARER, PLAIN, SCRAM-SHA-256 (-PLUS), XOAUTH2",
    )


def test_CT26_a_token_that_is_fetched_when_it_is_needed(said: Said, authority: TestAuthority) -> None:
    async def token() -> str:
        return "token-1"

    with LoopbackServer(tls="starttls", ca=authority, tokens={"anna": "token-1"}) as server:
        trust = ssl.create_default_context(cafile=authority.path)
        with old(server) as client:
            client.starttls(context=trust)
            password: Any = lambda: "token-1"  # noqa: E731
            one = outcome(
                lambda: client.login("anna", password), TypeError, smtplib.SMTPException, good="yes", bad="no"
            )
        with_asyncio(server, noop, start_tls=True, tls_context=trust, username="anna", oauth_token_generator=token)
        two = "yes" if server.sessions[-1].user == "anna" else "no"
        credentials = XOAuth2Auth("anna", lambda: "token-1")
        config = TlsConfig(trust=authority.path)
        with ours(server, TlsMode.STARTTLS, tls_config=config, credentials=credentials) as connection:
            three = "yes" if connection.is_authenticated else "no"
    said(one, two, three)
