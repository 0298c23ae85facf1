"""Which server a command talks to, and how: the options and `EMAIL_URL` to an endpoint and an `Opening`.

Knows options, URLs and who stands above whom: an option is for this call and wins over the URL. Refuses to know what is
said to the server. Its laws: TLS is a demand and never guessed; verification has no off switch; whatever is wrong is
said before anything is connected, and no text has a secret in it.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
import urllib.parse
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from smtpconn import (
    ConnectionPool,
    InvalidInputError,
    SmtpConnection,
    SmtpError,
    Timeouts,
    TlsConfig,
    TlsMode,
    UsageError,
)
from smtpconn.cli import secrets, values
from smtpconn.cli.exits import EX_CONFIG, EX_USAGE, CommandError
from smtpconn.connection import open_connection
from smtpconn.deadline import Budget
from smtpconn.discovery import check_opening
from smtpconn.finding.domain import SMTP_PORT, DomainSearch
from smtpconn.opening import Endpoint, Opening, check_name_to_verify, endpoint_of
from smtpconn.protocol.errors import AuthenticationError
from smtpconn.tls_context import ssl_context
from smtpconn.url import AUTH_KINDS, ParsedUrl, credentials_of_kind

_PORTS = {TlsMode.IMPLICIT: 465, TlsMode.STARTTLS: 587, TlsMode.NONE: 25}
_LMTP_PORT = 24
_PLACES = ("host", "port", "tls", "lmtp", "unix_socket", "domain")  # what a URL says by itself
_OF_DOMAIN = ("service", "expect", "dane", "validating")


def add_to(parser: argparse.ArgumentParser) -> None:
    """Add the options that say which server, and how."""
    group = parser.add_argument_group("server")
    variable = secrets.URL_VARIABLE
    group.add_argument("--url", help=f"submission://user@mail.example.com, for example (default: ${variable})")
    group.add_argument("--host", help="name or address of the server, instead of a URL; needs --tls")
    group.add_argument("--port", type=values.port, metavar="N", help="default: 465 implicit, 587 starttls, 25 none")
    modes = [mode.value for mode in TlsMode]
    group.add_argument("--tls", choices=modes, help="a demand: without it nothing is sent")
    group.add_argument("--domain", metavar="NAME", help="find the server by DNS: SRV, or MX with --service mx")
    group.add_argument("--service", choices=["submission", "mx"], help="what to find (default: submission)")
    group.add_argument("--expect", action="append", metavar="HOST", help="a host known to serve the domain, or *.HOST")
    group.add_argument("--dane", choices=["auto", "require"], help="require: no server without TLSA records")
    group.add_argument("--validating", action="store_true", help="believe what the resolver says of DNSSEC")
    group.add_argument("--lmtp", action="store_true", help="speak LMTP (default port: 24)")
    group.add_argument("--unix-socket", metavar="PATH", help="LMTP over this socket")
    group.add_argument("--trust", "--ca", metavar="ROOTS", help="system (default), certifi, or a PEM file")
    group.add_argument("--server-name", metavar="NAME", help="the name that the certificate must have")
    group.add_argument("--client-cert", metavar="FILE", help="PEM certificate of this client")
    group.add_argument("--client-key", metavar="FILE", help="its key, if that is not in the same file")
    group.add_argument("--ehlo-domain", metavar="NAME", help="what EHLO says")
    group.add_argument("--source-address", type=values.ip_address, metavar="IP", help="address to connect from")
    group.add_argument("--timeout", type=values.seconds, metavar="SECONDS", help="for the whole call")
    group = parser.add_argument_group("login")
    group.add_argument("--user", metavar="NAME", help="log in as this user")
    group.add_argument("--auth", choices=AUTH_KINDS, default="password", help="mechanism (default: %(default)s)")
    secrets.add_to(group)


@dataclass(frozen=True, kw_only=True)
class Server:
    """Where to connect and how; `endpoints` in order of preference."""

    endpoints: Sequence[Endpoint]
    opening: Opening
    timeouts: Timeouts
    pool_options: dict[str, Any] = field(default_factory=dict)

    def connected(self, budget: Budget) -> tuple[Endpoint, SmtpConnection]:
        """The first endpoint that can be used, and a connection to it. Raises what opening the last one raised."""
        for endpoint in self.endpoints[:-1]:
            try:
                return endpoint, open_connection(self.opening, endpoint, budget)
            except SmtpError as error:  # noqa: PERF203  # one turn per endpoint
                if not _may_fail_over(error):
                    raise
        return self.endpoints[-1], open_connection(self.opening, self.endpoints[-1], budget)

    def pool(self, **keywords: Any) -> ConnectionPool:
        """A pool to these endpoints, with the pool keys of the URL; `keywords` stand above them.

        Raises TypeError, `InvalidInputError`.
        """
        first = self.endpoints[0]
        where: dict[str, Any] = {"unix_socket": first.unix_socket}
        if first.unix_socket is None:
            where = {"host": [(endpoint.host, endpoint.port) for endpoint in self.endpoints]}
        opening = {each.name: getattr(self.opening, each.name) for each in dataclasses.fields(self.opening)}
        return ConnectionPool(**where, timeout=self.timeouts, **{**opening, **self.pool_options, **keywords})


def _may_fail_over(error: SmtpError) -> bool:
    """As a pool does (pool EP3): not for a login that is refused everywhere, nor for what the caller did."""
    if isinstance(error, AuthenticationError):
        return error.permanent is not True
    return not isinstance(error, (InvalidInputError, UsageError))


def server_of(arguments: argparse.Namespace) -> Server:
    """The server that the options mean; asks for a password where one is missing. Raises `CommandError`."""
    url = _url(arguments)
    alone = [name for name in _OF_DOMAIN if getattr(arguments, name)]
    if alone and arguments.domain is None:
        raise CommandError(EX_USAGE, f"--{alone[0]} needs --domain")
    try:
        with warnings.catch_warnings(record=True) as doubts:
            warnings.simplefilter("always")
            found = _of_url(arguments, url) if url is not None else _of_options(arguments)
        _check(found)
    except (InvalidInputError, TypeError) as error:
        raise CommandError(EX_USAGE if url is None else EX_CONFIG, str(error)) from None
    for doubt in doubts:
        print(f"smtpconn {arguments.command}: warning: {doubt.message}", file=sys.stderr)
    return found


def _url(arguments: argparse.Namespace) -> str | None:
    """The URL of the arguments or the environment, or None where options name the server."""
    named = [name for name in _PLACES if getattr(arguments, name)]
    if arguments.url is not None:
        if named:
            option = named[0].replace("_", "-")
            raise CommandError(EX_USAGE, f"--url and --{option} both name the server: give one of them")
        return str(arguments.url)
    if named:
        return None
    url = os.environ.get(secrets.URL_VARIABLE)
    if not url:
        remedy = f"set {secrets.URL_VARIABLE}, or give --url, --host or --unix-socket"
        raise CommandError(EX_CONFIG, f"no server: {remedy}")
    return url


# --- options alone ---


def _of_options(arguments: argparse.Namespace) -> Server:
    if arguments.domain is not None:
        return _of_domain(arguments)
    lmtp = arguments.lmtp or arguments.unix_socket is not None
    if arguments.unix_socket is not None:
        mode = TlsMode(arguments.tls or "none")
        endpoint = endpoint_of(arguments.host, arguments.port, arguments.unix_socket, protocol="lmtp")
    else:
        if arguments.host is None:
            raise CommandError(EX_USAGE, "no server: --host is missing")
        if arguments.tls is None:
            raise CommandError(EX_USAGE, "--host needs --tls implicit, starttls or none: nothing is guessed")
        mode = TlsMode(arguments.tls)
        port = arguments.port or (_LMTP_PORT if lmtp else _PORTS[mode])
        endpoint = endpoint_of(arguments.host, port, protocol="lmtp" if lmtp else "smtp")
    opening = Opening(
        protocol="lmtp" if lmtp else "smtp",
        tls_mode=mode,
        tls_config=_tls_config(arguments, None),
        credentials=_credentials(arguments),
        **_details(arguments),
    )
    return Server(endpoints=[endpoint], opening=opening, timeouts=_timeouts(arguments, Timeouts()))


def _of_domain(arguments: argparse.Namespace) -> Server:
    other = next((name for name in ("host", "lmtp", "unix_socket") if getattr(arguments, name)), None)
    if other is not None:
        raise CommandError(EX_USAGE, f"--domain and --{other.replace('_', '-')} both name the server: give one of them")
    search = DomainSearch(
        domain=arguments.domain,
        service=arguments.service or "submission",
        tls_mode=None if arguments.tls is None else TlsMode(arguments.tls),
        port=arguments.port or SMTP_PORT,
        expected=arguments.expect or (),
        dane=arguments.dane or "auto",
        validating=arguments.validating or None,
    )
    opening = Opening(
        tls_mode=search.least_tls,
        tls_config=_tls_config(arguments, None),
        credentials=_credentials(arguments),
        **_details(arguments),
    )
    endpoint = Endpoint(None, None, search=search)
    check_opening(opening, endpoint)
    return Server(endpoints=[endpoint], opening=opening, timeouts=_timeouts(arguments, Timeouts()))


# --- a URL, and the options that stand above it ---


def _of_url(arguments: argparse.Namespace, url: str) -> Server:
    parsed = ParsedUrl(_with_password(arguments, url))
    if arguments.user is not None and parsed.credentials is not None:
        raise CommandError(EX_USAGE, "--user and the URL both name a user: give one of them")
    options = {**parsed.options, **_details(arguments)}
    options["tls_config"] = _tls_config(arguments, parsed.options.get("tls_config"))
    timeouts = _timeouts(arguments, options.pop("timeout", Timeouts()))
    opening = Opening(
        protocol=parsed.protocol,
        tls_mode=parsed.tls_mode,
        credentials=parsed.credentials or _credentials(arguments),
        **options,
    )
    endpoints = [endpoint_of(host, port, protocol=parsed.protocol) for host, port in parsed.hosts]
    if parsed.unix_socket is not None:
        endpoints = [endpoint_of(None, None, parsed.unix_socket, protocol="lmtp")]
    return Server(endpoints=endpoints, opening=opening, timeouts=timeouts, pool_options=parsed.pool_options)


def _with_password(arguments: argparse.Namespace, url: str) -> str:
    """The URL with the password that it lacks, if it has a user; where it may come from is the matter of `secrets`."""
    scheme, mark, rest = url.partition("://")
    end = min((at for at in map(rest.find, "/?#") if at >= 0), default=len(rest))
    userinfo, at, place = rest[:end].rpartition("@")
    if not at:
        return url
    if arguments.url is not None:
        secrets.refuse_in_url(userinfo)
    if ":" in userinfo:
        if secrets.is_given(arguments):
            raise CommandError(EX_USAGE, f"${secrets.URL_VARIABLE} has a password already: give one of them")
        return url
    secret = secrets.password_of(arguments, urllib.parse.unquote(userinfo))
    return f"{scheme}{mark}{userinfo}:{urllib.parse.quote(secret.reveal(), safe='')}@{place}{rest[end:]}"


# --- both ---


def _credentials(arguments: argparse.Namespace) -> Any:
    if arguments.user is None:
        if secrets.is_given(arguments):
            raise CommandError(EX_USAGE, "a password without a user: give --user, or a user in the URL")
        return None
    return credentials_of_kind(arguments.auth, arguments.user, secrets.password_of(arguments, arguments.user))


def _details(arguments: argparse.Namespace) -> dict[str, Any]:
    details: dict[str, Any] = {}
    if arguments.ehlo_domain is not None:
        details["ehlo_domain"] = arguments.ehlo_domain
    if arguments.source_address is not None:
        details["source_address"] = (arguments.source_address, 0)
    return details


def _timeouts(arguments: argparse.Namespace, limits: Timeouts) -> Timeouts:
    return limits if arguments.timeout is None else limits.replace(total=arguments.timeout)


def _tls_config(arguments: argparse.Namespace, known: TlsConfig | None) -> TlsConfig | None:
    options: dict[str, Any] = {}
    if arguments.trust is not None:
        options["trust"] = arguments.trust if arguments.trust in ("system", "certifi") else Path(arguments.trust)
    if arguments.server_name is not None:
        options["server_name"] = arguments.server_name
    if arguments.client_key is not None and arguments.client_cert is None:
        raise CommandError(EX_USAGE, "--client-key needs --client-cert")
    if arguments.client_cert is not None:
        key = arguments.client_key
        options["client_certificate"] = arguments.client_cert if key is None else (arguments.client_cert, key)
    if not options:
        return known
    return dataclasses.replace(known or TlsConfig(), **options)


def _check(server: Server) -> None:
    """Read the files now: what is wrong with them is the configuration's fault, whatever the server does."""
    for endpoint in server.endpoints:
        check_name_to_verify(server.opening, endpoint)
    if server.opening.tls_mode is not TlsMode.NONE:
        try:
            ssl_context(server.opening.tls)
        except SmtpError as error:
            raise CommandError(EX_CONFIG, str(error)) from None
