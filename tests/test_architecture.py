"""The house: imports run downward only, the core stays behind its wall, and rooms stay small (design section 3)."""

from __future__ import annotations

import ast
import functools
import pathlib
import subprocess
import sys
from collections.abc import Iterator

import pytest

import smtpconn

PACKAGE = pathlib.Path(smtpconn.__file__).parent

# From the cellar to the roof. A module may import from rows above its own (lower floors), never from its own or below.
FLOORS: list[set[str]] = [
    {"protocol.reply"},
    {"protocol.errors", "protocol.ledger"},
    {"protocol.address", "protocol.audit", "protocol.body", "protocol.extensions", "protocol.flow"},
    {"protocol.mechanisms", "protocol.xtext"},
    {"protocol.params", "protocol.sasl"},
    {"protocol.mail"},
    {"protocol.result", "protocol.policy", "protocol.commands", "protocol.gate"},
    {"protocol.session"},
    {"protocol.envelope", "protocol.judging"},
    {"protocol.verdicts"},
    {"protocol.transaction"},
    {"protocol.burst", "protocol.pump"},
    # ---- the wall: no I/O, no clock, no thread, no log above this line ----
    {"deadline", "pem", "attempts", "finding.records"},
    {"finding.exchangers", "finding.services", "finding.tlsa"},
    {"tls", "outcomes", "dane", "tls_sessions"},
    {"tls_context", "readiness", "url", "finding.lookups", "finding.trust"},
    {"finding.domain"},
    {"connecting", "resolve", "sender", "message", "journal"},
    {"transport"},
    {"driver", "racing"},
    {"opening"},
    {"handshake", "discovery"},
    {"conversation"},
    {"sending"},
    {"chain"},
    {"connection"},
    {"oneshot"},
    {"pooling.claims", "pooling.events", "pooling.process", "pooling.marks"},
    {"pooling.handoff", "pooling.endpoints", "pooling.settings", "pooling.announcer", "pooling.logins"},
    {"pooling.upkeep"},
    {"slots"},
    {"pooling.stats", "pooling.pooled"},
    {"pooling.stock"},
    {"pooling.flights"},
    {"pooling.checking", "pooling.opener", "pooling.refusing"},
    {"pooling.supply"},
    {"pooling.calls", "pooling.holding"},
    {"pooling.lease", "pooling.train"},
    {"pooling.batch"},
    {"pool"},
    {"contrib.fanout", "contrib.logs", "contrib.prometheus", "contrib.opentelemetry"},
    {"contrib.border", "contrib.arguments", "contrib.dialogue", "contrib.configuration"},
    {"contrib.facade"},
    {"contrib.compat"},
    {"contrib.backends"},
    {"contrib.django", "contrib.flask"},
    {"contrib.decisions", "contrib.claims"},
    {"contrib.celery"},
    {"cli"},
    {"__main__"},
]  # fmt: skip

# Modules that know nothing of the library: they judge it, or only point into it.
APART = {"", "protocol", "pooling", "testing", "contrib", "finding"}

CORE_FORBIDDEN = {
    "socket", "ssl", "select", "selectors", "threading", "time", "logging", "asyncio", "email", "dns", "cryptography",
    "subprocess", "os", "importlib",
}  # fmt: skip


def _modules() -> Iterator[tuple[str, pathlib.Path]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        yield ".".join(part for part in parts if part != "__init__"), path


@functools.cache
def _tree(path: pathlib.Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def _room(module: str) -> str:
    """The row's name of a module: the whole package for `cli.*` and `testing.*`."""
    first = module.split(".")[0]
    return first if first in ("cli", "testing") else module


def _is_for_types_only(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def _imports(node: ast.AST) -> Iterator[ast.Import | ast.ImportFrom]:
    for child in ast.iter_child_nodes(node):
        if _is_for_types_only(child):
            continue
        if isinstance(child, (ast.Import, ast.ImportFrom)):
            yield child
        yield from _imports(child)


@functools.cache
def _imported(module: str, path: pathlib.Path) -> frozenset[str]:
    """The absolute names of what a module imports when it runs."""
    found: set[str] = set()
    for node in _imports(_tree(path)):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif node.level:
            package = ["smtpconn", *module.split(".")]
            base = package[: len(package) - node.level + (1 if path.name == "__init__.py" else 0)]
            found.add(".".join([*base, node.module] if node.module else base))
        else:
            assert node.module is not None
            inside = [f"{node.module}.{alias.name}" for alias in node.names]
            known = {f"smtpconn.{name}" for name in MODULES}
            found.update(name if name in known else node.module for name in inside)
    return frozenset(found)


def _own(module: str, path: pathlib.Path) -> set[str]:
    return {_room(name.removeprefix("smtpconn.")) for name in _imported(module, path) if name.startswith("smtpconn.")}


MODULES = dict(_modules())
CORE = {name: path for name, path in MODULES.items() if name.startswith("protocol.")}


@pytest.mark.once
def test_the_table_names_every_module_and_nothing_else() -> None:
    listed = set().union(*FLOORS)
    assert {_room(name) for name in MODULES} - APART == listed


@pytest.mark.once
@pytest.mark.parametrize("module", sorted(MODULES))
def test_imports_run_downward_only(module: str) -> None:
    room = _room(module)
    if room in APART:
        return
    floor = {name: number for number, names in enumerate(FLOORS) for name in names}
    upward = {
        name
        for name in _own(module, MODULES[module])
        if name != room and name != "testing" and floor.get(name, -1) >= floor[room]
    }
    assert not upward, f"{module} imports {sorted(upward)}, which are not below it"


@pytest.mark.once
@pytest.mark.parametrize("module", sorted(name for name in MODULES if _room(name) == "testing"))
def test_the_test_kit_shares_no_code_with_the_client(module: str) -> None:
    """It parses what arrives by its own means, so that neither hides the other's mistakes.

    The pytest plugin judges nothing, and gives tests a pool.
    """
    given = {"pool", "connection", "tls"} if module == "testing.plugin" else set()
    assert _own(module, MODULES[module]) <= {"testing"} | given


@pytest.mark.once
def test_only_the_command_line_uses_the_test_kit() -> None:
    users = {_room(name) for name, path in MODULES.items() if "testing" in _own(name, path)}
    assert users <= {"testing", "cli"}


@pytest.mark.once
@pytest.mark.parametrize("module", sorted(CORE))
def test_the_core_imports_no_io_no_clock_no_thread_and_no_log(module: str) -> None:
    """D1."""
    tops = {name.split(".")[0] for name in _imported(module, CORE[module]) if not name.startswith("smtpconn")}
    assert not tops & CORE_FORBIDDEN
    assert _own(module, CORE[module]) <= set(CORE) | {"protocol"}


@pytest.mark.once
@pytest.mark.parametrize("module", sorted(CORE))
def test_the_core_imports_at_the_top_of_its_modules_only(module: str) -> None:
    """features:SY0.1: no import inside a function, no `__getattr__`: imports at run time fail in a component."""
    tree = _tree(CORE[module])
    functions = [node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]
    assert not [node.name for node in functions if any(_imports(node))]
    assert "__getattr__" not in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


PURE = sorted(f"finding.{name}" for name in ("records", "exchangers", "services", "tlsa", "trust"))


@pytest.mark.once
@pytest.mark.parametrize("module", PURE)
def test_what_records_mean_is_decided_without_asking_anybody(module: str) -> None:
    """The decisions about MX, SRV and TLSA records are functions over values."""
    tops = {name.split(".")[0] for name in _imported(module, MODULES[module]) if not name.startswith("smtpconn")}
    assert not tops & CORE_FORBIDDEN


def _calls(path: pathlib.Path) -> Iterator[tuple[str, str]]:
    """(enclosing function, called name) of every call."""
    for function in ast.walk(_tree(path)):
        if isinstance(function, ast.FunctionDef):
            for node in ast.walk(function):
                if isinstance(node, ast.Call):
                    called = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
                    yield function.name, called


@pytest.mark.once
@pytest.mark.parametrize("module", sorted(CORE))
def test_the_core_keeps_away_from_pythons_own_traps(module: str) -> None:
    """faults:SEC7: `str.splitlines`, `int()` and `str.isdigit` see more than ASCII digits; `int` only in `decimal`."""
    calls = set(_calls(CORE[module]))
    assert not {called for _, called in calls} & {"splitlines", "isdigit", "isdecimal", "isnumeric"}
    assert {function for function, called in calls if called == "int"} <= {"decimal"}


VERBS = (
    b"MAIL FROM",
    b"RCPT TO",
    b"EHLO",
    b"LHLO",
    b"HELO",
    b"BDAT",
    b"QUIT\r\n",
    b"RSET\r\n",
    b"NOOP\r\n",
    b"DATA\r\n",
)


@pytest.mark.once
@pytest.mark.parametrize(
    "module", sorted(n for n in MODULES if _room(n) not in ("testing", "cli") and n != "protocol.commands")
)
def test_only_commands_spells_a_verb(module: str) -> None:
    """faults:SEC8: one function writes command lines; a bytes literal with a verb elsewhere would bypass it."""
    tree = _tree(MODULES[module])
    literals = [
        node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, bytes)
    ]
    assert not [literal for literal in literals if any(verb in literal for verb in VERBS)]


def _run_without(blocked: set[str], *imported: str, without_package: bool = False) -> None:
    """Import where these modules are missing; `without_package`: `smtpconn/__init__.py` itself does not run."""
    stub = f"p = type(sys)('smtpconn'); p.__path__ = [{str(PACKAGE)!r}]; sys.modules['smtpconn'] = p"
    code = "\n".join(
        [
            "import os, sys",
            f"for name in {sorted(blocked)!r}: sys.modules[name] = None",
            stub if without_package else "",
            *(f"import {name}" for name in imported),
            "print('imported', flush=True)",
            "os._exit(0)",  # the interpreter's own end needs threading
        ]
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=30)
    assert done.stdout == "imported\n", done.stderr


def test_the_core_runs_where_the_forbidden_modules_do_not_exist() -> None:
    """D1, features:E203. `smtpconn/__init__.py` itself may log: the component never imports it for its names."""
    blocked = {"socket", "ssl", "select", "asyncio", "email", "dns", "cryptography", "_socket", "_ssl"}
    names = [f"smtpconn.{name}" for name in sorted(CORE)]
    _run_without(blocked, *names)
    # Python's own datetime needs time: of that only the text of the core speaks, which is read above.
    _run_without(blocked | {"threading", "logging"}, *names, without_package=True)


def test_the_shell_imports_without_ssl_dnspython_and_cryptography() -> None:
    """D1, features:SY0.3, E203: `SmtpConnection` works over plain TCP where they are missing."""
    _run_without({"ssl", "_ssl", "dns", "cryptography", "certifi"}, "smtpconn.connection", "smtpconn.oneshot")


LARGE = {  # modules above 420 lines, each with its reason
    "connection": "the verbs of the contract, with typed signatures and docstrings; the work is in `conversation`",
}


@pytest.mark.once
@pytest.mark.parametrize("module", sorted(MODULES))
def test_a_large_room_has_a_reason(module: str) -> None:
    lines = MODULES[module].read_text(encoding="utf-8").count("\n")
    assert lines <= 440 or module in LARGE, f"{module} has {lines} lines: split it, or say why not"


@pytest.mark.once
@pytest.mark.parametrize("module", sorted(MODULES))
def test_a_long_function_wants_a_split(module: str) -> None:
    tree = _tree(MODULES[module])
    functions = [node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]
    assert not [node.name for node in functions if (node.end_lineno or 0) - node.lineno + 1 > 70]


VERBS_OF_THE_CONTRACT = "the verbs of the public contract; each is a few lines over one private function"
LARGE_CLASSES = {  # classes of more than 25 methods, each with its reason
    "SMTP": "smtplib's methods, all of them",
    "SmtpConnection": VERBS_OF_THE_CONTRACT,
    "Lease": VERBS_OF_THE_CONTRACT,
    "ConnectionPool": VERBS_OF_THE_CONTRACT,
    "LoopbackServer": VERBS_OF_THE_CONTRACT,
    "Conversation": "one lock, one life; a third are properties that the pool reads",
    "Handoff": "one transition of the slots per method: each is a critical section and cannot be a part of another",
    "Slots": "one method to take the lock and one under it for each transition",
    "Session": "one flow per SMTP command that is no part of a mail",
    "Attempt": "one mail: its flow cut into steps of the transaction, and its verdicts",
}


def _large_classes() -> set[str]:
    found = set()
    for path in MODULES.values():
        for node in ast.walk(_tree(path)):
            if isinstance(node, ast.ClassDef) and sum(isinstance(child, ast.FunctionDef) for child in node.body) > 25:
                found.add(node.name)
    return found


@pytest.mark.once
def test_a_large_class_has_a_reason_and_no_reason_outlives_its_class() -> None:
    assert _large_classes() == set(LARGE_CLASSES)
