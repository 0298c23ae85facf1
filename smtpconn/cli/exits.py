"""Exit statuses, by the names of sysexits.h where it has one."""

from __future__ import annotations

EX_OK = 0
NOT_ALL_DELIVERED = 1
EX_USAGE = 64
EX_SOFTWARE = 70
INTERRUPTED = 130
"""128 + SIGINT, as a shell has it."""
