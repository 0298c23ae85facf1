"""How the command line shows things: tables, and a progress bar on a terminal.

Uses rich where it is installed and stdout is a terminal; otherwise writes plain text without a single control sequence.
Refuses to know what the rows mean. Everything fits 80 columns.
"""

from __future__ import annotations

import contextlib
import os
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Literal, TextIO

if TYPE_CHECKING:
    from rich.console import Console

Row = Sequence[str]
WIDTH = 80


def _console() -> Console | None:
    """The console of rich, or None where plain text is wanted."""
    if not sys.stdout.isatty():
        return None
    try:
        from rich.console import Console
    except ImportError:
        return None
    return Console(highlight=False)


def stop_writing(stream: TextIO) -> None:
    """Let the interpreter's last flush of stdout or stderr go nowhere: it would end the process with status 120."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


@contextlib.contextmanager
def writing(command: str) -> Iterator[None]:
    """Around what is written once the status is known: a reader that is gone, or a full disk, does not change it."""
    try:
        yield
        sys.stdout.flush()
    except OSError as error:
        stop_writing(sys.stdout)
        if not isinstance(error, BrokenPipeError):
            print(f"{command}: stdout: {error.strerror}", file=sys.stderr)


def _fit(row: Row, widths: Sequence[int]) -> str:
    line = "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
    return line if len(line) <= WIDTH else line[: WIDTH - 3] + "..."


def _wrapped(row: Row, widths: Sequence[int]) -> Iterator[Row]:
    """The row, and below it what its last cell has too much."""
    left = WIDTH - sum(widths[:-1]) - 2 * (len(widths) - 1)
    first, *rest = textwrap.wrap(row[-1], max(left, 1)) or [""]
    yield *row[:-1], first
    for part in rest:
        yield *("" for _ in row[:-1]), part


def table(title: str, rows: Sequence[Row], *, header: Row = (), wrap: bool = False) -> None:
    """Write a table with a title; the last column is cut to what the width leaves, or wrapped."""
    console = _console()
    if console is None:
        every = [header, *rows] if header else rows
        widths = [max(map(len, column)) for column in zip(*every, strict=True)]
        if wrap:
            every = [part for row in every for part in _wrapped(row, widths)]
            widths[-1] = 0
        print(title, *(_fit(row, widths) for row in every), "", sep="\n")
        return
    from rich.box import SIMPLE
    from rich.table import Table
    from rich.text import Text

    shown = Table(title=Text(title), title_justify="left", title_style="bold", show_header=bool(header), box=SIMPLE)
    columns = list(zip(*rows, strict=True))
    for name, column in zip(header or [""] * len(columns), columns, strict=True):
        whole = None if column is columns[-1] else max(map(len, column))
        wrapped = wrap and whole is None
        overflow: Literal["fold", "ellipsis"] = "fold" if wrapped else "ellipsis"
        shown.add_column(name, min_width=whole, overflow=overflow, no_wrap=not wrapped)
    for row in rows:
        shown.add_row(*map(Text, row))
    console.print(shown)


@contextlib.contextmanager
def progress(total: int, *, wanted: bool) -> Iterator[Callable[[int], None]]:
    """A bar on a terminal, for as long as the block runs; the block calls what it is given with the number done."""
    console = _console() if wanted else None
    if console is None:
        yield lambda done: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn

    with Progress(BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), console=console) as bar:
        task = bar.add_task("", total=total)
        yield lambda done: bar.update(task, completed=done)
