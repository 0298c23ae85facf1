"""`smtpconn.contrib.django` under a real Django, of the 5.2 line and of the line that has MAILERS (users 8)."""

from __future__ import annotations

import contextlib
import email.message
import logging
import os
import pickle
import runpy
import smtplib
import threading
import time
import urllib.request
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import django
import pytest
import waitress.server
from django.conf import settings
from django.core import mail
from django.core.exceptions import ImproperlyConfigured
from django.core.management import call_command
from django.core.wsgi import get_wsgi_application
from django.test.utils import override_settings, setup_test_environment, teardown_test_environment

from smtpconn import InvalidInputError, SendResult
from smtpconn.contrib import compat
from smtpconn.contrib.backends import registry
from smtpconn.contrib.django import EmailBackend, close_pools, mailer_options, message_sent
from smtpconn.testing import LoopbackServer, TestAuthority

HAS_MAILERS = hasattr(mail, "mailers")
BACKEND = "smtpconn.contrib.django.EmailBackend"
EXAMPLES = Path(__file__).with_name("examples")
SECRET = "the-secret-itself"

if not settings.configured:
    settings.configure(
        SECRET_KEY="of the tests",
        ALLOWED_HOSTS=["127.0.0.1"],
        ROOT_URLCONF=f"{__package__}.django_project.urls" if __package__ else "django_project.urls",
        DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
        INSTALLED_APPS=["mailer", "post_office"],
        TEMPLATES=[{"BACKEND": "django.template.backends.django.DjangoTemplates"}],
        DEFAULT_AUTO_FIELD="django.db.models.AutoField",
        ADMINS=["root@example.com"] if HAS_MAILERS else [("Root", "root@example.com")],
        USE_TZ=True,
    )
    django.setup()

Configure = Callable[..., contextlib.AbstractContextManager[None]]


@pytest.fixture(autouse=True)
def pools() -> Iterator[None]:
    yield
    close_pools(timeout=5)
    assert repr(registry) == "<Registry of 0 pools>"


@contextlib.contextmanager
def old_settings(**options: Any) -> Iterator[None]:
    """`EMAIL_*` and `SMTPCONN`, which a Django with MAILERS takes with a warning."""
    names = {"host": "HOST", "port": "PORT", "username": "HOST_USER", "password": "HOST_PASSWORD", "use_tls": "USE_TLS",
             "use_ssl": "USE_SSL", "timeout": "TIMEOUT"}  # fmt: skip
    email_settings = {f"EMAIL_{names[name]}": value for name, value in options.items() if name in names}
    own = {name: value for name, value in options.items() if name not in names}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with override_settings(EMAIL_BACKEND=BACKEND, SMTPCONN=own, **email_settings):
            yield


@contextlib.contextmanager
def mailers(**options: Any) -> Iterator[None]:
    with override_settings(MAILERS={"default": {"BACKEND": BACKEND, "OPTIONS": options}}):
        yield


def where(server: LoopbackServer) -> dict[str, Any]:
    return {"host": server.host, "port": server.port, "timeout": 10}


@pytest.fixture(params=["settings", *(["mailers"] if HAS_MAILERS else [])])
def configured(request: pytest.FixtureRequest) -> Configure:
    """Each way that the running Django has of being configured."""
    made: Configure = mailers if request.param == "mailers" else old_settings
    return made


def backend(**overriding: Any) -> EmailBackend:
    """The backend that the settings mean, as Django makes it."""
    if HAS_MAILERS and not overriding:
        made = mail.mailers["default"]
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            made = mail.get_connection(**overriding)
    assert isinstance(made, EmailBackend)
    return made


def a_mail(*to: str, **options: Any) -> mail.EmailMessage:
    return mail.EmailMessage("Hello", "The text.", "app@example.com", list(to) or ["ben@example.net"], **options)


# --- one pool ---


def test_a_hundred_calls_of_send_mail_use_one_connection(configured: Configure, server: LoopbackServer) -> None:
    """users:DJ1, DJ3, DJ4, DJ8, DJ12, DJ23, MG2: Django's own backend makes a hundred."""
    with configured(**where(server)):
        for number in range(100):
            assert mail.send_mail("Hello", "The text.", "app@example.com", [f"r{number}@example.net"]) == 1
    assert server.received == 100
    assert server.connections_total == 1


def test_threads_share_the_pool_and_never_exceed_its_size(configured: Configure, server: LoopbackServer) -> None:
    """users:DJ8, DJ21, U29: each thread with backends of its own, and one instance for all of them."""
    with configured(**where(server), pool={"max_size": 3}):
        shared = backend()
        with ThreadPoolExecutor(8) as threads:
            own = [threads.submit(lambda: a_mail().send()) for _ in range(40)]
            same = [threads.submit(lambda: shared.send_messages([a_mail()])) for _ in range(40)]
            assert [future.result() for future in own + same] == [1] * 80
    assert server.received == 80
    assert server.connections_peak <= 3


def test_a_view_under_a_threaded_server_sends_for_fifty_clients_over_few_connections(
    configured: Configure, server: LoopbackServer
) -> None:
    """users:DJ8, DJ21, MG2: a Django project behind waitress; a connection that died in between is never seen."""
    with configured(**where(server), pool={"max_size": 4}):
        site = waitress.server.create_server(get_wsgi_application(), host="127.0.0.1", port=0, threads=16)
        thread = threading.Thread(target=site.run)
        thread.start()
        try:

            def visit(number: int) -> bytes:
                url = f"http://127.0.0.1:{site.effective_port}/signup?to=r{number}@example.net"
                with urllib.request.urlopen(url, timeout=30) as answer:  # our own, on loopback
                    body: bytes = answer.read()
                return body

            with ThreadPoolExecutor(50) as clients:
                assert list(clients.map(visit, range(50))) == [b"1"] * 50
                server.close_idle("421 4.4.2 Idle too long")
                server.wait_for_connections(0, 10)  # before it counts new ones beside them
                assert list(clients.map(visit, range(50, 100))) == [b"1"] * 50
        finally:
            site.trigger.pull_trigger(site.close)  # in its own thread, between two requests
            thread.join(30)
            site.task_dispatcher.shutdown()
    assert {mail.recipients[0] for mail in server.mails} == {f"r{number}@example.net" for number in range(100)}
    assert server.connections_peak <= 4


def test_equal_configurations_share_a_pool_and_others_do_not(configured: Configure, server: LoopbackServer) -> None:
    """users:DJ8, U59: one check for each item that makes a difference."""
    same = {**where(server), "username": "user", "password": SECRET, "allow_plaintext_auth": True}
    other: list[dict[str, Any]] = [
        {"port": server.port + 1}, {"host": "127.0.0.2"}, {"username": "other"}, {"password": "other"}, {"timeout": 9},
        {"use_tls": True}, {"use_ssl": True}, {"ehlo_domain": "a.example.com"}, {"source_address": "127.0.0.1"},
        {"pipelining": "off"}, {"pool": {"max_size": 2}}, {"timeouts": {"mail": 5}}, {"protocol": "lmtp"},
        {"use_tls": True, "server_name": "mx.example.com"}, {"use_tls": True, "trust": "certifi"},
    ]  # fmt: skip
    with configured(**same):
        first, second = backend(), backend()
        assert first is not second
        assert first.pool is second.pool
        pools = {id(first.pool): first.pool}
    for difference in other:
        with configured(**{**same, **difference}):
            found = backend().pool
            assert found not in pools.values(), difference
            pools[id(found)] = found
    assert server.connections_total == 0


@pytest.mark.skipif(not HAS_MAILERS, reason="this Django has no MAILERS")
def test_two_aliases_of_one_configuration_share_a_pool_that_has_the_name_of_the_first(server: LoopbackServer) -> None:
    """users:DJ8."""
    entry = {"BACKEND": BACKEND, "OPTIONS": where(server)}
    with override_settings(MAILERS={"default": entry, "bulk": entry}):
        assert mail.mailers["bulk"].pool is mail.mailers["default"].pool
        assert a_mail().send(using="bulk") == 1
        assert mail.mailers["default"].pool.stats().name == "bulk"


# --- configuration ---


def test_making_a_backend_opens_nothing_and_reads_no_DNS(
    configured: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    """users:DJ9: an address that nobody answers, and a name that does not exist."""

    def never(*arguments: Any, **keywords: Any) -> None:
        raise AssertionError("asked the network")

    monkeypatch.setattr("socket.getaddrinfo", never)
    monkeypatch.setattr("socket.getfqdn", never)
    monkeypatch.setattr("socket.socket.connect", never)
    for host in ("192.0.2.1", "does-not-exist.invalid"):
        with configured(host=host, port=25):
            made = backend()
            assert made.connection is None
            made.close()
            call_command("check")


@pytest.mark.skipif(not HAS_MAILERS, reason="this Django has no MAILERS")
@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({"host": "mx.test", "pol": {}}, "'pol'"),
        ({"host": "mx.test", "use_tls": True, "use_ssl": True}, "exclude each other"),
        ({"port": 25}, "'host'"),
        ({"host": "mx.test", "pool": {"max_sise": 4}}, "'max_sise'"),
        ({"host": "mx.test", "pool": {"max_size": 0}}, "max_size"),
        ({"host": "mx.test", "timeouts": {"male": 4}}, "'male'"),
        ({"host": "mx.test", "pipelining": "burst"}, "pipelining"),
        ({"host": "mx.test", "partial_failure": "ignore"}, "partial_failure"),
        ({"host": "mx.test", "trust": "certifi"}, "use_tls"),
        ({"host": "mx.test", "username": "user", "credentials": "a.b"}, "credentials"),
        ({"host": "mx.test", "credentials": "nodots"}, "credentials"),
        ({"host": "mx test"}, "host"),
        ({"host": "mx.test", "smtputf8": "yes"}, "smtputf8"),
        ({"host": "mx.test", "timeout": 0}, "timeout"),
        ({"host": "mx.test", "pool": 4}, "pool"),
    ],
)
def test_a_mailer_that_cannot_be_is_an_InvalidMailer_that_names_what_is_wrong(
    options: dict[str, Any], names: str
) -> None:
    """users:DJ4, DJ5."""
    with mailers(**options), pytest.raises(mail.InvalidMailer, match=names) as caught:
        mail.mailers["default"]  # made by being asked for
    assert "MAILERS['default']" in str(caught.value)


@pytest.mark.skipif(not HAS_MAILERS, reason="this Django has no MAILERS")
def test_with_an_alias_no_old_setting_is_read_and_the_port_follows_TLS() -> None:
    """users:DJ4."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ports = []
        for tls in ({}, {"use_tls": True}, {"use_ssl": True}):
            with override_settings(MAILERS={"default": {"BACKEND": BACKEND, "OPTIONS": {"host": "mx.test", **tls}}}):
                made = mail.mailers["default"]
                assert (made.username, made.password, made.timeout) == (None, None, None)
                ports.append(made.port)
    assert ports == [25, 587, 465]


def test_an_unknown_key_of_SMTPCONN_and_both_TLS_switches_are_refused() -> None:
    """users:DJ3."""
    with old_settings(host="mx.test", pol={}), pytest.raises(ImproperlyConfigured, match=r"SMTPCONN: .*'pol'"):
        EmailBackend()
    with old_settings(host="mx.test", pool={"max_sise": 1}), pytest.raises(ImproperlyConfigured, match="max_sise"):
        EmailBackend()
    with old_settings(host="mx.test", use_tls=True, use_ssl=True), pytest.raises(ValueError, match="exclude"):
        EmailBackend()


def test_what_is_not_given_comes_from_the_settings_and_what_is_given_wins() -> None:
    """users:DJ2, DJ3: as Django's own backend, which also takes an empty host for none."""
    with old_settings(host="mx.test", port=2525, username="user", password="secret", use_tls=True, timeout=7):
        made = EmailBackend(host="", port=26, username="other", use_tls=False, timeout=3)
    shown = (made.host, made.port, made.username, made.password, made.use_tls, made.use_ssl, made.timeout)
    assert shown == ("mx.test", 26, "other", "secret", False, False, 3)


def test_the_password_is_in_no_repr_pickle_or_registry(
    configured: Configure, caplog: pytest.LogCaptureFixture
) -> None:
    """users:DJ8, NO5: nor in the exceptions and records of a login that fails."""
    with LoopbackServer(auth={"user": "another"}, mechanisms=("PLAIN",)) as server:
        options = {**where(server), "username": "user", "password": SECRET, "allow_plaintext_auth": True}
        with caplog.at_level(logging.DEBUG), configured(**options):
            made = backend()
            with pytest.raises(smtplib.SMTPAuthenticationError) as caught:
                made.send_messages([a_mail()])
            with pytest.raises(TypeError):
                pickle.dumps(made)
            shown = [repr(made), repr(made.pool), repr(registry), repr(vars(registry)), repr(made._configuration.key)]
            shown += [str(caught.value), repr(caught.value), pickle.dumps(caught.value).decode("latin-1"), caplog.text]
    assert SECRET not in "".join(shown)


def test_a_login_happens_where_user_and_password_are_both_there(configured: Configure) -> None:
    """users:DJ6, XT22; in clear only with consent."""
    with LoopbackServer(auth={"user": SECRET}, mechanisms=("PLAIN",), require_auth=False) as server:
        for username, password in (("user", ""), ("", SECRET), ("", "")):
            with configured(**where(server), username=username, password=password):
                assert a_mail().send() == 1
        in_clear = configured(**where(server), username="user", password=SECRET)
        with in_clear, pytest.raises(smtplib.SMTPAuthenticationError, match="allow_plaintext_auth"):
            a_mail().send()
        with configured(**where(server), username="user", password=SECRET, allow_plaintext_auth=True):
            assert a_mail().send() == 1
    users = [session.user for session in server.sessions if session.transactions]
    assert users == [None, None, None, "user"]


def token() -> Any:
    """What `credentials` names."""
    from smtpconn import PasswordAuth

    return PasswordAuth("user", SECRET)


def test_TLS_is_verified_and_a_private_CA_and_credentials_by_name_are_options(configured: Configure) -> None:
    """users:DJ2, DJ5, U15, U16."""
    with TestAuthority() as ca:
        for tls, switch in (("starttls", "use_tls"), ("implicit", "use_ssl")):
            with LoopbackServer(tls=tls, ca=ca, auth={"user": SECRET}) as server:  # type: ignore[arg-type]  # a literal
                with configured(**where(server), **{switch: True}), pytest.raises(compat.SMTPCertificateFailed):
                    a_mail().send()
                options = {switch: True, "trust": str(ca.path), "credentials": f"{token.__module__}.token"}
                with configured(**where(server), **options):
                    assert a_mail().send() == 1
                assert server.mails[0].session.user == "user"


def test_the_options_of_the_test_kit_are_options_of_a_backend(configured: Configure) -> None:
    """users:PT9."""
    with TestAuthority() as ca:
        servers = [
            LoopbackServer(tls="starttls", ca=ca, auth={"user": SECRET}),
            LoopbackServer(tls="implicit", ca=ca),
            LoopbackServer(protocol="lmtp", unix_socket=True),
        ]
        for server in servers:
            with server, configured(**server.django_options):
                assert a_mail().send() == 1


def test_own_options_reach_the_wire(configured: Configure) -> None:
    """users:DJ5: ehlo_domain, pipelining, protocol and unix_socket."""
    with LoopbackServer(protocol="lmtp", unix_socket=True) as server:
        options = {"unix_socket": server.unix_socket, "protocol": "lmtp", "ehlo_domain": "app.example.com"}
        with configured(**options, timeout=10, pipelining="off"):
            assert a_mail().send() == 1
    assert server.sessions[0].commands[:2] == ["LHLO", "MAIL"]
    assert server.sessions[0].ehlo_domain == "app.example.com"


def test_one_URL_serves_both_kinds_of_settings(configured: Configure) -> None:
    """users:URL17."""
    with TestAuthority() as ca, LoopbackServer(tls="starttls", ca=ca, auth={"user": SECRET}) as server:
        options = mailer_options(f"{server.url}&max_size=2&timeout=10&timeout.mail=5&ehlo_domain=a.example.com")
        with configured(**options):
            assert a_mail().send() == 1
            assert backend().pool.stats().max_size == 2
    assert server.mails[0].session.user == "user"
    assert server.sessions[0].ehlo_domain == "a.example.com"
    assert mailer_options("smtps://u:p@mx.test") == {
        "host": "mx.test", "port": 465, "use_ssl": True, "username": "u", "password": "p"}  # fmt: skip
    assert mailer_options("lmtp+unix:///run/lmtp") == {"unix_socket": "/run/lmtp", "protocol": "lmtp"}
    with pytest.raises(InvalidInputError, match="max_size"):
        mailer_options("smtp://mx.test?max_sise=2")
    with pytest.raises(InvalidInputError, match="one host"):
        mailer_options("smtp://a.test,b.test")


@pytest.mark.parametrize("example", ["settings_email", *(["settings_mailers"] if HAS_MAILERS else [])])
@pytest.mark.parametrize(
    "url", ["smtp://127.0.0.1:1025", "submission://u:p@mx.test?max_size=2", "smtps://u:p@mx.test?trust=certifi"]
)
def test_the_settings_of_the_documentation_take_every_url(
    example: str, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """users:URL16, URL17: with and without TLS, an account, or an option of the pool; and nothing is opened."""
    monkeypatch.setenv("EMAIL_URL", url)
    said = runpy.run_path(str(EXAMPLES / f"{example}.py"))
    settings_of_it = {name: value for name, value in said.items() if name.isupper()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore" if HAS_MAILERS else "default")  # of the old settings
        with override_settings(**settings_of_it):
            made = backend() if "MAILERS" in said else EmailBackend()
            assert made.pool.stats().max_size == (2 if "max_size" in url else 4)
            assert (made.use_tls, made.use_ssl) == (url.startswith("submission"), url.startswith("smtps"))
            assert (made.username or "") == ("u" if "u:p@" in url else "")
            assert made.timeout == 10


def test_a_change_of_settings_drops_the_pools(configured: Configure, server: LoopbackServer) -> None:
    """users:DJ22: idle connections at once, a leased one when it comes back."""
    with configured(**where(server)):
        a_mail().send()
        first = backend()
        pool = first.pool
        with first, override_settings(EMAIL_SUBJECT_PREFIX="[changed] "):
            assert backend().pool is not pool
            assert first.send_messages([a_mail()]) == 1
        assert pool.stats().leased == 0
        server.wait_for_connections(0, 10)


# --- open, close, send_messages ---


def test_open_says_what_it_did_and_close_gives_back(configured: Configure, server: LoopbackServer) -> None:
    """users:DJ10, DJ11, CM5."""
    with configured(**where(server)):
        made = backend()
        assert backend().connection is None
        assert made.open() is True
        assert made.open() is False
        assert made.connection is not None
        assert made.connection.noop() == (250, b"2.0.0 Ok")
        assert made.pool.stats().leased == 1
        assert made.send_messages([a_mail(), a_mail()]) == 2
        made.close()
        made.close()
        assert not vars(made)["connection"]
        assert made.pool.stats().leased == 0
        with backend() as opened:
            assert opened.connection
            assert opened.send_messages([a_mail()]) == 1
    assert server.connections_total == 1


def test_open_that_fails_raises_or_is_None(configured: Configure, caplog: pytest.LogCaptureFixture) -> None:
    """users:DJ10, DJ12, DJ20, XT3."""
    with LoopbackServer() as gone:
        options = {**where(gone), "timeout": 0.5}
    with configured(**options):
        made = backend()
        with pytest.raises(compat.SMTPConnectFailed):
            made.open()
        close_pools()  # a pool that has just failed waits before it tries again
        with pytest.raises(compat.SMTPConnectFailed):
            made.send_messages([a_mail()])
        silent = backend(fail_silently=True)
        close_pools()
        assert silent.open() is None
        assert silent.connection is None
        close_pools()
        assert silent.send_messages([a_mail(), a_mail()]) == 0
        close_pools()
        with silent as entered:
            assert entered.connection is None
        silent.close()
    swallowed = [record.getMessage() for record in caplog.records if record.name == "smtpconn.contrib.backends"]
    assert [text.split(" at ")[0] for text in swallowed] == ["fail_silently: SMTPConnectFailed"] * 3
    assert {record.levelno for record in caplog.records if record.name.startswith("smtpconn.contrib")} == {30}


def test_nothing_to_send_makes_no_connection(configured: Configure, server: LoopbackServer) -> None:
    """users:DJ12."""
    with configured(**where(server)):
        assert backend().send_messages([]) == 0
        assert backend().send_messages([mail.EmailMessage("Hello", "The text.", "app@example.com", [])]) == 0
        assert server.connections_total == 0
        nobody = mail.EmailMessage("Hello", "The text.", "app@example.com", [])
        assert backend().send_messages([a_mail(), nobody, a_mail()]) == 2


def test_the_first_error_ends_a_batch_unless_it_is_to_fail_silently(
    configured: Configure, server: LoopbackServer, caplog: pytest.LogCaptureFixture
) -> None:
    """users:DJ14, DJ20, U46: five messages, the second is refused; by the pool, and by a connection that is open."""
    server.refuse("second@example.net", "550 5.1.1 No such user")

    def five() -> list[mail.EmailMessage]:
        return [a_mail(f"{name}@example.net") for name in ("first", "second", "third", "fourth", "fifth")]

    with configured(**where(server)):
        for opened in (False, True):
            server.clear()
            made, silent = backend(), backend(fail_silently=True)
            if opened:
                made.open()
                silent.open()
            with pytest.raises(smtplib.SMTPRecipientsRefused) as caught:
                made.send_messages(five())
            assert caught.value.recipients == {"second@example.net": (550, b"5.1.1 No such user")}
            assert [mail.recipients for mail in server.mails] == [["first@example.net"]]
            server.clear()
            caplog.clear()
            assert silent.send_messages(five()) == 4
            assert len(server.mails) == 4
            record = next(record for record in caplog.records if "fail_silently" in record.getMessage())
            shown = record.getMessage()
            assert "SMTPRecipientsRefused at RCPT" in shown
            assert "not delivered" in shown
            assert "second@example.net" not in shown
            assert "message <" in shown
            made.close()
            silent.close()


def test_an_address_that_cannot_be_is_a_ValueError_even_silently(configured: Configure, server: LoopbackServer) -> None:
    """users:DJ15, DJ20, U44: nothing leaves."""
    with configured(**where(server)):
        for bad in ("a@b.c>\r\nRSET", "no one", "a@b@c", "jörg@example.net"):
            with pytest.raises(ValueError):
                backend(fail_silently=True).send_messages([a_mail(bad)])
    assert server.received == 0


@pytest.mark.parametrize("opened", [False, True])
def test_a_connection_that_the_server_closed_is_never_seen(
    configured: Configure, server: LoopbackServer, opened: bool
) -> None:
    """users:DJ13, U5, U6: between messages, with and without open(); nothing needs close() to heal."""
    with configured(**where(server)):
        made = backend()
        if opened:
            made.open()
        for _ in range(3):
            assert made.send_messages([a_mail()]) == 1
            server.close_idle("421 4.4.2 Idle too long")
            assert made.send_messages([a_mail(), a_mail()]) == 2
        server.reply("MAIL", "421 4.3.2 Shutting down", nth=1)
        assert made.send_messages([a_mail()]) == 1
        made.close()
    assert server.received == 10


def test_a_message_whose_fate_is_not_known_is_not_counted_and_not_repeated(
    configured: Configure, server: LoopbackServer
) -> None:
    """users:DJ19, XT8, U25."""
    server.fault("end of data", "EOF", nth=1)
    with configured(**where(server)):
        with pytest.raises(compat.SMTPDeliveryUnknown):
            backend().send_messages([a_mail("first@example.net"), a_mail("second@example.net")])
        assert [mail.recipients for mail in server.mails] == [["first@example.net"]]
        server.fault("end of data", "EOF", nth=1)
        assert backend(fail_silently=True).send_messages([a_mail(), a_mail()]) == 1


def test_some_refused_recipients_are_published_and_the_message_counts(
    configured: Configure, server: LoopbackServer, caplog: pytest.LogCaptureFixture
) -> None:
    """users:DJ17, DJ18, U23."""
    server.refuse("nobody@example.net", "550 5.1.1 No such user")
    told: list[tuple[type, SendResult, str | None]] = []

    def receiver(sender: type, message: Any, result: SendResult, alias: str | None, **_: Any) -> None:
        told.append((sender, result, alias))

    def failing(**_: Any) -> None:
        raise RuntimeError("of the receiver")

    message_sent.connect(failing)
    message_sent.connect(receiver)
    try:
        with configured(**where(server)):
            message = a_mail("ben@example.net", "nobody@example.net", "carl@example.net")
            assert message.send() == 1
    finally:
        message_sent.disconnect(failing)
        message_sent.disconnect(receiver)
    result = message.smtpconn_result
    assert [entry.address for entry in result.rejected] == ["nobody@example.net"]
    assert result.queue_id
    assert [(sender, found) for sender, found, _ in told] == [(EmailBackend, result)]
    assert told[0][2] == ("default" if configured is mailers else None)
    warned = [record for record in caplog.records if record.name.startswith("smtpconn.contrib")]
    assert [record.getMessage() for record in warned] == [
        "recipient 1 of a message was refused: 550 5.1.1",
        next(record.getMessage() for record in warned if "receiver" in record.getMessage()),
    ]
    assert {record.levelname for record in caplog.records if record.levelno >= logging.WARNING} == {"WARNING"}


def test_partial_failure_raise_tells_after_the_message_went_out(configured: Configure, server: LoopbackServer) -> None:
    """users:DJ18, XT8a: never the exception that means that nobody has it."""
    server.refuse("nobody@example.net", "550 5.1.1 No such user")
    with configured(**where(server), partial_failure="raise"):
        with pytest.raises(compat.SMTPSomeRecipientsRefused) as caught:
            a_mail("ben@example.net", "nobody@example.net").send()
        assert not isinstance(caught.value, smtplib.SMTPRecipientsRefused)
        assert caught.value.recipients == {"nobody@example.net": (550, b"5.1.1 No such user")}
        silent = backend(fail_silently=True)
        assert silent.send_messages([a_mail("ben@example.net", "nobody@example.net")]) == 1
    assert server.received == 2


def test_LMTP_follows_the_same_rules_by_final_replies(configured: Configure) -> None:
    """users:DJ18."""
    with LoopbackServer(protocol="lmtp") as server:
        server.refuse("full@example.net", "452 4.2.2 Full", when="data")
        with configured(**where(server), protocol="lmtp"):
            message = a_mail("ben@example.net", "full@example.net")
            assert message.send() == 1
            assert [entry.address for entry in message.smtpconn_result.rejected] == ["full@example.net"]
            with pytest.raises(smtplib.SMTPRecipientsRefused):
                a_mail("full@example.net").send()


# --- octets and addresses ---


def test_octets_are_djangos_and_go_in_seven_bits_only_where_they_must(configured: Configure) -> None:
    """users:DJ16, U39."""
    with LoopbackServer() as taking, LoopbackServer(extensions=("PIPELINING", "SIZE")) as seven:
        contents = []
        for server in (taking, seven):
            with configured(**where(server)):
                message = a_mail(headers={"Message-ID": "<1@example.com>", "Date": "Sat, 28 Nov 2026 08:00:00 +0000"})
                message.subject, message.body = "Grüße", "Größe: 5 m²\nünd ein langer Satz, der nicht kurz ist.\n"
                assert message.send() == 1
            contents.append(server.mails[0])
    for found in contents:
        assert found.message["Subject"] == "Grüße"
        assert "Größe: 5 m²" in found.message.get_content()
    assert contents[1].content.isascii()


def test_signed_octets_are_never_encoded_anew(configured: Configure) -> None:
    """users:DJ16: a signature over other octets is worse than a refusal."""
    with LoopbackServer(extensions=("PIPELINING",)) as server, configured(**where(server)):

        class Octets(email.message.Message):
            def as_bytes(self, *_: Any, **__: Any) -> bytes:
                return b"From: a@example.com\r\nDKIM-Signature: v=1; a=x\r\n\r\nGr\xc3\xbc\xc3\x9fe\r\n"

        class Signed(mail.EmailMessage):
            def message(self, *, policy: Any = None) -> Any:
                return Octets()

        with pytest.raises(smtplib.SMTPNotSupportedError, match="8BITMIME"):
            backend().send_messages([Signed("s", "b", "app@example.com", ["ben@example.net"])])
    assert server.received == 0


def test_addresses_are_converted_as_django_does_and_SMTPUTF8_is_an_option(configured: Configure) -> None:
    """users:DJ15, U38."""
    with LoopbackServer() as server:
        with configured(**where(server)):
            message = a_mail("Ben <ben@bücher.example>")
            message.from_email = "Größe AG <app@example.com>"
            assert message.send() == 1
            with pytest.raises(ValueError):
                a_mail("jörg@example.net").send()
        with configured(**where(server), smtputf8=True):
            assert a_mail("jörg@example.net").send() == 1
    assert server.mails[0].recipients == ["ben@xn--bcher-kva.example"]
    assert server.mails[0].sender == "app@example.com"
    assert server.mails[1].recipients == ["jörg@example.net"]
    assert "SMTPUTF8" in server.mails[1].mail_params
    assert "jörg@example.net".encode() in server.mails[1].content


# --- around it ---


def test_django_around_it_works_unchanged(configured: Configure, server: LoopbackServer) -> None:
    """users:DJ23: `mail_admins`, `AdminEmailHandler`, `sendtestemail`, `send_mass_mail`, `connection=`."""
    from django.utils.log import AdminEmailHandler

    with configured(**where(server)), warnings.catch_warnings():
        mail.mail_admins("Hello", "admins")
        if HAS_MAILERS:
            warnings.simplefilter("ignore")  # of the old settings, and of `connection=`
        with mail.get_connection(BACKEND, **where(server)) if configured is old_settings else backend() as held:
            given = ("Hello", "The text.", "app@example.com", ["held@example.net"])
            assert mail.send_mail(*given, connection=held) == mail.EmailMessage(*given, connection=held).send() == 1
        mail.send_mass_mail([("Hello", "mass", "app@example.com", [f"r{n}@example.net"]) for n in range(3)])
        call_command("sendtestemail", "ops@example.com")
        logger = logging.getLogger("smtpconn.tests.admin")
        handler = AdminEmailHandler()
        logger.addHandler(handler)
        try:
            logger.error("something broke")
        finally:
            logger.removeHandler(handler)
    recipients = sorted(mail.recipients[0] for mail in server.mails)
    assert recipients == [
        "held@example.net", "held@example.net", "ops@example.com", "r0@example.net", "r1@example.net", "r2@example.net",
        "root@example.com", "root@example.com",
    ]  # fmt: skip
    assert server.connections_total == 1


def test_the_handler_that_mails_errors_is_not_fed_by_a_server_that_refuses_everything(
    configured: Configure, server: LoopbackServer
) -> None:
    """users:U47, LG6."""
    from django.utils.log import AdminEmailHandler

    server.refuse("root@example.com", "550 5.1.1 No such user")
    root = logging.getLogger()
    handler = AdminEmailHandler()
    handler.setLevel(logging.ERROR)
    root.addHandler(handler)
    try:
        with configured(**where(server)), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with contextlib.suppress(smtplib.SMTPException):  # with MAILERS the handler lets it pass
                logging.getLogger("an.application").error("something broke")
    finally:
        root.removeHandler(handler)
    assert [session.transactions for session in server.sessions] == [1]


def test_the_test_runners_swap_to_locmem_keeps_everything_off_the_wire(
    configured: Configure, server: LoopbackServer
) -> None:
    """users:DJ9, DJ23."""
    with configured(**where(server)):
        setup_test_environment()
        try:
            assert a_mail().send() == 1
            assert len(mail.outbox) == 1
        finally:
            teardown_test_environment()
        assert server.connections_total == 0
        assert a_mail().send() == 1
    assert server.received == 1


# --- queues on top ---


@pytest.fixture
def django_mailer(server: LoopbackServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], None]]:
    """Sends what is in the queue of django-mailer, which has the old settings only."""
    from mailer.engine import send_all

    monkeypatch.syspath_prepend(str(EXAMPLES))
    handler = "mailer_errors.keep_out_what_is_in_doubt"
    with old_settings(**where(server)), override_settings(
        MAILER_EMAIL_BACKEND=BACKEND, MAILER_ERROR_HANDLER=handler, MAILER_USE_FILE_LOCK=False
    ):
        call_command("migrate", verbosity=0)
        yield send_all
        call_command("flush", verbosity=0, interactive=False)


def test_django_mailer_sends_its_queue_and_defers_what_is_refused(
    server: LoopbackServer, django_mailer: Callable[[], None]
) -> None:
    """users:XT14, U5: a connection that the server closed, also in the middle of a run, is never seen."""
    from mailer import models, send_mail

    server.refuse("nobody@example.net", "550 5.1.1 No such user")
    for to in ("first@example.net", "nobody@example.net", "third@example.net"):
        send_mail("Hello", "The text.", "app@example.com", [to])
    django_mailer()
    assert sorted(mail.recipients[0] for mail in server.mails) == ["first@example.net", "third@example.net"]
    assert models.Message.objects.deferred().count() == 1
    server.clear_rules()
    server.close_idle()
    models.Message.objects.retry_deferred()
    django_mailer()
    assert models.Message.objects.count() == 0
    for number in range(3):
        send_mail("Hello", "The text.", "app@example.com", [f"r{number}@example.net"])
    server.reply("MAIL", "421 4.4.2 Idle too long", nth=2)
    django_mailer()
    assert models.Message.objects.count() == 0
    assert server.received == 6


def test_django_mailer_with_the_handler_of_the_documentation_never_sends_again_what_is_in_doubt(
    server: LoopbackServer, django_mailer: Callable[[], None]
) -> None:
    """users:DJ19, XT8, U25: by default it would wait in the queue until all that is deferred is tried again."""
    from mailer import models, send_mail

    server.fault("end of data", "EOF", nth=1)
    for to in ("first@example.net", "second@example.net"):
        send_mail("Hello", "The text.", "app@example.com", [to])
    django_mailer()
    models.Message.objects.retry_deferred()
    django_mailer()
    assert [mail.recipients for mail in server.mails] == [["first@example.net"], ["second@example.net"]]
    assert models.Message.objects.count() == 0
    assert models.MessageLog.objects.filter(result=models.RESULT_FAILURE).count() == 1


@pytest.fixture
def post_office(configured: Configure, server: LoopbackServer, tmp_path: Path) -> Iterator[Callable[[], None]]:
    """Sends what is in the queue of django-post_office, in each of the ways that it knows of being configured."""
    own: dict[str, Any] = {} if configured is mailers else {"BACKENDS": {"default": BACKEND}}
    with configured(**where(server)), override_settings(POST_OFFICE={**own, "THREADS_PER_PROCESS": 4}):
        call_command("migrate", verbosity=0)
        yield lambda: call_command("send_queued_mail", lockfile=str(tmp_path / "lock"), verbosity=0)
        call_command("flush", verbosity=0, interactive=False)


def test_django_post_office_sends_its_queue_by_threads_and_marks_what_is_refused(
    server: LoopbackServer, post_office: Callable[[], None]
) -> None:
    """users:XT14, U5: a connection that the server closed in between is never seen."""
    from post_office import mail as office
    from post_office.models import STATUS, Email, Log

    def queue(*names: str) -> None:
        for name in names:
            office.send(f"{name}@example.net", "app@example.com", subject="Hello", message="The text.")

    server.refuse("nobody@example.net", "550 5.1.1 No such user")
    queue("nobody", *(f"a{number}" for number in range(12)))
    post_office()
    assert [email.to for email in Email.objects.filter(status=STATUS.failed)] == [["nobody@example.net"]]
    assert [log.exception_type for log in Log.objects.filter(status=STATUS.failed)] == ["SMTPRecipientsRefused"]
    server.close_idle("421 4.4.2 Idle too long")
    queue(*(f"b{number}" for number in range(12)))
    post_office()
    server.reply("MAIL", "421 4.4.2 Idle too long", nth=2)
    queue(*(f"c{number}" for number in range(12)))
    post_office()
    assert Email.objects.filter(status=STATUS.sent).count() == 36
    expected = {f"{name}{number}@example.net" for name in "abc" for number in range(12)}
    assert sorted(mail.recipients[0] for mail in server.mails) == sorted(expected)
    assert server.connections_peak <= 4


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_forked_child_sends_by_connections_of_its_own(configured: Configure, server: LoopbackServer) -> None:
    """users:DJ21, U28: with a connection idle in the parent, and one open in the backend that both hold."""
    with configured(**where(server)):
        a_mail("before@example.net").send()
        held = backend()
        held.open()
        status = 1
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Python 3.12 warns of threads: the server's
            pid = os.fork()
        if pid == 0:
            try:
                sent = a_mail("child@example.net").send()
                held.close()
                sent += held.send_messages([a_mail("held@example.net")])
                status = 0 if sent == 2 else 3
            finally:
                os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert held.send_messages([a_mail("after@example.net")]) == 1
        held.close()
    by_session = {mail.recipients[0].split("@")[0]: mail.session.index for mail in server.mails}
    assert by_session["after"] == by_session["before"]
    assert by_session["child"] == by_session["held"] != by_session["before"]


def test_a_message_waits_for_a_connection_no_longer_than_its_timeout(server: LoopbackServer) -> None:
    """users:DJ7, XT7: for `open()` the bound of acquiring, for a message the total."""
    with old_settings(**{**where(server), "timeout": 0.2}, pool={"max_size": 1}):
        holder = EmailBackend()
        holder.open()
        began = time.monotonic()
        with pytest.raises(compat.SMTPPoolTimeout):
            EmailBackend().open()
        with pytest.raises(compat.SMTPPoolTimeout):
            EmailBackend().send_messages([a_mail()])
        assert time.monotonic() - began < 10
        holder.close()


def test_pools_of_configurations_that_do_not_come_back_leave_nothing_open() -> None:
    """users:DJ8: `send_mail(auth_user=...)` makes a configuration for each user."""
    users = {f"u{number}": SECRET for number in range(12)}
    with LoopbackServer(auth=users, mechanisms=("PLAIN",)) as server:
        options = {**where(server), "allow_plaintext_auth": True, "pool": {"max_idle": 0.2}}
        with old_settings(**options):
            for user in users:
                assert EmailBackend(username=user, password=SECRET).send_messages([a_mail()]) == 1
                time.sleep(0.1)  # what expires here
            assert server.connections_now < len(users)
            assert len(registry._pools) < len(users)
        assert [mail.session.user for mail in server.mails] == list(users)


def test_threads_may_share_a_backend_whose_open_connection_dies(configured: Configure, server: LoopbackServer) -> None:
    """users:DJ13, DJ21: it is replaced once, and nothing is lost or leaked."""
    with configured(**where(server)):
        made = backend()
        made.open()
        made.send_messages([a_mail()])
        for _ in range(5):
            server.close_idle()
            with ThreadPoolExecutor(8) as threads:
                sent = [threads.submit(made.send_messages, [a_mail()]) for _ in range(8)]
                outcomes = [future.exception() for future in sent]
            assert outcomes == [None] * 8
        stats = made.pool.stats()
        assert (stats.leased, stats.leaks) == (1, 0)
        made.close()
    assert server.received == 41


def test_closed_pools_are_made_anew(server: LoopbackServer) -> None:
    """users:DJ22."""
    with old_settings(**where(server)):
        a_mail().send()
        close_pools(timeout=1)
        server.wait_for_connections(0, 10)
        assert a_mail().send() == 1


