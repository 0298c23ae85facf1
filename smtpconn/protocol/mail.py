"""One mail as a value: `Recipient` and `Mail`, and what the arguments of the send verbs become.

Knows types and values. Refuses to know what the server offers, what a stream contains, and how a message is composed.
Its laws: a value that exists is valid; the envelope is the list that was given, in its order; an iterable of
recipients is consumed once; what was checked is what will be written, so a buffer that another thread may change is
copied.
"""

from __future__ import annotations

import base64
import functools
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from typing import Any, Protocol, TypeAlias, cast, runtime_checkable

from smtpconn.protocol.address import ForwardPath, ReversePath, exact_text, setter_of
from smtpconn.protocol.body import canonical, is_read_once
from smtpconn.protocol.errors import InvalidInputError
from smtpconn.protocol.params import (
    NO_MAIL_PARAMS,
    NO_RCPT_PARAMS,
    DeliverBy,
    MailParams,
    Notify,
    RcptParams,
    exact_bool,
    exact_int,
    one_of,
)

__all__ = [
    "Mail",
    "Recipient",
    "MailParams",
    "RcptParams",
    "Notify",
    "DeliverBy",
    "BinaryFile",
    "Message",
    "recipients_of",
    "sender_of",
    "params_of",
    "newlines_of",
    "size_of",
    "message_of",
    "not_seven_bit",
    "wants_smtputf8",
]

LARGEST_SIZE = 10**20 - 1  # 20 digits; RFC 1870 section 4

_NEWLINES = ("strict", "crlf")
_SINGLE = (str, bytes, bytearray, memoryview, ForwardPath)


@runtime_checkable
class BinaryFile(Protocol):
    """What is read in slices: `read(n)` gives at most n octets, and `b""` at the end."""

    def read(self, size: int, /) -> bytes:
        """At most `size` octets from where it stands."""
        ...


Message: TypeAlias = bytes | BinaryFile | Iterable[bytes]
"""A body: the whole of it, a binary file, or an iterable of pieces. The last two are streams."""


@dataclass(frozen=True, init=False, slots=True)
class Recipient:
    """A forward path and the parameters of its RCPT: the path as `str` or `ForwardPath`.

    Raises:
        TypeError, InvalidInputError: a wrong type, a wrong value.
    """

    path: ForwardPath
    params: RcptParams

    def __init__(self, path: str | ForwardPath, params: RcptParams = NO_RCPT_PARAMS) -> None:
        if isinstance(path, str):
            path = ForwardPath(path)
        elif not isinstance(path, ForwardPath):
            raise TypeError(f"a recipient must be a str or ForwardPath, not {type(path).__name__}")
        if params is not NO_RCPT_PARAMS and not isinstance(params, RcptParams):
            raise TypeError(f"params of a Recipient must be RcptParams, not {type(params).__name__}")
        _put_path(self, path)
        _put_params(self, params)

    @property
    def address(self) -> str:
        """The address as it was given."""
        return self.path.address

    @property
    def key(self) -> tuple[tuple[bytes, bytes], RcptParams]:
        """Equal for recipients that are sent once: the same path with the same parameters."""
        return self.path.key, self.params

    def __reduce__(self) -> tuple[Any, ...]:
        return Recipient, (self.path, self.params)

    def to_dict(self) -> dict[str, Any]:
        """The recipient in JSON types."""
        return {"path": self.path.to_dict(), "params": self.params.to_dict()}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Recipient:
        """The inverse of `to_dict`."""
        return cls(ForwardPath.from_dict(data["path"]), RcptParams.from_dict(data["params"]))


_put_path, _put_params = setter_of(Recipient, "path"), setter_of(Recipient, "params")
_RECIPIENTS_ALONE = {Recipient}


def recipients_of(given: object) -> tuple[Recipient, ...]:
    """The recipients argument of a send verb: an iterable of `str`, `ForwardPath` or `Recipient`, consumed once (F58a).

    Raises:
        TypeError: it is no iterable, or a single address, whose characters would become recipients.
        InvalidInputError: it is empty, or has an address that is none.
    """
    if type(given) is tuple and set(map(type, given)) == _RECIPIENTS_ALONE:
        return given
    if not isinstance(given, (list, tuple)) and (isinstance(given, _SINGLE) or not isinstance(given, Iterable)):
        raise TypeError(f"recipients must be an iterable of addresses, not {type(given).__name__}; give a list")
    recipients = tuple([item if isinstance(item, Recipient) else Recipient(item) for item in given])
    if not recipients:
        raise InvalidInputError("recipients must not be empty")
    return recipients


def sender_of(given: object) -> ReversePath:
    """The sender argument of a send verb: a `str` or `ReversePath`; `""` is the null path."""
    if isinstance(given, ReversePath):
        return given
    if not isinstance(given, str):
        raise TypeError(f"sender must be a str or ReversePath, not {type(given).__name__}; the null path is ''")
    return _known_sender(exact_text("sender", given))


@functools.lru_cache(maxsize=64)
def _known_sender(given: str) -> ReversePath:
    """A program has few senders: each is checked once."""
    return ReversePath(given)


def params_of(given: object) -> MailParams:
    """The params argument of a send verb: `MailParams`, or None for none."""
    if given is None:
        return NO_MAIL_PARAMS
    if not isinstance(given, MailParams):
        raise TypeError(f"params must be MailParams or None, not {type(given).__name__}")
    return given


def newlines_of(given: object) -> str:
    """The newlines argument of a send verb: `"strict"` or `"crlf"` (D10)."""
    if type(given) is str and given in _NEWLINES:
        return given
    return one_of("newlines", given, _NEWLINES)


def size_of(given: object) -> int | None:
    """The size argument of a send verb: octets of the message as it is given, or None if they are not known (F64)."""
    if given is None:
        return None
    size = exact_int("size", given)
    if not 0 <= size <= LARGEST_SIZE:
        raise InvalidInputError(f"size must be 0 to {LARGEST_SIZE} octets")
    return size


def message_of(given: object) -> Message:
    """The message argument of a send verb, type-checked; what is bytes-like becomes exact `bytes` (F59).

    Raises:
        TypeError: it is text, a text file, an `EmailMessage`, or nothing that gives octets.
        InvalidInputError: it is a memoryview that is not contiguous.
    """
    if type(given) is bytes:
        return given
    if isinstance(given, str):
        raise TypeError("message must be octets, not str: encode it, or use send_message for an EmailMessage")
    if hasattr(given, "as_bytes"):
        raise TypeError(f"message must be octets, not {type(given).__name__}: use send_message or Mail.from_message")
    if callable(getattr(given, "read", None)):
        if hasattr(given, "encoding"):
            raise TypeError("message must be a binary file, not a text file: open it with mode 'rb'")
        return cast("BinaryFile", given)
    try:
        view = memoryview(given)  # type: ignore[arg-type]  # whether it is a buffer is what is asked
    except TypeError:
        if isinstance(given, Iterable):
            return cast("Iterable[bytes]", given)
        kind = type(given).__name__
        raise TypeError(f"message must be bytes, a binary file or an iterable of bytes, not {kind}") from None
    except ValueError as error:
        raise InvalidInputError(f"message must be a buffer that can be read: {error}") from None
    with view:
        if not view.c_contiguous:
            raise InvalidInputError("message must be a contiguous memoryview: make it bytes")
        return view.tobytes()


def not_seven_bit() -> InvalidInputError:
    """The error of a message that was declared to have no octet above 127, and has one (MP2)."""
    return InvalidInputError("params.body is 7BIT, but message has an octet above 127")


def wants_smtputf8(sender: ReversePath, recipients: Iterable[Recipient], params: MailParams) -> bool:
    """Whether MAIL asks for SMTPUTF8 (F65).

    Raises:
        InvalidInputError: `params.smtputf8` is False and a path is not ASCII.
    """
    if params.smtputf8:
        return True
    if "".join([sender.mailbox, *[recipient.path.mailbox for recipient in recipients]]).isascii():
        return False
    if params.smtputf8 is False:
        raise InvalidInputError("smtputf8=False, but an address is not ASCII; leave it away or give an ASCII address")
    return True


def domains_of(recipients: Iterable[Recipient]) -> set[bytes]:
    """The domains that the recipients have, each once (RFC 9422: RCPTDOMAINMAX counts them)."""
    return {domain for _, domain in (recipient.path.key for recipient in recipients) if domain}


@dataclass(frozen=True, init=False, repr=False)
class Mail:
    """One mail for `send_many`: envelope, body, and how it is to be sent.

    `message`: bytes-like, a binary file, or an iterable of bytes. `newlines`: `"strict"` or `"crlf"` (D10). `size`:
    octets of a stream as its source gives them, where the caller knows. A file or an iterator is good for one attempt,
    and one that gives no octet is an error unless `size` is 0. `content`: the octets of bytes with CRLF line ends,
    None for a stream. `chunking`: by BDAT. `tag`: whatever the caller wants to find in
    the outcome. A mail made by `from_message` has `email_message` and no octets yet; its `sender` and `recipients`
    are None where they are to be taken from the headers.

    Raises:
        TypeError, InvalidInputError: a wrong type, a wrong value. What a stream contains is checked while it is sent.
    """

    sender: ReversePath | None
    recipients: tuple[Recipient, ...] | None
    message: Message
    params: MailParams
    newlines: str
    size: int | None
    chunking: bool
    tag: Any
    email_message: Any = field(init=False)
    content: bytes | None = field(init=False, compare=False)

    def __init__(
        self,
        sender: str | ReversePath,
        recipients: Iterable[str | ForwardPath | Recipient],
        message: bytes | bytearray | memoryview | BinaryFile | Iterable[bytes],
        *,
        params: MailParams | None = None,
        newlines: str = "strict",
        size: int | None = None,
        chunking: bool = False,
        tag: Any = None,
    ) -> None:
        vars(self).update(
            message=message_of(message),
            newlines=newlines_of(newlines),
            size=None if size is None else size_of(size),
            chunking=exact_bool("chunking", chunking),
            email_message=None,
        )
        self._address(sender_of(sender), recipients_of(recipients), params, tag)
        vars(self)["content"] = self._canonical()

    def _canonical(self) -> bytes | None:
        """The octets of the message with CRLF line ends (D10); None for a stream. BINARYMIME passes unchanged."""
        if not isinstance(self.message, bytes):
            return None
        if self.size is not None and self.size != len(self.message):
            counted = f"size is {self.size}, but message has {len(self.message)} octets"
            raise InvalidInputError(f"{counted}: leave size away, or give that number")
        if self.params.body == "BINARYMIME":
            return self.message
        if self.params.body == "7BIT" and not self.message.isascii():
            raise not_seven_bit()
        return canonical(self.message, self.newlines)

    @classmethod
    def from_message(
        cls,
        email_message: Any,
        *,
        sender: str | ReversePath | None = None,
        recipients: Iterable[str | ForwardPath | Recipient] | None = None,
        params: MailParams | None = None,
        tag: Any = None,
    ) -> Mail:
        """A mail of an `EmailMessage`, serialised when it is sent; what is None comes from its headers."""
        if not hasattr(email_message, "get_all") or not hasattr(email_message, "as_bytes"):
            kind = type(email_message).__name__
            raise TypeError(f"email_message must be an EmailMessage, not {kind}: octets go into Mail(...) and send")
        mail = cls.__new__(cls)
        vars(mail).update(
            message=b"", newlines="strict", size=None, chunking=False, email_message=email_message, content=None
        )
        mail._address(
            None if sender is None else sender_of(sender),
            None if recipients is None else recipients_of(recipients),
            params,
            tag,
        )
        return mail

    def _address(
        self, sender: ReversePath | None, recipients: tuple[Recipient, ...] | None, params: object, tag: object
    ) -> None:
        checked = params_of(params)
        vars(self).update(sender=sender, recipients=recipients, params=checked, tag=tag)
        if checked.body == "BINARYMIME" and not self.chunking:
            if self.email_message is not None:
                raise InvalidInputError("params.body BINARYMIME is not possible for an email message: it goes as text")
            raise InvalidInputError("params.body BINARYMIME goes by BDAT only: use send_bdat, or Mail(chunking=True)")
        if checked.smtputf8 is False:
            wants_smtputf8(ReversePath("") if sender is None else sender, recipients or (), checked)

    def _refuse_if_read(self) -> None:
        """Raise `InvalidInputError` if an attempt has begun to read the file or the iterator that is the message."""
        if "_reader" in vars(self):
            raise InvalidInputError(
                "message was read before, and what is left of it is not the message: make a new Mail, "
                "with the file at its start or with a new iterator"
            )

    def _begin_reading(self) -> None:
        """Take the octets of a file or an iterator for one attempt; nobody else gets the rest of them.

        Raises:
            InvalidInputError: another attempt, perhaps of another thread, has begun to read them.
        """
        if is_read_once(self.message):
            reader = object()
            if vars(self).setdefault("_reader", reader) is not reader:
                self._refuse_if_read()

    def __getstate__(self) -> dict[str, Any]:
        """The fields alone: what is cached beside them does not travel."""
        return {each.name: getattr(self, each.name) for each in fields(self)}

    def __repr__(self) -> str:
        recipients = "of its headers" if self.recipients is None else len(self.recipients)
        if self.email_message is not None:
            content = type(self.email_message).__name__
        else:
            content = f"{len(self.message)} octets" if isinstance(self.message, bytes) else "a stream"
        return f"<Mail recipients: {recipients}, message: {content}>"

    def to_dict(self) -> dict[str, Any]:
        """The mail in JSON types, the octets as base64; `tag` as it is.

        Raises:
            TypeError: the message is a stream or an `EmailMessage`.
        """
        if not isinstance(self.message, bytes) or self.email_message is not None:
            raise TypeError("to_dict needs a Mail whose message is bytes")
        return {
            "sender": self.sender and self.sender.to_dict(),
            "recipients": [recipient.to_dict() for recipient in self.recipients or ()],
            "message": base64.b64encode(self.message).decode("ascii"),
            "params": self.params.to_dict(),
            "newlines": self.newlines,
            "size": self.size,
            "chunking": self.chunking,
            "tag": self.tag,
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Mail:
        """The inverse of `to_dict`."""
        return cls(
            ReversePath.from_dict(data["sender"]),
            [Recipient.from_dict(recipient) for recipient in data["recipients"]],
            base64.b64decode(data["message"]),
            params=MailParams.from_dict(data["params"]),
            newlines=data["newlines"],
            size=data["size"],
            chunking=data["chunking"],
            tag=data["tag"],
        )
