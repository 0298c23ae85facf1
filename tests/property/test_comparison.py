"""users:DO7: each row of docs/comparison.rst is measured, by the same work done with all three.

The page is the one table: a test measures what its row says and compares the words; a row without a test, or a test
without a row, fails. Versions are those of the environment; where one changes, the page has to.
This module has what they do, `test_comparison_failures.py` what they do when something is amiss.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import os
import re
import smtplib
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from email.message import EmailMessage
from importlib import metadata
from pathlib import Path
from typing import Any

import aiosmtplib
import pytest

import smtpconn
from smtpconn import (
    Delivery,
    RcptParams,
    Recipient,
    SmtpConnection,
    TlsConfig,
    TlsMode,
)
from smtpconn.testing import LoopbackServer, Relay, TestAuthority

from .comparing import (
    BEN,
    CARLA,
    MESSAGE,
    PAGE,
    ROWS,
    SENDER,
    Peer,
    Said,
    noop,
    old,
    ours,
    outcome,
    run_and_sweep,
    with_asyncio,
)
from .examples import aiosmtplib_one

# --- sending ---


def test_CT1_how_a_caller_waits(said: Said) -> None:
    verbs = (smtplib.SMTP.sendmail, aiosmtplib.SMTP.sendmail, SmtpConnection.send)
    said(*("awaits" if inspect.iscoroutinefunction(verb) else "blocks its thread" for verb in verbs))


def test_CT14_round_trips_on_a_connection_that_is_open(said: Said, server: LoopbackServer) -> None:
    """users:CT13, CT14; bench measures what they cost."""
    many = [f"user{number}@example.net" for number in range(50)]
    counts: list[list[int]] = []

    def count(relay: Relay, send: Callable[[list[str]], object]) -> None:
        before = relay.flights
        send([BEN])
        after = relay.flights
        send(many)
        counts.append([after - before, relay.flights - after])

    with Relay(server, delay=0.01) as relay, old(relay) as client:
        client.ehlo()
        count(relay, lambda to: client.sendmail(SENDER, to, MESSAGE))

    async def asynchronous(client: aiosmtplib.SMTP) -> None:
        await client.ehlo()
        trips = [relay.flights]
        for to in ([BEN], many):
            await client.sendmail(SENDER, to, MESSAGE)
            trips.append(relay.flights)
        counts.append([trips[1] - trips[0], trips[2] - trips[1]])

    with Relay(server, delay=0.01) as relay:
        with_asyncio(relay, asynchronous)
    with Relay(server, delay=0.01) as relay, ours(relay) as connection:
        count(relay, lambda to: connection.send(SENDER, to, MESSAGE, timeout=20))
    said(*(f"{one} / {fifty}" for one, fifty in counts))


def test_CT3_a_pool(said: Said) -> None:
    said(
        *(
            "yes" if any("pool" in name.lower() for name in dir(module)) else "no"
            for module in (smtplib, aiosmtplib, smtpconn)
        )
    )


def test_CT2_callers_that_share_a_connection(said: Said) -> None:
    """users:CT2, U27: the second begins while the first waits for the reply to MAIL."""

    def measured(send: Callable[[Peer, threading.Event, threading.Event], None]) -> str:
        waiting, done = threading.Event(), threading.Event()
        mixed = []

        def talk(peer: Peer) -> None:
            while not peer.line().upper().startswith(b"MAIL"):
                peer.say(b"250 ok\r\n")
            waiting.set()
            peer.sock.setblocking(False)
            end = time.monotonic() + 20
            while not done.is_set() and time.monotonic() < end:
                with contextlib.suppress(BlockingIOError):
                    mixed.append(peer.sock.recv(1000))
                    break
                time.sleep(0.01)

        with Peer(talk) as peer:
            send(peer, waiting, done)
        return "their commands mix" if mixed and mixed[0] else "they take turns"

    def in_two_threads(first: Callable[[], object], second: Callable[[], object], *events: threading.Event) -> None:
        waiting, done = events
        with ThreadPoolExecutor(2) as threads:
            one = threads.submit(first)
            assert waiting.wait(20)
            two = threads.submit(second)
            wait([two], 30)
            done.set()
            wait([one], 30)

    def by_smtplib(peer: Peer, *events: threading.Event) -> None:
        with contextlib.closing(old(peer)) as client:
            in_two_threads(lambda: client.sendmail(SENDER, [BEN], MESSAGE), lambda: client.noop(), *events)

    def by_aiosmtplib(peer: Peer, waiting: threading.Event, done: threading.Event) -> None:
        async def work(client: aiosmtplib.SMTP) -> None:
            one = asyncio.ensure_future(client.sendmail(SENDER, [BEN], MESSAGE))
            while not waiting.is_set():
                await asyncio.sleep(0.01)
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(client.sendmail(SENDER, [CARLA], MESSAGE), 0.5)
            done.set()
            with contextlib.suppress(aiosmtplib.SMTPException):
                await one

        with_asyncio(peer, work)

    def by_smtpconn(peer: Peer, *events: threading.Event) -> None:
        with contextlib.closing(ours(peer)) as connection:
            in_two_threads(
                lambda: connection.send(SENDER, [BEN], MESSAGE, timeout=20),
                lambda: connection.noop(timeout=0.5),
                *events,
            )

    said(measured(by_smtplib), measured(by_aiosmtplib) + " (tasks)", measured(by_smtpconn))


def test_CT15_BDAT_where_the_server_offers_it(said: Said, server: LoopbackServer) -> None:
    with ours(server) as connection:
        connection.send_bdat(SENDER, [BEN], MESSAGE, timeout=20)
    assert "BDAT" in server.sessions[0].commands
    said(
        *(
            "yes" if any("bdat" in name.lower() for name in dir(client)) else "no"
            for client in (smtplib.SMTP, aiosmtplib.SMTP, SmtpConnection)
        )
    )


def test_CT16_delivery_reports_of_recipients(said: Said, server: LoopbackServer) -> None:
    with old(server) as client:
        client.sendmail(SENDER, [BEN, CARLA], MESSAGE, rcpt_options=["NOTIFY=FAILURE"])
    with_asyncio(server, lambda client: client.sendmail(SENDER, [BEN, CARLA], MESSAGE, rcpt_options=["NOTIFY=FAILURE"]))
    own = [Recipient(BEN, RcptParams(notify="FAILURE")), Recipient(CARLA, RcptParams(notify="NEVER"))]
    with ours(server) as connection:
        connection.send(SENDER, own, MESSAGE, timeout=20)
    asked = [{params["NOTIFY"] for params in mail.rcpt_params} for mail in server.mails]
    said(*("one option for all" if len(kinds) == 1 else "each its own" for kinds in asked))


def test_CT24_a_message_that_is_a_stream(said: Said, server: LoopbackServer) -> None:
    def stream() -> Any:
        return iter([MESSAGE])

    errors = (TypeError, AttributeError)
    with old(server) as client:
        one = outcome(lambda: client.sendmail(SENDER, [BEN], stream()), *errors, good="yes", bad="no")
    two = outcome(
        lambda: with_asyncio(server, lambda client: client.sendmail(SENDER, [BEN], stream())),
        *errors,
        good="yes",
        bad="no",
    )
    with ours(server) as connection:
        three = outcome(lambda: connection.send(SENDER, [BEN], stream(), timeout=20), *errors, good="yes", bad="no")
    said(one, two, three)


def test_CT20_LMTP_with_two_recipients_of_whom_one_is_refused(said: Said) -> None:
    """users:U1, CT20."""
    with LoopbackServer(protocol="lmtp") as server:
        server.refuse(CARLA, "452 4.2.2 Mailbox full", when="data")
        with contextlib.closing(smtplib.LMTP(server.host, server.port, local_hostname="client.test")) as client:
            refused = client.sendmail(SENDER, [BEN, CARLA], MESSAGE)
            code, _ = client.noop()
        one = "one answer is read; the next command is given the other" if (refused, code) == ({}, 452) else "?"
        with SmtpConnection.connect_lmtp(server.host, server.port, TlsMode.NONE, timeout=20) as connection:
            result = connection.send(SENDER, [BEN, CARLA], MESSAGE, timeout=20)
        verdicts = [entry.delivery for entry in result.recipients]
    two = "LMTP" if any("lmtp" in name.lower() for name in dir(aiosmtplib)) else "no LMTP"
    said(one, two, "an answer for each" if verdicts == [Delivery.DELIVERED, Delivery.NOT_DELIVERED] else "?")


def test_CT21_a_recipient_that_is_refused_while_others_are_not(said: Said, server: LoopbackServer) -> None:
    server.refuse(CARLA, "550 5.1.1 No such user")
    with old(server) as client:
        one = list(client.sendmail(SENDER, [BEN, CARLA], MESSAGE))
    two = list(with_asyncio(server, lambda client: client.sendmail(SENDER, [BEN, CARLA], MESSAGE))[0])
    with ours(server) as connection:
        three = [entry.address for entry in connection.send(SENDER, [BEN, CARLA], MESSAGE, timeout=20).rejected]
    assert server.received == 3
    said(*("is told, the rest sent" if refused == [CARLA] else "?" for refused in (one, two, three)))


def test_CT23_the_server_s_final_reply(said: Said, server: LoopbackServer) -> None:
    with old(server) as client:
        one = client.sendmail(SENDER, [BEN], MESSAGE)
    two = with_asyncio(server, lambda client: client.sendmail(SENDER, [BEN], MESSAGE))[1]
    with ours(server) as connection:
        three = connection.send(SENDER, [BEN], MESSAGE, timeout=20)
    queued = [mail.queue_id for mail in server.mails]
    assert one == {}
    assert queued[1] is not None
    said(
        "is not told",
        "its text" if queued[1] in two else "?",
        "code, text, queue id" if three.reply and (three.reply.code, three.queue_id) == (250, queued[2]) else "?",
    )


# --- where others are ahead ---


def test_CT42_packages_that_it_needs(said: Said) -> None:
    def needs(package: str) -> str:
        wanted = [text for text in metadata.requires(package) or [] if "extra ==" not in text]
        names = sorted(re.match(r"[\w.-]+", text)[0] for text in wanted)  # type: ignore[index]  # each begins so
        return ", ".join(names) or "none"

    assert Path(smtplib.__file__).parent == Path(os.__file__).parent
    said("none: it is part of Python", needs("aiosmtplib"), needs("smtpconn"))


MAILER = {
    "smtplib": "import smtplib; smtplib.SMTP('127.0.0.1', {port}).sendmail('a@x.test', ['b@x.test'], b'x')",
    "aiosmtplib": "import asyncio, aiosmtplib; asyncio.run(aiosmtplib.send("
    "b'x', sender='a@x.test', recipients=['b@x.test'], hostname='127.0.0.1', port={port}))",
    "smtpconn": "import smtpconn; smtpconn.SmtpConnection.connect('127.0.0.1', {port}, smtpconn.TlsMode.NONE, "
    "timeout=20).send('a@x.test', ['b@x.test'], b'x', timeout=20)",
}


def test_CT43_modules_that_are_loaded_for_a_mail(said: Said, server: LoopbackServer) -> None:
    """Not a time: that depends on the disk. Places, because the numbers change with each Python."""
    loaded = {}
    for name, code in MAILER.items():
        program = "import sys; " + code.format(port=server.port) + "; print(len(sys.modules))"
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", program], capture_output=True, text=True, check=True, timeout=50
        )
        loaded[name] = int(done.stdout)
    assert server.received == 3
    order = sorted(loaded, key=lambda name: loaded[name])
    said(*(("fewest", "more", "most")[order.index(name)] for name in MAILER))


def test_CT44_text_as_a_message(said: Said, server: LoopbackServer) -> None:
    text: Any = "Subject: Hello\n\nHello.\n"
    words = {"good": "yes", "bad": "no"}
    with old(server) as client:
        one = outcome(lambda: client.sendmail(SENDER, [BEN], text), TypeError, **words)
    two = outcome(lambda: with_asyncio(server, lambda client: client.sendmail(SENDER, [BEN], text)), TypeError, **words)
    with ours(server) as connection:
        three = outcome(lambda: connection.send(SENDER, [BEN], text, timeout=20), TypeError, **words)
    said(one, two, three)


def test_CT45_TLS_if_it_is_offered_else_without(said: Said, authority: TestAuthority) -> None:
    with LoopbackServer(tls="starttls", ca=authority) as offering, LoopbackServer() as plain:
        trust = ssl.create_default_context(cafile=authority.path)
        for server, expected in ((offering, True), (plain, False)):
            with old(server) as client:
                client.ehlo()
                assert client.has_extn("starttls") is expected
            with_asyncio(server, noop, start_tls=None, tls_context=trust)
            assert (server.sessions[-1].tls is not None) is expected
    said("by code of yours", "yes, the default", "no" if len(TlsMode) == 3 else "?")


def test_CT46_single_commands(said: Said) -> None:
    said(
        *(
            "yes" if {"mail", "rcpt", "data"} <= set(dir(client)) else "no"
            for client in (smtplib.SMTP, aiosmtplib.SMTP, SmtpConnection)
        )
    )


def test_CT47_certificates_that_are_not_to_be_verified(said: Said, authority: TestAuthority) -> None:
    """CT27 has the default; here what a caller can do about it."""
    context = ssl._create_unverified_context()  # noqa: S323 - it must not be taken
    with LoopbackServer(tls="starttls", ca=authority) as server:
        with old(server) as client:
            client.starttls()
            assert client.noop()[0] == 250
        with_asyncio(server, noop, start_tls=True, validate_certs=False)
        assert server.sessions[-1].tls is not None
        with pytest.raises(smtpconn.InvalidInputError):
            TlsConfig(context=context)
    said("the default", "an option", "no")


# --- the page itself ---


def test_DO7_every_row_of_the_page_has_a_test_and_every_test_a_row() -> None:
    modules = Path(__file__).parent.glob("test_comparison*.py")
    tests = [
        name for path in modules for name in re.findall(r"^def test_(CT\d+)_", path.read_text("utf-8"), re.MULTILINE)
    ]
    assert sorted(tests) == sorted(ROWS)
    assert len(re.findall(r"^   \* - CT", PAGE, re.MULTILINE)) == len(ROWS)
    assert "?" not in {word for cells in ROWS.values() for word in cells}


def test_DO7_the_page_names_the_version_that_was_tested() -> None:
    """Of aiosmtplib alone: smtplib is that of each Python."""
    assert f"aiosmtplib {metadata.version('aiosmtplib')}" in PAGE


def test_DO3_the_example_of_the_migration_page_sends(authority: TestAuthority) -> None:
    message = EmailMessage()
    message["From"], message["To"] = SENDER, f"{BEN}, {CARLA}"
    message.set_content("Hello.\n")
    with LoopbackServer(tls="starttls", ca=authority, auth={"anna": "secret"}) as server:
        server.refuse(CARLA, "550 5.1.1 No such user")
        context = ssl.create_default_context(cafile=authority.path)
        text, refused = run_and_sweep(aiosmtplib_one.send(message, server.host, server.port, "anna", "secret", context))
        assert server.mails[0].recipients == [BEN]
    assert refused == [CARLA]
    assert "queued" in text
