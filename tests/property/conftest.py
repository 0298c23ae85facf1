"""One profile for everybody: the same examples every time, so that a failure in CI is a failure here.

With SMTPCONN_EXPLORE=1 others are looked for, and more of them; hypothesis then prints how to repeat what it found.
To make that short takes it minutes: a test that is cut off meanwhile loses what it found.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from smtpconn.testing import LoopbackServer, TestAuthority

from .comparing import ROWS, Said

settings.register_profile(
    "ci", max_examples=500, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("explore", settings.get_profile("ci"), max_examples=5_000, derandomize=False)
settings.load_profile("explore" if "SMTPCONN_EXPLORE" in os.environ else "ci")

EXPLORING = 3_600  # seconds for one test


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if "SMTPCONN_EXPLORE" in os.environ:
        for item in items:
            if item.path.parent == Path(__file__).parent:
                item.add_marker(pytest.mark.timeout(EXPLORING), append=False)


@pytest.fixture
def said(request: pytest.FixtureRequest) -> Iterator[Said]:
    """Compares what was measured, of smtplib, aiosmtplib and smtpconn, with the row that the test's name names."""
    (name,) = re.findall(r"_(CT\d+)_", request.node.name)
    measured = []

    def compare(by_smtplib: str, by_aiosmtplib: str, by_smtpconn: str) -> None:
        measured.append((by_smtplib, by_aiosmtplib, by_smtpconn))
        assert measured[-1] == ROWS[name]

    yield compare
    assert len(measured) == 1


@pytest.fixture(scope="session")
def authority() -> Iterator[TestAuthority]:
    with TestAuthority() as made:
        yield made


@pytest.fixture
def server() -> Iterator[LoopbackServer]:
    with LoopbackServer() as running:
        yield running
