"""How much of what can be enumerated a run plays.

A share by default, spread evenly, so that the suite stays quick on each Python. All of it with SMTPCONN_FAULTS=all, as
in `tox -e faults`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TypeVar

WHOLE = os.environ.get("SMTPCONN_FAULTS") == "all"
T = TypeVar("T")


def share(everything: Sequence[T], parts: int, first: int = 0) -> Sequence[T]:
    """Each `parts`-th, beginning with the one at `first`; never none of something."""
    if WHOLE:
        return everything
    return everything[first % min(parts, len(everything) or 1) :: parts]
