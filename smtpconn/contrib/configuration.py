"""How a backend of a framework is configured: an account, further options, and a URL that says both.

Knows what Django and Flask call their settings only in words; refuses to know pools that exist (`backends`). Its laws:
whatever can be refused is refused when it is configured, by name; a secret is in no key and no repr; nothing is opened.
"""

from __future__ import annotations

import importlib
import pathlib
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from smtpconn.deadline import Timeouts, seconds
from smtpconn.opening import Opening, credentials_of, endpoint_of
from smtpconn.pool import ConnectionPool
from smtpconn.pooling.settings import PoolSettings
from smtpconn.protocol.address import check_ehlo_domain
from smtpconn.protocol.errors import InvalidInputError
from smtpconn.protocol.flow import Pipelining
from smtpconn.protocol.sasl import Credentials, PasswordAuth, Secret
from smtpconn.tls import TlsConfig, TlsMode
from smtpconn.url import ParsedUrl, known, read_url

POOL_OPTIONS = (
    "max_size", "min_size", "max_waiting", "max_connecting", "acquire_timeout", "max_idle", "max_age", "max_messages",
    "probe_after",
)  # fmt: skip
OWN_OPTIONS = (
    "pool", "timeouts", "trust", "server_name", "ehlo_domain", "source_address", "protocol", "unix_socket",
    "pipelining", "credentials", "allow_plaintext_auth", "smtputf8", "partial_failure",
)  # fmt: skip
_PORTS = {TlsMode.IMPLICIT: 465, TlsMode.STARTTLS: 587, TlsMode.NONE: 25}
_KEY = secrets.token_bytes(32)  # of the digests of secrets; another one in each process


def check_own(options: Mapping[str, Any]) -> None:
    """Raise `InvalidInputError` for an option that there is not."""
    for name in options:
        if name not in OWN_OPTIONS:
            raise InvalidInputError(f"unknown option {name!r:.80}; there are {', '.join(OWN_OPTIONS)}")


def default_port(*, use_tls: bool, use_ssl: bool) -> int:
    """The port where none is configured."""
    return _PORTS[_tls_mode(use_tls=use_tls, use_ssl=use_ssl)]


def _tls_mode(*, use_tls: Any, use_ssl: Any) -> TlsMode:
    return TlsMode.IMPLICIT if use_ssl else TlsMode.STARTTLS if use_tls else TlsMode.NONE


@dataclass(frozen=True, kw_only=True)
class Account:
    """What a framework's own settings say. `password` is hidden, and may be None or empty, as `username` may."""

    host: str | None
    port: int | None
    username: str | None
    password: Secret | None
    use_tls: bool
    use_ssl: bool
    timeout: float | None
    ssl_keyfile: str | None
    ssl_certfile: str | None


class Configuration:
    """An account and the own options, checked: how to make its pool, and how to know it again.

    `default_domain`: asked when the pool is made, where no `ehlo_domain` is configured. Raises TypeError,
    `InvalidInputError`.
    """

    def __init__(self, account: Account, own: Mapping[str, Any], default_domain: Callable[[], str | None]) -> None:
        check_own(own)
        self._default_domain = default_domain
        self.smtputf8 = _flag("smtputf8", own.get("smtputf8", False))
        partial = _one_of("partial_failure", own.get("partial_failure", "accept"), "accept", "raise")
        self.raises_partial = partial == "raise"
        limits = Timeouts(**_known("timeouts", own.get("timeouts"), tuple(Timeouts.__dataclass_fields__)))
        if account.timeout is not None:
            limits = limits.replace(total=seconds("timeout", account.timeout))
        self.timeout: float | Timeouts = limits
        if account.timeout is not None and not own.get("timeouts"):
            self.timeout = float(account.timeout)
        self.acquire = account.timeout
        tls_mode = _tls_mode(use_tls=account.use_tls, use_ssl=account.use_ssl)
        socket_path = own.get("unix_socket")
        self._where: tuple[Any, ...] = (None, None, socket_path) if socket_path else (account.host, account.port, None)
        self._opening: dict[str, Any] = {
            "protocol": own.get("protocol", "smtp"),
            "tls_mode": tls_mode,
            "tls_config": _tls_config(account, own, tls_mode),
            "source_address": _source_address(own.get("source_address")),
            "pipelining": Pipelining[
                _one_of("pipelining", own.get("pipelining", "grouped"), "off", "grouped").upper()
            ],
            "allow_plaintext_auth": own.get("allow_plaintext_auth", False),
            "ehlo_domain": own.get("ehlo_domain"),
        }
        self._credentials, known = _credentials(account, own.get("credentials"))
        self._sizes = _known("pool", own.get("pool"), POOL_OPTIONS)
        endpoint = endpoint_of(*self._where, protocol=self._opening["protocol"])
        Opening(**self._opening)  # raises now what the first message would raise
        PoolSettings(**self._sizes)
        self.name = endpoint.name
        parts = {**self._opening, **self._sizes, "timeout": self.timeout, "where": endpoint, "credentials": known}
        parts["tls_config"] = own.get("trust"), own.get("server_name"), account.ssl_certfile, account.ssl_keyfile
        self.key = tuple(sorted((name, _identity(value)) for name, value in parts.items()))

    def make_pool(self, name: str) -> ConnectionPool:
        """The pool. Opens nothing."""
        host, port, socket_path = self._where
        opening = dict(self._opening)
        if opening["ehlo_domain"] is None:
            opening["ehlo_domain"] = _usable_domain(self._default_domain())
        return ConnectionPool(
            host, port, opening.pop("tls_mode"), unix_socket=socket_path, credentials=self._credentials,
            timeout=self.timeout, name=name, **opening, **self._sizes,
        )  # fmt: skip

    def __repr__(self) -> str:
        return f"<Configuration of {self.name}>"


def _identity(value: object) -> str:
    """What tells one value from another; a callable is itself."""
    return f"callable {id(value)}" if callable(value) and not isinstance(value, type) else repr(value)


def _flag(name: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, not {type(value).__name__}")
    return value


def _one_of(name: str, value: object, *allowed: str) -> str:
    if value not in allowed:
        raise InvalidInputError(f"{name} must be one of {', '.join(allowed)}")
    return str(value)


def _known(name: str, given: Any, allowed: Sequence[str]) -> dict[str, Any]:
    """A dictionary of options, none of which is unknown."""
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise TypeError(f"{name} must be a dictionary, not {type(given).__name__}")
    for key in given:
        if key not in allowed:
            raise InvalidInputError(f"unknown key {key!r:.80} in {name}; there are {', '.join(allowed)}")
    return dict(given)


def _tls_config(account: Account, own: Mapping[str, Any], tls_mode: TlsMode) -> TlsConfig | None:
    trust, server_name = own.get("trust"), own.get("server_name")
    if tls_mode is TlsMode.NONE:
        if trust is not None or server_name is not None:
            raise InvalidInputError("trust and server_name need TLS: set use_tls (STARTTLS) or use_ssl")
        return None
    options: dict[str, Any] = {"server_name": server_name}
    if trust is not None:
        named = isinstance(trust, str) and trust not in ("system", "certifi")
        options["trust"] = pathlib.Path(trust) if named else trust
    if account.ssl_certfile:
        pair = (account.ssl_certfile, account.ssl_keyfile)
        options["client_certificate"] = pair if account.ssl_keyfile else account.ssl_certfile
    return TlsConfig(**options)


def _source_address(given: Any) -> Any:
    """An address, or an address and a port, as settings files have them."""
    return (given, 0) if isinstance(given, str) else tuple(given) if isinstance(given, list) else given


def _credentials(account: Account, given: Any) -> tuple[Any, object]:
    """The credentials of the pool, and what tells them from others: never a secret itself."""
    if given is None:
        if not account.username or account.password is None or not account.password.reveal():
            return None, None
        made = PasswordAuth(account.username, account.password)
        return made, made.digest(_KEY).hex()
    if account.username:
        raise InvalidInputError("credentials and username are one too many")
    if isinstance(given, str):
        return _named_callable(given), given
    found = credentials_of(given)
    literal = isinstance(found, Credentials) and not found.is_renewable
    return found, found.digest(_KEY).hex() if literal and isinstance(found, Credentials) else f"object {id(found)}"


def _named_callable(path: str) -> Callable[[], Credentials]:
    """The callable at a dotted path, imported when it is first asked: settings are read before applications are."""
    module, dot, name = path.rpartition(".")
    if not dot:
        raise InvalidInputError("credentials must be an object, a callable, or the dotted path of a callable")

    def ask() -> Credentials:
        found: Credentials = getattr(importlib.import_module(module), name)()
        return found

    return ask


def _usable_domain(domain: str | None) -> str | None:
    """The framework's name of this machine; None, which is the library's own, where no server may be told it."""
    try:
        return None if domain is None else check_ehlo_domain(domain)
    except InvalidInputError:
        return None


# --- URLs ---


def mailer_options(url: str) -> dict[str, Any]:
    """The options of a backend that a URL means, `submission://user:secret@mail.example.com?max_size=8`.

    For Django's MAILERS: `{"BACKEND": ..., "OPTIONS": mailer_options(os.environ["EMAIL_URL"])}`. Raises
    `InvalidInputError`, which never shows the URL.
    """
    found, url = read_url(url), ""  # SEC2
    parsed = known(found)
    options: dict[str, Any] = {}
    if parsed.unix_socket:
        options["unix_socket"] = parsed.unix_socket
    elif len(parsed.hosts) > 1:
        raise InvalidInputError("url: a backend takes one host; several are for a ConnectionPool")
    else:
        options["host"], options["port"] = parsed.hosts[0]
    if parsed.protocol != "smtp":
        options["protocol"] = parsed.protocol
    if parsed.tls_mode is not TlsMode.NONE:
        options["use_ssl" if parsed.tls_mode is TlsMode.IMPLICIT else "use_tls"] = True
    if isinstance(parsed.credentials, PasswordAuth):
        options["username"], options["password"] = parsed.credentials.user, parsed.credentials.revealed().reveal()
    elif parsed.credentials is not None:
        options["credentials"] = parsed.credentials
    return {**options, **_options_of(parsed)}


def _options_of(parsed: ParsedUrl) -> dict[str, Any]:
    options = dict(parsed.options)
    tls: TlsConfig | None = options.pop("tls_config", None)
    limits: Timeouts | None = options.pop("timeout", None)
    if "pipelining" in options:
        options["pipelining"] = options["pipelining"].name.lower()
    if tls is not None:
        options |= {"trust": tls.trust, "server_name": tls.server_name}
        if tls.client_certificate is not None:
            certificate = tls.client_certificate
            pair = certificate if isinstance(certificate, tuple) else (certificate, None)
            options["ssl_certfile"], options["ssl_keyfile"] = pair
    if limits is not None:
        options["timeout"] = limits.total
        changed = {name: value for name, value in limits.to_dict().items() if value != getattr(Timeouts(), name)}
        changed.pop("total", None)
        options |= {"timeouts": changed} if changed else {}
    sizes = {name: value for name, value in parsed.pool_options.items() if name in POOL_OPTIONS}
    return {**options, **({"pool": sizes} if sizes else {})}
