"""Waiting for descriptors where the platform's numbers are other ones."""

from __future__ import annotations

import importlib.util
import select
from types import ModuleType

import pytest

from smtpconn import readiness


def made_anew() -> ModuleType:
    """The module as it would be on the platform that `select` now shows."""
    spec = readiness.__spec__
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_SY27_the_events_are_asked_for_by_the_numbers_of_the_platform(monkeypatch: pytest.MonkeyPatch) -> None:
    """In WASI's C library POLLOUT is 2: asked for by Linux's 4, a connecting socket would never be ready."""
    monkeypatch.setattr(select, "POLLIN", 1, raising=False)
    monkeypatch.setattr(select, "POLLOUT", 2, raising=False)
    asked: list[int] = []

    class Poll:
        def register(self, fd: int, events: int) -> None:
            asked.append(events)

        def poll(self, timeout: float | None) -> list[tuple[int, int]]:
            return [(7, asked[-1])]

    monkeypatch.setattr(select, "poll", Poll, raising=False)
    module = made_anew()
    assert module.ready_once(7, module.READ, 0.0)
    assert module.ready_once(7, module.WRITE, 0.0)
    assert asked == [1, 2]


def test_where_there_is_no_poll_select_is_asked_for_what_is_meant(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("poll", "POLLIN", "POLLOUT"):
        monkeypatch.delattr(select, name, raising=False)
    asked: list[tuple[object, ...]] = []

    def nothing_ready(*sets: object) -> tuple[list[int], list[int], list[int]]:
        asked.append(sets[:3])
        return [], [], []

    monkeypatch.setattr(select, "select", nothing_ready)
    module = made_anew()
    assert not module.ready_once(7, module.READ, 0.0)
    assert not module.ready_once(7, module.WRITE, 0.0)
    assert asked == [([7], [], []), ([], [7], [7])]
