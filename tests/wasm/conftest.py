"""Node for the tests of the core outside CPython.

Where it cannot be had, what needs it is skipped and says why; with SMTPCONN_REQUIRE_SERVERS=1 in the environment it
fails instead.
"""

from __future__ import annotations

import os
from typing import NoReturn

import pytest

from .node import MissingToolError, Node, find_node


def missing(error: Exception) -> NoReturn:
    """Skip, or fail where nothing may be missing."""
    if os.environ.get("SMTPCONN_REQUIRE_SERVERS") == "1":
        pytest.fail(f"{error} (SMTPCONN_REQUIRE_SERVERS=1)", pytrace=False)
    pytest.skip(str(error))


@pytest.fixture(scope="session")
def node() -> Node:
    """Node, with the packages of `package.json` installed."""
    try:
        return find_node()
    except MissingToolError as error:
        missing(error)
