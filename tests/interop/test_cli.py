"""`smtpconn send` and `smtpconn probe` against Postfix, Exim and Dovecot's LMTP, as processes with pipes."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import ssl
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from .clients import SENDER
from .corpus import assert_same_octets
from .daemon import until
from .dovecot import Dovecot
from .reports import Report
from .servers import LOGIN, UNKNOWN

if TYPE_CHECKING:
    from .postfix import Postfix
    from .servers import MailServer

pytestmark = pytest.mark.interop

USER, PASSWORD = LOGIN
ENDPOINTS = [pytest.param("starttls", id="STARTTLS"), pytest.param("implicit", id="implicit TLS")]


def smtpconn(*arguments: str, message: bytes = b"", **variables: str) -> subprocess.CompletedProcess[bytes]:
    environment = {name: value for name, value in os.environ.items() if name not in ("EMAIL_URL", "SMTPCONN_PASSWORD")}
    return subprocess.run(
        [sys.executable, "-m", "smtpconn", *arguments],
        input=message,
        capture_output=True,
        timeout=50,
        env={**environment, **variables},
        start_new_session=True,  # without a terminal: nobody is asked for a password
    )


def options(server: MailServer, tls: str, *, login: bool = True) -> list[str]:
    port = server.tls_port if tls == "implicit" else server.port
    found = ["--host", server.host, "--port", str(port), "--tls", tls, "--timeout", "20"]
    if tls != "none":
        found += ["--ca", server.ca_path, "--server-name", server.tls_name]
    if isinstance(server, Dovecot):
        return [*found, "--lmtp"]
    return [*found, "--user", USER] if login else found


def eml(message_id: str, *fields: str) -> bytes:
    """A file as editors on Unix write it: its lines end in LF, some are a dot."""
    header = [f"From: Sender <{SENDER}>", f"Message-ID: {message_id}", "Subject: from a file", *fields]
    return "\n".join([*header, "", ".", "..", "text", ".", "more text", ""]).encode()


def rows(done: subprocess.CompletedProcess[bytes]) -> list[list[str]]:
    return [line.split("\t") for line in done.stdout.decode().splitlines()]


@pytest.mark.parametrize("tls", ENDPOINTS)
@pytest.mark.parametrize("verb", [pytest.param([], id="DATA"), pytest.param(["--bdat"], id="BDAT")])
def test_SY29_F117_a_file_arrives_and_each_recipient_has_a_line(
    mail_server: MailServer, tls: str, verb: list[str], message_id: str
) -> None:
    """users:CLI1, CLI6, CLI9, CLI11."""
    message = eml(message_id)
    first, second = mail_server.users[:2]
    call = ["send", "-f", SENDER, *verb, *options(mail_server, tls, login=False), first, UNKNOWN, second]
    done = smtpconn(*call, message=message)  # Exim takes what a user who has logged in sends to anybody
    assert (done.returncode, done.stderr) == (1, b"")
    verdicts = rows(done)[:3]
    assert [row[0] for row in verdicts] == ["DELIVERED", "NOT_DELIVERED", "DELIVERED"]
    assert [row[1] for row in verdicts] == ["250", "550", "250"]
    assert [row[3] for row in verdicts] == [first, UNKNOWN, second]
    sent = message.replace(b"\n", b"\r\n")
    for user in (first, second):
        stored = mail_server.wait_for_mail(user, message_id)
        assert_same_octets(mail_server.original(stored, message_id), mail_server.expected(sent, chunked=bool(verb)))
        assert mail_server.envelope_sender(stored) == SENDER


def test_recipients_of_the_header_get_it_and_hidden_ones_stay_hidden(mail_server: MailServer, message_id: str) -> None:
    """users:CLI7, CLI8."""
    seen, copied, hidden = mail_server.users[:3]
    message = eml(message_id, f"To: The first <{seen}>", f"bcc: {hidden},", f"\t{hidden}", f"Cc: {copied}")
    done = smtpconn("send", "-t", *options(mail_server, "starttls"), message=message, SMTPCONN_PASSWORD=PASSWORD)
    assert (done.returncode, done.stderr) == (0, b"")
    assert PASSWORD.encode() not in done.stdout
    left = message.replace(f"bcc: {hidden},\n\t{hidden}\n".encode(), b"").replace(b"\n", b"\r\n")
    for user in (seen, copied, hidden):
        stored = mail_server.wait_for_mail(user, message_id)
        assert_same_octets(mail_server.original(stored, message_id), left)


def test_a_notification_that_was_asked_for_comes(smtp_server: MailServer, message_id: str) -> None:
    """users:CLI10."""
    envid = f"cli-{message_id[1:20]}"
    sender, recipient = smtp_server.users[6], smtp_server.users[5]
    call = ["send", "-f", sender, "-N", "success", "-R", "hdrs", "-V", envid, *options(smtp_server, "starttls")]
    done = smtpconn(*call, recipient, message=eml(message_id), SMTPCONN_PASSWORD=PASSWORD)
    assert (done.returncode, done.stderr) == (0, b"")

    def reports() -> list[Report]:
        found = [Report.read(stored) for stored in smtp_server.mailbox(sender) if envid.encode() in stored]
        return [report for report in found if report is not None]

    assert until(lambda: reports() != [], 15), smtp_server.log()[-2000:]
    [report] = reports()
    assert report.fields["original-envelope-id"] == envid
    assert report.returned_type == "text/rfc822-headers"


@pytest.mark.parametrize("tls", ENDPOINTS)
def test_E204_a_refused_password_is_77_and_shown_nowhere(smtp_server: MailServer, tls: str, message_id: str) -> None:
    wrong = "no such password"
    call = ["send", "--json", *options(smtp_server, tls), smtp_server.users[0]]
    done = smtpconn(*call, message=eml(message_id), SMTPCONN_PASSWORD=wrong)
    report = json.loads(done.stdout)
    assert done.returncode == report["exit"] == 77
    assert (report["error"]["kind"], report["error"]["code"], report["delivery"]) == (
        "auth-rejected",
        535,
        "not delivered",
    )
    assert wrong.encode() not in done.stdout + done.stderr


@pytest.mark.parametrize("tls", ENDPOINTS)
def test_E204_an_authority_that_is_not_known_is_69_and_nothing_is_sent(
    mail_server: MailServer, tls: str, message_id: str
) -> None:
    user = mail_server.users[0]
    call = ["send", "--json", *options(mail_server, tls), "--trust", "certifi", user]
    done = smtpconn(*call, message=eml(message_id), SMTPCONN_PASSWORD=PASSWORD)
    report = json.loads(done.stdout)
    assert done.returncode == report["exit"] == 69
    assert (report["error"]["type"], report["error"]["kind"]) == ("CertificateError", "io")
    assert PASSWORD.encode() not in done.stdout + done.stderr
    assert mail_server.find_mail(user, message_id) == []


@pytest.mark.parametrize(
    ("sender", "status", "verdict"),
    [
        pytest.param("mail421@lab.test", 75, "not delivered", id="421 to MAIL"),
        pytest.param("eod450@lab.test", 75, "not delivered", id="450 at the end of data"),
        pytest.param("eod550@lab.test", 69, "not delivered", id="550 at the end of data"),
        pytest.param("eod421@lab.test", 75, "not delivered", id="421 at the end of data"),
    ],
)
def test_E204_what_the_server_answers_decides_the_status(
    postfix: Postfix, sender: str, status: int, verdict: str, message_id: str
) -> None:
    call = ["send", "--json", "-f", sender, *options(postfix, "starttls"), postfix.users[0]]
    done = smtpconn(*call, message=eml(message_id), SMTPCONN_PASSWORD=PASSWORD)
    report = json.loads(done.stdout)
    assert (done.returncode, report["exit"], report["delivery"]) == (status, status, verdict)
    assert report["error"]["kind"] == "protocol"
    assert postfix.find_mail(postfix.users[0], message_id) == []


@pytest.mark.parametrize("verb", [pytest.param([], id="DATA"), pytest.param(["--bdat"], id="BDAT")])
def test_lmtp_over_a_unix_socket_has_a_final_reply_for_each_recipient(
    dovecot: Dovecot, verb: list[str], message_id: str
) -> None:
    """users:CLI12. features:F117."""
    alice, bob = dovecot.users[:2]
    recipients = [alice, UNKNOWN, dovecot.full, dovecot.broken, bob]
    call = ["send", *verb, "--unix-socket", dovecot.unix_socket, *recipients]
    done = smtpconn(*call, "--json", message=eml(message_id))
    report = json.loads(done.stdout)
    assert done.returncode == report["exit"] == 1
    assert [entry["code"] for entry in report["recipients"]] == [250, 550, 552, 451, 250]
    assert [entry["delivery"] == "delivered" for entry in report["recipients"]] == [True, False, False, False, True]
    assert report["reply"] is None
    sent = eml(message_id).replace(b"\n", b"\r\n")
    for user in (alice, bob):
        assert_same_octets(dovecot.original(dovecot.wait_for_mail(user, message_id), message_id), sent)
    nobody = smtpconn("send", *verb, "--unix-socket", dovecot.unix_socket, UNKNOWN, dovecot.full, message=eml("<x@y>"))
    assert nobody.returncode == 69
    later = smtpconn("send", *verb, "--unix-socket", dovecot.unix_socket, UNKNOWN, dovecot.broken, message=eml("<x@y>"))
    assert later.returncode == 75


@pytest.mark.parametrize("tls", ENDPOINTS)
def test_CLI13_probe_shows_capabilities_certificate_and_round_trips(mail_server: MailServer, tls: str) -> None:
    done = smtpconn("probe", "--json", *options(mail_server, tls), SMTPCONN_PASSWORD=PASSWORD)
    report = json.loads(done.stdout)
    assert (done.returncode, done.stderr, report["error"]) == (0, b"", None)
    assert {"PIPELINING", "8BITMIME", "CHUNKING"} <= set(report["capabilities"]["extensions"])
    assert (report["ehlo_tls"] is not None) is (tls == "starttls")
    assert report["tls"]["version"] in ("TLSv1.2", "TLSv1.3")
    assert mail_server.tls_name in report["tls"]["subject_alt_names"]
    assert report["tls"]["sha256"] == _shown_certificate(mail_server)
    trips: dict[str, Any] = {each["phase"]: each["round_trips"] for each in report["timings"]}
    assert trips["EHLO"] == trips["QUIT"] == 1
    assert ("AUTH" in trips) is not isinstance(mail_server, Dovecot)
    assert report["rtt"] > 0


def _shown_certificate(server: MailServer) -> str:
    """What the server shows under implicit TLS, read by the standard library."""
    context = ssl.create_default_context(cafile=server.ca_path)
    plain = socket.create_connection((server.host, server.tls_port), 20)
    with plain, context.wrap_socket(plain, server_hostname=server.tls_name) as secured:
        return hashlib.sha256(secured.getpeercert(True) or b"").hexdigest()


def test_CLI13_probe_shows_the_certificate_that_it_refuses(mail_server: MailServer) -> None:
    wanted = _shown_certificate(mail_server)
    call = ["probe", "--json", *options(mail_server, "implicit"), "--trust", "certifi"]
    done = smtpconn(*call, SMTPCONN_PASSWORD=PASSWORD)
    report = json.loads(done.stdout)
    assert (done.returncode, report["error"]["type"]) == (69, "CertificateError")
    assert (report["tls"]["sha256"], report["tls"]["version"]) == (wanted, None)


def test_a_message_of_seven_megabytes_goes_through(mail_server: MailServer, message_id: str, tmp_path: Path) -> None:
    path = tmp_path / "large.eml"
    path.write_bytes(eml(message_id) + b"x" * 70 + b"\n" + (b"." * 70 + b"\n") * 100_000)
    call = ["send", "--file", str(path), *options(mail_server, "starttls"), mail_server.users[3]]
    done = smtpconn(*call, SMTPCONN_PASSWORD=PASSWORD)
    assert (done.returncode, done.stderr) == (0, b"")
    stored = mail_server.original(mail_server.wait_for_mail(mail_server.users[3], message_id), message_id)
    assert_same_octets(stored, path.read_bytes().replace(b"\n", b"\r\n"))
