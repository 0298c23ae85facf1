"""`smtpconn send`: what is sent, what is said about it, and with which status it ends."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import shlex
import signal
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from smtpconn.cli import letter, main, render
from smtpconn.testing import LoopbackServer, TestAuthority

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

ANNA, BEN, NOBODY = "anna@example.com", "ben@example.net", "nobody@example.net"
PASSWORD = "hunter2-of-anna"
MESSAGE = b"From: anna@example.com\nTo: ben@example.net\nSubject: Hello\n\n.\nHello\n"
WIRE = MESSAGE.replace(b"\n", b"\r\n")
WITHOUT_RICH = ("-c", "import sys; sys.modules['rich'] = None; from smtpconn.cli import main; sys.exit(main())")


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The variables of whoever runs the tests are not part of them."""
    for name in ("EMAIL_URL", "SMTPCONN_PASSWORD"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def letter_file(tmp_path: Path) -> str:
    path = tmp_path / "hello.eml"
    path.write_bytes(MESSAGE)
    return str(path)


class Done:
    """How a call of the command in this process ended."""

    def __init__(self, status: object, out: str, err: str) -> None:
        self.status, self.out, self.err = status, out, err

    @property
    def rows(self) -> list[list[str]]:
        """The cells of each line."""
        return [line.split("\t") for line in self.out.splitlines()]

    @property
    def report(self) -> dict[str, Any]:
        """What `--json` printed."""
        found = json.loads(self.out)
        assert isinstance(found, dict)
        return found


@pytest.fixture
def send(capsys: pytest.CaptureFixture[str], letter_file: str) -> Callable[..., Done]:
    """Run `smtpconn send` in this process; the message is MESSAGE unless the arguments name another."""

    def run(*arguments: str) -> Done:
        given = arguments if "--file" in arguments else (*arguments, "--file", letter_file)
        try:
            status: object = main(["send", *given])
        except SystemExit as exited:
            status = exited.code
        return Done(status, *capsys.readouterr())

    return run


def at(server: LoopbackServer, tls: str = "none") -> tuple[str, ...]:
    return "--host", server.host, "--port", str(server.port), "--tls", tls


def process(
    *arguments: str,
    command: Sequence[str] = ("-m", "smtpconn"),
    message: bytes = MESSAGE,
    variables: dict[str, str] | None = None,
) -> subprocess.CompletedProcess[bytes]:
    """Run `smtpconn send` as a process, the message on its standard input."""
    return subprocess.run(
        [sys.executable, *command, "send", *arguments],
        input=message,
        capture_output=True,
        timeout=50,
        env={**os.environ, **(variables or {})},
        start_new_session=True,  # without a terminal
    )


# --- what is sent


def test_CLI6_CLI9_CLI11_a_message_from_standard_input_goes_out_with_CRLF(server: LoopbackServer) -> None:
    """features:F117, SY29."""
    done = process("-f", ANNA, *at(server), BEN)
    assert (done.returncode, done.stderr) == (0, b"")
    [mail] = server.mails
    assert (mail.sender, mail.recipients, mail.content, mail.verb) == (ANNA, [BEN], WIRE, "DATA")
    verdict, final = done.stdout.decode().splitlines()
    assert verdict == f"DELIVERED\t250\t2.0.0\t{BEN}\tOk: queued as {mail.queue_id}"
    assert final == f"REPLY\t250\t2.0.0\t{mail.queue_id}\tOk: queued as {mail.queue_id}"
    assert server.sessions[0].closed_by == "QUIT"


@pytest.mark.parametrize("option", ["-f", "--from", "--sender"])
def test_CLI8_the_sender_is_an_option(server: LoopbackServer, send: Callable[..., Done], option: str) -> None:
    assert send(option, "other@example.com", BEN, *at(server)).status == 0
    assert server.mails[0].sender == "other@example.com"


@pytest.mark.parametrize("null", ["", "<>"])
def test_CLI8_the_null_path_can_be_given(server: LoopbackServer, send: Callable[..., Done], null: str) -> None:
    assert send("-f", null, BEN, *at(server)).status == 0
    assert server.mails[0].sender == ""


def test_CLI8_without_an_option_the_header_names_the_sender(server: LoopbackServer, send: Callable[..., Done]) -> None:
    assert send(BEN, *at(server)).status == 0
    assert server.mails[0].sender == ANNA


def test_CLI7_t_takes_recipients_from_the_header_and_the_arguments_and_hides_bcc(
    server: LoopbackServer, send: Callable[..., Done], tmp_path: Path
) -> None:
    path = tmp_path / "m"
    header = b"From: Anna <anna@example.com>\nTo: Ben <ben@example.net>\nCc: carl@example.net\n"
    path.write_bytes(header + b"bcc: dora@example.net,\n\temil@example.net\nSubject: x\n\nBcc: stays\n")
    done = send("-t", "fritz@example.net", *at(server), "--file", str(path))
    assert done.status == 0
    [mail] = server.mails
    names = ["fritz", "ben", "carl", "dora", "emil"]
    assert mail.recipients == [f"{name}@example.net" for name in names]
    assert mail.content == (header + b"Subject: x\n\nBcc: stays\n").replace(b"\n", b"\r\n")


def test_CLI7_without_t_the_header_is_left_alone(
    server: LoopbackServer, send: Callable[..., Done], tmp_path: Path
) -> None:
    path = tmp_path / "m"
    path.write_bytes(b"From: anna@example.com\nBcc: dora@example.net\n\nx\n")
    assert send(BEN, *at(server), "--file", str(path)).status == 0
    assert server.mails[0].recipients == [BEN]
    assert b"Bcc: dora" in server.mails[0].content


@pytest.mark.parametrize(
    ("message", "left"),
    [
        pytest.param(b"Bcc: a@b\r\nTo: c@d\r\n\r\nx", b"To: c@d\r\n\r\nx", id="first, CRLF"),
        pytest.param(b"To: c@d\nBCC : a@b\n e@f\n\t(g)\n\nx", b"To: c@d\n\nx", id="folded, blank before the colon"),
        pytest.param(b"To: c@d\nResent-Bcc: a@b\n\nx", b"To: c@d\n\nx", id="Resent-Bcc"),
        pytest.param(b"To: c@d\nBcc: a@b", b"To: c@d\n", id="no body"),
        pytest.param(b"Bcc: a@b\nBcc: c@d\n\nx", b"\nx", id="twice, and nothing else"),
        pytest.param(b"X-Bcc: a@b\nBccx: c@d\n\nBcc: e@f\n", b"X-Bcc: a@b\nBccx: c@d\n\nBcc: e@f\n", id="others"),
        pytest.param(b"\nBcc: a@b\n", b"\nBcc: a@b\n", id="no header"),
        pytest.param(b"", b"", id="nothing"),
    ],
)
def test_CLI7_only_bcc_fields_of_the_header_are_removed(message: bytes, left: bytes) -> None:
    assert letter.without_bcc(message) == left


def test_CLI10_parameters_of_mail_and_rcpt(server: LoopbackServer, send: Callable[..., Done]) -> None:
    options = ("-N", "success,Failure", "-R", "hdrs", "-V", "batch=7", "--bdat", "--smtputf8")
    assert send(*options, BEN, *at(server)).status == 0
    [mail] = server.mails
    assert mail.verb == "BDAT"
    assert mail.content == WIRE
    assert {"RET": "HDRS", "ENVID": "batch+3D7"}.items() <= mail.mail_params.items()
    assert "SMTPUTF8" in mail.mail_params
    assert mail.rcpt_params[0]["NOTIFY"] == "SUCCESS,FAILURE"


def test_arguments_may_stand_between_options_and_behind_a_double_dash(
    server: LoopbackServer, send: Callable[..., Done]
) -> None:
    assert send("a@b.test", "-i", "c@d.test", "-oi", *at(server), "-f", ANNA, "e@f.test").status == 0
    assert server.mails[0].recipients == ["a@b.test", "c@d.test", "e@f.test"]
    assert process(*at(server), "--", "-x@y.test").returncode == 0
    assert server.mails[1].recipients == ["-x@y.test"]


def test_CLI12_lmtp_has_a_verdict_for_each_recipient(lmtp_server: LoopbackServer, send: Callable[..., Done]) -> None:
    lmtp_server.refuse("full@example.net", "452 4.2.2 Mailbox full", when="data")
    lmtp_server.refuse(NOBODY, "550 5.1.1 No such user")
    recipients = (BEN, "full@example.net", NOBODY)
    done = send(*recipients, "--lmtp", *at(lmtp_server))
    assert done.status == 1
    assert [row[:4] for row in done.rows] == [
        ["DELIVERED", "250", "2.1.5", BEN],
        ["NOT_DELIVERED", "452", "4.2.2", "full@example.net"],
        ["NOT_DELIVERED", "550", "5.1.1", NOBODY],
    ]
    report = send(*recipients, "--lmtp", *at(lmtp_server), "--json").report
    assert report["reply"] is None
    assert [entry["queue_id"] is not None for entry in report["recipients"]] == [True, False, False]


@pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="needs Unix sockets")
def test_CLI12_lmtp_over_a_unix_socket_by_option_and_by_url(
    send: Callable[..., Done], monkeypatch: pytest.MonkeyPatch
) -> None:
    with LoopbackServer(protocol="lmtp", unix_socket=True) as server:
        assert send(BEN, "--unix-socket", str(server.unix_socket)).status == 0
        monkeypatch.setenv("EMAIL_URL", server.url)
        assert send(BEN).status == 0
        assert [mail.recipients for mail in server.mails] == [[BEN], [BEN]]


@pytest.mark.parametrize("tls", ["implicit", "starttls"])
def test_tls_is_verified_with_the_given_roots_and_name(
    authority: TestAuthority, send: Callable[..., Done], tls: Any
) -> None:
    with LoopbackServer(tls=tls, ca=authority) as server:
        trust = ("--ca", str(authority.path), "--server-name", "localhost")
        report = send(BEN, *at(server, tls), *trust, "--json").report
        assert report["exit"] == 0
        assert report["tls"]["server_name"] == "localhost"
        assert "localhost" in report["tls"]["subject_alt_names"]
        assert report["tls"]["issuer"] == "CN=smtpconn test authority"
        assert re.fullmatch("[0-9a-f]{64}", report["tls"]["sha256"])
        assert send(BEN, *at(server, tls), "--trust", "certifi").status == 69
        assert send(BEN, *at(server, tls), *trust[:2], "--server-name", "other.test").status == 69
        assert len(server.mails) == 1


def test_a_client_certificate_is_shown(authority: TestAuthority, send: Callable[..., Done], tmp_path: Path) -> None:
    issued = authority.issue(["client.test"], client_only=True)
    parts = [tmp_path / "certificate.pem", tmp_path / "key.pem"]
    parts[0].write_bytes(issued.certificate)
    parts[1].write_bytes(issued.key)
    with LoopbackServer(tls="implicit", ca=authority, client_certificates="required") as server:
        where = (*at(server, "implicit"), "--ca", str(authority.path))
        assert send(BEN, *where).status in (69, 75)
        assert send(BEN, *where, "--client-cert", str(parts[0]), "--client-key", str(parts[1])).status == 0
        assert send(BEN, *where, "--client-cert", str(issued.path)).status == 0
        assert len(server.mails) == 2


# --- which server, and who


def test_CLI1_the_variable_names_the_server_and_an_option_stands_above_it(
    send: Callable[..., Done], monkeypatch: pytest.MonkeyPatch
) -> None:
    with LoopbackServer() as server, LoopbackServer() as other:
        monkeypatch.setenv("EMAIL_URL", f"{server.url}?ehlo_domain=url.test&max_size=8&timeout=9")
        assert send(BEN).status == 0
        assert send(BEN, "--ehlo-domain", "option.test", "--timeout", "8", "--source-address", "127.0.0.1").status == 0
        assert send(BEN, "--url", other.url).status == 0
        assert [session.ehlo_domain for session in server.sessions] == ["url.test", "option.test"]
        assert len(other.mails) == 1


def test_the_first_of_several_hosts_that_answers_is_used(
    server: LoopbackServer, send: Callable[..., Done], monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as deaf, LoopbackServer(greeting="421 4.3.2 closed") as busy:
        deaf.bind(("127.0.0.1", 0))
        hosts = [f"127.0.0.1:{port}" for port in (deaf.getsockname()[1], busy.port, server.port)]
        monkeypatch.setenv("EMAIL_URL", f"smtp://{','.join(hosts)}")
        report = send(BEN, "--json").report
    assert report["exit"] == 0
    assert report["endpoint"] == hosts[2]


def login_server(authority: TestAuthority, **options: Any) -> LoopbackServer:
    return LoopbackServer(tls="starttls", ca=authority, auth={"anna": PASSWORD}, **options)


@pytest.mark.once
def test_CLI1_the_password_may_come_from_each_place_but_the_arguments(authority: TestAuthority, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text(f"{PASSWORD}\nsecond line\n")
    path = tmp_path / "m"
    path.write_bytes(MESSAGE)
    with login_server(authority) as server:
        where = (*at(server, "starttls"), "--ca", str(authority.path))
        user = ("--user", "anna", BEN)
        url = f"submission://anna@127.0.0.1:{server.port}?trust={authority.path}"
        variable = {"SMTPCONN_PASSWORD": PASSWORD}
        calls: list[tuple[tuple[str, ...], dict[str, str], bytes]] = [
            ((*where, *user), variable, MESSAGE),
            ((*where, *user, "--auth", "plain", "--password-file", str(secret)), {}, MESSAGE),
            ((*where, *user, "--password-stdin", "--file", str(path)), {}, f"{PASSWORD}\r\n".encode()),
            ((BEN,), {"EMAIL_URL": server.url}, MESSAGE),
            ((BEN,), {"EMAIL_URL": f"{url}&auth=login", **variable}, MESSAGE),
            ((BEN, "--url", url), variable, MESSAGE),
            ((BEN, "--url", url, "--password-file", str(secret)), {}, MESSAGE),
        ]
        for arguments, variables, stdin in calls:
            done = process(*arguments, variables=variables, message=stdin)
            assert (done.returncode, done.stderr) == (0, b""), arguments
            assert PASSWORD not in " ".join(arguments) + done.stdout.decode()
        assert [session.user for session in server.sessions] == ["anna"] * len(calls)
        assert len(server.mails) == len(calls)
        logins = [next(line for line in session.lines if line.startswith("AUTH")) for session in server.sessions]
        assert [logins[number].split()[1] for number in (0, 1, 4)] == ["SCRAM-SHA-256", "PLAIN", "LOGIN"]


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="needs a POSIX terminal")
def test_CLI1_a_person_at_a_terminal_is_asked_and_the_password_is_not_echoed(authority: TestAuthority) -> None:
    on_terminal = "import os, sys; os.open(sys.argv.pop(1), os.O_RDWR); from smtpconn.cli import main; sys.exit(main())"
    with login_server(authority) as server:
        master, slave = os.openpty()
        where = (*at(server, "starttls"), "--ca", str(authority.path), "--user", "anna", BEN)
        child = subprocess.Popen(
            [sys.executable, "-c", on_terminal, os.ttyname(slave), "send", *where],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=slave,
            start_new_session=True,
        )
        shown = b""
        while b"Password of anna: " not in shown:
            shown += os.read(master, 1024)
        os.write(master, f"{PASSWORD}\n".encode())
        out, _ = child.communicate(MESSAGE, timeout=30)
        os.close(slave)
        with contextlib.suppress(OSError):  # nothing more was written
            shown += os.read(master, 1024)
        os.close(master)
        assert child.returncode == 0
        assert PASSWORD.encode() not in shown + out
        assert server.mails[0].content == WIRE


SECRET_ARGUMENTS = [
    pytest.param(["--password", PASSWORD], id="--password"),
    pytest.param([f"--password={PASSWORD}"], id="--password="),
    pytest.param(["--pass", PASSWORD], id="--pass"),
    pytest.param(["--token", PASSWORD], id="--token"),
    pytest.param(["--passwort", PASSWORD], id="an unknown option"),
    pytest.param([f"-p{PASSWORD}"], id="-p"),
    pytest.param(["--url", f"submission://anna:{PASSWORD}@mail.example.com"], id="--url"),
    pytest.param(["--url", f"submission://anna:{PASSWORD}@mail.example.com?unknown=1"], id="a wrong --url"),
    pytest.param(["--json", "--url", f"submission://anna:{PASSWORD}@mail.example.com"], id="--json"),
]


@pytest.mark.parametrize("arguments", SECRET_ARGUMENTS)
def test_CLI1_a_password_in_the_arguments_is_refused_and_not_repeated(
    send: Callable[..., Done], arguments: list[str]
) -> None:
    done = send(*arguments, BEN)
    assert done.status == 64
    assert PASSWORD not in done.out + done.err
    assert "SMTPCONN_PASSWORD" in done.err or "unknown option: -" in done.err


@pytest.mark.parametrize(
    ("url", "arguments"),
    [
        pytest.param(f"submission://anna:{PASSWORD}@mail.example.com?max=1", [], id="an unknown key"),
        pytest.param(f"http://anna:{PASSWORD}@mail.example.com", [], id="another scheme"),
        pytest.param(f"submission://anna:{PASSWORD}@mail.example.com:x", [], id="no port"),
        pytest.param(f"submission://anna:{PASSWORD}@", [], id="no host"),
        pytest.param(f"submission://anna:{PASSWORD} @h", [], id="a blank"),
        pytest.param("submission://anna@h", [], id="no password"),
        pytest.param(f"submission://anna:{PASSWORD}@h?trust=/none", [], id="no roots"),
        pytest.param(f"submission://anna:{PASSWORD}@h?client_cert=/none", [], id="no certificate"),
        pytest.param("submission://anna@h", ["--password-file", "/none"], id="no password file"),
        pytest.param("submission://anna@h", ["--password-file", "/dev/null"], id="an empty password file"),
        pytest.param("lmtp+unix:///run/x?trust=system", [], id="trust without TLS"),
        pytest.param("", [], id="no URL"),
    ],
)
def test_78_for_a_wrong_configuration_and_no_secret_in_the_text(
    send: Callable[..., Done], monkeypatch: pytest.MonkeyPatch, url: str, arguments: list[str]
) -> None:
    monkeypatch.setenv("EMAIL_URL", url)
    done = send(BEN, "--json", *arguments)
    assert done.status == done.report["exit"] == 78
    assert done.report["error"]["kind"] == "invalid-input"
    assert done.err.startswith("smtpconn send: ")
    assert PASSWORD not in done.out + done.err


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(["--host", "mx.test", BEN], id="no --tls"),
        pytest.param(["--tls", "none", BEN], id="no --host"),
        pytest.param(["--host", "mx.test", "--tls", "perhaps", BEN], id="no TLS mode"),
        pytest.param(["--host", "mx.test", "--tls", "none", "--port", "0", BEN], id="port 0"),
        pytest.param(["--host", "mx.test", "--tls", "none", "--port", "65536", BEN], id="port 65536"),
        pytest.param(["--host", "mx.test", "--tls", "none", "--lmtp", "--port", "25", BEN], id="LMTP on port 25"),
        pytest.param(["--host", "mx.test", "--tls", "none", "--ca", "certifi", BEN], id="roots without TLS"),
        pytest.param(["--host", "mx.test", "--tls", "implicit", "--client-key", "/k", BEN], id="key alone"),
        pytest.param(["--url", "smtp://mx.test", "--host", "mx.test", BEN], id="URL and host"),
        pytest.param(["--unix-socket", "/s", "--host", "mx.test", BEN], id="socket and host"),
        pytest.param(["--unix-socket", "/s", "--tls", "starttls", BEN], id="no name to verify"),
        pytest.param(["--url", "smtp://mx.test", "--password-file", "/f", BEN], id="password without a user"),
        pytest.param(["--url", "smtp://mx.test", "--password-stdin", "--file", "-", BEN], id="stdin twice"),
        pytest.param(["--url", "smtp://mx.test"], id="no recipients"),
        pytest.param(["--url", "smtp://mx.test", "no address"], id="recipient that is none"),
        pytest.param(["--url", "smtp://mx.test", "a@b.test\r\nDATA"], id="line end in a recipient"),
        pytest.param(["--url", "smtp://mx.test", "-f", "no address", BEN], id="sender that is none"),
        pytest.param(["--url", "smtp://mx.test", "-N", "always", BEN], id="unknown -N"),
        pytest.param(["--url", "smtp://mx.test", "-N", "never,delay", BEN], id="never is not alone"),
        pytest.param(["--url", "smtp://mx.test", "-R", "half", BEN], id="unknown -R"),
        pytest.param(["--url", "smtp://mx.test", "-V", "a\nb", BEN], id="line end in -V"),
        pytest.param(["--url", "smtp://mx.test", "--timeout", "0", BEN], id="no time"),
        pytest.param(["--url", "smtp://mx.test", "--source-address", "mx", BEN], id="no IP address"),
    ],
)
def test_64_for_wrong_options(send: Callable[..., Done], arguments: list[str]) -> None:
    done = send(*arguments)
    assert (done.status, done.out) == (64, "")
    assert done.err


def test_URL7_a_mistaken_scheme_draws_a_warning_without_a_path_of_the_code(
    server: LoopbackServer, send: Callable[..., Done]
) -> None:
    done = send(BEN, "--url", "smtps://no-such-host.invalid:587")
    assert done.status == 68
    assert "warning: smtps:// is implicit TLS" in done.err
    assert ".py" not in done.err


# --- the message


@pytest.mark.parametrize(
    ("message", "options"),
    [
        pytest.param(b"From: a@b.test\n\nbare\rCR\n", [], id="bare CR"),
        pytest.param(b"From: a@b.test\n\nNUL\0\n", [], id="NUL"),
        pytest.param(MESSAGE, ["--newlines", "strict"], id="bare LF, strict"),
        pytest.param(b"Subject: x\n\nx\n", [], id="no sender in the header"),
        pytest.param(b"From: a@b.test\n\nx\n", ["-t"], id="no recipients in the header"),
        pytest.param(b"From: a@b.test\nTo: <broken\n\nx\n", ["-t"], id="no addresses in the header"),
    ],
)
def test_65_for_a_message_that_cannot_be_sent(
    server: LoopbackServer, send: Callable[..., Done], tmp_path: Path, message: bytes, options: list[str]
) -> None:
    path = tmp_path / "m"
    path.write_bytes(message)
    assert send(BEN, *at(server), *options, "--file", str(path)).status == 65
    assert server.sessions == []


def test_65_for_what_the_server_does_not_offer_or_is_too_large(send: Callable[..., Done], tmp_path: Path) -> None:
    path = tmp_path / "m"
    path.write_bytes("From: a@b.test\n\nÄ\n".encode())
    with LoopbackServer(extensions=("SIZE",), size_limit=40) as server:
        assert send(BEN, *at(server), "--bdat").status == 65
        assert send(BEN, *at(server)).status == 65
        assert send(BEN, *at(server), "-N", "never").status == 65
        assert send(BEN, *at(server), "--file", str(path)).status == 65
        assert server.mails == []


def test_66_for_a_file_that_cannot_be_read(server: LoopbackServer, send: Callable[..., Done], tmp_path: Path) -> None:
    for path in (tmp_path / "missing", tmp_path):
        assert send(BEN, *at(server), "--file", str(path)).status == 66
    assert server.sessions == []


# --- how it ends: the table of users 13


class Case:
    """What the server does, and the status and the kind that must come of it."""

    def __init__(self, name: str, status: int, kind: str | None = None, **how: Any) -> None:
        self.name, self.status, self.kind, self.how = name, status, kind, how


CASES = [
    Case("E204 io: no such host", 68, "io", host="no-such-host.invalid"),
    Case("E204 io: nobody listens", 75, "io", port=1),
    Case("E204 io: no TLS here", 75, "io", tls="implicit"),
    Case("E204 io: no STARTTLS", 69, "io", tls="starttls"),
    Case("E204 io: connection lost", 75, "io", fault=("MAIL", "EOF")),
    Case("E204 io: silence", 75, "io", fault=("MAIL", "silence"), options=("--timeout", "0.5")),
    Case("E204 protocol: malformed", 76, "protocol", fault=("MAIL", "malformed")),
    Case("E204 protocol: 421", 75, "protocol", reply=("greeting", "421 4.3.2 later")),
    Case("E204 protocol: sender refused for good", 69, "protocol", reply=("MAIL", "550 5.7.1 no")),
    Case("E204 protocol: sender refused for now", 75, "protocol", reply=("MAIL", "451 4.7.1 wait")),
    Case("E204 protocol: message refused for good", 69, "protocol", reply=("end of data", "554 5.6.0 spam")),
    Case("E204 protocol: message refused for now", 75, "protocol", reply=("end of data", "451 4.3.0 wait")),
    Case("E204 protocol: everybody refused for good", 69, "protocol", reply=("RCPT", "550 5.1.1 no")),
    Case("E204 protocol: everybody refused for now", 75, "protocol", reply=("RCPT", "450 4.2.1 busy")),
    Case("E204 protocol: one for good, one for now", 75, "protocol", refuse=("450 4.2.1 busy", "550 5.1.1 no")),
    Case("E204 protocol: in doubt", 74, "protocol", fault=("end of data", "EOF")),
    Case("E204 protocol: in doubt, and one refused", 74, "protocol", fault=("end of data", "RST"), refuse=("550 no",)),
    Case("E204 auth-rejected", 77, "auth-rejected", auth="another"),
    Case("E204 auth-rejected for now", 75, "auth-rejected", auth=PASSWORD, reply=("AUTH", "454 4.7.0 later")),
    Case("E204 invalid-input: AUTH in clear", 77, "invalid-input", auth=PASSWORD, options=("--auth", "plain")),
    Case("one of two", 1, None, refuse=("550 5.1.1 no",)),
]


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_E204_F117_each_failure_has_its_status_and_kind_and_shows_no_secret(
    send: Callable[..., Done], monkeypatch: pytest.MonkeyPatch, case: Case
) -> None:
    how = case.how
    if "auth" in how:
        monkeypatch.setenv("SMTPCONN_PASSWORD", PASSWORD)
    with LoopbackServer(auth={"anna": how["auth"]} if "auth" in how else None) as server:
        if "fault" in how:
            server.fault(*how["fault"])
        if "reply" in how:
            server.reply(*how["reply"])
        for address, reply in zip((NOBODY, BEN), how.get("refuse", ()), strict=False):
            server.refuse(address, reply)
        where = ("--host", how.get("host", server.host), "--port", str(how.get("port", server.port)))
        login = ("--user", "anna") if "auth" in how else ()
        arguments = (*where, "--tls", how.get("tls", "none"), *login, *how.get("options", ("--timeout", "10")))
        done = send(BEN, NOBODY, "--json", *arguments)
    report = done.report
    assert (done.status, report["exit"]) == (case.status, case.status)
    assert (report["error"] and report["error"]["kind"]) == case.kind
    unknown = case.status == 74
    assert report["delivery"] == {74: "unknown", 1: "delivered"}.get(case.status, "not delivered")
    assert "unknown" in [entry["delivery"] for entry in report["recipients"]] or not unknown
    assert [entry["recipient"] for entry in report["recipients"]] == [BEN, NOBODY]
    assert ("may duplicate it" in done.err) is unknown
    assert ("safe to try again" in done.err) is (case.status == 75)
    if case.kind is not None:
        assert report["error"]["retry_safe"] is not unknown
    for secret in (PASSWORD, base64.b64encode(PASSWORD.encode()).decode()):
        assert secret not in done.out + done.err


def test_JS1_JS3_the_keys_of_the_object(server: LoopbackServer, send: Callable[..., Done]) -> None:
    server.refuse(NOBODY, "550 5.1.1 No such user")
    done = send(BEN, NOBODY, "--json", *at(server))
    report = done.report
    keys = "schema command exit delivery reply queue_id recipients error endpoint tls seconds"
    assert list(report) == keys.split()
    assert (report["schema"], report["command"], report["exit"]) == (1, "send", 1)
    assert report["reply"] == {"code": 250, "enhanced": "2.0.0", "text": f"Ok: queued as {report['queue_id']}"}
    assert report["queue_id"] == server.mails[0].queue_id
    assert report["recipients"][1] == {
        "recipient": NOBODY, "delivery": "not delivered", "code": 550, "enhanced": "5.1.1", "text": "No such user",
    }  # fmt: skip
    assert (report["error"], report["tls"]) == (None, None)
    assert report["endpoint"] == f"127.0.0.1:{server.port}"
    assert 0 <= report["seconds"] < 30
    failed = send(BEN, "--json", "--host", "no-such-host.invalid", "--tls", "none").report["error"]
    assert list(failed) == ["type", "kind", "stage", "code", "enhanced", "message", "retry_safe", "permanent"]
    assert (failed["type"], failed["stage"]) == ("ResolveError", "resolve")


def test_CLI11_quiet_prints_only_who_does_not_have_the_message(
    server: LoopbackServer, send: Callable[..., Done]
) -> None:
    assert send(BEN, "-q", *at(server)).out == ""
    server.refuse(NOBODY, "550 5.1.1 No such user")
    assert send(BEN, NOBODY, "-q", *at(server)).rows == [["NOT_DELIVERED", "550", "5.1.1", NOBODY, "No such user"]]


def test_text_of_the_server_reaches_no_terminal_unescaped(server: LoopbackServer, send: Callable[..., Done]) -> None:
    server.reply("RCPT", "550 5.1.1 \x1b[2Jgone\t\u202egnp.exe\x07\r\n".encode(), recipient=NOBODY)
    for options in ((), ("--json",), ("-vv",)):
        done = send(BEN, NOBODY, *options, *at(server))
        assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]", done.out + done.err)
    [_, row, _] = send(BEN, NOBODY, *at(server)).rows
    assert row[4] == r"\x1b[2Jgone\x09\u202egnp.exe\x07"


def test_CLI2_the_logs_show_the_conversation_without_a_secret(authority: TestAuthority, tmp_path: Path) -> None:
    with login_server(authority, mechanisms=("PLAIN", "LOGIN")) as server:
        variables = {"EMAIL_URL": server.url}
        one, two = (process(BEN, option, variables=variables) for option in ("-v", "-vv"))
    assert (one.returncode, two.returncode) == (0, 0)
    assert b"mail settled" in one.stderr
    assert b"RCPT TO" not in one.stderr
    assert b"C: RCPT TO:<ben@example.net>" in two.stderr
    assert b"C: AUTH PLAIN ***" in two.stderr
    for secret in (PASSWORD.encode(), base64.b64encode(b"\0anna\0" + PASSWORD.encode()), b"Hello"):
        assert secret not in two.stderr


# --- streams, terminals, signals


@pytest.mark.parametrize("command", [("-m", "smtpconn"), WITHOUT_RICH], ids=["with rich", "without rich"])
def test_CLI11_a_pipe_gets_lines_with_tabs_and_no_escape_codes(server: LoopbackServer, command: Sequence[str]) -> None:
    server.refuse(NOBODY, "550 5.1.1 No such user")
    done = process(BEN, NOBODY, *at(server), command=command, variables={"FORCE_COLOR": "1", "TERM": "xterm-256color"})
    assert done.returncode == 1
    assert b"\x1b" not in done.stdout
    assert [len(line.split(b"\t")) for line in done.stdout.splitlines()] == [5, 5, 5]


@pytest.mark.once
@pytest.mark.skipif(not hasattr(os, "openpty"), reason="needs a POSIX terminal")
@pytest.mark.parametrize("command", [("-m", "smtpconn"), WITHOUT_RICH], ids=["with rich", "without rich"])
def test_CLI11_a_terminal_gets_a_table_of_80_columns(
    server: LoopbackServer, letter_file: str, command: Sequence[str]
) -> None:
    long = f"{'a' * 40}@{'b' * 40}.example.net"
    server.refuse(long, "550-5.1.1 There is no such user here, nor has there ever been one\r\n550 5.1.1 see the page")
    master, slave = os.openpty()
    child = subprocess.Popen(
        [sys.executable, *command, "send", BEN, long, "--file", letter_file, *at(server)],
        stdin=subprocess.DEVNULL,
        stdout=slave,
        stderr=subprocess.PIPE,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "80"},
    )
    os.close(slave)
    shown = b""
    while True:
        try:
            chunk = os.read(master, 65536)
        except OSError:  # Linux reports the end of a pseudo-terminal as EIO
            break
        if not chunk:
            break
        shown += chunk
    os.close(master)
    _, err = child.communicate(timeout=30)
    assert (child.returncode, err) == (1, b"")
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode())
    assert max(map(len, text.splitlines())) <= 80
    assert "1 of 2 recipients have the message" in text
    assert BEN in text
    assert f"{'a' * 18}...{'b'}" in text
    sentence = "There is no such user here, nor has there ever been one see the page"
    assert set(sentence.split()) <= set(text.split())


def test_a_plain_table_wraps_its_last_column(capsys: pytest.CaptureFixture[str]) -> None:
    render.table("title", [("a", "x" * 30 + " " + "y" * 60), ("b", "")], header=("one", "two"), wrap=True)
    lines = capsys.readouterr().out.splitlines()
    assert lines == ["title", "one  two", "a    " + "x" * 30, "     " + "y" * 60, "b", ""]


def test_CLI4_a_closed_pipe_changes_no_verdict(server: LoopbackServer) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    child = subprocess.Popen(
        [sys.executable, "-m", "smtpconn", "send", BEN, *at(server)],
        stdin=subprocess.PIPE,
        stdout=writer,
        stderr=subprocess.PIPE,
    )
    os.close(writer)
    _, err = child.communicate(MESSAGE, timeout=50)
    assert (child.returncode, err) == (0, b"")
    assert len(server.mails) == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_changes_no_verdict(server: LoopbackServer) -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "smtpconn", "send", BEN, *at(server)],
            input=MESSAGE,
            stdout=full,
            stderr=subprocess.PIPE,
            timeout=50,
        )
    assert done.returncode == 0
    assert b"Traceback" not in done.stderr
    assert done.stderr.startswith(b"smtpconn send: stdout: ")


@pytest.mark.once
@pytest.mark.skipif(os.name != "posix", reason="needs a POSIX shell")
@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_closed_descriptors_change_no_verdict(server: LoopbackServer, letter_file: str, closed: str) -> None:
    server.fault("end of data", "EOF", nth=2)
    command = shlex.join([sys.executable, "-m", "smtpconn", "send", BEN, "--file", letter_file, *at(server)])
    for status in (0, 74):
        assert subprocess.run(["sh", "-c", f"exec {command} {closed}"], timeout=50).returncode == status
    assert [mail.content for mail in server.mails] == [WIRE, WIRE]


def test_a_reader_of_stderr_that_is_gone_changes_no_verdict(server: LoopbackServer) -> None:
    server.fault("end of data", "EOF")
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "smtpconn", "send", BEN, *at(server)],
        input=MESSAGE,
        stdout=subprocess.PIPE,
        stderr=writer,
        timeout=50,
    )
    os.close(writer)
    assert done.returncode == 74
    assert done.stdout.startswith(b"UNKNOWN\t")


def test_an_address_that_the_terminal_cannot_show_ends_nothing(server: LoopbackServer) -> None:
    ascii_only = {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    done = process("jürgen@example.net", *at(server), variables=ascii_only)
    assert done.returncode == 0
    assert b"j\\xfcrgen@example.net" in done.stdout
    assert server.mails[0].recipients == ["jürgen@example.net"]


def until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


INTERRUPTS = {
    "nothing was said": ("greeting", "not delivered"),
    "the sender was named": ("MAIL", "not delivered"),
    "the end of data was written": ("end of data", "unknown"),
    "QUIT was written": ("QUIT", "delivered"),
}


@pytest.mark.parametrize("moment", INTERRUPTS)
def test_CLI4_an_interrupt_says_what_became_of_the_mail(moment: str) -> None:
    stage, verdict = INTERRUPTS[moment]
    with LoopbackServer() as server:
        server.fault(stage, "silence")
        child = subprocess.Popen(
            [sys.executable, "-m", "smtpconn", "send", BEN, "--json", *at(server)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert child.stdin is not None
        child.stdin.write(MESSAGE)
        child.stdin.close()
        child.stdin = None
        if stage in ("end of data", "QUIT"):
            server.wait_for(1, 20)
        word = {"greeting": None, "end of data": "DATA"}.get(stage, stage)
        until(lambda: bool(server.sessions) and (word is None or _was_said(server, word)))
        child.send_signal(signal.SIGINT)
        out, err = child.communicate(timeout=30)
    assert child.returncode == 130
    assert b"Traceback" not in err
    report = json.loads(out)
    assert (report["exit"], report["delivery"]) == (130, verdict)
    assert report["recipients"][0]["recipient"] == BEN
    assert f"interrupted: {int(verdict == 'delivered')} delivered".encode() in err
    assert (b"may duplicate it" in err) is (verdict == "unknown")


def _was_said(server: LoopbackServer, word: str) -> bool:
    return any(command.startswith(word) for command in server.sessions[0].commands)


def test_70_for_a_defect(send: Callable[..., Done], server: LoopbackServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("smtpconn.cli.send.letter.read", lambda path: 1 / 0)
    done = send(BEN, *at(server))
    assert done.status == 70
    assert "ZeroDivisionError" in done.err


def test_a_file_of_the_process_list_shows_no_secret(authority: TestAuthority, tmp_path: Path) -> None:
    """What others can read of a running command: its arguments (proc(5))."""
    if not Path("/proc/self/cmdline").exists():
        pytest.skip("needs /proc")
    with login_server(authority) as server:
        server.fault("MAIL", "silence")
        child = subprocess.Popen(
            [sys.executable, "-m", "smtpconn", "send", BEN],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "EMAIL_URL": server.url},
        )
        assert child.stdin is not None
        child.stdin.write(MESSAGE)
        child.stdin.close()
        until(lambda: bool(server.sessions) and _was_said(server, "MAIL"))
        seen = Path(f"/proc/{child.pid}/cmdline").read_bytes()
        mode = stat.S_IMODE(Path(f"/proc/{child.pid}/environ").stat().st_mode)
        child.send_signal(signal.SIGINT)
        assert child.wait(timeout=30) == 130
    assert PASSWORD.encode() not in seen
    assert mode & 0o077 == 0
