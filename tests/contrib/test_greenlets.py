"""faults:NN24: a program that gevent has patched, in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parent / "greenlets.py"
MAILS = 50 * 6


@pytest.mark.parametrize("mode", ["none", "implicit"])
def test_NN24_greenlets_share_a_pool_as_threads_do(mode: str) -> None:
    done = subprocess.run([sys.executable, str(PROGRAM), mode], capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert seen.pop("turns of others") > 20
    assert seen == {
        "delivered": MAILS,
        "in vain": "PoolTimeoutError",
        "killed": "replaced",
        "left": [0, 0, 0],
        "peak": 4,
        "more than once": [],
        "arrived": MAILS + 1,
        "violations": [],
    }
