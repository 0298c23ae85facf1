"""Sphinx: `tox -e docs` builds this with warnings as errors and runs the code in it."""

from __future__ import annotations

import importlib
import importlib.metadata
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sphinx.application import Sphinx

project = "smtpconn"
author = "smtpconn contributors"
copyright = "smtpconn contributors"  # noqa: A001 - Sphinx's name for it
release = version = importlib.metadata.version("smtpconn")

extensions = ["sphinx.ext.autodoc", "sphinx.ext.doctest", "sphinx.ext.napoleon"]
napoleon_numpy_docstring = False
toc_object_entries_show_parents = "hide"
maximum_signature_line_length = 100
html_theme = "furo"
html_title = f"smtpconn {release}"
html_static_path = ["_static"]
html_css_files = ["pages.css"]
exclude_patterns = ["_build"]
default_role = "literal"

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autoclass_content = "class"

# Every code block of a page that says testcode runs in one namespace, against the loopback server of smtpconn.testing.
doctest_test_doctest_blocks = ""
trim_doctest_flags = True


def _spec_index() -> ModuleType:
    """Which test asserts which row: `tests/spec_index.py`, which is no part of the package."""
    sys.path.append(str(Path(__file__).parent.parent))  # behind the library that is installed
    return importlib.import_module("tests.spec_index")


def _write_the_index(app: Sphinx, name: str, source: list[str]) -> None:
    if name == "reference/features":
        source[0] = source[0].replace(".. specification-index\n", _spec_index().page())


# Nobody calls these: a verb gives them, or raises them with the keywords of their base class.
_GIVEN = {"smtpconn.SmtpConnection", "smtpconn.Lease", "smtpconn.MailOutcomes", "smtpconn.Credentials"}


def _without_signature(app: Sphinx, what: str, name: str, *_: object) -> tuple[str, None] | None:
    raised = re.fullmatch(r"smtpconn\.(?!SmtpError|PolicyError)\w+Error", name) is not None
    return ("", None) if raised or (what == "class" and name in _GIVEN) else None


def _without_type(app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """Napoleon takes what stands in front of a colon in a property's first line for its type: give it none."""
    if what == "property":
        lines[:0] = ["..", ""]


def setup(app: Sphinx) -> None:
    """Have the tables of reference/features written from the tests."""
    app.connect("source-read", _write_the_index)
    app.connect("autodoc-process-signature", _without_signature)
    app.connect("autodoc-process-docstring", _without_type, priority=400)  # before napoleon, which has 500
