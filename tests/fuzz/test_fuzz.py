"""The short form of fuzzing, the same in every run: fixed seeds and numbers of runs. See `run` for the long one.

`reply` runs the parser three times on each input up to 400 octets: whole, in pieces, octet by octet.
"""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

RUN = Path(__file__).with_name("run.py")
TARGETS = {"reply": 20_000, "ehlo": 20_000, "stuffing": 20_000, "session": 10_000}


def fuzz(target: str, runs: int, *options: str) -> str:
    """The output of a run that found nothing."""
    command = [sys.executable, str(RUN), target, "--runs", str(runs), *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4_000:]
    return done.stdout + done.stderr


@pytest.mark.timeout(600)
@pytest.mark.skipif(importlib.util.find_spec("atheris") is None, reason="atheris has no wheel for this Python")
@pytest.mark.parametrize("target", list(TARGETS))
def test_inputs_that_follow_the_coverage_break_no_invariant(target: str) -> None:
    """P2, P3, P4, P6, P8."""
    said = fuzz(target, TARGETS[target], "--engine", "atheris")
    executed = re.search(r"number_of_executed_units: (\d+)", said)
    assert executed is not None
    assert int(executed[1]) >= TARGETS[target]


@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", [1, 2])
def test_P4_the_parser_stands_a_million_runs(seed: int) -> None:
    """faults:G-F-2: 350,000 inputs, each parsed three times, in two halves."""
    assert fuzz("reply", 175_000, "--engine", "mutate", "--seed", str(seed)) == "engine=mutate runs=175000\n"


@pytest.mark.timeout(600)
@pytest.mark.parametrize("target", ["ehlo", "stuffing", "session"])
def test_mutated_inputs_break_no_invariant(target: str) -> None:
    """P2, P3, P6, P8."""
    assert fuzz(target, 20_000, "--engine", "mutate") == "engine=mutate runs=20000\n"


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
