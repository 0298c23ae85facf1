"""The memory of a stream of 1 GiB: it does not grow with the message."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.bench, pytest.mark.timeout(600)]

HERE = Path(__file__).resolve().parent
GIB = 1 << 30


@pytest.mark.parametrize("verb", ["send", "send_bdat"])
def test_a_stream_of_a_gibibyte_stays_24_mebibytes_above_the_interpreter(verb: str) -> None:
    """By DATA and by BDAT; peaks as the kernel counts them, imports of the library included."""
    sys.path.insert(0, str(HERE))
    try:
        import cases
        import compare
    finally:
        sys.path.remove(str(HERE))
    with compare.running("sink.py") as port:
        job = {
            "client": "smtpconn, streams", "verb": verb, "port": port, "octets": GIB,
            "mails": 1, "connections": 1, "recipients": 1, "lmtp": False, "warm": False,
        }  # fmt: skip
        command = [sys.executable, str(HERE / "senders.py"), json.dumps(job)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=500, check=True)
        assert compare.counted(port) == 1
    above = json.loads(done.stdout)["peak"] - compare.bare_peak()
    sys.stdout.write(f"\n1 GiB by {verb}: {above / 1024:.1f} MiB above the interpreter (goal 24)\n")
    assert 0 < above < cases.MOST_MEMORY
