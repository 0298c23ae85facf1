"""How much of what can be enumerated a run plays.

A share by default, spread evenly, and another one on each Python, so that the suite stays quick. All of it with
SMTPCONN_FAULTS=all, as in `tox -e faults`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import TypeVar

WHOLE = os.environ.get("SMTPCONN_FAULTS") == "all"
T = TypeVar("T")


def share(everything: Sequence[T], parts: int, first: int = 0) -> Sequence[T]:
    """Each `parts`-th; `first` and the version of Python say which. Never none of something."""
    if WHOLE:
        return everything
    return everything[(first + sys.version_info.minor) % min(parts, len(everything) or 1) :: parts]
