"""faults P12 over sockets: a relay cuts a dialogue at every octet, in both directions, by FIN and by RST.

The server's ledger is the judge. In clear every octet of four dialogues is a cut; in TLS, where one octet of a
record is as good as another, every 7th of one dialogue is. A plain run plays a fifth; see `thoroughness`.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

import pytest

from smtpconn import Delivery, SmtpConnection, SmtpError, TlsConfig, TlsMode
from smtpconn.protocol.result import RecipientResult
from smtpconn.testing import LoopbackServer, Relay, TestAuthority

from .thoroughness import share
from .wire_faults import nothing_left

TIMEOUT = 10.0
RECIPIENTS = ["a@x.test", "b@x.test"]
DIRECTIONS: tuple[Literal["to client", "to server"], ...] = ("to client", "to server")
_TLS_STRIDE = 7
Protocol = Literal["smtp", "lmtp"]


@dataclass
class Mailed:
    """What the client was told."""

    recipients: tuple[RecipientResult, ...] = ()
    error: SmtpError | None = None


@dataclass
class Site:
    """A server behind a relay, and how to speak with it."""

    server: LoopbackServer
    relay: Relay
    chunking: bool
    tls: TlsConfig | None
    seen: set[Delivery] = field(default_factory=set)

    def mail(self, number: int) -> Mailed:
        """One whole dialogue: connect, a mail, QUIT."""
        connect = SmtpConnection.connect_lmtp if self.server.protocol == "lmtp" else SmtpConnection.connect
        message = f"X-Id: {number}\r\n\r\n.text\r\n".encode()
        try:
            connection = connect(
                self.relay.host, self.relay.port, TlsMode.IMPLICIT if self.tls else TlsMode.NONE, timeout=TIMEOUT,
                tls_config=self.tls, ehlo_domain="client.test",
            )  # fmt: skip
        except SmtpError as error:
            return Mailed(error=error)
        with connection:
            try:
                send = connection.send_bdat if self.chunking else connection.send
                return Mailed(send("s@client.test", RECIPIENTS, message, timeout=TIMEOUT).recipients)
            except SmtpError as error:
                return Mailed(error.recipients, error)

    def whole(self) -> tuple[int, int]:
        """Octets to the client and to the server in a dialogue that is not cut."""
        mailed = self.mail(0)
        assert [entry.delivery for entry in mailed.recipients] == [Delivery.DELIVERED] * 2
        passed = self.relay.connections[-1]
        for thread in threading.enumerate():
            if thread.name == f"relay-{passed.index}":
                thread.join(TIMEOUT)
                assert not thread.is_alive()
        return passed.to_client, passed.to_server

    def cut(self, direction: Literal["to client", "to server"], after: int, how: Literal["FIN", "RST"]) -> None:
        """Play it cut there, and judge it."""
        number = len(self.relay.connections) + 1
        self.relay.cut(direction, after=after, how=how)
        try:
            mailed = self.mail(number)
        finally:
            self.relay.clear_cuts()
        where = f"{how} {direction} after {after} octets"
        counts = [self.server.ledger.count(str(number), recipient) for recipient in RECIPIENTS]
        if not mailed.recipients:
            assert mailed.error is not None, where
            assert mailed.error.delivery is Delivery.NOT_DELIVERED, where
            assert counts == [0, 0], where
        for entry, count in zip(mailed.recipients, counts, strict=False):
            self.seen.add(entry.delivery)
            if entry.delivery is Delivery.UNKNOWN:
                assert count <= 1, where
            else:
                assert count == int(entry.delivery is Delivery.DELIVERED), f"{where}: {entry}"


@contextlib.contextmanager
def site(protocol: Protocol, chunking: bool, authority: TestAuthority | None = None) -> Iterator[Site]:
    tls = None if authority is None else TlsConfig(trust=authority.pem, server_name="localhost")
    with (
        nothing_left(),
        LoopbackServer(protocol=protocol, tls="implicit" if tls else None, ca=authority) as server,
        Relay(server, keep=False) as relay,
    ):
        yield Site(server, relay, chunking, tls)


@pytest.mark.parametrize("how", ["FIN", "RST"])
@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("chunking", [False, True], ids=["DATA", "BDAT"])
@pytest.mark.parametrize("protocol", ["smtp", "lmtp"])
def test_P12_a_dialogue_over_tcp_is_cut_at_every_octet(
    protocol: Protocol,
    chunking: bool,
    direction: Literal["to client", "to server"],
    how: Literal["FIN", "RST"],
) -> None:
    with site(protocol, chunking) as here:
        to_client, to_server = here.whole()
        length = to_client if direction == "to client" else to_server
        assert length > 100
        for after in [*share(range(length - 1), 10, how == "RST"), length - 1]:
            here.cut(direction, after, how)
        assert here.seen == set(Delivery)


@pytest.mark.parametrize("how", ["FIN", "RST"])
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_P12_a_dialogue_over_TLS_is_cut_all_along_it(
    direction: Literal["to client", "to server"], how: Literal["FIN", "RST"], authority: TestAuthority
) -> None:
    """Handshake, records and close_notify."""
    with site("smtp", False, authority) as here:
        to_client, to_server = here.whole()
        length = to_client if direction == "to client" else to_server
        assert length > 800
        for after in share([*range(0, length, _TLS_STRIDE), *range(length - 60, length)], 10):
            here.cut(direction, after, how)
        assert Delivery.DELIVERED in here.seen
