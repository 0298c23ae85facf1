"""A new Django project with the settings of the documentation, at a real Postfix (users 8 and 18, MG2).

The project is what `django-admin startproject` makes, and the text of the documentation is added to its settings.
"""

from __future__ import annotations

import subprocess
import sys
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest
from django.core import mail

from ..interop.daemon import until
from ..interop.postfix import Postfix

EXAMPLES = Path(__file__).with_name("examples")
HAS_MAILERS = hasattr(mail, "mailers")
PATIENCE = 60.0

pytestmark = [pytest.mark.interop, pytest.mark.timeout(240)]

Account = Callable[..., dict[str, str]]


class Project:
    """A project, and its `manage.py`."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.run("django-admin", "startproject", "shop", str(directory), environment=None)
        self._settings = directory / "shop" / "settings.py"
        self._new = self._settings.read_text()

    def configure(self, *examples: str, more: str = "") -> None:
        """The settings as they were made, and behind them what the examples say."""
        # The old settings and MAILERS exclude each other, and a new project has MAILERS where there are any.
        without = [] if "mailers" in examples[0] or not HAS_MAILERS else ["del MAILERS"]
        texts = [(EXAMPLES / f"{example}.py").read_text() for example in examples]
        self._settings.write_text("\n".join([self._new, *without, *texts, more]))

    def run(self, *command: str, environment: dict[str, str] | None) -> str:
        if command[0] == "django-admin":
            command = ("-m", "django", *command[1:])
        done = subprocess.run(
            [sys.executable, "-W", "ignore", *command],
            cwd=self.directory, env=environment, capture_output=True, text=True, timeout=PATIENCE, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return Project(tmp_path_factory.mktemp("project"))


def sending(token: str, *, threads: int = 1, each: int = 1) -> str:
    """Call sites as every Django has them."""
    return f"""
from concurrent.futures import ThreadPoolExecutor
from django.core.mail import EmailMessage, send_mail

def send(number):
    if number % 2:
        return send_mail("{token}", "Hello.", "app@example.com", ["user1@lab.test"])
    return EmailMessage("{token}", "Hello.", "app@example.com", ["user1@lab.test"]).send()

with ThreadPoolExecutor({threads}) as threads:
    print("sent", sum(threads.map(send, range({each * threads}))))
"""


def arrived(postfix: Postfix, token: str, count: int) -> int:
    """How many mails with this subject are in the mailbox, as soon as there are enough of them."""
    until(lambda: len(postfix.find_mail("user1", token)) >= count, PATIENCE)
    return len(postfix.find_mail("user1", token))


@pytest.mark.parametrize("kind", ["settings_mailers" if HAS_MAILERS else "settings"])
def test_MG2_only_the_setting_changes_and_many_mails_take_one_connection(
    kind: str, project: Project, postfix: Postfix, account: Account, source_address: str
) -> None:
    """users:MG2, DJ1, DJ3, DJ4, DJ8, DJ23."""
    before, after = uuid.uuid4().hex, uuid.uuid4().hex
    count = 50 if kind == "settings_mailers" else 100  # max_messages: of the example, and by default
    environment = account(postfix)
    project.configure(f"{kind}_before")
    assert "sent 2" in project.run("manage.py", "shell", "-c", sending(before, each=2), environment=environment)

    place = 'MAILERS["default"]["OPTIONS"]' if kind == "settings_mailers" else "SMTPCONN"
    examples = [f"{kind}_after"] if kind == "settings_mailers" else [f"{kind}_before", f"{kind}_after"]
    project.configure(*examples, more=f'{place}["source_address"] = "{source_address}"')
    told = project.run("manage.py", "shell", "-c", sending(after, each=count), environment=environment)
    assert f"sent {count}" in told
    commands = postfix.commands_of(source_address)  # which wants exactly one connection
    assert commands["mail"] == commands["data"] == (count, count)
    assert commands["auth"] == commands["starttls"] == commands["quit"] == (1, 1)
    assert arrived(postfix, before, 2) == 2
    assert arrived(postfix, after, count) == count


@pytest.mark.parametrize("example", ["settings_email", *(["settings_mailers"] if HAS_MAILERS else [])])
def test_MG2_a_new_project_with_the_settings_of_the_page_sends_the_first_mail(
    example: str, project: Project, postfix: Postfix, account: Account, source_address: str
) -> None:
    """users:MG2, DJ8, DJ23, URL16, URL17: then eight threads take no more than `max_size` connections."""
    token = uuid.uuid4().hex
    project.configure(example)
    environment = account(postfix, source_address=source_address, trust=postfix.ca_path)
    del environment["SSL_CERT_FILE"]
    already = len(postfix.mailbox("user2"))
    project.run("manage.py", "sendtestemail", "user2@lab.test", environment=environment)
    postfix.wait_for_mails("user2", already + 1)
    code = sending(token, threads=8, each=5)
    assert "sent 40" in project.run("manage.py", "shell", "-c", code, environment=environment)
    assert arrived(postfix, token, 40) == 40
    assert 2 <= postfix.log().count(f" connect from unknown[{source_address}]") <= 1 + 4
