"""A second message inside the first (CVE-2023-51764 and its kin): BS11, C10, faults AK6, S1 to S18.

Each sequence stands in the middle of a body that goes by DATA and by BDAT, as bytes, as a file and as an iterator of
single octets. What leaves is read by a server of three lines that knows RFC 5321 4.1.1.4 and RFC 3030 2.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import pytest

from smtpconn.protocol.errors import Delivery, InvalidInputError
from smtpconn.protocol.params import MailParams
from smtpconn.protocol.session import ProtocolName

from .transactions import Talk, converse, mail_of, session_of

HEAD, TAIL = b"Subject: x\r\n\r\nfirst", b"MAIL FROM:<evil@x.test>\r\nRCPT TO:<b@x.test>\r\nDATA\r\nsecond\r\n"
CR, LF, NUL, CRLF, DOT = b"\r", b"\n", b"\0", b"\r\n", b"."

# The sequence, and where the octet stands in it that must stop the body: under "strict", under "crlf".
S: dict[str, tuple[bytes, int | None, int | None]] = {
    "S1": (LF + DOT + LF, 0, None),
    "S2": (LF + DOT + CRLF, 0, None),
    "S3": (LF + DOT + CR, 0, 2),
    "S4": (CR + DOT + LF, 0, 0),
    "S5": (CR + DOT + CRLF, 0, 0),
    "S6": (CR + DOT + CR, 0, 0),
    "S7": (CRLF + DOT + LF, 3, None),
    "S8": (CRLF + DOT + CR, 3, 3),
    "S9": (CRLF + DOT + CR + CRLF, 3, 3),
    "S10": (CR + CRLF + DOT + CR + CRLF, 0, 0),
    "S11": (CRLF + NUL + DOT + CRLF, 2, 2),
    "S12": (CRLF + DOT + NUL + CRLF, 3, 3),
    "S13": (CR + NUL + LF + DOT + CRLF, 0, 0),
    "S14": (CRLF + DOT + CR + NUL + LF, 3, 3),
    "S15": (LF + LF + DOT + LF + LF, 0, None),
    "S16": (CRLF + DOT + LF + CR, 3, 4),
    "S17": (LF + CR + DOT + LF + CR, 0, 1),
    "S18": (CRLF + DOT + CRLF, None, None),
}

KINDS: dict[str, Callable[[bytes], Any]] = {
    "bytes": bytes,
    "a file": io.BytesIO,
    "octet by octet": lambda octets: [octets[at : at + 1] for at in range(len(octets))],
}


def send(
    octets: bytes, kind: str, *, protocol: ProtocolName, chunking: bool, ends: bool = True, **options: Any
) -> Talk:
    """The conversation; `ends`: the end of the data is written, and answered."""
    session = session_of("PIPELINING", "CHUNKING", "BINARYMIME", "8BITMIME", protocol=protocol)
    replies = ["250", "250"] if chunking else ["250", "250", "354"]
    mail = mail_of(message=KINDS[kind](octets), chunking=chunking, **options)
    return converse(session, mail, replies + ["250"] * ends)


def received(talk: Talk, chunking: bool) -> bytes:
    """The one message that a server takes out of the last flight; anything behind it fails."""
    wire = talk.flights[-1]
    if chunking:
        line, _, rest = wire.partition(CRLF)
        verb, size, last = line.split(b" ")
        assert (verb, last, int(size)) == (b"BDAT", b"LAST", len(rest))
        return rest
    assert wire.find(b"\r\n.\r\n") == len(wire) - 5, "the message would end early"
    return wire[:-3].replace(b"\r\n..", b"\r\n.")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("chunking", [False, True], ids=["DATA", "BDAT"])
@pytest.mark.parametrize("protocol", ["smtp", "lmtp"])
@pytest.mark.parametrize("newlines", ["strict", "crlf"])
@pytest.mark.parametrize("name", S)
def test_AK6_BS11_C10_no_second_message_leaves_inside_the_first(
    name: str, newlines: str, protocol: ProtocolName, chunking: bool, kind: str
) -> None:
    sequence, *places = S[name]
    octets, place = HEAD + sequence + TAIL, places[newlines == "crlf"]
    if place is None:
        talk = send(octets, kind, protocol=protocol, chunking=chunking, newlines=newlines)
        assert talk.verdicts == [Delivery.DELIVERED]
        assert received(talk, chunking) == octets.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
    elif kind == "bytes":
        with pytest.raises(InvalidInputError) as caught:
            mail_of(message=octets, newlines=newlines, chunking=chunking)
        assert caught.value.offset == len(HEAD) + place
    else:
        talk = send(octets, kind, protocol=protocol, chunking=chunking, newlines=newlines, ends=False)
        assert isinstance(talk.error, InvalidInputError)
        assert talk.error.offset == len(HEAD) + place
        assert talk.verdicts == [Delivery.NOT_DELIVERED]
        assert not any(b"second" in flight or b"LAST" in flight for flight in talk.flights)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("protocol", ["smtp", "lmtp"])
@pytest.mark.parametrize("name", S)
def test_AK6_BINARYMIME_passes_all_of_them_unchanged(name: str, protocol: ProtocolName, kind: str) -> None:
    octets = HEAD + S[name][0] + TAIL
    params = MailParams(body="BINARYMIME")
    talk = send(octets, kind, protocol=protocol, chunking=True, params=params)
    assert talk.verdicts == [Delivery.DELIVERED]
    assert received(talk, chunking=True) == octets
