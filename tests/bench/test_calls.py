"""How many of its own functions the library calls for a mail: what a measurement of time cannot show on a busy machine.

A bound is what was counted (on 3.10 and 3.11, where a comprehension is a call, too), and a twentieth more.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import pytest

import smtpconn
from smtpconn import Pipelining, SmtpConnection, TlsMode
from smtpconn.protocol.session import ProtocolName
from smtpconn.testing import ScriptedTransport

pytestmark = pytest.mark.bench

PACKAGE = str(Path(smtpconn.__file__).parent)
KIT = str(Path(PACKAGE) / "testing")
OFFERS = b"250-server.test\r\n250-PIPELINING\r\n250-CHUNKING\r\n250-8BITMIME\r\n250 SIZE 0\r\n"
BODY = b"Subject: a count\r\n\r\n" + b"The quick brown fox jumps over the lazy dog.\r\n" * 200
OK, GO = b"250 2.0.0 ok\r\n", b"354 go ahead\r\n"
MAILS = 5


def _counted(call: Callable[[], object]) -> int:
    """Calls of functions of the library: generators that go on are counted, too."""
    calls: Counter[str] = Counter()

    def note(frame: FrameType, event: str, argument: object) -> None:
        source = frame.f_code.co_filename
        if event == "call" and source.startswith(PACKAGE) and not source.startswith(KIT):
            calls[f"{source[len(PACKAGE) + 1 :]}:{frame.f_code.co_name}"] += 1

    sys.setprofile(note)
    try:
        call()
    finally:
        sys.setprofile(None)
    return sum(calls.values())


@pytest.mark.parametrize(
    ("protocol", "level", "recipients", "most"),
    [
        ("smtp", Pipelining.GROUPED, 1, 170),
        ("smtp", Pipelining.BURST, 1, 190),
        ("smtp", Pipelining.GROUPED, 100, 800),
        ("lmtp", Pipelining.GROUPED, 50, 640),
    ],
    ids=lambda value: str(value).lower(),
)
def test_a_mail_takes_no_more_calls_than_it_took(
    protocol: ProtocolName, level: Pipelining, recipients: int, most: int
) -> None:
    ends = OK * (recipients if protocol == "lmtp" else 1)
    envelope = OK * (1 + recipients)
    groups = [envelope + GO, ends]
    burst = level is Pipelining.BURST
    said = [b"220 hello\r\n", OFFERS]
    for mail in range(MAILS + 1):
        said += [(OK if mail else b"") + envelope + ends] if burst else groups
    transport = ScriptedTransport(said)
    connection = SmtpConnection.from_transport(
        transport, tls_mode=TlsMode.NONE, timeout=60.0, protocol=protocol, ehlo_domain="c.test", pipelining=level
    )
    people = [f"r{number}@server.test" for number in range(recipients)]
    send = connection.send_bdat if burst else connection.send

    def one() -> None:
        assert send("sender@client.test", people, BODY, timeout=60.0).all_delivered

    one()
    counts = [_counted(one) for _ in range(MAILS)]
    connection.close()
    sys.stdout.write(f"\n{protocol}, {level!r}, recipients: {recipients}: {counts[0]} calls\n")
    assert max(counts) <= most
