"""faults G-S-1, G-T-1, G-T-2: mails through servers that fail at random, and not one wrong verdict.

20 000 mails from 16 threads by default, SMTPCONN_SOAK=1000000 is the long form; SMTPCONN_SOAK_SEED repeats a run.
"""

from __future__ import annotations

import os
import random

import pytest

from smtpconn import Delivery

from ..wire_faults import nothing_left
from .soaking import SETTINGS, Setting, soak

MAILS = int(os.environ.get("SMTPCONN_SOAK", "20000"))
SEED = int(os.environ.get("SMTPCONN_SOAK_SEED") or random.SystemRandom().randrange(2**32))
THREADS = 16
RATE = 0.05


@pytest.mark.timeout(max(300, MAILS // 50))
@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.name)
def test_G_S_1_nothing_is_lost_and_nothing_duplicated(setting: Setting, capsys: pytest.CaptureFixture[str]) -> None:
    with nothing_left():
        report = soak(setting, mails=MAILS // len(SETTINGS), threads=THREADS, rate=RATE, seed=SEED)
    with capsys.disabled():
        print(f"\n{report.line()}")  # noqa: T201  # the seed, which repeats the run
    assert report.wrong == []
    assert report.late == []
    assert report.violations == []
    assert set(report.counts) == set(Delivery), "every verdict occurs, or the faults did not"
    assert report.errors["DeliveryUnknownError"] > 0
