"""`smtpconn bulk` against Postfix, Exim and Dovecot's LMTP: killed, and started again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from .clients import SENDER
from .daemon import until
from .dovecot import Dovecot
from .servers import UNKNOWN

if TYPE_CHECKING:
    from .servers import MailServer

pytestmark = pytest.mark.interop

MAILS = 40


@pytest.mark.skipif(os.name != "posix", reason="needs SIGKILL")
def test_a_run_that_was_killed_is_taken_up_and_every_mail_is_there_once(
    mail_server: MailServer, tmp_path: Path
) -> None:
    user, batch = mail_server.users[0], uuid.uuid4().hex
    source, journal = tmp_path / "box", tmp_path / "box.journal"
    source.mkdir()
    names = {f"{number:02}.eml": f"<{batch}.{number}@lab.test>" for number in range(MAILS)}
    for name, message_id in names.items():
        others = f", {UNKNOWN}" if name == "03.eml" else ""
        header = f"From: {SENDER}\nTo: {user}{others}\nMessage-ID: {message_id}\n"
        (source / name).write_text(f"{header}Subject: {batch}\n\n.\nText of {name}\n")
    call = [sys.executable, "-m", "smtpconn", "bulk", str(source), "--host", mail_server.host, "--json"]
    call += ["--port", str(mail_server.port), "--tls", "starttls", "--timeout", "20", "--max-size", "2"]
    call += ["--ca", mail_server.ca_path, "--server-name", mail_server.tls_name]
    call += ["--lmtp"] if isinstance(mail_server, Dovecot) else []

    killed = subprocess.Popen(call, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert until(lambda: journal.exists() and journal.read_bytes().count(b"\n") > 10, 20)
    killed.kill()
    killed.communicate(timeout=20)
    done = subprocess.run(call, capture_output=True, timeout=50, check=False)
    report = json.loads(done.stdout)
    missing = [(entry["mail"], entry["recipient"], entry["delivery"]) for entry in report["missing"]]
    unknown = {mail for mail, _, verdict in missing if verdict == "unknown"}
    assert len(unknown) <= 8, report  # two connections, four mails each
    assert done.returncode == report["exit"] == (74 if unknown else 1)
    if "03.eml" not in unknown:
        assert ("03.eml", UNKNOWN, "not delivered") in missing

    def stored() -> Counter[str]:
        found = b"\n".join(mail for mail in mail_server.mailbox(user) if batch.encode() in mail).decode()
        return Counter({name: found.count(f"\nText of {name}") for name in names})

    certain = {name for name in names if name not in unknown}
    assert until(lambda: all(stored()[name] for name in certain), 20), mail_server.log()[-2000:]
    assert set(stored().values()) <= {0, 1}
