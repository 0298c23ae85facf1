"""What the server has told us, and the flows that are not a mail.

Greeting, EHLO, STARTTLS, AUTH, RSET, NOOP, VRFY, EXPN, HELP, QUIT.

Knows RFC 5321, 2033, 3207 and 4954 from the client's side; refuses to know sockets, time and mails. `Session.state` is
what has been settled by replies. A flow raises a `ReplyError` for a refusal that leaves the session usable, and calls
`condemn` where it does not.
"""

from __future__ import annotations

import base64
import enum
from typing import Literal

from smtpconn.protocol import commands
from smtpconn.protocol.errors import (
    AuthenticationError,
    ExtensionUnavailableError,
    InvalidInputError,
    PermanentReplyError,
    ProtocolError,
    ReplyError,
    ServiceUnavailableError,
    StartTlsUnavailableError,
    TlsError,
    TransientReplyError,
    UsageError,
)
from smtpconn.protocol.extensions import NO_CAPABILITIES, ServerCapabilities
from smtpconn.protocol.flow import Flow, Step, exchange
from smtpconn.protocol.ledger import (
    EHLO,
    EXPN,
    GREETING,
    HELO,
    HELP,
    LHLO,
    NOOP,
    QUIT,
    RSET,
    STARTTLS,
    VRFY,
    Entry,
    Kind,
    Ledger,
    auth_kind,
)
from smtpconn.protocol.mechanisms import Mechanism, decoded
from smtpconn.protocol.reply import (
    MAX_LISTING,
    MAX_REPLY,
    EnhancedStatus,
    MalformedReplyError,
    Reply,
    ReplyParser,
)

ProtocolName = Literal["smtp", "lmtp"]

_HELO_ANSWERS = frozenset({500, 501, 502, 504, 550})  # the refusals of EHLO that a HELO may follow (F8)
_CHALLENGES = 8  # LM4


class SessionState(enum.Enum):
    """Where the session stands, by the replies settled so far (features 2.11)."""

    GREETING = "greeting"
    EHLO = "EHLO"
    STARTTLS = "STARTTLS"
    AUTHENTICATION = "authentication"
    MAIL_FROM = "MAIL FROM"
    RCPT_TO = "RCPT TO"
    DATA = "DATA"
    QUIT = "QUIT"
    CLOSED = "closed"

    def __repr__(self) -> str:
        return f"SessionState.{self.name}"


_MAY_QUIT = frozenset(
    {
        SessionState.GREETING,
        SessionState.EHLO,
        SessionState.AUTHENTICATION,
        SessionState.MAIL_FROM,
        SessionState.RCPT_TO,
    }
)


class Session:
    """One conversation with one server: the parser, the ledger, and what was learnt."""

    def __init__(self, protocol: ProtocolName, domain: str) -> None:
        self.protocol: ProtocolName = protocol
        self.is_lmtp = protocol == "lmtp"  # RFC 2033
        self.domain = domain  # what EHLO says next
        self.parser = ReplyParser()
        self.ledger = Ledger()
        self.state = SessionState.GREETING
        self.capabilities: ServerCapabilities = NO_CAPABILITIES
        self.authenticated = False
        self.secure = False
        self.closing: Reply | None = None  # the reply by which the server said goodbye (D6)
        self.lost = False  # the connection ended without a reply
        self.condemned: str | None = None  # why nothing more may be written (D5)
        self.retiring = False  # QUIT is due: it still works, but nothing should be built on it
        self.rset_owed = False  # RE1
        self.rset_alone = False  # this endpoint answers 503 to MAIL behind a folded RSET (D8)
        self.flightless: str | None = None  # why nothing runs ahead here any more (pipelining FB1)
        self.source_error: Exception | None = None  # what the caller's own body source raised
        self.mails = 0  # MAIL commands written
        self.nonmail = 0  # pool VA4: what Exim counts
        self.noops = 0
        self.domains: set[bytes] = set()  # of recipients so far, where the server limits them (LI4)
        self._mails_before_other = 0  # MAIL commands in front of the last command that is no part of a mail

    def condemn(self, reason: str) -> None:
        """Client and server disagree, or a message was cut short.

        After this flow the connection is closed, nothing is written.
        """
        self.condemned = self.condemned or reason

    def surplus(self, reason: str) -> tuple[list[Reply], bool, bool]:
        """The replies that answer nothing, whether one more is cut short, and whether octets are no reply.

        Any of them condemns the session.
        """
        replies: list[Reply] = []
        if not self.parser.pending:
            return replies, False, False
        self.condemn(reason)
        try:
            while (reply := self.parser.next_reply()) is not None:
                replies.append(reply)
        except MalformedReplyError:
            return replies, False, True
        return replies, bool(self.parser.pending), False  # what a reply cut short says is not known: it may be a yes

    def require_between_mails(self, verb: str) -> None:
        """Raise `UsageError` unless a command that is no part of a mail may be written."""
        state = self.state
        if state is not SessionState.MAIL_FROM and state is not SessionState.AUTHENTICATION:
            raise UsageError(f"{verb} is not possible in state {self.state.value}")

    @property
    def may_quit(self) -> bool:
        """True if QUIT would be read as a command, and nothing is owed."""
        in_step = not self.ledger.owed and not self.parser.pending and self.condemned is None and self.closing is None
        return in_step and self.state in _MAY_QUIT

    # --- opening ---

    def greet(self) -> Flow[Reply]:
        """Read the greeting (RFC 5321 section 3.1)."""
        (reply,) = yield Step(b"", (Entry(GREETING),), GREETING.stage)
        if not reply.is_positive:
            raise refused(GREETING, reply)
        self.state = SessionState.EHLO
        return reply

    def hello(self, *, demands: str | None = None, fallback: bool = True) -> Flow[None]:
        """EHLO or LHLO; HELO where EHLO is refused and nothing is demanded that HELO cannot give.

        `demands` names what needs ESMTP ("STARTTLS", "AUTH"), or is None (D13).
        """
        kind, line = self._hello_line()
        reply = yield from exchange(line, kind)
        if reply.is_positive:
            self.learn(ServerCapabilities.parse(reply))
            return
        if self.is_lmtp or not fallback or reply.code not in _HELO_ANSWERS:
            raise refused(kind, reply)
        if demands == "STARTTLS":
            raise StartTlsUnavailableError(
                f"the server refuses EHLO, so it has no STARTTLS: {reply}",
                stage=kind.stage,
                reply=reply,
                extension=demands,
            )
        if demands is not None:
            raise ExtensionUnavailableError(
                f"the server refuses EHLO, and {demands} needs it: {reply}",
                stage=kind.stage,
                reply=reply,
                extension=demands,
            )
        reply = yield from exchange(commands.helo(self.domain), HELO)
        if not reply.is_positive:
            raise refused(HELO, reply)
        self.learn(ServerCapabilities.helo(reply))

    def _hello_line(self) -> tuple[Kind, bytes]:
        if self.is_lmtp:
            return LHLO, commands.lhlo(self.domain)
        return EHLO, commands.ehlo(self.domain)

    def learn(self, capabilities: ServerCapabilities) -> None:
        """What EHLO, LHLO or HELO was answered; replaces what was known."""
        self.capabilities = capabilities
        self.parser.wants_enhanced = capabilities.supports_enhanced_status
        self.state = SessionState.MAIL_FROM if self.authenticated or self.mails else SessionState.AUTHENTICATION

    def starttls(self) -> Flow[None]:
        """STARTTLS up to its 220; everything learnt is dropped before the handshake (RFC 3207 section 4.2)."""
        if self.state is not SessionState.AUTHENTICATION or self.authenticated or self.secure:
            raise UsageError("STARTTLS is possible once, before AUTH and the first mail")
        if not self.capabilities.supports_starttls:
            raise StartTlsUnavailableError(
                "the server does not offer STARTTLS, and TlsMode.STARTTLS demands it", extension="STARTTLS"
            )
        reply = yield from exchange(commands.starttls(), STARTTLS)
        if reply.code != 220:
            permanent = not reply.is_transient
            raise TlsError(f"STARTTLS refused: {reply}", stage="STARTTLS", reply=reply, permanent=permanent)
        self.state = SessionState.STARTTLS
        self.capabilities = NO_CAPABILITIES
        self.parser.wants_enhanced = False

    def upgraded(self) -> None:
        """The handshake and the name check are done: EHLO is next."""
        self.secure = True
        self.state = SessionState.EHLO

    # --- AUTH ---

    def auth(self, mechanism: Mechanism) -> Flow[Reply]:
        """One AUTH exchange (RFC 4954 section 4). Success is 235 and nothing else."""
        if self.authenticated:
            raise UsageError("already authenticated: AUTH is possible once (RFC 4954 section 4)")
        self.require_between_mails("AUTH")
        if self.rset_owed and self.mails:
            # RFC 4954 section 3: not during a mail transaction, and the one that failed may still be open
            yield from self.reset()
        self.parser.redact = mechanism.redacted
        try:
            return (yield from self._exchange_auth(auth_kind(mechanism.name), mechanism))
        finally:
            self.parser.redact = None

    def _exchange_auth(self, kind: Kind, mechanism: Mechanism) -> Flow[Reply]:
        reply = yield from self._first_response(kind, mechanism)
        challenges = 0
        while reply.code == 334 and mechanism.cancelled is None:
            challenges += 1
            if challenges > _CHALLENGES:
                mechanism.cancelled = f"more than {_CHALLENGES} challenges"
            reply = yield from exchange(self._answer(kind, mechanism, reply), kind)
        self._conclude_auth(kind, mechanism, reply)
        return reply

    def _first_response(self, kind: Kind, mechanism: Mechanism) -> Flow[Reply]:
        """AUTH with its initial response; in two steps where the line would be too long (RFC 4954 section 4)."""
        initial = mechanism.start()
        if initial is None:
            return (yield from exchange(commands.auth(mechanism.name, None), kind))
        encoded = base64.b64encode(initial)
        if len(encoded) > commands.AUTH_RESPONSE_LIMIT:
            del initial, encoded  # SEC2
            limit = commands.AUTH_RESPONSE_LIMIT
            raise InvalidInputError(f"user and secret are longer than a response of {limit} octets can carry")
        if len("AUTH  \r\n") + len(mechanism.name) + len(encoded) <= commands.AUTH_INITIAL_LIMIT:
            return (yield from exchange(commands.auth(mechanism.name, encoded), kind))
        reply = yield from exchange(commands.auth(mechanism.name, None), kind)
        if reply.code != 334:
            return reply
        return (yield from exchange(commands.auth_response(encoded), kind))

    def _answer(self, kind: Kind, mechanism: Mechanism, reply: Reply) -> bytes:
        """The line that answers a challenge; `*` where the exchange is cancelled."""
        response: bytes | None = None
        if mechanism.cancelled is None:
            challenge = decoded(reply.raw[4:-2])
            if challenge is None:
                self.condemn("an undecodable challenge")
                text = f"{kind.stage}: the server's challenge is not base64"
                raise ProtocolError(text, stage=kind.stage, reply=reply, permanent=True)
            response = mechanism.respond(challenge)
        if mechanism.malformed is not None:
            self.condemn("a malformed challenge")
            raise ProtocolError(f"{kind.stage}: {mechanism.malformed}", stage=kind.stage, reply=reply, permanent=True)
        if response is not None:
            encoded = base64.b64encode(response)
            if len(encoded) <= commands.AUTH_RESPONSE_LIMIT:
                return commands.auth_response(encoded)
            mechanism.cancelled = "the server's challenge calls for a response that is too long"
        self.condemn("a cancelled AUTH")
        return commands.auth_cancel()

    def _conclude_auth(self, kind: Kind, mechanism: Mechanism, reply: Reply) -> None:
        """Judge the final reply: 235 and a server that proved itself, or an error."""
        surplus = self.parser.pending
        if surplus:
            self.condemn("octets behind the final reply of AUTH")
        if reply.code == 235 and mechanism.cancelled is None:
            mechanism.accept(reply)
        doubt = mechanism.cancelled or (mechanism.doubt if reply.code == 235 else None)
        if doubt is not None:
            self.condemn(f"AUTH failed: {doubt}")
            raise AuthenticationError(
                f"{kind.stage}: {doubt}", stage=kind.stage, reply=reply, permanent=True, detail=mechanism.detail
            )
        if reply.is_transient or reply.is_permanent:
            raise AuthenticationError(
                f"{kind.stage} refused: {reply}{mechanism.advice}",
                stage=kind.stage,
                reply=reply,
                permanent=reply.is_permanent,
                detail=mechanism.detail,
            )
        if surplus:
            raise ProtocolError(f"{kind.stage}: octets behind the final reply", stage=kind.stage, reply=reply)
        if reply.code != 235:
            self.condemn("a wrong success of AUTH")
            text = f"{kind.stage} answered {reply}: only 235 is success"
            raise ProtocolError(text, stage=kind.stage, reply=reply, permanent=True)
        self.authenticated = True
        self.state = SessionState.MAIL_FROM

    # --- between mails ---

    def _count_other(self) -> None:
        self.nonmail += 1
        self._mails_before_other = self.mails

    def rehlo(self) -> Flow[None]:
        """EHLO again; what was learnt is replaced as a whole. No substitute for RSET."""
        self.require_between_mails("EHLO")
        self.state = SessionState.EHLO
        self._count_other()
        kind, line = self._hello_line()
        reply = yield from exchange(line, kind)
        if reply.is_positive:
            self.learn(ServerCapabilities.parse(reply))
            return
        self.learn(NO_CAPABILITIES)
        self.condemn(f"a refused {kind.stage}")
        raise self.refusal(kind, reply)

    def reset(self) -> Flow[None]:
        """RSET, at once; a refusal ends the session (F87)."""
        in_transaction = self.state is SessionState.RCPT_TO
        if not in_transaction:
            self.require_between_mails("RSET")
        follows_message = self.mails > self._mails_before_other and not self.rset_owed
        self._count_other()
        if follows_message:
            self.nonmail -= 1  # servers allow this one: some clients put an RSET behind every message
        reply = yield from exchange(commands.rset(), RSET)
        if not reply.is_positive:
            self.condemn("a refused RSET")
            raise self.refusal(RSET, reply)
        self.rset_owed = False
        if in_transaction:
            self.state = SessionState.MAIL_FROM

    def noop(self) -> Flow[Reply]:
        """NOOP; 2yz or an error that leaves the session usable."""
        self.require_between_mails("NOOP")
        self._count_other()
        self.noops += 1
        reply = yield from exchange(commands.noop(), NOOP)
        if not reply.is_positive:
            raise self.refusal(NOOP, reply)
        return reply

    def vrfy(self, address: str) -> Flow[Reply]:
        """VRFY; the reply whatever its code (F88)."""
        self.require_between_mails(VRFY.stage)
        return (yield from self.ask(commands.vrfy(address, self.capabilities), VRFY))

    def expn(self, name: str) -> Flow[Reply]:
        """EXPN; the reply whatever its code."""
        self.require_between_mails(EXPN.stage)
        return (yield from self.ask(commands.expn(name, self.capabilities), EXPN))

    def help(self, topic: str | None) -> Flow[Reply]:
        """HELP; the reply whatever its code."""
        self.require_between_mails(HELP.stage)
        return (yield from self.ask(commands.help_(topic, self.capabilities), HELP))

    def ask(self, line: bytes, kind: Kind) -> Flow[Reply]:
        """One command that is no part of a mail, if it may stand in the middle of one; the reply whatever its code."""
        self._count_other()
        self.parser.limit = MAX_LISTING if kind in (EXPN, HELP) else MAX_REPLY
        reply = yield from exchange(line, kind)
        self.parser.limit = MAX_REPLY
        return reply

    def quit(self, *, written: bool = False) -> Flow[bool]:
        """QUIT, unless it was written before; True if 221 was read. The caller closes in every case."""
        self.state = SessionState.QUIT
        reply = yield from exchange(b"" if written else commands.quit_(), QUIT)
        return reply.code == 221

    # --- judging replies ---

    def refusal(self, kind: Kind, reply: Reply) -> ReplyError:
        """The error for a 4yz or 5yz reply; marks the session as closing where the reply says so (D6)."""
        error = refused(kind, reply)
        if used_up(kind, reply):
            self.closing = reply
            error._unanswered = kind.opens
        return error


def refused(kind: Kind, reply: Reply) -> ReplyError:
    """`TransientReplyError`, `PermanentReplyError`, or `ServiceUnavailableError`, for this reply."""
    cls: type[ReplyError] = TransientReplyError if reply.is_transient else PermanentReplyError
    if reply.code in (421, 221):
        cls = ServiceUnavailableError
    return cls(f"{kind.stage} refused: {reply}", stage=kind.stage, reply=reply)


_USED_UP: dict[tuple[int, EnhancedStatus], frozenset[str]] = {
    (451, EnhancedStatus(4, 4, 1)): frozenset({"MAIL", "RSET", "NOOP"}),
    (451, EnhancedStatus(4, 4, 2)): frozenset({"MAIL", "RSET", "NOOP"}),
    (451, EnhancedStatus(4, 3, 2)): frozenset({"MAIL", "RSET", "NOOP"}),
    (452, EnhancedStatus(4, 4, 5)): frozenset({"MAIL", "RSET", "DATA"}),
}
_MAILBOX_BUSY = (432, EnhancedStatus(4, 3, 2))


def used_up(kind: Kind, reply: Reply) -> bool:
    """True if the reply says that this session is used up, though it is no 421 (pool CS12-CS15). Text is never read."""
    if not reply.is_transient:
        return False
    status = reply.enhanced
    if status is None:
        return False
    return kind.stage in _USED_UP.get((reply.code, status), ()) or (reply.code, status) == _MAILBOX_BUSY
