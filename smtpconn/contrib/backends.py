"""What the e-mail backends of Django and Flask-Mailman share: pools by configuration, and a batch of messages.

Knows Django's backend interface in words (`open`, `close`, `send_messages`, `fail_silently`) and imports neither
framework. Its laws: one pool for each configuration in a process, whatever instance asks; nothing is opened and no DNS
is read before the first message or `open()`; a secret is in no repr or record; a message whose fate is not known is
neither counted nor repeated.
"""

from __future__ import annotations

import contextlib
import email
import email.policy
import logging
import os
import threading
from collections.abc import Callable, Sequence
from typing import Any

from smtpconn.contrib.border import SMTPSomeRecipientsRefused, original, translate
from smtpconn.contrib.compat import LeasingSMTP, smtp_class
from smtpconn.contrib.configuration import Account, Configuration
from smtpconn.pool import ConnectionPool
from smtpconn.protocol.errors import Delivery, ExtensionUnavailableError, PoolClosedError, SmtpError
from smtpconn.protocol.params import NO_MAIL_PARAMS, MailParams
from smtpconn.protocol.result import SendResult
from smtpconn.protocol.sasl import Secret
from smtpconn.sender import Sender

_log = logging.getLogger("smtpconn.contrib.backends")
_NOBODY = Delivery.NOT_DELIVERED.value

# --- pools by configuration ---


class Registry:
    """The pools of this process. A forked child finds them empty (LE6), and the lock new."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pools: dict[tuple[Any, ...], ConnectionPool] = {}
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._renew)

    def _renew(self) -> None:
        self._lock = threading.Lock()

    def pool(self, configuration: Configuration, name: str) -> ConnectionPool:
        """The pool of this configuration; made where there is none. `name` is that of the first who asks."""
        with self._lock:
            found = self._pools.get(configuration.key)
        if found is not None:
            return found
        made = configuration.make_pool(name)  # without the lock: the framework may ask DNS for its own name
        with self._lock:
            found = self._pools.setdefault(configuration.key, made)
        self._tidy(found)
        return found

    def _tidy(self, newest: ConnectionPool) -> None:
        """Expire what is idle in the other pools, and forget those that have nothing left.

        `send_mail(auth_user=..., auth_password=...)` makes a configuration for each user; without this the connections
        of those who do not come back would stay open.
        """
        with self._lock:
            others = [(key, pool) for key, pool in self._pools.items() if pool is not newest]
        for key, pool in others:
            stats = pool.stats()
            if stats.min_size or stats.leased or stats.opening or stats.waiting:
                continue
            if stats.idle:
                with contextlib.suppress(PoolClosedError):
                    pool.maintain()
            else:
                with self._lock:
                    if self._pools.get(key) is pool:
                        del self._pools[key]

    def drop(self) -> None:
        """Forget every pool: idle connections are closed now, others when they come back."""
        for pool in self._emptied():
            pool.invalidate()

    def close(self, timeout: float) -> None:
        """Close every pool; a later message makes a new one."""
        for pool in self._emptied():
            pool.close(timeout=timeout)

    def _emptied(self) -> list[ConnectionPool]:
        with self._lock:
            pools, self._pools = list(self._pools.values()), {}
        return pools

    def __repr__(self) -> str:
        return f"<Registry of {len(self._pools)} pools>"


registry = Registry()


def close_pools(timeout: float = 5.0) -> None:
    """Close every pool that backends of this process have made, for shutdown hooks; `timeout`, seconds, for leases."""
    registry.close(timeout)


# --- the backend ---


class Outgoing:
    """One message as it goes out: addresses without names, octets, and how the caller wrote them."""

    __slots__ = ("given_recipients", "given_sender", "message_id", "octets", "recipients", "sender")

    def __init__(self, sender: str, recipients: Sequence[str], octets: bytes, message_id: str) -> None:
        self.sender = sender
        self.recipients = list(recipients)
        self.octets = octets
        self.message_id = message_id


class PooledBackend:
    """`open`, `close` and `send_messages` of Django's interface, over a pool."""

    host: str | None
    port: int | None
    username: str | None
    password: str | None
    use_tls: bool
    use_ssl: bool
    timeout: float | None
    ssl_keyfile: str | None
    ssl_certfile: str | None
    fail_silently: bool
    connection: LeasingSMTP | None = None

    _configuration: Configuration
    _pool_name: str
    _lock: Any

    def _set_up(self, configuration: Configuration, pool_name: str) -> None:
        self._configuration = configuration
        self._pool_name = pool_name
        self._lock = threading.RLock()
        self.connection = None

    def _account(self) -> Account:
        return Account(
            host=self.host,
            port=self.port,
            username=self.username,
            password=None if self.password is None else Secret(self.password, "password"),
            use_tls=self.use_tls,
            use_ssl=self.use_ssl,
            timeout=self.timeout,
            ssl_keyfile=self.ssl_keyfile,
            ssl_certfile=self.ssl_certfile,
        )

    def _outgoing(self, message: Any) -> Outgoing:
        """The message made ready. Raises `ValueError`."""
        raise NotImplementedError

    def _params(self, outgoing: Outgoing) -> MailParams:
        return NO_MAIL_PARAMS

    def _sent(self, message: Any, result: SendResult) -> None:
        """A message went out, to some recipients at least."""
        message.smtpconn_result = result

    @property
    def pool(self) -> ConnectionPool:
        """The pool of this configuration in this process."""
        return registry.pool(self._configuration, self._pool_name)

    def open(self) -> bool | None:
        """Lease a connection now: True, False if one was open, None if that failed and `fail_silently`."""
        with self._lock:
            if self.connection is not None:
                return False
            facade = smtp_class(self.pool)(timeout=self._configuration.timeout)
            try:
                facade.lease(self._configuration.acquire)
            except OSError as error:
                if not self.fail_silently:
                    raise
                _swallowed(error, original(error))
                return None
            self.connection = facade
            return True

    def close(self) -> None:
        """Give the connection back to the pool; silent, idempotent."""
        with self._lock:
            facade, self.connection = self.connection, None
        if facade is not None:
            facade.close()

    def send_messages(self, email_messages: Sequence[Any]) -> int:
        """Send the messages in order: how many were sent, to some of their recipients at least.

        The first error ends the batch, unless `fail_silently`.
        """
        sent = 0
        for message in email_messages or ():
            if not message.recipients():
                continue
            try:
                sent += self._send(message)
            except OSError as error:
                failure = original(error)
                if not self.fail_silently or failure is None:
                    raise
                _swallowed(error, failure)
                if isinstance(error, SMTPSomeRecipientsRefused):
                    sent += 1
                if "_without_connection" in vars(failure):
                    break  # as an open() that failed: trying the others would be pointless
        return sent

    def _send(self, message: Any) -> int:
        """Send one message: 1. Raises `ValueError`, or smtplib's exceptions."""
        outgoing = self._outgoing(message)
        try:
            result = self._deliver(outgoing)
            if not result.accepted:
                result.raise_for_refused()
        except SmtpError as error:
            raise self._translated(error, message, outgoing) from error
        for place, entry in enumerate(result.recipients):
            if entry in result.rejected:
                _refused(place, entry)
        self._sent(message, result)
        if self._configuration.raises_partial and not result.all_delivered:
            try:
                result.raise_for_refused()
            except SmtpError as error:
                raise self._translated(error, message, outgoing) from error
        return 1

    def _translated(self, error: SmtpError, message: Any, outgoing: Outgoing) -> BaseException:
        """As smtplib's, with addresses as the caller wrote them; the caller's own mistakes as they are."""
        keys = [str(address) for address in message.recipients()]
        made = translate(error, sender=str(message.from_email), keys=keys)
        made.smtpconn_message_id = outgoing.message_id  # type: ignore[attr-defined]  # an attribute more
        return made

    def _deliver(self, outgoing: Outgoing) -> SendResult:
        """Send it as it is; in 7 bits where the server needs that and nobody has signed it (DJ16)."""
        params = self._params(outgoing)

        def as_it_is(sender: Sender, timeout: Any) -> SendResult:
            return sender.send(
                outgoing.sender, outgoing.recipients, outgoing.octets, timeout=timeout, params=params, newlines="crlf"
            )

        def encoded(sender: Sender, timeout: Any) -> SendResult:
            message = email.message_from_bytes(outgoing.octets, policy=email.policy.SMTP)
            return sender.send_message(
                message, timeout=timeout, sender=outgoing.sender, recipients=outgoing.recipients, params=params
            )

        try:
            return self._through(as_it_is)
        except ExtensionUnavailableError as error:
            if error.extension != "8BITMIME" or _is_signed(outgoing.octets):
                raise
        return self._through(encoded)

    def _through(self, verb: Callable[[Any, Any], SendResult]) -> SendResult:
        """By the connection that `open` leased, or by the pool."""
        facade, timeout = self.connection, self._configuration.timeout
        return verb(self.pool, timeout) if facade is None else facade.through(verb, timeout)


def _is_signed(octets: bytes) -> bool:
    header = octets.partition(b"\r\n\r\n")[0].lower()
    return header.startswith(b"dkim-signature:") or b"\r\ndkim-signature:" in header


def _refused(place: int, entry: Any) -> None:
    reply = entry.reply
    extra = {} if reply is None else {"smtp_code": reply.code, "smtp_enhanced": str(reply.enhanced or "")}
    code = "no reply" if reply is None else f"{reply.code} {reply.enhanced or ''}".rstrip()
    _log.warning("recipient %d of a message was refused: %s", place, code, extra=extra)


def _swallowed(error: OSError, failure: SmtpError | None) -> None:
    """DJ20: `fail_silently` is not to mean that nobody can know. No address is told."""
    extra: dict[str, object] = {"smtp_delivery": failure.delivery.value if failure and failure.recipients else _NOBODY}
    code = ""
    if failure is not None:
        extra["smtp_stage"] = failure.stage
        if failure.reply is not None:
            extra["smtp_code"] = failure.reply.code
            code = f" ({failure.reply.code})"
    _log.warning(
        "fail_silently: %s at %s%s, message %s: %s",
        type(error).__name__,
        extra.get("smtp_stage", "open"),
        code,
        getattr(error, "smtpconn_message_id", "-"),
        extra["smtp_delivery"],
        extra=extra,
    )
