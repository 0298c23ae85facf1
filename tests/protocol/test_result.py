"""Results: one verdict for every recipient, in order, and the words about them."""

from __future__ import annotations

import json

import pytest

from smtpconn.protocol.errors import Delivery, RecipientsRefusedError
from smtpconn.protocol.mail import Recipient
from smtpconn.protocol.params import RcptParams
from smtpconn.protocol.reply import Reply
from smtpconn.protocol.result import RecipientResult, SendResult, queue_id, refusal

from .dialogue import revived

DL, ND, UN = Delivery.DELIVERED, Delivery.NOT_DELIVERED, Delivery.UNKNOWN


def reply(text: str) -> Reply:
    return Reply(int(text[:3]), text.encode() + b"\r\n", wants_enhanced=True)


def verdict(address: str, delivery: Delivery, text: str | None = None, stage: str | None = None) -> RecipientResult:
    return RecipientResult(Recipient(address), delivery, None if text is None else reply(text), stage)


def refused(text: str, address: str = "no@x.test", stage: str = "RCPT") -> RecipientResult:
    return verdict(address, ND, text, stage)


OK = verdict("yes@x.test", DL, "250 2.0.0 queued as 4XyZ12abc", "end of data")


@pytest.mark.parametrize(
    ("text", "identity"),
    [
        pytest.param("250 2.0.0 Ok: queued as 4XyZ12Q0z7zS", "4XyZ12Q0z7zS", id="E76 Postfix"),
        pytest.param("250 OK id=1rABcD-0000Xy-2Z", "1rABcD-0000Xy-2Z", id="E76 Exim"),
        pytest.param("250 2.0.0 Message queued with id 17f3a2b4c5d6e.", "17f3a2b4c5d6e", id="E76 Stalwart, no dot"),
        pytest.param("250 queued as abc12", None, id="E76 five characters"),
        pytest.param("250 queued as abc12 id=abcdef1", "abcdef1", id="F69 on to the next pattern"),
        pytest.param("250 queued as ab, queued as abcdef", "abcdef", id="F69 on to the next hit"),
        pytest.param("250 id=abcdefg queued as hijklmn", "hijklmn", id="E76 first pattern wins"),
        pytest.param("250 ok id abcdefg id=hijklmn", "hijklmn", id="F69 order of the patterns"),
        pytest.param("250 Queued As abcdefg", None, id="F69 case counts"),
        pytest.param("250 grid=abcdefg", None, id="F69 a word of its own"),
        pytest.param("250 queued as ", None, id="nothing behind it"),
        pytest.param("250 ok", None, id="none"),
        pytest.param("250", None, id="no text"),
    ],
)
def test_queue_id(text: str, identity: str | None) -> None:
    assert queue_id(reply(text)) == identity
    assert SendResult((OK,), reply(text)).queue_id == identity
    assert verdict("a@x.test", DL, text, "end of data").queue_id == identity


def test_there_is_no_queue_id_without_a_reply_or_a_delivery() -> None:
    assert queue_id(None) is None
    assert refused("550 id=abcdefg").queue_id is None
    assert verdict("a@x.test", UN).queue_id is None


def test_over_lmtp_the_first_queue_id_stands_for_all_F69() -> None:
    other = verdict("b@x.test", DL, "250 queued as second", "end of data")
    assert SendResult((refused("550 id=abcdefg"), OK, other)).queue_id == "4XyZ12abc"
    assert SendResult((refused("550 id=abcdefg"),)).queue_id is None


@pytest.mark.parametrize(
    ("entry", "permanent"),
    [
        pytest.param(refused("550 no"), True, id="5yz"),
        pytest.param(refused("450 later"), False, id="4yz"),
        pytest.param(refused("552 too many"), False, id="E132 552 to RCPT"),
        pytest.param(refused("552 too big", stage="end of data"), True, id="552 elsewhere"),
        pytest.param(refused("421 bye", stage="end of data"), False, id="L1 421 as a final reply"),
        pytest.param(refused("221 bye", stage="end of data"), None, id="221 says nothing"),
        pytest.param(verdict("a@x.test", ND), None, id="no reply"),
        pytest.param(OK, None, id="delivered"),
        pytest.param(verdict("a@x.test", UN, "550 x"), None, id="unknown"),
    ],
)
def test_permanent_is_what_the_server_called_it(entry: RecipientResult, permanent: bool | None) -> None:
    assert entry.permanent is permanent


def test_accepted_and_rejected_by_final_verdict_in_order_E131() -> None:
    other = verdict("b@x.test", DL, "250 ok", "end of data")
    no = refused("550 no")
    result = SendResult((OK, no, other), reply("250 ok"))
    assert result.recipients == (OK, no, other)
    assert result.accepted == (OK, other)
    assert result.rejected == (no,)
    assert (result.delivery, result.all_delivered) == (DL, False)
    assert [entry.address for entry in result.recipients] == ["yes@x.test", "no@x.test", "b@x.test"]


@pytest.mark.parametrize(
    ("entries", "delivery", "everybody"),
    [
        ((OK,), DL, True),
        ((OK, refused("550 no")), DL, False),
        ((refused("550 no"),), ND, False),
        ((OK, verdict("u@x.test", UN)), UN, False),
    ],
)
def test_the_whole_in_one_value(entries: tuple[RecipientResult, ...], delivery: Delivery, everybody: bool) -> None:
    result = SendResult(entries)
    assert (result.delivery, result.all_delivered) == (delivery, everybody)


@pytest.mark.parametrize(
    ("result", "text"),
    [
        pytest.param(
            SendResult((OK,), reply("250 queued as 4XyZ12")), "250 (queue id 4XyZ12)", id="E139 1 of 1 with id"
        ),
        pytest.param(
            SendResult((OK, refused("550 no"), OK), reply("250 2.0.0 text")),
            "2 of 3 recipients: 250: text",
            id="E139 2 of 3 without",
        ),
        pytest.param(SendResult((OK,), reply("250 2.0.0 a\x1bb")), "250: a\\x1bb", id="F68 one safe line"),
        pytest.param(SendResult((OK,), reply("250")), "250", id="F68 no text"),
        pytest.param(
            SendResult((refused("550 5.1.1 nobody"), OK)),
            "1 of 2 recipients: 250 (queue id 4XyZ12abc)",
            id="LMTP speaks of who has it, not of the first one",
        ),
        pytest.param(
            SendResult((verdict("a@x.test", ND), refused("550 5.1.1 nobody"))),
            "0 of 2 recipients: 550: nobody",
            id="LMTP nobody has it",
        ),
        pytest.param(SendResult((verdict("a@x.test", ND),)), "0 of 1 recipients", id="no reply at all"),
        pytest.param(SendResult(()), "", id="nobody"),
    ],
)
def test_str_of_a_result(result: SendResult, text: str) -> None:
    assert str(result) == text


def test_words_are_short_however_long_the_server_talks() -> None:
    long = reply("250 " + "x" * 2_000)
    assert len(str(SendResult((OK,), long))) == 500
    assert len(str(RecipientResult(Recipient("a@x.test"), ND, long))) == 500


@pytest.mark.parametrize(
    ("entry", "text"),
    [
        (OK, "yes@x.test: delivered (250 [2.0.0] queued as 4XyZ12abc)"),
        (verdict("a@x.test", UN), "a@x.test: unknown"),
        (refused("550 no"), "no@x.test: not delivered (550 no)"),
    ],
)
def test_str_of_a_recipients_result(entry: RecipientResult, text: str) -> None:
    assert str(entry) == text


def test_raise_for_refused_E133() -> None:
    full = SendResult((OK, OK), reply("250 ok"))
    assert full.raise_for_refused() is full
    partial = SendResult((OK, refused("550 no")))
    with pytest.raises(RecipientsRefusedError, match=r"1 of 2 recipients refused, first no@x\.test: 550 no") as caught:
        partial.raise_for_refused()
    error = caught.value
    assert error.recipients == partial.recipients
    assert (error.delivery, error.retry_safe, error.permanent, error.stage) == (DL, False, True, "RCPT")
    assert error.reply == reply("550 no")


@pytest.mark.parametrize(
    ("texts", "permanent"),
    [
        (("550 a", "450 b"), False),
        (("550 a", "551 b"), True),
        (("552 a", "550 b"), False),
        (("450 a",), False),
        (("550 a", None), None),
        ((None,), None),
    ],
)
def test_a_refusal_is_permanent_only_if_every_one_is_E132_F56(
    texts: tuple[str | None, ...], permanent: bool | None
) -> None:
    entries = tuple(verdict("a@x.test", ND) if text is None else refused(text) for text in texts)
    error = refusal(entries)
    assert error.permanent is permanent
    assert error.recipients == entries
    assert (error.delivery, error.scope) == (ND, "recipient")
    assert error.reply == (entries[0].reply if len(entries) == 1 else None)
    assert "None" not in str(error)


@pytest.mark.parametrize(
    "result",
    [
        SendResult((OK, refused("550 no"), verdict("u@x.test", UN)), reply("250 2.0.0 ok")),
        SendResult((RecipientResult(Recipient("ä@x.test", RcptParams(notify="NEVER")), DL),)),
        SendResult(()),
    ],
)
def test_a_result_survives_pickle_copy_and_json_F121(result: SendResult) -> None:
    for each in [*revived(result), SendResult.from_dict(json.loads(json.dumps(result.to_dict())))]:
        assert each == result
        assert str(each) == str(result)
        assert [entry.reply and entry.reply.enhanced for entry in each.recipients] == [
            entry.reply and entry.reply.enhanced for entry in result.recipients
        ]


def test_a_result_is_frozen() -> None:
    with pytest.raises(AttributeError):
        OK.delivery = ND  # type: ignore[misc]
    with pytest.raises(AttributeError):
        SendResult(()).reply = None  # type: ignore[misc]
