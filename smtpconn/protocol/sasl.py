"""Credentials: who, and the secret that proves it; and which mechanism carries it (D12).

Knows what each class of credentials can be used for; the exchanges are in `mechanisms`. Its laws: a secret lives behind
`Secret`, which no repr shows and nothing pickles; the names of plain secrets are dropped before anything can raise
(SEC2); messages about credentials are constants.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Callable
from typing import Any, NoReturn

from smtpconn.protocol.errors import ExtensionUnavailableError, InvalidInputError, UsageError
from smtpconn.protocol.mechanisms import (
    BearerMechanism,
    LoginMechanism,
    Mechanism,
    PlainMechanism,
    ScramMechanism,
    saslname,
    saslprep,
)

SecretSource = str | Callable[[], str]

_RESPONSE_LIMIT = 12_288  # octets in base64 (RFC 4954 section 4)
_TOKEN = re.compile(r"[\x21-\x7e]+")


class Secret:
    """A password or token, or the callable that gives it; shown as `***`, never pickled.

    Construction raises nothing, because the frame that calls it still has the plain secret under a name; a source of
    another type is refused by `require`, behind the `del`.
    """

    __slots__ = ("_name", "_source", "_usable")

    _source: SecretSource

    def __init__(self, source: object, name: str) -> None:
        self._name = name
        self._usable = True
        if isinstance(source, Secret):
            self._source, self._usable = source._source, source._usable
        elif isinstance(source, str):
            self._source = str.__str__(source)  # a subclass may lie, or raise
        elif callable(source):
            self._source = source
        else:
            self._source, self._usable = "", False

    def require(self, *, literal: bool = False) -> None:
        """Raise TypeError for what is neither a str nor (unless `literal`) a callable."""
        if not self._usable:
            raise TypeError(f"{self._name} must be a str or a callable that returns one")
        if literal and self.is_callable:
            raise TypeError(f"the callable for {self._name} must return a str")

    @property
    def is_callable(self) -> bool:
        """True if the secret is asked for at each connect."""
        return callable(self._source)

    @property
    def provider(self) -> Callable[[], str] | None:
        """The callable, or None for a literal."""
        return None if isinstance(self._source, str) else self._source

    def reveal(self) -> str:
        """The secret itself; what the callable raises passes."""
        return self._source if isinstance(self._source, str) else self._source()

    def __repr__(self) -> str:
        return "***"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        mine, theirs = self._source, other._source
        if not isinstance(mine, str) or not isinstance(theirs, str):
            return mine is theirs
        return hmac.compare_digest(mine.encode("utf-8", "surrogatepass"), theirs.encode("utf-8", "surrogatepass"))

    __hash__ = None  # type: ignore[assignment]  # a hash would say something about the secret

    def __reduce__(self) -> NoReturn:
        raise TypeError("secrets are not pickled or copied")

    __copy__ = __reduce__

    def __deepcopy__(self, memo: object) -> NoReturn:
        raise TypeError("secrets are not pickled or copied")


def _fault_of(text: str, forbidden: str) -> str | None:
    if not text:
        return "must not be empty"
    if any(character in text for character in forbidden):
        return "must not have a character that the mechanism cannot carry (NUL; for a bearer mechanism CR, LF, 0x01)"
    try:
        octets = text.encode("utf-8")
    except UnicodeEncodeError:
        return "must be text: it has a lone surrogate"
    if (len(octets) + 2) // 3 * 4 > _RESPONSE_LIMIT:
        return f"must not be longer than a response of {_RESPONSE_LIMIT} octets can carry"
    return None


_SCRAM = "SCRAM-SHA-256"
_SCRAM_PLUS = "SCRAM-SHA-256-PLUS"
_BEARER_FORBIDDEN = "\0\r\n\x01"


def _user_of(user: object, name: str = "user", forbidden: str = "\0") -> str:
    if not isinstance(user, str):
        raise TypeError(f"{name} must be a str, not {type(user).__name__}")
    exact = str.__str__(user)
    fault = _fault_of(exact, forbidden)
    if fault:
        raise InvalidInputError(f"{name} {fault}")
    return exact


def _token_fault(text: str) -> str | None:
    fault = _fault_of(text, "")
    if fault is None and not _TOKEN.fullmatch(text):
        fault = "must be of the octets 0x21 to 0x7E: a bearer token holds no others"
    return fault


def _password_fault(text: str) -> str | None:
    return _fault_of(text, "\0")


def _scram_fault(text: str) -> str | None:
    fault = _fault_of(text, "\0")
    if fault is None and saslprep(text) is None:
        fault = "must be text of which SASLprep (RFC 4013) prohibits nothing, and leaves something"
    return fault


class Credentials:
    """Base of the credential classes: who, and how to prove it. Compares in constant time; never pickled or copied.

    The secret is a str or a callable without arguments, which is asked once for each AUTH (F42a).
    """

    names: tuple[str, ...] = ()  # wire keywords, best first
    _secret_name = "password"  # noqa: S105  # the name of the argument
    _user: str | None = None  # of the class, so that repr works in a constructor that failed

    def __init__(self, user: str | None, secret: SecretSource | Secret) -> None:
        self._secret = Secret(secret, self._secret_name)
        del secret
        self._secret.require()
        self._user = user
        if not self._secret.is_callable:
            self.revealed()

    @property
    def user(self) -> str | None:
        """The user name, or None."""
        return self._user

    def revealed(self) -> Secret:
        """The secret as a literal, checked: a callable is asked, and what it raises passes unchanged."""
        return self._checked(self._secret)

    def _checked(self, source: Secret) -> Secret:
        secret = Secret(source.reveal(), self._secret_name)
        secret.require(literal=True)
        fault = self._fault(secret)
        if fault:
            raise InvalidInputError(f"{self._secret_name} {fault}")
        return secret

    @property
    def is_renewable(self) -> bool:
        """True if asking for the secret again may give another one."""
        return self._secret.is_callable

    def literal(self, *, renewal: bool = False) -> Credentials:
        """The same with the secret as a literal, asked for now; what the callable raises passes unchanged.

        `renewal`: after a refusal (D12), which for some credentials has a source of its own.
        """
        made = object.__new__(type(self))
        made.__dict__.update(self.__dict__)
        made._secret = self._renewed() if renewal else self.revealed()
        return made

    def _renewed(self) -> Secret:
        return self.revealed()

    def digest(self, key: bytes) -> bytes:
        """A keyed digest of who and which literal secret, to know them again without keeping them."""
        parts = (type(self).__name__, repr(self._identity()), self._secret.reveal())
        return hmac.digest(key, "\0".join(parts).encode("utf-8", "surrogatepass"), "sha256")

    def _fault(self, secret: Secret) -> str | None:
        """Why the mechanisms cannot carry the secret: a constant text."""
        return _password_fault(secret.reveal())

    def mechanism(self, name: str, secret: Secret, binding: Binding) -> Mechanism:
        """The exchange for one of `names`."""
        raise NotImplementedError

    def _identity(self) -> tuple[Any, ...]:
        return (self._user,)

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self) or not isinstance(other, Credentials):
            return NotImplemented
        return self._identity() == other._identity() and self._secret == other._secret

    def __hash__(self) -> int:
        return hash((type(self), self._identity()))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._user!r})"

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"{type(self).__name__} is not pickled or copied: it holds a secret")

    def __copy__(self) -> NoReturn:
        self.__reduce__()

    def __deepcopy__(self, memo: object) -> NoReturn:
        self.__reduce__()


def asked(source: Credentials | Callable[[], Credentials]) -> Credentials:
    """The credentials of a source; what a callable raises passes."""
    credentials: object = source if isinstance(source, Credentials) else source()
    if isinstance(credentials, Credentials):
        return credentials
    kind = type(credentials).__name__
    del credentials  # a password in plain, perhaps (SEC2)
    raise TypeError(f"the credentials callable must return a credentials object, not {kind}")


class Binding:
    """What the channel and the server allow for SCRAM: the binding's octets, if any, and what is advertised."""

    __slots__ = ("octets", "plus_offered")

    def __init__(self, octets: bytes | None = None, *, plus_offered: bool = False) -> None:
        self.octets = octets
        self.plus_offered = plus_offered


class PlainAuth(Credentials):
    """AUTH PLAIN (RFC 4616); `authzid` is the identity to act as."""

    names = ("PLAIN",)

    def __init__(self, user: str, password: SecretSource | Secret, *, authzid: str | None = None) -> None:
        secret = Secret(password, "password")
        del password
        super().__init__(_user_of(user), secret)
        self._authzid = None if authzid is None else _user_of(authzid, "authzid")

    def _identity(self) -> tuple[Any, ...]:
        return (self._user, self._authzid)

    def mechanism(self, name: str, secret: Secret, binding: Binding) -> Mechanism:
        """PLAIN."""
        return PlainMechanism(self._user or "", secret.reveal(), self._authzid)


class LoginAuth(Credentials):
    """AUTH LOGIN, for servers that know nothing better."""

    names = ("LOGIN",)

    def __init__(self, user: str, password: SecretSource | Secret) -> None:
        secret = Secret(password, "password")
        del password
        super().__init__(_user_of(user), secret)

    def mechanism(self, name: str, secret: Secret, binding: Binding) -> Mechanism:
        """LOGIN."""
        return LoginMechanism(self._user or "", secret.reveal())


class ScramAuth(Credentials):
    """SCRAM-SHA-256 (RFC 7677): the server never sees the password, and proves that it knows it.

    `channel_binding`: None is plain SCRAM; "tls-server-end-point" demands SCRAM-SHA-256-PLUS; "auto" takes it where the
    server offers it and the certificate allows it.
    """

    names: tuple[str, ...] = (_SCRAM,)

    def __init__(self, user: str, password: SecretSource | Secret, *, channel_binding: str | None = None) -> None:
        secret = Secret(password, "password")
        del password
        if channel_binding not in (None, "auto", "tls-server-end-point"):
            raise InvalidInputError('channel_binding must be None, "auto" or "tls-server-end-point"')
        exact = _user_of(user)
        fault = _scram_fault(exact)
        if fault:
            raise InvalidInputError(f"user {fault}")
        super().__init__(exact, secret)
        self.channel_binding = channel_binding
        if channel_binding is not None:
            self.names = (_SCRAM_PLUS,) if channel_binding == "tls-server-end-point" else (_SCRAM_PLUS, _SCRAM)

    def _identity(self) -> tuple[Any, ...]:
        return (self._user, getattr(self, "channel_binding", None))

    def _fault(self, secret: Secret) -> str | None:
        return _scram_fault(secret.reveal())

    def mechanism(self, name: str, secret: Secret, binding: Binding) -> Mechanism:
        """SCRAM with the gs2 header of RFC 5802 section 6: `p=`, `y` (we could, it is not offered) or `n`."""
        if name == _SCRAM_PLUS:
            gs2 = b"p=tls-server-end-point,,"
        elif self.channel_binding == "auto" and binding.octets is not None and not binding.plus_offered:
            gs2 = b"y,,"
        else:
            gs2 = b"n,,"
        return _scram(self._user or "", secret, gs2, binding)


def _scram(user: str, secret: Secret, gs2: bytes, binding: Binding) -> Mechanism:
    octets = (binding.octets or b"") if gs2.startswith(b"p=") else b""
    return ScramMechanism(saslprep(user) or "", saslprep(secret.reveal()) or "", gs2, octets)


class PasswordAuth(Credentials):
    """A user and a password, by the best mechanism offered: SCRAM-SHA-256, else PLAIN, else LOGIN (D12)."""

    names = (_SCRAM, "PLAIN", "LOGIN")

    def __init__(self, user: str, password: SecretSource | Secret) -> None:
        secret = Secret(password, "password")
        del password
        super().__init__(_user_of(user), secret)

    def mechanism(self, name: str, secret: Secret, binding: Binding) -> Mechanism:
        """The mechanism chosen."""
        if name == "PLAIN":
            return PlainMechanism(self._user or "", secret.reveal(), None)
        if name == "LOGIN":
            return LoginMechanism(self._user or "", secret.reveal())
        fault = _scram_fault(self._user or "") or _scram_fault(secret.reveal())
        if fault:
            raise InvalidInputError(f"user or password {fault}; PlainAuth sends them as given")
        return _scram(self._user or "", secret, b"n,,", binding)


class _BearerAuth(Credentials):
    _secret_name = "token"  # noqa: S105  # the name of the argument

    def __init__(self, user: str | None, token: Secret, refresh: Secret | None) -> None:
        if refresh is not None and refresh.provider is None:  # a token, perhaps
            raise TypeError("refresh must be a callable that returns a token")
        super().__init__(user, token)
        self.refresh = refresh and refresh.provider

    @property
    def is_renewable(self) -> bool:
        """True if asking for the token again may give another one."""
        return self.refresh is not None or super().is_renewable

    def _renewed(self) -> Secret:
        return self.revealed() if self.refresh is None else self._checked(Secret(self.refresh, self._secret_name))

    def _fault(self, secret: Secret) -> str | None:
        return _token_fault(secret.reveal())


class XOAuth2Auth(_BearerAuth):
    """XOAUTH2, as Google and Microsoft speak it.

    `refresh` is asked instead of `token` for the one second try of a pool.
    """

    names = ("XOAUTH2",)

    def __init__(self, user: str, token: SecretSource | Secret, *, refresh: Callable[[], str] | None = None) -> None:
        secret, renewal = Secret(token, "token"), None if refresh is None else Secret(refresh, "refresh")
        del token, refresh
        super().__init__(_user_of(user, forbidden=_BEARER_FORBIDDEN), secret, renewal)

    def mechanism(self, name: str, secret: Secret, binding: Binding) -> Mechanism:
        """XOAUTH2."""
        token = secret.reveal()
        return BearerMechanism(name, f"user={self._user}\x01auth=Bearer {token}\x01\x01", token, b"")


class OAuthBearerAuth(_BearerAuth):
    """OAUTHBEARER (RFC 7628)."""

    names = ("OAUTHBEARER",)

    def __init__(
        self, token: SecretSource | Secret, *, user: str | None = None, refresh: Callable[[], str] | None = None
    ) -> None:
        secret, renewal = Secret(token, "token"), None if refresh is None else Secret(refresh, "refresh")
        del token, refresh
        super().__init__(None if user is None else _user_of(user, forbidden=_BEARER_FORBIDDEN), secret, renewal)

    def mechanism(self, name: str, secret: Secret, binding: Binding) -> Mechanism:
        """OAUTHBEARER."""
        token = secret.reveal()
        header = "n,," if self._user is None else f"n,a={saslname(self._user)},"
        return BearerMechanism(name, f"{header}\x01auth=Bearer {token}\x01\x01", token, b"\x01")


SAFE_WITHOUT_TLS = frozenset({_SCRAM, _SCRAM_PLUS})


def choose(credentials: Credentials, offered: frozenset[str], *, clear: bool, binding: Binding) -> str:
    """The mechanism to use (F35): the first of the credential's that is offered and allowed.

    `clear`: the connection has no TLS and the caller did not allow passwords on it (D12). Raises
    `ExtensionUnavailableError`, or `UsageError` where only the missing TLS excludes what is offered.
    """
    usable = [
        name for name in credentials.names if name in offered and (name != _SCRAM_PLUS or binding.octets is not None)
    ]
    for name in usable:
        if not clear or name in SAFE_WITHOUT_TLS:
            return name
    if usable:
        remedy = "use TLS, or pass allow_plaintext_auth=True"
        raise UsageError(
            f"{usable[0]} would show the secret on a connection without TLS: {remedy}", extension="AUTH"
        )
    wanted, there = ", ".join(credentials.names), ", ".join(sorted(offered)) or "none"
    text = f"no mechanism of AUTH in common: wanted {wanted}; offered {there}"
    if _SCRAM_PLUS in offered.intersection(credentials.names):
        text += "; there is no channel binding on this connection"
    raise ExtensionUnavailableError(text, extension="AUTH", detail=", ".join(sorted(offered)) or None)
