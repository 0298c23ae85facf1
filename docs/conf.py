"""Sphinx: `tox -e docs` builds this with warnings as errors and runs the code in it."""

from __future__ import annotations

import importlib.metadata

project = "smtpconn"
author = "smtpconn contributors"
copyright = "smtpconn contributors"  # noqa: A001 - Sphinx's name for it
release = version = importlib.metadata.version("smtpconn")

extensions = ["sphinx.ext.autodoc", "sphinx.ext.doctest", "sphinx.ext.napoleon"]
napoleon_numpy_docstring = False
html_theme = "furo"
html_title = f"smtpconn {release}"
exclude_patterns = ["_build"]
default_role = "literal"

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autoclass_content = "class"

# Every code block of a page that says testcode runs in one namespace, against the loopback server of smtpconn.testing.
doctest_test_doctest_blocks = ""
trim_doctest_flags = True
