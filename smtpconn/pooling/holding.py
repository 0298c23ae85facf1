# ruff: noqa: E701  # critical sections are one line each, as in `slots`
"""What a lease has in its hands: one connection of a pool, from `__enter__` to `__exit__`.

Knows the claim that it stands for; refuses to know what its verbs mean. Its laws: between its beginning and its end it
is the only way to its connection; afterwards every verb is a `UsageError` that writes no octet, also while another
lease has the same connection; it keeps no traceback.
"""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Any, NoReturn, TypeVar

from smtpconn import attempts
from smtpconn.deadline import Timeouts
from smtpconn.pooling.claims import Claim
from smtpconn.pooling.process import pid
from smtpconn.pooling.supply import Supply
from smtpconn.protocol.errors import UsageError

Limit = float | Timeouts | None
Held = TypeVar("Held", bound="Holding")


class Holding:
    """One connection of a pool for as long as a `with` block lasts."""

    __slots__ = (
        "__weakref__",
        "_active",
        "_claim",
        "_connection",
        "_limit",
        "_state",
        "_supply",
        "_supply_here",
        "_timeout",
    )

    def __init__(self, supply: Callable[[], Supply], limit: float, timeout: float | Timeouts) -> None:
        self._supply_here = supply  # of the process that it is called in
        self._limit = limit
        self._timeout = timeout
        self._active = 0  # verbs under way
        self._state = "not begun"
        self._claim: Claim | None = None
        self._connection: Any = None

    def __enter__(self: Held) -> Held:
        if self._state != "not begun":
            raise UsageError("this lease has begun already: take another one with pool.connection()")
        self._state = "beginning"
        supply = self._supply = self._supply_here()
        limit = self._limit
        try:
            claim = self._claim = supply.claim()
            now = supply.clock()
            self._connection = supply.acquire(claim, now, now + limit, supply.phases, limit > 0)
            self._state = "held"
            return self
        except BaseException:
            self._state = "ended"
            self._connection = None
            if self._claim is not None:
                supply.leave(self._claim)
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        claim = self._claim
        if claim is None:
            raise UsageError(f"this lease cannot be returned, its state is: {self._state}")
        supply = self._supply
        if supply.pid != pid():  # the parent's: leaving the block in the child is silent (LE6)
            self._connection = None
            return
        now = supply.clock()
        try:
            with supply.lock: busy = self._end(supply, claim, now)
        except UsageError:
            raise
        except Exception:
            busy = None  # what is wrong happens to `leave` again, which deals with it
        except BaseException:
            supply.forfeit(claim)
            raise
        if claim.watch is None and not supply.slots.overdue:
            return
        if busy is not None:  # by a verb of another thread: what it would still write belongs to nobody
            busy.abort()
            busy.close()
        supply.leave(claim, supply.patience, error)

    def _verb(self, name: str, *arguments: Any, timeout: Limit, **keywords: Any) -> Any:
        connection = self._begin_verb()
        try:
            limit = self._timeout if timeout is None else timeout
            result = getattr(connection, name)(*arguments, timeout=limit, **keywords)
            self._note(getattr(result, "recipients", ()))
            return result
        except BaseException as error:
            self._note(attempts.recipients_of(error))
            raise
        finally:
            self._leave_verb()

    def _begin_verb(self) -> Any:
        if self._state != "held":
            self._refuse("used")
        supply = self._supply
        if supply.pid != pid():
            raise UsageError("this lease belongs to the parent process: a forked child must take its own")
        with supply.lock: return self._enter_verb()

    def _enter_verb(self) -> Any:
        """Caller holds the lock."""
        if self._state != "held":
            self._refuse("used")
        self._active += 1
        return self._connection

    def _leave_verb(self) -> None:
        supply = self._supply
        if supply.pid == pid():  # in a child another thread of the parent's may hold the lock for ever
            with supply.lock: self._active -= 1

    def _end(self, supply: Supply, claim: Claim, now: float) -> Any:
        """Cut the lease from its connection, which goes back at once if it is fit. Caller holds the lock.

        Returns the connection if verbs are under way on it.
        """
        if self._state != "held":
            self._refuse("returned")
        connection = self._connection
        self._state, self._connection = "ended", None
        if self._active:
            return connection
        supply.take_back(claim, now)
        return None

    def _refuse(self, act: str) -> NoReturn:
        raise UsageError(f"this lease is not to be {act}, its state is: {self._state}")

    def _note(self, recipients: Any) -> None:
        if self._claim is not None and recipients:
            self._supply.note_verdicts(self._claim, recipients)

    def _look(self, name: str) -> Any:
        connection = self._begin_verb()
        self._leave_verb()
        return getattr(connection, name)

    def __repr__(self) -> str:
        supply = self._supply if self._state != "not begun" else self._supply_here()
        return f"<Lease of {supply.voice.name}, {self._state}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Lease cannot be pickled or copied")
