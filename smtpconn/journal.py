"""What one connection tells the loggers `smtpconn.connection` and `smtpconn.wire`.

Knows which octets of a step are lines and which are content; refuses to know why they were written. Its laws: nothing
above DEBUG but a WARNING for a hook that failed; without its level a record costs one question and no formatting; a
logger that raises changes nothing; an address or a server's text is in the wire log only, escaped; a secret, a
challenge and content are in neither (faults:SEC4).
"""

from __future__ import annotations

import contextlib
import logging
import re
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from smtpconn.protocol.errors import Delivery, SmtpError, summary
from smtpconn.protocol.flow import Step
from smtpconn.protocol.ledger import CHUNK
from smtpconn.protocol.reply import Reply, decimal, safe_text
from smtpconn.protocol.session import Session

if TYPE_CHECKING:
    from smtpconn.tls import TlsInfo

_log = logging.getLogger("smtpconn.connection")
_wire = logging.getLogger("smtpconn.wire")

_SHOWN = 500  # characters of one line (features:F23)
_AUTH = "AUTH "  # how the stages of an exchange of secrets begin
_CONTENT_STAGE = "body"
_CHUNK = re.compile(CHUNK.stage.encode("ascii") + rb" ([0-9]{1,20})(?: LAST)?")


class Journal:
    """The voice of one connection; `number` and `endpoint` say which."""

    __slots__ = ("_born", "_closed", "_endpoint", "_number", "_session", "wired")

    def __init__(self, session: Session, number: int = 0, endpoint: str = "") -> None:
        self._session = session
        self._number = number
        self._endpoint = safe_text(endpoint)
        self._born = time.monotonic()
        self._closed = False
        self.wired = False  # its owner asked for the wire log of this connection alone, whatever the logger's level

    # --- the connection ---

    def connected(self, tls: TlsInfo | None) -> None:
        """The transport is up, TLS included where it is implicit."""
        if _log.isEnabledFor(logging.DEBUG):
            self._note("connected", smtp_stage="connect")
            if tls is not None:
                self.secured(tls)

    def secured(self, tls: TlsInfo | None) -> None:
        """A handshake is done; a transport of the caller's may say nothing about it."""
        if _log.isEnabledFor(logging.DEBUG):
            agreed = f"{tls.version}, {tls.cipher}{', resumed' * tls.resumed}" if tls is not None else "on"
            self._note(f"TLS {agreed}", smtp_stage="tls")

    def greeted(self) -> None:
        """EHLO, LHLO or HELO succeeded."""
        if _log.isEnabledFor(logging.DEBUG):
            session = self._session
            verb = "LHLO" if session.is_lmtp else "EHLO" if session.capabilities.is_esmtp else "HELO"
            self._note(f"{verb} done, {len(session.capabilities.extensions)} extensions", smtp_stage=verb)

    def authenticated(self, mechanism: str) -> None:
        """235 was read, and the server proved itself where the mechanism asks for it."""
        if _log.isEnabledFor(logging.DEBUG):
            self._note(f"AUTH {mechanism} done", smtp_stage=f"AUTH {mechanism}")

    def clock(self) -> float | None:
        """When a transaction begins; None while nobody wants to know."""
        return time.monotonic() if _log.isEnabledFor(logging.DEBUG) else None

    def settled(
        self, verdicts: Sequence[Delivery], began: float, reply: Reply | None, error: BaseException | None
    ) -> None:
        """The verdicts of a transaction are final. `reply`: the final one, or None; `error`: what ended it."""
        seconds = time.monotonic() - began
        extra: dict[str, object] = {
            "smtp_seconds": seconds,
            "smtp_delivery": summary(verdicts).value,
            "smtp_recipients": len(verdicts),
        }
        ended = ""
        if error is not None:
            ended = f": {type(error).__name__}"
        if isinstance(error, SmtpError):
            ended += f" ({error.stage})"
            extra["smtp_stage"] = error.stage
            reply = error.reply
        if reply is not None:
            ended += f", {reply.code}"
        counts = ", ".join(f"{verdicts.count(verdict)} {verdict.value}" for verdict in Delivery)
        self._note(f"mail settled in {seconds:.3f} s: {counts}{ended}", reply, **extra)

    def closed(self, reason: str) -> None:
        """The transport is closed. Said once; `reason` without a word of the server's."""
        if self._closed:
            return
        self._closed = True
        if _log.isEnabledFor(logging.DEBUG):
            seconds = time.monotonic() - self._born
            self._note(f"closed after {seconds:.3f} s: {reason}", self._session.closing, smtp_seconds=seconds)

    def hook_failed(self) -> None:
        """The caller's `AuditSink` raised; called while its exception is handled."""
        self._write(_log, logging.WARNING, "an AuditSink failed", {}, exc_info=True)

    def _note(self, text: str, reply: Reply | None = None, **extra: object) -> None:
        if reply is not None:
            extra.update(_status(reply))
        self._write(_log, logging.DEBUG, text, extra)

    # --- the wire ---

    def is_wired(self) -> bool:
        """True if somebody wants the wire log; asked once for each conversation."""
        return self.wired or _wire.isEnabledFor(logging.DEBUG)

    def writing(self, step: Step) -> None:
        """One record for each command line that is about to be written, and for each run of content."""
        for text in _shown(step):
            self._write(_wire, logging.DEBUG, f"C: {text}", {"smtp_stage": step.doing})

    def heard(self, replies: Sequence[tuple[str, Reply]]) -> None:
        """One record for each line of these replies, each with the stage that it answers."""
        for stage, reply in replies:
            extra = {"smtp_stage": stage, **_status(reply)}
            if stage.startswith(_AUTH) and reply.code < 400:
                # a challenge, or what goes with a success: SCRAM's proof of the server
                self._write(_wire, logging.DEBUG, f"S: {reply.code} ***", extra)
                continue
            for line in reply.raw[:-2].split(b"\r\n"):
                self._write(_wire, logging.DEBUG, f"S: {_readable(line)}", extra)

    # --- records ---

    def _write(
        self, logger: logging.Logger, level: int, text: str, extra: dict[str, object], *, exc_info: bool = False
    ) -> None:
        """Make one record. Whatever a handler, a filter or a record factory raises is dropped (faults:NN16)."""
        use = self._session.mails
        attributes = {"smtp_connection": self._number, "smtp_use": use, "smtp_endpoint": self._endpoint, **extra}
        words, about = "connection %d use %d to %s: %s", (self._number, use, self._endpoint, text)
        with contextlib.suppress(Exception):  # there is nobody left to tell
            if logger.isEnabledFor(level):
                logger.log(level, words, *about, exc_info=exc_info, extra=attributes)
            elif self.wired and logger is _wire:
                record = logger.makeRecord(logger.name, level, __file__, 0, words, about, None, extra=attributes)
                logger.handle(record)


def _status(reply: Reply) -> dict[str, object]:
    """The attributes of a reply."""
    status = reply.enhanced
    return {"smtp_code": reply.code, **({} if status is None else {"smtp_enhanced": str(status)})}


def _readable(octets: bytes) -> str:
    text = safe_text(octets.decode("utf-8", "replace"))
    return text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."


def _shown(step: Step) -> Iterator[str]:
    """The lines of a step as the wire log shows them, content by its length."""
    octets, doing = step.octets, step.doing
    if not octets:
        return
    if doing.startswith(_AUTH):
        yield _auth_line(bytes(octets), doing)
    elif doing == _CONTENT_STAGE or not step.expects:
        end = (step.expects[0].offset if step.expects else None) or len(octets)
        yield _length(end)
        yield from _lines(bytes(octets[end:]))  # an envelope that is announced behind the end of data
    else:
        yield from _lines(bytes(octets))


def _auth_line(octets: bytes, doing: str) -> str:
    """The line without its payload. No base64 has a blank in it: only the first line of an exchange does."""
    if not octets.startswith(b"AUTH "):
        return "*" if octets == b"*\r\n" else "***"
    return doing if octets == f"{doing}\r\n".encode() else f"{doing} ***"


def _lines(octets: bytes) -> Iterator[str]:
    """Command lines, and behind each BDAT the length of its chunk: nothing of a chunk is taken for a line."""
    at = 0
    while at < len(octets):
        end = octets.find(b"\r\n", at)
        if end < 0:
            yield _length(len(octets) - at)
            return
        line = octets[at:end]
        at = end + 2
        yield _readable(line)
        chunk = _CHUNK.fullmatch(line)
        if chunk:
            size = min(decimal(chunk[1]), len(octets) - at)
            if size:
                yield _length(size)
            at += size


def _length(octets: int) -> str:
    return f"({octets} octets of content)"
