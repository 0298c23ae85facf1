"""A `Mail` and what the server offers, to the lines and octets of one transaction.

Every check before the first octet (F50).

Knows capabilities, SIZE, 8BITMIME and SMTPUTF8; refuses to know replies. Everything that can be refused locally is
refused here, so that a failure leaves the connection exactly as it was.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from smtpconn.protocol import body, commands, gate
from smtpconn.protocol.address import ReversePath
from smtpconn.protocol.errors import ExtensionUnavailableError, InvalidInputError, PolicyError, SmtpError
from smtpconn.protocol.mail import Mail, Recipient, not_seven_bit
from smtpconn.protocol.params import NO_RCPT_PARAMS
from smtpconn.protocol.policy import SendPolicy
from smtpconn.protocol.result import nobody_has_it

if TYPE_CHECKING:
    from smtpconn.protocol.session import Session


class Outgoing:
    """One mail, ready for one session: its command lines, and its octets or the source of them."""

    __slots__ = (
        "chunking", "content", "eight_bit_refused", "envelope_size", "given", "is_binary", "mail", "mail_line",
        "policy", "rcpt_lines", "recipients", "sender", "wire",
    )  # fmt: skip

    def __init__(
        self, mail: Mail, session: Session, policy: SendPolicy | None, *, chunking: bool | None = None
    ) -> None:
        """Check everything and encode the envelope. `chunking`: by BDAT or DATA, whatever the mail says.

        Raises `InvalidInputError`, `ExtensionUnavailableError`, `PolicyError`.
        """
        capabilities = session.capabilities
        self.mail = mail
        mail._refuse_if_read()
        assert mail.sender is not None, "the shell reads the headers of a message"
        assert mail.recipients is not None, "the shell reads the headers of a message"
        self.sender: ReversePath = mail.sender
        self.recipients: tuple[Recipient, ...] = mail.recipients
        self.policy = policy
        self.chunking = mail.chunking if chunking is None else chunking
        self.is_binary = mail.params.body == "BINARYMIME"
        self.content = mail.content
        if self.chunking:
            capabilities.require("CHUNKING")
        if not session.is_lmtp:
            refuse_local_recipients(self.recipients)
        smtputf8 = gate.check(
            mail.params, self.recipients, capabilities, secure=session.secure, sender=self.sender
        )
        size = self._declared_size(session)
        declared_body, self.eight_bit_refused = self._declared_body(session)
        self.mail_line = commands.mail(
            self.sender,
            size=size,
            body=declared_body,
            smtputf8=smtputf8,
            params=mail.params,
            capabilities=capabilities,
        )
        self.given, self.wire = _merge(self.recipients)
        self.rcpt_lines = commands.rcpts(self.wire, capabilities)
        self.envelope_size = len(self.mail_line) + sum(map(len, self.rcpt_lines))  # octets without RSET and DATA
        if policy is not None:
            self._ask_policy(policy)

    def _declared_size(self, session: Session) -> int | None:
        """F64: the octets of the canonical message, with an added final CRLF, before stuffing.

        `size` counts what a source gives; where line ends are converted nobody knows yet how many octets that makes,
        and a server that was told too few may refuse the rest.
        """
        if self.content is not None:
            size: int | None = len(self.content)
            if not self.is_binary and not self.content.endswith(b"\r\n"):
                size = len(self.content) + len(missing_end(self.content))
        else:
            size = self.mail.size
        limit = session.capabilities.size_limit
        if size is not None and limit is not None and size > limit:
            raise ExtensionUnavailableError(
                f"the message has {size} octets, the server takes {limit}", extension="SIZE"
            )
        is_converted = self.content is None and self.mail.newlines == "crlf" and not self.is_binary
        return size if session.capabilities.supports_size and not is_converted else None

    def _declared_body(self, session: Session) -> tuple[str | None, bool]:
        """F64a: the BODY parameter, and whether an 8-bit octet must stop the sending."""
        declared = self.mail.params.body
        offered = session.capabilities.supports_8bitmime
        if declared is not None:
            return declared, declared == "7BIT"
        if self.content is None:
            return ("8BITMIME", False) if offered else (None, True)
        if self.content.isascii():
            return None, False
        if not offered:
            raise self._eight_bit_error()
        return "8BITMIME", False

    def _eight_bit_error(self) -> SmtpError:
        """The message has octets above 127: the caller said that it has none, or the server does not take them."""
        if self.mail.params.body == "7BIT":
            return not_seven_bit()
        return ExtensionUnavailableError(
            "message has an octet above 127 and the server does not offer 8BITMIME: encode it, or use send_message",
            extension="8BITMIME",
        )

    def _ask_policy(self, policy: SendPolicy) -> None:
        """F98: once each, in this order; whatever a policy raises is a refusal."""
        size = len(self.mail.message) if isinstance(self.mail.message, bytes) else self.mail.size
        with fails_closed():
            policy.check_sender(self.sender)
            policy.check_recipients(self.recipients)
            policy.check_message_size(size)

    def source(self) -> Iterator[bytes]:
        """The octets of a stream as they are sent but for dot-stuffing, checked as they pass (F61, F63, F64, F99)."""
        self.mail._begin_reading()
        canonicaliser = None if self.is_binary else body.Canonicaliser(self.mail.newlines)
        size = self.mail.size
        counting_policy = self.policy if size is None else None
        total, last = 0, b"\r\n"
        for octets in body.slices(self.mail.message):
            total += len(octets)
            if size is not None and total > size:
                raise InvalidInputError(f"size is {size}, but message has more octets")
            if counting_policy is not None:
                with fails_closed():
                    counting_policy.check_message_size(total)
            if self.eight_bit_refused and not octets.isascii():
                raise self._eight_bit_error()
            if canonicaliser is not None:
                octets = canonicaliser.process(octets)
            last = (last + octets)[-2:]
            if octets:
                yield octets
        if canonicaliser is not None:
            canonicaliser.finish()
        if size is not None and total != size:
            raise InvalidInputError(f"size is {size}, but message has {total} octets")
        if size is None and not total and body.is_read_once(self.mail.message):
            raise InvalidInputError(
                "message gave no octet: a file at its end, or an iterator that was read before; "
                "if it is to be empty, say size=0"
            )
        if self.chunking and not self.is_binary and last != b"\r\n":
            yield b"\r\n"


@contextlib.contextmanager
def fails_closed() -> Iterator[None]:
    """F98a: whatever a policy raises is a refusal."""
    try:
        yield
    except PolicyError:
        raise
    except Exception as error:
        raise PolicyError(f"the policy failed: {type(error).__name__}") from error


def missing_end(content: bytes) -> bytes:
    """The CRLF that a non-empty text lacks at its end; DATA and BDAT deliver the same octets (F71)."""
    return b"" if not content or content.endswith(b"\r\n") else b"\r\n"


def refuse_local_recipients(recipients: Sequence[Recipient]) -> None:
    """Raise `InvalidInputError` for a bare local part, which SMTP has no word for (RFC 5321 section 4.1.1.3)."""
    for recipient in [each for each in recipients if each.path.local]:
        if recipient.path.mailbox.lower() != "postmaster":
            text = f"recipient {recipient.address!r:.80} needs a domain: a bare local part is possible over LMTP only"
            raise InvalidInputError(text, recipients=nobody_has_it(recipients))


def _merge(recipients: Sequence[Recipient]) -> tuple[list[int], list[Recipient]]:
    """D18: for each recipient given the index of its RCPT, and the recipients that go on the wire."""
    if len(recipients) == 1:
        return [0], [recipients[0]]
    # Paths that are the same differ in the case of letters at most.
    if len({recipient.path.mailbox.lower() for recipient in recipients}) == len(recipients):
        return list(range(len(recipients))), list(recipients)
    places: dict[object, int] = {}
    given: list[int] = []
    wire: list[Recipient] = []
    for recipient in recipients:
        plain = recipient.params is NO_RCPT_PARAMS or recipient.params == NO_RCPT_PARAMS  # the hash of these costs
        place = places.setdefault(recipient.path.key if plain else recipient.key, len(wire))
        if place == len(wire):
            wire.append(recipient)
        given.append(place)
    return given, wire
