"""Bridges are tested with the real libraries, over a pool at a real server on the loopback interface.

That is a server of `smtpconn.testing`, whose ledger judges; what the documentation tells people to write meets Postfix
and Dovecot, too, by the fixtures of the interoperability tests.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from smtpconn import ConnectionPool, TlsMode
from smtpconn.testing import LoopbackServer

# Pytest finds them here; they say what is missing where a server is.
from ..interop.conftest import certificates, dovecot, postfix  # noqa: F401
from ..interop.servers import LOGIN, MailServer

MakePool = Callable[..., ConnectionPool]
EXAMPLES = Path(__file__).with_name("examples")

_addresses = itertools.count(1)


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


@pytest.fixture
def source_address() -> str:
    """A loopback address that nobody else connects from, by which a server's log knows the connections of a test."""
    return str(IPv4Address("127.66.0.0") + next(_addresses))


@pytest.fixture
def account() -> Callable[..., dict[str, str]]:
    """What an example finds in its environment: the account at a server that its user has, by each name."""

    def account_at(server: MailServer, **query: str) -> dict[str, str]:
        user, password = LOGIN
        host, port = server.host, str(server.port)
        keys = "&".join(f"{key}={value}" for key, value in query.items())
        return {
            **os.environ,
            "SSL_CERT_FILE": server.ca_path,  # an authority that this machine trusts
            "EMAIL_URL": f"submission://{user}:{quote(password)}@{host}:{port}{'?' * bool(keys)}{keys}",
            "MAIL_HOST": host, "MAIL_SERVER": host, "MAIL_PORT": port,
            "MAIL_USER": user, "MAIL_USERNAME": user, "MAIL_PASSWORD": password, "MAIL_USE_TLS": "1",
        }  # fmt: skip

    return account_at
