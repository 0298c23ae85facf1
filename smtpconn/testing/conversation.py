"""Conversations: what a scripted peer says, and what it expects to hear.

It knows the text form (`script`), steps, and how to point at the first difference. It refuses to know transports and
time. An expectation is fed octets as the client writes them and says how many of them belong to it.

Laws: steps happen in order; what the peer says is released once everything expected before it was heard; a difference
is an `AssertionError` that names the line of the script.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable
from dataclasses import dataclass

__all__ = ["EOF", "RESET", "SILENCE", "TLS", "Script", "ScriptMismatch", "Wait", "script"]


class ScriptMismatch(AssertionError):  # noqa: N818 - it is an assertion that failed
    """Client and script went different ways."""


class _Event:
    """Something that happens instead of octets."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __repr__(self) -> str:
        return self._name


EOF = _Event("EOF")
"""The peer closes: reads return b"" from here on."""
RESET = _Event("RESET")
"""The peer resets: reads raise `ConnectionResetError` from here on."""
SILENCE = _Event("SILENCE")
"""The peer says nothing more: reads let the clock run to their time-out and raise `TimeoutError`."""
TLS = _Event("TLS")
"""In a conversation given as a list: the client must start TLS here."""


@dataclass(frozen=True)
class Wait:
    """The peer takes so many seconds before it goes on."""

    seconds: float


Said = bytes | _Event | Wait | BaseException


class Expectation:
    """Octets that are due from the client. Subclasses say which."""

    def __init__(self, where: str) -> None:
        self.where = where
        self.heard = b""

    def feed(self, octets: bytes) -> tuple[int, bool]:
        """Take octets from the front: how many belong here, and whether that was all. Raises `ScriptMismatch`."""
        raise NotImplementedError

    def __str__(self) -> str:
        return self.where


class ExactOctets(Expectation):
    """These octets and no others."""

    def __init__(self, where: str, octets: bytes) -> None:
        super().__init__(where)
        self._octets = octets

    def feed(self, octets: bytes) -> tuple[int, bool]:
        """Compare."""
        due = self._octets[len(self.heard) :]
        taken = octets[: len(due)]
        if not due.startswith(taken):
            heard = self.heard + octets.split(b"\r\n")[0]
            same = next((i for i, (a, b) in enumerate(zip(self._octets, heard, strict=False)) if a != b), len(heard))
            raise ScriptMismatch(
                f"{self.where}: first difference at octet {same}\n"
                f"  expected {_shown(self._octets)}\n  got      {_shown(heard)}\n           {' ' * (same + 1)}^"
            )
        self.heard += taken
        return len(taken), len(taken) == len(due)


class AnyLine(Expectation):
    """One line, whatever it says."""

    def feed(self, octets: bytes) -> tuple[int, bool]:
        """Take up to the LF."""
        end = octets.find(b"\n")
        return (len(octets), False) if end < 0 else (end + 1, True)


class AnyContent(Expectation):
    """Message content up to the lone dot."""

    def __init__(self, where: str) -> None:
        super().__init__(where)
        self.heard = b"\r\n"

    def feed(self, octets: bytes) -> tuple[int, bool]:
        """Take up to CRLF.CRLF."""
        held = len(self.heard)
        joined = self.heard + octets
        end = joined.find(b"\r\n.\r\n")
        if end < 0:
            self.heard = joined[-4:]
            return len(octets), False
        return end + 5 - held, True


class AnyOctets(Expectation):
    """So many octets, whatever they are."""

    def __init__(self, where: str, count: int) -> None:
        super().__init__(where)
        self._left = count

    def feed(self, octets: bytes) -> tuple[int, bool]:
        """Count."""
        taken = min(len(octets), self._left)
        self._left -= taken
        return taken, not self._left


class StartTls(Expectation):
    """The client starts TLS."""

    def feed(self, octets: bytes) -> tuple[int, bool]:
        """No octet belongs here."""
        raise ScriptMismatch(f"{self.where}: the client must start TLS, it wrote {_shown(octets)}")


class Close(Expectation):
    """The client closes."""

    def feed(self, octets: bytes) -> tuple[int, bool]:
        """No octet belongs here."""
        raise ScriptMismatch(f"{self.where}: the client must close, it wrote {_shown(octets)}")


Step = Expectation | Said


class Script:
    """A conversation made by `script`: steps for one `ScriptedTransport`; a script serves once."""

    def __init__(self, steps: Iterable[Step]) -> None:
        self.steps = tuple(steps)
        self.used = False


def script(text: str) -> Script:
    r"""Read a conversation.

    Each line is `S: ` (the server says) or `C: ` (the client must write), then the line without its CRLF; a backslash
    at its end takes the CRLF away. Blank lines and lines that begin with `#` are nothing. The lines are indented as one
    likes. Instead of text:

    - `S: <EOF>`, `S: <RST>`, `S: <silence>`: the connection ends so; `S: <wait 2.5>`: seconds pass;
    - `C: <TLS>`, `C: <close>`: the client starts TLS, closes;
    - `C: <line>`: any line; `C: <content>`: anything up to the lone dot; `C: <12 octets>`: any twelve octets.

    The client must have read all that the server said before a `C:` line, and must write all lines up to the next `S:`
    without reading: so a script also fixes the flights.
    """
    steps: list[Step] = []
    reply = ""
    for number, line in enumerate(textwrap.dedent(text).splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        speaker, said = line[:2], line[2:].removeprefix(" ")
        if speaker not in ("S:", "C:"):
            raise ValueError(f"line {number} of the script is neither S: nor C:: {line!r}")
        if speaker == "S:":
            special = _server_event(said)
            if special is None:
                reply += _with_line_end(said)
                if re.match(r"\d\d\d-", said):
                    continue
            if reply:
                steps.append(reply.encode())
                reply = ""
            if special is not None:
                steps.append(special)
            continue
        if reply:
            steps.append(reply.encode())
            reply = ""
        steps.append(_expectation(f"line {number} of the script (C: {said})", said))
    if reply:
        steps.append(reply.encode())
    return Script(steps)


def _with_line_end(line: str) -> str:
    return line[:-1] if line.endswith("\\") else line + "\r\n"


def _server_event(said: str) -> Said | None:
    wait = re.fullmatch(r"<wait ([0-9.]+)>", said)
    if wait:
        return Wait(float(wait[1]))
    return {"<EOF>": EOF, "<RST>": RESET, "<silence>": SILENCE}.get(said)


def _expectation(where: str, said: str) -> Expectation:
    count = re.fullmatch(r"<([0-9]+) octets>", said)
    if count:
        return AnyOctets(where, int(count[1]))
    kinds: dict[str, type[Expectation]] = {
        "<TLS>": StartTls, "<close>": Close, "<line>": AnyLine, "<content>": AnyContent,
    }  # fmt: skip
    if said in kinds:
        return kinds[said](where)
    return ExactOctets(where, _with_line_end(said).encode())


def _shown(octets: bytes) -> str:
    text = octets[:300].decode("utf-8", "backslashreplace").replace("\r\n", "")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text) or "nothing"
