"""What is measured against what, and the goals: the tables of `compare.py`. Nothing here runs anything."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

MIB = 1 << 20


@dataclass(frozen=True)
class Contestant:
    """Who does the work. `mails` over each connection; `options` go into the job of `senders.py`."""

    name: str
    client: str
    mails: int
    options: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class Case:
    """One piece of work. `rtt` in milliseconds; `server`: `sink`, or `smtp-sink` for Postfix's."""

    key: str
    title: str
    contestants: tuple[Contestant, ...]
    rtt: int = 0
    connections: int = 1
    octets: int = 10_240
    recipients: int = 1
    lmtp: bool = False
    tls: bool = False
    warm: bool = True
    server: str = "sink"


@dataclass(frozen=True)
class Goal:
    """A ratio that is wanted: `measure` (rate, cpu) of `ours` by that of `other` in the same round.

    `other` may be `one per round trip`: the rate of one mail per round-trip time and connection, as that was measured
    in the same round.
    """

    case: str
    ours: str
    other: str
    bound: float
    measure: str = "rate"

    @property
    def is_most(self) -> bool:
        """True if the bound is not to be exceeded."""
        return self.measure != "rate"

    def is_reached_by(self, value: float) -> bool:
        """True if this ratio is good enough."""
        return value <= self.bound if self.is_most else value >= self.bound


def _ours(name: str, verb: str, level: str, mails: int, **options: object) -> Contestant:
    return Contestant(name, "smtpconn", mails, {"verb": verb, "level": level, **options})


SMTPLIB, FRESH, AIOSMTPLIB, NODEMAILER = "smtplib", "smtplib, a connection for each", "aiosmtplib", "Nodemailer"
SOURCE = "Postfix smtp-source"
SEND, BDAT, BURST = "smtpconn send", "smtpconn send_bdat", "smtpconn send_bdat, BURST"
PREFETCH, BURSTS = "smtpconn send_many, PREFETCH", "smtpconn send_many, BURST"
BINARY = "smtpconn send_bdat, BINARYMIME"
ONE_THREAD = "smtpconn send, one thread"
ONE_PER_TRIP = "one per round trip"


def _all(slow: int, fast: int) -> tuple[Contestant, ...]:
    """Everybody; so many mails for who waits four times for each, and for who does not wait for each."""
    return (
        Contestant(SMTPLIB, "smtplib", slow),
        Contestant(FRESH, "smtplib, fresh", max(1, slow // 2)),
        Contestant(AIOSMTPLIB, "aiosmtplib", slow),
        Contestant(NODEMAILER, "nodemailer", slow),
        _ours(SEND, "send", "GROUPED", slow),
        _ours(BURST, "send_bdat", "BURST", slow),
        _ours(PREFETCH, "send_many", "PREFETCH", max(slow, fast // 4)),
        _ours(BURSTS, "send_many", "BURST", fast),
    )


CASES = (
    Case("far-1", "10 KiB, 20 ms of round trip, one connection", _all(16, 400), rtt=20),
    Case("far-8", "10 KiB, 20 ms of round trip, eight connections", _all(16, 200), rtt=20, connections=8),
    Case(
        "far-100",
        "10 KiB to 100 recipients, 20 ms of round trip",
        (
            Contestant(SMTPLIB, "smtplib", 1),
            Contestant(AIOSMTPLIB, "aiosmtplib", 1),
            Contestant(NODEMAILER, "nodemailer", 8),
            _ours(SEND, "send", "GROUPED", 24),
            _ours(BURST, "send_bdat", "BURST", 24),
        ),
        rtt=20,
        recipients=100,
    ),
    Case(
        "near-1",
        "10 KiB, no round-trip time, one connection",
        (*_all(800, 1600), Contestant(SOURCE, "smtp-source", 1600)),
    ),
    Case(
        "near-8",
        "10 KiB, no round-trip time, eight threads with a connection each",
        (
            *_all(200, 400),
            Contestant(SOURCE, "smtp-source", 200),
            _ours(ONE_THREAD, "send", "GROUPED", 800, connections=1),
        ),
        connections=8,
    ),
    *(
        Case(
            f"{'far' if rtt else 'near'}-{connections}-postfix",
            f"10 KiB to Postfix's smtp-sink, {rtt or 'no'} {'ms of round trip' if rtt else 'round-trip time'}, "
            f"{'eight connections' if connections > 1 else 'one connection'}",
            (
                Contestant(SMTPLIB, "smtplib", mails),
                Contestant(AIOSMTPLIB, "aiosmtplib", mails),
                Contestant(NODEMAILER, "nodemailer", mails),
                _ours(SEND, "send", "GROUPED", mails),
                _ours(PREFETCH, "send_many", "PREFETCH", mails),
                *([] if rtt else [Contestant(SOURCE, "smtp-source", mails)]),
            ),
            server="smtp-sink",
            rtt=rtt,
            connections=connections,
        )
        for rtt, connections, mails in ((20, 1, 16), (20, 8, 16), (0, 1, 800), (0, 8, 200))
    ),
    Case(
        "large",
        "25 MiB, no round-trip time",
        (
            Contestant(SMTPLIB, "smtplib", 1),
            Contestant(AIOSMTPLIB, "aiosmtplib", 1),
            Contestant(NODEMAILER, "nodemailer", 3),
            _ours(SEND, "send", "GROUPED", 3),
            _ours(BDAT, "send_bdat", "GROUPED", 3),
            _ours(BINARY, "send_bdat", "GROUPED", 3, binary=True),
        ),
        octets=25 * MIB,
    ),
    Case(
        "lmtp-50",
        "LMTP, 10 KiB to 50 recipients, no round-trip time",
        (
            Contestant(SMTPLIB, "smtplib", 40),
            _ours(SEND, "send", "GROUPED", 300),
            _ours(BURST, "send_bdat", "BURST", 300),
        ),
        recipients=50,
        lmtp=True,
    ),
    Case(
        "logins",
        "connect, STARTTLS, AUTH, QUIT",
        (Contestant(SMTPLIB, "smtplib, logins", 40), Contestant(SEND, "smtpconn, logins", 40)),
        tls=True,
    ),
    Case(
        "far-logins",
        "connect, STARTTLS, AUTH, QUIT, 20 ms of round trip",
        (Contestant(SMTPLIB, "smtplib, logins", 5), Contestant(SEND, "smtpconn, logins", 5)),
        tls=True,
        rtt=20,
    ),
    Case(
        "stream",
        "1 GiB from a file object, no round-trip time",
        (
            Contestant(SEND, "smtpconn, streams", 1, {"verb": "send"}),
            Contestant(BDAT, "smtpconn, streams", 1, {"verb": "send_bdat"}),
        ),
        octets=1024 * MIB,
        warm=False,
    ),
)

GOALS = (
    *(
        goal
        for case in ("far-1", "far-8")
        for goal in (
            Goal(case, SEND, SMTPLIB, 1.85),
            Goal(case, SEND, NODEMAILER, 1.05),
            Goal(case, BURST, SMTPLIB, 3.3),
        )
    ),
    Goal("far-1", PREFETCH, SMTPLIB, 3.3),
    Goal("far-1", PREFETCH, ONE_PER_TRIP, 0.93),
    Goal("far-1", BURSTS, SMTPLIB, 12),
    Goal("far-100", SEND, SMTPLIB, 25),
    Goal("near-1", SEND, SMTPLIB, 3.5),
    Goal("near-1", SEND, SMTPLIB, 0.25, "cpu"),
    Goal("near-1", BURST, SMTPLIB, 5),
    Goal("near-1", BURSTS, SMTPLIB, 5),
    Goal("near-1", BURST, SOURCE, 1),
    Goal("near-1", BURSTS, SOURCE, 1),
    Goal("near-8", SEND, SMTPLIB, 3),
    Goal("near-8", SEND, ONE_THREAD, 0.9),
    Goal("large", BDAT, SMTPLIB, 15),
    Goal("large", SEND, SMTPLIB, 4),
    Goal("lmtp-50", SEND, SMTPLIB, 12),
    Goal("logins", SEND, SMTPLIB, 1.05),
    Goal("far-logins", SEND, SMTPLIB, 1.05),
)

IMPORTS = ("smtplib", "smtpconn", "smtpconn.protocol")
MOST_IMPORT = {"smtpconn": 1.2, "smtpconn.protocol": 1.0}  # times the import of smtplib
MOST_MEMORY = 24 * 1024  # KiB of peak above the bare interpreter, while 1 GiB is streamed
