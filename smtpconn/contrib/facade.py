"""`SMTP` of `compat`: smtplib's methods over one `SmtpConnection` (users 6).

Knows smtplib's names, signatures and return shapes; refuses to know the wire (`dialogue`) and how loose arguments are
read (`arguments`). Its laws: every method is one call with one deadline; what the server says is a return value where
smtplib returns it and smtplib's exception where smtplib raises it (`border`); nothing is ever half an exchange, and
nothing is printed.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable, Iterable, Sequence
from smtplib import SMTP_PORT, SMTPConnectError, SMTPHeloError, SMTPServerDisconnected
from types import TracebackType
from typing import Any, ClassVar, TypeVar

from smtpconn import message as email_messages
from smtpconn.connection import SmtpConnection, open_connection
from smtpconn.contrib import arguments, dialogue
from smtpconn.contrib.border import Answer, answer, border, refusals
from smtpconn.contrib.dialogue import Greeted, Stepwise
from smtpconn.deadline import Budget, Timeouts
from smtpconn.opening import Endpoint, Opening, ehlo_domain, endpoint_of
from smtpconn.pooling.lease import Lease
from smtpconn.protocol import commands
from smtpconn.protocol.audit import AuditSink
from smtpconn.protocol.errors import ReplyError, ServiceUnavailableError, UsageError
from smtpconn.protocol.ledger import EHLO, EXPN, HELO, HELP, LHLO, VRFY, Kind
from smtpconn.protocol.mail import Mail, Recipient
from smtpconn.protocol.policy import SendPolicy
from smtpconn.protocol.reply import Reply
from smtpconn.protocol.result import SendResult
from smtpconn.protocol.sasl import PasswordAuth, Secret
from smtpconn.protocol.session import ProtocolName, SessionState
from smtpconn.tls import TlsConfig, TlsMode

Result = TypeVar("Result")
Facade = TypeVar("Facade", bound="SMTP")

_NOT_CONNECTED = "please run connect() first"
_SENTINEL = getattr(socket, "_GLOBAL_DEFAULT_TIMEOUT", None)  # what code built on smtplib hands through
_NOT_BY_DOCMD = frozenset({"DATA", "BDAT", "STARTTLS", "AUTH", "QUIT"})


class SMTP:
    """`smtplib.SMTP` over one `SmtpConnection`: connects at once if `host` is given.

    `timeout`: seconds for each method call as a whole; None: the limits of RFC 5321 for each phase (`Timeouts`).
    `tls_config`, `policy`, `audit` and `allow_plaintext_auth` are those of `SmtpConnection.connect`. Raises smtplib's
    exceptions, or those of this module, which are subclasses; `ValueError` for what cannot be sent.
    """

    default_port = SMTP_PORT
    ehlo_msg = "ehlo"
    _protocol: ProtocolName = "smtp"
    _tls_mode: ClassVar[TlsMode] = TlsMode.NONE

    def __init__(
        self,
        host: str = "",
        port: int = 0,
        local_hostname: str | None = None,
        timeout: Any = None,
        source_address: tuple[str, int] | None = None,
        *,
        tls_config: TlsConfig | None = None,
        policy: SendPolicy | None = None,
        audit: AuditSink | None = None,
        allow_plaintext_auth: bool = False,
    ) -> None:
        self.timeout = None if timeout is _SENTINEL else timeout
        if self.timeout == 0:
            raise ValueError("timeout must be above 0: a call that may not wait cannot have a reply")
        self.source_address = source_address
        self.local_hostname = local_hostname or ehlo_domain(None, None)
        self.debuglevel = 0
        self._given_hostname = local_hostname
        self._tls_config = tls_config
        self._options: dict[str, Any] = {"policy": policy, "audit": audit, "allow_plaintext_auth": allow_plaintext_auth}
        self._connection: SmtpConnection | Lease | None = None
        self._stepwise: Stepwise | None = None
        self._forget()
        if host:
            code, text = self.connect(host, port)
            if code != 220:
                self.close()
                raise SMTPConnectError(code, text)

    # --- the connection ---

    def connect(
        self, host: str = "localhost", port: int = 0, source_address: tuple[str, int] | None = None
    ) -> Answer:
        """Connect and read the greeting. `host` is also the name that a later `starttls` verifies."""
        if source_address:
            self.source_address = source_address
        host, port = arguments.place(host, port)
        self.close()
        with border():
            endpoint = self._endpoint(host, port or self.default_port)
            implicit = self._tls_mode is TlsMode.IMPLICIT
            opening = Opening(
                protocol=self._protocol,
                tls_mode=self._tls_mode,
                tls_config=self._tls_config if implicit else None,
                ehlo_domain=self._given_hostname,
                source_address=None if endpoint.unix_socket else self.source_address,
                **self._options,
            )
            try:
                opened = open_connection(opening, endpoint, Budget.of(self._limit), Greeted)
            except ReplyError as error:
                return answer(error.reply)
        assert isinstance(opened, Greeted)
        self._take(opened)
        if self._given_hostname is None:
            self.local_hostname = opened._session.domain
        return answer(opened.greeting)

    def _endpoint(self, host: str, port: int) -> Endpoint:
        return endpoint_of(host, port, protocol=self._protocol)

    def _take(self, connection: SmtpConnection | Lease) -> None:
        self._connection = connection
        self._stepwise = None
        self._forget()
        self.set_debuglevel(self.debuglevel)

    def _forget(self) -> None:
        """What the last EHLO said is not true any more."""
        self.esmtp_features: dict[str, str] = {}
        self.does_esmtp = False
        self.ehlo_resp: bytes | None = None
        self.helo_resp: bytes | None = None

    @property
    def _limit(self) -> float | Timeouts:
        return Timeouts() if self.timeout is None else self.timeout

    def _open(self) -> SmtpConnection | Lease:
        """The connection. Raises `SMTPServerDisconnected` if there is none, or no more."""
        connection = self._connection
        if connection is not None and connection.state is SessionState.CLOSED:
            self.close()
        if self._connection is None:
            raise SMTPServerDisconnected(_NOT_CONNECTED)
        return self._connection

    def _converse(self, talk: Callable[[Any, Budget], Result]) -> Result:
        """One turn on the connection; what it raises is an error of ours."""
        result: Result = self._open().converse(talk, timeout=self._limit)
        return result

    def _asked(self, talk: Callable[[Any, Budget], Reply]) -> Answer:
        """A reply is an answer whatever its code, 421 included, which closes."""
        with border():
            try:
                return answer(self._converse(talk))
            except ServiceUnavailableError as error:
                return answer(error.reply)

    @property
    def sock(self) -> socket.socket | None:
        """The socket, to look at; None when there is no connection."""
        connection = self._connection
        if connection is None or connection.state is SessionState.CLOSED:
            return None
        driver = getattr(connection, "_driver", None)  # a lease's is not for looking at
        return None if driver is None else getattr(driver.transport, "_sock", None)

    def set_debuglevel(self, debuglevel: int) -> None:
        """Above 0: this connection's wire log goes to the logger `smtpconn.wire` at DEBUG. Nothing is printed."""
        self.debuglevel = debuglevel
        driver = getattr(self._connection, "_driver", None)
        if driver is not None:
            driver.journal.wired = bool(debuglevel)

    # --- EHLO, TLS, AUTH ---

    def ehlo(self, name: str = "") -> Answer:
        """EHLO (LMTP: LHLO)."""
        kind = LHLO if self._protocol == "lmtp" else EHLO
        self._open()
        code, text = self._asked(dialogue.hello(name or self.local_hostname, kind))
        self.ehlo_resp = text
        if code == 250:
            self.does_esmtp = True
            self.esmtp_features = arguments.features(text)
        return code, text

    def helo(self, name: str = "") -> Answer:
        """HELO."""
        self._open()
        code, text = self._asked(dialogue.hello(name or self.local_hostname, HELO))
        self.helo_resp = text
        return code, text

    def ehlo_or_helo_if_needed(self) -> None:
        """EHLO, or HELO where it is refused, unless one of them was said before. Raises `SMTPHeloError`."""
        if self.ehlo_resp is not None or self.helo_resp is not None:
            return
        code, text = self.ehlo()
        if not 200 <= code <= 299 and self.sock is not None:
            code, text = self.helo()
        if not 200 <= code <= 299:
            raise SMTPHeloError(code, text)

    def has_extn(self, opt: str) -> bool:
        """True if the server offered the extension in its EHLO."""
        return opt.lower() in self.esmtp_features

    def starttls(self, *, context: ssl.SSLContext | None = None) -> Answer:
        """STARTTLS. `context`: one that verifies (`ValueError`); without it `TlsConfig()`. EHLO is due again."""
        config = TlsConfig(context=context) if context is not None else self._tls_config or TlsConfig()
        self.ehlo_or_helo_if_needed()
        with border():
            reply = self._converse(dialogue.starttls(config))
        self._forget()
        return answer(reply)

    def login(self, user: str, password: str | Secret, *, initial_response_ok: bool = True) -> Answer:
        """AUTH with the best mechanism: SCRAM-SHA-256, else PLAIN, else LOGIN; one attempt."""
        secret = Secret(password, "password")
        del password
        self.ehlo_or_helo_if_needed()
        with border():
            return answer(self._converse(dialogue.auth(PasswordAuth(user, secret))))

    def auth(self, mechanism: str, authobject: Callable[..., str], *, initial_response_ok: bool = True) -> Answer:
        """AUTH with a mechanism of the caller's.

        `authobject()` gives the initial response, `authobject(challenge)` the answer to each challenge.
        """
        self.ehlo_or_helo_if_needed()
        credentials = dialogue.CallersAuth(mechanism, authobject, initial=initial_response_ok)
        with border():
            return answer(self._converse(dialogue.auth(credentials)))

    # --- mails ---

    def sendmail(
        self,
        from_addr: str,
        to_addrs: str | Sequence[str],
        msg: str | bytes,
        mail_options: Sequence[str] = (),
        rcpt_options: Sequence[str] = (),
    ) -> dict[str, Answer]:
        """Send a message: the recipients that were refused, empty if none was.

        Over LMTP a recipient is refused by RCPT or by his own final reply. Raises if nobody has the message, or if
        that is not known (`SMTPDeliveryUnknown`).
        """
        keys = arguments.strings_of(to_addrs)
        content = arguments.content_of(msg)
        self.ehlo_or_helo_if_needed()
        with border(from_addr, keys):
            options, recipients = self._envelope(keys, mail_options, rcpt_options)
            sender = arguments.reverse_path(from_addr)
            mail = Mail(sender, recipients, content, params=options.params, newlines="crlf")
            return self._refused(self._deliver(mail), keys)

    def send_message(
        self,
        msg: Any,
        from_addr: str | None = None,
        to_addrs: str | Sequence[str] | None = None,
        mail_options: Sequence[str] = (),
        rcpt_options: Sequence[str] = (),
    ) -> dict[str, Answer]:
        """Send an `EmailMessage`; what is not given comes from its headers. Otherwise as `sendmail`."""
        self.ehlo_or_helo_if_needed()
        with border():
            if to_addrs is None:
                found = email_messages.mail_of(msg, sender=None if from_addr is None else "").recipients or ()
                keys = [each.address for each in found]
            else:
                keys = arguments.strings_of(to_addrs)
            options, recipients = self._envelope(keys, mail_options, rcpt_options)
            sender = None if from_addr is None else arguments.reverse_path(from_addr)
            mail = email_messages.mail_of(msg, sender=sender, recipients=recipients, params=options.params)
        with border(str(mail.sender) if from_addr is None else from_addr, keys):
            return self._refused(self._deliver(mail), keys)

    def _envelope(
        self, keys: Iterable[str], mail_options: Sequence[str], rcpt_options: Sequence[str]
    ) -> tuple[arguments.MailOptions, list[Recipient]]:
        offered = self._open().capabilities
        params = arguments.rcpt_options(rcpt_options, offered)
        return arguments.mail_options(mail_options, offered), [arguments.recipient(key, params) for key in keys]

    def _deliver(self, mail: Mail) -> SendResult:
        def talk(connection: SmtpConnection, budget: Budget) -> SendResult:
            return connection._transact(mail, budget)

        return self._converse(talk)

    def _refused(self, result: SendResult, keys: Sequence[str]) -> dict[str, Answer]:
        """Over LMTP nobody raised yet that nobody has it (SC30)."""
        if not result.accepted:
            result.raise_for_refused()
        return refusals(result.recipients, keys)

    def mail(self, sender: str, options: Sequence[str] = ()) -> Answer:
        """MAIL: begins a mail by steps, until `data`, `rset`, or the end of the connection."""
        offered = self._open().capabilities
        self._stepwise = None
        with border(sender):
            chosen = arguments.mail_options(options, offered)
            path = arguments.reverse_path(sender)
            try:
                self._stepwise = self._converse(dialogue.begin(path, chosen.params, chosen.size))
            except ServiceUnavailableError as error:
                return answer(error.reply)
        return answer(self._stepwise.mail.reply)

    def rcpt(self, recip: str, options: Sequence[str] = ()) -> Answer:
        """RCPT."""
        offered = self._open().capabilities
        stepwise = self._begun()
        with border():
            recipient = arguments.recipient(recip, arguments.rcpt_options(options, offered))
        return self._asked(dialogue.rcpt(stepwise, recipient))

    def data(self, msg: str | bytes) -> Answer:
        """DATA and the message: the final reply. Raises `SMTPDataError` if DATA is refused, `SMTPDeliveryUnknown`."""
        self._open()
        if self._protocol == "lmtp":
            raise UsageError("data() has one reply, and LMTP one for each recipient: use sendmail")
        content = arguments.content_of(msg)
        stepwise, self._stepwise = self._begun(), None
        with border():
            try:
                return answer(self._converse(dialogue.data(stepwise, content)).reply)
            except ReplyError as error:
                if error.stage != "end of data":
                    raise
                return answer(error.reply)

    def _begun(self) -> Stepwise:
        if self._stepwise is None:
            raise UsageError("no mail was begun: call mail() first")
        return self._stepwise

    # --- other commands ---

    def rset(self) -> Answer:
        """RSET."""
        self._stepwise = None
        return self._asked(dialogue.rset())

    def noop(self) -> Answer:
        """NOOP."""
        return self._asked(dialogue.noop())

    def verify(self, address: str) -> Answer:
        """VRFY with the bare address."""
        return self._inquired(VRFY, arguments.inquired(address))

    vrfy = verify

    def expn(self, address: str) -> Answer:
        """EXPN with the bare address."""
        return self._inquired(EXPN, arguments.inquired(address))

    def help(self, args: str = "") -> bytes:
        """HELP: the text of its reply."""
        return self._inquired(HELP, args or None)[1]

    def _inquired(self, kind: Kind, argument: str | None) -> Answer:
        self._open()
        return self._asked(dialogue.inquiry(kind, argument))

    def docmd(self, cmd: str, args: str = "") -> Answer:
        """One command of the caller's own, in one line, and its reply.

        `UsageError` for DATA, BDAT, STARTTLS, AUTH and QUIT, which have methods.
        """
        verb = cmd.strip().upper()
        line = commands.verbatim(f"{cmd} {args}" if args else cmd)[:-2].decode("ascii")
        if verb.partition(" ")[0] in _NOT_BY_DOCMD:
            raise UsageError(f"docmd() does not say {verb}: there is a method for it")
        simple: dict[str, Callable[[], Answer]] = {
            "RSET": self.rset,
            "EHLO": lambda: self.ehlo(args),
            "LHLO": lambda: self.ehlo(args),
            "HELO": lambda: self.helo(args),
        }
        if verb in simple:
            return simple[verb]()
        envelope = arguments.envelope_command(line)
        if envelope is not None:
            verb, path, options = envelope
            return (self.mail if verb == "MAIL" else self.rcpt)(path, options)
        self._open()
        return self._asked(dialogue.command(commands.verbatim(line)))

    def send(self, s: str | bytes) -> None:
        """Not offered: `UsageError`."""
        raise UsageError("send() is half an exchange: use docmd(), which reads the reply, too")

    def putcmd(self, cmd: str, args: str = "") -> None:
        """Not offered: `UsageError`."""
        raise UsageError("putcmd() is half an exchange: use docmd(), which reads the reply, too")

    def getreply(self) -> Answer:
        """Not offered: `UsageError`."""
        raise UsageError("getreply() is half an exchange: use docmd(), which reads the reply itself")

    # --- the end ---

    def quit(self) -> Answer:
        """QUIT, and close: (221, text), or (-1, text) if the connection was lost meanwhile."""
        connection = self._open()
        assert isinstance(connection, SmtpConnection)
        with border():
            reply = connection.converse(dialogue.farewell, timeout=self._limit)
        self.close()
        return (-1, b"the connection was lost") if reply is None else answer(reply)

    def close(self) -> None:
        """Close without QUIT; silent, idempotent."""
        connection, self._connection = self._connection, None
        self._stepwise = None
        self._forget()
        if connection is not None:
            connection.close()

    def __enter__(self: Facade) -> Facade:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        connection, self._connection = self._connection, None
        self._stepwise = None
        self._forget()
        if connection is not None:
            connection.__exit__(kind, error, traceback)
