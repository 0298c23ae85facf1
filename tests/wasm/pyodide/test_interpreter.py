"""Pyodide's Python is another one: 3.14, without threads and TCP. What of smtpconn is there nevertheless."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from .worker import Worker

# The first test waits for Node and Pyodide, and perhaps for npm.
pytestmark = pytest.mark.timeout(400)

HERE = Path(__file__).parent
PAGE = HERE.parents[2] / "docs" / "howto" / "wasm.rst"


def test_SY26_E44_SCRAM_has_to_use_its_own_PBKDF2_here(worker: Worker) -> None:
    about = worker.python(
        "import json, sys\n"
        "from smtpconn.protocol import mechanisms\n"
        "json.dumps({'python': sys.version[:4], 'platform': sys.platform, 'pbkdf2': mechanisms.pbkdf2.__name__})"
    )
    assert about == {"python": "3.14", "platform": "emscripten", "pbkdf2": "pbkdf2_pure"}


def test_SY0_3_E203_every_module_compiles_and_imports_on_python_3_14_without_a_warning(worker: Worker) -> None:
    """Without cryptography, dnspython and certifi, too: only what the test kit and the extras need is missing."""
    found = worker.python(
        "import importlib, json, pathlib, pkgutil, warnings\n"
        "import smtpconn\n"
        "faults, names = {}, [module.name for module in pkgutil.walk_packages(smtpconn.__path__, 'smtpconn.')]\n"
        "with warnings.catch_warnings():\n"
        "    warnings.simplefilter('error')\n"
        "    for file in pathlib.Path(smtpconn.__path__[0]).rglob('*.py'):\n"
        "        compile(file.read_text(), str(file), 'exec')\n"
        "    for name in names:\n"
        "        try:\n"
        "            if not name.endswith('__main__'): importlib.import_module(name)\n"
        "        except Exception as error:\n"
        "            faults[name] = str(error)\n"
        "json.dumps({'modules': len(names), 'faults': faults})"
    )
    assert found["modules"] > 80
    names = ("celery", "opentelemetry", "prometheus")
    extras = {name: found["faults"].pop(f"smtpconn.contrib.{name}") for name in names}
    assert all(f"pip install smtpconn[{name}]" in fault for name, fault in extras.items())
    assert found["faults"] == {
        "smtpconn.testing.ca": "No module named 'cryptography'",
        "smtpconn.contrib.django": "No module named 'django'",
        "smtpconn.testing.plugin": "No module named 'pytest'",
    }


def test_SY0_3_SY30_a_whole_connection_runs_over_a_scripted_transport(worker: Worker) -> None:
    """Locks, deadlines and the driver need no thread."""
    found = worker.python(
        "import json\n"
        "from smtpconn.connection import SmtpConnection\n"
        "from smtpconn.testing.scripted import ScriptedTransport\n"
        "from smtpconn.tls import TlsMode\n"
        "replies = [b'220 mx\\r\\n', b'250-mx\\r\\n250 PIPELINING\\r\\n', b'250 ok\\r\\n250 ok\\r\\n354 go\\r\\n',\n"
        "           b'250 queued\\r\\n', b'221 bye\\r\\n']\n"
        "transport = ScriptedTransport(replies)\n"
        "open_over = SmtpConnection.from_transport\n"
        "with open_over(transport, tls_mode=TlsMode.NONE, timeout=5.0, ehlo_domain='c.test') as c:\n"
        "    result = c.send('s@x.test', ['a@x.test'], b'Subject: x\\r\\n\\r\\ntext\\r\\n', timeout=5.0)\n"
        "json.dumps({'delivered': result.all_delivered, 'written': transport.written.decode()})"
    )
    assert found == {
        "delivered": True,
        "written": "EHLO c.test\r\nMAIL FROM:<s@x.test>\r\nRCPT TO:<a@x.test>\r\nDATA\r\n"
        "Subject: x\r\n\r\ntext\r\n.\r\nQUIT\r\n",
    }


def test_SY0_4_the_page_says_where_to_import_from_and_its_example_does_so() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert "loaded when they are first used" in page
    assert "import what you use from its own module" in page
    assert "literalinclude:: ../../tests/wasm/pyodide/bridge.py" in page
    tree = ast.parse((HERE / "bridge.py").read_text(encoding="utf-8"))
    at_the_top = {node for node in tree.body if isinstance(node, (ast.Import, ast.ImportFrom))}
    assert {node for node in ast.walk(tree) if isinstance(node, (ast.Import, ast.ImportFrom))} == at_the_top
    modules = {node.module for node in at_the_top if isinstance(node, ast.ImportFrom)}
    assert "smtpconn.protocol.pump" in modules
    assert "smtpconn" not in modules
