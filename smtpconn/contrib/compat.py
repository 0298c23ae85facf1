"""`SMTP`, `SMTP_SSL` and `LMTP`: what smtplib's callers know, over one `SmtpConnection` (users 6). Needs no extra.

`from smtpconn.contrib import compat as smtplib` is the whole change of an import. Names, signatures and return shapes
are smtplib's; what differs is listed in the documentation, and is safer. New code uses `SmtpConnection`. `smtp_class`
gives libraries that take a class (`cls_smtp=`, `connection_class`) connections of a pool.
"""

from __future__ import annotations

import contextlib
import ssl
import threading
import time
from collections.abc import Callable
from smtplib import (
    LMTP_PORT,
    SMTP_PORT,
    SMTP_SSL_PORT,
    SMTPAuthenticationError,
    SMTPConnectError,
    SMTPDataError,
    SMTPException,
    SMTPHeloError,
    SMTPNotSupportedError,
    SMTPRecipientsRefused,
    SMTPResponseException,
    SMTPSenderRefused,
    SMTPServerDisconnected,
)
from types import TracebackType
from typing import Any, ClassVar

from smtpconn.contrib import dialogue
from smtpconn.contrib.border import (
    Answer,
    SMTPCertificateFailed,
    SMTPConnectFailed,
    SMTPConnectionLost,
    SMTPDeliveryUnknown,
    SMTPPoolTimeout,
    SMTPResolveFailed,
    SMTPSomeRecipientsRefused,
    SMTPTimeout,
    SMTPTlsFailed,
    border,
    original,
    translate,
)
from smtpconn.contrib.facade import SMTP
from smtpconn.deadline import Timeouts
from smtpconn.opening import Endpoint, endpoint_of
from smtpconn.pool import ConnectionPool
from smtpconn.pooling.holding import Limit
from smtpconn.pooling.lease import Lease
from smtpconn.protocol.errors import SmtpError, UsageError
from smtpconn.protocol.mail import Mail
from smtpconn.protocol.result import SendResult
from smtpconn.protocol.session import SessionState
from smtpconn.tls import TlsConfig, TlsMode

__all__ = [
    "SMTP", "SMTP_SSL", "LMTP", "smtp_class",
    "translate", "original",
    "SMTPTimeout", "SMTPConnectionLost", "SMTPConnectFailed", "SMTPResolveFailed", "SMTPTlsFailed",
    "SMTPCertificateFailed", "SMTPPoolTimeout", "SMTPDeliveryUnknown", "SMTPSomeRecipientsRefused",
    "SMTPException", "SMTPNotSupportedError", "SMTPServerDisconnected", "SMTPResponseException", "SMTPSenderRefused",
    "SMTPRecipientsRefused", "SMTPDataError", "SMTPConnectError", "SMTPHeloError", "SMTPAuthenticationError",
    "SMTP_PORT", "SMTP_SSL_PORT", "LMTP_PORT",
]  # fmt: skip


_TOO_MANY = 432  # Exchange: too many connections; one more is what it does not want (pool CS15)


class SMTP_SSL(SMTP):  # noqa: N801  # smtplib's name
    """`smtplib.SMTP_SSL`: TLS from the first octet, verified. `context`: one that verifies, instead of `tls_config`."""

    default_port = SMTP_SSL_PORT
    _tls_mode = TlsMode.IMPLICIT

    def __init__(
        self,
        host: str = "",
        port: int = 0,
        local_hostname: str | None = None,
        *,
        timeout: Any = None,
        source_address: tuple[str, int] | None = None,
        context: ssl.SSLContext | None = None,
        tls_config: TlsConfig | None = None,
        **options: Any,
    ) -> None:
        if context is not None:
            if tls_config is not None:
                raise TypeError("context and tls_config exclude each other: TlsConfig takes a context, too")
            tls_config = TlsConfig(context=context)
        super().__init__(host, port, local_hostname, timeout, source_address, tls_config=tls_config, **options)


class LMTP(SMTP):
    """`smtplib.LMTP`, with a result for each recipient. A `host` that begins with `/` is a Unix socket."""

    default_port = LMTP_PORT
    ehlo_msg = "lhlo"
    _protocol = "lmtp"

    def __init__(
        self,
        host: str = "",
        port: int = LMTP_PORT,
        local_hostname: str | None = None,
        source_address: tuple[str, int] | None = None,
        timeout: Any = None,
        **options: Any,
    ) -> None:
        super().__init__(host, port, local_hostname, timeout, source_address, **options)

    def _endpoint(self, host: str, port: int) -> Endpoint:
        if host.startswith("/"):
            return endpoint_of(None, None, host, protocol="lmtp")
        return super()._endpoint(host, port)


class LeasingSMTP(SMTP):
    """`SMTP` over a lease: `smtp_class` gives it a pool.

    A connection is leased with the first method that needs one; `quit()`, `close()` and leaving `with` give it back.
    """

    _pool: ClassVar[ConnectionPool]

    def __init__(self, *_where: Any, timeout: Any = None, **_tls: Any) -> None:
        super().__init__(timeout=timeout)
        self._lease: Lease | None = None
        self._guard = threading.Lock()  # of who has the lease; never held while something waits

    def connect(
        self, host: str = "localhost", port: int = 0, source_address: tuple[str, int] | None = None
    ) -> Answer:
        """Nothing: the pool knows where to."""
        return 220, b"by the pool"

    @property
    def _limit(self) -> Any:
        return self.timeout  # None: the pool's own

    def lease(self, timeout: float | None = None) -> Lease:
        """The lease; taken now, within `timeout` seconds, where there is none or it died. Raises as smtplib does."""
        with border():
            return self._leased(timeout)

    def through(self, verb: Callable[[Lease, Limit], SendResult], timeout: Limit) -> SendResult:
        """A mail over the lease: once more over a fresh one where the connection died unseen before it (D7).

        Raises errors of this library. `timeout` is for all of it.
        """
        began = time.monotonic()
        lease = self._leased(None)
        used = lease.is_used
        try:
            return verb(lease, timeout)
        except SmtpError as error:
            rest = _rest(timeout, time.monotonic() - began)
            crowded = error.reply is not None and error.reply.code == _TOO_MANY
            never_began = error.stage == "input" and not _is_alive(lease)  # another thread found it dead before
            if not (never_began or (used and error._unanswered and not crowded)) or rest == 0.0:
                raise
            self._give_back(lease)
        return verb(self._leased(None), rest)

    def _deliver(self, mail: Mail) -> SendResult:
        def verb(lease: Lease, timeout: Limit) -> SendResult:
            result: SendResult = lease.converse(
                lambda connection, budget: connection._transact(mail, budget), timeout=timeout
            )
            return result

        return self.through(verb, self._limit)

    def _open(self) -> Lease:
        with border():
            return self._leased(None)

    def _leased(self, timeout: float | None) -> Lease:
        """The lease; one that died is replaced, unless a mail was begun on it."""
        lease = self._lease
        if lease is not None and not _is_alive(lease):
            begun = self._stepwise is not None
            self._give_back(lease)
            if begun:
                raise SMTPServerDisconnected("the connection was lost in the middle of a mail")
            lease = self._lease
        if lease is not None:
            return lease
        try:
            lease = self._pool.connection(timeout).__enter__()
        except SmtpError as error:
            error.__dict__["_without_connection"] = True  # as the pool says of a mail of its own
            raise
        with self._guard:
            first = self._lease is None
            if first:
                self._lease = lease
                self._protocol = self._pool._opening.protocol
                self._take(lease)
                self._learn(lease)
        if not first:  # another thread had the same thought
            lease.__exit__(None, None, None)
            return self._leased(timeout)
        return lease

    def _give_back(self, lease: Lease) -> None:
        """End this lease, once, whichever threads find it dead."""
        with self._guard:
            if self._lease is not lease:
                return
            self._lease = self._connection = self._stepwise = None
            self._forget()
        with contextlib.suppress(SmtpError):  # dead, or a forked child's: its return is silent
            if lease.state is SessionState.RCPT_TO:
                lease.converse(dialogue.leave_transaction)
        lease.__exit__(None, None, None)

    def _learn(self, lease: Lease) -> None:
        """What the EHLO of the pool said."""
        offered = lease.capabilities
        self.ehlo_resp = "\n".join([offered.greeting_name, *offered.lines]).encode("utf-8")
        self.does_esmtp = offered.is_esmtp
        self.esmtp_features = {name.lower(): " ".join(words) for name, words in offered.extensions.items()}

    def ehlo(self, name: str = "") -> Answer:
        """What the pool's EHLO was answered."""
        self._open()
        return 250, self.ehlo_resp or b""

    def helo(self, name: str = "") -> Answer:
        """As `ehlo`."""
        return self.ehlo(name)

    def starttls(self, *, context: ssl.SSLContext | None = None) -> Answer:
        """Nothing: the pool's configuration says whether there is TLS. `SMTPNotSupportedError` where there is none."""
        if self._open().tls is None:
            raise SMTPNotSupportedError("the pool's connections have no TLS: configure the pool")
        return 220, b"by the pool"

    def login(self, user: str, password: Any, *, initial_response_ok: bool = True) -> Answer:
        """Nothing: the pool logs in. `SMTPNotSupportedError` where it has no credentials."""
        del password
        if not self._open().is_authenticated:
            raise SMTPNotSupportedError("the pool's connections are not logged in: configure the pool")
        return 235, b"by the pool"

    def auth(self, mechanism: str, authobject: Any, *, initial_response_ok: bool = True) -> Answer:
        """As `login`."""
        return self.login("", "")

    def quit(self) -> Answer:
        """Give the connection back to the pool, which keeps it."""
        self.close()
        return 221, b"back in the pool"

    def close(self) -> None:
        """Give the connection back to the pool; silent, idempotent."""
        lease = self._lease
        if lease is not None:
            self._give_back(lease)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def _is_alive(lease: Lease) -> bool:
    """False for a lease whose connection is closed, that was given back, or that is the parent's in a forked child."""
    try:
        return lease.state is not SessionState.CLOSED
    except UsageError:
        return False


def _rest(timeout: Limit, elapsed: float) -> Limit:
    """What is left of a total; 0.0 if nothing is."""
    if isinstance(timeout, Timeouts):
        if timeout.total is None:
            return timeout
        left = timeout.total - elapsed
        return timeout.replace(total=left) if left > 0 else 0.0
    return None if timeout is None else max(0.0, timeout - elapsed)


def smtp_class(pool: ConnectionPool) -> type[LeasingSMTP]:
    """A class with the methods of `SMTP` whose objects lease connections of `pool`.

    Its constructor takes smtplib's arguments and ignores those that say where to and how: the pool knows. `timeout`
    counts. Raises TypeError.
    """
    if not isinstance(pool, ConnectionPool):
        raise TypeError(f"pool must be a ConnectionPool, not {type(pool).__name__}")
    return type("PooledSMTP", (LeasingSMTP,), {"_pool": pool})
