"""`smtpconn probe`: what it finds out, and that it sends no mail."""

from __future__ import annotations

import hashlib
import json
import re
import ssl
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from smtpconn.cli import main, watch
from smtpconn.testing import LoopbackServer, TestAuthority

if TYPE_CHECKING:
    from collections.abc import Callable

PASSWORD = "hunter2-of-anna"


class Done:
    """How a call of the command in this process ended."""

    def __init__(self, status: object, out: str, err: str) -> None:
        self.status, self.out, self.err = status, out, err

    @property
    def report(self) -> dict[str, Any]:
        """What `--json` printed."""
        found = json.loads(self.out)
        assert isinstance(found, dict)
        return found


@pytest.fixture
def probe(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Done]:
    """Run `smtpconn probe` in this process, against the server that `url` names."""

    def run(*arguments: str, url: str = "") -> Done:
        monkeypatch.setenv("EMAIL_URL", url)
        try:
            status: object = main(["probe", *arguments])
        except SystemExit as exited:
            status = exited.code
        return Done(status, *capsys.readouterr())

    return run


def at(server: LoopbackServer, tls: str = "none") -> tuple[str, ...]:
    return "--host", server.host, "--port", str(server.port), "--tls", tls


def phases(report: dict[str, Any]) -> dict[str, int | None]:
    return {each["phase"]: each["round_trips"] for each in report["timings"]}


def test_CLI13_JS1_what_is_found_out_about_a_submission_server(
    authority: TestAuthority, probe: Callable[..., Done]
) -> None:
    issued = authority.issue(["127.0.0.1", "localhost"])
    options: dict[str, Any] = {"auth": {"anna": PASSWORD}, "limits": {"RCPTMAX": 50}, "size_limit": 5000}
    with LoopbackServer(tls="starttls", ca=authority, certificate=issued, **options) as server:
        done = probe("--json", url=server.url)
        [session] = server.sessions
        assert (session.user, session.closed_by, session.violations) == ("anna", "QUIT", [])
        assert "MAIL" not in session.commands
        assert server.mails == []
    report = done.report
    assert (done.status, done.err) == (0, "")
    keys = "schema command exit endpoint addresses greeting ehlo ehlo_tls capabilities auth tls timings rtt advice"
    assert list(report) == [*keys.split(" "), "domain", "error"]
    assert report["domain"] is None
    assert (report["schema"], report["command"], report["exit"], report["error"]) == (1, "probe", 0, None)
    assert report["addresses"] == {"found": ["127.0.0.1"], "used": "127.0.0.1"}
    assert report["greeting"]["code"] == 220
    assert "STARTTLS" in report["ehlo"]
    assert "STARTTLS" not in report["ehlo_tls"]
    assert report["capabilities"]["size_limit"] == 5000
    assert report["capabilities"]["limits"] == {"RCPTMAX": 50}
    assert report["auth"]["choice"] == "SCRAM-SHA-256"
    assert {"PLAIN", "LOGIN", "SCRAM-SHA-256"} <= set(report["auth"]["mechanisms"])
    assert report["tls"]["sha256"] == hashlib.sha256(issued.der).hexdigest()
    assert sorted(report["tls"]["subject_alt_names"]) == ["127.0.0.1", "localhost"]
    assert phases(report) == {
        "resolve": None, "connect": None, "greeting": 0, "EHLO": 1, "tls": None, "STARTTLS": 1, "EHLO over TLS": 1,
        "AUTH": 3, "QUIT": 1,
    }  # fmt: skip
    assert all(each["seconds"] >= 0 for each in report["timings"])
    assert report["rtt"] > 0
    assert "a message costs 2 round trips (PIPELINING)" in report["advice"]
    assert PASSWORD not in done.out


def test_CLI13_time_is_booked_where_it_is_spent(probe: Callable[..., Done]) -> None:
    with LoopbackServer(rtt=0.15) as server:
        report = probe("--json", *at(server)).report
    took = {each["phase"]: each["seconds"] for each in report["timings"]}
    assert took["EHLO"] >= 0.15
    assert took["connect"] < 0.15
    assert report["rtt"] >= 0.15


def test_CLI13_implicit_tls_has_one_ehlo(authority: TestAuthority, probe: Callable[..., Done]) -> None:
    with LoopbackServer(tls="implicit", ca=authority) as server:
        report = probe("--json", url=server.url).report
    assert report["exit"] == 0
    assert report["ehlo_tls"] is None
    assert [*phases(report)] == ["resolve", "connect", "tls", "greeting", "EHLO", "QUIT"]


@pytest.mark.parametrize("tls", ["starttls", "implicit"])
@pytest.mark.parametrize("version", ["TLSv1_2", "TLSv1_3"])
def test_CLI3_CLI13_the_certificate_that_is_refused_is_shown_and_nothing_follows(
    authority: TestAuthority, probe: Callable[..., Done], tls: Any, version: str
) -> None:
    issued = authority.issue(["127.0.0.1"])
    context = issued.server_context()
    context.maximum_version = ssl.TLSVersion[version]
    with LoopbackServer(tls=tls, certificate=context) as server:
        done = probe("--json", "--trust", "certifi", *at(server, tls))
        server.wait_for_connections(0, 5)
        assert "AUTH" not in server.sessions[0].commands
    assert done.status == 69
    report = done.report
    assert report["error"]["type"] == "CertificateError"
    assert (report["tls"]["version"], report["tls"]["sha256"]) == (None, hashlib.sha256(issued.der).hexdigest())
    assert report["tls"]["issuer"] == "CN=smtpconn test authority"
    assert re.search("authority|issuer", done.err)


def test_what_is_no_certificate_message_has_no_certificate() -> None:
    for message in (b"", b"\x0b\x00\x00\x03\x00\x00\x00", b"\x0b\x00\x00\x09\x00\x00\x06\x00\x00\x09abc"):
        assert watch._first_certificate(message, has_context=False) is None
        assert watch._first_certificate(message, has_context=True) is None


def test_CLI13_lmtp_and_a_server_without_extensions(probe: Callable[..., Done]) -> None:
    with LoopbackServer(protocol="lmtp") as server:
        assert probe("--json", "--lmtp", *at(server)).report["exit"] == 0
    with LoopbackServer(extensions=()) as server:
        server.reply("EHLO", "502 5.5.1 no such command", nth=1)
        report = probe("--json", *at(server)).report
        assert server.sessions[0].commands[:2] == ["EHLO", "HELO"]
    assert (report["exit"], report["ehlo"]) == (0, [])
    assert report["capabilities"]["extensions"] == {}
    assert "one per recipient" in report["advice"][0]


def test_CLI13_over_a_unix_socket(probe: Callable[..., Done]) -> None:
    with LoopbackServer(protocol="lmtp", unix_socket=True) as server:
        report = probe("--json", "--unix-socket", str(server.unix_socket)).report
        assert report["addresses"] == {"found": [server.unix_socket], "used": server.unix_socket}


FAILURES = [
    pytest.param({"reply": ("greeting", "554 5.3.2 not for you")}, 69, id="greeting"),
    pytest.param({"reply": ("greeting", "421 4.3.2 later")}, 75, id="421"),
    pytest.param({"fault": ("EHLO", "malformed")}, 76, id="malformed"),
    pytest.param({"fault": ("EHLO", "silence"), "options": ["--timeout", "0.4"]}, 75, id="silence"),
    pytest.param({"reply": ("AUTH", "535 5.7.8 no")}, 77, id="AUTH"),
    pytest.param({"reply": ("NOOP", "500 5.5.1 what?")}, 0, id="NOOP refused"),
    pytest.param({"reply": ("NOOP", "421 4.3.2 later")}, 75, id="NOOP 421"),
]


@pytest.mark.parametrize(("how", "status"), FAILURES)
def test_CLI13_a_failure_has_its_status_and_what_was_found_before_it(
    authority: TestAuthority, probe: Callable[..., Done], how: dict[str, Any], status: int
) -> None:
    with LoopbackServer(tls="starttls", ca=authority, auth={"anna": PASSWORD}) as server:
        if "reply" in how:
            server.reply(*how["reply"])
        if "fault" in how:
            server.fault(*how["fault"])
        done = probe("--json", *how.get("options", []), url=server.url)
        server.wait_for_connections(0, 5)
    report = done.report
    assert done.status == report["exit"] == status
    assert (report["error"] is None) is (status == 0)
    assert report["addresses"]["used"] == "127.0.0.1"
    assert PASSWORD not in done.out + done.err
    if how.get("reply", ("",))[0] == "greeting":
        assert report["greeting"]["code"] in (554, 421)


def test_CLI13_no_server_is_75_and_no_configuration_78(probe: Callable[..., Done]) -> None:
    done = probe("--json", "--host", "127.0.0.1", "--port", "1", "--tls", "none")
    assert (done.status, done.report["addresses"]) == (75, {"found": ["127.0.0.1"], "used": None})
    done = probe("--json")
    assert (done.status, done.report["error"]["kind"]) == (78, "invalid-input")
    assert probe("someone@example.net").status == 64


def test_CLI13_what_follows_for_the_user(
    authority: TestAuthority, probe: Callable[..., Done], monkeypatch: pytest.MonkeyPatch
) -> None:
    with LoopbackServer(tls="starttls", ca=authority) as server:
        advice = " ".join(probe("--json", *at(server)).report["advice"])
        assert "did not ask for it: submission://" in advice
        monkeypatch.setattr("smtpconn.cli.probe._STARTTLS_PORTS", (server.port,))
        mistaken = probe("--json", *at(server, "implicit"))
        assert mistaken.status == 75
        assert "STARTTLS is submission://" in mistaken.report["advice"][0]
    with LoopbackServer(auth={"anna": PASSWORD}, mechanisms=("PLAIN",)) as server:
        assert "no mechanism of AUTH is usable" in " ".join(probe("--json", *at(server)).report["advice"])


def test_CLI13_the_tables_of_a_pipe_are_plain_and_fit_80_columns(authority: TestAuthority) -> None:
    with LoopbackServer(tls="starttls", ca=authority, greeting="\x1b[2J" + "long " * 40) as server:
        done = subprocess.run(
            [sys.executable, "-m", "smtpconn", "probe", "--url", server.url], capture_output=True, text=True, timeout=50
        )
    assert (done.returncode, done.stderr) == (0, "")
    assert "\x1b" not in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80
    for word in ("only over TLS", "TLS sha256", "round trip", "what each phase took"):
        assert word in done.stdout


def test_quiet_prints_nothing_if_all_is_well(server: LoopbackServer, probe: Callable[..., Done]) -> None:
    done = probe("-q", *at(server))
    assert (done.status, done.out, done.err) == (0, "", "")
