"""faults P12: the reference dialogues cut at every octet, in both directions, judged by the server's own book.

Server to client: the line ends behind the n-th octet, at once or where the server would have said more, by FIN, RST,
silence or garbage, for every n. Client to server: the n-th octet is the last that is taken, for every n. A plain run
plays a fifth of them, of each dialogue another one; see `thoroughness`.
"""

from __future__ import annotations

from itertools import product

import pytest

from .reference_dialogues import DIALOGUES, ENDINGS, Dialogue, Ending, Played, attempts, foreign, judge, settled
from .thoroughness import share

NAMES = [dialogue.name for dialogue in DIALOGUES]


def _judged(played: Played, where: str) -> None:
    try:
        judge(played)
        assert foreign(played) == []
        assert settled(played) == attempts(played)
    except AssertionError as error:
        raise AssertionError(f"{where}: {error}") from error


@pytest.mark.parametrize("dialogue", DIALOGUES, ids=NAMES)
def test_a_dialogue_that_is_not_cut_agrees_with_the_book(dialogue: Dialogue) -> None:
    played = dialogue.play()
    _judged(played, "whole")
    assert all(entry.delivery.name != "UNKNOWN" for outcome in played.outcomes for entry in outcome.recipients)


@pytest.mark.slow
@pytest.mark.parametrize(("ending", "late"), list(product(ENDINGS, (False, True))))
@pytest.mark.parametrize("dialogue", DIALOGUES, ids=NAMES)
def test_P12_what_the_server_says_ends_at_every_octet(dialogue: Dialogue, ending: Ending, late: bool) -> None:
    whole = dialogue.play().line.said
    assert whole > 100
    for cut in share(range(whole), 10, NAMES.index(dialogue.name) + ENDINGS.index(ending)):
        _judged(dialogue.play(cut=cut, ending=ending, late=late), f"cut at {cut}")


@pytest.mark.slow
@pytest.mark.parametrize("ending", ["RST", "stall"])
@pytest.mark.parametrize("dialogue", DIALOGUES, ids=NAMES)
def test_P12_what_the_client_writes_is_taken_up_to_every_octet(dialogue: Dialogue, ending: Ending) -> None:
    whole = dialogue.play().line.taken
    assert whole > 50
    for takes in share(range(whole), 10, NAMES.index(dialogue.name)):
        played = dialogue.play(takes=takes, ending=ending)
        _judged(played, f"{takes} octets taken")
        assert played.line.taken == takes
