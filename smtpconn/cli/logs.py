"""`-v` and `-vv`: what the library logs, on stderr, for as long as a command runs."""

from __future__ import annotations

import argparse
import contextlib
import logging
from collections.abc import Iterator
from typing import Any


def add_to(group: Any) -> None:
    """Add the option to a parser or a group of it."""
    group.add_argument(
        "-v", "--verbose", action="count", default=0, help="log the connection on stderr; -vv also every line"
    )


@contextlib.contextmanager
def shown(arguments: argparse.Namespace) -> Iterator[None]:
    """Show the connection log (`-v`) and the wire log (`-vv`: addresses, but neither secrets nor content)."""
    if not arguments.verbose:
        yield
        return
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    names = ["smtpconn.connection", *(["smtpconn.wire"] if arguments.verbose > 1 else [])]
    loggers = [(logging.getLogger(name), logging.getLogger(name).level) for name in names]
    root = logging.getLogger("smtpconn")
    root.addHandler(handler)
    for logger, _ in loggers:
        logger.setLevel(logging.DEBUG)
    try:
        yield
    finally:
        root.removeHandler(handler)
        for logger, level in loggers:
            logger.setLevel(level)
