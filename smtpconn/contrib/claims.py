"""What was begun with a mail and how it ended, written down outside the process, so that whoever comes next can know.

Between the server's reply and the moment in which a queue learns of it a process can die; the queue then hands the mail
to somebody else. A *claim* is written just before the end of the data would be, and the verdicts behind the reply. A
claim without verdicts means UNKNOWN: its process died, or is at work still.

Knows `Mail` and a place that can add a field if it is not there yet (`Journal`). Refuses to know queues. Its laws:
nothing is ever overwritten; no end of data is written without a claim that is known to be stored; of those who have
read the same history only one gets the next claim; a claim that failed sends nothing; verdicts that cannot be written
down are reported all the same, and read as UNKNOWN by others.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import socket
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

from smtpconn.attempts import recipients_of
from smtpconn.deadline import Timeouts
from smtpconn.pool import ConnectionPool
from smtpconn.protocol.body import SLICE
from smtpconn.protocol.errors import Delivery, InvalidInputError, SmtpError
from smtpconn.protocol.mail import Mail, Recipient
from smtpconn.protocol.result import RecipientResult, nobody_has_it

_log = logging.getLogger("smtpconn.contrib.claims")

_RANK = {Delivery.NOT_DELIVERED: 0, Delivery.UNKNOWN: 1, Delivery.DELIVERED: 2}
_STAGE = "end of data"
_WEEK = 7 * 86_400.0


class JournalError(SmtpError):
    """The journal cannot be read or written; nothing was sent, because nothing is sent without a claim."""

    _default_stage = "journal"


class _ClaimLostError(SmtpError):
    """Somebody else has the claim; nothing was sent."""

    _default_stage = "journal"


class Journal(Protocol):
    """Where claims are kept: fields by name under a key, each written once.

    Whatever can add a row if there is none yet can be one, a table with a primary key of (key, field) for example. Both
    methods raise `JournalError` where the place does not answer; anything else passes as an interrupt would.
    """

    def read(self, key: str) -> Mapping[str, str]:
        """Every field of this key; empty if there is none."""

    def add(self, key: str, field: str, value: str) -> bool:
        """Store the field if it is not there, and return, when it is stored, whether it has this value now."""


class RedisJournal:
    """A journal in Redis (or Valkey): one hash for each mail, dropped `ttl` seconds after the last change of it.

    `client`: a `redis.Redis`, with a `socket_timeout`. Its server must not evict keys (`maxmemory-policy noeviction`).
    A claim is as durable as that server's disk: `appendonly yes`, and `appendfsync always` where the machine itself
    may die. Needs redis-py.
    """

    def __init__(self, client: Any, *, prefix: str = "smtpconn:", ttl: float = _WEEK) -> None:
        from redis.exceptions import RedisError

        if not 1 <= ttl < 1e9:
            raise InvalidInputError("ttl must be a number of seconds, 1 or more")
        self._client = client
        self._prefix = prefix
        self._ttl = int(ttl)
        # Not every exception: the soft time limit of a task may strike in here, and passes.
        self._failures = (RedisError, OSError)

    @classmethod
    def from_url(cls, url: str, *, prefix: str = "smtpconn:", ttl: float = _WEEK, timeout: float = 5.0) -> RedisJournal:
        """The journal at a URL of redis-py, for example `redis://localhost/1`. Connects when it is first used.

        `timeout`, seconds, is for connecting and for each answer.
        """
        import redis

        client = redis.Redis.from_url(url, socket_timeout=timeout, socket_connect_timeout=timeout)
        return cls(client, prefix=prefix, ttl=ttl)

    def read(self, key: str) -> dict[str, str]:
        """Every field of this key."""
        try:
            found = self._client.hgetall(self._prefix + key)
        except self._failures as error:
            raise JournalError(f"the journal cannot be read: {type(error).__name__}") from error
        return {_text(field): _text(value) for field, value in found.items()}

    def add(self, key: str, field: str, value: str) -> bool:
        """Store the field if it is not there; True if it has this value now.

        The client may have repeated the command after a lost answer: the value tells whose it is, not the count.
        """
        name = self._prefix + key
        try:
            with self._client.pipeline(transaction=True) as pipe:
                pipe.hsetnx(name, field, value)
                pipe.expire(name, self._ttl)
                pipe.hget(name, field)
                *_, found = pipe.execute()
        except self._failures as error:
            raise JournalError(f"the journal cannot be written: {type(error).__name__}") from error
        return found is not None and _text(found) == value


class MemoryJournal:
    """A journal of this process, for tests: it dies with it."""

    def __init__(self) -> None:
        self._records: dict[str, dict[str, str]] = {}

    def read(self, key: str) -> dict[str, str]:
        """Every field of this key."""
        return dict(self._records.get(key, {}))

    def add(self, key: str, field: str, value: str) -> bool:
        """Store the field if it is not there; True if it has this value now."""
        return self._records.setdefault(key, {}).setdefault(field, value) == value  # each step is atomic in CPython


class Claims:
    """The attempts at one mail, its history in the journal included.

    `results`: what is known of each recipient, in order; None where nothing was tried yet.

    Raises:
        TypeError: the mail has no octets yet, or is a stream: somebody else could not send it again.
        JournalError: the journal does not answer.
        InvalidInputError: the journal has another mail under this key.
    """

    def __init__(self, journal: Journal, key: str, mail: Mail) -> None:
        if mail.content is None or mail.recipients is None or mail.sender is None:
            raise TypeError("a mail that is claimed must have its octets: Mail(sender, recipients, bytes)")
        self._journal = journal
        self._key = key
        self._mail = mail
        self._recipients: tuple[Recipient, ...] = mail.recipients
        self._digest = _digest(mail)
        self._token = ""
        self.results: list[RecipientResult | None] = []
        self.reload()

    def reload(self) -> None:
        """Read the history again; what this process knows better than the journal stays."""
        known = self.results
        self.results = [None] * len(self._recipients)
        record = self._journal.read(self._key)
        self._count = 0
        while (text := record.get(str(self._count + 1))) is not None:
            self._count += 1
            claim = json.loads(text)
            if claim["mail"] != self._digest:
                raise InvalidInputError(f"the journal has another mail under the key {self._key}")
            settled = record.get(_settled(claim["token"]))
            entries = self._in_doubt(claim) if settled is None else _entries(json.loads(settled))
            self._take(claim["recipients"], entries)
        for index, entry in enumerate(known):
            if entry is not None:
                self._take([index], [entry])

    def pending(self, *, unknown: bool = False) -> list[int]:
        """Which recipients may be sent to: those of whom nothing speaks against it; `unknown`: also those in doubt."""
        return [index for index, entry in enumerate(self.results) if entry is None or _is_open(entry, unknown)]

    def verdicts(self) -> tuple[RecipientResult, ...]:
        """One verdict for each recipient."""
        untried = nobody_has_it(self._recipients)
        return tuple(entry or nothing for entry, nothing in zip(self.results, untried, strict=True))

    def send(self, pool: ConnectionPool, indices: Sequence[int], timeout: float | Timeouts | None) -> None:
        """Send to these recipients, in one attempt, and write down what became of it.

        The claim is made after the server's 354 (BDAT: before the last chunk), so what fails earlier leaves no trace.
        Raises what the pool raises, and `JournalError`. A claim that somebody else has got is no error: nothing was
        sent, and `results` has what the other did.
        """
        mail, recipients = self._mail, [self._recipients[index] for index in indices]
        content = mail.content
        assert content is not None
        assert mail.sender is not None
        self._token = ""
        claimed = _Claimed(content, lambda: self._claim(indices))
        verb = pool.send_bdat if mail.chunking else pool.send
        try:
            result = verb(mail.sender, recipients, claimed, timeout=timeout, params=mail.params, size=len(content))
        except _ClaimLostError:
            self.reload()
        except BaseException as error:
            self._settle(indices, recipients_of(error))
            raise
        else:
            self._settle(indices, result.recipients)

    # --- the journal ---

    def _claim(self, indices: Sequence[int]) -> None:
        """The next claim of the history that was read, or nothing is sent."""
        if self._token:
            return  # the pool sends again over a fresh connection: the claim covers it, and nothing was committed
        self._token = uuid.uuid4().hex
        if not self._journal.add(self._key, str(self._count + 1), json.dumps(self._claim_of(indices))):
            self._token = ""
            raise _ClaimLostError(f"somebody else has claimed the mail {self._key}")

    def _claim_of(self, indices: Sequence[int]) -> dict[str, Any]:
        by = f"{socket.gethostname()}:{os.getpid()}"
        return {
            "token": self._token,
            "mail": self._digest,
            "recipients": list(indices),
            "by": by,
            "at": round(time.time(), 3),
        }

    def _settle(self, indices: Sequence[int], entries: Sequence[RecipientResult]) -> None:
        """Write the verdicts down: behind a claim, or where there is none to keep the refusals that are for good."""
        entries = tuple(entries)
        if len(entries) != len(indices):
            return  # it cut off no mail, or nothing is known of it
        self._take(indices, entries)
        told = json.dumps([entry.to_dict() for entry in entries])
        try:
            if not self._token:
                if not any(entry.permanent for entry in entries):
                    return
                # Verdicts before their claim: dying in between leaves nothing that speaks of a mail in doubt.
                self._token = uuid.uuid4().hex
                self._journal.add(self._key, _settled(self._token), told)
                self._journal.add(self._key, str(self._count + 1), json.dumps(self._claim_of(indices)))
            else:
                self._journal.add(self._key, _settled(self._token), told)
        except JournalError as error:
            _log.warning("%s: the verdicts of %s are kept nowhere, and others will read UNKNOWN", error, self._key)

    # --- the history ---

    def _take(self, indices: Sequence[int], entries: Sequence[RecipientResult]) -> None:
        """Who has the mail has it; who may have it may have it, whatever a later attempt says of itself."""
        for index, entry in zip(indices, entries, strict=True):
            known = self.results[index]
            if known is None or _RANK[entry.delivery] >= _RANK[known.delivery]:
                self.results[index] = entry

    def _in_doubt(self, claim: dict[str, Any]) -> list[RecipientResult]:
        claimed = [self._recipients[index] for index in claim["recipients"]]
        return [RecipientResult(recipient, Delivery.UNKNOWN, stage=_STAGE) for recipient in claimed]


class _Claimed:
    """The octets of a mail; before their end is told, the claim is made. Each iteration begins anew."""

    def __init__(self, content: bytes, claim: Callable[[], None]) -> None:
        self._content = content
        self._claim = claim

    def __iter__(self) -> Iterator[bytes]:
        for at in range(0, len(self._content), SLICE):
            yield self._content[at : at + SLICE]
        self._claim()


def _is_open(entry: RecipientResult, unknown: bool) -> bool:
    if entry.delivery is Delivery.UNKNOWN:
        return unknown
    return entry.delivery is Delivery.NOT_DELIVERED and entry.permanent is not True


def _entries(told: list[dict[str, Any]]) -> list[RecipientResult]:
    return [RecipientResult.from_dict(entry) for entry in told]


def _settled(token: str) -> str:
    return f"settled:{token}"


def _digest(mail: Mail) -> str:
    """Which envelope this is. Not its content: a task may compose it anew, with another date, for each attempt."""
    sender = mail.sender.to_dict() if mail.sender is not None else None
    envelope = [sender, [recipient.to_dict() for recipient in mail.recipients or ()]]
    return hashlib.sha256(json.dumps(envelope, sort_keys=True).encode()).hexdigest()[:32]


def _text(found: bytes | str) -> str:
    return found.decode() if isinstance(found, bytes) else found
