"""URLs: schemes, keys, errors that name the key and never show the secret (users URL1-URL18)."""

from __future__ import annotations

import ast
import pathlib
import socket
from collections.abc import Callable
from typing import Any

import pytest

import smtpconn
from smtpconn import (
    ConnectionPool,
    InvalidInputError,
    Pipelining,
    SmtpConnection,
    SmtpError,
    Timeouts,
    TlsError,
    TlsMode,
)
from smtpconn.contrib.configuration import mailer_options
from smtpconn.testing import LoopbackServer
from smtpconn.url import ParsedUrl

from .protocol.dialogue import rendered


@pytest.mark.parametrize(
    ("url", "protocol", "tls_mode", "hosts"),
    [
        ("smtp://mx.example.com", "smtp", TlsMode.NONE, [("mx.example.com", 25)]),
        ("smtps://mx.example.com", "smtp", TlsMode.IMPLICIT, [("mx.example.com", 465)]),
        ("submission://mx.example.com/", "smtp", TlsMode.STARTTLS, [("mx.example.com", 587)]),
        ("smtp+starttls://mx.example.com:2525", "smtp", TlsMode.STARTTLS, [("mx.example.com", 2525)]),
        ("SMTP://[2001:db8::1]:26", "smtp", TlsMode.NONE, [("2001:db8::1", 26)]),
        ("smtp://[2001:db8::1]", "smtp", TlsMode.NONE, [("2001:db8::1", 25)]),
        ("lmtp://mx.example.com", "lmtp", TlsMode.NONE, [("mx.example.com", 24)]),
        ("lmtp://mx.example.com?tls=none", "lmtp", TlsMode.NONE, [("mx.example.com", 24)]),
        ("lmtp://mx.example.com?tls=starttls", "lmtp", TlsMode.STARTTLS, [("mx.example.com", 24)]),
        ("lmtp://mx.example.com?tls=implicit", "lmtp", TlsMode.IMPLICIT, [("mx.example.com", 24)]),
        ("submission://a.example.com,b.example.com:2525", "smtp", TlsMode.STARTTLS,
         [("a.example.com", 587), ("b.example.com", 2525)]),
    ],
)  # fmt: skip
def test_a_scheme_says_protocol_tls_and_port(
    url: str, protocol: str, tls_mode: TlsMode, hosts: list[tuple[str, int]]
) -> None:
    """users:URL1-URL5, URL10."""
    parsed = ParsedUrl(url)
    assert (parsed.protocol, parsed.tls_mode, parsed.hosts) == (protocol, tls_mode, hosts)


def test_a_unix_socket_is_a_percent_decoded_path() -> None:
    """users:URL6."""
    parsed = ParsedUrl("lmtp+unix:///run/my%20mail/lmtp")
    assert parsed.unix_socket == "/run/my mail/lmtp"
    assert parsed.shown == "lmtp+unix:///run/my mail/lmtp"


@pytest.mark.parametrize(
    ("query", "options"),
    [
        ("timeout=5", {"timeout": Timeouts(total=5)}),
        ("timeout.final_reply=900&timeout.mail=30.5", {"timeout": Timeouts(final_reply=900, mail=30.5)}),
        ("pipelining=prefetch", {"pipelining": Pipelining.PREFETCH}),
        ("ehlo_domain=client.example.com", {"ehlo_domain": "client.example.com"}),
        ("source_address=127.0.0.2", {"source_address": ("127.0.0.2", 0)}),
        ("allow_plaintext_auth=true", {"allow_plaintext_auth": True}),
    ],
)
def test_keys_become_keyword_arguments(query: str, options: dict[str, Any]) -> None:
    """users:URL13, URL15."""
    assert ParsedUrl(f"smtp://mx.example.com?{query}").options == options


def test_pool_keys_become_keyword_arguments_of_the_pool() -> None:
    query = (
        "max_size=8&min_size=1&max_waiting=none&max_connecting=3&acquire_timeout=2.5&max_idle=none&max_age=60"
        "&max_messages=none&probe_after=none&track_leases=true&name=bulk"
    )
    assert ParsedUrl(f"smtp://mx.example.com?{query}").pool_options == {
        "max_size": 8, "min_size": 1, "max_waiting": None, "max_connecting": 3, "acquire_timeout": 2.5,
        "max_idle": None, "max_age": 60.0, "max_messages": None, "probe_after": None, "track_leases": True,
        "name": "bulk",
    }  # fmt: skip


def test_trust_names_roots_and_client_certificates(tmp_path: pathlib.Path) -> None:
    config = ParsedUrl(
        "smtps://mx.example.com?trust=/etc/ca.pem&server_name=mail.example.com&client_cert=/c.pem&client_key=/k.pem"
    ).options["tls_config"]
    assert config.trust == pathlib.Path("/etc/ca.pem")
    assert config.server_name == "mail.example.com"
    assert ParsedUrl("smtps://mx.example.com?trust=certifi").options["tls_config"].trust == "certifi"
    named = ParsedUrl("smtps://mx.example.com?server_name=mail.example.com").options["tls_config"]
    assert (named.trust, named.server_name) == ("system", "mail.example.com")


@pytest.mark.parametrize(
    ("auth", "kind"),
    [
        ("", "PasswordAuth"),
        ("?auth=plain", "PlainAuth"),
        ("?auth=login", "LoginAuth"),
        ("?auth=scram", "ScramAuth"),
        ("?auth=xoauth2", "XOAuth2Auth"),
        ("?auth=oauthbearer", "OAuthBearerAuth"),
    ],
)
def test_userinfo_is_percent_decoded_and_shown_nowhere(auth: str, kind: str) -> None:
    """users:URL9, URL14, U20."""
    secret = "t%C3%B6p" if not auth.startswith(("?auth=x", "?auth=o")) else "t0p"
    parsed = ParsedUrl(f"submission://us%40er:{secret}-secret@mx.example.com{auth}")
    assert type(parsed.credentials).__name__ == kind
    assert parsed.credentials is not None
    assert parsed.credentials.user == "us@er"
    assert parsed.shown == "submission://***@mx.example.com:587"
    assert "secret" not in repr(parsed) + repr(parsed.credentials)


@pytest.mark.parametrize(
    ("url", "hint"),
    [
        ("mx.example.com", "scheme"),
        ("http://mx.example.com", "use one of smtp, smtps"),
        ("submit://mx.example.com", "submission://"),
        ("smtp+tls://mx.example.com", "submission://"),
        ("smtp+ssl://mx.example.com", "smtps://"),
        ("smtptls://mx.example.com", "submission://"),
        ("smtp://", "must name a host"),
        ("smtp://:25", "must name a host"),
        ("smtp://[2001:db8::1", "brackets"),
        ("smtp://[2001:db8::1]x", "brackets"),
        ("smtp://mx.example.com:port", "port"),
        ("smtp://mx.example.com/inbox", "path"),
        ("smtp://mx.example.com?max_size=8#x", "fragment"),
        ("smtp://mx example.com", "blank"),
        ("smtp://mx.example.com\t", "blank"),
        ("smtp://mx.example.com\r\nRSET", "blank"),
        ("smtp://bücher.example", "non-ASCII"),
        ("smtp://mx%0d%0a.example.com", "control"),
        ("smtp://user:pass%0D%0A@mx.example.com", "control"),
        ("smtp://user:p%zz@mx.example.com", "%25"),
        ("smtp://user:p%ff@mx.example.com", "UTF-8"),
        ("smtp://user@mx.example.com", "without a password"),
        ("smtp://mx.example.com?max_sise=8", "max_size"),
        ("smtp://mx.example.com?MAX_SIZE=8", "unknown key"),
        ("smtp://mx.example.com?xyzzy=8", "keys are"),
        ("smtp://user:pass%0D?word@mx.example.com", "%3F"),
        ("smtp://mx.example.com?ssl=true", "smtps://"),
        ("smtp://mx.example.com?use_tls=true", "submission://"),
        ("smtp://mx.example.com?max_size=8&max_size=9", "twice"),
        ("smtp://mx.example.com?max_size=", "empty"),
        ("smtp://mx.example.com?max_size", "empty"),
        ("smtp://mx.example.com?max_size=-1", "decimal"),
        ("smtp://mx.example.com?max_size=none", "decimal"),
        ("smtp://mx.example.com?max_size=1e3", "decimal"),
        ("smtp://mx.example.com?timeout=5s", "decimal"),
        ("smtp://mx.example.com?track_leases=yes", "true or false"),
        ("smtp://mx.example.com?pipelining=fast", "one of"),
        ("smtp://mx.example.com?auth=cram-md5", "one of"),
        ("smtp://mx.example.com?tls=starttls", "lmtp://"),
        ("smtp://mx.example.com?source_address=localhost", "IP address"),
        ("smtps://mx.example.com?client_key=/k.pem", "client_cert"),
        ("smtp://mx.example.com?_default_from_email=a@b.test", "DEFAULT_FROM_EMAIL"),
        ("lmtp+unix://mx.example.com/run/lmtp", "path only"),
        ("lmtp+unix://user:pass@/run/lmtp", "path only"),
        ("lmtp+unix://:24/run/lmtp", "path only"),
        ("lmtp+unix:///run%0D%0Almtp", "control"),
        ("smtp://mx.example.com?name=a%0D%0Ab", "control"),
    ],
)
def test_a_wrong_url_is_an_error_that_says_the_remedy_and_never_the_url(url: str, hint: str) -> None:
    """users:URL6, URL8, URL11, URL12, URL18, faults:IN23."""
    with pytest.raises(InvalidInputError) as refused:
        ParsedUrl(url)
    assert hint in str(refused.value)
    assert url not in str(refused.value)
    assert "pass%0D" not in str(refused.value)


def test_a_url_must_be_text() -> None:
    with pytest.raises(TypeError):
        ParsedUrl(b"smtp://mx.example.com")  # type: ignore[arg-type]  # on purpose


@pytest.mark.parametrize("port", [25, 587])
def test_smtps_on_a_starttls_port_warns_and_obeys(port: int) -> None:
    """users:URL7."""
    with pytest.warns(UserWarning, match="submission://"):
        assert ParsedUrl(f"smtps://mx.example.com:{port}").tls_mode is TlsMode.IMPLICIT
    with pytest.warns(UserWarning, match="submission://") as warned:
        ConnectionPool.from_url(f"smtps://mx.example.com:{port}")
    assert [each.filename for each in warned] == [__file__]


def test_URL7_the_handshake_that_fails_at_a_server_with_STARTTLS_names_the_scheme_for_it() -> None:
    """The port need not be a well-known one."""
    with LoopbackServer(tls="starttls") as server:
        url = f"smtps://{server.host}:{server.port}"
        with pytest.raises(TlsError, match=r"submission://"):
            SmtpConnection.from_url(url, timeout=5)
        with ConnectionPool.from_url(url, timeout=5) as pool, pytest.raises(TlsError, match=r"submission://"):
            pool.noop()


def test_URL16_no_module_of_the_library_reads_a_variable_of_the_environment() -> None:
    """But for OpenSSL's own; the command line and the test kit, whose servers are processes, are programs."""
    package = pathlib.Path(smtpconn.__file__).parent
    reading = {
        module.relative_to(package).as_posix()
        for module in package.rglob("*.py")
        for node in ast.walk(ast.parse(module.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and node.attr in ("environ", "environb", "getenv")
    }
    assert {path for path in reading if path.split("/")[0] not in ("cli", "testing")} == {"tls_context.py"}


def test_no_failure_behind_a_url_leaves_its_password_in_a_frame_of_ours() -> None:
    """faults:SEC2, SEC3."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        place = f"127.0.0.1:{taken.getsockname()[1]}"
    calls: dict[str, Callable[[str], object]] = {
        "": lambda url: SmtpConnection.from_url(url, timeout=5, allow_plaintext_auth=True),
        "?ehlo_domain=a.example": lambda url: SmtpConnection.from_url(url, timeout=5, ehlo_domain="b.example"),
        ",127.0.0.1": lambda url: SmtpConnection.from_url(url, timeout=5),
        "?max_size=0": ConnectionPool.from_url,
        "?max_size=1": lambda url: ConnectionPool.from_url(url, credentials=("u", "p")),
        "?name=pool": lambda url: ConnectionPool.from_url(url, timeout=5, allow_plaintext_auth=True).noop(),
        ",127.0.0.2": mailer_options,
        "?sleep=1": mailer_options,
    }
    for rest, call in calls.items():
        with pytest.raises((SmtpError, TypeError)) as refused:
            call(f"smtp://user:hunter2@{place}{rest}")
        assert "hunter2" not in rendered(refused.value), rest


def test_a_connection_and_a_pool_come_from_the_url_of_a_server(server: LoopbackServer) -> None:
    with SmtpConnection.from_url(server.url, timeout=5) as connection:
        assert connection.send("a@example.com", ["b@example.com"], b"x\r\n", timeout=5).all_delivered
    with ConnectionPool.from_url(f"{server.url}?max_size=2", timeout=5, max_size=3) as pool:
        assert pool.send("a@example.com", ["b@example.com"], b"x\r\n").all_delivered
        assert pool.stats().max_size == 3, "keywords of the call win over the query"


@pytest.mark.parametrize(
    ("suffix", "keywords"),
    [
        ("?ehlo_domain=a.example.com", {"ehlo_domain": "b.example.com"}),
        ("?timeout=5", {}),
        ("?max_size=5", {}),
    ],
)
def test_what_a_connection_cannot_take_from_a_url_is_refused(suffix: str, keywords: dict[str, Any]) -> None:
    with pytest.raises(InvalidInputError):
        SmtpConnection.from_url(f"smtp://127.0.0.1:1{suffix}", timeout=5, **keywords)
    with pytest.raises(InvalidInputError):
        SmtpConnection.from_url("smtp://user:secret@127.0.0.1:1", timeout=5, credentials=("user", "secret"))
    with pytest.raises(InvalidInputError):
        SmtpConnection.from_url("smtp://127.0.0.1:1,127.0.0.2:1", timeout=5)


@pytest.mark.parametrize("url", ["smtp://mail.example.com?trust=certifi", "lmtp://mail.example.com?server_name=a.example"])
def test_a_url_that_verifies_nothing_is_told_in_words_of_urls_what_to_write(url: str) -> None:
    """users:U16: `trust` and `server_name` are for TLS, which these schemes do not ask for."""
    with pytest.raises(InvalidInputError, match=r"trust, server_name.*submission://, smtps:// or \?tls="):
        ConnectionPool.from_url(url)
