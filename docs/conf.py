"""Sphinx: `tox -e docs` builds this with warnings as errors and runs the code in it."""

from __future__ import annotations

import importlib.metadata
import importlib.util
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
    spec = importlib.util.spec_from_file_location("spec_index", Path(__file__).parent.parent / "tests/spec_index.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _write_the_index(app: Sphinx, name: str, source: list[str]) -> None:
    if name == "reference/features":
        source[0] = source[0].replace(".. specification-index\n", _spec_index().page())


# Nobody calls these: a verb gives them.
_GIVEN = {"smtpconn.SmtpConnection", "smtpconn.Lease", "smtpconn.MailOutcomes", "smtpconn.Credentials"}


def _without_signature(app: Sphinx, what: str, name: str, *_: object) -> tuple[str, None] | None:
    return ("", None) if what == "class" and name in _GIVEN else None


def setup(app: Sphinx) -> None:
    """Have the tables of reference/features written from the tests."""
    app.connect("source-read", _write_the_index)
    app.connect("autodoc-process-signature", _without_signature)
