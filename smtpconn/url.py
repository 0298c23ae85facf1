"""A mail server as a URL, `submission://user:secret@mail.example.com?max_size=8`, to keyword arguments (users 11).

Knows schemes, percent-encoding and the keys; refuses to know what is done with them. Errors name the key and the remedy
and never show the URL, which holds a password.
"""

from __future__ import annotations

import difflib
import ipaddress
import pathlib
import re
import urllib.parse
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

from smtpconn.deadline import Timeouts
from smtpconn.protocol.errors import InvalidInputError
from smtpconn.protocol.flow import Pipelining
from smtpconn.protocol.sasl import (
    Credentials,
    LoginAuth,
    OAuthBearerAuth,
    PasswordAuth,
    PlainAuth,
    ScramAuth,
    Secret,
    XOAuth2Auth,
)
from smtpconn.protocol.session import ProtocolName
from smtpconn.tls import TlsConfig, TlsMode


class _Scheme(NamedTuple):
    protocol: ProtocolName
    tls_mode: TlsMode | None  # None: the key `tls` says
    port: int


_SCHEMES = {
    "smtp": _Scheme("smtp", TlsMode.NONE, 25),
    "smtps": _Scheme("smtp", TlsMode.IMPLICIT, 465),
    "submission": _Scheme("smtp", TlsMode.STARTTLS, 587),
    "smtp+starttls": _Scheme("smtp", TlsMode.STARTTLS, 587),
    "lmtp": _Scheme("lmtp", None, 24),
    "lmtp+unix": _Scheme("lmtp", TlsMode.NONE, 0),
}
_FOREIGN = {"submit": "submission", "smtp+tls": "submission", "smtptls": "submission", "smtp+ssl": "smtps"}
_STARTTLS_PORTS = (25, 587)
_MISTAKEN = {
    "ssl": "choose the scheme smtps:// for implicit TLS",
    "use_ssl": "choose the scheme smtps:// for implicit TLS",
    "use_tls": "choose the scheme submission:// for STARTTLS",
    "_default_from_email": "set DEFAULT_FROM_EMAIL in the application",
}

AUTH_KINDS = ("password", "plain", "login", "scram", "xoauth2", "oauthbearer")

_UNCLEAN = re.compile(r"[^\x21-\x7e]|[<>]")
_BAD_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_INTEGER = re.compile(r"[0-9]{1,9}")
_NUMBER = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?")

Convert = Callable[[str, str], Any]


def _integer(key: str, text: str) -> int:
    if not _INTEGER.fullmatch(text):
        raise InvalidInputError(f"url: {key} must be a decimal number")
    return int(text)


def _number(key: str, text: str) -> float:
    if not _NUMBER.fullmatch(text):
        raise InvalidInputError(f"url: {key} must be a decimal number of seconds")
    return float(text)


def _or_none(convert: Convert) -> Convert:
    return lambda key, text: None if text == "none" else convert(key, text)


def _boolean(key: str, text: str) -> bool:
    if text not in ("true", "false"):
        raise InvalidInputError(f"url: {key} must be true or false")
    return text == "true"


def _text(_key: str, text: str) -> str:
    return text


def _one_of(*allowed: str) -> Convert:
    def convert(key: str, text: str) -> str:
        if text not in allowed:
            raise InvalidInputError(f"url: {key} must be one of {', '.join(allowed)}")
        return text

    return convert


def _source(key: str, text: str) -> tuple[str, int]:
    try:
        return str(ipaddress.ip_address(text)), 0
    except ValueError:
        raise InvalidInputError(f"url: {key} must be an IP address") from None


_POOL_KEYS: dict[str, Convert] = {
    "max_size": _integer,
    "min_size": _integer,
    "max_waiting": _or_none(_integer),
    "max_connecting": _integer,
    "acquire_timeout": _number,
    "max_idle": _or_none(_number),
    "max_age": _or_none(_number),
    "max_messages": _or_none(_integer),
    "probe_after": _or_none(_number),
    "track_leases": _boolean,
    "name": _text,
}
_OPENING_KEYS: dict[str, Convert] = {
    "pipelining": _one_of("off", "grouped", "prefetch", "burst"),
    "ehlo_domain": _text,
    "source_address": _source,
    "allow_plaintext_auth": _boolean,
}
_SPECIAL_KEYS: dict[str, Convert] = {
    "timeout": _number,
    "tls": _one_of("none", "starttls", "implicit"),
    "trust": _text,
    "server_name": _text,
    "client_cert": _text,
    "client_key": _text,
    "auth": _one_of(*AUTH_KINDS),
}
_TIMEOUTS = {f"timeout.{field}": _or_none(_number) for field in Timeouts.__dataclass_fields__ if field != "total"}
_KEYS = {**_POOL_KEYS, **_OPENING_KEYS, **_SPECIAL_KEYS, **_TIMEOUTS}


def read_url(url: str, *, credentials_given: bool = False) -> ParsedUrl | Exception:
    """The parts of a URL, or what is wrong with it, for `known`: no frame that holds the URL may raise it (SEC2)."""
    try:
        return ParsedUrl(url, credentials_given=credentials_given)
    except Exception as error:  # a warning may be one, too
        error.__context__ = None  # a UnicodeDecodeError has the octets in it
        return error.with_traceback(None)


def known(found: ParsedUrl | Exception) -> ParsedUrl:
    """What `read_url` found; raises what was wrong. The name of the URL is gone by then."""
    if isinstance(found, Exception):
        raise found
    return found


class ParsedUrl:
    """The parts of a URL, converted. `options` are keyword arguments; its repr shows no secret."""

    __slots__ = (
        "_query",
        "credentials",
        "hosts",
        "options",
        "pool_options",
        "protocol",
        "scheme",
        "tls_mode",
        "unix_socket",
    )

    def __init__(self, url: str, *, credentials_given: bool = False) -> None:
        scheme, authority, path, query = _split(url)
        self.scheme = scheme
        rules = _SCHEMES[scheme]
        self.protocol: ProtocolName = rules.protocol
        self._query = _parameters(query)
        self.tls_mode = self._tls_mode(rules)
        self.unix_socket: str | None = None
        self.hosts: list[tuple[str, int]] = []
        userinfo, at, places = authority.rpartition("@")
        if scheme == "lmtp+unix":
            if authority or not path:
                raise InvalidInputError("url: lmtp+unix:// takes a path only: lmtp+unix:///run/lmtp")
            self.unix_socket = _decoded("path", path)
        else:
            if path not in ("", "/"):
                raise InvalidInputError("url: a path has no meaning here")
            self.hosts = [_place(place, rules.port) for place in places.split(",")]
            self._warn_of_a_mistaken_scheme()
        self.credentials = self._credentials(userinfo if at else None, credentials_given)
        self.pool_options = {key: value for key, value in self._query.items() if key in _POOL_KEYS}
        self.options = self._opening_options()

    def _tls_mode(self, rules: _Scheme) -> TlsMode:
        asked = self._query.pop("tls", None)
        if rules.tls_mode is None:
            return TlsMode.NONE if asked is None else TlsMode[asked.upper()]
        if asked is not None:
            raise InvalidInputError(
                "url: tls is a key of lmtp:// only: choose smtp://, submission:// (STARTTLS) or smtps:// (implicit)"
            )
        return rules.tls_mode

    def _warn_of_a_mistaken_scheme(self) -> None:
        """URL7: elsewhere `smtps://` means STARTTLS. The URL is obeyed as written."""
        if self.scheme == "smtps" and any(port in _STARTTLS_PORTS for _, port in self.hosts):
            warnings.warn(
                "smtps:// is implicit TLS; port 25 and 587 usually want STARTTLS, which is submission://", stacklevel=5
            )

    def _credentials(self, userinfo: str | None, given: bool) -> Credentials | None:
        kind = self._query.pop("auth", "password")
        if userinfo is None:
            return None
        if given:
            raise InvalidInputError("url: a user in the URL together with credentials= is one too many")
        user, colon, coded = userinfo.partition(":")
        name = _decoded("user", user)
        if not colon:
            raise InvalidInputError("url: a user without a password; write user:password@, or pass credentials=")
        return credentials_of_kind(kind, name, Secret(_decoded("password", coded), "password"))

    def _opening_options(self) -> dict[str, Any]:
        query = self._query
        options = {key: query[key] for key in _OPENING_KEYS if key in query}
        if "pipelining" in options:
            options["pipelining"] = Pipelining[options["pipelining"].upper()]
        tls_config = self._tls_config()
        if tls_config is not None:
            options["tls_config"] = tls_config
        limits = {key.removeprefix("timeout."): value for key, value in query.items() if key.startswith("timeout.")}
        if "timeout" in query or limits:
            options["timeout"] = Timeouts(total=query.get("timeout"), **limits)
        return options

    def _tls_config(self) -> TlsConfig | None:
        query = self._query
        trust, name = query.get("trust"), query.get("server_name")
        certificate, key = query.get("client_cert"), query.get("client_key")
        if key is not None and certificate is None:
            raise InvalidInputError("url: client_key needs client_cert")
        if trust is None and name is None and certificate is None:
            return None
        options: dict[str, Any] = {"server_name": name}
        if trust is not None:
            options["trust"] = trust if trust in ("system", "certifi") else pathlib.Path(trust)
        if certificate is not None:
            options["client_certificate"] = certificate if key is None else (certificate, key)
        return TlsConfig(**options)

    @property
    def place(self) -> dict[str, Any]:
        """Where it is, in keyword arguments of a pool."""
        return {"host": self.hosts} if self.unix_socket is None else {"unix_socket": self.unix_socket}

    @property
    def shown(self) -> str:
        """The URL as logs may show it (URL14)."""
        return shown(self.scheme, self.hosts, self.unix_socket, secret=self.credentials is not None)

    def __repr__(self) -> str:
        return f"<ParsedUrl {self.shown}>"


def shown(scheme: str, hosts: list[tuple[str, int]], unix_socket: str | None, *, secret: bool) -> str:
    """`scheme://***@host:port`, without query."""
    if unix_socket is not None:
        return f"{scheme}://{unix_socket}"
    places = ",".join(f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in hosts)
    return f"{scheme}://{'***@' if secret else ''}{places}"


def _split(url: object) -> tuple[str, str, str, str]:
    """Scheme, authority, path and query; URL11: what is unclean is refused before anything is parsed."""
    if not isinstance(url, str):
        raise TypeError(f"url must be a str, not {type(url).__name__}")
    if _UNCLEAN.search(url):
        raise InvalidInputError("url has a blank, <, >, a control or a non-ASCII character: percent-encode it")
    scheme, mark, rest = url.partition("://")
    scheme = scheme.lower()
    if not mark:
        raise InvalidInputError("url has no scheme: write submission://user:password@host")
    if scheme not in _SCHEMES:
        ours = _FOREIGN.get(scheme)
        hint = f"write {ours}://" if ours else f"use one of {', '.join(_SCHEMES)}"
        raise InvalidInputError(f"url has an unknown scheme: {hint}")
    if "#" in rest:
        raise InvalidInputError("url: a fragment has no meaning here; percent-encode # as %23")
    before, _, query = rest.partition("?")
    authority, slash, path = before.partition("/")
    return scheme, authority, slash + path, query


def _decoded(part: str, coded: str) -> str:
    if _BAD_PERCENT.search(coded):
        raise InvalidInputError(f"url: the {part} has a % that is no percent-encoding; write %25")
    try:
        text = urllib.parse.unquote_to_bytes(coded).decode("utf-8")
    except UnicodeDecodeError:
        raise InvalidInputError(f"url: the {part} must be percent-encoded UTF-8") from None
    if _CONTROL.search(text):
        raise InvalidInputError(f"url: the {part} must not have a control character")
    return text


def _is_ipv6(text: str) -> bool:
    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        return not text  # what is no host at all is told below
    return True


def _place(place: str, default_port: int) -> tuple[str, int]:
    """One `host`, `host:port`, `[v6]` or `[v6]:port`."""
    if place.startswith("["):
        host, bracket, rest = place[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")) or not _is_ipv6(host):
            raise InvalidInputError("url: an IPv6 address stands in brackets: [2001:db8::1]:587")
        port = rest[1:] if rest else None
    else:
        host, colon, after = place.partition(":")
        port = after if colon else None
    if not host:
        raise InvalidInputError("url must name a host")
    return _decoded("host", host), default_port if port is None else _integer("port", port)


def _parameters(query: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for part in query.split("&") if query else []:
        key, equals, coded = part.partition("=")
        if key not in _KEYS:
            if "@" in query and key not in _MISTAKEN:  # the rest of a password, perhaps
                remedy = "percent-encode ? in a password as %3F, @ in a value as %40"
                raise InvalidInputError(f"url: an @ behind the ?: {remedy}")
            raise InvalidInputError(f"url: unknown key {key!r:.40}{_advice(key)}")
        if key in found:
            raise InvalidInputError(f"url: the key {key} is there twice: give it once")
        if not equals or not coded:
            raise InvalidInputError(f"url: the key {key} is empty: give it a value")
        found[key] = _KEYS[key](key, _decoded(key, coded))
    return found


def _advice(key: str) -> str:
    if key in _MISTAKEN:
        return f": {_MISTAKEN[key]}"
    near = difflib.get_close_matches(key, _KEYS, 1)
    return f"; did you mean {near[0]}?" if near else f"; the keys are {', '.join(sorted(_KEYS))}"


def credentials_of_kind(kind: str, user: str, secret: Secret) -> Credentials:
    """The credentials that a value of the key `auth` means; with the bearer mechanisms the secret is the token."""
    if kind == "oauthbearer":
        return OAuthBearerAuth(secret, user=user or None)
    classes: dict[str, Callable[[str, Secret], Credentials]] = {
        "password": PasswordAuth,
        "plain": PlainAuth,
        "login": LoginAuth,
        "scram": ScramAuth,
        "xoauth2": XOAuth2Auth,
    }
    return classes[kind](user, secret)
