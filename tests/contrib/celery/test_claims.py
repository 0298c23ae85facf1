"""Claims against a server, without a broker: what is written down, in which order, and what others read of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from smtpconn import (
    ConnectError,
    ConnectionPool,
    Delivery,
    DeliveryUnknownError,
    InvalidInputError,
    Mail,
    PermanentReplyError,
    Pipelining,
    RecipientsRefusedError,
    TlsMode,
)
from smtpconn.contrib.celery import Action, Decision, JournalError, MemoryJournal, deliver, recorded
from smtpconn.testing import LoopbackServer

CONTENT = b"Message-ID: <one@example.com>\r\n\r\nHello.\r\n.dot\r\n"
RECIPIENTS = ["a@example.net", "b@example.net", "c@example.net"]
YES, NO, DOUBT = Delivery.DELIVERED, Delivery.NOT_DELIVERED, Delivery.UNKNOWN


class RetryError(Exception):
    """What Celery's `Task.retry` raises."""


class Task:
    """A bound task as far as it is asked; a worker with a real one is in test_workers."""

    def __init__(self) -> None:
        self.request = type("Request", (), {"retries": 0, "id": "one"})()
        self.error: Any = None

    def retry(self, *, exc: Exception, countdown: float, max_retries: int | None) -> Exception:
        self.error = exc
        raise RetryError


class Broken(MemoryJournal):
    """Does not answer where it is told not to; what it was told may be stored all the same."""

    def __init__(self, fails: Callable[[str, int], bool], *, stores: bool = False) -> None:
        super().__init__()
        self.fails, self.stores, self.asked = fails, stores, 0

    def read(self, key: str) -> dict[str, str]:
        self._maybe("read")
        return super().read(key)

    def add(self, key: str, field: str, value: str) -> bool:
        if self.stores:
            super().add(key, field, value)
        self._maybe(field.split(":")[0])
        return super().add(key, field, value)

    def _maybe(self, what: str) -> None:
        self.asked += 1
        if self.fails(what, self.asked):
            raise JournalError("the journal does not answer")


class Watched(MemoryJournal):
    """Calls what it is given before each field is stored."""

    def __init__(self, before: Callable[[str, str], None]) -> None:
        super().__init__()
        self.before = before

    def add(self, key: str, field: str, value: str) -> bool:
        self.before(field, value)
        return super().add(key, field, value)


def mail(recipients: list[str] | None = None, *, chunking: bool = False, content: bytes = CONTENT) -> Mail:
    return Mail("sender@example.com", recipients or RECIPIENTS, content, chunking=chunking)


def pool_at(server: LoopbackServer, pipelining: Pipelining = Pipelining.GROUPED) -> ConnectionPool:
    return ConnectionPool(
        server.host, server.port, TlsMode.NONE, protocol=server.protocol, timeout=10, pipelining=pipelining, max_size=1
    )


@pytest.fixture
def pool(server: LoopbackServer) -> Iterator[ConnectionPool]:
    with pool_at(server) as made:
        yield made


@pytest.fixture
def lmtp_pool(lmtp_server: LoopbackServer) -> Iterator[ConnectionPool]:
    with pool_at(lmtp_server) as made:
        yield made


def sent(pool: ConnectionPool, journal: Any, *, given: Mail | None = None, **options: Any) -> Decision:
    return deliver(Task(), pool, given or mail(), journal=journal, **options)


def verdicts(journal: Any, given: Mail | None = None) -> list[Delivery]:
    """What somebody else reads."""
    return [entry.delivery for entry in recorded(given or mail(), journal=journal, key="one").results]


def fields(journal: MemoryJournal) -> list[str]:
    return [name.split(":")[0] for name in journal.read("one")]


def test_a_mail_is_sent_once_however_often_its_task_is_delivered(server: LoopbackServer, pool: ConnectionPool) -> None:
    journal = MemoryJournal()
    first, second = sent(pool, journal), sent(pool, journal)
    assert first.action is second.action is Action.DONE
    assert first == second
    assert server.ledger.counts() == {("<one@example.com>", name): 1 for name in RECIPIENTS}
    assert server.mails[0].content == CONTENT
    assert fields(journal) == ["1", "settled"]


LEVELS = [
    pytest.param(level, protocol, chunking, size, id=f"{level.name} {protocol} {verb} {size}")
    for level in Pipelining
    for protocol in ("smtp", "lmtp")
    for chunking, verb in ((False, "DATA"), (True, "BDAT"))
    for size in (0, 40, 200_000)
]


@pytest.mark.parametrize(("level", "protocol", "chunking", "size"), LEVELS)
def test_no_end_of_data_is_written_before_the_claim_is_stored(
    level: Pipelining, protocol: Any, chunking: bool, size: int
) -> None:
    """A journal that does not answer when the claim is made: the server has taken nothing, whatever runs ahead."""
    given = mail(chunking=chunking, content=b"Message-ID: <one@example.com>\r\n\r\n" + b"x\r\n" * (size // 3))
    journal = Broken(lambda what, _: what == "1")
    task = Task()
    with LoopbackServer(protocol=protocol) as server, pool_at(server, level) as pool:
        pool.send("", ["first@example.net"], b"x\r\n")  # what follows is on a reused connection
        with pytest.raises(RetryError):
            deliver(task, pool, given, journal=journal)
        assert isinstance(task.error, JournalError)
        assert [entry.delivery for entry in task.error.recipients] == [NO, NO, NO]
        assert server.received == 1
        journal.fails = lambda what, _: False
        assert deliver(task, pool, given, journal=journal).action is Action.DONE
        assert server.received == 2
        assert server.mails[-1].content == given.content
        assert server.violations == []


def test_the_claim_comes_after_354_and_the_verdicts_after_250(server: LoopbackServer, pool: ConnectionPool) -> None:
    seen: list[tuple[str, list[str], int]] = []
    journal = Watched(lambda field, _: seen.append((field[:1], list(server.sessions[0].commands), server.received)))
    sent(pool, journal)
    assert [(field, commands[-1], received) for field, commands, received in seen] == [
        ("1", "DATA", 0),
        ("s", "DATA", 1),
    ]


@pytest.mark.parametrize("stage", ["MAIL", "RCPT", "DATA"])
def test_what_the_server_puts_off_before_the_content_costs_no_claim(
    server: LoopbackServer, pool: ConnectionPool, stage: str
) -> None:
    journal, task = MemoryJournal(), Task()
    server.reply(stage, "451 4.3.0 later")
    with pytest.raises(RetryError):
        deliver(task, pool, mail(), journal=journal)
    assert fields(journal) == []
    assert task.error.permanent is False


def test_a_claim_without_verdicts_is_UNKNOWN_and_nothing_is_sent(server: LoopbackServer, pool: ConnectionPool) -> None:
    """The process died between its claim and the verdicts."""
    journal = Broken(lambda what, _: what == "settled")
    assert sent(pool, journal).action is Action.DONE  # who read the 250 knows it, and says so
    assert verdicts(journal) == [DOUBT] * 3
    with pytest.raises(DeliveryUnknownError, match="3 of 3") as caught:
        sent(pool, journal)
    assert not caught.value.retry_safe
    assert [entry.delivery for entry in caught.value.recipients] == [DOUBT] * 3
    assert server.received == 1


def test_consent_to_duplicates_sends_what_is_in_doubt_again(server: LoopbackServer, pool: ConnectionPool) -> None:
    journal = Broken(lambda what, asked: what == "settled" and asked < 4)
    sent(pool, journal)
    assert sent(pool, journal, at_least_once=True).action is Action.DONE
    assert server.received == 2
    assert verdicts(journal) == [YES] * 3


def test_the_server_vanishes_with_the_mail_UNKNOWN_is_raised_and_written_down(
    server: LoopbackServer, pool: ConnectionPool
) -> None:
    journal = MemoryJournal()
    server.fault("end of data", "EOF")
    with pytest.raises(DeliveryUnknownError):
        sent(pool, journal)
    assert fields(journal) == ["1", "settled"]
    server.clear_rules()
    with pytest.raises(DeliveryUnknownError):
        sent(pool, journal)
    assert server.received == 1


def test_a_refusal_of_the_content_is_tried_again_under_a_new_claim(
    server: LoopbackServer, pool: ConnectionPool
) -> None:
    journal = MemoryJournal()
    server.reply("end of data", "451 4.3.0 later", nth=1)
    with pytest.raises(RetryError):
        sent(pool, journal)
    assert sent(pool, journal).action is Action.DONE
    assert fields(journal) == ["1", "settled", "2", "settled"]
    assert server.received == 1


def test_only_who_does_not_have_it_is_tried_again(server: LoopbackServer, pool: ConnectionPool) -> None:
    journal, task = MemoryJournal(), Task()
    server.refuse("b@example.net", "452 4.2.2 full")
    server.refuse("c@example.net", "550 5.1.1 unknown")
    with pytest.raises(RetryError):
        deliver(task, pool, mail(), journal=journal)
    assert isinstance(task.error, RecipientsRefusedError)
    assert [entry.delivery for entry in task.error.recipients] == [YES, NO, NO]
    server.clear_rules()
    decision = sent(pool, journal)
    assert decision.action is Action.BOUNCE
    assert [entry.address for entry in decision.recipients] == ["c@example.net"]
    assert [entry.delivery for entry in decision.results] == [YES, YES, NO]
    assert [sent.recipients for sent in server.mails] == [["a@example.net"], ["b@example.net"]]


def test_who_is_refused_for_good_is_not_asked_again_where_nobody_was_accepted(
    server: LoopbackServer, pool: ConnectionPool
) -> None:
    journal = MemoryJournal()
    server.refuse("a@example.net", "450 4.2.0 later")
    server.refuse("b@example.net", "550 5.1.1 unknown")
    given = mail(RECIPIENTS[:2])
    with pytest.raises(RetryError):
        sent(pool, journal, given=given)
    server.clear_rules()
    assert sent(pool, journal, given=given).action is Action.BOUNCE
    assert server.sessions[0].lines.count("RCPT TO:<b@example.net>") == 1


def test_all_refused_for_good_is_raised_each_time_and_asked_once(server: LoopbackServer, pool: ConnectionPool) -> None:
    journal = MemoryJournal()
    server.reply("RCPT", "550 5.1.1 unknown")
    for _ in range(2):
        with pytest.raises(RecipientsRefusedError) as caught:
            sent(pool, journal)
        assert caught.value.permanent is True
    assert server.sessions[0].transactions == 1


def test_what_is_wrong_with_the_mail_itself_is_raised(server: LoopbackServer, pool: ConnectionPool) -> None:
    server.reply("MAIL", "553 5.1.8 no such sender")
    with pytest.raises(PermanentReplyError):
        sent(pool, MemoryJournal())


def test_over_lmtp_each_recipient_has_its_own_way(lmtp_server: LoopbackServer, lmtp_pool: ConnectionPool) -> None:
    """One has it, one is put off, and the connection ends before the third reply."""
    journal, task = MemoryJournal(), Task()
    lmtp_server.reply("end of data", "452 4.2.2 full", recipient="b@example.net")
    lmtp_server.fault("end of data", "EOF", nth=3)
    with pytest.raises(RetryError):
        deliver(task, lmtp_pool, mail(), journal=journal)
    assert isinstance(task.error, DeliveryUnknownError)  # what is raised when the retries are used up
    assert [entry.delivery for entry in task.error.recipients] == [YES, NO, DOUBT]
    lmtp_server.clear_rules()
    with pytest.raises(DeliveryUnknownError) as caught:
        sent(lmtp_pool, journal)
    assert [entry.delivery for entry in caught.value.recipients] == [YES, YES, DOUBT]
    assert lmtp_server.ledger.counts() == {("<one@example.com>", name): 1 for name in RECIPIENTS}


def test_of_two_workers_with_the_same_history_one_gets_the_claim(server: LoopbackServer, pool: ConnectionPool) -> None:
    """A queue hands a task out again while its worker is at it still."""
    journal = MemoryJournal()
    results: list[Action] = []

    def meanwhile(field: str, value: str) -> None:
        if not results:
            results.append(Action.FAIL)  # not a second time
            with pool_at(server) as other:
                results[0] = sent(other, journal).action

    slow = Watched(meanwhile)
    slow._records = journal._records
    assert sent(pool, slow).action is Action.DONE  # told by the other's verdicts
    assert results == [Action.DONE]
    assert server.ledger.counts() == {("<one@example.com>", name): 1 for name in RECIPIENTS}


def test_the_claim_of_one_who_is_at_it_still_is_UNKNOWN_to_the_other(
    server: LoopbackServer, pool: ConnectionPool
) -> None:
    journal = MemoryJournal()
    seen: list[type[BaseException]] = []

    def meanwhile(field: str, value: str) -> None:
        if field.startswith("settled") and not seen:
            with pool_at(server) as other, pytest.raises(DeliveryUnknownError) as caught:
                sent(other, journal)
            seen.append(caught.type)

    slow = Watched(meanwhile)
    slow._records = journal._records
    assert sent(pool, slow).action is Action.DONE
    assert seen == [DeliveryUnknownError]
    assert server.received == 1


def test_a_claim_whose_answer_was_lost_is_taken_back(server: LoopbackServer, pool: ConnectionPool) -> None:
    journal, task = Broken(lambda what, _: what == "1", stores=True), Task()
    with pytest.raises(RetryError):
        deliver(task, pool, mail(), journal=journal)
    assert fields(journal) == ["1", "settled"]
    assert verdicts(journal) == [NO] * 3
    assert sent(pool, journal).action is Action.DONE
    assert server.received == 1


def test_a_claim_that_may_be_stored_and_cannot_be_taken_back_is_UNKNOWN_not_a_second_mail(
    server: LoopbackServer, pool: ConnectionPool
) -> None:
    journal = Broken(lambda what, _: what in ("1", "settled"), stores=True)
    journal.stores = True
    with pytest.raises(RetryError):
        sent(pool, journal)
    del journal._records["one"][next(name for name in journal.read("one") if name.startswith("settled"))]
    with pytest.raises(DeliveryUnknownError):
        sent(pool, journal)
    assert server.received == 0


def test_a_journal_that_cannot_be_read_is_tried_again_and_nothing_is_sent(
    server: LoopbackServer, pool: ConnectionPool
) -> None:
    task = Task()
    with pytest.raises(RetryError):
        deliver(task, pool, mail(), journal=Broken(lambda what, _: what == "read"))
    assert isinstance(task.error, JournalError)
    assert server.connections_total == 0


def test_what_strikes_while_the_claim_is_made_passes_as_it_is(server: LoopbackServer, pool: ConnectionPool) -> None:
    """CE9: a soft time limit is no failure of the journal."""

    class LimitError(Exception):
        pass

    def strike(field: str, value: str) -> None:
        raise LimitError

    journal = Watched(strike)
    with pytest.raises(LimitError):
        sent(pool, journal)
    assert server.received == 0
    journal.before = lambda field, value: None
    assert sent(pool, journal).action is Action.DONE


def test_the_pools_own_retry_is_covered_by_the_same_claim(server: LoopbackServer, pool: ConnectionPool) -> None:
    """D7: the server has closed the reused connection when MAIL arrives."""
    journal = MemoryJournal()
    pool.send("", ["first@example.net"], b"x\r\n")
    server.fault("MAIL", "EOF", nth=1)
    assert sent(pool, journal).action is Action.DONE
    assert fields(journal) == ["1", "settled"]
    assert server.connections_total == 2


def test_no_connection_is_a_retry_without_a_trace(server: LoopbackServer, pool: ConnectionPool) -> None:
    journal, task = MemoryJournal(), Task()
    server.stop()
    with pytest.raises(RetryError):
        deliver(task, pool, mail(), journal=journal)
    assert isinstance(task.error, ConnectError)
    assert fields(journal) == []


def test_another_mail_under_the_same_key_is_refused(server: LoopbackServer, pool: ConnectionPool) -> None:
    journal = MemoryJournal()
    sent(pool, journal)
    with pytest.raises(InvalidInputError, match="another mail under the key one"):
        sent(pool, journal, given=mail(["other@example.net"]))
    assert sent(pool, journal, given=mail(["other@example.net"]), key="two").action is Action.DONE


@pytest.mark.parametrize("body", [iter([CONTENT]), None], ids=["a stream", "an EmailMessage"])
def test_a_mail_without_octets_is_refused(pool: ConnectionPool, body: Any) -> None:
    given = Mail("", RECIPIENTS, body) if body else Mail.from_message(_composed())
    with pytest.raises(TypeError, match="must have its octets"):
        sent(pool, MemoryJournal(), given=given)


def _composed() -> Any:
    from email.message import EmailMessage

    message = EmailMessage()
    message["From"], message["To"] = "a@example.com", "b@example.net"
    message.set_content("Hello.")
    return message
