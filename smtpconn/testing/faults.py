"""What a rule makes of a reply: replies and faults on demand (specification faults 2).

It knows stages, kinds of faults, and what each does to a reply that was about to be sent. It refuses to know sockets:
a `Decision` says what to write and how the connection ends, the session carries it out.

Laws: the newest rule that applies wins; every rule counts the replies of its stage, whether it applied or not; given
the same replies in the same order, the same decisions come out.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Collection
from dataclasses import dataclass, field

__all__ = ["KINDS", "STAGES", "Decision", "Rule", "RuleBook", "unasked"]

STAGES = (
    "connect", "tls", "greeting", "EHLO", "HELO", "STARTTLS", "AUTH", "MAIL", "RCPT", "DATA", "body", "BDAT",
    "end of data", "RSET", "NOOP", "QUIT", "VRFY", "EXPN", "HELP",
)  # fmt: skip
_ENDINGS = ("RST", "EOF", "EOF-ragged", "silence", "drip")
_BASE_KINDS = (*_ENDINGS, "421", "4yz", "5yz", "wrong-class", "malformed", "oversize", "surplus", "cut-reply",
               "cut-reply-RST")  # fmt: skip
KINDS = (*_BASE_KINDS, *(f"{kind}-unbooked" for kind in _BASE_KINDS if kind not in ("421", "4yz", "5yz")))
_WITHOUT_REPLY = ("connect", "tls", "body")
_KINDS_WITHOUT_REPLY = {
    "connect": ("RST", "EOF", "silence"),
    "tls": ("RST", "EOF", "silence", "drip", "malformed", "alert", "oversize", "cut-reply"),
    "body": (*_ENDINGS, "421", "221", "4yz", "5yz", "wrong-class", "malformed", "oversize", "surplus", "cut-reply",
             "cut-reply-RST"),
}
_RANDOM_STAGES = frozenset(("MAIL", "RCPT", "DATA", "body", "BDAT", "end of data", "RSET", "NOOP"))
_RANDOM_KINDS = ("RST", "EOF", "421", "4yz", "5yz", "malformed", "surplus", "cut-reply")


class Decision:
    """What the server does where it would have sent `octets`.

    Attributes:
        octets: what is written, possibly nothing.
        positive: the server's own state goes on as after a 2yz or 3yz. At the end of data: the message is booked.
        ending: "" or how the connection ends behind the octets, one of RST, EOF, EOF-ragged, silence, drip.
    """

    __slots__ = ("ending", "octets", "positive")

    def __init__(self, octets: bytes, positive: bool | None = None, ending: str = "") -> None:
        self.octets = octets
        # 221 outside QUIT is a farewell, as 421 is: whoever says it takes nothing.
        self.positive = (octets[:1] in (b"2", b"3") and octets[:3] != b"221") if positive is None else positive
        self.ending = ending

    @property
    def text(self) -> str:
        """The reply as text, without its last line end."""
        return self.octets.decode("utf-8", "backslashreplace").rstrip("\r\n")


@dataclass(eq=False)
class Rule:
    """A reply or fault on demand, as `LoopbackServer.reply` and `.fault` return it.

    Attributes:
        seen: how many replies of its stage (and recipient) have come by since it was set.
        applied: how many of those it changed.
    """

    stage: str
    nth: Collection[int] | None = None
    recipient: str | None = None
    octets: bytes = b""
    kind: str = ""
    close: bool = False
    after: int = 0
    seen: int = 0
    applied: int = 0

    def wants(self, stages: Collection[str], recipient: str | None) -> bool:
        """Count one reply of these stages and tell whether this rule changes it. The caller holds the book's lock."""
        if self.stage not in stages or (self.recipient is not None and self.recipient != recipient):
            return False
        self.seen += 1
        if self.nth is not None and self.seen not in self.nth:
            return False
        self.applied += 1
        return True

    def decide(self, stage: str, default: bytes) -> Decision:
        """Turn the reply that was about to be sent into what is done instead."""
        if not self.kind:
            return Decision(self.octets, ending="EOF" if self.close else "")
        return _decide(self.kind, stage, default)


@dataclass(eq=False)
class RuleBook:
    """The rules of one server, shared by its sessions."""

    rules: list[Rule] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, rule: Rule) -> Rule:
        """Put a rule in front of the others."""
        with self.lock:
            self.rules = [rule, *self.rules]
        return rule

    def clear(self) -> None:
        """Forget all rules."""
        with self.lock:
            self.rules = []

    def match(self, stages: Collection[str], recipient: str | None = None) -> Rule | None:
        """Return the newest rule that applies; every rule counts."""
        if not self.rules:
            return None
        if recipient is not None:
            recipient = recipient.casefold()
        with self.lock:
            wanting = [rule for rule in self.rules if rule.wants(stages, recipient)]
            for rule in wanting[1:]:
                rule.applied -= 1
        return wanting[0] if wanting else None


def make_reply_rule(
    stage: str, text: str | bytes, nth: int | Collection[int] | None, recipient: str | None, close: bool | None
) -> Rule:
    """Build the rule behind `LoopbackServer.reply`."""
    octets = reply_octets(text)
    if close is None:
        close = octets.startswith(b"421")
    stage = canonical_stage(stage)
    if stage in _WITHOUT_REPLY:
        raise ValueError(f"no reply belongs to stage {stage!r}; use fault()")
    return Rule(stage, _ordinals(nth), recipient.casefold() if recipient else None, octets, close=close)


def make_fault_rule(
    stage: str, kind: str, nth: int | Collection[int] | None, recipient: str | None, after: int
) -> Rule:
    """Build the rule behind `LoopbackServer.fault`."""
    stage = canonical_stage(stage)
    kinds = _KINDS_WITHOUT_REPLY.get(stage, KINDS)
    if kind not in kinds:
        raise ValueError(f"unknown fault {kind!r} at stage {stage!r}; known are {', '.join(kinds)}")
    return Rule(stage, _ordinals(nth), recipient.casefold() if recipient else None, kind=kind, after=after)


def canonical_stage(stage: str) -> str:
    """Return the stage as `STAGES` spells it; LHLO is EHLO, `AUTH PLAIN` stays apart from `AUTH`."""
    lowered = stage.lower()
    if lowered == "lhlo":
        return "EHLO"
    if lowered.startswith("auth "):
        return stage.upper()
    for known in STAGES:
        if known.lower() == lowered:
            return known
    raise ValueError(f"unknown stage {stage!r}; known are {', '.join(STAGES)}")


def reply_octets(text: str | bytes) -> bytes:
    r"""Return a reply as octets: `bytes` as they are, text with CRLF for each line end and one at its end."""
    if isinstance(text, bytes):
        return text
    return "".join(line + "\r\n" for line in text.splitlines()).encode()


def random_kind(
    generator: random.Random, rate: float, stage: str, drawn: Collection[str] | None = None
) -> str | None:
    """Draw a fault for one reply at `stage`: None with probability 1 - rate."""
    if stage not in _RANDOM_STAGES or generator.random() >= rate:
        return None
    kinds = _KINDS_WITHOUT_REPLY.get(stage)
    kind = generator.choice([k for k in drawn or _RANDOM_KINDS if kinds is None or k in kinds])
    if stage == "end of data" and kind in ("RST", "EOF") and generator.random() < 0.5:
        return kind + "-unbooked"
    return kind


def unasked(kind: str) -> Decision:
    """What a fault at `body` says though nobody asked, and how the connection ends then."""
    if kind in _ENDINGS:
        return Decision(b"", ending=kind)
    octets = {
        "421": b"421 4.3.2 Closing on demand\r\n",
        "221": b"221 2.0.0 Closing on demand\r\n",
        "4yz": b"451 4.3.0 Refused on demand\r\n",
        "5yz": b"554 5.3.0 Refused on demand\r\n",
        "wrong-class": b"354 Wrong class on demand\r\n",
        "malformed": b"xyz malformed\r\n",
        "cut-reply": b"451 4.3.0 Refu",
        "cut-reply-RST": b"451 4.3.0 Refu",
        "surplus": b"250 2.0.0 Nobody asked\r\n",
    }
    ending = {"surplus": "", "cut-reply-RST": "RST"}.get(kind, "EOF")
    return Decision(_oversize() if kind == "oversize" else octets[kind], ending=ending)


def _ordinals(nth: int | Collection[int] | None) -> Collection[int] | None:
    return (nth,) if isinstance(nth, int) else nth


def _wrong_class(stage: str, default: bytes) -> bytes:
    if default.startswith(b"3") or stage in ("greeting", "STARTTLS") or stage.startswith("AUTH"):
        return b"250 2.0.0 Wrong class on demand\r\n"
    return b"354 Wrong class on demand\r\n"


def _oversize() -> bytes:
    """Return a well-formed reply beyond every cap of the specification (faults:LM2): 1.1 MiB, 1 200 lines."""
    return b"250-" + b"\r\n250-".join([b"x" * 990] * 1200) + b"\r\n250 end\r\n"


def _decide(kind: str, stage: str, default: bytes) -> Decision:
    # A fault on the reply leaves the server's own state as the reply would have: at the end of data the message is
    # booked, the one thing that makes the loss ambiguous. "-unbooked" is the server that died a moment earlier.
    booked = default[:1] in (b"2", b"3")
    if kind.endswith("-unbooked"):
        kind, booked = kind.removesuffix("-unbooked"), False
    if kind in _ENDINGS:
        return Decision(b"", booked, kind)
    if kind == "421":
        return Decision(b"421 4.3.2 Closing on demand\r\n", False, "EOF")
    if kind == "cut-reply":
        return Decision(default[: max(1, (len(default) - 2) // 2)], booked, "EOF")
    if kind == "cut-reply-RST":
        return Decision(default[: max(1, (len(default) - 2) // 2)], booked, "RST")
    if kind == "wrong-class":
        return Decision(_wrong_class(stage, default), booked and stage == "end of data")
    return {
        "4yz": lambda: Decision(b"451 4.3.0 Refused on demand\r\n"),
        "5yz": lambda: Decision(b"554 5.3.0 Refused on demand\r\n"),
        "malformed": lambda: Decision(b"xyz malformed\r\n", booked),
        "oversize": lambda: Decision(_oversize(), booked),
        "surplus": lambda: Decision(default + b"250 2.0.0 Surplus on demand\r\n", booked),
    }[kind]()
