"""Pyodide under Node, with the smtpconn that is installed here; and the real servers of tests/interop."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import smtpconn

from ...interop.conftest import certificates, dovecot, postfix
from ..node import Node
from .worker import Worker

__all__ = ["certificates", "dovecot", "postfix"]  # fixtures

HERE = Path(__file__).parent


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The modules of smtpconn as a wheel has them: what is installed here, so that both sides run the same."""
    package = Path(smtpconn.__file__).parent
    path = tmp_path_factory.mktemp("wheel") / "smtpconn-0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for module in sorted(package.rglob("*.py")):
            archive.write(module, Path("smtpconn", module.relative_to(package)))
    return path


@pytest.fixture(scope="session")
def workshop(node: Node, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The scripts of this directory, where they find their npm packages."""
    return node.workshop(tmp_path_factory.mktemp("pyodide"), *HERE.glob("*.mjs"))


@pytest.fixture(scope="module")
def worker(node: Node, workshop: Path, wheel: Path) -> Iterator[Worker]:
    """A Node that owns sockets, with smtpconn in Pyodide."""
    with Worker(node, workshop / "worker.mjs", str(wheel), str(HERE / "bridge.py")) as running:
        yield running
