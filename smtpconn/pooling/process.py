"""What becomes of pools when the process forks or ends.

Knows the pools of this process, weakly. After `fork()` the child's pools start empty, whatever the parent's threads
were doing with their locks, and write nothing to the parent's sockets (D14). At exit idle connections say QUIT
without waiting for the answer; nothing is joined and nothing is raised.

`pid` tells a child from its parent also where the child was made without Python (a raw clone runs no hooks), as
`os.getpid` does, but without a system call where the kernel offers another way.
"""

from __future__ import annotations

import atexit
import os
import sys
import threading
import time
import weakref
from collections.abc import Callable
from typing import Protocol

if sys.platform == "linux":
    import mmap

_EXIT_LIMIT = 2.0  # seconds in all (LE7)


class Pool(Protocol):
    """What a fork and the exit ask of a pool."""

    def _after_fork(self) -> None:
        """In the child: begin anew."""

    def _at_exit(self) -> None:
        """Let the idle connections go, without waiting."""


# Not a WeakSet: its callback is Python code, which would swallow an interrupt that strikes in it (I25).
_pools: set[weakref.ref[Pool]] = set()
_lock = threading.Lock()


def register(pool: Pool) -> None:
    """Remember the pool, weakly."""
    with _lock:
        _pools.add(weakref.ref(pool, _pools.discard))


def _alive() -> list[Pool]:
    return [pool for reference in list(_pools) if (pool := reference()) is not None]


def _in_child() -> None:
    global _known, _lock  # another thread of the parent may have held the lock
    _known = os.getpid()
    _lock = threading.Lock()
    for pool in _alive():
        pool._after_fork()


def _at_exit() -> None:
    until = time.monotonic() + _EXIT_LIMIT
    for pool in _alive():
        if time.monotonic() >= until:
            return
        try:
            pool._at_exit()
        except Exception:  # noqa: S112  # the exit status is not ours to change (LE7)
            continue


_WIPE_ON_FORK = 18  # MADV_WIPEONFORK of Linux 4.14: a child finds zeros in the page, however it was made
_known = os.getpid()


def _asked_of_a_page() -> Callable[[], int]:
    """Like `os.getpid`; from a page that is 1 here and 0 in every child, if there is such a thing."""
    if sys.platform != "linux" or not hasattr(mmap.mmap, "madvise"):
        return os.getpid
    try:
        page = mmap.mmap(-1, mmap.PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        page.madvise(_WIPE_ON_FORK)
    except OSError:
        return os.getpid
    page[0] = 1

    def pid() -> int:
        global _known
        if not page[0]:
            _known = os.getpid()  # before the mark: a thread that sees the mark sees the number
            page[0] = 1
        return _known

    return pid


pid = _asked_of_a_page()

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)
atexit.register(_at_exit)
