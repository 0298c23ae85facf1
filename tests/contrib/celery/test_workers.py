"""Mails as tasks of real workers over a real broker; the server, in a process of its own, keeps the ledger that judges.

users CE1-CE11: prefork and threads, workers and children that are killed, soft time limits, warm shutdown.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import celery
import pytest

from smtpconn import Delivery, Mail, Recipient, RecipientResult
from smtpconn.contrib.celery import Action, Decision, RedisJournal, recorded
from smtpconn.testing import LoopbackServer
from smtpconn.testing.process import ServerProcess

HERE = Path(__file__).parent
PATIENCE = 60.0  # seconds for what a loaded machine does in one
EXECUTIONS = ["prefork", "threads"]
LONG = bool(os.environ.get("SMTPCONN_SOAK"))
ONCE = {"a@example.net": 1, "b@example.net": 1}

pytestmark = pytest.mark.timeout(240)


def mail(name: str, recipients: tuple[str, ...] = ("a@example.net", "b@example.net")) -> Mail:
    return Mail("sender@example.com", recipients, f"Message-ID: <{name}@example.com>\r\n\r\nHello.\r\n".encode())


def submit(client: celery.Celery, task: str, *arguments: Any, **options: Any) -> Any:
    return client.send_task(f"trial_tasks.{task}" if "." not in task else task, arguments, **options)


def decision(answer: Any) -> Decision:
    return Decision.from_dict(answer.get(timeout=PATIENCE))


def failure(answer: Any) -> str:
    """The class of the exception that the task ended with."""
    error = answer.get(timeout=PATIENCE, propagate=False)
    assert answer.state == "FAILURE"
    return type(error).__name__


def verdicts(broker: Any, key: str, given: Mail) -> tuple[RecipientResult, ...]:
    """What the journal knows."""
    return recorded(given, journal=RedisJournal(broker.client), key=key).results


def counts(server: Any, name: str) -> dict[str, int]:
    """Recipient -> how often the server took responsibility for this mail."""
    report = server.report() if isinstance(server, ServerProcess) else None
    rows = report["ledger"] if report else [[*key, n] for key, n in server.ledger.counts().items()]
    return {recipient: n for message, recipient, n in rows if message == f"<{name}@example.com>"}


def until(true: Callable[[], Any]) -> Any:
    limit = time.monotonic() + PATIENCE
    while not (found := true()):
        assert time.monotonic() < limit, "it did not come about"
        time.sleep(0.02)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("execution", EXECUTIONS)
def test_killed_at_each_moment_a_mail_is_neither_lost_nor_sent_twice(
    execution: str, start_worker: Any, client: celery.Celery, broker: Any
) -> None:
    """CE10: before the end of the data it is sent after the restart; behind the verdict it is not sent again; and in
    between it is UNKNOWN, which nobody sends again.
    """
    with ServerProcess() as early, ServerProcess() as late, ServerProcess() as done:
        early.call("fault", "DATA", "silence")
        late.call("fault", "end of data", "silence")  # it takes the mail, and does not say so
        worker = start_worker(early.url, execution=execution, concurrency=3)
        answers = [
            submit(client, "send_at", early.url, mail("early").to_dict()),
            submit(client, "send_at", late.url, mail("late").to_dict()),
            submit(client, "send_and_linger", done.url, mail("done").to_dict(), "done"),
        ]
        until(lambda: early.report()["transactions"] == 1)
        late.call("wait_for", 1, PATIENCE)
        until(lambda: RedisJournal(broker.client).read("marks"))
        worker.kill()
        early.call("clear_rules")
        late.call("clear_rules")

        start_worker(early.url, execution=execution, concurrency=3, VISIBILITY="1")
        assert decision(answers[0]).action is Action.DONE
        assert failure(answers[1]) == "DeliveryUnknownError"
        assert decision(answers[2]).action is Action.DONE
        assert counts(early, "early") == counts(late, "late") == counts(done, "done") == ONCE
        assert {entry.delivery for entry in verdicts(broker, answers[1].id, mail("late"))} == {Delivery.UNKNOWN}
        assert late.report()["transactions"] == done.report()["transactions"] == 1  # nobody even asked again
        assert [server.report()["violations"] for server in (early, late, done)] == [[], [], []]


@pytest.mark.slow
@pytest.mark.parametrize("execution", EXECUTIONS)
def test_killed_at_any_moment_each_mail_is_sent_once_or_is_told_to_be_in_doubt(
    execution: str, start_worker: Any, client: celery.Celery, broker: Any
) -> None:
    """CE11: workers are killed and the server is restarted while they send; mails are put off, too.

    A task that Redis has given away, and that the worker died with before it had noted so, is nowhere: Celery's
    transport takes and notes in two steps. Who submits it again under the same key risks nothing.
    """
    with ServerProcess(rtt=0.01) as server:
        for nth in range(5, 60, 9):
            server.call("reply", "end of data", "451 4.3.0 later", nth=nth)
        mails = {f"m{number}": mail(f"m{number}") for number in range(40)}

        def send(name: str) -> Any:
            return submit(client, "send_at", server.url, mails[name].to_dict(), name)

        answers = {name: send(name) for name in mails}
        for received in (6, 12, 18) if LONG else (12,):
            worker = start_worker(server.url, execution=execution, concurrency=3, VISIBILITY="1")
            server.call("wait_for", received, PATIENCE)
            worker.kill()
            known = broker.knows()
            nowhere = [name for name, answer in answers.items() if answer.id not in known]
            assert len(nowhere) <= 1
            for name in nowhere:
                assert {entry.delivery for entry in verdicts(broker, name, mails[name])} == {Delivery.NOT_DELIVERED}
                answers[name] = send(name)
        start_worker(server.url, execution=execution, concurrency=3, VISIBILITY="1")
        server.call("wait_for", 24, PATIENCE)
        server.call("restart", reset=True)
        outcomes = {name: answer.get(timeout=PATIENCE, propagate=False) for name, answer in answers.items()}

        doubtful = 0
        for name, told in outcomes.items():
            ended = {entry.delivery for entry in verdicts(broker, name, mails[name])}
            if isinstance(told, dict):
                assert Decision.from_dict(told).action is Action.DONE
                assert ended == {Delivery.DELIVERED}
                assert counts(server, name) == ONCE
            else:
                assert type(told).__name__ == "DeliveryUnknownError"
                assert ended in ({Delivery.UNKNOWN}, {Delivery.DELIVERED})  # told by a worker that was at it still
                assert counts(server, name) in (ONCE, {})
                doubtful += ended == {Delivery.UNKNOWN}
        assert doubtful <= 4 * 3 * 2  # what was in hand, each time
        assert server.report()["violations"] == []


def test_what_is_submitted_twice_under_one_key_is_one_mail(
    server: LoopbackServer, start_worker: Any, client: celery.Celery
) -> None:
    """The remedy for a task that the broker may have lost: an outbox submits again what it has no answer for."""
    start_worker(server.url, execution="threads", concurrency=3)
    first = submit(client, "mail_tasks.send_mail", mail("one").to_dict(), "invoice-4711")
    assert decision(first).action is Action.DONE
    again = [submit(client, "mail_tasks.send_mail", mail("one").to_dict(), "invoice-4711") for _ in range(5)]
    assert {decision(answer).action for answer in again} == {Action.DONE}
    assert counts(server, "one") == ONCE


def test_a_child_is_killed_its_mail_is_in_doubt_and_the_worker_goes_on(
    start_worker: Any, client: celery.Celery, broker: Any
) -> None:
    with ServerProcess() as server:
        server.call("fault", "end of data", "silence", nth=1)
        worker = start_worker(server.url, concurrency=1)
        killed = submit(client, "send_at", server.url, mail("killed").to_dict())
        server.call("wait_for", 1, PATIENCE)
        claim = RedisJournal(broker.client).read(killed.id)["1"]
        child = int(claim.partition('"by": "')[2].partition('"')[0].rpartition(":")[2])
        assert child != worker.pid
        os.kill(child, signal.SIGKILL)
        assert failure(killed) == "DeliveryUnknownError"
        after = submit(client, "send_at", server.url, mail("after").to_dict())
        assert decision(after).action is Action.DONE
        assert counts(server, "killed") == counts(server, "after") == ONCE


@pytest.mark.slow
@pytest.mark.parametrize("execution", EXECUTIONS)
def test_a_warm_shutdown_ends_what_is_under_way_and_says_QUIT(
    server: LoopbackServer, execution: str, start_worker: Any, client: celery.Celery
) -> None:
    """CE2: `close_on_shutdown`."""
    worker = start_worker(server.url, execution=execution)
    first = submit(client, "mail_tasks.send_mail", mail("first").to_dict())
    assert decision(first).action is Action.DONE
    server.rtt = 0.3
    answer = submit(client, "mail_tasks.send_mail", mail("last").to_dict())
    until(lambda: sum(session.transactions for session in server.sessions) == 2)
    worker.ask_to_stop()
    assert worker.await_end() == 0
    assert decision(answer).action is Action.DONE
    assert counts(server, "last") == ONCE
    server.wait_for_connections(0, PATIENCE)
    assert {session.closed_by for session in server.sessions} == {"QUIT"}


def test_CE9_a_soft_time_limit_costs_the_connection_in_hand_and_no_other(
    server: LoopbackServer, start_worker: Any, client: celery.Celery, broker: Any
) -> None:
    """It passes unchanged; the journal has the verdict, and who comes next under the same key acts on it."""
    start_worker(server.url, concurrency=1)
    for stage, delivery in (("MAIL", Delivery.NOT_DELIVERED), ("end of data", Delivery.UNKNOWN)):
        name = stage[:3]
        before = submit(client, "mail_tasks.send_mail", mail(f"before-{name}").to_dict())
        assert decision(before).action is Action.DONE
        server.fault(stage, "silence", nth=1)
        cut_off = submit(client, "send_within_a_second", mail(name).to_dict(), name)
        assert failure(cut_off) == "SoftTimeLimitExceeded"
        assert {entry.delivery for entry in verdicts(broker, name, mail(name))} == {delivery}
        again = submit(client, "send_within_a_second", mail(name).to_dict(), name)
        if delivery is Delivery.UNKNOWN:
            assert failure(again) == "DeliveryUnknownError"
        else:
            assert decision(again).action is Action.DONE
        after = submit(client, "mail_tasks.send_mail", mail(f"after-{name}").to_dict())
        assert decision(after).action is Action.DONE
        assert all(counts(server, f"{when}{name}") == ONCE for when in ("before-", "", "after-"))
    assert server.violations == []
    first, second, third = server.sessions  # each silence cost one connection, and the next one carried the rest
    assert first.closed_by == second.closed_by == "client"
    assert third.closed_by is None

    server.fault("MAIL", "silence", nth=1)
    answer = submit(client, "try_again_what_was_cut_off", mail("again").to_dict())
    assert decision(answer).action is Action.DONE
    server.fault("end of data", "silence", nth=1)
    answer = submit(client, "try_again_what_was_cut_off", mail("never").to_dict())
    assert failure(answer) == "SoftTimeLimitExceeded"
    assert counts(server, "again") == counts(server, "never") == ONCE


def test_MG4_the_plain_task_retries_refused_recipients_as_a_task_of_their_own(
    server: LoopbackServer, start_worker: Any, client: celery.Celery
) -> None:
    """CE3-CE5, CE8: the example without a journal."""
    server.refuse("b@example.net", "550 5.1.1 unknown")
    start_worker(server.url, module="plain_tasks", execution="threads")
    content = "Message-ID: <plain@example.com>\n\nHello.\n"
    bounced = client.send_task("plain_tasks.send", ("sender@example.com", ["a@example.net", "b@example.net"], content))
    told = decision(bounced)
    assert told.action is Action.BOUNCE
    assert told.recipients[0].recipient == Recipient("b@example.net")
    assert counts(server, "plain") == {"a@example.net": 1}
    server.fault("end of data", "EOF", nth=1)
    doubtful = client.send_task("plain_tasks.send", ("sender@example.com", ["a@example.net"], content))
    assert failure(doubtful) == "DeliveryUnknownError"


@pytest.mark.parametrize("execution", EXECUTIONS)
def test_CE1_two_workers_stay_within_the_limit_of_the_layout_also_after_the_pool_was_used_before_the_fork(
    server: LoopbackServer, execution: str, start_worker: Any, client: celery.Celery, broker: Any
) -> None:
    """features:BS23, users U28, MG4: max_size connections for each process; a parent's sees nothing of its children."""
    environment = {"USE_IN_PARENT": "1"} if execution == "prefork" else {}
    workers = [
        start_worker(f"{server.url}?max_size=1", execution=execution, concurrency=2, await_ready=False, **environment)
        for _ in range(2)
    ]
    answers = [submit(client, "mail_tasks.send_mail", mail(f"m{number}").to_dict()) for number in range(40)]
    assert {decision(answer).action for answer in answers} == {Action.DONE}
    assert all(counts(server, f"m{number}") == ONCE for number in range(40))
    for worker in workers:
        worker.await_ready()
    assert server.connections_peak <= (2 * (1 + 2) if execution == "prefork" else 2)
    if execution == "prefork":
        parents = [session for session in server.sessions if session.transactions == 0]
        assert [session.commands for session in parents] == [["EHLO", "NOOP"]] * 2
    assert server.violations == []

    environment = {**os.environ, "PYTHONPATH": str(HERE), **broker.environment(server.url)}
    command = [sys.executable, str(HERE / "submit_mail.py")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.stdout == "DONE\n", done.stderr
    assert server.mails[-1].message["Subject"] == "Grüße"
