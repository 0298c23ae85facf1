"""Builds the component of the tests: the package as it is installed here, the tables, and pytest, in one .wasm file."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import subprocess
import sysconfig
from pathlib import Path

import smtpconn

from ..core_rows import SCRIPTED, scripted

HERE = Path(__file__).parent
TESTS = HERE.parent.parent
WIT = HERE / "mailer.wit"
GUEST = ("mailer.py", "proving.py", "rows.py", "streams.py", "tables.py")
PYTEST = ("pytest", "pluggy", "iniconfig", "packaging", "pygments")
BUILDING = 240  # seconds
WANTED = ("protocol", *scripted())  # below tests/, as pytest names them

INI = """\
[pytest]
addopts = --import-mode=importlib --strict-markers -m "not once"
xfail_strict = true
filterwarnings = error
markers =
    timeout: the limit of a test; here it is the host who limits the whole run
    once: what takes long, and has nothing to do with the interpreter
"""


class BuildError(Exception):
    """The component was not built; the text is what the tool said."""


def tool() -> str | None:
    """The program componentize-py of this environment, or the one on PATH."""
    here = os.pathsep.join([sysconfig.get_path("scripts"), os.environ.get("PATH", os.defpath)])
    return shutil.which("componentize-py", path=here)


def stage(directory: Path) -> None:
    """Everything that the guest imports, in one directory: nothing else of this environment may get in."""
    without = shutil.ignore_patterns("__pycache__")
    directory.mkdir()
    for name in GUEST:
        shutil.copy(HERE / name, directory)
    shutil.copytree(Path(smtpconn.__file__).parent, directory / "smtpconn", ignore=without)


def stage_tables(directory: Path) -> None:
    """The tests of the core, those of the shell that need no socket, and pytest, beside it."""
    shutil.copytree(TESTS / "protocol", directory / "tests" / "protocol", ignore=shutil.ignore_patterns("__pycache__"))
    for name in SCRIPTED:
        shutil.copy(TESTS / name, directory / "tests")
    (directory / "wanted.txt").write_text("\n".join(WANTED), encoding="utf-8")
    for package in PYTEST:
        for file in importlib.metadata.files(package) or ():
            if file.suffix == ".py" and ".." not in file.parts:
                target = directory / file
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(file.locate(), target)
    (directory / "pytest.ini").write_text(INI, encoding="utf-8")


def build(program: str, directory: Path, world: str = "proving-ground", module: str = "proving") -> Path:
    """Build the component of a world from the module that implements it, in an empty directory. Raises `BuildError`."""
    staged, wasm, bare = directory / "stage", directory / f"{module}.wasm", directory / "bare"
    stage(staged)
    if module == "proving":
        stage_tables(staged)
    bare.mkdir()
    command = [
        program, "--wit-path", str(WIT), "--world", world,
        "componentize", module, "--python-path", str(staged), "--output", str(wasm),
    ]  # fmt: skip
    done = subprocess.run(
        command,
        cwd=directory,
        # Without this the tool would add the packages of the environment it runs in.
        env={**os.environ, "VIRTUAL_ENV": str(bare)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=BUILDING,
        check=False,
    )
    if done.returncode or not wasm.is_file():
        raise BuildError((done.stderr or done.stdout)[:6000])
    return wasm
