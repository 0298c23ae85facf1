"""`smtpconn serve`: a server for development that takes every mail, delivers none, and shows them on a page.

Knows options, and when it ends. The law: loopback only, for mail and for pages; nothing is written to a disk.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import signal
import sys
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from smtpconn.cli import render, shapes, values
from smtpconn.cli.exits import EX_OK, EX_UNAVAILABLE, INTERRUPTED

if TYPE_CHECKING:
    from smtpconn.testing import LoopbackServer

_SMTP_PORT, _WEB_PORT = 1025, 8025
_KEPT = 500
_LOOK_AGAIN = 0.1  # seconds


def add_to(commands: argparse._SubParsersAction[Any]) -> None:
    """Add the command and its options to the parser."""
    parser = commands.add_parser(
        "serve",
        help="take every mail, deliver none, and show them on a page",
        description="A server for development, on the loopback interface: it takes every mail, delivers none, and "
        "shows them on a web page. Ends with Ctrl-C.",
    )
    parser.add_argument(
        "--port", type=values.port_or_any, metavar="N", default=_SMTP_PORT, help="for mail (default: %(default)s)"
    )
    parser.add_argument(
        "--web-port", type=values.port_or_any, metavar="N", default=_WEB_PORT, help="for pages (default: %(default)s)"
    )
    parser.add_argument("--lmtp", action="store_true", help="speak LMTP")
    parser.add_argument("--tls", choices=("none", "starttls", "implicit"), default="none", help="default: %(default)s")
    parser.add_argument(
        "--keep", type=values.positive, metavar="N", default=_KEPT, help="mails at most (default: %(default)s)"
    )
    parser.add_argument("--json", action="store_true", help="print where it is as one JSON object")
    parser.add_argument("-q", "--quiet", action="store_true", help="print nothing but errors")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Serve until a signal comes, and return the exit status."""
    from smtpconn.cli.web import Web
    from smtpconn.testing import LoopbackServer

    tls = None if arguments.tls == "none" else arguments.tls
    server = LoopbackServer(
        protocol="lmtp" if arguments.lmtp else "smtp", port=arguments.port, tls=tls, keep=arguments.keep
    )
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(server)
            web = stack.enter_context(Web(server, arguments.web_port, server.url))
        except OSError as error:
            print(f"smtpconn serve: no port: {error.strerror or error}", file=sys.stderr)
            return EX_UNAVAILABLE
        stack.enter_context(_running(web))
        with _until_a_signal() as wait:
            _tell(arguments, server, web.url)
            status: int = wait()
        if status == INTERRUPTED and not arguments.quiet:
            print(f"smtpconn serve: interrupted after {server.received:,} mails", file=sys.stderr)
        return status


@contextlib.contextmanager
def _running(web: Any) -> Iterator[None]:
    thread = threading.Thread(target=web.serve_forever, kwargs={"poll_interval": 0.05}, name="serve-web", daemon=True)
    thread.start()
    try:
        yield
    finally:
        web.shutdown()
        thread.join()


@contextlib.contextmanager
def _until_a_signal() -> Iterator[Any]:
    """What waits for SIGINT or SIGTERM, and says which status that means."""
    came: list[int] = []

    def handle(number: int, frame: object) -> None:
        came.append(number)

    def wait() -> int:
        while not came:  # an Event could be locked by the very thread that a signal interrupts
            time.sleep(_LOOK_AGAIN)
        return INTERRUPTED if came[0] == signal.SIGINT else EX_OK

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield wait
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _tell(arguments: argparse.Namespace, server: LoopbackServer, web: str) -> None:
    ca = str(server.ca.path) if server.ca is not None and arguments.tls != "none" else None
    try:
        if arguments.json:
            print(json.dumps({"schema": shapes.SCHEMA, "command": "serve", "url": server.url, "web": web, "ca": ca}))
        elif not arguments.quiet:
            print(f"mail   {server.url}", f"pages  {web}", "Ctrl-C ends it; every mail is then forgotten.", sep="\n")
        sys.stdout.flush()
    except OSError:
        render.stop_writing(sys.stdout)
