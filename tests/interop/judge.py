"""aiosmtpd as a judge: another implementation of SMTP, in this process, that shows what it has understood.

Knows aiosmtpd, and of the extensions that aiosmtpd lacks the grammar of their parameters, from their RFCs. Knows
nothing of smtpconn. Its laws: a line, a parameter or a chunk that it cannot read is refused with 5yz, so that a mail
that arrives is one that it has read to the last octet; every command that it gets is in `Ledger.commands`.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import re
import ssl
from collections import defaultdict
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session
from scramp import ScramException, ScramMechanism  # type: ignore[import-untyped]  # it has no annotations

from .daemon import HOST, free_ports
from .servers import HOSTNAME, LOGIN, UNICODE_LOGIN

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .certificates import Certificates

_XTEXT = r"(?:[!-*,-<>-~]|\+[0-9A-F]{2})+"  # RFC 3461 section 4
_MAIL_PARAMETERS = {
    "BODY": "BINARYMIME",  # the others are aiosmtpd's
    "RET": "FULL|HDRS",
    "ENVID": _XTEXT,
    "AUTH": _XTEXT,
    "REQUIRETLS": None,
    "HOLDFOR": "[1-9][0-9]{0,8}",
    "HOLDUNTIL": "[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z",
    "BY": "-?[0-9]{1,9};[RN]T?",
    "MT-PRIORITY": "-?[0-9]",
}
_WISH = "(?:SUCCESS|FAILURE|DELAY)"
_RCPT_PARAMETERS = {"NOTIFY": f"NEVER|{_WISH}(?:,{_WISH})*", "ORCPT": f"[A-Za-z0-9-]+;{_XTEXT}"}

EXTENSIONS = (
    "DSN",
    "CHUNKING",
    "BINARYMIME",
    "REQUIRETLS",
    "FUTURERELEASE 86400 2030-01-01T00:00:00Z",
    "DELIVERBY 60",
    "MT-PRIORITY MIXER",
    "ENHANCEDSTATUSCODES",
)


@dataclass
class Received:
    """One mail as it was understood."""

    sender: str
    recipients: list[str]
    content: bytes
    mail_parameters: list[str]
    """As they were written, in order."""
    rcpt_parameters: list[list[str]]
    chunks: list[int]
    """The size of each BDAT, none for DATA."""


@dataclass
class Ledger:
    """What happened, in order."""

    commands: list[str] = field(default_factory=list)
    """The verb of each command, in upper case."""
    received: list[Received] = field(default_factory=list)
    passwords: list[tuple[str, bytes, bytes]] = field(default_factory=list)
    """Mechanism, user and password of each AUTH PLAIN and LOGIN."""
    scram: list[tuple[str, str]] = field(default_factory=list)
    """Mechanism and GS2 header of each SCRAM exchange that was begun."""
    ehlo: list[str] = field(default_factory=list)


class _Noticed(dict[str, Any]):
    """The methods of an SMTP by verb; writes down each verb that is looked up."""

    def __init__(self, methods: dict[str, Any], commands: list[str]) -> None:
        super().__init__(methods)
        self.commands = commands

    def get(self, verb: str, default: Any = None) -> Any:
        self.commands.append(verb)
        return super().get(verb, default)


class _Smtp(SMTP):
    """What aiosmtpd does not know."""

    def __init__(self, judge: Judge, **options: Any) -> None:
        self.judge = judge
        self.chunks: list[bytes] = []
        self.written: tuple[list[str], list[list[str]]] = ([], [])
        super().__init__(judge, **options)
        # RFC 5321's 512 octets and what the extensions add.
        self.command_size_limits = defaultdict(lambda: 2048)
        self._smtp_methods = _Noticed(self._smtp_methods, judge.ledger.commands)

    async def _split(self, arg: str, known: dict[str, str | None]) -> tuple[str, list[str], list[str]] | None:
        """Take the parameters of `known` out of a MAIL or RCPT; None, and refused, if one is not as it should be."""
        path, *parameters = arg.split(" ")
        rest: list[str] = []
        ours: list[str] = []
        for parameter in parameters:
            keyword, separator, value = parameter.partition("=")
            if keyword not in known or (keyword == "BODY" and value != "BINARYMIME"):
                rest.append(parameter)
                continue
            grammar = known[keyword]
            right = re.fullmatch(grammar, value) is not None if grammar is not None else not separator
            offered = self.judge.offers(_EXTENSION_OF[keyword])
            if not right or not offered or keyword in [other.partition("=")[0] for other in ours]:
                await self.push(f"501 5.5.4 {parameter}")
                return None
            ours.append(parameter)
        return " ".join([path, *rest]), ours, parameters

    async def smtp_MAIL(self, arg: str | None) -> None:
        split = await self._split(arg or "", _MAIL_PARAMETERS)
        if split is not None:
            self.chunks = []
            self.written = (split[2], [])
            await super().smtp_MAIL(split[0])

    async def smtp_RCPT(self, arg: str | None) -> None:
        split = await self._split(arg or "", dict(_RCPT_PARAMETERS))
        if split is not None:
            before = len(self.envelope.rcpt_tos) if self.envelope else 0
            await super().smtp_RCPT(split[0])
            if self.envelope and len(self.envelope.rcpt_tos) > before:
                self.written[1].append(split[2])

    async def smtp_BDAT(self, arg: str | None) -> None:
        """RFC 3030 section 2: the octets follow the line, whatever they are."""
        matched = re.fullmatch(r"([0-9]+)( LAST)?", arg or "")
        if matched is None or not self.judge.offers("CHUNKING"):
            await self.push("501 5.5.4 BDAT")
            return
        self.chunks.append(await self._reader.readexactly(int(matched[1])))
        assert self.envelope is not None
        if not self.envelope.rcpt_tos:
            await self.push("503 5.5.1 no recipient")
            return
        if matched[2]:
            self.judge.keep(self.envelope, self.written, b"".join(self.chunks), [len(chunk) for chunk in self.chunks])
            self.envelope = self._create_envelope()
        await self.push(f"250 2.0.0 {matched[1]} octets")


_EXTENSION_OF = {
    "BODY": "BINARYMIME",
    "RET": "DSN",
    "ENVID": "DSN",
    "AUTH": "AUTH",
    "REQUIRETLS": "REQUIRETLS",
    "HOLDFOR": "FUTURERELEASE",
    "HOLDUNTIL": "FUTURERELEASE",
    "BY": "DELIVERBY",
    "MT-PRIORITY": "MT-PRIORITY",
    "NOTIFY": "DSN",
    "ORCPT": "DSN",
}


class Judge:
    """aiosmtpd's handler: what the server offers beyond itself, and the ledger of what came."""

    def __init__(self, extensions: tuple[str, ...] = (), binding: bytes | None = None) -> None:
        self.extensions = extensions
        self.binding = binding
        """The hash of the server's certificate: with it, SCRAM-SHA-256-PLUS is offered."""
        self.ledger = Ledger()
        self.host = HOST
        self.tls_name = HOSTNAME
        self.port = 0

    def offers(self, keyword: str) -> bool:
        """Whether the keyword is among what EHLO lists; AUTH always is, where it is asked about."""
        return keyword == "AUTH" or keyword in [line.split()[0] for line in self.extensions]

    def keep(
        self, envelope: Envelope, written: tuple[list[str], list[list[str]]], content: bytes, chunks: list[int]
    ) -> None:
        """Write a mail down."""
        assert envelope.mail_from is not None
        received = Received(envelope.mail_from, list(envelope.rcpt_tos), content, *written, chunks)
        self.ledger.received.append(received)

    def authenticate(
        self, server: SMTP, session: Session, envelope: Envelope, mechanism: str, data: LoginPassword
    ) -> AuthResult:
        """Judge a user and a password."""
        self.ledger.passwords.append((mechanism, data.login, data.password))
        known = [(user.encode(), password.encode()) for user, password in (LOGIN, UNICODE_LOGIN)]
        return AuthResult(success=(data.login, data.password) in known, handled=False)

    # --- aiosmtpd's hooks

    async def handle_EHLO(
        self, server: _Smtp, session: Session, envelope: Envelope, hostname: str, responses: list[str]
    ) -> list[str]:
        session.host_name = hostname
        self.ledger.ehlo.append(hostname)
        return [*responses[:-1], *(f"250-{line}" for line in self.extensions), responses[-1]]

    async def handle_DATA(self, server: _Smtp, session: Session, envelope: Envelope) -> str:
        assert isinstance(envelope.content, bytes)
        self.keep(envelope, server.written, envelope.content, [])
        return "250 2.0.0 kept as 250JUDGE"

    async def auth_SCRAM__SHA__256(self, server: _Smtp, args: list[str]) -> AuthResult:
        return await self._scram(server, args)

    async def auth_SCRAM__SHA__256__PLUS(self, server: _Smtp, args: list[str]) -> AuthResult:
        return await self._scram(server, args)

    async def _scram(self, server: _Smtp, args: list[str]) -> AuthResult:
        mechanism = ScramMechanism(args[0])
        known = dict((LOGIN, UNICODE_LOGIN))

        def verifier(user: str) -> Any:
            return mechanism.make_auth_info(known[user], iteration_count=4096)

        binding = None if self.binding is None else ("tls-server-end-point", self.binding)
        exchange = mechanism.make_server(verifier, channel_binding=binding)
        try:
            first = base64.b64decode(args[1], validate=True).decode()
            self.ledger.scram.append((args[0], first[: first.index("n=")]))
            exchange.set_client_first(first)
            answer = await server.challenge_auth(exchange.get_server_first())
            assert isinstance(answer, bytes)
            exchange.set_client_final(answer.decode())
        except ScramException:
            return AuthResult(success=False, handled=False)
        await server.challenge_auth(exchange.get_server_final())
        return AuthResult(success=True, handled=False)


class _Controller(Controller):
    def __init__(self, judge: Judge, **options: Any) -> None:
        self.judge = judge
        super().__init__(judge, **options)

    def factory(self) -> SMTP:
        return _Smtp(self.judge, **self.SMTP_kwargs)

    def stop(self, no_assert: bool = False) -> None:
        """A connection whose end the loop has not dealt with when it stops would be left to the collector."""
        asyncio.run_coroutine_threadsafe(self._ends(), self.loop).result(10)
        super().stop(no_assert)

    async def _ends(self) -> None:
        selector: Any = vars(self.loop)["_selector"]
        idle = len(self.server.sockets) + 1 if isinstance(self.server, asyncio.Server) else 0
        until = self.loop.time() + 2
        while len(selector.get_map()) > idle and self.loop.time() < until:
            await asyncio.sleep(0.005)
        await asyncio.sleep(0)  # the ends that are on the loop's list


def server_context(certificates: Certificates, *, client_certificate: bool = False) -> ssl.SSLContext:
    """A server's TLS with the certificate of `HOSTNAME`; with `client_certificate` none gets in without one."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates.server_certificate, certificates.server_key)
    if client_certificate:
        context.load_verify_locations(certificates.ca_path)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def binding_of(certificates: Certificates) -> bytes:
    """RFC 5929 section 4: the hash of the certificate, which is signed with SHA-256."""
    der = ssl.PEM_cert_to_DER_cert(certificates.server_certificate.read_text())
    return hashlib.sha256(der).digest()


@contextmanager
def judging(
    tls: ssl.SSLContext | None = None,
    *,
    implicit: bool = False,
    extensions: tuple[str, ...] = (),
    mechanisms: tuple[str, ...] = ("LOGIN", "PLAIN"),
    binding: bytes | None = None,
    **options: Any,
) -> Iterator[Judge]:
    """Run a judge: in the clear, or with STARTTLS or implicit TLS; AUTH is offered under TLS only."""
    judge = Judge(extensions, binding)
    every = {"LOGIN", "PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-256-PLUS"}
    options = {
        "enable_SMTPUTF8": True,
        "authenticator": judge.authenticate,
        "auth_exclude_mechanism": every - set(mechanisms),
        # aiosmtpd takes implicit TLS for none.
        "auth_require_tls": not implicit,
        "hostname": HOST,
        "server_hostname": HOSTNAME,
        **options,
    }
    if tls is not None:
        options["ssl_context" if implicit else "tls_context"] = tls
    (judge.port,) = free_ports(1)
    controller = _Controller(judge, port=judge.port, **options)
    controller.start()
    judge.ledger.commands.clear()
    try:
        yield judge
    finally:
        controller.stop()
