"""The package as it is built and installed, and the commands that README and CI give."""

from __future__ import annotations

import importlib.metadata
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import smtpconn
from smtpconn.testing import LoopbackServer

if TYPE_CHECKING:
    from collections.abc import Iterator

CHECKOUT = Path(__file__).resolve().parent.parent
INSTALLED = Path(smtpconn.__file__).resolve().parent
README = (CHECKOUT / "README.md").read_text(encoding="utf-8")

under_tox = pytest.mark.skipif("TOX_ENV_DIR" not in os.environ, reason="only tox builds and installs a wheel")


METADATA: importlib.metadata.Distribution | None = next(iter(importlib.metadata.distributions(name="smtpconn")), None)
installed = pytest.mark.skipif(METADATA is None, reason="the package is not installed, only importable")
ENTRY_POINTS = list(METADATA.entry_points) if METADATA is not None else []


def readme_commands() -> list[str]:
    return re.findall(r"^```sh\n(.*?)\n```$", README, re.MULTILINE | re.DOTALL)


def package_files(package: Path) -> Iterator[str]:
    for path in package.rglob("*"):
        if path.is_file() and "__pycache__" not in path.parts:
            yield path.relative_to(package).as_posix()


@under_tox
def test_tests_run_against_the_wheel_and_not_the_checkout() -> None:
    assert CHECKOUT / "smtpconn" != INSTALLED
    assert INSTALLED.is_relative_to(Path(os.environ["TOX_ENV_DIR"]).resolve())


@under_tox
def test_wheel_has_every_file_of_the_package_and_no_other() -> None:
    """A file too many comes from an old build: setuptools packs what it finds in build/."""
    assert sorted(package_files(INSTALLED)) == sorted(package_files(CHECKOUT / "smtpconn"))


def test_package_is_marked_as_typed() -> None:
    assert (INSTALLED / "py.typed").is_file()


@installed
def test_metadata_names_the_decided_dependencies_and_no_others() -> None:
    """design:D16."""
    assert METADATA is not None
    required = METADATA.requires
    assert required is not None
    always = {re.split(r"[^\w-]", line)[0] for line in required if "extra ==" not in line}
    assert always == {"certifi", "cryptography", "dnspython"}


@installed
@pytest.mark.parametrize("point", ENTRY_POINTS, ids=lambda point: str(point.group))
def test_entry_points_can_be_loaded(point: importlib.metadata.EntryPoint) -> None:
    """In a process of its own: a pytest plugin must not be loaded twice."""
    code = f"from importlib.metadata import EntryPoint; EntryPoint({point.name!r}, {point.value!r}, 'any').load()"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=30)


def test_readme_has_two_commands_of_one_line_each() -> None:
    commands = readme_commands()
    assert len(commands) == 2
    assert all("\n" not in command and command.startswith("sh .ci/setup ") for command in commands)


def test_ci_runs_the_test_command_of_the_readme_word_for_word() -> None:
    lines = (CHECKOUT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    assert readme_commands()[1] in lines


def test_links_of_the_readme_lead_to_files() -> None:
    targets = re.findall(r"\]\((?!https?:)([^)#]+)\)", README)
    assert targets
    assert [target for target in targets if not (CHECKOUT / target).exists()] == []


def test_example_of_the_readme_sends_a_file_with_unix_line_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "hello.eml").write_bytes(b"Subject: Hello\n\nHello Ben.\n")
    monkeypatch.chdir(tmp_path)
    (example,) = re.findall(r"^```python\n(.*?)\n```$", README, re.MULTILINE | re.DOTALL)
    with LoopbackServer() as server:
        server.refuse("carla@example.net", "550 5.1.1 no such user")
        address = f"{server.host!r}, {server.port}, TlsMode.NONE"
        assert example.count('"mail.example.com", 465, TlsMode.IMPLICIT') == 1
        exec(example.replace('"mail.example.com", 465, TlsMode.IMPLICIT', address), {})  # noqa: S102 - our own README
        (mail,) = server.mails
    assert (mail.recipients, mail.content) == (["ben@example.net"], b"Subject: Hello\r\n\r\nHello Ben.\r\n")
    assert capsys.readouterr().out == "carla@example.net NOT_DELIVERED 550 [5.1.1] no such user\n"
