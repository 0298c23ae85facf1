"""Who erred, what the server said, and what became of the mail.

Every error that leaves the library for a reason of SMTP is an `SmtpError`. Its class says who erred and decides whether
the connection lives (D5); its attributes say what a caller may do about his mail. Nothing is guessed from the text of a
server.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from smtpconn.protocol.reply import Reply, safe_text

if TYPE_CHECKING:
    from smtpconn.protocol.result import RecipientResult

_SHOWN = 500  # characters of an exception's text (SEC6)
_MESSAGE_STAGES = frozenset({"MAIL", "DATA", "body", "BDAT", "end of data"})
_SESSION_CODES = frozenset({421, 500, 502, 503, 530, 534, 535, 538})


class Delivery(enum.Enum):
    """What is known of a mail and one of its recipients after an attempt.

    `DELIVERED`: a complete 2yz final reply was read (RFC 5321 section 4.2.5). `NOT_DELIVERED`: the server provably
    holds no responsibility. `UNKNOWN`: the end of data was handed over and no complete reply came back (RFC 1047).
    """

    DELIVERED = "delivered"
    NOT_DELIVERED = "not delivered"
    UNKNOWN = "unknown"

    def __repr__(self) -> str:
        return f"Delivery.{self.name}"


def numeral(number: object) -> str:
    """A number for an error: Python refuses to spell one of thousands of digits, and nobody would read it."""
    if isinstance(number, int) and abs(number) >= 10**20:
        return "a number of more than 20 digits"
    return f"{number!r:.80}"


def summary(verdicts: Sequence[Delivery]) -> Delivery:
    """The verdict of an attempt: UNKNOWN if any recipient is, else DELIVERED if any is, else NOT_DELIVERED."""
    if Delivery.UNKNOWN in verdicts:
        return Delivery.UNKNOWN
    return Delivery.DELIVERED if Delivery.DELIVERED in verdicts else Delivery.NOT_DELIVERED


class SmtpError(Exception):
    """Base of the errors of smtpconn.

    `stage`: where it happened (`resolve`, `connect`, `tls`, `greeting`, `EHLO`, `AUTH PLAIN`, `MAIL`, `RCPT`, `DATA`,
    `body`, `end of data`, `lock`, `pool`, `input` ...). `reply`: the reply that caused it, or None. `recipients`: one
    `RecipientResult` per recipient given, empty if the call had none. `permanent`: True if repeating it unchanged is
    pointless, False if the peer called it temporary, None if nobody said. `retry_after`: seconds, where they are known.
    """

    _default_stage: ClassVar[str] = "input"
    _default_permanent: ClassVar[bool | None] = None
    _default_extension: ClassVar[str | None] = None
    _scope: ClassVar[str] = "service"

    def __init__(
        self,
        message: str,
        *,
        stage: str | None = None,
        reply: Reply | None = None,
        recipients: Sequence[RecipientResult] = (),
        permanent: bool | None = None,
        extension: str | None = None,
        offset: int | None = None,
        detail: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.stage = stage if stage is not None else self._default_stage
        self.reply = reply
        self.recipients: tuple[RecipientResult, ...] = tuple(recipients)
        self.permanent = permanent if permanent is not None else self._default_permanent
        self.extension = extension if extension is not None else self._default_extension
        self.offset = offset
        self.detail = detail
        self.retry_after = retry_after
        # BR6: the connection ended before an octet of the reply to MAIL (or to the only command) was read.
        self._unanswered = False
        self._rset_alone = False  # this endpoint wants RSET awaited before the next MAIL (D8)
        self._announced = False  # of a mail of which only the envelope was announced: no octet of its body was written
        self._closed = False  # the connection was closed by its owner: there is none to use any more
        self._untouched = False  # of a mail of which nothing was written at all: the flight broke in front of it

    @property
    def delivery(self) -> Delivery:
        """The attempt's verdict as one value."""
        return summary([recipient.delivery for recipient in self.recipients])

    @property
    def retry_safe(self) -> bool:
        """True if repeating the call cannot duplicate anything."""
        return self.delivery is Delivery.NOT_DELIVERED

    @property
    def scope(self) -> str:
        """Whose fault: `recipient`, `message`, `service` or `caller`. Bounce only for the first two."""
        return self._scope

    def __str__(self) -> str:
        text = safe_text(str(self.args[0]) if self.args else "")
        return text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self)!r}, stage={self.stage!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.args, dict(self.__dict__))


def _rebuild(cls: type[SmtpError], args: tuple[Any, ...], state: dict[str, Any]) -> SmtpError:
    error = cls.__new__(cls, *args)
    error.args = args
    error.__dict__.update(state)
    return error


class InvalidInputError(SmtpError, ValueError):
    """An argument has a value that cannot be sent.

    Nothing was written. `offset`: the octet of the body, where it is one.
    """

    _default_permanent = True
    _scope = "caller"


class UsageError(SmtpError, RuntimeError):
    """The call is not possible in this state: closed, wrong protocol, inside another call, in a forked child."""

    _default_permanent = True
    _scope = "caller"


class PolicyError(SmtpError):
    """The caller's own `SendPolicy` refused; nothing was written."""

    _default_permanent = True
    _scope = "caller"


class ExtensionUnavailableError(SmtpError):
    """The call needs what the server did not advertise in its last EHLO; nothing was written. `extension` names it."""

    _default_permanent = True

    @property
    def scope(self) -> str:
        """`service` for AUTH and STARTTLS, `caller` for LIMITS, otherwise `message`."""
        if self.extension in ("AUTH", "STARTTLS"):
            return "service"
        return "caller" if self.extension == "LIMITS" else "message"


class ConnectError(SmtpError, ConnectionError):
    """No connection came about, after all addresses were tried (RFC 5321 section 5.1)."""

    _default_stage = "connect"


class ResolveError(ConnectError):
    """The name has no addresses (`permanent`), or the resolver could not say."""

    _default_stage = "resolve"


class TlsError(SmtpError):
    """TLS was demanded and did not come about. Never followed by plaintext."""

    _default_stage = "tls"


class CertificateError(TlsError):
    """The server's certificate is not trusted or not for this name."""

    _default_permanent = True


class StartTlsInjectionError(TlsError):
    """Octets followed the 220 to STARTTLS in the clear (RFC 3207 section 6): an attack. `octets`: how many."""

    _default_stage = "STARTTLS"

    def __init__(self, message: str, *, octets: int = 0, **keywords: Any) -> None:
        super().__init__(message, **keywords)
        self.octets = octets


class StartTlsUnavailableError(TlsError, ExtensionUnavailableError):
    """STARTTLS was demanded and is not offered; nothing but QUIT followed the EHLO."""

    _default_stage = "STARTTLS"
    _default_permanent = True
    _default_extension = "STARTTLS"


class SmtpTimeoutError(SmtpError, TimeoutError):
    """The deadline of the call, or the limit of its phase, has passed."""


class ConnectionLostError(SmtpError, ConnectionError):
    """The connection ended: reset, closed by the peer, or poisoned by an earlier fault."""


class ProtocolError(SmtpError):
    """The server said something that cannot be said here; client and server do not agree any more."""


class ReplyError(SmtpError):
    """The server refused with a 4yz or 5yz reply; `reply` is never None."""

    reply: Reply

    def __init__(self, message: str, *, reply: Reply, **keywords: Any) -> None:
        super().__init__(message, reply=reply, **keywords)

    @property
    def scope(self) -> str:
        """`recipient` at RCPT, `message` for the other commands of a mail, else `service`."""
        if self.reply.code in _SESSION_CODES:
            return "service"
        if self.stage == "RCPT":
            return "recipient"
        return "message" if self.stage in _MESSAGE_STAGES else "service"


class TransientReplyError(ReplyError):
    """A 4yz reply: the same may succeed later."""

    _default_permanent = False


class PermanentReplyError(ReplyError):
    """A 5yz reply: the same will fail again."""

    _default_permanent = True


class ServiceUnavailableError(ReplyError):
    """421, or 221 outside QUIT: the server closes the connection (RFC 5321 section 3.8)."""

    _default_permanent = False

    @property
    def scope(self) -> str:
        """Always `service`."""
        return "service"


class AuthenticationError(SmtpError):
    """AUTH failed. `permanent` for 535, 534, 538 and other 5yz.

    `detail`: what a bearer mechanism's server sent with it.
    """


class RecipientsRefusedError(SmtpError):
    """Recipients were refused; `recipients` says for each of them what became of it."""

    _default_stage = "RCPT"

    @property
    def scope(self) -> str:
        """`recipient`, but `service` where every refusal says that this session may not send (530 to every RCPT)."""
        refused = [entry for entry in self.recipients if entry.delivery is not Delivery.DELIVERED]
        codes = {entry.reply.code if entry.reply else 0 for entry in refused}
        return "service" if codes and codes <= _SESSION_CODES else "recipient"


class DeliveryUnknownError(SmtpError):
    """The end of data was handed over and no complete reply came back: some recipients may have the mail.

    Repeating it may duplicate it. `__cause__` is what ended the conversation.
    """

    _default_stage = "end of data"

    @property
    def delivery(self) -> Delivery:
        """UNKNOWN also where the recipients are missing: made anew from its text, as result back ends do."""
        return super().delivery if self.recipients else Delivery.UNKNOWN


class PoolError(SmtpError):
    """The pool has no connection for the caller."""

    _default_stage = "pool"


class PoolTimeoutError(PoolError, TimeoutError):
    """No connection came free in time.

    `holders`: (thread name, seconds) of each lease; `__cause__`: the last connect error.
    """

    def __init__(self, message: str, *, holders: Sequence[tuple[str, float]] = (), **keywords: Any) -> None:
        super().__init__(message, **keywords)
        self.holders = tuple(holders)


class PoolClosedError(PoolError):
    """The pool is closed."""

    _default_permanent = True
    _scope = "caller"


class PoolOverloadedError(PoolError):
    """`max_waiting` callers wait already."""

    _default_permanent = False
