"""`smtpconn.contrib.flask` under Flask-Mailman, and a pool of the module's own, behind a threaded server (users 9)."""

from __future__ import annotations

import contextlib
import functools
import os
import runpy
import smtplib
import subprocess
import sys
import threading
import urllib.parse
import urllib.request
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import flask
import flask_mail
import flask_mailman
import pytest
import waitress.server

from smtpconn.contrib import compat
from smtpconn.contrib.backends import registry
from smtpconn.contrib.flask import EmailBackend, close_pools
from smtpconn.testing import LoopbackServer, TestAuthority

from .examples import flask_pool

BACKEND = "smtpconn.contrib.flask.EmailBackend"


@pytest.fixture(autouse=True)
def pools() -> Iterator[None]:
    yield
    close_pools(timeout=5)


def application(server: LoopbackServer, **config: Any) -> flask.Flask:
    app = flask.Flask("app")
    app.config.update(
        MAIL_BACKEND=BACKEND, MAIL_SERVER=server.host, MAIL_PORT=server.port, MAIL_TIMEOUT=10,
        MAIL_DEFAULT_SENDER="app@example.com", **config,
    )  # fmt: skip
    flask_mailman.Mail(app)

    @app.post("/signup")
    def signup() -> str:
        message = flask_mailman.EmailMessage("Welcome", "Hello.", to=[flask.request.form["to"]])
        return str(message.send())

    return app


def a_mail(*to: str) -> Any:
    return flask_mailman.EmailMessage("Hello", "The text.", "app@example.com", list(to) or ["ben@example.net"])


@contextlib.contextmanager
def serving(app: Any, threads: int = 16) -> Iterator[str]:
    """The application behind waitress: its address."""
    site = waitress.server.create_server(app, host="127.0.0.1", port=0, threads=threads)
    thread = threading.Thread(target=site.run)
    thread.start()
    try:
        yield f"http://127.0.0.1:{site.effective_port}"
    finally:
        site.trigger.pull_trigger(site.close)  # in its own thread, between two requests
        thread.join(30)
        site.task_dispatcher.shutdown()


def sign_up(base: str, to: str) -> str:
    form = urllib.parse.urlencode({"to": to}).encode()
    with urllib.request.urlopen(f"{base}/signup", form, timeout=30) as answer:  # noqa: S310  # our own, on loopback
        body: bytes = answer.read()
    return body.decode()


def fifty(base: str, first: int) -> list[str]:
    """Fifty requests at once."""
    with ThreadPoolExecutor(50) as clients:
        everybody = [f"r{number}@example.net" for number in range(first, first + 50)]
        return list(clients.map(functools.partial(sign_up, base), everybody))


def test_FL5_fifty_requests_at_once_go_over_few_connections_and_a_stale_one_is_never_seen(
    server: LoopbackServer,
) -> None:
    """users:FL3, FL5, MG3: Flask-Mailman with one changed setting."""
    with serving(application(server, MAIL_SMTPCONN={"pool": {"max_size": 4}})) as base:
        assert fifty(base, 0) == ["1"] * 50
        server.close_idle("421 4.4.2 Idle too long")
        server.wait_for_connections(0, 10)  # before it counts new ones beside them
        assert fifty(base, 50) == ["1"] * 50
    assert {mail.recipients[0] for mail in server.mails} == {f"r{number}@example.net" for number in range(100)}
    assert server.connections_peak <= 4


def test_FL5_a_pool_of_the_application_serves_fifty_requests_at_once(server: LoopbackServer) -> None:
    """users:FL1, FL2, FL5, MG3: the recipe of the documentation, which needs no extension."""
    app = flask_pool.create_app({"EMAIL_URL": server.url})
    assert server.connections_total == 0
    with serving(app) as base:
        assert set(fifty(base, 0)) == {"delivered"}
        server.close_idle()
        server.wait_for_connections(0, 10)  # before it counts new ones beside them
        assert set(fifty(base, 50)) == {"delivered"}
        server.refuse("nobody@example.net", "550 5.1.1 No such user")
        assert sign_up(base, "nobody@example.net") == "not delivered"
    assert server.connections_peak <= 4
    assert server.received == 100
    app.extensions["smtpconn"].close()


def test_settings_options_and_arguments_say_how(server: LoopbackServer) -> None:
    """users:FL3: arguments win over the extension's settings, which Flask-Mailman has read."""
    with TestAuthority() as ca, LoopbackServer(tls="starttls", ca=ca, auth={"user": "secret"}) as secure:
        app = application(
            secure, MAIL_USE_TLS=True, MAIL_USERNAME="user", MAIL_PASSWORD="secret",
            MAIL_SMTPCONN={"trust": str(ca.path), "ehlo_domain": "app.example.com"},
            MAIL_SEND_OPTIONS=["BODY=8BITMIME", "RET=HDRS"],
        )  # fmt: skip
        with app.app_context():
            assert a_mail().send() == 1
            other = EmailBackend(host=server.host, port=server.port, use_tls=False, username="", trust=None)
            assert other.send_messages([a_mail()]) == 1
            with pytest.raises(ValueError, match="exclude"):
                EmailBackend(use_ssl=True)
            with pytest.raises(ValueError, match="'pol'"):
                EmailBackend(pol={})
        assert secure.mails[0].session.user == "user"
        assert secure.mails[0].mail_params["RET"] == "HDRS"
        assert secure.sessions[0].ehlo_domain == "app.example.com"
    assert server.received == 1


def test_FL4_Flask_Mail_over_the_pool_keeps_what_it_does_for_tests(
    server: LoopbackServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """users:FL4: `MAIL_SUPPRESS_SEND`, `record_messages()`, `connect()`, and the default sender with a name."""
    monkeypatch.setenv("EMAIL_URL", server.url)
    example = runpy.run_path(str(Path(__file__).with_name("examples") / "flask_mail_app.py"))
    app, mail, pool = example["app"], example["mail"], example["pool"]
    with app.app_context(), pool:
        with mail.record_messages() as outbox:
            app.extensions["mail"].suppress = True  # what MAIL_SUPPRESS_SEND is to the extension
            app.test_client().post("/signup", data={"to": "suppressed@example.net"})
            app.extensions["mail"].suppress = False
            app.test_client().post("/signup", data={"to": "ben@example.net"})
        assert [message.recipients for message in outbox] == [["suppressed@example.net"], ["ben@example.net"]]
        with mail.connect() as connection:
            for number in range(3):
                connection.send(flask_mail.Message(f"N {number}", recipients=[("Größe, R", "r@example.net")], body="ü"))
            assert pool.stats().leased == 1
        assert pool.stats().leased == 0
    assert [found.recipients for found in server.mails] == [["ben@example.net"], *[["r@example.net"]] * 3]
    assert {found.sender for found in server.mails} == {"app@example.com"}
    assert server.mails[-1].message["To"] == '"Größe, R" <r@example.net>'
    assert server.connections_total == 1


def test_without_the_extension_there_is_no_backend() -> None:
    with flask.Flask("bare").app_context(), pytest.raises(RuntimeError, match="Flask-Mailman"):
        EmailBackend()


def test_the_rules_of_a_batch_are_djangos(server: LoopbackServer, caplog: pytest.LogCaptureFixture) -> None:
    """users:FL3, DJ8, DJ10, DJ12, DJ14, DJ17, DJ18, DJ20."""
    server.refuse("nobody@example.net", "550 5.1.1 No such user")
    with application(server).app_context():
        mailman = flask.current_app.extensions["mailman"]
        made = flask_mailman.Mail(flask.current_app).get_connection()
        assert isinstance(made, EmailBackend)
        assert made.pool is EmailBackend(mailman).pool
        assert made.send_messages([]) == 0
        assert server.connections_total == 0
        assert (made.open(), made.open()) == (True, False)
        some = a_mail("ben@example.net", "nobody@example.net")
        assert made.send_messages([some]) == 1
        assert [entry.address for entry in some.smtpconn_result.rejected] == ["nobody@example.net"]
        made.close()
        made.close()
        with made as opened:
            assert opened.connection is not None
        with pytest.raises(smtplib.SMTPRecipientsRefused):
            made.send_messages([a_mail("nobody@example.net")])
        silent = EmailBackend(fail_silently=True)
        assert silent.send_messages([a_mail(), a_mail("nobody@example.net"), a_mail()]) == 2
        with pytest.raises(ValueError, match="not ASCII"):
            silent.send_messages([a_mail("jörg@example.net")])
        server.fault("end of data", "EOF", nth=1)
        with pytest.raises(compat.SMTPDeliveryUnknown):
            made.send_messages([a_mail()])
    assert "SMTPRecipientsRefused at RCPT" in caplog.text
    assert repr(registry) == "<Registry of 1 pools>"


def test_an_international_address_goes_as_it_is_where_that_is_asked_for(server: LoopbackServer) -> None:
    with application(server, MAIL_SMTPCONN={"smtputf8": True}).app_context():
        assert EmailBackend().send_messages([a_mail("jörg@example.net")]) == 1
    assert server.mails[0].recipients == ["jörg@example.net"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_prefork_workers_have_connections_of_their_own(server: LoopbackServer) -> None:
    """users:FL2, FL5, DJ21: as gunicorn and uWSGI fork after the application was loaded, and used."""
    app = application(server)
    with app.app_context():
        a_mail("before@example.net").send()
        children = []
        for number in range(2):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # Python 3.12 warns of threads: the server's
                pid = os.fork()
            if pid == 0:
                status = 1
                try:
                    sent = [a_mail(f"{number}-{count}@example.net").send() for count in range(3)]
                    status = 0 if sent == [1, 1, 1] else 3
                finally:
                    os._exit(status)
            children.append(pid)
        assert [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children] == [0, 0]
        a_mail("after@example.net").send()
    sessions: dict[str, set[int]] = {}
    for mail in server.mails:
        sessions.setdefault(mail.recipients[0][0], set()).add(mail.session.index)
    assert sessions["b"] == sessions["a"]
    assert len({*sessions["0"], *sessions["1"], *sessions["b"]}) == 3


def test_neither_framework_is_imported_by_importing_the_module() -> None:
    """users:FL3; and the package itself imports none of the bridges."""
    for imported, absent in (
        ("smtpconn.contrib.flask", ("flask", "flask_mailman", "django")),
        ("smtpconn, smtpconn.pool", ("smtplib", "django", "flask", "smtpconn.contrib")),
    ):
        code = f"import sys, {imported}; print([name for name in {absent!r} if name in sys.modules])"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout == "[]\n"
