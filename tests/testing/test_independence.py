"""The judge shares no code with the judged."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import smtpconn.testing
from smtpconn.testing import plugin

# The plugin judges nothing: it gives tests a pool (tests/test_architecture.py says what it may import for that).
MODULES = sorted(set(Path(smtpconn.testing.__file__).parent.glob("*.py")) - {Path(plugin.__file__)})


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_no_module_imports_the_client_library(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert node.level <= 1
            assert not (node.module or "").startswith("smtpconn")
        elif isinstance(node, ast.Import):
            assert not any(alias.name.split(".")[0] == "smtpconn" for alias in node.names)


def test_every_public_name_can_be_had_and_is_documented() -> None:
    for name in smtpconn.testing.__all__:
        assert getattr(smtpconn.testing, name) is not None
        assert name in dir(smtpconn.testing)
    with pytest.raises(AttributeError, match="nonsense"):
        _ = smtpconn.testing.nonsense


def test_the_package_works_without_cryptography_and_ssl_until_tls_is_asked_for() -> None:
    program = """
import sys
sys.modules.update(ssl=None, cryptography=None)
from smtpconn.testing import LoopbackServer, Relay, ScriptedTransport, ServerProcess, script
import socket
with LoopbackServer() as server, Relay(server) as relay, socket.create_connection((relay.host, relay.port)) as sock:
    assert sock.recv(100).startswith(b"220")
"""
    subprocess.run([sys.executable, "-c", program], check=True)
