"""`SmtpConnection`: the blocking verbs of one SMTP or LMTP connection.

Each verb takes the lock, runs one flow before one deadline, and says what became of it. Nothing here knows the wire.
"""

from __future__ import annotations

import functools
import os
import types
from collections.abc import Generator, Iterable
from typing import Any, overload

from smtpconn import discovery, handshake
from smtpconn import message as email_messages
from smtpconn.chain import Chain, Peek, Pulled, check_mail, check_mails
from smtpconn.deadline import Budget, Clock, Deadline, Timeouts
from smtpconn.opening import (
    CredentialsSource,
    Dial,
    Endpoint,
    Opening,
    check_name_to_verify,
    check_transport,
    concealed,
    credentials_of,
    endpoint_of,
    transports,
)
from smtpconn.outcomes import MailOutcome, MailOutcomes, budget_of_call, mail_of_call
from smtpconn.protocol import commands
from smtpconn.protocol.address import ForwardPath, ReversePath, check_ehlo_domain
from smtpconn.protocol.audit import AuditSink
from smtpconn.protocol.errors import (
    InvalidInputError,
    ReplyError,
    SmtpError,
    UsageError,
)
from smtpconn.protocol.extensions import ServerCapabilities
from smtpconn.protocol.flow import Pipelining
from smtpconn.protocol.mail import BinaryFile, Mail, Recipient, recipients_of
from smtpconn.protocol.params import MailParams
from smtpconn.protocol.policy import SendPolicy
from smtpconn.protocol.reply import Reply
from smtpconn.protocol.result import SendResult, nobody_has_it
from smtpconn.protocol.sasl import (
    LoginAuth,
    OAuthBearerAuth,
    PlainAuth,
    ScramAuth,
    Secret,
    SecretSource,
    XOAuth2Auth,
)
from smtpconn.protocol.session import ProtocolName, SessionState
from smtpconn.sending import Sending
from smtpconn.tls import TlsConfig, TlsInfo, TlsMode
from smtpconn.transport import Transport
from smtpconn.url import known, read_url

_LEAVING = Timeouts().quit  # seconds

Timeout = float | Timeouts
Message = bytes | bytearray | memoryview | BinaryFile | Iterable[bytes]
Recipients = Iterable[str | ForwardPath | Recipient]


def open_connection(
    opening: Opening, endpoint: Endpoint, budget: Budget, kind: type[SmtpConnection] | None = None
) -> SmtpConnection:
    """Connect, and bring the session to where a mail can be sent. Leaves nothing open if it raises.

    `kind`: a class of connection whose session is opened in a way of its own.

    A host's addresses are tried in order until one of them connects and greets (RFC 5321 section 5.1), and so are a
    domain's servers.
    """
    if endpoint.search is not None:
        return discovery.open_first(endpoint.search, opening, budget, functools.partial(open_connection, kind=kind))
    check_name_to_verify(opening, endpoint)
    refusal: ReplyError | None = None
    tried: list[str] = []  # what went wrong at each address
    of_refusal = ""
    try:
        for transport in transports(opening, endpoint, budget, tried):
            try:
                return _established(transport, opening, endpoint, budget, kind or SmtpConnection)
            except ReplyError as error:  # noqa: PERF203  # one turn per address of a host
                if error.stage != "greeting" or error.reply.code == 421:
                    raise
                refusal, of_refusal = error, f"{transport.peer}: {error.reply}"
                tried.append(of_refusal)
    except SmtpError as error:
        if refusal is None or error.stage != "connect":
            _name_others(error, [] if error.stage == "connect" else tried)
            raise
        _name_others(refusal, [each for each in tried if each is not of_refusal])
        raise refusal from error
    assert refusal is not None  # without one, transports has raised
    _name_others(refusal, tried[:-1])
    raise refusal


def _name_others(error: SmtpError, tried: list[str]) -> None:
    """F115: the error that is raised says what was wrong with the other addresses, too."""
    if tried:
        error.args = (f"{error.args[0]} (other addresses: {'; '.join(tried)})", *error.args[1:])


def _established(
    transport: Transport, opening: Opening, endpoint: Endpoint, budget: Budget, kind: type[SmtpConnection]
) -> SmtpConnection:
    try:
        if opening.tls_mode is TlsMode.IMPLICIT:
            transport = transport.start_tls(opening.tls, budget.phase("tls").remaining())
        connection = kind(transport, opening, endpoint.name)
    except BaseException:
        transport.close()
        raise
    connection._establish(budget)
    return connection


class SmtpConnection(Sending):
    """One connection to one SMTP or LMTP server; safe for threads, which take turns.

    Every verb takes `timeout`: seconds for the whole call, waiting for other threads included, or a `Timeouts` with a
    limit for each phase. What goes wrong is an `SmtpError`; `usable` says whether the connection lived through it. Use
    it as a context manager: leaving it says QUIT, within 2 seconds and silently.
    """

    def __init__(self, *parts: Any, **options: Any) -> None:
        if options or len(parts) != 3 or not isinstance(parts[1], Opening):
            raise TypeError("open a connection with SmtpConnection.connect(host, port, tls_mode, timeout=...)")
        super().__init__(*parts)

    # --- opening ---

    @classmethod
    def connect(
        cls,
        host: str,
        port: int,
        tls_mode: TlsMode,
        *,
        timeout: Timeout,
        tls_config: TlsConfig | None = None,
        credentials: CredentialsSource | None = None,
        ehlo_domain: str | None = None,
        source_address: tuple[str, int] | None = None,
        dial: Dial | None = None,
        pipelining: Pipelining = Pipelining.GROUPED,
        policy: SendPolicy | None = None,
        audit: AuditSink | None = None,
        allow_plaintext_auth: bool = False,
    ) -> SmtpConnection:
        """Connect to an SMTP server: resolve, TCP, TLS by `tls_mode`, greeting, EHLO, and AUTH with `credentials`.

        `host`: an ASCII name or an IP address. `dial`: a callable `(host, port, timeout) -> socket` for proxies.
        `ehlo_domain`: the machine's own name or address by default. Raises `InvalidInputError`, `ResolveError`,
        `ConnectError`, `TlsError`, `AuthenticationError`, a `ReplyError`, `SmtpTimeoutError`, `ConnectionLostError`,
        `ProtocolError`. RFC 5321 section 3.1.
        """
        credentials = concealed(credentials)
        return _opened(
            "smtp",
            (host, port, None),
            timeout,
            tls_mode=tls_mode,
            tls_config=tls_config,
            credentials=credentials,
            ehlo_domain=ehlo_domain,
            source_address=source_address,
            dial=dial,
            pipelining=pipelining,
            policy=policy,
            audit=audit,
            allow_plaintext_auth=allow_plaintext_auth,
        )

    @overload
    @classmethod
    def connect_lmtp(
        cls,
        host: str,
        port: int,
        tls_mode: TlsMode,
        *,
        timeout: Timeout,
        tls_config: TlsConfig | None = ...,
        credentials: CredentialsSource | None = ...,
        ehlo_domain: str | None = ...,
        source_address: tuple[str, int] | None = ...,
        dial: Dial | None = ...,
        pipelining: Pipelining = ...,
        policy: SendPolicy | None = ...,
        audit: AuditSink | None = ...,
        allow_plaintext_auth: bool = ...,
    ) -> SmtpConnection: ...

    @overload
    @classmethod
    def connect_lmtp(
        cls,
        *,
        unix_socket: str | os.PathLike[str],
        timeout: Timeout,
        tls_mode: TlsMode = ...,
        tls_config: TlsConfig | None = ...,
        credentials: CredentialsSource | None = ...,
        ehlo_domain: str | None = ...,
        source_address: tuple[str, int] | None = ...,
        dial: Dial | None = ...,
        pipelining: Pipelining = ...,
        policy: SendPolicy | None = ...,
        audit: AuditSink | None = ...,
        allow_plaintext_auth: bool = ...,
    ) -> SmtpConnection: ...

    @classmethod
    def connect_lmtp(
        cls,
        host: str | None = None,
        port: int | None = None,
        tls_mode: TlsMode = TlsMode.NONE,
        *,
        timeout: Timeout,
        unix_socket: str | os.PathLike[str] | None = None,
        tls_config: TlsConfig | None = None,
        credentials: CredentialsSource | None = None,
        ehlo_domain: str | None = None,
        source_address: tuple[str, int] | None = None,
        dial: Dial | None = None,
        pipelining: Pipelining = Pipelining.GROUPED,
        policy: SendPolicy | None = None,
        audit: AuditSink | None = None,
        allow_plaintext_auth: bool = False,
    ) -> SmtpConnection:
        """Connect to an LMTP server (RFC 2033), by host and port or by `unix_socket`; otherwise as `connect`."""
        credentials = concealed(credentials)
        return _opened(
            "lmtp",
            (host, port, unix_socket),
            timeout,
            tls_mode=tls_mode,
            tls_config=tls_config,
            credentials=credentials,
            ehlo_domain=ehlo_domain,
            source_address=source_address,
            dial=dial,
            pipelining=pipelining,
            policy=policy,
            audit=audit,
            allow_plaintext_auth=allow_plaintext_auth,
        )

    @classmethod
    def from_url(cls, url: str, *, timeout: Timeout, **keywords: Any) -> SmtpConnection:
        """Connect to the server that a URL names, for example `submission://user:secret@mail.example.com`.

        `keywords`: those of `connect`; one that the URL has, too, is `InvalidInputError`, and so is a key that only a
        pool understands. Raises as `connect`.
        """
        keywords["credentials"] = concealed(keywords.get("credentials"))
        found, url = read_url(url, credentials_given=keywords["credentials"] is not None), ""  # SEC2
        parsed = known(found)
        if parsed.pool_options:
            key = next(iter(parsed.pool_options))
            raise InvalidInputError(f"url: {key} is a key for a ConnectionPool: leave it away")
        if len(parsed.hosts) > 1:
            raise InvalidInputError("url: several hosts are for a ConnectionPool")
        options = {key: value for key, value in parsed.options.items() if key != "timeout"}
        twice = next((key for key in keywords if key in options), None)
        if twice is not None or "timeout" in parsed.options:
            raise InvalidInputError(f"{twice or 'timeout'} stands in the URL and in the call: give it once")
        if parsed.credentials is not None:
            options["credentials"] = parsed.credentials
        where = (None, None, parsed.unix_socket) if parsed.unix_socket else (*parsed.hosts[0], None)
        options = {**keywords, **options}
        return _opened(parsed.protocol, where, timeout, tls_mode=parsed.tls_mode, **options)

    @classmethod
    def from_domain(cls, domain: str, *, timeout: Timeout, **keywords: Any) -> SmtpConnection:
        """Connect to a server of a mail domain, found by DNS; the domain is the name that the user gave.

        `service`: "submission" (default), by SRV records for `submissions` and `submission` (RFC 6186, RFC 8314), or
        "mx", the hosts that take the domain's mail (RFC 5321 section 5.1). The servers are tried in the order of the
        records, within the one `timeout`.

        The certificate is verified for the domain itself; for the server's name only where DNSSEC vouches for the
        record or the caller does by `expected` (`["mx.example.net", "*.example.net"]`). A server with TLSA records must
        match them (RFC 7672). `dane="require"`: no server without. `resolver`: a `dns.resolver.Resolver`, the system's
        by default; `validating=True`: its word on DNSSEC may be believed, as it is by default if it is on this machine.
        `tls_mode`: for "submission" one of the two kinds only; for "mx", `TlsMode.NONE` allows plaintext to hosts
        without TLSA records. `port`: of MX hosts. `own_names`: what this relay is called in MX records.

        Other keywords: those of `connect`. Raises as `connect`; `ResolveError` is `permanent` where the domain takes no
        mail or names no server.
        """
        credentials = concealed(keywords.pop("credentials", None))
        budget = Budget.of(timeout)
        search, options = discovery.search_of(domain, keywords)
        opening = Opening(tls_mode=search.least_tls, credentials=credentials_of(credentials), **options)
        endpoint = Endpoint(None, None, search=search)
        discovery.check_opening(opening, endpoint)
        return open_connection(opening, endpoint, budget)

    @classmethod
    def from_transport(
        cls,
        transport: Transport,
        *,
        tls_mode: TlsMode,
        timeout: Timeout,
        protocol: ProtocolName = "smtp",
        tls_config: TlsConfig | None = None,
        credentials: CredentialsSource | None = None,
        ehlo_domain: str | None = None,
        pipelining: Pipelining = Pipelining.GROUPED,
        policy: SendPolicy | None = None,
        audit: AuditSink | None = None,
        allow_plaintext_auth: bool = False,
    ) -> SmtpConnection:
        """A session over a connected `Transport`; for `TlsMode.IMPLICIT` it is past its handshake.

        `TlsMode.STARTTLS` needs `tls_config` with a `server_name`. Raises as `connect`; the transport is closed then,
        unless it was an argument that was refused.
        """
        credentials = concealed(credentials)
        budget = Budget.of(timeout)
        opening = Opening(
            protocol=protocol,
            tls_mode=tls_mode,
            tls_config=tls_config,
            credentials=credentials_of(credentials),
            ehlo_domain=ehlo_domain,
            pipelining=pipelining,
            policy=policy,
            audit=audit,
            allow_plaintext_auth=allow_plaintext_auth,
        )
        check_transport(transport, opening)
        connection = cls(transport, opening, str(getattr(transport, "peer", "a given transport")))
        connection._establish(budget)
        return connection

    # --- what is known ---

    @property
    def capabilities(self) -> ServerCapabilities:
        """What the last EHLO or LHLO offered; a snapshot, never blocks."""
        return self._session.capabilities

    @property
    def is_authenticated(self) -> bool:
        """True after a successful AUTH."""
        return self._session.authenticated

    @property
    def state(self) -> SessionState:
        """Where the session stands, by the replies settled so far."""
        return self._session.state

    @property
    def tls(self) -> TlsInfo | None:
        """The TLS session, or None."""
        return self._driver.transport.tls

    def set_ehlo_domain(self, domain: str) -> None:
        """What the next `rehlo` says: a domain or a bracketed address literal. No I/O, no waiting."""
        self._session.domain = check_ehlo_domain(domain)

    def __repr__(self) -> str:
        session = self._session
        if self._turn is not None:
            state = authenticated = mails = "<locked>"
        else:
            state, authenticated, mails = session.state.value, str(session.authenticated), str(session.mails)
        tls = self.tls.version if self.tls is not None else "none"
        return (
            f"<SmtpConnection {self.connection_id} {session.protocol} {self._endpoint} tls={tls} state={state} "
            f"authenticated={authenticated} shutting_down={self.is_shutting_down} mails={mails}>"
        )

    # --- AUTH ---

    def auth(self, credentials: CredentialsSource, *, timeout: Timeout) -> None:
        """Authenticate once (RFC 4954).

        A refusal is `AuthenticationError` and leaves the connection usable; nothing is retried.

        Without TLS only SCRAM is possible, unless the connection was made with `allow_plaintext_auth=True`
        (`UsageError`).
        """
        hidden = concealed(credentials)
        del credentials
        budget = Budget.of(timeout)
        source = credentials_of(hidden)
        if source is None:
            raise TypeError("credentials are needed")

        def call() -> None:
            self._require_alive()
            handshake.authenticate(self._driver, self._opening, source, budget, self._publish)

        self._in_turn(budget, call)

    def auth_plain(
        self, user: str, password: SecretSource | Secret, *, timeout: Timeout, authzid: str | None = None
    ) -> None:
        """AUTH PLAIN (RFC 4616)."""
        secret = Secret(password, "password")
        del password
        self.auth(PlainAuth(user, secret, authzid=authzid), timeout=timeout)

    def auth_login(self, user: str, password: SecretSource | Secret, *, timeout: Timeout) -> None:
        """AUTH LOGIN."""
        secret = Secret(password, "password")
        del password
        self.auth(LoginAuth(user, secret), timeout=timeout)

    def auth_scram(self, user: str, password: SecretSource | Secret, *, timeout: Timeout) -> None:
        """SCRAM-SHA-256 (RFC 7677)."""
        secret = Secret(password, "password")
        del password
        self.auth(ScramAuth(user, secret), timeout=timeout)

    def auth_xoauth2(self, user: str, token: SecretSource | Secret, *, timeout: Timeout) -> None:
        """XOAUTH2 with a bearer token."""
        secret = Secret(token, "token")
        del token
        self.auth(XOAuth2Auth(user, secret), timeout=timeout)

    def auth_oauthbearer(self, token: SecretSource | Secret, *, timeout: Timeout, user: str | None = None) -> None:
        """OAUTHBEARER (RFC 7628) with a bearer token."""
        secret = Secret(token, "token")
        del token
        self.auth(OAuthBearerAuth(secret, user=user), timeout=timeout)

    # --- mails ---

    def send(
        self,
        sender: str | ReversePath,
        recipients: Recipients,
        message: Message,
        *,
        timeout: Timeout,
        params: MailParams | None = None,
        newlines: str = "strict",
        size: int | None = None,
    ) -> SendResult:
        """Send a message by DATA to all recipients, in one transaction.

        `recipients`: an iterable of addresses or `Recipient`s. `message`: bytes-like, a binary file (from its
        position), or an iterable of bytes; its lines end in CRLF, or `newlines="crlf"` converts bare LFs. `size`:
        octets of a stream, if known.

        Refused recipients are entries of the result. Raises `RecipientsRefusedError` if nobody can have got the message
        (SMTP only), `DeliveryUnknownError` if that is not known, a `ReplyError` if the message was refused,
        `InvalidInputError`, `ExtensionUnavailableError`, `PolicyError`, `UsageError` before the first octet,
        `SmtpTimeoutError`, `ConnectionLostError`, `ProtocolError`. RFC 5321 section 3.3, RFC 2033 section 4.2.
        """
        # From here on: going through the arguments takes time, too (F92).
        budget = budget_of_call(timeout, lambda: recipients_of(recipients))
        mail = mail_of_call(sender, recipients, message, params=params, newlines=newlines, size=size)
        return self.send_mail(mail, budget)

    def send_bdat(
        self,
        sender: str | ReversePath,
        recipients: Recipients,
        message: Message,
        *,
        timeout: Timeout,
        params: MailParams | None = None,
        newlines: str = "strict",
        size: int | None = None,
    ) -> SendResult:
        """As `send`, by BDAT (RFC 3030); needs CHUNKING. `params.body="BINARYMIME"` passes the octets unchanged."""
        budget = budget_of_call(timeout, lambda: recipients_of(recipients))
        mail = mail_of_call(sender, recipients, message, params=params, newlines=newlines, size=size, chunking=True)
        return self.send_mail(mail, budget)

    def send_lmtp(
        self,
        sender: str | ReversePath,
        recipients: Recipients,
        message: Message,
        *,
        timeout: Timeout,
        params: MailParams | None = None,
        newlines: str = "strict",
        size: int | None = None,
    ) -> SendResult:
        """As `send`, on an LMTP connection only (`UsageError`)."""
        budget = budget_of_call(timeout, lambda: recipients_of(recipients))
        mail = mail_of_call(sender, recipients, message, params=params, newlines=newlines, size=size)
        return self._send_lmtp("send_lmtp", mail, budget)

    def send_lmtp_bdat(
        self,
        sender: str | ReversePath,
        recipients: Recipients,
        message: Message,
        *,
        timeout: Timeout,
        params: MailParams | None = None,
        newlines: str = "strict",
        size: int | None = None,
    ) -> SendResult:
        """As `send_bdat`, on an LMTP connection only (`UsageError`)."""
        budget = budget_of_call(timeout, lambda: recipients_of(recipients))
        mail = mail_of_call(sender, recipients, message, params=params, newlines=newlines, size=size, chunking=True)
        return self._send_lmtp("send_lmtp_bdat", mail, budget)

    def send_message(
        self,
        email_message: Any,
        *,
        timeout: Timeout,
        sender: str | ReversePath | None = None,
        recipients: Recipients | None = None,
        params: MailParams | None = None,
    ) -> SendResult:
        """Send an `EmailMessage`.

        What is not given comes from its headers; Bcc is not sent; serialised as the server needs it.

        Raises as `send`.
        """
        given = functools.partial(email_messages.mail_of, email_message, sender=sender, recipients=recipients)
        budget = budget_of_call(timeout, lambda: given().recipients)
        mail = given(params=params)
        return self.send_mail(mail, budget)

    def send_many(self, mails: Iterable[Mail], *, timeout: Timeout) -> MailOutcomes:
        """Send mails one after the other.

        `timeout` is per mail. Lazy: nothing happens before the first outcome is asked for.

        Yields one `MailOutcome` for each mail, in order. After the connection is lost each further mail yields the
        error that says so: not delivered, safe to repeat.
        """
        Budget.of(timeout)  # what is wrong with an argument is said now, not with the first mail
        check_mails(mails)
        return MailOutcomes(self._outcomes(mails, timeout))

    def _outcomes(self, mails: Iterable[Mail], timeout: Timeout) -> Generator[MailOutcome, None, None]:
        if self._opening.pipelining >= Pipelining.PREFETCH:
            yield from self._run_ahead(Pulled(mails), timeout)
            return
        for index, mail in enumerate(mails):
            check_mail(mail)
            yield MailOutcome.of(index, mail, lambda mail: self._send(mail, timeout))

    def _run_ahead(self, pulled: Pulled, timeout: Timeout) -> Generator[MailOutcome, None, None]:
        """LV8: the connection is this batch's until it ends, and each envelope stands behind the end of data before."""
        chain = Chain(self, timeout)
        try:
            self._begin_chain(chain, timeout=timeout)
            while (item := pulled.take()) is not None:
                index, mail = item
                yield MailOutcome.of(
                    index, mail, lambda mail: self._send_in_chain(mail, chain, pulled.peek, timeout=timeout)
                )
        finally:
            self._end_chain(chain)

    def _begin_chain(self, chain: Chain, *, timeout: Timeout) -> None:
        self._in_turn(Budget.of(timeout), lambda: self._begin_batch(chain))

    def _send_in_chain(self, mail: Mail, chain: Chain, peek: Peek, *, timeout: Timeout) -> SendResult:
        if chain.knows(mail):
            return chain.send(mail)
        return self._in_turn(Budget.of(timeout), lambda: chain.send(mail, peek), chain)

    def _end_chain(self, chain: Chain) -> None:
        chain.close()
        self._end_batch(chain)

    def chain(self, timeout: Timeout, clock: Clock) -> Chain:
        """For the pool, which has leased this connection: mails of one batch that may share flights."""
        return Chain(self, timeout, clock)

    def _send(self, mail: Mail, timeout: Timeout) -> SendResult:
        return self.send_mail(mail, Budget.of(timeout))

    def _send_lmtp(self, verb: str, mail: Mail, budget: Budget) -> SendResult:
        """Values are judged first, then the protocol (F50)."""
        if not self._session.is_lmtp:
            text = f"{verb} needs an LMTP connection: use send or send_bdat here"
            raise UsageError(text, recipients=nobody_has_it(mail.recipients or ()))
        return self.send_mail(mail, budget)

    # --- other verbs ---

    def reset(self, *, timeout: Timeout) -> None:
        """RSET, at once. A refusal closes the connection and raises the reply. RFC 5321 section 4.1.1.5."""
        self._run(self._session.reset, Budget.of(timeout))

    def noop(self, *, timeout: Timeout) -> None:
        """NOOP. A 4yz or 5yz reply is raised and leaves the connection usable. RFC 5321 section 4.1.1.9."""
        self._run(self._session.noop, Budget.of(timeout))

    def vrfy(self, address: str, *, timeout: Timeout) -> Reply:
        """VRFY: the reply, whatever its code (250, 251, 252, 550, 502 ...). RFC 5321 section 3.5."""
        text = commands.free_text("VRFY", address)
        return self._run(lambda: self._session.vrfy(text), Budget.of(timeout))

    def expn(self, name: str, *, timeout: Timeout) -> Reply:
        """EXPN: the reply, whatever its code. RFC 5321 section 3.5."""
        text = commands.free_text("EXPN", name)
        return self._run(lambda: self._session.expn(text), Budget.of(timeout))

    def help(self, topic: str | None = None, *, timeout: Timeout) -> Reply:
        """HELP: the reply, whatever its code. RFC 5321 section 4.1.1.8."""
        text = None if topic is None else commands.free_text("HELP", topic)
        return self._run(lambda: self._session.help(text), Budget.of(timeout))

    def rehlo(self, *, timeout: Timeout) -> None:
        """EHLO or LHLO again; replaces `capabilities`. A refusal voids them and closes the connection."""
        budget = Budget.of(timeout)

        def call() -> None:
            self._require_alive()
            handshake.hello_again(self._driver, budget, self._publish)

        self._in_turn(budget, call)

    def quit(self, *, timeout: Timeout) -> bool:
        """QUIT, then close in every case; True if the server said 221. Raises nothing for what the server does.

        Waits at most `Timeouts.quit` (2 s) for the reply. RFC 5321 section 4.1.1.10.
        """
        budget = Budget.of(timeout)
        if self._closed_by_owner:
            return False

        def call() -> bool:
            self._closed_by_owner = True
            return self._end(budget)

        return self._in_turn(budget, call)

    def __enter__(self) -> SmtpConnection:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: types.TracebackType | None,
    ) -> None:
        limit = Budget(Deadline.after(_LEAVING), None, 0.0)
        self.leave(limit)

    def __reduce__(self) -> Any:
        raise TypeError("SmtpConnection is not pickled or copied: open another one")


def _opened(
    protocol: ProtocolName,
    where: tuple[str | None, int | None, str | os.PathLike[str] | None],
    timeout: Timeout,
    *,
    credentials: CredentialsSource | None,
    **options: Any,
) -> SmtpConnection:
    """Check every argument, then connect."""
    budget = Budget.of(timeout)
    source = credentials_of(credentials)
    endpoint = endpoint_of(*where, protocol=protocol)
    opening = Opening(protocol=protocol, credentials=source, **options)
    return open_connection(opening, endpoint, budget)
