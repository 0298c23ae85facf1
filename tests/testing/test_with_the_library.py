"""The test kit and the library together, as a user's own suite has them. The other modules here judge without it."""

from __future__ import annotations

from typing import Any

import pytest

from smtpconn import ConnectionPool, SmtpConnection, TlsMode
from smtpconn.testing import LoopbackServer


@pytest.mark.parametrize("protocol", ["smtp", "lmtp"])
def test_F118_the_final_reply_names_the_queue_id_in_a_wording_that_clients_know(protocol: str) -> None:
    with LoopbackServer(protocol=protocol) as server:  # type: ignore[arg-type]  # of the parameters above
        connect = SmtpConnection.connect_lmtp if protocol == "lmtp" else SmtpConnection.connect
        with connect(server.host, server.port, TlsMode.NONE, timeout=10) as connection:
            results = [connection.send("a@x.test", ["b@x.test"], b"x\r\n", timeout=10) for _ in range(2)]
        assert [result.queue_id for result in results] == [mail.queue_id for mail in server.mails]


@pytest.mark.parametrize(
    "options", [{}, {"tls": "starttls"}, {"auth": {"u": "p"}}, {"protocol": "lmtp", "unix_socket": True}]
)
def test_F118_the_url_of_a_server_makes_a_pool_that_can_send(options: dict[str, Any]) -> None:
    with LoopbackServer(**options) as server, ConnectionPool.from_url(server.url, timeout=10) as pool:
        assert pool.send("a@x.test", ["b@x.test"], b"x\r\n").all_delivered
        assert server.received == 1
