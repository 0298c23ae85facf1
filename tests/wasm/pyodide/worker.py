"""The other end of `worker.mjs`: jobs as lines of JSON to a Node that stays, answers as lines from it."""

from __future__ import annotations

import contextlib
import json
import queue
import subprocess
import threading
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from ..node import Node

_STARTING = 120.0  # seconds; Pyodide takes three on a machine with nothing else to do
_ANSWERING = 60.0


class Worker:
    """A running `worker.mjs`, as a context manager."""

    def __init__(self, node: Node, script: Path, *arguments: str) -> None:
        self._command = [str(node.program), str(script), *arguments]
        self._directory = script.parent
        self._answers: queue.Queue[str] = queue.Queue()

    def __enter__(self) -> Worker:
        self._log = (self._directory / "worker.log").open("w+", encoding="utf-8", errors="replace")
        self._process = subprocess.Popen(
            self._command,
            cwd=self._directory,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )
        self._reader = threading.Thread(target=self._read, name="worker.mjs", daemon=True)
        self._reader.start()
        try:
            assert self._answer(_STARTING) == {"ready": True}
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop()

    def run(self, job: Mapping[str, Any]) -> dict[str, Any]:
        """One job to its end; `outcomes`, or `error` with its stage and verdicts."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(job) + "\n")
        self._process.stdin.flush()
        return self._answer(_ANSWERING)

    def python(self, code: str) -> dict[str, Any]:
        """Run Python there; what its last expression gives must be JSON."""
        return self.run({"python": code})

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._answers.put(line)
        self._answers.put("")

    def _answer(self, timeout: float) -> dict[str, Any]:
        try:
            line = self._answers.get(timeout=timeout)
        except queue.Empty:
            line = ""
        if not line:
            self._log.seek(0)
            raise RuntimeError(f"no answer from {self._command[1]}: {self._log.read()[-2_000:]}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _stop(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join(10)
        self._process.stdout.close()
        self._log.close()
