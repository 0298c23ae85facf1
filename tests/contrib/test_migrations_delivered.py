"""The texts of the documentation's migrations at real servers: what they send is read back from the mailboxes.

Scripts run as people run them, in a process of their own (users 18: MG1, MG3, MG5, MG6).
"""

from __future__ import annotations

import csv
import os
import re
import signal
import smtplib
import subprocess
import sys
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from ..interop.daemon import accepts, free_ports, until
from ..interop.dovecot import Dovecot
from ..interop.postfix import Postfix
from ..interop.servers import UNKNOWN

EXAMPLES = Path(__file__).with_name("examples")
LONG = bool(os.environ.get("SMTPCONN_SOAK"))  # ten thousand mails instead of some
PATIENCE = 900.0 if LONG else 60.0

Account = Callable[..., dict[str, str]]

pytestmark = [pytest.mark.interop, pytest.mark.timeout(4 * PATIENCE)]


def run(
    script: Path,
    *arguments: str,
    environment: dict[str, str] | None = None,
    stdin: bytes = b"",
    succeeds: bool = True,
    warnings: str = "error",
) -> str:
    """What the script prints; its errors, if it is to fail."""
    done = subprocess.run(
        [sys.executable, "-W", warnings, str(script), *arguments],
        env=environment, input=stdin, capture_output=True, timeout=PATIENCE, check=False,
    )  # fmt: skip
    assert (done.returncode == 0) is succeeds, done.stderr.decode()
    return (done.stdout if succeeds else done.stderr).decode()


def arrived(server: Postfix | Dovecot, user: str, token: str, count: int) -> int:
    """How many mails with this text in their headers a user has, as soon as there are enough of them."""
    until(lambda: len(server.find_mail(user, token)) >= count, PATIENCE)
    return len(server.find_mail(user, token))


def stored(postfix: Postfix) -> int:
    """How many mails are in all mailboxes; none is looked at."""
    return sum(1 for _ in postfix.mail_directory.glob("*/new/*"))


def connections(postfix: Postfix, address: str) -> int:
    return postfix.log().count(f" connect from unknown[{address}]")


def ended(postfix: Postfix) -> list[str]:
    """What was sent over each connection from the server's own address, as soon as all of them are at an end."""
    end = re.compile(rf" disconnect from unknown\[{re.escape(postfix.host)}\] (.*)")
    assert until(lambda: len(end.findall(postfix.log())) >= connections(postfix, postfix.host), PATIENCE)
    return end.findall(postfix.log())


def queue_ids(postfix: Postfix, user: str, mails: int) -> list[str]:
    """The ids that Postfix has written into the newest mails of a user."""
    stored = postfix.wait_for_mails(user, mails)
    return [found[1].decode() for mail in stored if (found := re.search(rb"\bid ([0-9A-Za-z]+)", mail))]


# --- MG1: a script ---


def test_MG1_the_script_says_the_queue_id_and_who_was_refused(postfix: Postfix, account: Account) -> None:
    """users:MG1, U23, U24: the id is the one that is in the mail."""
    already = len(postfix.mailbox("user3"))
    told = run(EXAMPLES / "script.py", "user3@lab.test", UNKNOWN, environment=account(postfix))
    queue_id = told.split()[0]
    assert told == f"{queue_id} ['{UNKNOWN}']\n"
    assert queue_ids(postfix, "user3", already + 1)[already:] == [queue_id]


def test_MG1_the_script_as_it_was_runs_with_another_import(postfix: Postfix, account: Account, tmp_path: Path) -> None:
    """users:MG1, SC34: and says what it said with smtplib."""
    text = (EXAMPLES / "script_before.py").read_text()
    assert text.count("import smtplib\n") == 1
    changed = tmp_path / "script.py"
    changed.write_text(text.replace("import smtplib\n", "from smtpconn.contrib import compat as smtplib\n"))
    already = len(postfix.mailbox("user4"))
    for script in (EXAMPLES / "script_before.py", changed):
        told = run(script, "user4@lab.test", UNKNOWN, environment=account(postfix))
        assert re.fullmatch(rf"\{{'{UNKNOWN}': \(550, b'5\.1\.1 .*\)\}}\n", told)
    assert len(queue_ids(postfix, "user4", already + 2)) == already + 2


def test_MG1_a_server_that_nobody_vouches_for_gets_no_password(
    postfix: Postfix, account: Account, tmp_path: Path
) -> None:
    """users:MG1, U15: neither from the new text nor from the old one with another import; smtplib gives it."""
    environment = account(postfix)
    environment["SSL_CERT_FILE"] = str(postfix.certificates.other_ca_path)
    before = len(ended(postfix))
    with smtplib.SMTP(postfix.host, postfix.port, timeout=PATIENCE) as s:
        s.starttls()
        assert s.login(environment["MAIL_USER"], environment["MAIL_PASSWORD"])[0] == 235
    changed = tmp_path / "script.py"
    text = (EXAMPLES / "script_before.py").read_text()
    changed.write_text(text.replace("import smtplib\n", "from smtpconn.contrib import compat as smtplib\n"))
    for script, error in ((EXAMPLES / "script.py", "CertificateError"), (changed, "SMTPCertificateFailed")):
        assert error in run(script, "user3@lab.test", environment=environment, succeeds=False)
    assert until(lambda: len(ended(postfix)) >= before + 3, PATIENCE)
    assert ["auth=1" in commands for commands in ended(postfix)[before:]] == [True, False, False]


# --- MG3: Flask and threads ---


FLASK = ["flask", "--app", "{module}", "run", "--port", "{port}"]  # a thread for each request
GUNICORN = ["gunicorn", "--preload", "--workers", "2", "--threads", "8", "--bind", "127.0.0.1:{port}", "{module}:{app}"]


@contextmanager
def serving(program: list[str], application: str, environment: dict[str, str], log: Path) -> Iterator[str]:
    """The application behind a server that its users know. Its address."""
    (port,) = free_ports(1)
    module, _, app = application.partition(":")
    words = [word.format(port=port, module=module, app=app or "app") for word in program]
    command, environment = [sys.executable, "-m", *words], {**environment, "PYTHONPATH": str(EXAMPLES)}
    with log.open("wb") as output:
        process = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
    try:
        assert until(lambda: accepts(port), PATIENCE), log.read_text()
        yield f"http://127.0.0.1:{port}"
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            raise


def post(url: str, *to: str) -> str:
    form = urllib.parse.urlencode({"to": to}, doseq=True).encode()
    with urllib.request.urlopen(url, form, timeout=PATIENCE) as answer:  # noqa: S310  # our own, on loopback
        body: bytes = answer.read()
    return body.decode()


def post_many(url: str, users: list[str]) -> Counter[str]:
    """In sixteen threads at once: each answer, and how often it came."""
    with ThreadPoolExecutor(16) as clients:
        return Counter(clients.map(lambda user: post(url, user), users))


@pytest.mark.parametrize(
    ("program", "application", "answer", "processes"),
    [
        (GUNICORN, "flask_pool:create_app()", "delivered", 2),
        (FLASK, "flask_threads", "It is on its way.", 1),
        (GUNICORN, "flask_mailman_app", "1", 2),
        (FLASK, "flask_mail_app", "sent", 1),
    ],
    ids=["FL1", "FL1 threads", "FL3", "FL4"],
)
def test_MG3_an_application_of_the_documentation_serves_sixteen_clients_over_four_connections_a_process(
    program: list[str],
    application: str,
    answer: str,
    processes: int,
    postfix: Postfix,
    account: Account,
    source_address: str,
    tmp_path: Path,
) -> None:
    """users:MG3, FL1-FL5: each mail is in a mailbox, once; also where the workers fork from a loaded application."""
    environment = account(postfix, source_address=source_address)
    # Flask-Mailman has no URL: the log tells its connections from others by what is new in it.
    counted = source_address if application != "flask_mailman_app" else postfix.host
    ended(postfix)
    users = Counter(f"user{1 + number % 9}@lab.test" for number in range(48))
    before, mails = connections(postfix, counted), stored(postfix)
    already = Counter({user: len(postfix.mailbox(user)) for user in users})
    with serving(program, application, environment, tmp_path / "log") as base:
        assert post_many(f"{base}/signup", list(users.elements())) == {answer: users.total()}
        if application == "flask_threads":
            post(f"{base}/signup", UNKNOWN)
            assert until(lambda: "a mail was not sent: " in (tmp_path / "log").read_text(), PATIENCE)
        if application == "flask_mail_app":
            assert '"not delivered"' in post(f"{base}/invite", "user1@lab.test", UNKNOWN)
            users["user1@lab.test"] += 1
        assert until(lambda: stored(postfix) >= mails + users.total(), PATIENCE)
    assert Counter({user: len(postfix.mailbox(user)) for user in users}) == already + users
    assert 1 <= connections(postfix, counted) - before <= 4 * processes


# --- libraries that compose ---


@pytest.mark.parametrize(("example", "mails"), [("redmail_pool.py", 4), ("yagmail_pool.py", 1)])
def test_DO3_what_another_library_composes_goes_over_one_connection_with_an_answer_for_each_recipient(
    example: str, mails: int, postfix: Postfix, account: Account, source_address: str
) -> None:
    """users:DO3, U23: the real redmail and yagmail, as the page on them has it."""
    already = len(postfix.mailbox("user8"))
    environment = account(postfix, source_address=source_address)
    told = run(EXAMPLES / example, "user8@lab.test", UNKNOWN, environment=environment, warnings="default")
    assert told == f"user8@lab.test delivered\n{UNKNOWN} not delivered\n"
    arriving = postfix.wait_for_mails("user8", already + mails, PATIENCE)[already:]
    subjects = [re.findall(rb"^Subject: (.*)$", mail, re.MULTILINE) for mail in arriving]
    assert sorted(subjects) == ([[b"Report %d" % n] for n in range(4)] if mails == 4 else [[b"Report"]])
    assert connections(postfix, source_address) == 1


# --- MG5: LMTP ---


def test_MG5_fifty_recipients_of_one_transaction_each_have_their_own_answer(dovecot: Dovecot) -> None:
    """users:MG5, U1: mixed replies at RCPT and behind the data, and one address twice, over a Unix socket."""
    message_id = f"<{uuid.uuid4()}@lab.test>"
    unknown = [f"nobody{number}@lab.test" for number in range(43)]
    recipients = [*dovecot.users, dovecot.full, dovecot.broken, *unknown, dovecot.users[0]]
    assert len(recipients) == 50
    mail = f"Message-ID: {message_id}\nSubject: LMTP\n\nHello.\n".encode()
    told = run(EXAMPLES / "lmtp_delivery.py", dovecot.unix_socket, "anna@example.com", *recipients, stdin=mail)
    lines = [line.split(" ", 1) for line in told.splitlines()]
    assert [address for address, _ in lines] == recipients
    actions = [re.sub(r" \d{3} .*", "", action) for _, action in lines]
    assert actions == ["done"] * 4 + ["bounce", "keep, and try later"] + ["bounce"] * 43 + ["done"]
    assert [len(dovecot.find_mail(user, message_id)) for user in dovecot.users] == [1, 1, 1, 1]
    assert dovecot.original(dovecot.find_mail("alice", message_id)[0]) == mail.replace(b"\n", b"\r\n")
    saved = re.compile(rf"<([^<>:]+)(?::R\d+)?>: Info: msgid={re.escape(message_id)}: saved mail")
    assert until(lambda: len(saved.findall(dovecot.log())) == 4, PATIENCE)
    assert len(set(saved.findall(dovecot.log()))) == 1, "one transaction"


# --- MG6: many personal mails ---


def test_MG6_a_batch_that_was_stopped_goes_on_and_everybody_has_one_mail(
    postfix: Postfix, account: Account, source_address: str, tmp_path: Path
) -> None:
    """users:MG6: an address that is none, or that nobody has, spoils only its own mail; connections are replaced."""
    token, count = uuid.uuid4().hex, 10_000 if LONG else 120
    addresses = [f"user{1 + number % 9}@lab.test" for number in range(count)]
    rows = [(str(number), address, f"{token}-{number}-") for number, address in enumerate(addresses)]
    rows[3:3] = [("unknown", UNKNOWN, "Nobody"), ("invalid", "not an address", "Nobody")]
    with (tmp_path / "readers.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("number", "address", "name"), *rows])
    environment = account(postfix, source_address=source_address, max_messages="20")
    command = [str(EXAMPLES / "newsletter.py"), str(tmp_path / "readers.csv"), str(tmp_path / "record.csv")]

    already = stored(postfix)
    process = subprocess.Popen([sys.executable, "-W", "error", *command], env=environment)
    assert until(lambda: process.poll() is not None or len(recorded(tmp_path)) >= 20, PATIENCE)
    process.send_signal(signal.SIGINT)
    assert process.wait(PATIENCE) == 0
    sent = sum(verdict == "delivered" for _, verdict, _ in recorded(tmp_path))
    assert in_mailboxes(postfix, token, mails=already + sent) == dict.fromkeys(range(sent), 1)

    environment["EMAIL_URL"] += "&pipelining=prefetch"
    run(Path(command[0]), *command[1:], environment=environment)
    told = {number: (verdict, reply) for number, verdict, reply in recorded(tmp_path)}
    assert len(recorded(tmp_path)) == len(told) == count + 2
    assert {number for number, (verdict, _) in told.items() if verdict != "delivered"} == {"unknown", "invalid"}
    assert "550 [5.1.1]" in told["unknown"][1]
    assert in_mailboxes(postfix, token, mails=already + count) == dict.fromkeys(range(count), 1)
    assert connections(postfix, source_address) >= count / 20


def recorded(directory: Path) -> list[list[str]]:
    """The whole lines of the record."""
    record = directory / "record.csv"
    text = record.read_text() if record.exists() else ""
    return list(csv.reader(text[: text.rfind("\n") + 1].splitlines()))


def in_mailboxes(postfix: Postfix, token: str, *, mails: int) -> dict[int, int]:
    """Of each personal mail with this token: how many there are, as soon as there are so many mails of any kind."""
    until(lambda: stored(postfix) >= mails, PATIENCE)
    subject = re.compile(rb"Subject: News for %b-(\d+)-" % token.encode())
    texts = [mail for user in postfix.users for mail in postfix.find_mail(user, token)]
    return dict(sorted(Counter(int(number) for mail in texts for number in subject.findall(mail)).items()))
