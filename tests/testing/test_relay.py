from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable

import pytest

from smtpconn.testing import LoopbackServer, Relay

from .conftest import Dial

Serve = Callable[..., LoopbackServer]
GROUP = ("MAIL FROM:<a@x.test>", "RCPT TO:<b@x.test>", "DATA")


@pytest.mark.parametrize("delay", [0.0, 0.01])
def test_a_grouped_mail_is_two_flights_RT10(serve: Serve, dial: Dial, delay: float) -> None:
    server = serve()
    with Relay(server, delay=delay) as relay:
        talk = dial(relay)
        assert relay.flights == 1
        for _ in range(3):
            talk.flight(*GROUP)
            talk.flight("x", ".", replies=1)
        assert relay.flights == 7
        assert relay.connections[0].flights == 7
    assert server.sessions[0].mail_flights == 6
    assert server.received == 3


def test_a_group_in_several_segments_is_one_flight_with_a_delay(serve: Serve, dial: Dial) -> None:
    with Relay(serve(), delay=0.02) as relay:
        talk = dial(relay)
        for line in GROUP:
            talk.say(line + "\r\n")
        assert [talk.reply()[:3] for _ in GROUP] == ["250", "250", "354"]
        assert relay.flights == 2


def test_lock_step_is_a_flight_per_command_RT9(serve: Serve, dial: Dial) -> None:
    with Relay(serve()) as relay:
        talk = dial(relay)
        for line in (*GROUP, "x\r\n."):
            talk.ask(line)
        assert relay.flights == 5


def test_tls_handshakes_count_as_the_budget_says_RT2_RT3(serve: Serve, dial: Dial) -> None:
    implicit, upgraded = serve(tls="implicit"), serve(tls="starttls")
    for server, flights in ((implicit, 3), (upgraded, 4)):
        assert server.ca is not None
        context = ssl.create_default_context(cafile=server.ca.path)
        with Relay(server, delay=0.02) as relay:
            talk = dial(relay, hello=server is upgraded)
            if server is upgraded:
                talk.ask("STARTTLS")
            talk.sock = context.wrap_socket(talk.sock, server_hostname="localhost")
            if server is implicit:
                talk.hello()
            else:
                talk.ask("EHLO c.test")
            assert relay.flights == flights


def test_octets_of_both_directions_are_kept(serve: Serve, dial: Dial) -> None:
    with Relay(serve(name="mx")) as relay:
        talk = dial(relay)
        talk.ask("NOOP")
        assert relay.octets_to_server == b"EHLO client.test\r\nNOOP\r\n"
        assert relay.octets_to_client.startswith(b"220 mx ESMTP")
        assert relay.connections[0].to_server == len(relay.octets_to_server)
        assert relay.connections[0].to_client == len(relay.octets_to_client)


def test_the_delay_is_real_in_both_directions(serve: Serve, dial: Dial) -> None:
    clock = __import__("time").monotonic
    with Relay(serve(), delay=0.05) as relay:
        talk = dial(relay)
        begin = clock()
        talk.ask("NOOP")
        assert clock() - begin >= 0.1


@pytest.mark.parametrize("after", [0, 1, 22, 25])
@pytest.mark.parametrize("how", ["FIN", "RST"])
def test_octets_to_the_server_are_cut_at_an_offset(serve: Serve, dial: Dial, after: int, how: str) -> None:
    server = serve()
    with Relay(server) as relay:
        relay.cut("to server", after=after, how=how)  # type: ignore[arg-type]
        try:
            talk = dial(relay, hello=False)
            talk.say("EHLO client.test\r\nNOOP\r\nNOOP\r\n")
            octets = talk.rest()
        except ConnectionError:
            assert how == "RST"
        else:
            assert how == "FIN"
            assert octets.count(b"\n") == {0: 1, 1: 1, 22: 10, 25: 11}[after]
        server.wait_for_connections(0, 5)
        assert len(relay.octets_to_server) == after
    assert server.sessions == [] or server.sessions[0].octets <= after


@pytest.mark.parametrize("after", [0, 3, 40])
def test_octets_to_the_client_are_cut_at_an_offset(serve: Serve, dial: Dial, after: int) -> None:
    with Relay(serve()) as relay:
        relay.cut("to client", after=after, connection=1)
        talk = dial(relay, hello=False)
        talk.say("EHLO client.test\r\n")
        assert len(talk.rest()) == after
        assert dial(relay).ask("NOOP").startswith("250")  # the second connection is whole
        relay.clear_cuts()


def test_a_stalled_direction_forwards_nothing(serve: Serve, dial: Dial) -> None:
    server = serve()
    with Relay(server) as relay:
        talk = dial(relay)
        relay.cut("to client", how="stall")
        talk.say("NOOP\r\n")
        talk.sock.settimeout(0.05)
        with pytest.raises(TimeoutError):
            talk.reply()
        assert server.sessions[0].commands == ["EHLO", "NOOP"]


@pytest.mark.parametrize("how", ["FIN", "RST"])
def test_all_connections_are_killed_at_once(serve: Serve, dial: Dial, how: str) -> None:
    server = serve()
    with Relay(server) as relay:
        talks = [dial(relay) for _ in range(3)]
        assert relay.kill(how=how) == 3  # type: ignore[arg-type]
        for talk in talks:
            if how == "RST":
                with pytest.raises(ConnectionResetError):
                    talk.rest()
            else:
                assert talk.rest() == b""
        server.wait_for_connections(0, 5)
        assert dial(relay).ask("NOOP").startswith("250")


def test_a_large_body_passes_both_ways_intact(serve: Serve, dial: Dial) -> None:
    server = serve()
    content = bytes(range(256)) * 4096 * 4
    with Relay(server, keep=False) as relay:
        talk = dial(relay)
        talk.flight("MAIL FROM:<a@x.test> BODY=BINARYMIME", "RCPT TO:<b@x.test>")
        talk.say(b"BDAT %d LAST\r\n" % len(content) + content)
        assert talk.reply().startswith("250")
        assert relay.octets_to_server == b""
    assert server.mails[0].content == content


def test_it_relays_to_unix_sockets(serve: Serve, dial: Dial) -> None:
    server = serve(protocol="lmtp", unix_socket=True)
    assert isinstance(server.unix_socket, str)
    for upstream in (server, server.unix_socket):
        with Relay(upstream) as relay:
            talk = dial(relay, hello=False)
            assert talk.hello(verb="LHLO").startswith("250")


def test_where_nobody_listens_the_client_is_reset(dial: Dial) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = listener.getsockname()
    with Relay(address) as relay:
        talk = dial(relay, hello=False)
        with pytest.raises(ConnectionResetError):
            talk.rest()


def test_stop_ends_every_thread(serve: Serve, dial: Dial) -> None:
    server = serve()
    before = threading.active_count()
    relay = Relay(server, delay=0.01).start()
    talks = [dial(relay) for _ in range(3)]
    relay.stop()
    relay.stop()
    server.wait_for_connections(0, 5)
    assert [talk.rest() for talk in talks] == [b""] * 3
    server.stop()
    assert threading.active_count() <= before


def test_octets_that_fall_due_between_two_looks_at_the_clock_are_forwarded(serve: Serve, dial: Dial) -> None:
    """Time passes at every look: the relay must not sleep for ever on what was not due at one and is at the next."""
    now = 0.0

    def clock() -> float:
        nonlocal now
        now += 0.004
        return now

    with Relay(serve(), delay=0.01, clock=clock) as relay:
        talk = dial(relay)
        assert [talk.ask("NOOP")[:3] for _ in range(50)] == ["250"] * 50
