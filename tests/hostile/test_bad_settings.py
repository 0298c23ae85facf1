"""What is wrong with how a connection or a pool is made, and with credentials and limits (faults.md 11: IN1 to IN5,
IN14, IN15, IN20 to IN24).

Nothing is dialled, no transport hears an octet, no secret is shown; what was there before goes on serving.
"""

from __future__ import annotations

import copy
import functools
import pickle
import socket
import warnings
from collections.abc import Callable
from typing import Any

import pytest

from smtpconn import (
    BoundedPolicy,
    ConnectionPool,
    LoginAuth,
    Mail,
    OAuthBearerAuth,
    PasswordAuth,
    PlainAuth,
    ScramAuth,
    SmtpConnection,
    SmtpError,
    Timeouts,
    TlsConfig,
    TlsMode,
    UsageError,
    XOAuth2Auth,
)
from smtpconn.oneshot import SendConfig, send_once

from ..protocol.dialogue import rendered
from .subjects import (
    BODY,
    NO_NUMBERS,
    NUMBER_TRAPS,
    ONE,
    SENDER,
    Lines,
    Lying,
    Row,
    Subject,
    by_door,
    connection_over,
    pool_over,
    refusal_of,
    rows,
    texts,
    wrong_types,
)

Value = tuple[str, Any, str]
NONE = TlsMode.NONE
PLAIN: dict[str, Any] = {"port": 2525, "tls_mode": NONE, "timeout": 5}


def no_dial(host: str, port: int, timeout: float | None) -> socket.socket:
    raise AssertionError(f"{host}:{port} was dialled")


def never(opening: Any, endpoint: Any, budget: Any) -> SmtpConnection:
    raise AssertionError("a pool opened a connection")


def connect(**options: Any) -> object:
    given = {"host": "mx.example.com", "dial": no_dial, **PLAIN, **options}
    return SmtpConnection.connect(given.pop("host"), given.pop("port"), given.pop("tls_mode"), **given)


def connect_lmtp(**options: Any) -> object:
    given = {"host": "mx.example.com", "dial": no_dial, **PLAIN, **options}
    return SmtpConnection.connect_lmtp(given.pop("host"), given.pop("port"), given.pop("tls_mode"), **given)


def from_transport(**options: Any) -> object:
    """The transport hears nothing and stays open, for it was an argument that was refused."""
    lines = Lines()
    given = {"tls_mode": NONE, "timeout": 5, **options}
    transport = given.pop("transport", None) or lines.transport()
    try:
        return SmtpConnection.from_transport(transport, **given)
    finally:
        assert not [each for each in lines.opened if each.written or each.closed]


class Pool(ConnectionPool):
    _system = ConnectionPool._system._replace(connector=never)


def pool(**options: Any) -> object:
    given = {"host": "mx.example.com", **PLAIN, **options}
    return Pool(given.pop("host"), given.pop("port"), given.pop("tls_mode"), **given)


def config(**options: Any) -> object:
    return SendConfig(**{"host": "mx.example.com", "port": 2525, "tls_mode": NONE, **options})


MAKERS: dict[str, Callable[..., object]] = {
    "connect": connect, "connect_lmtp": connect_lmtp, "from_transport": from_transport, "pool": pool, "config": config,
}  # fmt: skip
NETWORK = ("connect", "connect_lmtp", "pool", "config")
OPENERS = ("connect", "connect_lmtp", "from_transport", "pool")


def made_with(listed: list[Row], argument: str) -> None:
    for row in listed:
        refusal_of(row, lambda: MAKERS[row.door](**{argument: row.value}))  # noqa: B023  # called at once


# --- IN1 to IN5 -------------------------------------------------------------------------------------------------------

HOST: list[Value] = [
    *texts(lambda inside: f"mx{inside}a.example.com"),
    ("V16 a label of 64 octets", "x" * 64 + ".example", "E"),
    ("V16 254 octets", ("x" * 49 + ".") * 5 + "xxxx", "E"),
    ("V16 100,000 octets", "x" * 100_000, "E"),
    ("a number that resolvers read as an address", "127.1", "E"),
    ("hexadecimal digits", "0x7f.1", "E"),
    ("AK4 KELVIN SIGN", "\u212a.example", "E"),
    ("AK4 ONE DOT LEADER", "mx\u2024example", "E"),
    ("AK4 full width", "\uff4dx.example", "E"),
    ("AK4 sharp s", "fa\u00df.de", "E"),
    ("in brackets", "[127.0.0.1]", "E"),
    ("a port behind it", "mx.example:25", "E"),
    ("a user in front of it", "user@mx.example", "E"),
    ("a zone", "fe80::1%lo", "E"),
    ("two dots behind it", "mx.example..", "E"),
    ("a dot in front of it", ".mx.example", "E"),
    ("a hyphen in front of a label", "-mx.example", "E"),
]
HOST_TYPES = list(wrong_types("V17 None", "V17 list"))
IN1 = [
    *rows(NETWORK, HOST, "host"),
    *rows(("connect", "connect_lmtp", "config"), [*HOST_TYPES, ("V17 list", ["mx"], "T")], "host"),
    *rows(("pool",), HOST_TYPES, "host"),
    *rows(NETWORK, [("V17 None", None, "E")], "host"),
]


@pytest.mark.parametrize("listed", by_door(IN1))
def test_IN1_SEC9_a_hostile_host(listed: list[Row]) -> None:
    """faults:AK1, AK4: no DNS is asked."""
    made_with(listed, "host")


SEARCHES = ("SmtpConnection.from_domain", "ConnectionPool.from_domain")


def search(row: Row, **options: Any) -> BaseException:
    """What a `from_domain` says to the row's value; a resolver that is asked would fail the test."""
    kind: Any = SmtpConnection if row.door == SEARCHES[0] else Pool
    given = {"domain": "example.com", "timeout": 5, "resolver": object(), **options}
    return refusal_of(row, lambda: kind.from_domain(given.pop("domain"), **given))


DOMAIN: list[Value] = [*HOST, ("an address", "192.0.2.1", "E"), ("an IPv6 address", "2001:db8::1", "E"), *HOST_TYPES]


@pytest.mark.parametrize("listed", by_door(rows(SEARCHES, [*DOMAIN, ("V17 None", None, "T")], "domain")))
def test_IN1_SEC9_a_hostile_domain(listed: list[Row]) -> None:
    for row in listed:
        search(row, domain=row.value)


@pytest.mark.parametrize("argument", ["expected", "own_names"])
def test_IN1_SEC9_a_hostile_name_among_those_that_a_caller_vouches_for(argument: str) -> None:
    for row in rows(SEARCHES, [*HOST, ("V17 None", None, "T"), *HOST_TYPES, ("a star", "*", "E")], argument):
        search(row, **{argument: [row.value]})
    for row in rows(SEARCHES, [("V17 str", "mx.example.com", "T"), ("V17 int", 5, "T")], argument):
        search(row, **{argument: row.value})


@pytest.mark.parametrize(
    ("argument", "values"),
    [
        ("service", [("other", "imap", "E"), ("V17 int", 5, "E"), ("V17 None", None, "E"), ("V17 list", [], "E")]),
        ("dane", [("other", "off", "E"), ("V17 bool", True, "E"), ("V17 None", None, "E"), ("V17 list", [], "E")]),
        ("validating", [("V20 int", 1, "T"), ("V17 str", "yes", "T")]),
        ("tls_mode", [("V17 str", "NONE", "T"), ("V17 bool", False, "T"), ("in the clear", TlsMode.NONE, "E")]),
    ],
)
def test_IN24_an_option_of_a_search_that_is_none(argument: str, values: list[Value]) -> None:
    for row in rows(SEARCHES, values, argument):
        search(row, **{argument: row.value})


SERVER_NAMES = [*HOST, *wrong_types("V17 None")]


def test_IN1_SEC9_TC12_a_hostile_name_to_verify() -> None:
    for row in rows(["TlsConfig"], SERVER_NAMES, "server_name"):
        refusal_of(row, lambda: TlsConfig(server_name=row.value))  # noqa: B023  # called at once


@pytest.mark.parametrize("shape", ["in a list", "in a pair"])
def test_IN1_a_hostile_host_among_those_of_a_pool(shape: str) -> None:
    for row in rows([shape], [*HOST, *HOST_TYPES, ("V17 list", ["mx"], "T")], "host"):
        hosts = ["good.example", row.value if shape == "in a list" else (row.value, 25)]
        refusal_of(row, lambda: pool(host=hosts))  # noqa: B023  # called at once


@pytest.mark.parametrize("hosts", [[], (), [("mx", 25, 5)], [("mx",)]], ids=repr)
def test_IN1_hosts_of_a_pool_that_are_none(hosts: Any) -> None:
    refusal_of(Row("pool", repr(hosts), hosts, "E", "host"), lambda: pool(host=hosts))


PORT: list[Value] = [
    *((name, value, "E") for name, value in NUMBER_TRAPS.items()),
    ("V20 zero", 0, "E"),
    ("V16 65536", 65_536, "E"),
    *((name, value, "T") for name, value in NO_NUMBERS.items()),
    ("V20 float", 25.0, "T"),
    ("V20 NaN", float("nan"), "T"),
    ("V17 None", None, "T"),
]


@pytest.mark.parametrize("listed", by_door(rows(NETWORK, PORT, "port")))
def test_IN2_a_hostile_port(listed: list[Row]) -> None:
    made_with(listed, "port")


def test_IN2_a_hostile_port_of_MX_hosts() -> None:
    for row in rows(SEARCHES, PORT, "port"):
        search(row, service="mx", port=row.value)


@pytest.mark.parametrize("row", rows(["pool"], PORT[:6], "port"), ids=lambda row: row.value_id)
def test_IN2_a_hostile_port_among_those_of_a_pool(row: Row) -> None:
    refusal_of(row, lambda: pool(host=[("mx.example.com", row.value)]))


@pytest.mark.parametrize(
    "call",
    [
        lambda: connect_lmtp(port=25),
        lambda: pool(port=25, protocol="lmtp"),
        lambda: config(port=25, protocol="lmtp"),
        lambda: SmtpConnection.from_url("lmtp://mx.example.com:25", timeout=5),
    ],
)
def test_IN2_port_25_is_not_for_lmtp(call: Callable[[], object]) -> None:
    refusal_of(Row("lmtp", "25", 25, "E", "port 25"), call)


UNIX: list[Value] = [
    ("V4 NUL", "/run/a\0b", "E"),
    ("V9 surrogate", "/run/\ud800", "E"),
    ("V10 U+760D", "/run/\u760d", "E"),
    ("V10 U+010A", "/run/\u010a", "E"),
    ("V14 empty", "", "E"),
    ("V16 108 octets", "/" + "x" * 107, "E"),
    ("V16 108 octets in 54 letters", "\u00e9" * 54, "E"),
    ("V17 int", 5, "T"),
    ("V17 bool", True, "T"),
    ("V17 bytes", b"/run/x", "T"),
    ("V17 list", ["/run/x"], "T"),
]


@pytest.mark.parametrize("listed", by_door(rows(("connect_lmtp", "pool"), UNIX, "unix_socket")))
def test_IN3_a_hostile_unix_socket(listed: list[Row]) -> None:
    for row in listed:
        given = {"unix_socket": row.value, "host": None, "port": None, "dial": None, "protocol": "lmtp"}
        if row.door == "connect_lmtp":
            del given["protocol"]
        refusal_of(row, lambda: MAKERS[row.door](**given))  # noqa: B023  # called at once


@pytest.mark.parametrize("door", ["connect_lmtp", "pool"])
def test_IN3_a_unix_socket_and_a_host_exclude_each_other(door: str) -> None:
    row = Row(door, "both", None, "E", "unix_socket")
    refusal_of(row, lambda: MAKERS[door](unix_socket="/run/x"))
    refusal_of(row, lambda: MAKERS[door](unix_socket="/run/x", host=None))


SOURCE: list[Value] = [
    *((f"address {name}", (value, 0), code) for name, value, code in texts(lambda i: f"127.0.{i}0.1", V14="-")),
    ("a name", ("localhost", 0), "E"),
    ("octal digits", ("0127.0.0.1", 0), "E"),
    ("V20 port -1", ("127.0.0.1", -1), "E"),
    ("V20 port of 5,000 digits", ("127.0.0.1", 10**5_000), "E"),
    ("V16 port 65536", ("127.0.0.1", 65_536), "E"),
    ("V17 a port of str", ("127.0.0.1", "0"), "T"),
    ("V20 a port of bool", ("127.0.0.1", True), "T"),
    ("V17 an address of bytes", (b"127.0.0.1", 0), "T"),
    ("V17 a list", ["127.0.0.1", 0], "T"),
    ("V17 one thing", ("127.0.0.1",), "T"),
    ("V17 three things", ("127.0.0.1", 0, 0), "T"),
    ("V17 str", "127.0.0.1", "T"),
    ("V17 int", 5, "T"),
]


@pytest.mark.parametrize("listed", by_door(rows(("connect", "connect_lmtp", "pool"), SOURCE, "source_address")))
def test_IN4_a_hostile_source_address(listed: list[Row]) -> None:
    made_with(listed, "source_address")


EHLO: list[Value] = [
    *texts(lambda inside: f"client{inside}a.example"),
    ("V16 256 octets", "x." * 128 + "x", "E"),
    ("V16 a label of 64 octets", "x" * 64, "E"),
    ("a literal that is none", "[300.1.1.1]", "E"),
    ("a literal with a command", "[127.0.0.1]\r\nMAIL", "E"),
    ("a literal that is not closed", "[127.0.0.1", "E"),
    ("an address without brackets", "::1", "E"),
    *wrong_types("V17 None"),
]


@pytest.mark.parametrize("listed", by_door(rows((*OPENERS, "config"), EHLO, "ehlo_domain|address literal")))
def test_IN5_AK1_a_hostile_ehlo_domain(listed: list[Row]) -> None:
    """GHSA-vvjj-xcjg-gr5g."""
    made_with(listed, "ehlo_domain")


@pytest.mark.parametrize("owner", ["connection", "lease"])
def test_IN5_AK1_a_hostile_domain_for_the_next_hello(owner: str) -> None:
    """The lease's connection goes back to its pool all the same."""
    subject = Subject("smtp")
    for row in rows([f"{owner}.set_ehlo_domain"], [*EHLO, ("V17 None", None, "T")], "ehlo_domain"):
        refusal_of(row, lambda: getattr(subject, owner).set_ehlo_domain(row.value))  # noqa: B023  # called at once
    subject.is_untouched("E")
    subject.serves()


# --- IN14, IN15: credentials ------------------------------------------------------------------------------------------

SECRET = "hunter2-"  # stands in each of the passwords and tokens, and in no error
PASSWORD: list[Value] = [
    ("V4 NUL", SECRET + "\0", "E"),
    ("V9 surrogate", SECRET + "\ud800", "E"),
    ("V14 empty", "", "E"),
    ("V16 12,289 octets", SECRET + "x" * 12_289, "E"),
    ("V17 None", None, "T"),
    ("V17 int", 5, "T"),
    ("V17 bool", True, "T"),
    ("V17 bytes", SECRET.encode(), "T"),
    ("V17 list", [SECRET], "T"),
]
SCRAM_PASSWORD: list[Value] = [*PASSWORD, ("V5 ESC", SECRET + "\x1b", "E"), ("V1 CRLF", SECRET + "\r\n", "E"),
                               ("soft hyphens", "\u00ad", "E")]  # fmt: skip
TOKEN: list[Value] = [
    *(entry for entry in texts(lambda inside: f"{SECRET}{inside}t", V12="-")),
    ("V1 0x01", SECRET + "\x01", "E"),
    *PASSWORD,
]
TOKEN = list({name: (name, value, code) for name, value, code in TOKEN}.values())
USER: list[Value] = [
    ("V4 NUL", "u\0", "E"),
    ("V9 surrogate", "u\ud800", "E"),
    ("V14 empty", "", "E"),
    ("V16 12,289 octets", "x" * 12_289, "E"),
    *wrong_types(),
]
BEARER_USER = [*USER, ("V1 CRLF", "u\r\n", "E"), ("V5 SOH", "u\x01", "E")]
AUTHS: dict[str, tuple[str, Callable[[Any, Any], object], list[Value], list[Value]]] = {
    "auth_plain": ("password", lambda u, p: PlainAuth(u, p), PASSWORD, USER),
    "auth_login": ("password", lambda u, p: LoginAuth(u, p), PASSWORD, USER),
    "auth_scram": ("password", lambda u, p: ScramAuth(u, p), SCRAM_PASSWORD, USER),
    "auth_xoauth2": ("token", lambda u, p: XOAuth2Auth(u, p), TOKEN, BEARER_USER),
    "auth_oauthbearer": ("token", lambda u, p: OAuthBearerAuth(p, user=u), TOKEN, BEARER_USER[:-8]),
}


def authenticate(connection: Any, verb: str, user: Any, secret: Any, **options: Any) -> object:
    if verb == "auth_oauthbearer":
        return connection.auth_oauthbearer(secret, user=user, timeout=5, **options)
    return getattr(connection, verb)(user, secret, timeout=5, **options)


def shows_no_secret(error: BaseException, row: Row) -> None:
    """SEC2, SEC3: nor does any frame of ours."""
    shown = rendered(error)
    assert "self:" in shown or "self" in shown or row.code == "T", "no frame of ours was seen"
    assert SECRET not in shown, row.id


@pytest.mark.parametrize("owner", ["connection", "lease"])
@pytest.mark.parametrize("verb", AUTHS)
def test_IN14_IN15_a_hostile_secret(verb: str, owner: str) -> None:
    """faults:SEC2, SEC3, AK17."""
    name, make, values, _ = AUTHS[verb]
    subject = Subject("smtp")
    for row in rows([f"{owner}.{verb}"], values, name):
        error = refusal_of(row, lambda: authenticate(getattr(subject, owner), verb, "u", row.value))  # noqa: B023
        shows_no_secret(error, row)
        shows_no_secret(refusal_of(row, lambda: make("u", row.value)), row)  # noqa: B023  # called at once
    subject.is_untouched("E")
    subject.serves()


@pytest.mark.parametrize("owner", ["connection", "lease"])
@pytest.mark.parametrize("verb", AUTHS)
def test_IN14_IN15_a_callable_that_gives_a_hostile_secret(verb: str, owner: str) -> None:
    """features:F42a: asked once, refused before AUTH is written."""
    name, _, values, _ = AUTHS[verb]
    subject = Subject("smtp")
    subject.lines.extensions = (*subject.lines.extensions[:-1], "AUTH PLAIN LOGIN XOAUTH2 OAUTHBEARER SCRAM-SHA-256")
    for row in rows([f"{owner}.{verb}"], values, name):
        asked: list[Any] = []

        def source(row: Row = row, asked: list[Any] = asked) -> Any:
            asked.append(row.value)
            return row.value

        error = refusal_of(row, lambda: authenticate(getattr(subject, owner), verb, "u", source))
        shows_no_secret(error, row)
        assert len(asked) == 1
    assert subject.lines.told == b""
    if owner == "connection":
        subject.serves()
    else:
        subject.close_all()


@pytest.mark.parametrize("owner", ["connection", "lease"])
@pytest.mark.parametrize("verb", AUTHS)
def test_IN14_IN15_a_hostile_user(verb: str, owner: str) -> None:
    _, make, _, values = AUTHS[verb]
    subject = Subject("smtp")
    for row in rows([f"{owner}.{verb}"], values, "user"):
        if verb == "auth_oauthbearer" and row.value is None:
            continue
        error = refusal_of(row, lambda: authenticate(getattr(subject, owner), verb, row.value, SECRET))  # noqa: B023
        shows_no_secret(error, row)
        refusal_of(row, lambda: make(row.value, SECRET))  # noqa: B023  # called at once
    subject.is_untouched("E")
    subject.serves()


@pytest.mark.parametrize("owner", ["connection", "lease"])
def test_IN14_a_hostile_authzid(owner: str) -> None:
    subject = Subject("smtp")
    for row in rows([f"{owner}.auth_plain"], [entry for entry in USER if entry[1] is not None], "authzid"):
        plain = getattr(subject, owner).auth_plain
        refusal_of(row, lambda: plain("u", SECRET, authzid=row.value, timeout=5))  # noqa: B023  # called at once
        refusal_of(row, lambda: PlainAuth("u", SECRET, authzid=row.value))  # noqa: B023  # called at once
    subject.is_untouched("E")
    subject.serves()


class LyingSecret(str):
    def __str__(self) -> str:
        raise AssertionError(f"the secret {SECRET} was asked how it looks")


def test_V18_a_secret_that_lies_is_taken_for_what_it_is_made_of() -> None:
    """faults:IN14: `Secret` raises nothing, whatever it is given, for its caller still has the secret under a name."""
    for make in (PlainAuth, LoginAuth, ScramAuth, XOAuth2Auth, PasswordAuth):
        made = make("u", LyingSecret("token"))
        assert made == make("u", "token")
        assert type(made.revealed().reveal()) is str
        assert make(Lying("user"), "token").user == "user"
    assert type(PlainAuth("u", "p", authzid=Lying("z"))._identity()[1]) is str
    assert PlainAuth("u", "p", authzid=Lying("z")) == PlainAuth("u", "p", authzid="z")


CREDENTIALS: list[Value] = [
    ("V17 int", 5, "T"),
    ("V17 str", "user:" + SECRET, "T"),
    ("V17 bytes", SECRET.encode(), "T"),
    ("V17 list", ["u", SECRET], "T"),
    ("V17 one thing", ("u",), "T"),
    ("V17 three things", ("u", SECRET, SECRET), "T"),
    ("V17 a user of int", (5, SECRET), "T"),
    ("V17 a password of bytes", ("u", SECRET.encode()), "T"),
    ("V17 a password of None", ("u", None), "T"),
    ("V14 no user", ("", SECRET), "E"),
    ("V4 a NUL in the user", ("u\0", SECRET), "E"),
    ("V14 no password", ("u", ""), "E"),
    ("V4 a NUL in the password", ("u", SECRET + "\0"), "E"),
]


@pytest.mark.parametrize("listed", by_door(rows(OPENERS, CREDENTIALS, "credentials|user|password")))
def test_IN24_hostile_credentials(listed: list[Row]) -> None:
    """faults:SEC2, AK17."""
    for row in listed:
        error = refusal_of(row, lambda: MAKERS[row.door](credentials=row.value))  # noqa: B023  # called at once
        shows_no_secret(error, row)


@pytest.mark.parametrize("owner", ["connection", "lease"])
def test_IN24_hostile_credentials_of_the_verb(owner: str) -> None:
    subject = Subject("smtp")
    for row in rows([owner], [*CREDENTIALS, ("V17 None", None, "T")], "credentials|user|password"):
        error = refusal_of(row, lambda: getattr(subject, owner).auth(row.value, timeout=5))  # noqa: B023
        shows_no_secret(error, row)
    subject.is_untouched("E")
    subject.serves()


# --- IN20: timeouts ---------------------------------------------------------------------------------------------------

TIMEOUT: list[Value] = [
    *((name, value, "E") for name, value in NUMBER_TRAPS.items()),
    ("V20 zero", 0, "E"),
    ("V20 minus zero", -0.0, "E"),
    ("V20 NaN", float("nan"), "E"),
    ("V20 infinite", float("inf"), "E"),
    ("V20 minus infinite", float("-inf"), "E"),
    ("V20 1e400", 1e400, "E"),
    ("V16 1e10", 1e10, "E"),
    *((name, value, "T") for name, value in NO_NUMBERS.items()),
    ("V17 tuple", (5, 5), "T"),
]
NO_TIMEOUT: Value = ("V17 None", None, "T")
VERBS: dict[str, tuple[Any, ...]] = {
    "send": (SENDER, [ONE], BODY), "send_bdat": (SENDER, [ONE], BODY), "send_lmtp": (SENDER, [ONE], BODY),
    "send_lmtp_bdat": (SENDER, [ONE], BODY), "send_many": ([Mail(SENDER, [ONE], BODY)],), "vrfy": ("x",),
    "expn": ("x",), "help": (), "noop": (), "reset": (), "rehlo": (), "quit": (), "auth": (("u", "p"),),
    "auth_plain": ("u", "p"), "auth_login": ("u", "p"), "auth_scram": ("u", "p"), "auth_xoauth2": ("u", "t"),
    "auth_oauthbearer": ("t",),
}  # fmt: skip
POOL_VERBS = ("send", "send_bdat", "send_many", "vrfy", "expn", "help", "noop")


@pytest.mark.parametrize("owner", ["connection", "lease", "pool"])
@pytest.mark.parametrize("verb", VERBS)
def test_IN20_NN11_a_hostile_timeout(verb: str, owner: str) -> None:
    """On a pool and a lease None is the pool's own."""
    if owner == "pool" and verb not in POOL_VERBS:
        assert not hasattr(ConnectionPool, verb)
        return
    subject = Subject("lmtp" if "lmtp" in verb else "smtp")
    for row in rows([f"{owner}.{verb}"], [*TIMEOUT, *[NO_TIMEOUT] * (owner == "connection")], "timeout"):
        error = refusal_of(row, lambda: getattr(getattr(subject, owner), verb)(*VERBS[verb], timeout=row.value))  # noqa: B023
        if isinstance(error, SmtpError) and verb.startswith("send") and verb != "send_many":
            assert [entry.address for entry in error.recipients] == [ONE], row.id
    subject.is_untouched("E")
    subject.serves()


@pytest.mark.parametrize("listed", by_door(rows(OPENERS, TIMEOUT, "timeout")))
def test_IN20_NN11_a_hostile_timeout_of_an_opening(listed: list[Row]) -> None:
    made_with(listed, "timeout")


@pytest.mark.parametrize("field", Timeouts.__dataclass_fields__)
def test_IN20_NN11_a_hostile_limit_of_a_phase(field: str) -> None:
    values = TIMEOUT if field in ("total", "final_reply") else [*TIMEOUT, NO_TIMEOUT]
    for row in rows([f"Timeouts.{field}"], values, rf"Timeouts\.{field}\b"):
        refusal_of(row, lambda: Timeouts(**{field: row.value}))  # noqa: B023  # called at once


@pytest.mark.parametrize("call", ["connection", "maintain", "close"])
def test_IN20_NN11_a_hostile_timeout_of_the_pool_itself(call: str) -> None:
    subject = Subject("smtp")
    values = [entry for entry in TIMEOUT if call == "maintain" or "zero" not in entry[0]]
    for row in rows([f"pool.{call}"], values, "timeout"):
        refusal_of(row, lambda: getattr(subject.pool, call)(timeout=row.value))  # noqa: B023  # called at once
    subject.is_untouched("E")
    subject.serves()


def test_IN20_a_limit_of_more_than_a_day_is_taken_with_a_warning() -> None:
    with pytest.warns(UserWarning, match="is the unit right"):
        Timeouts(total=86_401)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert Timeouts(total=86_400).total == 86_400


# --- IN21: the numbers of a pool --------------------------------------------------------------------------------------

WHOLE: list[Value] = [
    *((name, value, "E") for name, value in NUMBER_TRAPS.items() if not name.endswith("a number of 5,000 digits")),
    *((name, value, "T") for name, value in NO_NUMBERS.items()),
    ("V20 float", 5.0, "T"),
    ("V20 NaN", float("nan"), "T"),
    ("V20 infinite", float("inf"), "T"),
]
ZERO: Value = ("V20 zero", 0, "E")
HUGE: Value = ("V20 a number of 5,000 digits", 10**5_000, "E")
POOL_NUMBERS: dict[str, list[Value]] = {
    "max_size": [*WHOLE, ZERO, NO_TIMEOUT],
    "min_size": [*WHOLE, NO_TIMEOUT, ("V16 above max_size", 5, "E"), HUGE],
    "max_connecting": [*WHOLE, ZERO, NO_TIMEOUT],
    "max_waiting": WHOLE,
    "max_messages": [*WHOLE, ZERO],
    "acquire_timeout": [*TIMEOUT, NO_TIMEOUT],
    "max_idle": TIMEOUT,
    "max_age": TIMEOUT,
    "probe_after": [entry for entry in TIMEOUT if "zero" not in entry[0]],
}


@pytest.mark.parametrize("field", POOL_NUMBERS)
def test_IN21_a_hostile_number_of_a_pool(field: str) -> None:
    for row in rows(["pool"], POOL_NUMBERS[field], field):
        refusal_of(row, lambda: pool(**{field: row.value}))  # noqa: B023  # called at once


@pytest.mark.parametrize("field", ["max_size", "min_size"])
def test_IN21_a_hostile_size_for_a_pool_that_lives(field: str) -> None:
    subject = Subject("smtp")
    before = subject.pool.stats()
    for row in rows(["pool.resize"], [entry for entry in POOL_NUMBERS[field] if entry[1] is not None], field):
        refusal_of(row, lambda: subject.pool.resize(**{field: row.value}))  # noqa: B023  # called at once
        assert subject.pool.stats().max_size == before.max_size
    subject.is_untouched("E")
    subject.serves()


def test_IN21_a_hostile_concurrency_of_a_batch() -> None:
    subject = Subject("smtp")
    mails = [Mail(SENDER, [ONE], BODY)]
    for row in rows(["pool.send_many"], [*WHOLE, ZERO], "concurrency"):
        refusal_of(row, lambda: subject.pool.send_many(mails, concurrency=row.value))  # noqa: B023  # called at once
    for row in rows(["pool.send_many"], [("V17 None", None, "T"), ("V20 int", 1, "T")], "ordered"):
        refusal_of(row, lambda: subject.pool.send_many(mails, ordered=row.value))  # noqa: B023  # called at once
    subject.is_untouched("E")
    subject.serves()


@pytest.mark.parametrize("field", ["max_recipients", "max_message_bytes"])
def test_IN21_a_hostile_bound_of_a_policy(field: str) -> None:
    for row in rows(["BoundedPolicy"], WHOLE, field):
        refusal_of(row, lambda: BoundedPolicy(**{field: row.value}))  # noqa: B023  # called at once


# --- IN22, IN24: objects of another type ------------------------------------------------------------------------------

NOT_A_FLAG: list[Value] = [NO_TIMEOUT, ("V20 int", 1, "T"), ("V17 str", "true", "T")]
OBJECTS: dict[str, list[Value]] = {
    "tls_mode": [("V17 None", None, "T"), ("V17 str", "NONE", "T"), ("V17 bool", False, "T"), ("V17 int", 0, "T")],
    "tls_config": [("V17 str", "system", "T"), ("V17 bool", True, "T"), ("V17 dict", {}, "T"),
                   ("without TLS", TlsConfig(), "E")],
    "pipelining": [("V17 None", None, "T"), ("V17 str", "OFF", "T"), ("V20 bool", True, "T"), ("V17 int", 1, "T")],
    "policy": [("V17 str", "none", "T"), ("V17 object", object(), "T"), ("V17 class", int, "T")],
    "audit": [("V17 str", "none", "T"), ("V17 object", object(), "T"), ("V17 function", print, "T")],
    "allow_plaintext_auth": NOT_A_FLAG,
}  # fmt: skip


@pytest.mark.parametrize("argument", OBJECTS)
@pytest.mark.parametrize("door", OPENERS)
def test_IN22_IN24_an_object_of_another_type(door: str, argument: str) -> None:
    made_with(rows([door], OBJECTS[argument], argument), argument)


@pytest.mark.parametrize("door", ["connect", "connect_lmtp", "pool"])
def test_IN24_what_cannot_dial(door: str) -> None:
    made_with(rows([door], [("V17 str", "tcp", "T"), ("V17 int", 5, "T"), ("V17 bool", True, "T")], "dial"), "dial")


@pytest.mark.parametrize("door", ["from_transport", "pool", "config"])
def test_IN10_a_protocol_that_is_none(door: str) -> None:
    values: list[Value] = [*texts(lambda i: f"sm{i}tp"), ("other", "http", "E"), ("capitals", "SMTP", "E")]
    made_with(rows([door], values, "protocol"), "protocol")


@pytest.mark.parametrize(
    ("argument", "values"),
    [
        ("on_event", [("V17 str", "x", "T"), ("V17 int", 5, "T")]),
        ("track_leases", NOT_A_FLAG),
        ("name", [("V17 int", 5, "T"), ("V17 bytes", b"x", "T")]),
    ],
)
def test_IN24_an_option_of_a_pool_of_another_type(argument: str, values: list[Value]) -> None:
    made_with(rows(["pool"], values, argument), argument)


@pytest.mark.parametrize("transport", [5, "x", object(), socket], ids=repr)
def test_IN24_what_is_no_transport(transport: Any) -> None:
    row = Row("from_transport", "V17", transport, "T", "transport")
    refusal_of(row, lambda: SmtpConnection.from_transport(transport, tls_mode=NONE, timeout=5))


def test_IN24_oneshot_takes_its_own_types() -> None:
    mail = Mail(SENDER, [ONE], BODY)
    good: Any = config()
    for row in rows(["send_once"], list(wrong_types()), "config"):
        refusal_of(row, lambda: send_once(row.value, mail, timeout=5))  # noqa: B023  # called at once
    for row in rows(["send_once"], list(wrong_types()), "mail"):
        refusal_of(row, lambda: send_once(good, row.value, timeout=5))  # noqa: B023  # called at once
    for row in rows(["send_once"], [*TIMEOUT, NO_TIMEOUT], "timeout"):
        transport = Lines().transport()
        refusal_of(row, lambda: send_once(good, mail, timeout=row.value, transport=transport))  # noqa: B023
        assert not transport.closed
        assert transport.written == b""


def test_IN22_oneshot_trust() -> None:
    values: list[Value] = [
        ("V14 empty", b"", "E"), ("no certificate", b"x", "E"), ("a name", "system", "E"), ("V17 int", 5, "T"),
        ("V17 None", None, "T"), ("V16", b"x" * 300_000, "E"), ("V17 list", [b"x"], "T"),
    ]  # fmt: skip
    for row in rows(["SendConfig"], values, "trust"):
        refusal_of(row, lambda: config(tls_mode=TlsMode.IMPLICIT, trust=row.value))  # noqa: B023  # called at once


TRUST: list[Value] = [
    ("V14 empty", b"", "E"), ("no certificate", b"x", "E"), ("a path as str", "/etc/ssl/x.pem", "E"),
    ("nothing of nothing", (), "E"), ("half", ("system", b"x"), "E"), ("V17 int", 5, "T"), ("V17 None", None, "T"),
    ("V17 bool", True, "T"), ("V17 list", ["system"], "T"),
]  # fmt: skip
TLS: dict[str, list[Value]] = {
    "trust": TRUST,
    "client_certificate": [("V17 int", 5, "T"), ("V17 bytes", b"x", "T"), ("none", (), "E"),
                           ("four things", ("a", "b", len, "d"), "E")],
    "minimum_version": [*texts(lambda i: f"TLS{i}v1.2"), ("TLS 1.1", "TLSv1.1", "E"), ("SSL", "SSLv3", "E"),
                        *wrong_types()],
    "x509_strict": NOT_A_FLAG,
    "alpn": [("V17 str", "smtp", "T"), ("V17 int", 5, "T"), ("V17 items", (5,), "T"), ("V14 an empty one", ("",), "E"),
             ("V16", ("x" * 256,), "E"), ("V11", ("\u00e9",), "E")],
    "context": [("V17 str", "x", "T"), ("V17 int", 5, "T"), ("V17 bool", True, "T")],
}  # fmt: skip


@pytest.mark.parametrize("argument", TLS)
def test_IN22_a_hostile_tls_config_is_no_value(argument: str) -> None:
    for row in rows(["TlsConfig"], TLS[argument], argument):
        refusal_of(row, lambda: TlsConfig(**{argument: row.value}))  # noqa: B023  # called at once


# --- IN23: URLs -------------------------------------------------------------------------------------------------------

URLS: list[Value] = [
    *((name, value, code) for name, value, code in texts(lambda i: f"smtp://mx{i}x.example", V12="E")),
    *((f"user {n}", v, c) for n, v, c in texts(lambda i: f"smtp://u{i}:{SECRET}@mx.example", V14="-", V15="-")),
    ("V1 encoded CRLF in the user", f"smtp://u%0d%0aRSET:{SECRET}@mx.example", "E"),
    ("V4 encoded NUL in the password", f"smtp://u:{SECRET}%00@mx.example", "E"),
    ("V1 encoded CRLF in the host", f"smtp://u:{SECRET}@mx%0d%0aRSET.example", "E"),
    ("encoded octets that are no UTF-8", f"smtp://u:{SECRET}%ff@mx.example", "E"),
    ("a percent sign that is none", f"smtp://u:{SECRET}%zz@mx.example", "E"),
    ("no scheme", f"u:{SECRET}@mx.example", "E"),
    ("another scheme", f"http://u:{SECRET}@mx.example", "E"),
    ("no host", "smtp://", "E"),
    ("no host behind the user", f"smtp://u:{SECRET}@", "E"),
    ("a port that is no number", f"smtp://u:{SECRET}@mx.example:x", "E"),
    ("AK4 a port of other digits", "smtp://mx.example:\u0662\u0665", "E"),
    ("port 0", "smtp://mx.example:0", "E"),
    ("port 65536", "smtp://mx.example:65536", "E"),
    ("V16 a port of 5,000 digits", "smtp://mx.example:" + "9" * 5_000, "E"),
    ("a path", f"smtp://u:{SECRET}@mx.example/x", "E"),
    ("a fragment", f"smtp://u:{SECRET}@mx.example#x", "E"),
    ("an unknown key", f"smtp://u:{SECRET}@mx.example?sleep=1", "E"),
    ("a password with a ?", f"smtp://u:x?{SECRET}@mx.example", "E"),
    ("a password with ? and =", f"smtp://u:x?{SECRET}=y@mx.example", "E"),
    ("a password with ?, = and &", f"smtp://u:x?name=y&{SECRET}&z@mx.example", "E"),
    ("a key twice", f"smtp://u:{SECRET}@mx.example?ehlo_domain=a&ehlo_domain=b", "E"),
    ("a key without a value", f"smtp://u:{SECRET}@mx.example?ehlo_domain=", "E"),
    ("a hostile ehlo_domain", f"smtp://u:{SECRET}@mx.example?ehlo_domain=a%0d%0aMAIL", "E"),
    ("a blank in ehlo_domain", f"smtp://u:{SECRET}@mx.example?ehlo_domain=a%20b", "E"),
    ("a flag that is none", f"smtp://u:{SECRET}@mx.example?allow_plaintext_auth=yes", "E"),
    ("a source that is none", f"smtp://u:{SECRET}@mx.example?source_address=localhost", "E"),
    ("a level that is none", f"smtp://u:{SECRET}@mx.example?pipelining=fast", "E"),
    ("a mechanism that is none", f"smtp://u:{SECRET}@mx.example?auth=cram", "E"),
    ("V20 a limit of nan", f"smtp://u:{SECRET}@mx.example?timeout.mail=nan", "E"),
    ("V20 a limit of -1", f"smtp://u:{SECRET}@mx.example?timeout.mail=-1", "E"),
    ("V20 a limit of 0", f"smtp://u:{SECRET}@mx.example?timeout.mail=0", "E"),
    ("a user without a password", f"smtp://{SECRET}@mx.example", "E"),
    ("an IPv6 address without brackets", "smtp://2001:db8::1", "E"),
    ("a bracket that is not closed", "smtp://[::1", "E"),
    ("no IPv6 address in brackets", "smtp://[x]", "E"),
    ("tls for a scheme that says it", f"smtp://u:{SECRET}@mx.example?tls=none", "E"),
    ("a socket with a host", "lmtp+unix://mx.example/run/x", "E"),
    ("a socket without a path", "lmtp+unix://", "E"),
    ("V4 a NUL in the path", "lmtp+unix:///run/a%00b", "E"),
    ("V16 a path of 108 octets", "lmtp+unix:///" + "x" * 107, "E"),
    *wrong_types(),
]


@pytest.mark.parametrize("door", ["SmtpConnection.from_url", "ConnectionPool.from_url"])
def test_IN23_a_hostile_url(door: str) -> None:
    """features:F4; faults:SEC3: the error shows no password, and neither does a frame of ours."""
    for row in rows([door], URLS, r"\burl\b|host|port|ehlo_domain|unix_socket|source_address|user|Timeouts"):
        if door.startswith("Smtp"):
            error = refusal_of(row, lambda: SmtpConnection.from_url(row.value, timeout=5, dial=no_dial))  # noqa: B023
        else:
            error = refusal_of(row, lambda: Pool.from_url(row.value))  # noqa: B023  # called at once
        assert SECRET not in rendered(error), row.id


@pytest.mark.parametrize(
    "url",
    ["smtp://a.example,b.example", "smtp://mx.example?max_size=3", "smtp://mx.example?timeout=3",
     "smtp://mx.example?ehlo_domain=a.example"],
)  # fmt: skip
def test_IN23_what_only_a_pool_takes_and_what_is_given_twice(url: str) -> None:
    row = Row("SmtpConnection.from_url", url, url, "E", "url|URL")
    refusal_of(row, lambda: SmtpConnection.from_url(url, timeout=5, dial=no_dial, ehlo_domain="b.example"))


def test_IN23_credentials_in_both_places() -> None:
    row = Row("from_url", "both", None, "E", "credentials")
    url = f"smtp://u:{SECRET}@mx.example"
    for call in (
        lambda: SmtpConnection.from_url(url, timeout=5, dial=no_dial, credentials=("v", SECRET)),
        lambda: Pool.from_url(url, credentials=("v", SECRET)),
    ):
        assert SECRET not in str(refusal_of(row, call))


# --- IN24, NN3, NN15: what is over, what is not to be copied ----------------------------------------------------------


def test_IN24_NN3_a_lease_that_is_over_writes_nothing() -> None:
    lines = Lines()
    own = pool_over(lines)
    with own.connection() as lease:
        pass
    calls: list[Callable[[], object]] = [
        functools.partial(getattr(lease, verb), *given) for verb, given in VERBS.items() if verb != "send_many"
    ]
    calls += [lambda: lease.set_ehlo_domain("a.example"), lease.__enter__, lease.close, lambda: lease.capabilities]
    for call in calls:
        with pytest.raises(UsageError, match=r"state is: ended|has begun already"):
            call()
    with pytest.raises(UsageError, match="state is: ended"):
        lease.__exit__(None, None, None)
    (outcome,) = lease.send_many([Mail(SENDER, [ONE], BODY)])
    assert type(outcome.error) is UsageError
    assert lines.told == b""
    assert own.send(SENDER, [ONE], BODY).all_delivered
    own.close()


@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb not in ("quit", "send_many")])
def test_IN24_BR25_a_connection_that_its_owner_closed_writes_nothing(verb: str) -> None:
    lines = Lines()
    connection = connection_over(lines, "lmtp" if "lmtp" in verb else "smtp")
    connection.close()
    with pytest.raises(UsageError, match="closed"):
        getattr(connection, verb)(*VERBS[verb], timeout=5)
    assert lines.told == b""


def test_NN15_what_holds_a_connection_or_a_secret_is_not_copied() -> None:
    """faults:AK17, SEC1: connection, lease, pool, credentials: `TypeError` that names the class."""
    subject = Subject("smtp")
    things = [
        subject.connection, subject.pool, subject.lease, PasswordAuth("u", SECRET), PlainAuth("u", SECRET),
        LoginAuth("u", SECRET), ScramAuth("u", SECRET), XOAuth2Auth("u", SECRET), OAuthBearerAuth(SECRET),
    ]  # fmt: skip
    for thing in things:
        name = type(thing).__name__ if type(thing).__name__ != "PoolInMemory" else "ConnectionPool"
        ways: list[Callable[[Any], object]] = [pickle.dumps, copy.copy, copy.deepcopy]
        ways += [functools.partial(pickle.dumps, protocol=level) for level in range(pickle.HIGHEST_PROTOCOL + 1)]
        for way in ways:
            with pytest.raises(TypeError, match=name) as caught:
                way(thing)
            assert SECRET not in str(caught.value)
    assert subject.lines.told == b""
    subject.close_all()


def test_the_doors_are_all_that_there_are() -> None:
    """A verb that takes a `timeout` is in the table, whatever it is."""
    for kind in (SmtpConnection, ConnectionPool):
        public = [name for name in vars(kind) if not name.startswith("_") and callable(getattr(kind, name))]
        takes = {name for name in public if "timeout" in _parameters(getattr(kind, name))}
        openings = {"connect", "connect_lmtp", "from_url", "from_domain", "from_transport"}
        elsewhere = {"send_message", "close", "maintain", "connection", "chain"}  # `chain` is the pool's own
        assert takes - openings - elsewhere <= set(VERBS), kind


def _parameters(function: Any) -> tuple[str, ...]:
    code = getattr(function, "__func__", function).__code__
    names: tuple[str, ...] = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
    return names
