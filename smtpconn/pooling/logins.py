"""Which secret the logins of a pool present, and whether another one is to be had after a refusal (EP5, EP6, BO6).

Knows credentials and callables, and calls them under no lock of the pool. Keeps no secret: what was refused is known
again by a keyed digest.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

from smtpconn.protocol.sasl import Credentials, asked

Source = Credentials | Callable[[], Credentials]


class Logins:
    """The logins of one pool. `renewable`: asking again may give another secret."""

    def __init__(self, source: Source | None) -> None:
        self._source = source
        self.renewable = source is not None and (not isinstance(source, Credentials) or source.is_renewable)
        self._key = os.urandom(32)
        self._refused: bytes | None = None
        self._asking = threading.Lock()  # one caller at a time asks for the sake of the breaker
        self._asked = 0  # how often that was done

    def login(self, given: Credentials | None = None) -> Login | None:
        """What one open presents: `given`, which was asked for already, or what the source says when it is asked."""
        return None if self._source is None else Login(self._source, given)

    def another(self, refused: Login | None) -> Credentials | None:
        """EP6: ask once more; the answer, if it is another secret than the refused one. The callable's error passes."""
        if refused is None or refused.presented is None or not self.renewable or self._source is None:
            return None
        renewed = _ask(self._source, renewal=True)
        return None if renewed == refused.presented else renewed

    def refuse(self, login: Login | None) -> None:
        """The breaker opens because of it."""
        if login is not None and login.presented is not None:
            self._refused = login.presented.digest(self._key)

    def changed(self, patience: float) -> tuple[bool, Credentials | None]:
        """BO6: before a caller gets the breaker's error, ask, one caller at a time.

        True if the answer may have changed: with a secret that was not refused, or because somebody else has asked
        while this caller waited, `patience` seconds at most.
        """
        if not self.renewable or self._source is None:
            return False, None
        asked = self._asked
        if not self._asking.acquire(timeout=max(0.0, min(patience, threading.TIMEOUT_MAX))):
            return False, None
        try:
            if self._asked != asked:
                return True, None
            renewed = _ask(self._source, renewal=True)
            if renewed.digest(self._key) == self._refused:
                return False, None
            self._asked += 1
            return True, renewed
        finally:
            self._asking.release()


class Login:
    """The credentials of one open. It is the callable that the handshake asks, just before AUTH."""

    __slots__ = ("_given", "_source", "presented")

    def __init__(self, source: Source, given: Credentials | None) -> None:
        self._source = source
        self._given = given
        self.presented: Credentials | None = None  # with a literal secret, once it was asked for

    def __call__(self) -> Credentials:
        """The credentials, their secret a literal. What the user's callable raises passes."""
        presented = self.presented = self._given if self._given is not None else _ask(self._source)
        return presented


def _ask(source: Source, *, renewal: bool = False) -> Credentials:
    return asked(source).literal(renewal=renewal)
