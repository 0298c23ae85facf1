"""The command line: `smtpconn` and `python -m smtpconn`.

Knows how a command is called and how it ends; refuses to know what a command does. Laws: output for people and JSON
go to stdout, diagnostics to stderr; no credential is taken from the arguments, which others on the machine can read.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import io
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from smtpconn.cli import bulk, demo, probe, render, send, serve
from smtpconn.cli.exits import EX_SOFTWARE, EX_USAGE, INTERRUPTED, NOT_ALL_DELIVERED

__all__ = ["main"]


class _Parser(argparse.ArgumentParser):
    """argparse exits with 2 where sysexits.h says 64, and takes `--pass` for whatever begins like it."""

    def __init__(self, **keywords: Any) -> None:
        super().__init__(**{**keywords, "allow_abbrev": False})

    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(EX_USAGE, f"{self.prog}: {message}\n")


class _Version(argparse.Action):
    """Reads the version of the installed package only when it is asked for."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        with render.writing("smtpconn"):
            print(f"smtpconn {importlib.metadata.version('smtpconn')}")
        parser.exit()


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="smtpconn", description="A thread-safe SMTP/LMTP client and connection pool.")
    parser.add_argument("--version", action=_Version, nargs=0, help="show the version and exit")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    send.add_to(commands)
    bulk.add_to(commands)
    probe.add_to(commands)
    demo.add_to(commands)
    serve.add_to(commands)
    return parser


def _parsed(argv: Sequence[str] | None) -> argparse.Namespace:
    """The arguments. What is left over is named without its value, which may be a secret."""
    parser = _parser()
    arguments, left = parser.parse_known_args(argv)
    unknown = [_named(each) for each in left if each.startswith("-") and each != "-"]
    if unknown:
        parser.error(f"unknown option: {', '.join(unknown)}")
    if not left:
        return arguments
    if not hasattr(arguments, "recipients"):
        parser.error("too many arguments")
    arguments.recipients += left  # argparse stops collecting at an option that stands between two of them
    return arguments


def _named(option: str) -> str:
    return option.partition("=")[0] if option.startswith("--") else option[:2]


def _prepare_streams() -> None:
    """Make sure that writing a result cannot be what fails.

    A stream that is closed goes nowhere (and no socket gets its descriptor); what the terminal's encoding lacks is
    shown as an escape.
    """
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open("w"))  # noqa: SIM115  # as long as the process lives
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status: those of sysexits.h, 1 (see the command), 130 interrupted."""
    _prepare_streams()
    arguments = _parsed(argv)
    try:
        status: int = arguments.run(arguments)
        sys.stdout.flush()
    except KeyboardInterrupt:
        print("smtpconn: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        render.stop_writing(sys.stdout)
        return NOT_ALL_DELIVERED
    except Exception:
        traceback.print_exc()
        return EX_SOFTWARE
    return status
