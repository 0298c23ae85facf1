"""A loopback server in a process of its own, for measurements and demonstrations that must not share an interpreter.

It knows how to carry options and reports as JSON, one line each. It refuses to know the server.

Laws: the child lives no longer than the pipe from its parent; it writes to standard output only what the parent asked.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from types import TracebackType
from typing import IO, Any

__all__ = ["ServerProcess"]

_METHODS = ("refuse", "reply", "fault", "clear_rules", "clear", "close_idle", "restart", "wait_for", "change")


class ServerProcess:
    """A `LoopbackServer` in a child process.

    The keywords are those of `LoopbackServer` as far as JSON can carry them (no `ca`, no `certificate`). Example::

        with ServerProcess(tls="starttls") as server:
            ...  # send through server.host, server.port, trusting server.ca_path
            assert server.report()["received"] == 100

    Attributes:
        host, port, unix_socket, url: as those of the server; `url` is "" where there is none.
        ca_path: the file with the root certificate, or None without TLS.
    """

    def __init__(self, **options: Any) -> None:
        self._options = options
        self._child: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()
        self.host = ""
        self.port = 0
        self.unix_socket: str | None = None
        self.url = ""
        self.ca_path: Path | None = None

    def start(self) -> ServerProcess:
        """Start the child and wait until it listens; returns itself."""
        if self._child is not None:
            raise RuntimeError("the server process is running")
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        self._child = subprocess.Popen(
            [sys.executable, "-m", "smtpconn.testing.process"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
        )
        try:
            told = self._ask({"options": self._options})
        except BaseException:
            self.stop()
            raise
        self.host, self.port, self.url = told["host"], told["port"], told["url"]
        self.unix_socket = told["unix_socket"]
        self.ca_path = Path(told["ca_path"]) if told["ca_path"] else None
        return self

    def stop(self) -> None:
        """End the child; may be called twice."""
        child, self._child = self._child, None
        if child is None:
            return
        assert child.stdin is not None
        assert child.stdout is not None
        with contextlib.suppress(OSError):  # a child that died with a question unread
            child.stdin.close()  # tells the child
        child.stdout.close()
        try:
            child.wait(10)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()

    def __enter__(self) -> ServerProcess:
        return self.start() if self._child is None else self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def pem(self) -> bytes:
        """The root certificate, PEM; b"" without TLS."""
        return self.ca_path.read_bytes() if self.ca_path else b""

    def report(self) -> dict[str, Any]:
        """What the server saw so far.

        Keys: `received`; `connections_total`, `connections_peak`, `connections_now`; `flights`, `mail_flights` and
        `transactions` over the sessions kept; `violations`; `ledger`, a list of [id, recipient, count].
        """
        return dict(self._ask({"call": "report"}))

    def call(self, method: str, *arguments: Any, **keywords: Any) -> Any:
        """Call a method of the server: refuse, reply, fault, clear_rules, clear, close_idle, restart, wait_for.

        `change` sets options by keyword. Returns what JSON can carry of the result, else None.
        """
        return self._ask({"call": method, "arguments": arguments, "keywords": keywords})

    def _ask(self, question: dict[str, Any]) -> Any:
        with self._lock:
            child = self._child
            if child is None or child.stdin is None or child.stdout is None:
                raise RuntimeError("the server process is not running")
            child.stdin.write(json.dumps(question).encode() + b"\n")
            child.stdin.flush()
            line = child.stdout.readline()
        if not line:
            raise RuntimeError("the server process died")
        answer = json.loads(line)
        if "error" in answer:
            raise {"TimeoutError": TimeoutError, "ValueError": ValueError}.get(answer["class"], RuntimeError)(
                answer["error"]
            )
        return answer["result"]


def serve(source: IO[bytes] | None = None, sink: IO[bytes] | None = None) -> None:
    """Be the child: answer one JSON line with one, until the source ends."""
    source = source or sys.stdin.buffer
    sink = sink or sys.stdout.buffer
    server: Any = None
    try:
        for line in source:
            question = json.loads(line)
            answer: dict[str, Any]
            try:
                if "options" in question:
                    server = _start(question["options"])
                    answer = {"result": _where(server)}
                else:
                    answer = {"result": _call(server, question)}
            except Exception as error:
                answer = {"error": str(error), "class": type(error).__name__}
            sink.write(json.dumps(answer).encode() + b"\n")
            sink.flush()
    except (BrokenPipeError, KeyboardInterrupt):
        pass
    finally:
        if server is not None:
            server.stop()


def _start(options: dict[str, Any]) -> Any:
    from .server import LoopbackServer

    return LoopbackServer(**options).start()


def _where(server: Any) -> dict[str, Any]:
    return {
        "host": server.host,
        "port": server.port,
        "unix_socket": server.unix_socket,
        "url": "" if server.unix_socket and server.protocol != "lmtp" else server.url,
        "ca_path": str(server.ca.path) if server.ca is not None else None,
    }


def _call(server: Any, question: dict[str, Any]) -> Any:
    method, keywords = question["call"], question.get("keywords", {})
    if method == "report":
        return _report(server)
    if method not in _METHODS:
        raise ValueError(f"unknown method {method!r}; known are {', '.join(_METHODS)}")
    if method == "change":
        for name, value in keywords.items():
            if not hasattr(server, name):
                raise ValueError(f"unknown option {name!r}")
            setattr(server, name, value)
        return None
    result = getattr(server, method)(*question.get("arguments", ()), **keywords)
    return result if isinstance(result, int) else None


def _report(server: Any) -> dict[str, Any]:
    sessions = server.sessions
    return {
        "received": server.received,
        "connections_total": server.connections_total,
        "connections_peak": server.connections_peak,
        "connections_now": server.connections_now,
        "flights": sum(session.flights for session in sessions),
        "mail_flights": sum(session.mail_flights for session in sessions),
        "transactions": sum(session.transactions for session in sessions),
        "violations": server.violations,
        "ledger": [[message_id, recipient, n] for (message_id, recipient), n in server.ledger.counts().items()],
    }


if __name__ == "__main__":
    serve()
