"""faults P11: in each reference dialogue the n-th call that can fail does, for every n, in four ways.

Calls: send, recv, poll (`readable`), wrap (`start_tls`), lock, audit, body read. Ways: OSError, TimeoutError,
MemoryError, KeyboardInterrupt. The server's book is the judge.
"""

from __future__ import annotations

import errno
from collections.abc import Callable

import pytest

from smtpconn import Delivery, attempt_of

from .reference_dialogues import DIALOGUES, Dialogue, foreign, judge

NAMES = [dialogue.name for dialogue in DIALOGUES]
FAILURES: list[Callable[[], BaseException]] = [
    lambda: ConnectionResetError(errno.ECONNRESET, "torture"),
    lambda: TimeoutError("torture"),
    lambda: MemoryError("torture"),
    lambda: KeyboardInterrupt("torture"),
]


class Count:
    """Counts the calls; the one at `at` raises."""

    def __init__(self, at: int | None = None, failure: Callable[[], BaseException] | None = None) -> None:
        self.at, self.failure = at, failure
        self.calls: list[str] = []

    def __call__(self, call: str) -> None:
        self.calls.append(call)
        if len(self.calls) - 1 == self.at and self.failure is not None:
            raise self.failure()


@pytest.mark.parametrize("failure", FAILURES, ids=["OSError", "TimeoutError", "MemoryError", "KeyboardInterrupt"])
@pytest.mark.parametrize("dialogue", DIALOGUES, ids=NAMES)
def test_P11_the_nth_call_fails(dialogue: Dialogue, failure: Callable[[], BaseException]) -> None:
    everything = Count()
    dialogue.play(failing=everything)
    assert {"send", "recv", "poll", "audit"} <= set(everything.calls)
    expected = type(failure())
    for at, call in enumerate(everything.calls):
        if call == "lock" and issubclass(expected, OSError):
            continue  # no lock raises that
        played = dialogue.play(failing=Count(at, failure))
        passes = call == "body read" or not issubclass(expected, OSError)  # what is the caller's own passes as it is
        try:
            judge(played)
            assert all(type(error) is expected and passes for error in foreign(played))
            if call == "audit" and issubclass(expected, Exception):
                assert foreign(played) == []
        except AssertionError as error:
            raise AssertionError(f"call {at} ({call}): {error}") from error


def test_what_cuts_a_batch_off_from_outside_passes_with_its_verdict_and_is_no_outcome_of_the_mail() -> None:
    """users:CE9: a soft time limit is an `Exception`, and the server may have the mail already."""

    class SoftTimeLimitError(Exception):
        pass

    dialogue = DIALOGUES[NAMES.index("RD2")]
    whole = Count()
    dialogue.play(failing=whole)
    quitting, final = [at for at, call in enumerate(whole.calls) if call == "recv"][:-3:-1]
    played = dialogue.play(failing=Count(final, SoftTimeLimitError))
    assert final < quitting
    assert [type(error) for error in played.errors] == [SoftTimeLimitError]
    verdict = attempt_of(played.errors[0])
    assert verdict is not None
    assert verdict.delivery is Delivery.UNKNOWN
    assert not verdict.retry_safe
    assert played.connection is not None
    assert not played.connection.usable
