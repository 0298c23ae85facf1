"""The journal in a real Redis."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import redis

from smtpconn import InvalidInputError
from smtpconn.contrib.celery import JournalError, RedisJournal


def test_a_field_is_written_once_and_who_wrote_it_may_ask_again(broker: Any) -> None:
    """The client repeats a command whose answer was lost."""
    journal = RedisJournal.from_url(broker.journal_url)
    assert journal.read("one") == {}
    assert journal.add("one", "1", "mine")
    assert journal.add("one", "1", "mine")
    assert not journal.add("one", "1", "yours")
    assert journal.add("one", "2", "yours")
    assert journal.read("one") == {"1": "mine", "2": "yours"}
    assert journal.read("two") == {}


def test_a_record_is_kept_for_ttl_seconds_from_its_last_change(broker: Any) -> None:
    journal = RedisJournal(broker.client, prefix="mails:", ttl=1000)
    journal.add("one", "1", "x")
    broker.client.expire("mails:one", 10)
    journal.add("one", "2", "x")
    assert 900 < broker.client.ttl("mails:one") <= 1000
    default = RedisJournal(broker.client)
    default.add("one", "1", "x")
    assert 6.9 * 86_400 < broker.client.ttl("smtpconn:one") <= 7 * 86_400
    with pytest.raises(InvalidInputError):
        RedisJournal(broker.client, ttl=0)


def test_a_client_that_decodes_is_as_good(broker: Any) -> None:
    with redis.Redis(unix_socket_path=str(broker.socket), decode_responses=True) as client:
        journal = RedisJournal(client)
        assert journal.add("one", "1", "ü")
        assert journal.read("one") == {"1": "ü"}


def test_a_redis_that_is_not_there_is_a_JournalError_for_both(tmp_path: Path) -> None:
    journal = RedisJournal.from_url(f"unix://{tmp_path}/nobody", timeout=1)
    with pytest.raises(JournalError, match="cannot be read"):
        journal.read("one")
    with pytest.raises(JournalError, match="cannot be written"):
        journal.add("one", "1", "x")


def test_a_redis_that_refuses_to_write_is_a_JournalError(broker: Any) -> None:
    """Full, or a replica."""
    journal = RedisJournal(broker.client)
    broker.client.config_set("maxmemory", "1")
    try:
        with pytest.raises(JournalError, match="OutOfMemoryError"):
            journal.add("one", "1", "x")
    finally:
        broker.client.config_set("maxmemory", "0")
    assert journal.read("one") == {}
