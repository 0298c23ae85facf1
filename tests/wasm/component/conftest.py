"""The component, built once for the run, in wasmtime with a host that gives streams, and in Node with sockets."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ..conftest import missing
from ..node import MissingToolError, Node
from . import build

if TYPE_CHECKING:
    from .host import Host

HERE = Path(__file__).parent


@pytest.fixture(scope="session")
def componentize() -> str:
    """The program that builds components."""
    program = build.tool()
    if program is None:
        missing(MissingToolError("componentize-py is not installed (the dependency group `wasm`)"))
    return program


@pytest.fixture(scope="session")
def component(componentize: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The component's file."""
    return build.build(componentize, tmp_path_factory.mktemp("component"))


@pytest.fixture(scope="session")
def compiled(component: Path) -> tuple[Any, Any]:
    """Engine and compiled component."""
    try:
        import wasmtime
        from wasmtime.component import Component
    except ImportError as error:
        missing(MissingToolError(f"wasmtime is not installed (the dependency group `wasm`): {error}"))
    engine = wasmtime.Engine()
    return engine, Component.from_file(engine, str(component))


@pytest.fixture
def host(compiled: tuple[Any, Any]) -> Iterator[Host]:
    """A fresh instance; it must give every stream back."""
    from .host import Host

    made = Host(*compiled)
    yield made
    assert made.open_links == 0


class Jco:
    """The component transpiled by jco, with Python's own sockets."""

    def __init__(self, node: Node, workshop: Path) -> None:
        self._node = node
        self._workshop = workshop

    def run(self, *calls: dict[str, Any]) -> list[dict[str, Any]]:
        """What came of each call, in one instance: `{"ok": ...}` or `{"err": ...}`."""
        done = self._node.run(self._workshop / "sockets.mjs", json.dumps(calls), timeout=120)
        assert done.returncode == 0, done.stderr
        outcomes: list[dict[str, Any]] = json.loads(done.stdout)
        assert len(outcomes) == len(calls)
        return outcomes


@pytest.fixture(scope="session")
def jco(node: Node, component: Path, tmp_path_factory: pytest.TempPathFactory) -> Jco:
    """The component for Node."""
    workshop = node.workshop(tmp_path_factory.mktemp("jco") / "workshop", HERE / "sockets.mjs")
    program = node.modules / "@bytecodealliance" / "jco" / "dist" / "jco.js"
    mapped = "smtpconn:mailer/host-stream=../no_stream.js"
    arguments = ["transpile", str(component), "--name", "proving", "--out-dir", str(workshop / "proving")]
    done = node.run(program, *arguments, "--map", mapped, "--no-typescript", timeout=120)
    assert done.returncode == 0, done.stderr or done.stdout
    (workshop / "no_stream.js").write_bytes((HERE / "no_stream.js").read_bytes())
    return Jco(node, workshop)
