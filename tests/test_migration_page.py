"""The page that says where the methods of daaki-smtp and wasm-smtp went: what it names exists, with that signature."""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path

import pytest

import smtpconn
from smtpconn import RcptParams, SmtpConnection, TlsMode

PAGE = (Path(__file__).resolve().parent.parent / "docs/migration/seed-methods.rst").read_text(encoding="utf-8")
ROWS = dict(re.findall(r"^   \* - ((?:KM|WM)\d+)\n     - .*\n     - ((?:.|\n       )*)$", PAGE, re.MULTILINE))
CALLS = [
    (row, target, arguments)
    for row, cell in ROWS.items()
    for target, arguments in re.findall(r"`([A-Za-z0-9_.]+)\(((?:[^()`]|\(\))*)\)`", cell)
]
SNAPSHOTS = [(row, name) for row, cell in ROWS.items() for name in re.findall(r"`c\.([a-z_.]+)`", cell)]


def test_every_method_has_a_row() -> None:
    assert list(ROWS) == [f"KM{n}" for n in range(1, 31)] + [f"WM{n}" for n in range(1, 17)]


def test_every_row_names_something_of_smtpconn_but_the_one_that_says_none() -> None:
    named = {row for row, *_ in [*CALLS, *SNAPSHOTS]}
    assert [row for row in ROWS if row not in named] == ["WM4"]
    assert ROWS["WM4"].startswith("none")


def found(target: str) -> object:
    """What a name of the page means; `c` is a connection."""
    first, *rest = target.split(".")
    thing: object = SmtpConnection if first == "c" else getattr(smtpconn, first, None)
    for name in rest:
        thing = getattr(thing, name)
    return thing


@pytest.mark.parametrize(("row", "target", "arguments"), CALLS, ids=lambda text: str(text)[:40])
def test_KM1_to_KM30_WM1_to_WM16_what_took_its_place_has_the_parameters_shown(
    row: str, target: str, arguments: str
) -> None:
    """A `...` at the end stands for further keywords."""
    if target == "repr":
        assert "__repr__" in vars(SmtpConnection)
        return
    thing = found(target)
    assert callable(thing), f"{row}: {target}"
    has = {name: p for name, p in inspect.signature(thing).parameters.items() if name != "self"}
    shown, _, open_end = arguments.partition(", ...")
    assert not open_end
    function = ast.parse(f"def shown({shown}): pass").body[0]
    assert isinstance(function, ast.FunctionDef)
    positional = [argument.arg for argument in function.args.args]
    keywords = [argument.arg for argument in function.args.kwonlyargs]
    kinds = {name: p.kind for name, p in has.items()}
    assert positional == [name for name, kind in kinds.items() if kind is inspect.Parameter.POSITIONAL_OR_KEYWORD]
    assert {kinds[name] for name in keywords} <= {inspect.Parameter.KEYWORD_ONLY}
    defaults = [*function.args.defaults, *(default for default in function.args.kw_defaults if default)]
    with_default = positional[len(positional) - len(function.args.defaults) :]
    with_default += [n for n, default in zip(keywords, function.args.kw_defaults, strict=True) if default]
    for name, default in zip(with_default, defaults, strict=True):
        meant = eval(ast.unparse(default), {"TlsMode": TlsMode, "RcptParams": RcptParams})  # noqa: S307  # our own page
        assert has[name].default == meant, f"{row}: {name}"
    required = {name for name, parameter in has.items() if parameter.default is inspect.Parameter.empty}
    assert required == {*positional, *keywords} - set(with_default), f"{row}: {target}"
    assert arguments.endswith("...") or set(has) == {*positional, *keywords}, f"{row}: more keywords than it shows"


@pytest.mark.parametrize(("row", "name"), SNAPSHOTS)
def test_a_snapshot_of_the_page_is_a_property(row: str, name: str) -> None:
    first, *rest = name.split(".")
    snapshot = inspect.getattr_static(SmtpConnection, first)
    assert isinstance(snapshot, property), row
    for attribute in rest:
        assert attribute in smtpconn.ServerCapabilities.__dataclass_fields__
