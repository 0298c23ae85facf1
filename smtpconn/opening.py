"""Everything that stays the same from one connection to the next but the endpoint, and how a transport comes about.

Knows hosts, addresses and dialling; refuses to know SMTP. Every address of a host is tried within one deadline (RFC
5321 section 5.1), none of them may eat it all.
"""

from __future__ import annotations

import functools
import inspect
import socket
import types
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from smtpconn import racing, resolve
from smtpconn.deadline import Budget, Deadline
from smtpconn.finding.domain import DomainSearch
from smtpconn.protocol.address import address_literal, check_ehlo_domain, check_host, exact_text
from smtpconn.protocol.audit import AuditSink
from smtpconn.protocol.errors import ConnectError, InvalidInputError, SmtpTimeoutError, numeral
from smtpconn.protocol.flow import Pipelining
from smtpconn.protocol.policy import SendPolicy
from smtpconn.protocol.sasl import Credentials, PasswordAuth, Secret
from smtpconn.protocol.session import ProtocolName
from smtpconn.resolve import SocketAddress
from smtpconn.tls import TlsConfig, TlsMode
from smtpconn.tls_context import require_ssl
from smtpconn.transport import SocketTransport

Dial = Callable[[str, int, "float | None"], socket.socket]
CredentialsSource = Credentials | tuple[str, str] | Callable[[], Credentials]

_LMTP_FORBIDDEN_PORT = 25  # RFC 2033 section 5


class Endpoint(NamedTuple):
    """A host and a port, or a Unix socket, checked by `endpoint_of`; or a domain whose servers DNS is to find."""

    host: str | None
    port: int | None
    unix_socket: str | None = None
    search: DomainSearch | None = None

    @property
    def name(self) -> str:
        """`host:port`, the path of the socket, or the domain and what is looked for."""
        if self.search is not None:
            return self.search.name
        if self.host is None:
            return self.unix_socket or ""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def endpoint_of(host: object, port: object, unix_socket: object = None, *, protocol: ProtocolName) -> Endpoint:
    """The endpoint that these arguments name (F1, F2). Raises TypeError or `InvalidInputError`."""
    if unix_socket is not None:
        if host is not None or port is not None:
            raise InvalidInputError("unix_socket excludes host and port: give one or the other")
        return Endpoint(None, None, str(resolve.unix_address(unix_socket).sockaddr))  # type: ignore[arg-type]  # checked there
    if host is None:
        raise InvalidInputError("host is needed" + (", or unix_socket" if protocol == "lmtp" else ""))
    if not isinstance(host, str):
        raise TypeError(f"host must be a str, not {type(host).__name__}")
    if isinstance(port, bool) or not isinstance(port, int):
        raise TypeError(f"port must be an int, not {type(port).__name__}")
    if not 1 <= port <= 65_535:
        raise InvalidInputError(f"port must be 1 to 65535: {numeral(port)}")
    if protocol == "lmtp" and port == _LMTP_FORBIDDEN_PORT:
        raise InvalidInputError("port 25 is SMTP's: LMTP must not be spoken there (RFC 2033 section 5)")
    return Endpoint(check_host(host), int.__int__(port))


def endpoints_of(host: object, port: object, unix_socket: object, *, protocol: ProtocolName) -> tuple[Endpoint, ...]:
    """The endpoints of a pool (EP1): one, or several in order of preference. Raises as `endpoint_of`."""
    if isinstance(host, DomainSearch):
        if port is not None or unix_socket is not None:
            raise InvalidInputError("port and unix_socket must not stand beside a search of a domain")
        return (Endpoint(None, None, search=host),)
    if host is None or isinstance(host, str):
        return (endpoint_of(host, port, unix_socket, protocol=protocol),)
    if not isinstance(host, Sequence):
        raise TypeError(f"host must be a str or a sequence of hosts, not {type(host).__name__}")
    if unix_socket is not None:
        raise InvalidInputError("unix_socket excludes host and port: give one or the other")
    found = []
    for entry in host:
        pair = entry if isinstance(entry, tuple) else (entry, port)
        if len(pair) != 2:
            raise InvalidInputError("host: each entry must be a name or (name, port)")
        found.append(endpoint_of(pair[0], pair[1], protocol=protocol))
    if not found:
        raise InvalidInputError("host must name at least one host")
    return tuple(found)


@dataclass(frozen=True, kw_only=True)
class Opening:
    """How to open a connection, whatever the endpoint; validated at birth."""

    protocol: ProtocolName = "smtp"
    tls_mode: TlsMode
    tls_config: TlsConfig | None = None
    credentials: Credentials | Callable[[], Credentials] | None = None
    ehlo_domain: str | None = None
    source_address: tuple[str, int] | None = None
    dial: Dial | None = None
    pipelining: Pipelining = Pipelining.GROUPED
    policy: SendPolicy | None = None
    audit: AuditSink | None = None
    allow_plaintext_auth: bool = False

    def __post_init__(self) -> None:
        if self.protocol not in ("smtp", "lmtp"):
            raise InvalidInputError('protocol must be "smtp" or "lmtp"')
        if not isinstance(self.tls_mode, TlsMode):
            raise TypeError(f"tls_mode must be a TlsMode, not {type(self.tls_mode).__name__}")
        if self.tls_config is not None:
            if not isinstance(self.tls_config, TlsConfig):
                raise TypeError(f"tls_config must be a TlsConfig, not {type(self.tls_config).__name__}")
            if self.tls_mode is TlsMode.NONE:
                raise InvalidInputError(
                    "tls_config (trust, server_name and their like) with TlsMode.NONE would promise what is not done: "
                    "choose another tls_mode, in a URL submission://, smtps:// or ?tls="
                )
        object.__setattr__(self, "credentials", credentials_of(self.credentials))
        if self.ehlo_domain is not None:
            object.__setattr__(self, "ehlo_domain", check_ehlo_domain(self.ehlo_domain))
        object.__setattr__(self, "source_address", _source_address_of(self.source_address))
        if self.dial is not None and not callable(self.dial):
            raise TypeError("dial must be a callable (host, port, timeout) that returns a connected socket")
        if not isinstance(self.pipelining, Pipelining):
            raise TypeError(f"pipelining must be a Pipelining, not {type(self.pipelining).__name__}")
        if not isinstance(self.allow_plaintext_auth, bool):
            raise TypeError(f"allow_plaintext_auth must be a bool, not {type(self.allow_plaintext_auth).__name__}")
        for name, methods in _HOOKS.items():
            _check_hook(name, getattr(self, name), methods)

    @property
    def tls(self) -> TlsConfig:
        """The TLS configuration to use."""
        return self.tls_config if self.tls_config is not None else _DEFAULT_TLS

    @property
    def without_credentials(self) -> Opening:
        """What a connection keeps once it is open (SEC2)."""
        return self if self.credentials is None else replace(self, credentials=None)


_DEFAULT_TLS = TlsConfig()
_HOOKS = {"policy": ("check_sender", "check_recipients", "check_message_size"), "audit": ("on_event",)}


def _check_hook(name: str, hook: object, methods: tuple[str, ...]) -> None:
    """A class that was not called would take its first argument for itself, and fail at the first mail."""
    for method in methods if hook is not None else ():
        if not callable(getattr(hook, method, None)):
            raise TypeError(f"{name} must have a method {method}")
        if isinstance(hook, type) and isinstance(inspect.getattr_static(hook, method), types.FunctionType):
            raise TypeError(f"{name} must be an object, not the class {hook.__name__}: write {hook.__name__}(...)")


def check_name_to_verify(opening: Opening, endpoint: Endpoint) -> None:
    """F112: a Unix socket has no host name that a certificate could be verified for."""
    if endpoint.host is not None or endpoint.search is not None:
        return
    if opening.tls_mode is not TlsMode.NONE and opening.tls.server_name is None:
        raise InvalidInputError("TLS over a Unix socket needs TlsConfig.server_name: there is no host name to verify")


def check_transport(transport: object, opening: Opening) -> None:
    """A given transport must be one, and have what the TLS mode demands: a mode is no wish (D11)."""
    for method in ("send", "recv", "start_tls", "readable", "close"):
        if not callable(getattr(transport, method, None)):
            raise TypeError(f"transport must be a Transport, not {type(transport).__name__}: it has no {method}()")
    if not hasattr(transport, "tls"):
        raise TypeError(f"transport must be a Transport, not {type(transport).__name__}: it has no attribute tls")
    if opening.tls_mode is TlsMode.IMPLICIT and not getattr(transport, "secure", False):
        raise InvalidInputError(
            "TlsMode.IMPLICIT over a given transport needs one that is past its handshake; this one is not secure"
        )
    config = opening.tls_config
    if opening.tls_mode is TlsMode.STARTTLS and (config is None or config.server_name is None):
        raise InvalidInputError("TlsMode.STARTTLS over a given transport needs tls_config with a server_name to verify")


def concealed(given: CredentialsSource | None) -> CredentialsSource | None:
    """The credentials argument with its plain secrets behind `Secret`; the first thing that a public door does (SEC2).

    Never raises: what is wrong with the argument is found by `credentials_of`, in frames that hold no secret.
    """
    if isinstance(given, tuple):
        return tuple(Secret(item, "password") if place else item for place, item in enumerate(given))  # type: ignore[return-value]  # checked later
    known = given is None or isinstance(given, (Credentials, _Misfit)) or callable(given)
    return given if known else _Misfit(type(given).__name__)  # type: ignore[return-value]  # refused later


class _Misfit:
    """What was given for credentials and is none: a password, perhaps, so that only its type is kept."""

    __slots__ = ("kind",)

    def __init__(self, kind: str) -> None:
        self.kind = kind


def credentials_of(given: CredentialsSource | None) -> Credentials | Callable[[], Credentials] | None:
    """The credentials argument: an object, a `(user, password)` pair, a callable that returns an object, or None."""
    hidden: object = concealed(given)
    del given
    if hidden is None or isinstance(hidden, Credentials):
        return hidden
    if isinstance(hidden, tuple) and len(hidden) == 2:
        return PasswordAuth(*hidden)
    if callable(hidden):
        return hidden  # what it returns is checked when it is called
    kind = hidden.kind if isinstance(hidden, _Misfit) else type(hidden).__name__
    raise TypeError(f"credentials must be a credentials object, (user, password) or a callable, not {kind}")


def _source_address_of(given: object) -> tuple[str, int] | None:
    if given is None:
        return None
    if not isinstance(given, tuple) or len(given) != 2 or not isinstance(given[0], str):
        raise TypeError("source_address must be (IP address, port); port 0 lets the system choose")
    host, port = given
    if isinstance(port, bool) or not isinstance(port, int):
        raise TypeError("source_address: the port must be an int")
    if not 0 <= port <= 65_535:
        raise InvalidInputError(f"source_address: port must be 0 to 65535: {numeral(port)}")
    host = exact_text("source_address", host)
    if host:
        address_literal(host, argument="source_address")
    return host, int.__int__(port)


@functools.lru_cache(maxsize=1)
def _own_name() -> str | None:
    """The machine's name if it is a domain with a dot; no DNS is asked (F9a)."""
    try:
        name = check_ehlo_domain(socket.gethostname())
    except (OSError, AttributeError, InvalidInputError):  # AttributeError: a platform without host names
        return None
    return name if "." in name and not name.startswith("[") else None


def ehlo_domain(configured: str | None, local_address: str | None) -> str:
    """What EHLO says: what was configured, the machine's name, or the literal of the socket's own address."""
    if configured is not None:
        return configured
    name = _own_name()
    if name is not None:
        return name
    return address_literal(local_address) if local_address else "localhost"


def transports(opening: Opening, endpoint: Endpoint, budget: Budget, failures: list[str]) -> Iterator[SocketTransport]:
    """Connected transports, one per address that answers, in order; the caller stops when one of them serves.

    What went wrong at an address is appended to `failures`, where the caller appends his own. When all were tried,
    raises the last `ConnectError` (or `SmtpTimeoutError`), which names them.
    """
    if opening.tls_mode is not TlsMode.NONE:
        require_ssl()  # before a server is bothered
    deadline = budget.phase("connect")
    if opening.dial is not None and endpoint.host is not None:
        yield _dialled(opening.dial, endpoint, deadline)
        return
    errors: list[OSError] = []

    def failed(address: SocketAddress, error: OSError) -> None:
        errors.append(error)
        failures.append(f"{address}: {error.strerror or str(error) or 'timed out'}")

    found = _addresses(endpoint, deadline)
    yield from racing.connected(found, deadline, failed, source_address=opening.source_address)
    if errors:
        raise _all_failed(endpoint, failures, errors[-1], deadline) from errors[-1]


def _addresses(endpoint: Endpoint, deadline: Deadline) -> list[SocketAddress]:
    if endpoint.host is None or endpoint.port is None:
        return [resolve.unix_address(endpoint.unix_socket or "")]
    return list(resolve.addresses(endpoint.host, endpoint.port, deadline))


def _all_failed(
    endpoint: Endpoint, failures: list[str], last: Exception, deadline: Deadline
) -> ConnectError | SmtpTimeoutError:
    text = f"connect to {endpoint.name} failed: {'; '.join(failures)}"
    if isinstance(last, TimeoutError) and (deadline.expired or len(failures) == 1):
        return SmtpTimeoutError(text, stage="connect")
    return ConnectError(text)


def _dialled(dial: Dial, endpoint: Endpoint, deadline: Deadline) -> SocketTransport:
    assert endpoint.host is not None
    assert endpoint.port is not None
    try:
        sock = dial(endpoint.host, endpoint.port, deadline.remaining())
    except TimeoutError as error:
        raise SmtpTimeoutError(f"dial to {endpoint.name} timed out", stage="connect") from error
    except OSError as error:
        raise ConnectError(f"dial to {endpoint.name} failed: {error}") from error
    try:
        return SocketTransport.over(sock, host=endpoint.host)
    except InvalidInputError:
        sock.close()
        raise
