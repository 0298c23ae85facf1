"""The dialogue of one connection: greeting, EHLO, STARTTLS, AUTH and the verbs that send no mail.

It knows command order, what may stand in one flight, and where rules change a reply. It refuses to know mail
transactions (`transaction`), SASL (`authentication`) and how octets travel (`wire`).

Laws: every reply passes `decide`, so that each can be changed; the server's state follows the reply that was really
sent; whatever a client does against the RFCs is written into `SessionRecord.violations`, whether refused or not.
"""

from __future__ import annotations

import contextlib
import random
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from . import authentication
from .captured import Books, SessionRecord, TlsRecord
from .envelope import valid_ehlo_domain
from .faults import Decision, Rule, RuleBook, random_kind, reply_octets
from .handshake import spoil
from .options import ServerOptions
from .transaction import Transaction
from .wire import LineTooLong, SessionOver, Wire, has_octets

if TYPE_CHECKING:
    import ssl

__all__ = ["Session", "Site"]

DRIP_INTERVAL = 0.01  # seconds between two octets of a dripping reply
_LAST_IN_GROUP = frozenset(
    ("EHLO", "LHLO", "HELO", "DATA", "VRFY", "EXPN", "HELP", "NOOP", "QUIT", "STARTTLS", "AUTH")
)  # RFC 2920 3.1, RFC 3207 4, RFC 4954 4


@dataclass(eq=False)
class Site:
    """What the sessions of a server share."""

    options: ServerOptions
    books: Books
    tls_context: Callable[[], ssl.SSLContext]
    certificate: Callable[[], bytes | None]
    rules: RuleBook = field(default_factory=RuleBook)
    refused: dict[str, Decision] = field(default_factory=dict)
    refused_finally: dict[str, Decision] = field(default_factory=dict)
    stopping: threading.Event = field(default_factory=threading.Event)


class Session:
    """One connection, served by the thread that calls `run`."""

    def __init__(self, site: Site, wire: Wire, record: SessionRecord) -> None:
        self.site = site
        self.options = site.options
        self.wire = wire
        self.record = record
        self.hello = False
        self.offered: frozenset[str] = frozenset()
        self.quirks = frozenset(self.options.quirks)
        self.random = random.Random(f"{self.options.seed}:{record.index}")  # noqa: S311 - repeatable on purpose
        self.transaction = Transaction(self)
        self._out_of_step = False  # a random fault has said a reply too many
        self._line_limit = None if site.books.keeps_everything else 200

    # -- the whole connection

    def run(self) -> None:
        """Serve until the connection ends. Never raises."""
        closed_by: Literal["QUIT", "client", "server"] = "client"
        try:
            self._serve()
        except SessionOver as over:
            closed_by = over.closed_by
        except TimeoutError:
            closed_by = "server"
            with contextlib.suppress(OSError):
                self.wire.send(b"421 4.4.2 Timeout, closing\r\n")
        except OSError:
            pass
        if self.wire.killed:
            closed_by = "server"
        self.wire.close()
        with self.site.books.changed:
            self.record.closed_by = closed_by
            self.site.books.changed.notify_all()

    def _serve(self) -> None:
        rule = self.site.rules.match(("connect",))
        if rule is not None:
            self.end(rule.kind)
        if self.options.tls == "implicit":
            self._start_tls()
        elif has_octets(self.wire.sock):
            self.violation("octets before the greeting")
        self._greet()
        while True:
            self.wire.resting = not self.transaction.open and not self.wire.pending()
            try:
                line = self.wire.read_line()
            except LineTooLong:
                self.violation("command line too long")
                self.emit(Decision(b"500 5.5.2 Line too long\r\n", ending="EOF"))
                return
            if line is None:
                raise SessionOver("client")
            self.wire.resting = False
            self._command(line)

    def _greet(self) -> None:
        greeting = self.options.greeting
        if greeting is None:
            greeting = f"220 {self.options.name} {self.options.protocol.upper().replace('SMTP', 'ESMTP')} test server"
        elif not greeting[:3].isdigit():
            greeting = "220 " + greeting
        limit = self.options.max_connections
        if limit is not None and self.site.books.connections_now > limit:
            self.emit(Decision(b"421 4.7.0 Too many connections\r\n", ending="EOF"))
        default = reply_octets(greeting)
        self.emit(self.decide("greeting", default, closing=default.startswith((b"421", b"554"))))
        self.wire.flush()

    # -- one command

    def _command(self, line: bytes) -> None:
        text = self._text(line)
        if text is None:
            self.emit(Decision(b"500 5.5.2 Syntax error\r\n"))
            return
        verb, _, rest = text.partition(" ")
        verb = verb.upper()
        self._note(verb, text)
        if self.wire.pending():
            if verb in _LAST_IN_GROUP:
                self.violation(f"octets behind {verb} in one flight")
            if self.wire.lockstep and verb != "BDAT":
                self.ahead(verb)
        elif self.wire.overrun:
            self.wire.overrun = 0
            self.ahead("the command before " + verb)
        handler = _VERBS.get(verb)
        if handler is None:
            self.violation(f"unknown command {verb[:20]}")
            self.emit(Decision(b"500 5.5.1 Unknown command\r\n"))
        else:
            handler(self, rest)

    def _text(self, line: bytes) -> str | None:
        """Check the line as octets; None if it cannot be a command."""
        if line.endswith(b"\r"):
            line = line[:-1]
        else:
            self.violation("bare LF at the end of a command")
        if b"\r" in line:
            self.violation("bare CR in a command")
            return None
        if b"\0" in line:
            self.violation("NUL in a command")
            return None
        try:
            return line.decode()
        except UnicodeDecodeError:
            self.violation("a command that is not UTF-8")
            return None

    def _note(self, verb: str, text: str) -> None:
        lines = self.record.lines
        if self._line_limit is None or len(lines) < self._line_limit:
            if verb == "AUTH":
                words = text.split(" ", 2)
                text = " ".join([*words[:2], "****"]) if len(words) > 2 else text
            self.record.commands.append(verb)
            lines.append(text)

    # -- what handlers use

    def decide(
        self, stage: str, default: bytes, recipient: str | None = None, *, also: str = "", closing: bool = False
    ) -> Decision:
        """Say what is sent instead of `default`: mostly `default`."""
        rule = self.site.rules.match((stage, also), recipient)
        if rule is not None:
            return rule.decide(stage, default)
        if self.options.fault_rate:
            kind = self.draw(stage)
            if kind is not None:
                return Rule(stage, kind=kind).decide(stage, default)
        return Decision(default, ending="EOF" if closing else "")

    def draw(self, stage: str) -> str | None:
        """A fault at random, or None."""
        if self._out_of_step:
            return None
        kind = random_kind(self.random, self.options.fault_rate, stage, self.options.fault_kinds)
        self._out_of_step = kind == "surplus"
        return kind

    def emit(self, decision: Decision) -> None:
        """Carry a decision out."""
        if decision.octets:
            self.wire.queue(decision.octets)
        if decision.ending:
            self.end(decision.ending)

    def answer(self, stage: str, default: bytes, recipient: str | None = None) -> Decision:
        """Decide and carry out at once, where the server's state does not hang on the reply."""
        decision = self.decide(stage, default, recipient)
        self.emit(decision)
        return decision

    def end(self, ending: str, *, in_body: bool = False) -> None:
        """End the connection as asked; always raises `SessionOver`."""
        self.wire.flush()
        if ending == "silence":
            if in_body:
                self.wire.stall()
            else:
                self.wire.drain()
            raise SessionOver("client")
        if ending == "drip":
            if in_body:
                self.wire.sip(DRIP_INTERVAL)
            else:
                self.wire.drip(DRIP_INTERVAL)
            raise SessionOver("client")
        self.wire.close(reset=ending == "RST", ragged=ending == "EOF-ragged", linger=0.25 if in_body else 0.0)
        raise SessionOver("server")

    def violation(self, sentence: str) -> None:
        """Record something that a correct client does not do."""
        if len(self.record.violations) < 1000:
            self.record.violations.append(sentence)

    def ahead(self, verb: str) -> None:
        """The client sent something behind `verb` though PIPELINING was not offered."""
        self.violation(f"octets behind {verb} without PIPELINING")
        if "close-on-pipelining" in self.quirks:
            self.emit(Decision(b"500 5.5.1 Pipelining not supported\r\n", ending="EOF"))

    # -- EHLO, STARTTLS, AUTH

    def _hello(self, verb: str, domain: str) -> None:
        lmtp = self.options.protocol == "lmtp"
        if (verb == "LHLO") != lmtp:
            self.violation(f"{verb} to {'an LMTP' if lmtp else 'an SMTP'} server")
            self.emit(Decision(b"500 5.5.1 Unknown command\r\n"))
            return
        if not valid_ehlo_domain(domain):
            self.violation(f"bad {verb} domain")
            self.emit(Decision(f"501 5.5.4 Syntax: {verb} domain\r\n".encode()))
            return
        lines = [self.options.name, *(() if verb == "HELO" else self._offer())]
        default = "".join(f"250{'-' if line is not lines[-1] else ' '}{line}\r\n" for line in lines)
        decision = self.decide("HELO" if verb == "HELO" else "EHLO", default.encode())
        if decision.positive:
            self.hello = True
            self.record.ehlo_domain = domain
            self.transaction.forget()
            keywords = [line[4:].split(" ")[0].upper() for line in decision.text.splitlines()[1:]]
            self.offered = frozenset(keyword for keyword in keywords if keyword)
            self.wire.lockstep = "PIPELINING" not in self.offered
        self.emit(decision)

    def _offer(self) -> list[str]:
        """Lines of the EHLO reply behind the first."""
        options = self.options
        size = f"SIZE {options.size_limit}" if options.size_limit is not None else "SIZE"
        lines = [size if line == "SIZE" else line for line in options.extensions]
        keywords = {line.split(" ")[0].upper() for line in lines}
        if options.tls == "starttls" and self.record.tls is None and "STARTTLS" not in keywords:
            lines.append("STARTTLS")
        mechanisms = authentication.mechanisms(options, secure=self.record.tls is not None)
        if mechanisms and "AUTH" not in keywords and (options.tls is None or self.record.tls is not None):
            lines.append(f"AUTH {' '.join(mechanisms)}")
        if options.limits and "LIMITS" not in keywords:
            lines.append("LIMITS " + " ".join(f"{name}={value}" for name, value in options.limits.items()))
        return lines

    def _starttls(self, rest: str) -> None:
        if "STARTTLS" not in self.offered:
            self.violation("STARTTLS was not offered")
            self.emit(Decision(b"502 5.5.1 STARTTLS not available\r\n"))
            return
        if rest or self.transaction.open:
            self.violation("STARTTLS with an argument" if rest else "STARTTLS inside a transaction")
            self.emit(Decision(b"501 5.5.4 Syntax: STARTTLS\r\n" if rest else b"503 5.5.1 Not now\r\n"))
            return
        decision = self.answer("STARTTLS", b"220 2.0.0 Ready to start TLS\r\n")
        self.wire.flush()
        if not decision.octets.startswith(b"220"):
            return
        self.wire.discard()  # RFC 3207 4.2: nothing said in clear counts afterwards
        self._start_tls()

    def _start_tls(self) -> None:
        rule = self.site.rules.match(("tls",))
        if rule is not None:
            self.end(spoil(self.wire.sock, rule.kind, self.site.tls_context))
        import ssl

        try:
            tls = self.wire.start_tls(self.site.tls_context())
        except ssl.SSLError:
            raise SessionOver("client") from None
        cipher = tls.cipher()
        self.record.tls = TlsRecord(
            tls.version() or "", cipher[0] if cipher else "", self.wire.server_name, tls.getpeercert(binary_form=True)
        )
        self.hello, self.offered, self.wire.lockstep = False, frozenset(), False
        self.transaction.forget()

    def _auth(self, rest: str) -> None:
        name, _, initial = rest.partition(" ")
        name = name.upper()
        refusal = ""
        if "AUTH" not in self.offered:
            refusal = "503 5.5.1 AUTH not available"
        elif self.record.user is not None or self.transaction.open:
            refusal = "503 5.5.1 AUTH not permitted now"
        if refusal:
            self.violation("AUTH where it is not permitted")
            self.emit(Decision(reply_octets(refusal)))
            return
        if name not in authentication.mechanisms(self.options, secure=self.record.tls is not None):
            self.answer("AUTH", b"504 5.5.4 Mechanism not supported\r\n")
            return
        dialogue = authentication.Dialogue(self, name)
        user = dialogue.run(initial or None)
        if user is not None:
            self.record.user = user

    # -- the other verbs

    def _rset(self, rest: str) -> None:
        self.transaction.mark_flight()
        if rest:
            self.violation("RSET with an argument")
            self.emit(Decision(b"501 5.5.4 Syntax: RSET\r\n"))
            return
        decision = self.decide("RSET", b"250 2.0.0 Reset\r\n")
        if decision.positive:
            self.transaction.forget()
            self.transaction.rset_in_flight = self.record.flights
        else:
            self.transaction.reset_refused = True
        self.emit(decision)

    def _noop(self, rest: str) -> None:
        self.answer("NOOP", b"250 2.0.0 Ok\r\n")

    def _quit(self, rest: str) -> None:
        if rest:
            self.violation("QUIT with an argument")
            self.emit(Decision(b"501 5.5.4 Syntax: QUIT\r\n"))
            return
        decision = self.decide("QUIT", b"221 2.0.0 Bye\r\n")
        accepted = decision.octets.startswith(b"221")
        if accepted:  # recorded before it is said: who has read the 221 may look at the record at once
            self.record.closed_by = "QUIT"
        self.emit(decision)
        if accepted:
            self.wire.flush()
            raise SessionOver("QUIT")

    def _vrfy(self, rest: str) -> None:
        if not rest:
            self.violation("VRFY without an argument")
            self.emit(Decision(b"501 5.5.4 Syntax: VRFY string\r\n"))
            return
        address = rest.removesuffix(" SMTPUTF8").strip("<>").casefold()
        refused = self.site.refused.get(address)
        self.answer("VRFY", refused.octets if refused else b"252 2.5.0 Cannot verify, will accept and try\r\n", address)

    def _expn(self, rest: str) -> None:
        members = self.options.lists.get(rest.removesuffix(" SMTPUTF8"))
        if not members:
            self.answer("EXPN", b"550 5.1.1 No such list\r\n")
            return
        lines = [f"250-2.1.5 <{member}>" for member in members]
        lines[-1] = lines[-1].replace("250-", "250 ", 1)
        self.answer("EXPN", reply_octets("\n".join(lines)))

    def _help(self, rest: str) -> None:
        text = f"214 2.0.0 No help on {rest[:40]}" if rest else "214-2.0.0 Commands:\n214 2.0.0 " + " ".join(_VERBS)
        self.answer("HELP", reply_octets(text))


_VERBS: dict[str, Callable[[Session, str], None]] = {
    "EHLO": lambda session, rest: session._hello("EHLO", rest),
    "LHLO": lambda session, rest: session._hello("LHLO", rest),
    "HELO": lambda session, rest: session._hello("HELO", rest),
    "STARTTLS": Session._starttls,
    "AUTH": Session._auth,
    "MAIL": lambda session, rest: session.transaction.mail(rest),
    "RCPT": lambda session, rest: session.transaction.rcpt(rest),
    "DATA": lambda session, rest: session.transaction.data(rest),
    "BDAT": lambda session, rest: session.transaction.bdat(rest),
    "RSET": Session._rset,
    "NOOP": Session._noop,
    "QUIT": Session._quit,
    "VRFY": Session._vrfy,
    "EXPN": Session._expn,
    "HELP": Session._help,
}
