"""Every property of the fault specification (P1-P12) has a test, here or in the suites that enumerate."""

from __future__ import annotations

import ast
import re
from pathlib import Path

TESTS = Path(__file__).parent.parent
PROPERTIES = [f"P{number}" for number in range(1, 13)]


def cited_by(node: ast.AST) -> set[str]:
    """In the name of a test, or behind `faults:` or `faults ` in the docstring of a test or of what holds it."""
    text = ast.get_docstring(node) if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) else None
    found = set(re.findall(r"\bfaults[: ](P\d+)\b", text or ""))
    if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
        found |= set(re.findall(r"_(P\d+)(?=_)", node.name))
    return found


def test_every_property_is_cited() -> None:
    found: set[str] = set()
    for module in TESTS.rglob("test_*.py"):
        if module != Path(__file__):
            for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
                found |= cited_by(node)
    assert [name for name in PROPERTIES if name not in found] == []
    assert sorted(found - set(PROPERTIES)) == []


def test_what_a_citation_is() -> None:
    (module,) = ast.parse('def test_P3_x():\n    """faults:P4, faults P5; P6 and pool:P7."""').body
    assert cited_by(module) == {"P3", "P4", "P5"}
