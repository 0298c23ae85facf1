"""AUTH against Postfix and Dovecot's submission service (both ask Dovecot's SASL) and Exim (its own): who gets in, who
does not, and what never leaves the client."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from smtpconn import (
    AuthenticationError,
    ConnectionPool,
    ExtensionUnavailableError,
    ListAuditSink,
    LoginAuth,
    OAuthBearerAuth,
    PasswordAuth,
    PlainAuth,
    ScramAuth,
    SmtpConnection,
    TlsMode,
    UsageError,
    XOAuth2Auth,
)
from smtpconn.testing import Relay

from . import exim
from .clients import SENDER, TIMEOUT, Dial, connect, mail, trusting
from .dovecot import bearer_token
from .servers import BOSS, LOGIN, UNICODE_LOGIN, MailServer

if TYPE_CHECKING:
    from collections.abc import Callable

    from .exim import Exim
    from .postfix import Postfix

pytestmark = pytest.mark.interop

RELAYED = "anybody@elsewhere.test"
"""Taken by Postfix and Exim only from who has authenticated."""

PASSWORDS: list[tuple[str, Callable[[str, str], PasswordAuth | PlainAuth | LoginAuth | ScramAuth], str]] = [
    ("postfix", PasswordAuth, "SCRAM-SHA-256"),
    ("postfix", PlainAuth, "PLAIN"),
    ("postfix", LoginAuth, "LOGIN"),
    ("postfix", ScramAuth, "SCRAM-SHA-256"),
    ("exim", PasswordAuth, "PLAIN"),
    ("exim", PlainAuth, "PLAIN"),
    ("exim", LoginAuth, "LOGIN"),
    ("dovecot_submission", PasswordAuth, "SCRAM-SHA-256"),
    ("dovecot_submission", PlainAuth, "PLAIN"),
    ("dovecot_submission", LoginAuth, "LOGIN"),
    ("dovecot_submission", ScramAuth, "SCRAM-SHA-256"),
]
WITHOUT_AUTO = [row for row in PASSWORDS if row[1] is not PasswordAuth]
SERVERS = ["postfix", "exim", "dovecot_submission"]
ASK_DOVECOT = ["postfix", "dovecot_submission"]


def server_of(request: pytest.FixtureRequest, fixture: str) -> MailServer:
    server = request.getfixturevalue(fixture)
    assert isinstance(server, MailServer)
    return server


def token_for(server: MailServer) -> str:
    return exim.TOKEN if server.name == "Exim" else bearer_token()


def takes_mail(server: MailServer, connection: SmtpConnection) -> bool:
    """Whether the server treats the connection as it treats only who has authenticated."""
    # Dovecot's submission service takes no mail at all from others.
    recipient = server.users[8] if server.name == "Dovecot submission" else RELAYED
    return connection.send(SENDER, [recipient], b"x\r\n", timeout=TIMEOUT).all_delivered


# --- success


@pytest.mark.parametrize(
    ("login", "tls_mode"),
    [(LOGIN, TlsMode.IMPLICIT), (UNICODE_LOGIN, TlsMode.STARTTLS)],
    ids=["ascii, implicit TLS", "unicode, STARTTLS"],
)
@pytest.mark.parametrize(("fixture", "make", "mechanism"), PASSWORDS)
def test_a_password_lets_in_by_each_mechanism(
    request: pytest.FixtureRequest,
    fixture: str,
    make: type[PasswordAuth],
    mechanism: str,
    login: tuple[str, str],
    tls_mode: TlsMode,
) -> None:
    """features:F35, F36, F38, F40, F43, F49a, E33, E38, WM5, WM6."""
    audit = ListAuditSink()
    server = server_of(request, fixture)
    with connect(server, tls_mode, credentials=make(*login), audit=audit) as connection:
        assert connection.is_authenticated
        assert takes_mail(server, connection)
    assert [event.mechanism for event in audit.events if hasattr(event, "mechanism")] == [mechanism]


@pytest.mark.parametrize("fixture", SERVERS)
def test_the_verbs_do_what_the_credentials_do(request: pytest.FixtureRequest, fixture: str) -> None:
    """features:KM10, KM12, KM13, KM14, WM7, WM8, F37: one AUTH a connection, the second is refused here."""
    server = server_of(request, fixture)
    token = token_for(server)
    verbs: list[Callable[[SmtpConnection], None]] = [
        lambda c: c.auth_plain(*LOGIN, timeout=TIMEOUT),
        lambda c: c.auth_login(*LOGIN, timeout=TIMEOUT),
        lambda c: c.auth_xoauth2(LOGIN[0], token, timeout=TIMEOUT),
        lambda c: c.auth_oauthbearer(token, user=LOGIN[0], timeout=TIMEOUT),
    ]
    for authenticate in verbs:
        with connect(server, TlsMode.STARTTLS) as connection:
            before = connection.is_authenticated
            authenticate(connection)
            assert (before, connection.is_authenticated) == (False, True)
            with pytest.raises(UsageError):
                connection.auth_plain(*LOGIN, timeout=TIMEOUT)
            assert takes_mail(server, connection)


@pytest.mark.parametrize("make", [XOAuth2Auth, OAuthBearerAuth])
@pytest.mark.parametrize("fixture", SERVERS)
def test_a_bearer_token_lets_in(
    request: pytest.FixtureRequest, fixture: str, make: type[XOAuth2Auth | OAuthBearerAuth]
) -> None:
    """features:F41, F42, F42a: Dovecot checks the token's signature, Exim the octets of the response."""
    server = server_of(request, fixture)
    asked: list[None] = []

    def token() -> str:
        asked.append(None)
        return token_for(server)

    credentials = XOAuth2Auth(LOGIN[0], token) if make is XOAuth2Auth else OAuthBearerAuth(token, user=LOGIN[0])
    with connect(server, TlsMode.STARTTLS, credentials=credentials) as connection:
        assert takes_mail(server, connection)
    assert len(asked) == 1


def test_postfix_knows_the_user_for_whom_the_boss_acts(postfix: Postfix, message_id: str) -> None:
    """features:F39, KM11: the password is the boss's, the user that Postfix writes down is his authzid."""
    with connect(postfix, TlsMode.STARTTLS) as connection:
        connection.auth_plain(*BOSS, authzid=LOGIN[0], timeout=TIMEOUT)
        result = connection.send(SENDER, [RELAYED], mail(message_id), timeout=TIMEOUT)
    logged = re.search(rf"{result.queue_id}: client=.*sasl_method=(\S+), sasl_username=(\S+)", postfix.log())
    assert logged is not None
    assert logged.groups() == ("PLAIN", LOGIN[0])


def test_exim_gets_authzid_user_and_password_apart(exim: Exim, message_id: str) -> None:
    """features:F39."""
    with connect(exim, TlsMode.STARTTLS, credentials=PlainAuth(*BOSS, authzid=LOGIN[0])) as connection:
        result = connection.send(SENDER, [RELAYED], mail(message_id), timeout=TIMEOUT)
    assert re.search(rf"{result.queue_id} <= .* A=plain:{LOGIN[0]} by {BOSS[0]} ", exim.log())


@pytest.mark.parametrize("fixture", ASK_DOVECOT)
def test_only_the_boss_acts_for_another(request: pytest.FixtureRequest, fixture: str) -> None:
    """features:F39, F47."""
    server = server_of(request, fixture)
    with connect(server, TlsMode.STARTTLS) as connection:
        with pytest.raises(AuthenticationError):
            connection.auth_plain(*LOGIN, authzid=BOSS[0], timeout=TIMEOUT)
        connection.auth_plain(*BOSS, authzid=LOGIN[0], timeout=TIMEOUT)
        assert takes_mail(server, connection)


# --- refusal


@pytest.mark.parametrize(("fixture", "make", "mechanism"), WITHOUT_AUTO)
def test_a_wrong_password_is_an_authentication_error_and_the_caller_may_try_another(
    request: pytest.FixtureRequest, fixture: str, make: type[PasswordAuth], mechanism: str
) -> None:
    """features:F47, E35, E142: 535 ends the exchange, not the connection; nothing else is tried by itself."""
    audit = ListAuditSink()
    server = server_of(request, fixture)
    with connect(server, TlsMode.STARTTLS, audit=audit) as connection:
        with pytest.raises(AuthenticationError) as refused:
            connection.auth(make(LOGIN[0], "wrong"), timeout=TIMEOUT)
        assert refused.value.stage == f"AUTH {mechanism}"
        assert refused.value.reply is not None
        assert refused.value.reply.code == 535
        assert refused.value.permanent
        assert refused.value.retry_safe
        assert "wrong" not in str(refused.value)
        assert connection.usable
        before = connection.is_authenticated
        connection.auth(make(*LOGIN), timeout=TIMEOUT)
        assert (before, connection.is_authenticated) == (False, True)
        assert takes_mail(server, connection)
    assert [event.mechanism for event in audit.events if hasattr(event, "mechanism")] == [mechanism]


@pytest.mark.parametrize(
    ("make", "detail"),
    [
        (lambda token: XOAuth2Auth(LOGIN[0], token), '{"status":"401","schemes":"bearer","scope":"mail"}'),
        (lambda token: OAuthBearerAuth(token, user=LOGIN[0]), '{"status":"invalid_token"}'),
    ],
    ids=["XOAUTH2", "OAUTHBEARER"],
)
@pytest.mark.parametrize("token", ["expired", "another's", "garbage"])
@pytest.mark.parametrize("fixture", ASK_DOVECOT)
def test_a_refused_token_says_why_in_detail_and_another_lets_in(
    request: pytest.FixtureRequest,
    fixture: str,
    token: str,
    make: Callable[[str], XOAuth2Auth | OAuthBearerAuth],
    detail: str,
) -> None:
    """features:F46, E40, E42: the 334 with JSON is answered as each mechanism wants it, and 535 follows."""
    bad = {"expired": bearer_token(lifetime=-60), "another's": bearer_token(BOSS[0]), "garbage": "e30.e30.e30"}[token]
    server = server_of(request, fixture)
    with connect(server, TlsMode.STARTTLS) as connection:
        with pytest.raises(AuthenticationError) as refused:
            connection.auth(make(bad), timeout=TIMEOUT)
        assert refused.value.detail == detail
        assert refused.value.reply is not None
        assert refused.value.reply.code == 535
        assert refused.value.permanent
        assert bad not in str(refused.value)
        assert connection.usable
        connection.auth(make(bearer_token()), timeout=TIMEOUT)
        assert takes_mail(server, connection)


@pytest.mark.parametrize("make", [XOAuth2Auth, OAuthBearerAuth])
def test_a_token_refused_without_a_challenge_has_no_detail(
    exim: Exim, make: type[XOAuth2Auth | OAuthBearerAuth]
) -> None:
    """features:F47: Exim says 535 at once."""
    credentials = XOAuth2Auth(LOGIN[0], "x") if make is XOAuth2Auth else OAuthBearerAuth("x", user=LOGIN[0])
    with connect(exim, TlsMode.STARTTLS) as connection:
        with pytest.raises(AuthenticationError) as refused:
            connection.auth(credentials, timeout=TIMEOUT)
        assert refused.value.detail is None
        assert connection.usable
        connection.auth_plain(*LOGIN, timeout=TIMEOUT)
        assert connection.is_authenticated


@pytest.mark.parametrize("fixture", ASK_DOVECOT)
def test_dovecot_wants_a_user_beside_the_token(request: pytest.FixtureRequest, fixture: str) -> None:
    """features:F42, E144: `n,,` is what RFC 7628 allows and Dovecot 2.3 refuses, with 535 and no challenge."""
    server = server_of(request, fixture)
    with connect(server, TlsMode.STARTTLS) as connection:
        with pytest.raises(AuthenticationError) as refused:
            connection.auth(OAuthBearerAuth(bearer_token()), timeout=TIMEOUT)
        assert refused.value.reply is not None
        assert refused.value.reply.code == 535
        assert connection.usable


def test_a_connection_opened_with_a_wrong_password_is_left_with_quit(postfix: Postfix) -> None:
    """features:F47, D12: one AUTH and no second, QUIT, nothing in between."""
    dial = Dial()
    with pytest.raises(AuthenticationError):
        connect(postfix, TlsMode.STARTTLS, credentials=PasswordAuth(LOGIN[0], "wrong"), dial=dial)
    commands = postfix.commands_of(dial.address)
    assert commands == {"ehlo": (2, 2), "starttls": (1, 1), "auth": (1, 0), "quit": (1, 1), "commands": (5, 4)}


# --- in a pool


def pool_of(postfix: Postfix, credentials: PasswordAuth | XOAuth2Auth | OAuthBearerAuth, dial: Dial) -> ConnectionPool:
    return ConnectionPool(
        postfix.host,
        postfix.port,
        TlsMode.STARTTLS,
        tls_config=trusting(postfix),
        credentials=credentials,
        dial=dial,
        timeout=TIMEOUT,
    )


@pytest.mark.parametrize("make", [XOAuth2Auth, OAuthBearerAuth])
def test_a_pool_asks_for_a_new_token_where_the_old_one_has_expired(
    postfix: Postfix, make: type[XOAuth2Auth | OAuthBearerAuth]
) -> None:
    """design D12, features:F42a: one refusal, one refresh, and the mail goes out by one further connection."""
    refreshed: list[str] = []

    def refresh() -> str:
        refreshed.append(bearer_token())
        return refreshed[-1]

    old = bearer_token(lifetime=-60)
    credentials = (
        XOAuth2Auth(LOGIN[0], old, refresh=refresh)
        if make is XOAuth2Auth
        else OAuthBearerAuth(old, user=LOGIN[0], refresh=refresh)
    )
    dial = Dial()
    with pool_of(postfix, credentials, dial) as pool:
        assert pool.send(SENDER, [RELAYED], b"x\r\n").all_delivered
    assert len(refreshed) == 1
    assert [postfix.commands_of(address)["auth"] for address in dial.addresses] == [(1, 0), (1, 1)]


def test_a_pool_does_not_try_a_refused_password_again(postfix: Postfix) -> None:
    """design D12, features:F47: many wrong passwords lock accounts."""
    dial = Dial()
    with pool_of(postfix, PasswordAuth(LOGIN[0], "wrong"), dial) as pool, pytest.raises(AuthenticationError):
        pool.send(SENDER, [RELAYED], b"x\r\n")
    assert postfix.commands_of(dial.address)["auth"] == (1, 0)


# --- what is not sent


CLEARTEXT: dict[str, Callable[[MailServer], PlainAuth | LoginAuth | XOAuth2Auth | OAuthBearerAuth]] = {
    "PLAIN": lambda server: PlainAuth(*LOGIN),
    "LOGIN": lambda server: LoginAuth(*LOGIN),
    "XOAUTH2": lambda server: XOAuth2Auth(LOGIN[0], token_for(server)),
    "OAUTHBEARER": lambda server: OAuthBearerAuth(token_for(server), user=LOGIN[0]),
}


@pytest.mark.parametrize("mechanism", CLEARTEXT)
@pytest.mark.parametrize("fixture", SERVERS)
def test_without_tls_no_octet_of_auth_leaves_unless_the_caller_says_so(
    request: pytest.FixtureRequest, fixture: str, mechanism: str
) -> None:
    """features:F49b, E141, SY23: every server here offers it; what was sent is what a relay between has seen."""
    server = server_of(request, fixture)
    with Relay((server.host, server.port)) as relay:
        with connect(server, port=relay.port) as connection:
            assert connection.capabilities.supports_auth(mechanism)
            before = relay.octets_to_server
            with pytest.raises(UsageError):
                connection.auth(CLEARTEXT[mechanism](server), timeout=TIMEOUT)
            connection.noop(timeout=TIMEOUT)
            assert relay.octets_to_server == before + b"NOOP\r\n"
        with pytest.raises(UsageError):
            connect(server, port=relay.port, credentials=CLEARTEXT[mechanism](server))
        assert b"AUTH" not in relay.octets_to_server
        with connect(server, port=relay.port, allow_plaintext_auth=True) as connection:
            connection.auth(CLEARTEXT[mechanism](server), timeout=TIMEOUT)
            assert connection.is_authenticated
        assert relay.octets_to_server.count(f"AUTH {mechanism}".encode()) == 1


@pytest.mark.parametrize("fixture", ASK_DOVECOT)
def test_without_tls_scram_is_chosen_and_no_password_leaves(request: pytest.FixtureRequest, fixture: str) -> None:
    """features:E140, F35, F49b."""
    server = server_of(request, fixture)
    with Relay((server.host, server.port)) as relay:
        with connect(server, port=relay.port, credentials=PasswordAuth(*LOGIN)) as connection:
            assert takes_mail(server, connection)
        assert relay.octets_to_server.count(b"AUTH ") == 1
        assert b"AUTH SCRAM-SHA-256 " in relay.octets_to_server


def test_without_tls_and_scram_a_password_goes_nowhere(exim: Exim) -> None:
    """features:E140."""
    with Relay((exim.host, exim.port)) as relay:
        with pytest.raises(UsageError):
            connect(exim, port=relay.port, credentials=PasswordAuth(*LOGIN))
        assert b"AUTH" not in relay.octets_to_server


@pytest.mark.parametrize("fixture", ASK_DOVECOT)
def test_a_channel_binding_that_is_demanded_and_not_offered_sends_nothing(
    request: pytest.FixtureRequest, fixture: str
) -> None:
    """features:F44, E154, E156: Dovecot 2.3 has no -PLUS; `auto` says so by its `y` flag, which Dovecot takes."""
    server = server_of(request, fixture)
    with connect(server, TlsMode.STARTTLS) as connection:
        assert not connection.capabilities.supports_auth("SCRAM-SHA-256-PLUS")
        with pytest.raises(ExtensionUnavailableError) as unavailable:
            connection.auth(ScramAuth(*LOGIN, channel_binding="tls-server-end-point"), timeout=TIMEOUT)
        assert unavailable.value.extension == "AUTH"
        assert connection.usable
        connection.auth(ScramAuth(*LOGIN, channel_binding="auto"), timeout=TIMEOUT)
        assert takes_mail(server, connection)


def test_a_mechanism_that_is_not_offered_is_refused_here(exim: Exim) -> None:
    """features:F36, E34."""
    with connect(exim, TlsMode.STARTTLS) as connection:
        with pytest.raises(ExtensionUnavailableError, match="SCRAM-SHA-256"):
            connection.auth(ScramAuth(*LOGIN), timeout=TIMEOUT)
        assert connection.usable
