"""Bridges are tested with the real libraries, over a pool at a real server on the loopback interface."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from smtpconn import ConnectionPool, TlsMode
from smtpconn.testing import LoopbackServer

MakePool = Callable[..., ConnectionPool]


@pytest.fixture
def make_pool(server: LoopbackServer) -> Iterator[MakePool]:
    """Pools at the server; closed at the end."""
    made: list[ConnectionPool] = []

    def make(**options: Any) -> ConnectionPool:
        options = {"host": server.host, "port": server.port, "timeout": 10, **options}
        pool = ConnectionPool(options.pop("host"), options.pop("port"), TlsMode.NONE, **options)
        made.append(pool)
        return pool

    yield make
    for pool in made:
        pool.close()
