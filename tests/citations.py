"""What tests say of themselves: their names, docstrings and the labels of their parameters, read from their text.

From these the indexes take which test proves which row of a specification. `spec_index` has a rule of its own for the
rows of the feature list; `Citations` is that of the others: an id of one of its groups, anywhere in what a test says,
is a citation, and `TC1-TC42` a range of them. In a name the letters may be small: `..._ak6_...`.
"""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

TESTS = Path(__file__).parent


class Saying(NamedTuple):
    """What a test says of itself."""

    name: str
    docstring: str
    labels: str


def tests_of(source: str) -> Iterator[Saying]:
    """The tests of a module."""
    tree = ast.parse(source)
    globals_ = _globals(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
            labels = " ".join(_labels(node.decorator_list, globals_))
            yield Saying(node.name, ast.get_docstring(node) or "", labels)


class Citations:
    """The ids of one list. `groups`: the letters that they begin with, `AK|NN`. `listed`: the name of its file."""

    def __init__(self, groups: str, listed: str) -> None:
        self._listed = listed
        name = rf"(?:{groups})\d{{1,2}}"
        self._cited = re.compile(rf"(?<![A-Za-z0-9/=+%-])({name})(?:-({name}))?(?![A-Za-z0-9])")
        self._word = re.compile(rf"(?i)(?<=_){name}(?=_|$)")

    def listed(self) -> list[str]:
        """Every id, in the order of the list: a file beside this one, `id<TAB>title` a line."""
        lines = (TESTS / self._listed).read_text(encoding="utf-8").splitlines()
        return [line.split("\t")[0] for line in lines]

    def within(self, text: str) -> Iterator[str]:
        """The ids that a text cites."""
        for first, last in self._cited.findall(text):
            group = first.rstrip("0123456789")
            begin, end = (int(name.lstrip("ABCDEFGHIJKLMNOPQRSTUVWXYZ")) for name in (first, last or first))
            yield from (f"{group}{number}" for number in range(begin, end + 1))

    def by_tests(self, modules: Iterable[Path]) -> dict[str, set[str]]:
        """Every id that a test cites -> the tests that do, `module.py::test`."""
        found: dict[str, set[str]] = defaultdict(set)
        for module in sorted(modules):
            source = module.read_text(encoding="utf-8")
            if not any(self.within(self._spelt(source).replace("_", " "))):
                continue
            for test in tests_of(source):
                name = self._spelt(test.name).replace("_", " ")
                for cited in self.within(f"{name} {test.docstring} {test.labels}"):
                    found[cited].add(f"{module.relative_to(TESTS).as_posix()}::{test.name}")
        return dict(found)

    def _spelt(self, name: str) -> str:
        return self._word.sub(lambda word: word[0].upper(), name)


# --- labels ---


def _globals(tree: ast.Module) -> dict[str, ast.AST]:
    """What the names of a module stand for: values and functions."""
    named: dict[str, ast.AST] = {}
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            named[node.name] = node
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value:
            named[node.target.id] = node.value
        elif isinstance(node, ast.Assign):
            named.update({target.id: node.value for target in node.targets if isinstance(target, ast.Name)})
    return named


def _labels(roots: Iterable[ast.AST], globals_: dict[str, ast.AST]) -> Iterator[str]:
    seen: set[str] = set()
    queue = list(roots)
    while queue:
        for node in ast.walk(queue.pop()):
            if isinstance(node, ast.Name) and node.id in globals_ and node.id not in seen:
                seen.add(node.id)
                queue.append(globals_[node.id])
            elif isinstance(node, ast.Call):
                yield from _labels_of_call(node, globals_)
            elif isinstance(node, ast.ListComp) and _labels_by_first(node.elt):
                yield from _first_strings(node.generators[0].iter, globals_)


def _labels_of_call(call: ast.Call, globals_: dict[str, ast.AST]) -> Iterator[str]:
    for keyword in call.keywords:
        if keyword.arg in ("id", "ids"):
            value = _value_of(keyword.value, globals_)
            elements = value.elts if isinstance(value, (ast.List, ast.Tuple)) else [value]
            yield from (text for element in elements for text in _text(element))
    if isinstance(call.func, ast.Name) and call.args:
        yield from _text(call.args[0])


def _labels_by_first(made: ast.AST) -> bool:
    """Whether this is `pytest.param(..., id=row[0])`."""
    return isinstance(made, ast.Call) and any(
        keyword.arg == "id"
        and isinstance(keyword.value, ast.Subscript)
        and isinstance(keyword.value.slice, ast.Constant)
        and keyword.value.slice.value == 0
        for keyword in made.keywords
    )


def _first_strings(table: ast.AST, globals_: dict[str, ast.AST]) -> Iterator[str]:
    rows = _value_of(table, globals_)
    for row in rows.elts if isinstance(rows, (ast.List, ast.Tuple)) else []:
        if isinstance(row, ast.Tuple) and row.elts:
            yield from _text(row.elts[0])


def _value_of(node: ast.AST, globals_: dict[str, ast.AST]) -> ast.AST:
    return globals_.get(node.id, node) if isinstance(node, ast.Name) else node


def _text(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    elif isinstance(node, ast.JoinedStr):
        yield "".join(str(part.value) if isinstance(part, ast.Constant) else "\0" for part in node.values)
