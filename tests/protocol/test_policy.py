"""Policies: what the ready-made ones refuse."""

from __future__ import annotations

import pytest

from smtpconn.protocol.address import ReversePath
from smtpconn.protocol.errors import InvalidInputError, PolicyError
from smtpconn.protocol.mail import Recipient
from smtpconn.protocol.policy import BoundedPolicy, DefaultPolicy, SendPolicy

SENDER = ReversePath("a@x.test")


def recipients(count: int) -> list[Recipient]:
    return [Recipient("b@x.test")] * count  # E183: the same one counts each time


@pytest.mark.parametrize(
    ("policy", "count", "size", "refusal"),
    [
        pytest.param(DefaultPolicy(), 10_000, 1 << 40, None, id="F100 allows all"),
        pytest.param(DefaultPolicy(), 1, None, None, id="F100 allows what is not known"),
        pytest.param(BoundedPolicy(), 10_000, 1 << 40, None, id="F100 no limit"),
        pytest.param(BoundedPolicy(max_recipients=2), 2, 1 << 40, None, id="E95 inclusive"),
        pytest.param(BoundedPolicy(max_recipients=2), 3, 1, "3 recipients, more than the policy's 2", id="E95 E183"),
        pytest.param(BoundedPolicy(max_recipients=0), 1, 1, "1 recipients, more than the policy's 0", id="zero"),
        pytest.param(BoundedPolicy(max_message_bytes=10), 5, 10, None, id="F100 size inclusive"),
        pytest.param(BoundedPolicy(max_message_bytes=10), 5, None, None, id="F99 not known yet"),
        pytest.param(
            BoundedPolicy(max_message_bytes=10), 5, 11, "a message of 11 octets, more than the policy's 10", id="E181"
        ),
    ],
)
def test_a_policy_refuses_by_raising_and_allows_by_returning(
    policy: SendPolicy, count: int, size: int | None, refusal: str | None
) -> None:
    def ask() -> None:
        policy.check_sender(SENDER)
        policy.check_recipients(recipients(count))
        policy.check_message_size(size)

    if refusal is None:
        ask()
        return
    with pytest.raises(PolicyError, match=refusal) as caught:
        ask()
    assert (caught.value.permanent, caught.value.stage, caught.value.scope) == (True, "input", "caller")


@pytest.mark.parametrize("name", ["max_recipients", "max_message_bytes"])
@pytest.mark.parametrize(
    ("value", "error"), [(-1, InvalidInputError), (True, TypeError), (1.0, TypeError), ("1", TypeError)]
)
def test_a_limit_that_is_none_is_refused_at_birth_F100(name: str, value: object, error: type[Exception]) -> None:
    with pytest.raises(error, match=name):
        BoundedPolicy(**{name: value})  # type: ignore[arg-type]


def test_repr_tells_the_limits() -> None:
    assert repr(BoundedPolicy(max_recipients=2)) == "BoundedPolicy(max_recipients=2, max_message_bytes=None)"
