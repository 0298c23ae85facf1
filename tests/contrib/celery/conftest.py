"""A private Redis, and real workers that can be killed.

Where Redis is not installed what needs it is skipped and says why; with SMTPCONN_REQUIRE_SERVERS=1 in the environment
it fails instead.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import celery
import pytest
import redis

HERE = Path(__file__).parent
_STARTS = 60.0  # seconds that a loaded machine may take to start a program


class Broker:
    """A Redis of our own, on a Unix socket in a directory of its own; nothing of it is kept."""

    def __init__(self, directory: Path) -> None:
        self.socket = directory / "redis.sock"
        self.url = f"redis+socket://{self.socket}"
        self.journal_url = f"unix://{self.socket}?db=1"
        self.client = redis.Redis(unix_socket_path=str(self.socket), db=1)
        self._log = directory / "log"
        command = ["redis-server", "--port", "0", "--unixsocket", str(self.socket), "--unixsocketperm", "700"]
        command += ["--dir", str(directory), "--save", "", "--appendonly", "no", "--logfile", str(self._log)]
        self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
        self._await_answer()

    def _await_answer(self) -> None:
        until = time.monotonic() + _STARTS
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > until:
                self.stop()
                pytest.fail(f"Redis did not start: {self._log.read_text() if self._log.exists() else 'no log'}")
            time.sleep(0.02)

    def _answers(self) -> bool:
        try:
            return bool(self.client.ping())
        except redis.exceptions.ConnectionError:
            return False

    def environment(self, email_url: str) -> dict[str, str]:
        """What the examples read."""
        return {"BROKER_URL": self.url, "JOURNAL_URL": self.journal_url, "EMAIL_URL": email_url}

    def knows(self) -> set[str]:
        """The ids of the tasks that wait, are handed out, or have ended; exact while no worker runs."""
        with redis.Redis(unix_socket_path=str(self.socket), decode_responses=True) as queue:
            waiting = [json.loads(message) for message in queue.lrange("celery", 0, -1)]
            handed_out = [json.loads(entry)[0] for entry in queue.hvals("unacked")]
            results = [json.loads(queue.get(name) or "{}") for name in queue.keys("celery-task-meta-*")]
        ended = {result["task_id"] for result in results if result.get("status") in ("SUCCESS", "FAILURE")}
        return {message["headers"]["id"] for message in waiting + handed_out} | ended

    def stop(self) -> None:
        self.client.close()
        self._process.terminate()
        self._process.wait(30)


@pytest.fixture(scope="session")
def running_broker() -> Iterator[Broker]:
    if shutil.which("redis-server") is None:
        text = "redis-server is not installed (.ci/servers installs it)"
        if os.environ.get("SMTPCONN_REQUIRE_SERVERS") == "1":
            pytest.fail(f"{text} (SMTPCONN_REQUIRE_SERVERS=1)", pytrace=False)
        pytest.skip(text)
    with tempfile.TemporaryDirectory(prefix="smtpconn-") as directory:
        broker = Broker(Path(directory))
        try:
            yield broker
        finally:
            broker.stop()


@pytest.fixture
def broker(running_broker: Broker) -> Broker:
    """Empty."""
    running_broker.client.flushall()
    return running_broker


class Worker:
    """`celery worker` in a process group of its own."""

    def __init__(
        self, broker: Broker, email_url: str, *, module: str, execution: str, concurrency: int, **env: str
    ) -> None:
        environment = {
            **os.environ,
            **env,
            **broker.environment(email_url),
            "PYTHONPATH": str(HERE),
            "C_FORCE_ROOT": "1",
        }
        self.log = Path(tempfile.mkstemp(dir=broker.socket.parent, suffix=".log")[1])
        self.name = self.log.stem
        command = [sys.executable, "-m", "celery", "-A", module, "worker", "--loglevel", "INFO"]
        command += ["--pool", execution, "--concurrency", str(concurrency), "--hostname", f"{self.name}@localhost"]
        command += ["--without-gossip", "--without-mingle", "--without-heartbeat"]
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        self.pid = self._process.pid

    def await_ready(self) -> None:
        until = time.monotonic() + _STARTS
        while " ready." not in self.text():
            if self._process.poll() is not None or time.monotonic() > until:
                pytest.fail(f"the worker did not start: {self.text()}")
            time.sleep(0.02)

    def text(self) -> str:
        return self.log.read_text(errors="replace")

    def kill(self) -> None:
        """The worker and its children, at once: nobody says goodbye."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait(30)

    def ask_to_stop(self) -> None:
        """A warm shutdown begins."""
        self._process.send_signal(signal.SIGTERM)

    def await_end(self) -> int:
        return self._process.wait(_STARTS)


StartWorker = Callable[..., Worker]


@pytest.fixture
def start_worker(broker: Broker) -> Iterator[StartWorker]:
    """Start workers of the tasks in `module`; whatever is left of them at the end is killed."""
    started: list[Worker] = []

    def start(
        email_url: str,
        *,
        module: str = "trial_tasks",
        execution: str = "prefork",
        concurrency: int = 2,
        await_ready: bool = True,
        **env: str,
    ) -> Worker:
        worker = Worker(broker, email_url, module=module, execution=execution, concurrency=concurrency, **env)
        started.append(worker)
        if await_ready:
            worker.await_ready()
        return worker

    yield start
    for worker in started:
        worker.kill()


@pytest.fixture
def client(broker: Broker) -> Iterator[celery.Celery]:
    """An application that sends tasks and asks for results."""
    app = celery.Celery("client", broker=broker.url, backend=broker.url, set_as_current=False)
    yield app
    app.close()
