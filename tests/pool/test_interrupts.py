"""I24, PO3: an exception at every single line of acquire, use and return; afterwards 4 of 4 slots can be had."""

from __future__ import annotations

import contextlib
import gc
import sys
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import smtpconn
from smtpconn.pool import ConnectionPool
from smtpconn.protocol.errors import ConnectError, PoolClosedError, PoolTimeoutError, SmtpError
from smtpconn.protocol.mail import Mail
from smtpconn.protocol.sasl import PasswordAuth

from .fakes import ENVELOPE, Clock, FakeServer, pool_of, unavailable

_PACKAGE = Path(smtpconn.__file__).parent
_TRACED = {str(path) for path in (_PACKAGE / "pool.py", _PACKAGE / "slots.py", *(_PACKAGE / "pooling").glob("*.py"))}


class Interrupt(BaseException):
    """Comes out of nowhere, as KeyboardInterrupt does."""


def interrupted_at(line: int, act: Callable[[], object]) -> bool:
    """Run `act` and raise at the `line`-th line that is traced; False if it ended before."""
    count = 0
    fired = False

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal count, fired
        if frame.f_code.co_filename not in _TRACED:
            return None
        if event == "line" and not fired:
            count += 1
            if count == line:
                fired = True
                raise Interrupt
        return trace

    before = sys.gettrace()
    try:
        sys.settrace(trace)
        act()
    except Interrupt:
        pass
    finally:
        sys.settrace(before)
    return fired


class Scene:
    """A pool of four with two idle connections, and what is done to it."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.server = FakeServer()
        self.pool = pool_of(self.server, self.clock, max_size=4, max_connecting=4, track_leases=False)
        with self.pool.connection(), self.pool.connection():
            pass

    def send(self) -> None:
        self.pool.send(*ENVELOPE, timeout=20.0)

    def lease(self) -> None:
        with self.pool.connection() as lease:
            lease.send(*ENVELOPE)

    def open(self) -> None:
        with self.pool.connection(), self.pool.connection():
            self.send()

    def found_dead(self) -> None:
        for connection in self.server.connections:
            connection.quiet = False
        self.send()

    def probe_fails(self) -> None:
        self.clock.now += 20
        self.server.connections[-1].alive = self.server.connections[0].alive = False
        self.send()

    def expired(self) -> None:
        self.clock.now += 60
        self.send()

    def stale(self) -> None:
        self.server.acts = [unavailable(unanswered=True)]
        self.send()

    def broken(self) -> None:
        self.server.acts = [unavailable("RCPT")]
        with contextlib.suppress(SmtpError):
            self.send()

    def open_fails(self) -> None:
        self.server.script = [ConnectError("refused")]
        with self.pool.connection(), self.pool.connection(), contextlib.suppress(SmtpError):
            self.send()

    def wait(self, *, broken: bool = False) -> None:
        held = [self.pool.connection() for _ in range(4)]
        for lease in held:
            lease.__enter__()

        def give_one_back() -> None:
            if held:
                if broken:
                    held[-1].close()
                held.pop().__exit__(None, None, None)

        self.clock.while_asleep = give_one_back
        try:
            self.send()
        finally:
            self.clock.while_asleep = None
            while held:
                held.pop().__exit__(None, None, None)

    def wait_for_an_empty_slot(self) -> None:
        self.wait(broken=True)

    def wait_in_vain(self) -> None:
        with contextlib.ExitStack() as held:
            for _ in range(4):
                held.enter_context(self.pool.connection())
            held.enter_context(contextlib.suppress(PoolTimeoutError))
            self.pool.send(*ENVELOPE, timeout=2.0)

    def many(self) -> None:
        mails = [Mail("from@example.com", ["to@example.net"], b"x\r\n") for _ in range(3)]
        with self.pool.send_many(mails, concurrency=1) as outcomes:
            for _ in outcomes:
                pass

    def invalidate(self) -> None:
        self.pool.invalidate()

    def resize(self) -> None:
        self.pool.resize(max_size=1)
        self.pool.resize(max_size=4)

    def maintain(self) -> None:
        self.server.connections[0].quiet = False
        self.pool.maintain()


_SCENES = [name for name, value in vars(Scene).items() if callable(value) and not name.startswith("_")]


def all_of(pool: ConnectionPool) -> None:
    """Every slot can be had, at once."""
    pool.resize(max_size=4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # a lease whose __exit__ was cut short is found as dropped
        gc.collect(0)
        pool.stats()
    with contextlib.ExitStack() as stack:
        for _ in range(4):
            stack.enter_context(pool.connection(timeout=40))


@pytest.mark.slow
@pytest.mark.parametrize("scene", _SCENES)
def test_I24_PO3_AQ6_no_slot_and_no_lock_is_lost_whatever_line_is_interrupted(scene: str) -> None:
    line = 0
    fired = True
    while fired:
        line += 1
        stage = Scene()
        fired = interrupted_at(line, getattr(stage, scene))
        stage.clock.while_asleep = None
        stage.server.acts, stage.server.script = [], []
        assert not stage.pool._supply.slots.lock.locked(), f"the lock was lost at line {line}"
        stage.clock.now += 200  # back-offs that the scene has started are over
        all_of(stage.pool)
        stats = stage.pool.stats()
        assert (stats.leased, stats.opening, stats.closing, stats.waiting) == (0, 0, 0, 0), f"line {line}"
        assert stats.opened - stats.idle == sum(stats.retired.values()), f"line {line}"
        assert stage.server.live == stats.idle, f"line {line}"
        stage.pool.close()
    assert line > 30


class Login(Scene):
    """A pool whose secret is refused and changes."""

    def __init__(self) -> None:
        super().__init__()
        self.secret = "old"
        self.server.accepts = lambda secret: secret == "new"
        credentials = PasswordAuth("user", lambda: self.secret)
        self.pool = pool_of(self.server, self.clock, max_size=4, max_connecting=4, credentials=credentials)

    def refused(self) -> None:
        with contextlib.suppress(SmtpError):
            self.send()

    def changed(self) -> None:
        self.refused()
        self.secret = "new"
        self.send()


@pytest.mark.parametrize("scene", ["refused", "changed"])
def test_I24_no_slot_is_lost_whatever_line_of_a_login_is_interrupted(scene: str) -> None:
    line = 0
    fired = True
    while fired:
        line += 1
        stage = Login()
        fired = interrupted_at(line, getattr(stage, scene))
        stage.secret = "new"
        assert not stage.pool._supply.slots.lock.locked()
        stage.clock.now += 4_000
        all_of(stage.pool)
        stage.pool.close(timeout=0)
    assert line > 50


class Closing(Scene):
    """A pool that is closed, and then closed again."""

    def idle(self) -> None:
        self.pool.close()

    def leased(self) -> None:
        with self.pool.connection():
            self.pool.close(timeout=2)

    def returned(self) -> None:
        held = [self.pool.connection()]
        held[0].__enter__()
        self.clock.while_asleep = lambda: held.pop().__exit__(None, None, None) if held else None
        try:
            self.pool.close(timeout=2)
        finally:
            self.clock.while_asleep = None
            while held:
                held.pop().__exit__(None, None, None)


@pytest.mark.parametrize("scene", ["idle", "leased", "returned"])
def test_I23_I24_an_interrupted_close_can_be_closed_again_and_leaves_nothing_open(scene: str) -> None:
    line = 0
    fired = True
    while fired:
        line += 1
        stage = Closing()
        fired = interrupted_at(line, getattr(stage, scene))
        stage.clock.while_asleep = None
        assert not stage.pool._supply.slots.lock.locked(), f"the lock was lost at line {line}"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            gc.collect(0)
            stage.pool.close(timeout=0)
            stage.pool.stats()
        with pytest.raises(PoolClosedError):
            stage.send()
        stats = stage.pool.stats()
        assert stage.server.live == 0, f"a connection is open, interrupted at line {line}"
        assert (stats.idle, stats.leased, stats.closing) == (0, 0, 0), f"interrupted at line {line}"
    assert line > 50


@pytest.mark.parametrize("ordered", [True, False])
def test_SM8_I24_a_batch_whose_consumer_is_interrupted_leaves_no_thread_and_no_slot(ordered: bool) -> None:
    """Every line of the consumer's thread while two workers send."""
    line = 0
    fired = True
    while fired:
        line += 1
        server = FakeServer()
        pool = pool_of(server, max_size=2)

        def consume(pool: ConnectionPool = pool) -> None:
            mails = [Mail("from@example.com", ["to@example.net"], b"x\r\n") for _ in range(9)]
            with pool.send_many(mails, ordered=ordered) as outcomes:
                for _ in outcomes:
                    pass

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)  # an iterator that was made and never begun
            fired = interrupted_at(line, consume)
            gc.collect(0)
        workers = [thread for thread in threading.enumerate() if "-send_many-" in thread.name]
        for worker in workers:
            worker.join(5)
            assert not worker.is_alive(), f"a worker is left, interrupted at line {line}"
        stats = pool.stats()
        assert (stats.leased, stats.opening, stats.closing, stats.waiting) == (0, 0, 0, 0), f"at line {line}"
        pool.close()
        assert server.live == 0
    assert line > 50
