"""The pytest plugin: servers as fixtures, options by marker.

It knows pytest and the names of the fixtures (specification users 15). It refuses to import anything heavy before a
fixture is used: collecting a test suite that never sends mail costs one small module.

Laws: what a fixture starts is stopped at the end of its test; options come from `@pytest.mark.smtpconn(...)`, the
closest marker wins for each option. It judges nothing, so it alone in this package may use the client library: to give
a test a pool.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Protocol

import pytest

if TYPE_CHECKING:
    from smtpconn.pool import ConnectionPool

    from .ca import TestAuthority
    from .outbox import Outbox
    from .server import LoopbackServer

_TIMEOUT = 10.0  # seconds for each call of a pool that a fixture gives

__all__ = ["ServerFactory"]


class ServerFactory(Protocol):
    """What `smtpconn_server_factory` gives."""

    def __call__(self, **options: Any) -> LoopbackServer:
        """Start one more server with these keywords of `LoopbackServer`, and `faults`."""


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker."""
    config.addinivalue_line(
        "markers",
        "smtpconn(extensions=, auth={user: password}, tls=, faults=[(stage, kind), ...], greeting=, rtt=, ...): "
        "options of smtpconn.testing.LoopbackServer for the smtpconn_* fixtures of this test",
    )


@pytest.fixture(scope="session")
def smtpconn_ca() -> Iterator[TestAuthority]:
    """Give a throw-away certification authority: `.pem`, `.path`, `.issue(names, **faults)`."""
    from .ca import TestAuthority

    with TestAuthority() as authority:
        yield authority


@pytest.fixture
def smtpconn_server_factory(request: pytest.FixtureRequest) -> Iterator[ServerFactory]:
    """Give a function that starts servers; the marker's options are their defaults. All are stopped at the end."""
    from .server import LoopbackServer

    servers: list[LoopbackServer] = []

    def start(**options: Any) -> LoopbackServer:
        options = {**_marked(request), **options}
        faults = options.pop("faults", ())
        if options.get("tls") and options.get("ca") is None:
            options["ca"] = request.getfixturevalue("smtpconn_ca")
        server = LoopbackServer(**options)
        for fault in faults:
            if isinstance(fault, dict):
                server.fault(**fault)
            else:
                server.fault(*fault)
        servers.append(server)
        return server.start()

    yield start
    for server in servers:
        server.stop()


@pytest.fixture
def smtpconn_server(smtpconn_server_factory: ServerFactory) -> LoopbackServer:
    """Give a running SMTP server on loopback."""
    return smtpconn_server_factory()


@pytest.fixture
def smtpconn_lmtp_server(smtpconn_server_factory: ServerFactory) -> LoopbackServer:
    """Give a running LMTP server on loopback, or on a Unix socket with `@pytest.mark.smtpconn(unix_socket=True)`."""
    return smtpconn_server_factory(protocol="lmtp")


@pytest.fixture
def smtpconn_tls_server(smtpconn_server_factory: ServerFactory) -> LoopbackServer:
    """Give a running SMTP server with implicit TLS; clients trust it by `smtpconn_ca`."""
    return smtpconn_server_factory(tls="implicit")


@pytest.fixture
def smtpconn_starttls_server(smtpconn_server_factory: ServerFactory) -> LoopbackServer:
    """Give a running SMTP server with STARTTLS; clients trust it by `smtpconn_ca`."""
    return smtpconn_server_factory(tls="starttls")


@pytest.fixture
def smtpconn_pool(smtpconn_server: LoopbackServer) -> Iterator[ConnectionPool]:
    """Give a `ConnectionPool` on `smtpconn_server`, 10 seconds for each call; fails the test if a lease leaked."""
    from smtpconn.pool import ConnectionPool

    with ConnectionPool.from_url(smtpconn_server.url, timeout=_TIMEOUT) as pool:
        yield pool
        _refuse_leaks(pool)


@pytest.fixture
def smtpconn_outbox() -> Iterator[Outbox]:
    """Give an `Outbox`: its `pool` sends without a socket, and it is the sequence of the mails that were sent."""
    from smtpconn.connection import SmtpConnection
    from smtpconn.pool import ConnectionPool
    from smtpconn.tls import TlsMode

    from .outbox import Outbox

    outbox = Outbox()

    def connect(opening: Any, endpoint: Any, budget: Any) -> SmtpConnection:
        return SmtpConnection.from_transport(outbox.transport(), tls_mode=TlsMode.NONE, timeout=_TIMEOUT)

    system = ConnectionPool._system._replace(connector=connect)
    kind: type[ConnectionPool] = type("OutboxPool", (ConnectionPool,), {"_system": system})
    with kind("outbox.test", 25, TlsMode.NONE, timeout=_TIMEOUT) as pool:
        outbox.pool = pool
        yield outbox
        _refuse_leaks(pool)


def _refuse_leaks(pool: ConnectionPool) -> None:
    stats = pool.stats()
    held = [f"{holder.thread}, {holder.seconds:.1f} s ago" for holder in stats.holders]
    if held:
        pool.close(timeout=0)  # the test is over: nobody would give them back while we wait
        pytest.fail(f"the test did not give back the leases of {'; '.join(held)}")
    if stats.leaks:
        pytest.fail(f"the test lost {stats.leaks} leases without giving them back")


def _marked(request: pytest.FixtureRequest) -> dict[str, Any]:
    options: dict[str, Any] = {}
    for mark in reversed(list(request.node.iter_markers("smtpconn"))):
        if mark.args:
            raise pytest.UsageError("@pytest.mark.smtpconn takes keywords only")
        options.update(mark.kwargs)
    return options
