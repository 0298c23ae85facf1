"""Credentials that can be asked again (pool:EP6), and small functions that the shell calls."""

from __future__ import annotations

import pytest

from smtpconn.protocol.errors import Delivery, InvalidInputError, ServiceUnavailableError
from smtpconn.protocol.ledger import END
from smtpconn.protocol.mail import Recipient
from smtpconn.protocol.reply import Reply
from smtpconn.protocol.result import nobody_has_it
from smtpconn.protocol.sasl import OAuthBearerAuth, PasswordAuth, PlainAuth, XOAuth2Auth
from smtpconn.protocol.session import refused

KEY = b"k" * 32


def test_EP6_a_callable_secret_can_be_asked_again_and_a_literal_cannot() -> None:
    asked = iter(["first", "second"])
    callable_one, literal = PasswordAuth("u", lambda: next(asked)), PasswordAuth("u", "p")
    assert (callable_one.is_renewable, literal.is_renewable) == (True, False)
    first, second = callable_one.literal(), callable_one.literal(renewal=True)
    assert not first.is_renewable
    assert first.digest(KEY) == PasswordAuth("u", "first").digest(KEY)
    assert second.digest(KEY) == PasswordAuth("u", "second").digest(KEY)
    assert first.digest(KEY) != second.digest(KEY)


def test_a_digest_knows_class_user_and_secret_under_its_key_only() -> None:
    known = PlainAuth("u", "p").digest(KEY)
    assert known == PlainAuth("u", "p").digest(KEY)
    others = [PasswordAuth("u", "p"), PlainAuth("v", "p"), PlainAuth("u", "q")]
    assert known not in [other.digest(KEY) for other in others]
    assert known != PlainAuth("u", "p").digest(b"other")


def test_D12_EP6_a_bearer_token_is_renewed_by_its_refresh() -> None:
    renewed = OAuthBearerAuth("old", user="u", refresh=lambda: "new")
    assert renewed.is_renewable
    assert renewed.literal().digest(KEY) == OAuthBearerAuth("old", user="u").digest(KEY)
    assert renewed.literal(renewal=True).digest(KEY) == OAuthBearerAuth("new", user="u").digest(KEY)
    without = XOAuth2Auth("u", lambda: "asked")
    assert without.is_renewable
    assert without.literal(renewal=True).digest(KEY) == XOAuth2Auth("u", "asked").digest(KEY)
    with pytest.raises(InvalidInputError):
        XOAuth2Auth("u", "old", refresh=lambda: "a b").literal(renewal=True)


def test_a_farewell_in_the_place_of_a_final_reply_is_the_service_going_away() -> None:
    error = refused(END, Reply(421, b"421 bye\r\n"))
    assert type(error) is ServiceUnavailableError
    assert error.permanent is False


def test_a_mail_of_which_nothing_was_written_is_delivered_to_nobody() -> None:
    given = [Recipient("a@x.test"), Recipient("b@x.test")]
    assert [(entry.recipient, entry.delivery) for entry in nobody_has_it(given)] == [
        (recipient, Delivery.NOT_DELIVERED) for recipient in given
    ]
