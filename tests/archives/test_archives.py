"""What the built archives hold. Needs setuptools, which only the environment `docs` of tox installs."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parent.parent.parent
SOURCES = ("pyproject.toml", "setup.cfg", "README.md", "LICENSE", "SECURITY.md", "docs", "smtpconn")
NOTICES = ("LICENSE", "SECURITY.md", "docs/topics/acceptable-use.rst", "docs/topics/security.rst")


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Both archives, built from a copy: a build leaves things behind where it runs."""
    sources, built = tmp_path_factory.mktemp("sources"), tmp_path_factory.mktemp("built")
    for name in SOURCES:
        if (CHECKOUT / name).is_dir():
            shutil.copytree(CHECKOUT / name, sources / name, ignore=shutil.ignore_patterns("__pycache__", "_build"))
        else:
            shutil.copy(CHECKOUT / name, sources / name)
    for kind in ("sdist", "wheel"):
        code = f"from setuptools import build_meta; build_meta.build_{kind}({str(built)!r})"
        subprocess.run([sys.executable, "-c", code], cwd=sources, check=True, capture_output=True, timeout=60)
    (sdist,) = built.glob("*.tar.gz")
    (wheel,) = built.glob("*.whl")
    return {"sdist": sdist, "wheel": wheel}


def test_SY31_the_source_archive_has_the_pages_on_acceptable_use_and_security_and_the_security_file(
    archives: dict[str, Path],
) -> None:
    with tarfile.open(archives["sdist"]) as archive:
        for notice in NOTICES:
            member = archive.extractfile(f"{archives['sdist'].name.removesuffix('.tar.gz')}/{notice}")
            assert member is not None
            assert member.read() == (CHECKOUT / notice).read_bytes()


def test_SY31_the_wheel_has_them_too(archives: dict[str, Path]) -> None:
    with zipfile.ZipFile(archives["wheel"]) as archive:
        notices = [name for name in archive.namelist() if "/licenses/" in name]
        found = {name.partition("/licenses/")[2]: archive.read(name) for name in notices}
    assert found == {notice: (CHECKOUT / notice).read_bytes() for notice in NOTICES}


def test_the_wheel_has_the_package_and_nothing_else_outside_its_metadata(archives: dict[str, Path]) -> None:
    with zipfile.ZipFile(archives["wheel"]) as archive:
        roots = {name.partition("/")[0] for name in archive.namelist()}
    assert {root for root in roots if not root.endswith(".dist-info")} == {"smtpconn"}
