"""`smtpconn bulk`: what is read, what is sent, what the journal holds, and with which status it ends."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from smtpconn.cli import lines, main
from smtpconn.cli.sources import Envelope, Letter, Source, Unusable
from smtpconn.cli.verdict_journal import JournalError, Settled, State, VerdictJournal
from smtpconn.testing import LoopbackServer, ServerProcess, TestAuthority

ANNA, BEN, CARL, NOBODY = "anna@example.com", "ben@example.net", "carl@example.net", "nobody@example.net"
PASSWORD = "hunter2-of-anna"


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The variables of whoever runs the tests are not part of them."""
    for name in ("EMAIL_URL", "SMTPCONN_PASSWORD"):
        monkeypatch.delenv(name, raising=False)


class Done:
    """How a call of the command in this process ended."""

    def __init__(self, status: object, out: str, err: str) -> None:
        self.status, self.out, self.err = status, out, err

    @property
    def rows(self) -> list[list[str]]:
        """The cells of each line about a recipient or a mail."""
        return [line.split("\t") for line in self.out.splitlines() if not line.startswith("SUMMARY")]

    @property
    def counts(self) -> dict[str, int]:
        """What the last line counts."""
        cells = self.out.splitlines()[-1].split("\t")
        assert cells[0] == "SUMMARY"
        return {name: int(number) for name, _, number in (cell.partition("=") for cell in cells[1:])}


@pytest.fixture
def bulk(capsys: pytest.CaptureFixture[str], server: LoopbackServer) -> Callable[..., Done]:
    """Run `smtpconn bulk` in this process, against `server`."""

    def run(*arguments: str) -> Done:
        try:
            status: object = main(["bulk", *arguments, *at(server)])
        except SystemExit as exited:
            status = exited.code
        return Done(status, *capsys.readouterr())

    return run


def at(server: LoopbackServer | ServerProcess) -> tuple[str, ...]:
    return "--host", server.host, "--port", str(server.port), "--tls", "none"


def eml(number: int, to: str = BEN, *fields: str) -> bytes:
    header = [f"From: {ANNA}", f"To: {to}", f"Message-ID: <{number}@x>", *fields]
    return "\n".join([*header, "", ".", "From here on", f"text {number}", ""]).encode()


@pytest.fixture
def outbox(tmp_path: Path) -> Path:
    """A directory with three mails."""
    path = tmp_path / "outbox"
    path.mkdir()
    for number in range(3):
        (path / f"{number}.eml").write_bytes(eml(number))
    return path


def journal_of(source: Path) -> Path:
    return source.with_name(f"{source.name}.journal")


def entries(journal: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in journal.read_bytes().splitlines()]


# --- what is sent


def test_CLI6_CLI9_a_directory_of_files_is_sent_in_any_order_and_each_once(
    outbox: Path, server: LoopbackServer, bulk: Callable[..., Done]
) -> None:
    """features:F117; CLI11: lines with tabs in a pipe."""
    (outbox / "notes.txt").write_text("no mail")
    (outbox / ".hidden.eml").write_text("no mail")
    done = bulk(str(outbox))
    assert (done.status, done.err) == (0, "")
    assert sorted(mail.content for mail in server.mails) == [eml(n).replace(b"\n", b"\r\n") for n in range(3)]
    assert {(mail.sender, *mail.recipients) for mail in server.mails} == {(ANNA, BEN)}
    assert sorted(row[3] for row in done.rows) == ["0.eml", "1.eml", "2.eml"]
    assert {(row[0], row[1], row[2], row[4]) for row in done.rows} == {("DELIVERED", "250", "2.0.0", BEN)}
    assert done.counts["delivered"] == 3
    again = bulk(str(outbox))
    assert (again.status, again.rows, again.counts["delivered_earlier"]) == (0, [], 3)
    assert len(server.mails) == 3


def test_a_mail_is_declared_with_its_size_and_bdat_is_an_option(
    outbox: Path, server: LoopbackServer, bulk: Callable[..., Done]
) -> None:
    assert bulk(str(outbox), "--bdat").status == 0
    assert {mail.verb for mail in server.mails} == {"BDAT"}
    assert {mail.mail_params["SIZE"] for mail in server.mails} == {str(len(mail.content)) for mail in server.mails}


def test_an_mbox_is_cut_at_its_from_lines(tmp_path: Path, server: LoopbackServer, bulk: Callable[..., Done]) -> None:
    box = tmp_path / "old.mbox"
    parts = [eml(n).replace(b"From here", b">From here") for n in range(3)]
    parts[2] = parts[2].replace(b"text", b">>From text\nnot a\nFrom line")
    box.write_bytes(b"".join(b"From anna Thu Jan  1 00:00:00 1970\n" + part + b"\n" for part in parts))
    assert bulk(str(box)).status == 0
    expected = [eml(n).replace(b"\n", b"\r\n") for n in range(3)]
    expected[2] = expected[2].replace(b"text", b">From text\r\nnot a\r\nFrom line")
    assert sorted(mail.content for mail in server.mails) == expected


def test_the_options_stand_in_for_the_header_and_bcc_is_removed(
    tmp_path: Path, server: LoopbackServer, bulk: Callable[..., Done]
) -> None:
    """users:CLI7, CLI8."""
    path = tmp_path / "box"
    path.mkdir()
    (path / "a.eml").write_bytes(eml(1, BEN, f"Bcc: {CARL},", " dora@example.net"))
    assert bulk(str(path), "-f", "<>", "--to", NOBODY, "--to", "you@example.com").status == 0
    assert (server.mails[0].sender, server.mails[0].recipients) == ("", [NOBODY, "you@example.com"])
    assert b"Bcc" not in server.mails[0].content
    assert bulk(str(path)).status == 0
    assert server.mails[1].recipients == [BEN, CARL, "dora@example.net"]
    assert b"Bcc" not in server.mails[1].content


LINES: list[dict[str, Any]] = [
    {"sender": ANNA, "recipients": [BEN], "message": "Subject: one\n\nOne.\n"},
    {"sender": ANNA, "recipients": [BEN], "message_base64": "U3ViamVjdDogdHdvDQoNClR3by4NCg=="},
    {"file": "three.eml"},
    {"id": "four", "from": f"Ännä <{ANNA}>", "to": [BEN], "bcc": CARL,
     "subject": "fünf", "text": "Ü\n", "html": "<b>Ü</b>"},
    {"from": ANNA, "to": BEN, "subject": "six", "headers": {"List-Id": "<x>", "Message-ID": "<six@x>"}},
]  # fmt: skip


def test_jsonl_has_a_message_a_file_or_fields(
    tmp_path: Path, server: LoopbackServer, bulk: Callable[..., Done]
) -> None:
    (tmp_path / "three.eml").write_bytes(eml(3))
    source = tmp_path / "mails.jsonl"
    source.write_text("\n".join(map(json.dumps, LINES)) + "\n\n", encoding="utf-8")
    done = bulk(str(source), "--max-size", "1")
    assert (done.status, done.err) == (0, "")
    one, two, three, four, six = server.mails
    assert [one.content, two.content] == [b"Subject: one\r\n\r\nOne.\r\n", b"Subject: two\r\n\r\nTwo.\r\n"]
    assert three.content == eml(3).replace(b"\n", b"\r\n")
    assert four.recipients == [BEN, CARL]
    assert four.content.isascii()
    assert b"Bcc" not in four.content
    message = four.message
    assert (message["Subject"], message["From"], message.get_content_type()) == (
        "fünf", f"Ännä <{ANNA}>", "multipart/alternative",
    )  # fmt: skip
    assert [part.get_content().strip() for part in message.iter_parts()] == ["Ü", "<b>Ü</b>"]
    assert message["Date"]
    assert re.fullmatch(r"<[0-9a-f]{32}\.1@smtpconn\.invalid>", message["Message-ID"])
    assert (six.message["List-Id"], six.message["Message-ID"]) == ("<x>", "<six@x>")
    assert [row[3] for row in done.rows] == ["line 1", "line 2", "line 3", "four", "four", "line 5"]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        pytest.param("{", "this is not JSON", id="no JSON"),
        pytest.param("[" * 100_000, "this is not JSON", id="JSON that is too deep"),
        pytest.param("[1]", "this is no JSON object", id="a list"),
        pytest.param('{"sender": "a@b.example"}', "there is no message", id="no message"),
        pytest.param('{"message": "x", "text": "y"}', "message and text are two messages", id="two messages"),
        pytest.param('{"recipient": "x", "message": "x"}', "the key 'recipient' is unknown", id="an unknown key"),
        pytest.param('{"recipients": "x", "message": "x"}', "the value of recipients is of a wrong type", id="a type"),
        pytest.param('{"recipients": [1], "message": "x"}', "a member that is no text", id="a member"),
        pytest.param('{"message_base64": "?"}', "message_base64 is not base64", id="no base64"),
        pytest.param('{"file": "missing"}', "file cannot be read: No such file", id="no file"),
        pytest.param('{"from": "a@b.example", "text": "x"}', "no mailbox in To, Cc or Bcc", id="nobody"),
        pytest.param('{"to": "a@b.example", "text": "x"}', "neither Sender nor From", id="from nobody"),
        pytest.param('{"to": "a@b.example\\nBcc: c@d.e", "text": "x"}', "the fields make no message", id="a line"),
        pytest.param('{"to": "a@b.example", "headers": {"X\\nBcc": "c"}}', "none of a header field", id="a name"),
        pytest.param('{"sender": "a b", "recipients": ["a@b.example"], "message": "x"}', "sender", id="no address"),
        pytest.param('{"sender": "", "recipients": ["a@b.example"], "message": "x\\ry"}', "bare CR", id="a bare CR"),
    ],
)  # fmt: skip
def test_a_line_that_cannot_be_used_costs_no_other(
    tmp_path: Path, server: LoopbackServer, bulk: Callable[..., Done], line: str, reason: str
) -> None:
    source = tmp_path / "mails.jsonl"
    source.write_text(f"{line}\n{json.dumps(LINES[0])}\n", encoding="utf-8")
    done = bulk(str(source))
    assert done.status == 1
    [bad] = [row for row in done.rows if row[0] == "UNUSABLE"]
    assert bad[3] == "line 1"
    assert reason in bad[5]
    assert len(server.mails) == 1
    assert (done.counts["unusable"], done.counts["delivered"]) == (1, 1)


# --- how a mail is known again


def letters(source: Path, **envelope: Any) -> dict[str, str]:
    found = list(Source(source, "auto", Envelope(**envelope)))
    assert all(isinstance(each, Letter) for each in found)
    return {each.name: each.key for each in found if isinstance(each, Letter)}


def test_a_mail_is_known_by_its_octets_whatever_stands_around_it(tmp_path: Path) -> None:
    source = tmp_path / "mails.jsonl"
    first, second = (json.dumps({"sender": ANNA, "recipients": [BEN], "message": text}) for text in "xy")
    source.write_text(f"{first}\n{second}\n{first}\n")
    before = letters(source)
    assert len(set(before.values())) == 3
    source.write_text(f"{second}\n\n{first}\n{first}\n")
    after = letters(source, sender=CARL)
    assert set(after.values()) == set(before.values())
    assert after["line 1"] == before["line 2"]


def test_a_line_with_an_id_is_known_by_that_alone(tmp_path: Path) -> None:
    source = tmp_path / "mails.jsonl"
    source.write_text(json.dumps({"id": "7", "sender": ANNA, "recipients": [BEN], "message": "x"}))
    before = letters(source)
    source.write_text(json.dumps({"message": "changed", "id": "7", "sender": ANNA, "recipients": [BEN]}))
    assert letters(source) == before
    source.write_text(source.read_text() + "\n" + source.read_text())
    found = list(Source(source, "auto", Envelope()))
    assert isinstance(found[1], Unusable)
    assert "is there twice" in found[1].reason


# --- the journal


def test_the_journal_has_no_content_no_credential_and_no_word_of_the_server(
    outbox: Path, authority: TestAuthority, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """users:CLI1; the file is its owner's alone."""
    with LoopbackServer(tls="starttls", ca=authority, auth={"anna": PASSWORD}) as server:
        server.refuse(BEN, "550 5.7.1 these words: text 1")
        monkeypatch.setenv("EMAIL_URL", server.url)
        assert main(["bulk", str(outbox), "--json"]) == 69
        assert [session.user for session in server.sessions] == ["anna"] * len(server.sessions)
    out, err = capsys.readouterr()
    written = journal_of(outbox).read_bytes()
    for secret in (b"text 1", PASSWORD.encode(), b"From here", b"these words"):
        assert secret not in written
    assert PASSWORD not in out + err
    if os.name == "posix":
        assert journal_of(outbox).stat().st_mode & 0o077 == 0


def test_the_intent_stands_in_front_of_the_verdict_and_only_where_data_was_sent(
    outbox: Path, server: LoopbackServer, bulk: Callable[..., Done]
) -> None:
    (outbox / "9.eml").write_bytes(eml(9, NOBODY))
    server.refuse(NOBODY, "550 5.1.1 no")
    done = bulk(str(outbox), "--max-size", "1")
    assert done.status == 1
    kinds = [(next(iter(entry)), entry.get("name")) for entry in entries(journal_of(outbox))]
    mails = [pair for n in range(3) for pair in (("intent", f"{n}.eml"), ("verdict", f"{n}.eml"))]
    assert kinds == [("smtpconn-journal", None), *mails, ("verdict", "9.eml")]
    assert entries(journal_of(outbox))[-1]["to"] == [
        {"recipient": NOBODY, "state": "refused", "code": 550, "enhanced": "5.1.1", "final": True}
    ]
    again = bulk(str(outbox))
    assert (again.status, again.counts["refused"]) == (1, 1)
    assert [row[0:5:4] for row in again.rows] == [["NOT_DELIVERED", NOBODY]]
    assert server.received == 3


def test_unknown_is_told_again_and_sent_again_only_on_demand(
    outbox: Path, server: LoopbackServer, bulk: Callable[..., Done]
) -> None:
    server.fault("end of data", "RST", nth=2)
    done = bulk(str(outbox), "--max-size", "1")
    assert (done.status, done.counts["unknown"], done.counts["delivered"]) == (74, 1, 2)
    assert "only --resend-unknown sends it again" in done.err
    again = bulk(str(outbox))
    assert (again.status, again.counts["unknown"], len(server.mails)) == (74, 1, 3)
    assert [row[0] for row in again.rows] == ["UNKNOWN"]
    (outbox / "1.eml").rename(outbox / "1.moved")
    assert (bulk(str(outbox)).status, len(server.mails)) == (74, 3)
    (outbox / "1.moved").rename(outbox / "1.eml")
    last = bulk(str(outbox), "--resend-unknown")
    assert (last.status, last.counts["unknown"], len(server.mails)) == (0, 0, 4)
    assert bulk(str(outbox)).status == 0


def test_an_intent_without_a_verdict_is_unknown(
    outbox: Path, server: LoopbackServer, bulk: Callable[..., Done]
) -> None:
    bulk(str(outbox))
    journal = journal_of(outbox)
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join(line for line in lines if b'"verdict"' not in line or b"1.eml" not in line))
    done = bulk(str(outbox))
    assert (done.status, done.counts["unknown"], len(server.mails)) == (74, 1, 3)
    assert done.rows == [["UNKNOWN", "-", "-", "1.eml", BEN, "left by an earlier run, and not sent again"]]


@pytest.mark.parametrize("cut", [1, 20, 60])
def test_a_torn_last_line_is_dropped(
    outbox: Path, server: LoopbackServer, bulk: Callable[..., Done], cut: int
) -> None:
    bulk(str(outbox), "--max-size", "1")
    journal = journal_of(outbox)
    journal.write_bytes(journal.read_bytes()[:-cut])
    done = bulk(str(outbox))
    assert (done.status, done.counts["unknown"], len(server.mails)) == (74, 1, 3)
    assert all(entries(journal))


def test_a_journal_torn_in_its_first_line_is_a_new_one(outbox: Path, bulk: Callable[..., Done]) -> None:
    journal_of(outbox).write_bytes(b'{"smtpc')
    assert bulk(str(outbox)).status == 0
    assert entries(journal_of(outbox))[0] == {"smtpconn-journal": 1}


@pytest.mark.parametrize("content", [b"important", b'{"smtpconn-journal": 2}\n', b'{"smtpconn-journal": 1}\n{}\nx\n'])
def test_a_file_that_is_no_journal_is_left_as_it_is(
    outbox: Path, server: LoopbackServer, bulk: Callable[..., Done], content: bytes
) -> None:
    journal = outbox.with_name("given")
    journal.write_bytes(content)
    assert bulk(str(outbox), "--journal", str(journal)).status == 65
    assert journal.read_bytes() == content
    assert not server.mails


def test_two_runs_cannot_have_one_journal(outbox: Path, server: LoopbackServer, bulk: Callable[..., Done]) -> None:
    held = VerdictJournal(journal_of(outbox))
    done = bulk(str(outbox))
    held.close()
    assert (done.status, done.out) == (75, "")
    assert "another run is using this journal" in done.err
    assert not server.mails
    assert bulk(str(outbox)).status == 0


def test_without_a_journal_nothing_is_sent(outbox: Path, server: LoopbackServer, bulk: Callable[..., Done]) -> None:
    done = bulk(str(outbox), "--journal", str(outbox))
    assert (done.status, server.mails) == (73, [])


@pytest.mark.parametrize("failing", ["intent", "verdict"])
def test_a_journal_that_cannot_be_written_any_more_ends_the_run(
    outbox: Path,
    server: LoopbackServer,
    bulk: Callable[..., Done],
    monkeypatch: pytest.MonkeyPatch,
    failing: str,
) -> None:
    """A full disk. No end of data is written without its intent; what has one and no verdict is UNKNOWN."""
    really = os.write

    def write(file: int, octets: bytes) -> int:
        if octets.startswith(f'{{"{failing}"'.encode()):
            return really(file, octets[:7])
        return really(file, octets)

    monkeypatch.setattr(os, "write", write)
    done = bulk(str(outbox), "--max-size", "1")
    monkeypatch.undo()
    sent = 0 if failing == "intent" else 1
    assert (done.status, server.received) == (73 if failing == "intent" else 74, sent)
    assert "cannot be written" in done.err
    assert all(entries(journal_of(outbox)))
    again = bulk(str(outbox))
    assert (again.status, again.counts["unknown"], server.received) == (74 * sent, sent, 3)


def test_fsync_puts_the_intent_on_the_disk_before_the_mail_goes_on(
    outbox: Path, server: LoopbackServer, bulk: Callable[..., Done], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda file: seen.append(server.received))
    assert bulk(str(outbox), "--max-size", "1", "--fsync").status == 0
    assert seen == [0, 1, 2, 3]
    seen.clear()
    assert bulk(str(outbox), "--resend-unknown").status == 0
    assert not seen


def test_a_closed_journal_takes_no_intent(tmp_path: Path) -> None:
    journal = VerdictJournal(tmp_path / "j")
    journal.close()
    journal.close()
    with pytest.raises(JournalError, match="it is closed"):
        journal.intend("1", "a", [BEN])


def test_what_was_found_last_stands_and_domains_have_no_case(tmp_path: Path) -> None:
    path = tmp_path / "j"
    journal = VerdictJournal(path)
    journal.settle("1", "a", [Settled("b@Example.net", State.DELIVERED), Settled(CARL, State.REFUSED, final=False)])
    journal.intend("2", "b", [BEN])
    journal.close()
    journal = VerdictJournal(path)
    assert [journal.state("1", each) for each in ("b@example.NET", CARL, "B@example.net")] == [
        State.DELIVERED, State.OPEN, State.OPEN,
    ]  # fmt: skip
    assert (journal.state("2", BEN), journal.unknown) == (State.UNKNOWN, {("2", BEN): "b"})
    journal.close()


# --- turns


def test_what_is_transient_is_tried_again_and_nobody_else(
    outbox: Path, server: LoopbackServer, bulk: Callable[..., Done]
) -> None:
    (outbox / "9.eml").write_bytes(eml(9, f"{BEN}, {CARL}, {NOBODY}"))
    server.reply("RCPT", "450 4.7.1 greylisted", nth={1, 2}, recipient=CARL)
    server.refuse(NOBODY, "550 5.1.1 no")
    done = bulk(str(outbox), "--retries", "3", "--retry-wait", "0.01")
    assert (done.status, done.counts["delivered"], done.counts["refused"], done.counts["later"]) == (1, 5, 1, 0)
    assert [mail.recipients for mail in server.mails if b"text 9" in mail.content] == [[BEN], [CARL]]
    assert [row[0] for row in done.rows if row[4] == CARL] == ["NOT_DELIVERED", "NOT_DELIVERED", "DELIVERED"]


def test_what_is_left_for_later_is_tried_by_the_next_run(
    outbox: Path, server: LoopbackServer, bulk: Callable[..., Done]
) -> None:
    server.refuse(BEN, "450 4.7.1 later")
    done = bulk(str(outbox))
    assert (done.status, done.counts["later"]) == (75, 3)
    assert "recipients to try again: 3; the same command goes on where this one ended" in done.err
    server.clear_rules()
    assert bulk(str(outbox)).status == 0


# --- how it ends


@pytest.mark.parametrize(
    ("rule", "status"),
    [
        pytest.param("550 5.1.1 no", 69, id="69 every refusal is permanent"),
        pytest.param("450 4.2.0 later", 75, id="75 nobody has it, and later may help"),
    ],
)
def test_the_status_is_that_of_all_mails(
    outbox: Path, server: LoopbackServer, bulk: Callable[..., Done], rule: str, status: int
) -> None:
    server.refuse(BEN, rule)
    assert bulk(str(outbox)).status == status


def test_65_every_mail_is_unusable_and_66_there_is_none(outbox: Path, bulk: Callable[..., Done]) -> None:
    for each in outbox.iterdir():
        each.write_bytes(b"Subject: no envelope\n\n")
    assert bulk(str(outbox)).status == 65
    for each in outbox.iterdir():
        each.unlink()
    assert bulk(str(outbox)).status == 66


@pytest.mark.parametrize(
    ("arguments", "status", "told"),
    [
        pytest.param(["missing"], 66, "cannot be read", id="66 no source"),
        pytest.param(["box/0.eml"], 64, "say which by --format", id="64 a file of no known kind"),
        pytest.param(["box", "--format", "mbox"], 64, "a directory is read as --format eml", id="64 a wrong format"),
        pytest.param(["box", "--to", "a b"], 64, "recipient", id="64 a wrong recipient"),
        pytest.param(["box", "-f", "a b"], 64, "sender", id="64 a wrong sender"),
        pytest.param(["box", "--retries", "-1"], 64, "--retries", id="64 a wrong number"),
        pytest.param(["box/0.eml", "--format", "mbox"], 65, "this is no mbox", id="65 no mbox"),
    ],
)
def test_what_is_refused_before_anything_is_sent(
    outbox: Path,
    bulk: Callable[..., Done],
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    status: int,
    told: str,
) -> None:
    outbox.rename(outbox.with_name("box"))
    monkeypatch.chdir(outbox.parent)
    done = bulk(*arguments)
    assert done.status == status
    assert told in done.err


def test_78_there_is_no_server_and_75_it_does_not_answer(
    outbox: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bulk", str(outbox)]) == 78
    with LoopbackServer() as gone:
        port = gone.port
    assert main(["bulk", str(outbox), "--host", "127.0.0.1", "--port", str(port), "--tls", "none", "--json"]) == 75
    out, err = capsys.readouterr()
    report = json.loads(out)
    assert (report["error"]["type"], report["recipients"]["later"], report["mails"]) == ("ConnectError", 3, 3)
    assert "Traceback" not in err


def test_the_keys_of_a_pool_in_a_url_are_obeyed(
    outbox: Path, server: LoopbackServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"lmtp://{server.host}:{server.port}?max_size=1&max_messages=1"
    monkeypatch.setenv("EMAIL_URL", url)
    with LoopbackServer(protocol="lmtp") as lmtp:
        monkeypatch.setenv("EMAIL_URL", url.replace(str(server.port), str(lmtp.port)))
        assert main(["bulk", str(outbox)]) == 0
        assert (lmtp.connections_total, lmtp.connections_peak, len(lmtp.mails)) == (3, 1, 3)


def test_json_is_one_object_with_the_keys_of_its_schema(
    outbox: Path, server: LoopbackServer, bulk: Callable[..., Done]
) -> None:
    """users:JS1."""
    (outbox / "9.eml").write_bytes(eml(9, NOBODY))
    (outbox / "x.eml").write_bytes(b"\n")
    server.refuse(NOBODY, "550 5.1.1 no")
    done = bulk(str(outbox), "--json")
    report = json.loads(done.out)
    keys = "schema command exit mails left recipients missing unusable error journal seconds"
    assert list(report) == keys.split()
    assert (report["schema"], report["command"], report["exit"], report["mails"]) == (1, "bulk", done.status, 5)
    assert report["recipients"] == {"delivered": 3, "refused": 1, "later": 0, "unknown": 0, "delivered_earlier": 0}
    assert report["missing"] == [
        {"mail": "9.eml", "recipient": NOBODY, "delivery": "not delivered", "code": 550, "enhanced": "5.1.1",
         "text": "no", "later": False}
    ]  # fmt: skip
    assert report["unusable"]["mails"] == 1
    assert report["unusable"]["first"][0]["mail"] == "x.eml"


def test_quiet_prints_only_who_does_not_have_a_mail(
    outbox: Path, server: LoopbackServer, bulk: Callable[..., Done]
) -> None:
    (outbox / "9.eml").write_bytes(eml(9, NOBODY))
    server.refuse(NOBODY, "550 5.1.1 no")
    assert bulk(str(outbox), "-q").out == f"NOT_DELIVERED\t550\t5.1.1\t9.eml\t{NOBODY}\tno\n"


# --- the page of it

PAGE = Path(__file__).parent.parent.parent / "docs/howto/bulk.rst"
TEXT = PAGE.read_text(encoding="utf-8")
JSON_BLOCKS = re.findall(r"^\.\. code-block:: json\n\n((?:   [^\n]*\n)+)", TEXT, re.MULTILINE)


def test_the_line_that_the_page_shows_is_sent(
    tmp_path: Path, server: LoopbackServer, bulk: Callable[..., Done]
) -> None:
    source = tmp_path / "mails.jsonl"
    source.write_text(JSON_BLOCKS[0].strip())
    assert bulk(str(source)).status == 0
    assert server.mails[0].message["Subject"] == "Invoice 17"


def test_the_journal_that_the_page_shows_is_one(tmp_path: Path) -> None:
    path = tmp_path / "j"
    path.write_text('{"smtpconn-journal": 1}\n' + re.sub("^   ", "", JSON_BLOCKS[1], flags=re.MULTILINE))
    journal = VerdictJournal(path)
    assert journal.state("beecd75bbcb4cbb310664c31d2fcba45.1", BEN) is State.DELIVERED
    journal.close()


def test_the_page_names_every_key_of_a_line() -> None:
    table = TEXT.partition(".. list-table::")[2].partition("A message from fields")[0]
    named = re.findall(r"`(\w+)`", " ".join(re.findall(r"^   \* - ([^\n]*)", table, re.MULTILINE)))
    assert sorted(named) == sorted(lines.KEYS)


# --- as a process


def start(*arguments: str, **keywords: Any) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-m", "smtpconn", "bulk", *arguments], start_new_session=True, **keywords)


def many(path: Path, number: int) -> None:
    path.mkdir()
    for each in range(number):
        (path / f"{each}.eml").write_bytes(eml(each))


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_CLI4_a_signal_ends_it_with_every_verdict_and_the_next_run_goes_on(
    tmp_path: Path, number: signal.Signals
) -> None:
    source = tmp_path / "box"
    many(source, 200)
    with ServerProcess(keep=False, rtt=0.01) as server:
        child = start(str(source), *at(server), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert child.stdout is not None
        child.stdout.readline()
        child.send_signal(number)
        out, err = child.communicate(timeout=50)
        assert child.returncode == 130
        assert b"interrupted" in err
        assert b"Traceback" not in err
        assert b"unknown=0" in out
        assert 0 < server.report()["received"] < 200
        assert main(["bulk", str(source), *at(server), "-q"]) == 0
        assert sorted(count for _, _, count in server.report()["ledger"]) == [1] * 200


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals")
def test_CLI4_a_signal_ends_the_wait_between_two_turns(outbox: Path, server: LoopbackServer) -> None:
    server.refuse(BEN, "450 4.7.1 later")
    call = [str(outbox), *at(server), "--retries", "1", "--retry-wait", "600", "--max-size", "1"]
    child = start(*call, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert child.stdout is not None
    for _ in range(3):
        child.stdout.readline()
    child.send_signal(signal.SIGINT)
    out, err = child.communicate(timeout=50)
    assert child.returncode == 130
    assert b"later=3" in out
    assert b"Traceback" not in err


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals")
def test_CLI4_a_second_signal_cuts_off_and_leaves_unknown_what_has_an_intent(
    outbox: Path, server: LoopbackServer
) -> None:
    server.fault("end of data", "silence", nth=2)
    child = start(str(outbox), *at(server), "--max-size", "1", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert child.stdout is not None
    assert child.stderr is not None
    child.stdout.readline()
    server.wait_for(2, 20)
    child.send_signal(signal.SIGINT)
    assert b"once more cuts them off" in child.stderr.readline()
    child.send_signal(signal.SIGINT)
    out, err = child.communicate(timeout=50)
    assert child.returncode == 130
    assert b"Traceback" not in err
    assert b"UNKNOWN\t-\t-\t1.eml" in out
    assert main(["bulk", str(outbox), *at(server), "-q"]) == 74
    assert server.ledger.counts() == {(f"<{n}@x>", BEN): 1 for n in range(3)}


def test_CLI4_a_closed_pipe_changes_no_verdict(outbox: Path, server: LoopbackServer) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    child = start(str(outbox), *at(server), stdout=writer, stderr=subprocess.PIPE)
    os.close(writer)
    _, err = child.communicate(timeout=50)
    assert (child.returncode, err) == (0, b"")
    assert len(server.mails) == 3


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="needs a POSIX terminal")
@pytest.mark.parametrize("rich", [True, False], ids=["with rich", "without rich"])
def test_a_terminal_gets_a_bar_and_tables_of_80_columns(outbox: Path, server: LoopbackServer, rich: bool) -> None:
    if rich:
        pytest.importorskip("rich", reason="the bar needs it")
    long = f"{'n' * 40}.eml"
    (outbox / long).write_bytes(eml(9, NOBODY))
    server.refuse(NOBODY, f"550 5.1.1 {'no such user here ' * 12}")
    master, slave = os.openpty()
    command = "import sys; sys.modules['rich'] = None; from smtpconn.cli import main; sys.exit(main())"
    program = ["-m", "smtpconn"] if rich else ["-c", command]
    child = subprocess.Popen(
        [sys.executable, *program, "bulk", str(outbox), *at(server)],
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
    assert max(len(line.strip("\r")) for part in text.split("\n") for line in part.split("\r")) <= 80
    assert ("4/4" in text) is rich
    assert (b"\x1b" in shown) is rich
    assert f"{'n' * 27}..." in text
    assert "delivered" in text
