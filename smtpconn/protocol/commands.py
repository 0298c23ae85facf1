"""Values to command lines: the only place that spells a verb, and the choke point that no injection passes.

Knows the spelling of RFC 5321 section 4.1.1 and of the extensions, and how long a line may be. Refuses to know when a
command may be sent and whether the server offers what it asks for (`gate.py`). Its law: every line is made by one
function, which looks at the encoded octets again: none below 0x20 and no 0x7F but one CRLF at the end, and no more of
them than the limit (SEC8).
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from smtpconn.protocol.address import ReversePath, check_ehlo_domain, exact_text, refusal, refuse_controls
from smtpconn.protocol.errors import InvalidInputError
from smtpconn.protocol.extensions import ServerCapabilities
from smtpconn.protocol.mail import Recipient
from smtpconn.protocol.params import MailParams

LINE_LIMIT = 512  # octets with CRLF; RFC 5321 section 4.5.3.1.4
LONGEST_LINE = 4_096  # LM5
AUTH_INITIAL_LIMIT = 512  # octets with CRLF of an AUTH line with initial response; above: two steps (F45)
AUTH_RESPONSE_LIMIT = 12_288  # octets without CRLF; RFC 4954 section 4

# What each extension adds to a line (L8, L9). 8BITMIME and BINARYMIME share one BODY.
_MAIL_ADDITIONS = (
    ("SIZE", 26),
    ("SMTPUTF8", 10),
    ("AUTH", 500),
    ("DSN", 116),
    ("REQUIRETLS", 11),
    ("FUTURERELEASE", 36),
    ("DELIVERBY", 17),
    ("MT-PRIORITY", 15),
)
_BODY_ADDITION = 17
_RCPT_DSN_ADDITION = 536
_VRFY_SMTPUTF8_ADDITION = 10

_WELL_FORMED = re.compile(rb"[^\x00-\x1f\x7f]*\r\n")


def _line(verb: str, octets: bytes, limit: int = LINE_LIMIT) -> bytes:
    """The line of these octets. Neither an error nor its traceback holds them: they may be a secret (SEC2)."""
    line = octets + b"\r\n"
    length = len(line)
    if length <= limit and _WELL_FORMED.fullmatch(line):
        return line
    del line, octets
    if length > limit:
        raise InvalidInputError(f"the {verb} line has {length} octets with CRLF, the limit is {limit}")
    raise InvalidInputError(f"the {verb} line of {length} octets has a control character")


_STARTTLS, _NOOP, _RSET, _QUIT, _DATA = (
    _line(verb, verb.encode("ascii")) for verb in ("STARTTLS", "NOOP", "RSET", "QUIT", "DATA")
)


def ehlo(domain: str) -> bytes:
    """EHLO (RFC 5321 section 4.1.1.1)."""
    return _line("EHLO", b"EHLO " + check_ehlo_domain(domain).encode("ascii"))


def lhlo(domain: str) -> bytes:
    """LHLO (RFC 2033 section 4.1)."""
    return _line("LHLO", b"LHLO " + check_ehlo_domain(domain).encode("ascii"))


def helo(domain: str) -> bytes:
    """HELO (RFC 5321 section 4.1.1.1)."""
    return _line("HELO", b"HELO " + check_ehlo_domain(domain).encode("ascii"))


def starttls() -> bytes:
    """STARTTLS (RFC 3207 section 4)."""
    return _STARTTLS


def noop() -> bytes:
    """NOOP (RFC 5321 section 4.1.1.9)."""
    return _NOOP


def rset() -> bytes:
    """RSET (RFC 5321 section 4.1.1.5)."""
    return _RSET


def quit_() -> bytes:
    """QUIT (RFC 5321 section 4.1.1.10)."""
    return _QUIT


def data() -> bytes:
    """DATA (RFC 5321 section 4.1.1.4)."""
    return _DATA


def vrfy(argument: str, capabilities: ServerCapabilities) -> bytes:
    """VRFY (RFC 5321 section 4.1.1.6); with SMTPUTF8 where the argument is not ASCII (RFC 6531 section 3.7.4.2)."""
    return _inquiry("VRFY", argument, capabilities)


def expn(argument: str, capabilities: ServerCapabilities) -> bytes:
    """EXPN (RFC 5321 section 4.1.1.7); with SMTPUTF8 where the argument is not ASCII (RFC 6531 section 3.7.4.2)."""
    return _inquiry("EXPN", argument, capabilities)


def _inquiry(verb: str, argument: str, capabilities: ServerCapabilities) -> bytes:
    text = _offered_text(verb, argument, capabilities)
    suffix = b"" if text.isascii() else b" SMTPUTF8"
    limit = LINE_LIMIT + (_VRFY_SMTPUTF8_ADDITION if capabilities.supports_smtputf8 else 0)
    return _line(verb, verb.encode("ascii") + b" " + text.encode("utf-8") + suffix, limit)


def help_(topic: str | None, capabilities: ServerCapabilities) -> bytes:
    """HELP (RFC 5321 section 4.1.1.8), with a topic or without."""
    if topic is None:
        return _line("HELP", b"HELP")
    return _line("HELP", b"HELP " + _offered_text("HELP", topic, capabilities).encode("utf-8"))


def free_text(verb: str, argument: str) -> str:
    """The argument of VRFY, EXPN or HELP, if some server could take it: what can be judged before anybody waits.

    Raises:
        TypeError: it is no `str`.
        InvalidInputError: it is empty or blank, has a control character, or is too long for every line.
    """
    text = exact_text(f"the argument of {verb}", argument)
    refuse_controls(f"the argument of {verb}", text)
    if not text or text.isspace():
        raise refusal(f"the argument of {verb}", "must not be empty or blank", text)
    _line(verb, verb.encode("ascii") + b" " + text.encode("utf-8"), LINE_LIMIT + _VRFY_SMTPUTF8_ADDITION)
    return text


def _offered_text(verb: str, argument: str, capabilities: ServerCapabilities) -> str:
    text = free_text(verb, argument)
    if not text.isascii():
        capabilities.require("SMTPUTF8")
    return text


def mail(
    sender: ReversePath,
    *,
    size: int | None,
    body: str | None,
    smtputf8: bool,
    params: MailParams,
    capabilities: ServerCapabilities,
) -> bytes:
    """MAIL (RFC 5321 section 4.1.1.2). `size`, `body` and `smtputf8` as decided for this mail; None: not sent."""
    words = f"MAIL FROM:<{sender.mailbox}>"
    if size is not None:
        words += f" SIZE={size}"
    if body is not None:
        words += f" BODY={body}"
    if smtputf8:
        words += " SMTPUTF8"
    line = words.encode() + params.octets
    return _line("MAIL", line, LINE_LIMIT if len(line) < LINE_LIMIT - 1 else mail_limit(capabilities))


def mail_limit(capabilities: ServerCapabilities) -> int:
    """How many octets a MAIL line may have, CRLF included (L8)."""
    limit = LINE_LIMIT + sum(octets for keyword, octets in _MAIL_ADDITIONS if keyword in capabilities.extensions)
    if capabilities.supports_8bitmime or capabilities.supports_binarymime:
        limit += _BODY_ADDITION
    return min(limit, LONGEST_LINE)


def rcpt(recipient: Recipient, capabilities: ServerCapabilities) -> bytes:
    """RCPT (RFC 5321 section 4.1.1.3)."""
    return rcpts((recipient,), capabilities)[0]


def rcpts(recipients: Iterable[Recipient], capabilities: ServerCapabilities) -> list[bytes]:
    """A RCPT line for each of them."""
    limit = LINE_LIMIT + _RCPT_DSN_ADDITION if capabilities.supports_dsn else LINE_LIMIT
    return [
        _line("RCPT", f"RCPT TO:<{each.path.mailbox}>".encode() + each.params.octets, limit) for each in recipients
    ]


def verbatim(line: str) -> bytes:
    """A command line of the caller's own, without its CRLF; printable ASCII."""
    verb = line.partition(" ")[0] or "empty"
    if not line.isascii():
        raise InvalidInputError("a command line must be ASCII")
    return _line(verb, line.encode("ascii"))


def bdat(octets: int, *, last: bool) -> bytes:
    """BDAT (RFC 3030 section 2): the line in front of a chunk of that many octets."""
    return _line("BDAT", b"BDAT %d LAST" % octets if last else b"BDAT %d" % octets)


def auth(mechanism: str, initial: bytes | None) -> bytes:
    """AUTH (RFC 4954 section 4). `initial` is base64, `b""` the empty response (sent as `=`), None no response yet.

    Raises:
        InvalidInputError: the line has more than `AUTH_INITIAL_LIMIT` octets; ask with None, then answer the 334.
    """
    try:
        return _line(
            "AUTH",
            b"AUTH " + mechanism.encode("ascii") + (b"" if initial is None else b" " + (initial or b"=")),
            AUTH_INITIAL_LIMIT,
        )
    finally:
        del initial


def auth_response(base64: bytes) -> bytes:
    """The answer to a 334 challenge, already base64; `b""` is an empty line."""
    try:
        return _line("AUTH", base64, AUTH_RESPONSE_LIMIT + 2)
    finally:
        del base64


def auth_cancel() -> bytes:
    """The line that gives up an exchange (RFC 4954 section 4)."""
    return _line("AUTH", b"*")
