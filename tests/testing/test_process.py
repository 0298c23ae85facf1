from __future__ import annotations

import io
import json
import smtplib
import ssl

import pytest

from smtpconn.testing import ServerProcess
from smtpconn.testing.process import serve

from .conftest import Dial


def test_a_server_in_its_own_process_reports(dial: Dial) -> None:
    with ServerProcess(seed=3) as server:
        with smtplib.SMTP(server.host, server.port) as client:
            for number in range(3):
                client.sendmail("a@x.test", "b@x.test", f"X-Id: {number}\r\n\r\n")
            report = server.report()
        assert (report["received"], report["transactions"], report["violations"]) == (3, 3, [])
        assert (report["connections_now"], report["connections_total"], report["connections_peak"]) == (1, 1, 1)
        assert (report["flights"], report["mail_flights"]) == (13, 12)
        assert report["ledger"] == [[str(number), "b@x.test", 1] for number in range(3)]
        server.call("clear")
        assert server.report()["received"] == 0
        assert server.url == f"smtp://127.0.0.1:{server.port}"
        assert (server.ca_path, server.pem) == (None, b"")


def test_rules_and_options_reach_the_child(dial: Dial) -> None:
    with ServerProcess() as server:
        server.call("refuse", "b@x.test", "550 5.1.1 No")
        server.call("fault", "NOOP", "421", nth=1)
        server.call("change", extensions=["DSN"])
        talk = dial(server)
        assert talk.ask("MAIL FROM:<a@x.test> RET=FULL").startswith("250")
        assert talk.ask("RCPT TO:<b@x.test>").startswith("550")
        assert talk.ask("NOOP").startswith("421")
        with pytest.raises(TimeoutError, match="0 of 1"):
            server.call("wait_for", 1, 0.01)
        with pytest.raises(ValueError, match="unknown method"):
            server.call("stop")
        with pytest.raises(ValueError, match="unknown option"):
            server.call("change", colour="red")


def test_tls_is_trusted_by_its_file() -> None:
    with ServerProcess(tls="implicit") as server:
        assert server.ca_path is not None
        assert server.pem.startswith(b"-----BEGIN CERTIFICATE")
        context = ssl.create_default_context(cafile=server.ca_path)
        with smtplib.SMTP_SSL(server.host, server.port, context=context) as client:
            assert client.noop()[0] == 250


def test_the_child_dies_with_the_pipe() -> None:
    server = ServerProcess().start()
    child = server._child
    assert child is not None
    assert child.stdin is not None
    child.stdin.close()
    assert child.wait(10) == 0
    with pytest.raises((ValueError, OSError, RuntimeError)):
        server.report()
    server.stop()
    server.stop()


def test_a_child_that_cannot_start_its_server_says_why() -> None:
    with pytest.raises(ValueError, match="protocol is"):
        ServerProcess(protocol="http").start()


def test_a_process_starts_once() -> None:
    with ServerProcess() as server, pytest.raises(RuntimeError, match="running"):
        server.start()
    with pytest.raises(RuntimeError, match="not running"):
        server.report()


def test_one_line_is_answered_with_one_line() -> None:
    source = io.BytesIO(b'{"options": {}}\n{"call": "report"}\n{"call": "nothing"}\n')
    sink = io.BytesIO()
    serve(source, sink)
    answers = [json.loads(line) for line in sink.getvalue().splitlines()]
    assert answers[0]["result"]["host"] == "127.0.0.1"
    assert answers[1]["result"]["received"] == 0
    assert answers[2]["class"] == "ValueError"
