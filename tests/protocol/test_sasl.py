"""Credentials: validated at birth, the right mechanism chosen, and a secret that shows nowhere."""

from __future__ import annotations

import base64
import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest

from smtpconn.protocol.errors import ExtensionUnavailableError, InvalidInputError, UsageError
from smtpconn.protocol.mechanisms import Mechanism
from smtpconn.protocol.sasl import (
    Binding,
    Credentials,
    LoginAuth,
    OAuthBearerAuth,
    PasswordAuth,
    PlainAuth,
    ScramAuth,
    Secret,
    XOAuth2Auth,
    asked,
    choose,
)

from .dialogue import raised, rendered

SCRAM, PLUS = "SCRAM-SHA-256", "SCRAM-SHA-256-PLUS"
SECRET = "S3cret-pencil-horse"
LIMIT = 12_288 // 4 * 3  # octets that fit into a response

MAKERS: dict[str, Callable[[Any], Credentials]] = {
    "PlainAuth": lambda secret: PlainAuth("user", secret),
    "PlainAuth for another": lambda secret: PlainAuth("user", secret, authzid="boss"),
    "LoginAuth": lambda secret: LoginAuth("user", secret),
    "ScramAuth": lambda secret: ScramAuth("user", secret),
    "ScramAuth bound": lambda secret: ScramAuth("user", secret, channel_binding="auto"),
    "PasswordAuth": lambda secret: PasswordAuth("user", secret),
    "XOAuth2Auth": lambda secret: XOAuth2Auth("user", secret),
    "OAuthBearerAuth": lambda secret: OAuthBearerAuth(secret),
    "OAuthBearerAuth with user": lambda secret: OAuthBearerAuth(secret, user="user"),
}
PASSWORDS = [name for name in MAKERS if "OAuth" not in name and "Scram" not in name]
BEARERS = [name for name in MAKERS if "OAuth" in name]
each_class = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS.keys())


def forms(secret: str) -> list[str]:
    """The secret in plain and what base64 of any text around it has in it, at three alignments."""
    octets = secret.encode("utf-8", "surrogatepass")
    found = [secret, repr(secret)[1:-1]]
    for before in range(3):
        text = base64.b64encode(b"\0" * before + octets + b"\0\0").decode()
        found.append(text[4 if before else 0 : (before + len(octets)) // 3 * 4])
    return [form for form in found if len(form) >= 4]


def assert_hidden(shown: str, secret: str) -> None:
    for form in forms(secret):
        assert form not in shown, f"{form!r} shows in: {shown}"


# --- values at birth


@pytest.mark.parametrize("name", PASSWORDS)
@pytest.mark.parametrize(
    "password",
    ["p", "pässwörd", "a\r\nb", "\x01\x7f", " ", "x" * LIMIT, "\U0001f600", "\u00ad"],
    ids=["one", "UTF-8", "F38 CR and LF", "controls", "blank", "IN14 12,288 octets encoded", "astral", "soft hyphen"],
)
def test_what_a_password_may_be_F38_IN14(name: str, password: str) -> None:
    assert MAKERS[name](password).revealed().reveal() == password


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize(
    ("secret", "words"),
    [
        pytest.param("", "must not be empty", id="E37 IN14 V7 empty"),
        pytest.param("hunter2-\0-hunter2", "must ", id="E37 IN14 NUL"),
        pytest.param("hunter2-\ud800", "must be text", id="F49a surrogate"),
        pytest.param("hunter2-" + "x" * LIMIT, "longer than a response of 12288 octets", id="IN14 too long"),
    ],
)
def test_a_secret_that_cannot_be_carried_is_refused_in_constant_words_E37_E107(
    name: str, secret: str, words: str
) -> None:
    for call in (lambda: MAKERS[name](secret), lambda: MAKERS[name](lambda: secret).revealed()):
        error = raised(call)
        assert isinstance(error, InvalidInputError)
        assert words in str(error)
        assert "hunter2" not in rendered(error)
        assert (error.stage, error.permanent, error.scope) == ("input", True, "caller")


@pytest.mark.parametrize("name", BEARERS)
@pytest.mark.parametrize(
    "token",
    ["tok en", "tok\ten", "tok\nen", "tokén", "tok\x01en", "tok\x7fen"],
    ids=["SP", "TAB", "LF", "é", "^A", "DEL"],
)
def test_a_token_is_of_octets_0x21_to_0x7E_E41_IN15(name: str, token: str) -> None:
    error = raised(lambda: MAKERS[name](token))
    assert isinstance(error, InvalidInputError)
    assert_hidden(rendered(error), token)
    assert "0x21 to 0x7E" in str(error)


@pytest.mark.parametrize("name", BEARERS)
def test_a_token_may_be_of_all_of_them_C41(name: str) -> None:
    token = "".join(map(chr, range(0x21, 0x7F)))
    assert MAKERS[name](token).revealed().reveal() == token


@pytest.mark.parametrize("password", ["tab\there-it-is", "\u00ad", "\u0627a-secret"])
def test_scram_refuses_what_saslprep_prohibits_F49a(password: str) -> None:
    error = raised(ScramAuth, "user", password)
    assert isinstance(error, InvalidInputError)
    assert "SASLprep" in str(error)
    assert_hidden(rendered(error), password)
    assert PasswordAuth("user", password).user == "user"  # PLAIN and LOGIN carry it as given


def test_what_only_scram_refuses_is_refused_when_scram_is_chosen() -> None:
    for credentials in (PasswordAuth("user", "tab\there-it-is"), PasswordAuth("tab\tuser", "there-it-is")):
        error = raised(credentials.mechanism, SCRAM, credentials.revealed(), Binding())
        assert isinstance(error, InvalidInputError)
        assert "PlainAuth" in str(error)
        assert_hidden(rendered(error), "there-it-is")


@pytest.mark.parametrize("user", ["", "a\0b", "\ud800", "x" * (LIMIT + 1)], ids=["empty", "NUL", "surrogate", "long"])
@pytest.mark.parametrize(
    "make",
    [
        lambda user: PlainAuth(user, SECRET),
        lambda user: PlainAuth("user", SECRET, authzid=user),
        lambda user: LoginAuth(user, SECRET),
        lambda user: ScramAuth(user, SECRET),
        lambda user: PasswordAuth(user, SECRET),
        lambda user: XOAuth2Auth(user, SECRET),
        lambda user: OAuthBearerAuth(SECRET, user=user),
    ],
    ids=["PLAIN", "authzid", "LOGIN", "SCRAM", "PasswordAuth", "XOAUTH2", "OAUTHBEARER"],
)
def test_a_user_that_cannot_be_carried_is_refused_E37_E51(make: Callable[[str], Credentials], user: str) -> None:
    error = raised(make, user)
    assert isinstance(error, InvalidInputError)
    assert_hidden(rendered(error), SECRET)
    assert "x" * 20 not in str(error)


@pytest.mark.parametrize("user", ["a\x01b", "a\rb", "a\nb"])
def test_a_bearers_user_has_no_separator_E41(user: str) -> None:
    for call in (lambda: XOAuth2Auth(user, SECRET), lambda: OAuthBearerAuth(SECRET, user=user)):
        error = raised(call)
        assert isinstance(error, InvalidInputError)
        assert_hidden(rendered(error), SECRET)


@pytest.mark.parametrize("user", ["tab\t", "\u00ad"])
def test_a_scram_user_is_prepared_F49a(user: str) -> None:
    error = raised(ScramAuth, user, SECRET)
    assert isinstance(error, InvalidInputError)
    assert "SASLprep" in str(error)
    assert_hidden(rendered(error), SECRET)


# --- types


@each_class
@pytest.mark.parametrize("source", [SECRET.encode(), bytearray(SECRET.encode()), [SECRET], {"secret": SECRET}, None, 7])
def test_a_secret_of_another_type_is_a_type_error_and_does_not_show_IN14(
    make: Callable[[Any], Credentials], source: object
) -> None:
    for call in (lambda: make(source), lambda: make(lambda: source).revealed()):
        error = raised(call)
        assert isinstance(error, TypeError)
        assert "must be a str" in str(error)
        assert_hidden(rendered(error), SECRET)


@each_class
def test_a_callable_must_return_a_str_and_not_another_callable(make: Callable[[Any], Credentials]) -> None:
    error = raised(make(lambda: lambda: SECRET).revealed)
    assert isinstance(error, TypeError)
    assert "must return a str" in str(error)


@pytest.mark.parametrize(
    "call",
    [
        lambda: PlainAuth(b"user", SECRET),  # type: ignore[arg-type]
        lambda: PlainAuth("user", SECRET, authzid=7),  # type: ignore[arg-type]
        lambda: LoginAuth(None, SECRET),  # type: ignore[arg-type]
        lambda: ScramAuth(b"user", SECRET),  # type: ignore[arg-type]
        lambda: PasswordAuth(["user"], SECRET),  # type: ignore[arg-type]
        lambda: XOAuth2Auth(None, SECRET),  # type: ignore[arg-type]
        lambda: OAuthBearerAuth(SECRET, user=7),  # type: ignore[arg-type]
        lambda: XOAuth2Auth("user", "token", refresh=SECRET),  # type: ignore[arg-type]
        lambda: OAuthBearerAuth("token", refresh=SECRET),  # type: ignore[arg-type]
        lambda: XOAuth2Auth("user", "token", refresh=SECRET.encode()),  # type: ignore[arg-type]
    ],
)
def test_other_arguments_of_another_type_show_no_secret_either(call: Callable[[], object]) -> None:
    error = raised(call)
    assert isinstance(error, TypeError)
    assert_hidden(rendered(error), SECRET)


@pytest.mark.parametrize("binding", ["tls-unique", "", "TLS-SERVER-END-POINT", 1])
def test_an_unknown_channel_binding_is_refused(binding: Any) -> None:
    error = raised(ScramAuth, "user", SECRET, channel_binding=binding)
    assert isinstance(error, InvalidInputError)
    assert_hidden(rendered(error), SECRET)


class Disguised(str):
    """A str that says other things than it holds (faults 11, V18)."""

    def encode(self, *_: Any, **__: Any) -> bytes:
        return b"\0"

    def __contains__(self, _: object) -> bool:
        return False

    def __str__(self) -> str:
        return "exact"


def test_subclasses_of_str_are_copied_once_V18() -> None:
    credentials = PlainAuth(Disguised("user"), Disguised("pass"))
    assert type(credentials.user) is str
    assert type(credentials.revealed().reveal()) is str


# --- callables


@each_class
def test_a_callable_is_asked_once_for_each_revealing_F42a_E143(make: Callable[[Any], Credentials]) -> None:
    calls: list[int] = []

    def token() -> str:
        calls.append(1)
        return f"token-{len(calls)}"

    credentials = make(token)
    assert calls == []
    assert [credentials.revealed().reveal() for _ in range(2)] == ["token-1", "token-2"]
    assert len(calls) == 2


@each_class
def test_what_a_callable_raises_passes_unchanged_E143(make: Callable[[Any], Credentials]) -> None:
    mine = LookupError("vault is sealed")

    def token() -> str:
        raise mine

    assert raised(make(token).revealed) is mine


def test_refresh_is_kept_for_the_pool_D12() -> None:
    def refresh() -> str:
        return "new"

    assert XOAuth2Auth("user", "old", refresh=refresh).refresh is refresh
    assert OAuthBearerAuth("old", refresh=refresh).refresh is refresh
    assert OAuthBearerAuth("old").refresh is None


# --- hygiene


@each_class
@pytest.mark.parametrize("source", [SECRET, lambda: SECRET], ids=["str", "callable"])
def test_credentials_show_and_copy_no_secret_E150_F49(make: Callable[[Any], Credentials], source: Any) -> None:
    credentials = make(source)
    shown = [repr(credentials), str(credentials), repr(vars(credentials)), repr(credentials.revealed())]
    assert_hidden(" ".join(shown), SECRET)
    assert repr(credentials) == f"{type(credentials).__name__}({credentials.user!r})"
    for way in (pickle.dumps, copy.copy, copy.deepcopy):
        error = raised(way, credentials)
        assert isinstance(error, TypeError)
        assert type(credentials).__name__ in str(error)
        assert_hidden(rendered(error), SECRET)


def test_a_wrapped_secret_shows_and_copies_nothing_SEC1() -> None:
    secret = Secret(SECRET, "password")
    assert repr(secret) == str(secret) == f"{secret}" == "***"
    assert Secret(secret, "password").reveal() == SECRET
    for way in (pickle.dumps, copy.copy, copy.deepcopy):
        assert isinstance(raised(way, secret), TypeError)
    assert isinstance(raised(hash, secret), TypeError)
    assert (secret.is_callable, secret.provider) == (False, None)
    assert not hasattr(secret, "__dict__")


def ask() -> str:
    return SECRET


@pytest.mark.parametrize(
    ("one", "other", "equal"),
    [
        (PlainAuth("u", "p"), PlainAuth("u", "p"), True),
        (PlainAuth("u", "p"), PlainAuth("u", "q"), False),
        (PlainAuth("u", "p"), PlainAuth("v", "p"), False),
        (PlainAuth("u", "p"), PlainAuth("u", "p", authzid="z"), False),
        (PlainAuth("u", "p"), LoginAuth("u", "p"), False),
        (PlainAuth("u", "p"), "PlainAuth('u')", False),
        (PlainAuth("u", ask), PlainAuth("u", ask), True),
        (PlainAuth("u", ask), PlainAuth("u", SECRET), False),
        (ScramAuth("u", "p"), ScramAuth("u", "p"), True),
        (ScramAuth("u", "p"), ScramAuth("u", "p", channel_binding="auto"), False),
        (Secret("p", "password"), Secret("p", "token"), True),
        (Secret("p", "password"), "p", False),
        (OAuthBearerAuth("t"), OAuthBearerAuth("t"), True),
    ],
)
def test_credentials_compare_by_all_they_hold_F49(one: object, other: object, equal: bool) -> None:
    assert (one == other) is equal
    if equal and isinstance(one, Credentials):
        assert hash(one) == hash(other)


def test_a_class_of_ones_own_must_say_its_mechanism() -> None:
    class Own(Credentials):
        names = ("OWN",)

    own = Own("user", SECRET)
    assert choose(own, frozenset({"OWN"}), clear=False, binding=Binding()) == "OWN"
    error = raised(own.mechanism, "OWN", own.revealed(), Binding())
    assert isinstance(error, NotImplementedError)
    assert_hidden(rendered(error), SECRET)


# --- the choice


BOUND = Binding(b"\1" * 32)
UNBOUND = Binding()
PASSWORD = PasswordAuth("u", "p")
AUTO = ScramAuth("u", "p", channel_binding="auto")
DEMANDED = ScramAuth("u", "p", channel_binding="tls-server-end-point")
CHOICES: list[tuple[str, Credentials, str, bool, Binding, str | type[Exception]]] = [
    ("E33", PASSWORD, "PLAIN LOGIN", False, UNBOUND, "PLAIN"),
    ("E33 C34 SCRAM first", PASSWORD, f"LOGIN PLAIN {SCRAM}", False, UNBOUND, SCRAM),
    ("F35 LOGIN last", PASSWORD, "LOGIN", False, UNBOUND, "LOGIN"),
    ("D12 -PLUS only when asked for", PASSWORD, f"PLAIN {SCRAM} {PLUS}", False, BOUND, SCRAM),
    ("E33 only CRAM-MD5", PASSWORD, "CRAM-MD5", False, UNBOUND, ExtensionUnavailableError),
    ("E33 F35 bearers are never chosen", PASSWORD, "XOAUTH2 OAUTHBEARER", False, UNBOUND, ExtensionUnavailableError),
    ("E33 none", PASSWORD, "", False, UNBOUND, ExtensionUnavailableError),
    ("E34", LoginAuth("u", "p"), "PLAIN LOGIN", False, UNBOUND, "LOGIN"),
    ("E34 PLAIN", PlainAuth("u", "p"), "LOGIN", False, UNBOUND, ExtensionUnavailableError),
    ("E43", OAuthBearerAuth("t"), "PLAIN XOAUTH2", False, UNBOUND, ExtensionUnavailableError),
    ("XOAUTH2", XOAuth2Auth("u", "t"), "PLAIN XOAUTH2", False, UNBOUND, "XOAUTH2"),
    ("E140", PASSWORD, "PLAIN LOGIN", True, UNBOUND, UsageError),
    ("E140 SCRAM too", PASSWORD, f"PLAIN LOGIN {SCRAM}", True, UNBOUND, SCRAM),
    ("E140 nothing usable", PASSWORD, "CRAM-MD5", True, UNBOUND, ExtensionUnavailableError),
    ("E141 PLAIN", PlainAuth("u", "p"), "PLAIN", True, UNBOUND, UsageError),
    ("E141 LOGIN", LoginAuth("u", "p"), "LOGIN", True, UNBOUND, UsageError),
    ("E141 XOAUTH2", XOAuth2Auth("u", "t"), "XOAUTH2", True, UNBOUND, UsageError),
    ("E141 OAUTHBEARER", OAuthBearerAuth("t"), "OAUTHBEARER", True, UNBOUND, UsageError),
    ("E141 allowed", PlainAuth("u", "p"), "PLAIN", False, UNBOUND, "PLAIN"),
    ("F49b SCRAM in clear", ScramAuth("u", "p"), SCRAM, True, UNBOUND, SCRAM),
    ("E153 auto", AUTO, f"{SCRAM} {PLUS}", False, BOUND, PLUS),
    ("E153 demanded", DEMANDED, f"{SCRAM} {PLUS}", False, BOUND, PLUS),
    ("E154", AUTO, SCRAM, False, BOUND, SCRAM),
    ("E155 no binding", AUTO, f"{SCRAM} {PLUS}", False, UNBOUND, SCRAM),
    ("E156 without -PLUS", DEMANDED, SCRAM, False, BOUND, ExtensionUnavailableError),
    ("E156 without a binding", DEMANDED, f"{SCRAM} {PLUS}", False, UNBOUND, ExtensionUnavailableError),
    ("E156 None with it", ScramAuth("u", "p"), f"{SCRAM} {PLUS}", False, BOUND, SCRAM),
    ("only -PLUS, None", ScramAuth("u", "p"), PLUS, False, BOUND, ExtensionUnavailableError),
]


@pytest.mark.parametrize(
    ("credentials", "offered", "clear", "binding", "chosen"), [pytest.param(*row[1:], id=row[0]) for row in CHOICES]
)
def test_the_mechanism_chosen_F35_F49b(
    credentials: Credentials, offered: str, clear: bool, binding: Binding, chosen: str | type[Exception]
) -> None:
    names = frozenset(offered.split())
    if isinstance(chosen, str):
        assert choose(credentials, names, clear=clear, binding=binding) == chosen
        return
    error = raised(choose, credentials, names, clear=clear, binding=binding)
    assert type(error) is chosen
    if isinstance(error, ExtensionUnavailableError):
        assert (error.extension, error.scope, error.stage) == ("AUTH", "service", "input")
        assert f"wanted {', '.join(credentials.names)}" in str(error)
        assert f"offered {', '.join(sorted(names)) or 'none'}" in str(error)
        assert ("no channel binding" in str(error)) is (credentials is DEMANDED and PLUS in names)
    else:
        assert "allow_plaintext_auth=True" in str(error)


# --- credentials to exchanges


@pytest.mark.parametrize(
    ("credentials", "name", "binding", "first"),
    [
        pytest.param(PlainAuth("user", "pass"), "PLAIN", UNBOUND, b"\0user\0pass", id="E32"),
        pytest.param(PlainAuth("user", "pass", authzid="b"), "PLAIN", UNBOUND, b"b\0user\0pass", id="F39"),
        pytest.param(PasswordAuth("user", "pass"), "PLAIN", UNBOUND, b"\0user\0pass", id="PasswordAuth by PLAIN"),
        pytest.param(LoginAuth("user", "pass"), "LOGIN", UNBOUND, None, id="F40"),
        pytest.param(PasswordAuth("user", "pass"), "LOGIN", UNBOUND, None, id="PasswordAuth by LOGIN"),
        pytest.param(PasswordAuth("user", "pass"), SCRAM, BOUND, b"n,,n=user,r=", id="PasswordAuth by SCRAM"),
        pytest.param(ScramAuth("I\u00adX", "\u212a"), SCRAM, UNBOUND, b"n,,n=IX,r=", id="E158 prepared"),
        pytest.param(ScramAuth("a,b=c", "p"), SCRAM, BOUND, b"n,,n=a=2Cb=3Dc,r=", id="E48 E156"),
        pytest.param(AUTO, PLUS, Binding(b"x", plus_offered=True), b"p=tls-server-end-point,,n=u,r=", id="E153"),
        pytest.param(AUTO, SCRAM, BOUND, b"y,,n=u,r=", id="E154"),
        pytest.param(AUTO, SCRAM, UNBOUND, b"n,,n=u,r=", id="E155"),
        pytest.param(DEMANDED, PLUS, BOUND, b"p=tls-server-end-point,,n=u,r=", id="E153 demanded"),
        pytest.param(XOAuth2Auth("u", "t"), "XOAUTH2", UNBOUND, b"user=u\1auth=Bearer t\1\1", id="F41"),
        pytest.param(OAuthBearerAuth("t"), "OAUTHBEARER", UNBOUND, b"n,,\1auth=Bearer t\1\1", id="E144 none"),
        pytest.param(
            OAuthBearerAuth("t", user="a,b=c"), "OAUTHBEARER", UNBOUND, b"n,a=a=2Cb=3Dc,\1auth=Bearer t\1\1", id="E144"
        ),
    ],
)
def test_the_first_octets_of_each_exchange(
    credentials: Credentials, name: str, binding: Binding, first: bytes | None
) -> None:
    assert name in credentials.names
    mechanism: Mechanism = credentials.mechanism(name, credentials.revealed(), binding)
    assert mechanism.name == name
    initial = mechanism.start()
    if name.startswith("SCRAM"):
        assert initial is not None
        assert first is not None
        assert initial[: len(first)] == first
        assert len(initial) == len(first) + 32  # F43: 24 random octets
    else:
        assert initial == first


@pytest.mark.parametrize(
    ("credentials", "answer"), [(XOAuth2Auth("u", "t"), b""), (OAuthBearerAuth("t"), b"\1")], ids=["E40", "E42"]
)
def test_the_answer_to_a_bearers_error_C1(credentials: Credentials, answer: bytes) -> None:
    mechanism = credentials.mechanism(credentials.names[0], credentials.revealed(), UNBOUND)
    mechanism.start()
    assert mechanism.respond(b"{}") == answer


@pytest.mark.parametrize("given", [("user", SECRET), SECRET, None], ids=["a pair", "a password", "nothing"])
def test_a_source_is_credentials_or_returns_them_and_anything_else_stays_in_no_frame_SEC2(given: Any) -> None:
    credentials = PlainAuth("user", SECRET)
    assert asked(credentials) is asked(lambda: credentials) is credentials
    with pytest.raises(TypeError, match="must return a credentials object") as refused:
        asked(lambda: given)
    assert SECRET not in rendered(refused.value)
