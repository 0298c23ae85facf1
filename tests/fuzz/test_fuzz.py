"""The short form of fuzzing, the same in every run: fixed seeds and numbers of runs. See `run` for the long one."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

RUN = Path(__file__).with_name("run.py")
FOLLOWED = {"reply": 12_000, "ehlo": 15_000, "stuffing": 15_000, "session": 4_000, "batch": 4_000}
MUTATED = {"ehlo": 20_000, "stuffing": 20_000, "session": 8_000, "batch": 8_000}
MILLION = 1_000_000


def fuzz(target: str, runs: int, room: Path, *options: str) -> str:
    """The output of a run that found nothing; what it writes, it writes in `room`."""
    command = [sys.executable, str(RUN), target, "--runs", str(runs), *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "TMPDIR": str(room)})
    assert done.returncode == 0, done.stderr[-4_000:]
    return done.stdout + done.stderr


@pytest.mark.timeout(600)
@pytest.mark.parametrize("target", list(FOLLOWED))
def test_inputs_that_follow_the_coverage_break_no_invariant(target: str, tmp_path: Path) -> None:
    """faults:P2, faults:P3, faults:P4, faults:P6, faults:P8."""
    if importlib.util.find_spec("atheris") is None:
        assert not os.environ.get("SMTPCONN_REQUIRE_SERVERS"), "atheris is missing"
        pytest.skip("atheris is not installed: it has wheels for Linux on x86-64 only")
    said = fuzz(target, FOLLOWED[target], tmp_path, "--engine", "atheris")
    executed = re.search(r"number_of_executed_units: (\d+)", said)
    assert executed is not None
    assert int(executed[1]) >= FOLLOWED[target]
    covered = [int(edges) for edges in re.findall(r" cov: (\d+) ", said)]
    assert covered[-1] > covered[0], "nothing was found that the corpus did not reach: the code is not instrumented"


@pytest.mark.timeout(600)
def test_P4_the_reply_parser_stands_a_million_executions(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """faults:P4: executions are counted where a parser is made and fed; the other targets' are not among them."""
    executed = 0
    for seed in (1, 2):
        said = fuzz("reply", 104_000, tmp_path, "--engine", "mutate", "--seed", str(seed))
        done = re.fullmatch(r"engine=mutate runs=104000 parser=(\d+)\n", said)
        assert done is not None
        executed += int(done[1])
    with capsys.disabled():
        print(f"\nreply parser: {executed:,} executions, no finding")  # noqa: T201  # the figure that CI is to show
    assert executed >= MILLION


@pytest.mark.timeout(600)
@pytest.mark.parametrize("target", list(MUTATED))
def test_mutated_inputs_break_no_invariant(target: str, tmp_path: Path) -> None:
    """faults:P2, faults:P3, faults:P6, faults:P8."""
    runs = MUTATED[target]
    assert fuzz(target, runs, tmp_path, "--engine", "mutate") == f"engine=mutate runs={runs} parser=0\n"


def test_an_invariant_that_breaks_is_found_and_shown(tmp_path: Path) -> None:
    """The loop itself: a target that fails ends it, with the input."""
    shutil.copytree(RUN.parent / "corpus", tmp_path / "corpus")
    shutil.copy(RUN, tmp_path)
    target = "def reply(octets):\n    assert b'25x' not in octets\n\n\nTARGETS = {'reply': reply}\n"
    (tmp_path / "targets.py").write_text(target)
    command = [sys.executable, str(tmp_path / RUN.name), "reply", "--runs", "100000", "--engine", "mutate"]
    done = subprocess.run([*command, "--findings", str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "25x" in done.stderr
    assert [b"25x" in finding.read_bytes() for finding in tmp_path.glob("reply-1-*")] == [True]
