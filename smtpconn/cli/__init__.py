"""The command line: `smtpconn` and `python -m smtpconn`.

Knows how a command is called and how it ends; refuses to know what a command does. Laws: output for people and JSON
go to stdout, diagnostics to stderr; no credential is taken from the arguments, which others on the machine can read.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import sys
import traceback
from collections.abc import Sequence
from typing import NoReturn

from smtpconn.cli import demo
from smtpconn.cli.exits import EX_SOFTWARE, EX_USAGE, INTERRUPTED, NOT_ALL_DELIVERED

__all__ = ["main"]


class _Parser(argparse.ArgumentParser):
    """argparse exits with 2 where sysexits.h says 64."""

    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(EX_USAGE, f"{self.prog}: {message}\n")


class _Version(argparse.Action):
    """Reads the version of the installed package only when it is asked for."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        print(f"smtpconn {importlib.metadata.version('smtpconn')}")
        parser.exit()


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="smtpconn", description="A thread-safe SMTP/LMTP client and connection pool.")
    parser.add_argument("--version", action=_Version, nargs=0, help="show the version and exit")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    demo.add_to(commands)
    return parser


def _stop_writing() -> None:
    """Let the interpreter's last flush go nowhere: the reader of stdout is gone."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status: 0, 1 (see the command), 64 usage, 70 defect, 130 interrupted."""
    arguments = _parser().parse_args(argv)
    try:
        status: int = arguments.run(arguments)
        sys.stdout.flush()
    except KeyboardInterrupt:
        print("smtpconn: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        _stop_writing()
        return NOT_ALL_DELIVERED
    except Exception:
        traceback.print_exc()
        return EX_SOFTWARE
    return status
