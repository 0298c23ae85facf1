"""What is done with a mail after each outcome: the table of users CE3 to CE9, without a broker."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from dataclasses import FrozenInstanceError
from typing import Any

import pytest

from smtpconn import (
    AuthenticationError,
    CertificateError,
    ConnectError,
    Delivery,
    DeliveryUnknownError,
    Mail,
    MailOutcome,
    PermanentReplyError,
    PoolOverloadedError,
    PoolTimeoutError,
    Recipient,
    RecipientResult,
    RecipientsRefusedError,
    Reply,
    SendResult,
    SmtpTimeoutError,
    TransientReplyError,
)
from smtpconn.attempts import attach
from smtpconn.contrib.border import translate
from smtpconn.contrib.celery import Action, Decision, backoff, decide, retry_if_safe

YES, NO, DOUBT = Delivery.DELIVERED, Delivery.NOT_DELIVERED, Delivery.UNKNOWN


def entry(name: str, delivery: Delivery, code: int | None = None) -> RecipientResult:
    reply = None if code is None else Reply(code, b"%d x\r\n" % code)
    return RecipientResult(Recipient(f"{name}@example.net"), delivery, reply, "RCPT" if code else None)


def result(*entries: RecipientResult) -> SendResult:
    return SendResult(entries)


GOOD = entry("a", YES, 250)
LATER = entry("b", NO, 452)
NEVER = entry("c", NO, 550)
SILENT = entry("d", NO)
MAYBE = entry("e", DOUBT)
REFUSED = Reply(550, b"550 no\r\n")
BUSY = Reply(451, b"451 later\r\n")


def cut_off(*entries: RecipientResult) -> Exception:
    error = RuntimeError("soft time limit")
    attach(error, "MAIL", entries, cut_off=True)
    return error


def outcome(**given: Any) -> MailOutcome:
    return MailOutcome(index=0, mail=Mail("", ["a@example.net"], b"x\r\n"), **given)


@pytest.mark.parametrize(
    ("given", "action", "about"),
    [
        pytest.param(result(GOOD), Action.DONE, [], id="CE3"),
        pytest.param(result(GOOD, LATER, NEVER), Action.RETRY_SOME, [LATER], id="CE4"),
        pytest.param(result(LATER, NEVER), Action.RETRY_SOME, [LATER], id="CE4 nobody has it, over LMTP"),
        pytest.param(result(GOOD, NEVER), Action.BOUNCE, [NEVER], id="CE5"),
        pytest.param(result(NEVER), Action.BOUNCE, [NEVER], id="CE5 nobody has it, over LMTP"),
        pytest.param(
            RecipientsRefusedError("some", recipients=[GOOD, LATER], permanent=False),
            Action.RETRY_SOME,
            [LATER],
            id="CE4 as an error: who has it is not sent to again",
        ),
        pytest.param(
            RecipientsRefusedError("some", recipients=[GOOD, NEVER], permanent=True),
            Action.BOUNCE,
            [NEVER],
            id="CE5 as an error",
        ),
        pytest.param(ConnectError("no", recipients=[SILENT]), Action.RETRY, [SILENT], id="CE6 connect"),
        pytest.param(SmtpTimeoutError("slow", recipients=[SILENT]), Action.RETRY, [SILENT], id="CE6 time"),
        pytest.param(TransientReplyError("451", reply=BUSY, recipients=[LATER]), Action.RETRY, [LATER], id="CE6 4yz"),
        pytest.param(
            RecipientsRefusedError("all", recipients=[LATER, NEVER], permanent=False),
            Action.RETRY,
            [LATER],
            id="CE6 all refused, some for good",
        ),
        pytest.param(
            RecipientsRefusedError("all", recipients=[NEVER], permanent=True), Action.FAIL, [NEVER], id="CE7 recipients"
        ),
        pytest.param(
            PermanentReplyError("550", reply=REFUSED, recipients=[SILENT]), Action.FAIL, [SILENT], id="CE7 the mail"
        ),
        pytest.param(CertificateError("who?", recipients=[SILENT]), Action.FAIL, [SILENT], id="CE7 certificate"),
        pytest.param(
            AuthenticationError("535", permanent=True, recipients=[SILENT]), Action.FAIL, [SILENT], id="CE7 535"
        ),
        pytest.param(DeliveryUnknownError("?", recipients=[MAYBE, LATER]), Action.UNKNOWN, [MAYBE], id="CE8"),
        pytest.param(DeliveryUnknownError("made anew"), Action.UNKNOWN, [], id="CE8 from a result back end"),
        pytest.param(RecipientsRefusedError("made anew"), Action.UNKNOWN, [], id="who of them has it is not told"),
        pytest.param(
            translate(DeliveryUnknownError("?", recipients=[MAYBE])), Action.UNKNOWN, [MAYBE], id="CE8 translated"
        ),
        pytest.param(translate(ConnectError("no", recipients=[SILENT])), Action.RETRY, [SILENT], id="CE6 translated"),
        pytest.param(
            translate(CertificateError("no", recipients=[SILENT])), Action.FAIL, [SILENT], id="CE7 translated"
        ),
        pytest.param(cut_off(SILENT), Action.RETRY, [SILENT], id="CE9 cut off before the end of data"),
        pytest.param(cut_off(MAYBE), Action.UNKNOWN, [MAYBE], id="CE9 cut off behind it"),
        pytest.param(KeyboardInterrupt(), Action.UNKNOWN, [], id="CE9 no verdict is UNKNOWN"),
        pytest.param(outcome(result=result(GOOD, LATER)), Action.RETRY_SOME, [LATER], id="CE4 of send_many"),
        pytest.param(
            outcome(error=DeliveryUnknownError("?", recipients=[MAYBE])), Action.UNKNOWN, [MAYBE], id="CE8 of send_many"
        ),
    ],
)
def test_each_outcome_has_its_action_and_its_recipients(
    given: Any, action: Action, about: list[RecipientResult]
) -> None:
    """CE2: and it goes through JSON and pickle."""
    decision = decide(given)
    assert decision.action is action
    assert list(decision.recipients) == about
    assert Decision.from_dict(json.loads(json.dumps(decision.to_dict()))) == decision
    assert pickle.loads(pickle.dumps(decision)) == decision  # noqa: S301  # our own


def test_an_action_is_its_word() -> None:
    assert [str(action) for action in Action] == ["DONE", "RETRY_SOME", "BOUNCE", "RETRY", "FAIL", "UNKNOWN"]
    assert Action.DONE == "DONE"


def test_a_decision_does_not_change() -> None:
    """CE2."""
    with pytest.raises(FrozenInstanceError):
        decide(result(GOOD)).action = Action.FAIL  # type: ignore[misc]  # what is tested


def test_what_is_no_outcome_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="not str"):
        decide("DONE")  # type: ignore[arg-type]  # what is tested


class RetryError(Exception):
    """What Celery's `Task.retry` raises."""


class Task:
    """A bound task as far as it is asked; a worker with a real one is in test_workers."""

    def __init__(self, retries: int = 0) -> None:
        self.request = type("Request", (), {"retries": retries, "id": "one"})()
        self.asked: dict[str, Any] = {}

    def retry(self, **asked: Any) -> Exception:
        self.asked = asked
        raise RetryError


@pytest.mark.parametrize(
    "given", [result(GOOD), result(GOOD, LATER), result(GOOD, NEVER)], ids=["CE3 DONE", "CE4 RETRY_SOME", "CE5 BOUNCE"]
)
def test_a_mail_that_somebody_has_is_a_decision_and_no_retry(given: SendResult) -> None:
    task = Task()
    assert retry_if_safe(task, given) == decide(given)
    assert task.asked == {}


def test_CE6_nobody_has_it_is_a_retry_with_the_error_and_a_wait() -> None:
    task, error = Task(retries=3), ConnectError("no", recipients=[SILENT])
    with pytest.raises(RetryError):
        retry_if_safe(task, error, max_retries=7)
    assert task.asked["exc"] is error
    assert task.asked["max_retries"] == 7
    assert 0.8 * 480 <= task.asked["countdown"] <= 1.2 * 480
    with pytest.raises(RetryError):
        retry_if_safe(task, error, countdown=2)
    assert task.asked["countdown"] == 2


@pytest.mark.parametrize(
    "error",
    [
        CertificateError("who?", recipients=[SILENT]),
        DeliveryUnknownError("?", recipients=[MAYBE]),
        translate(DeliveryUnknownError("?", recipients=[MAYBE])),
        cut_off(MAYBE),
        KeyboardInterrupt(),
    ],
    ids=["CE7", "CE8", "CE8 translated", "CE9 in doubt", "CE9 no verdict"],
)
def test_what_must_not_be_tried_again_is_raised_as_it_was(error: BaseException) -> None:
    task = Task()
    with pytest.raises(type(error)) as caught:
        retry_if_safe(task, error)
    assert caught.value is error
    assert task.asked == {}


def test_CE8_the_callers_consent_to_duplicates_tries_again_what_is_in_doubt() -> None:
    task, error = Task(), DeliveryUnknownError("?", recipients=[MAYBE])
    with pytest.raises(RetryError):
        retry_if_safe(task, error, at_least_once=True)
    with pytest.raises(CertificateError):  # consent to duplicates makes nothing possible that cannot work
        retry_if_safe(Task(), CertificateError("who?", recipients=[SILENT]), at_least_once=True)
    with pytest.raises(KeyboardInterrupt):  # somebody wants the worker to end
        retry_if_safe(Task(), KeyboardInterrupt(), at_least_once=True)


def middle(low: float, high: float) -> float:
    return (low + high) / 2


@pytest.mark.parametrize(
    ("error", "waits"),
    [
        (ConnectError("no"), [60, 120, 240, 480, 960, 1920, 3600, 3600]),
        (PoolTimeoutError("full"), [5, 10, 20, 40, 80, 160, 320, 640]),
        (PoolOverloadedError("full"), [5, 10, 20, 40, 80, 160, 320, 640]),
        (TransientReplyError("451", reply=BUSY, retry_after=300), [300, 300, 300, 480, 960, 1920, 3600, 3600]),
        (None, [60, 120, 240, 480, 960, 1920, 3600, 3600]),
    ],
    ids=["CE6 the service", "CE6 no place", "CE6 overloaded", "CE6 retry_after", "CE6 a result"],
)
def test_the_wait_doubles_up_to_an_hour(error: Exception | None, waits: list[float]) -> None:
    assert [backoff(error, retries, spread=middle) for retries in range(8)] == waits
    assert backoff(error, 10_000) <= 3600


@pytest.mark.parametrize("side", [min, max])
def test_CE6_the_wait_is_spread_by_a_fifth(side: Callable[[float, float], float]) -> None:
    assert backoff(ConnectError("no"), 0, spread=side) == 60 * side(0.8, 1.2)
