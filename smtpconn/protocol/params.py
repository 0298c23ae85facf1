"""The parameters of MAIL and RCPT: `MailParams`, `RcptParams`, and the values in them.

Knows what the RFCs of the extensions let stand there, and encodes it once, at birth. Refuses to know what the server
offers (`gate.py`) and the verbs (`commands.py`). Its laws: a value that exists is valid; the order on the wire is
fixed; nothing is repaired; an enumeration takes the exact upper-case strings.
"""

from __future__ import annotations

import datetime
import enum
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from smtpconn.protocol import xtext
from smtpconn.protocol.address import exact_text, quoted, refusal, refuse_controls
from smtpconn.protocol.errors import InvalidInputError, numeral

ENVID_LIMIT = 100  # octets of xtext; RFC 3461 section 5.1
ORCPT_LIMIT = 500  # octets of type and xtext; section 5.1
AUTH_LIMIT = 500  # octets of xtext; RFC 4954 section 5
LONGEST_HOLD = 999_999_999  # seconds; RFC 4865 section 4.2
LONGEST_DELIVER_BY = 999_999_999  # seconds; RFC 2852 section 4
PRIORITIES = 9  # RFC 6710 section 4: -9 to 9

_BODIES = ("7BIT", "8BITMIME", "BINARYMIME")
_RETURNS = ("FULL", "HDRS")
_MODES = ("R", "N")
_KEYWORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]*")
_VALUE = re.compile(r"[!-<>-~]+")  # esmtp-value, RFC 5321 section 4.1.2
_ATOM = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+")
_AUTH_FORBIDDEN = re.compile(r"[\r\n\0]")
_MAIL_KEYWORDS = frozenset(
    {"SIZE", "BODY", "SMTPUTF8", "RET", "ENVID", "AUTH", "REQUIRETLS", "HOLDFOR", "HOLDUNTIL", "BY", "MT-PRIORITY"}
)
_RCPT_KEYWORDS = _MAIL_KEYWORDS | {"NOTIFY", "ORCPT"}


def exact_int(argument: str, value: object) -> int:
    """The value as an exact `int`; `TypeError` for everything else, `bool` included."""
    if type(value) is int:
        return value
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{argument} must be an int, not {type(value).__name__}")
    return int.__int__(value)


def exact_bool(argument: str, value: object) -> bool:
    """The value, if it is a `bool`; else `TypeError`."""
    if value is True or value is False:
        return value
    raise TypeError(f"{argument} must be a bool, not {type(value).__name__}")


def _number(argument: str, value: object, least: int, most: int) -> int:
    number = exact_int(argument, value)
    if not least <= number <= most:
        raise InvalidInputError(f"{argument} must be {least} to {most}: {numeral(number)}")
    return number


def one_of(argument: str, value: object, allowed: tuple[str, ...]) -> str:
    """The value as an exact `str`, if it is one of those allowed."""
    text = exact_text(argument, value)
    if text not in allowed:
        raise refusal(argument, f"must be one of {', '.join(allowed)}", text)
    return text


class ExtraParameters(Mapping[str, "str | None"]):
    """Parameters that are not modelled: keyword to value, or to None where there is no value; immutable and hashable.

    Keywords keep their order and their case; none may come twice in whatever case.
    """

    __slots__ = ("_items", "octets")

    _items: dict[str, str | None]
    octets: bytes  # ` KEY=value` for each of them

    def __init__(self, argument: str, given: object, modelled: frozenset[str]) -> None:
        if not isinstance(given, Mapping):
            raise TypeError(f"{argument} must be a mapping of str to str or None, not {type(given).__name__}")
        items = [_extra(argument, keyword, value, modelled) for keyword, value in given.items()]
        if len({keyword.upper() for keyword, _ in items}) < len(items):
            raise InvalidInputError(f"{argument} must not have the same keyword twice (case does not count)")
        words = [f" {keyword}" if value is None else f" {keyword}={value}" for keyword, value in items]
        self._items = dict(items)
        self.octets = "".join(words).encode("ascii")

    def __getitem__(self, keyword: str) -> str | None:
        return self._items[keyword]

    def __iter__(self) -> Iterator[str]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def __hash__(self) -> int:
        return hash(frozenset(self._items.items()))

    def __repr__(self) -> str:
        return repr(self._items)


def _extra(argument: str, keyword: object, value: object, modelled: frozenset[str]) -> tuple[str, str | None]:
    name = exact_text(f"a keyword of {argument}", keyword)
    if not _KEYWORD.fullmatch(name):
        raise refusal(f"a keyword of {argument}", "must be letters, digits and inner hyphens", name)
    if name.upper() in modelled:
        raise refusal(f"a keyword of {argument}", "must not be here: it has a field, or is computed", name)
    if value is None:
        return name, None
    text = exact_text(f"{argument}[{quoted(name)}]", value)
    if not _VALUE.fullmatch(text):
        raise refusal(f"{argument}[{quoted(name)}]", "must be printable ASCII without blank and =, or None", text)
    return name, text


class Notify(enum.Enum):
    """When the recipient's server is to report (RFC 3461 section 4.1)."""

    SUCCESS = "SUCCESS"
    FAILURE = "FAILURE"
    DELAY = "DELAY"
    NEVER = "NEVER"

    def __repr__(self) -> str:
        return f"Notify.{self.name}"


@dataclass(frozen=True)
class DeliverBy:
    """Deliver within `seconds`, else return (`mode="R"`) or only report the delay (`mode="N"`); RFC 2852 section 4.

    With `trace` every relay reports. `"R"` needs 1 second or more; `"N"` may be 0 or negative.

    Raises:
        TypeError, InvalidInputError: a wrong type, a wrong value.
    """

    seconds: int
    mode: str
    trace: bool = False

    def __post_init__(self) -> None:
        put = object.__setattr__
        put(self, "mode", one_of("DeliverBy.mode", self.mode, _MODES))
        least = 1 if self.mode == "R" else -LONGEST_DELIVER_BY
        put(self, "seconds", _number("DeliverBy.seconds", self.seconds, least, LONGEST_DELIVER_BY))
        exact_bool("DeliverBy.trace", self.trace)

    def __str__(self) -> str:
        return f"{self.seconds};{self.mode}{'T' if self.trace else ''}"

    def to_dict(self) -> dict[str, Any]:
        """The value in JSON types."""
        return {"seconds": self.seconds, "mode": self.mode, "trace": self.trace}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> DeliverBy:
        """The inverse of `to_dict`."""
        return cls(data["seconds"], data["mode"], data["trace"])


@dataclass(frozen=True, kw_only=True)
class MailParams:
    """Parameters of MAIL (features 2.8); None means that the parameter is not sent.

    `body`: `"7BIT"`, `"8BITMIME"` or `"BINARYMIME"` (BDAT only); None lets the library decide. `smtputf8`: None asks
    for it where a path needs it, True always, False never. `ret`: `"FULL"` or `"HDRS"`. `envid`: printable ASCII.
    `auth`: `"<>"` or the mailbox of the submitter. `hold_for`: seconds. `hold_until`: an aware `datetime`, kept in
    UTC and whole seconds. `mt_priority`: -9 to 9. `extra`: keyword to value or None, for extensions that are not
    modelled; the caller vouches for them.

    Raises:
        TypeError, InvalidInputError: a wrong type, a wrong value.
    """

    body: str | None = None
    smtputf8: bool | None = None
    ret: str | None = None
    envid: str | None = None
    auth: str | None = None
    requiretls: bool = False
    hold_for: int | None = None
    hold_until: datetime.datetime | None = None
    deliver_by: DeliverBy | None = None
    mt_priority: int | None = None
    extra: Mapping[str, str | None] = field(default_factory=dict)
    octets: bytes = field(init=False, repr=False, compare=False)
    """What MAIL says of it behind SIZE, BODY and SMTPUTF8; each parameter with a blank in front."""

    def __post_init__(self) -> None:
        put = object.__setattr__
        for name, check in _MAIL_CHECKS.items():
            given = getattr(self, name)
            if given is not None:
                put(self, name, check(name, given))
        if self.hold_for is not None and self.hold_until is not None:
            raise InvalidInputError("hold_for and hold_until exclude each other; give one of them")
        exact_bool("requiretls", self.requiretls)
        extra = ExtraParameters("extra", self.extra, _MAIL_KEYWORDS)
        put(self, "extra", extra)
        put(self, "octets", self._spelt().encode("ascii") + extra.octets)

    def _spelt(self) -> str:
        """The parameters in the order of features 2.8, from RET on."""
        words = (
            ("RET", self.ret),
            ("ENVID", self.envid and xtext.encode(self.envid)),
            ("AUTH", self.auth and xtext.encode(self.auth)),
            ("REQUIRETLS", "" if self.requiretls else None),
            ("HOLDFOR", self.hold_for),
            ("HOLDUNTIL", self.hold_until and _utc(self.hold_until)),
            ("BY", self.deliver_by),
            ("MT-PRIORITY", self.mt_priority),
        )
        given = [(keyword, value) for keyword, value in words if value is not None]
        return "".join(f" {keyword}" if value == "" else f" {keyword}={value}" for keyword, value in given)

    def to_dict(self) -> dict[str, Any]:
        """The parameters in JSON types."""
        values = self._fields()
        values["hold_until"] = self.hold_until and self.hold_until.isoformat()
        values["deliver_by"] = self.deliver_by and self.deliver_by.to_dict()
        return values

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> MailParams:
        """The inverse of `to_dict`."""
        values = dict(data)
        if values["hold_until"] is not None:
            values["hold_until"] = datetime.datetime.fromisoformat(values["hold_until"])
        if values["deliver_by"] is not None:
            values["deliver_by"] = DeliverBy.from_dict(values["deliver_by"])
        return cls(**values)

    def __reduce__(self) -> tuple[Any, ...]:
        return _mail_params, (self._fields(),)

    def _fields(self) -> dict[str, Any]:
        values = {each.name: getattr(self, each.name) for each in fields(self) if each.init}
        values["extra"] = dict(self.extra)
        return values


def _mail_params(values: dict[str, Any]) -> MailParams:
    return MailParams(**values)


def _utc(instant: datetime.datetime) -> str:
    return instant.replace(tzinfo=None).isoformat() + "Z"


def _check_envid(argument: str, value: object) -> str:
    text = exact_text(argument, value)
    _check_printable(argument, text)
    if len(xtext.encode(text)) > ENVID_LIMIT:
        raise refusal(argument, f"must not exceed {ENVID_LIMIT} octets as xtext", text)
    return text


def _check_printable(argument: str, text: str) -> None:
    if not text:
        raise refusal(argument, "must not be empty; leave it away", text)
    refuse_controls(argument, text)
    if not text.isascii():
        raise refusal(argument, "must be ASCII", text)


def _check_auth(argument: str, value: object) -> str:
    """RFC 4954 section 5. What no mailbox may have but CR, LF and NUL does no harm: xtext carries it (IN12)."""
    text = exact_text(argument, value)
    if text == "<>":
        return text
    if not text.isascii():
        raise refusal(argument, "must be ASCII", text)
    if _AUTH_FORBIDDEN.search(text):
        raise refusal(argument, "must not have CR, LF or NUL", text)
    local_part, _, domain = text.rpartition("@")
    if not local_part or not domain:
        raise refusal(argument, "must be a mailbox (local@domain) or '<>'", text)
    if len(xtext.encode(text)) > AUTH_LIMIT:
        raise refusal(argument, f"must not exceed {AUTH_LIMIT} octets as xtext", text)
    return text


def _check_hold_until(argument: str, value: object) -> datetime.datetime:
    if not isinstance(value, datetime.datetime):
        raise TypeError(f"{argument} must be a datetime, not {type(value).__name__}")
    if value.utcoffset() is None:
        raise InvalidInputError(f"{argument} must be an aware datetime; give it a tzinfo")
    try:
        utc = value.astimezone(datetime.timezone.utc)
    except OverflowError:
        raise InvalidInputError(f"{argument} must be a time that UTC has in the years 1 to 9999") from None
    return datetime.datetime(
        utc.year, utc.month, utc.day, utc.hour, utc.minute, utc.second, tzinfo=datetime.timezone.utc
    )


def _check_deliver_by(argument: str, value: object) -> DeliverBy:
    if not isinstance(value, DeliverBy):
        raise TypeError(f"{argument} must be a DeliverBy, not {type(value).__name__}")
    return value


_MAIL_CHECKS: dict[str, Callable[[str, object], object]] = {
    "body": lambda name, value: one_of(name, value, _BODIES),
    "smtputf8": exact_bool,
    "ret": lambda name, value: one_of(name, value, _RETURNS),
    "envid": _check_envid,
    "auth": _check_auth,
    "hold_for": lambda name, value: _number(name, value, 1, LONGEST_HOLD),
    "hold_until": _check_hold_until,
    "deliver_by": _check_deliver_by,
    "mt_priority": lambda name, value: _number(name, value, -PRIORITIES, PRIORITIES),
}


@dataclass(frozen=True, init=False)
class RcptParams:
    """Parameters of RCPT (RFC 3461): `notify`, `orcpt`, `extra`.

    `notify`: a `Notify`, its name, or an iterable of these; NEVER stands alone; kept without repetition and in the
    order of the wire. `orcpt`: the original recipient as `"<addr-type>;<address>"`, not yet encoded; the type `utf-8`
    may have characters outside ASCII. `extra`: as in `MailParams`.

    Raises:
        TypeError, InvalidInputError: a wrong type, a wrong value.
    """

    notify: tuple[Notify, ...] | None
    orcpt: str | None
    extra: Mapping[str, str | None]
    octets: bytes = field(init=False, repr=False, compare=False)
    """What RCPT says of it behind the path; each parameter with a blank in front."""

    def __init__(
        self,
        *,
        notify: Notify | str | Iterable[Notify | str] | None = None,
        orcpt: str | None = None,
        extra: Mapping[str, str | None] | None = None,
    ) -> None:
        notifications = None if notify is None else _check_notify(notify)
        original, spelt = (None, "") if orcpt is None else _check_orcpt(orcpt)
        more = ExtraParameters("extra", {} if extra is None else extra, _RCPT_KEYWORDS)
        words = f" NOTIFY={','.join(each.value for each in notifications)}" if notifications else ""
        put = object.__setattr__
        put(self, "notify", notifications)
        put(self, "orcpt", original)
        put(self, "extra", more)
        put(self, "octets", (words + spelt).encode("ascii") + more.octets)

    @property
    def needs_dsn(self) -> bool:
        """True if the server must offer DSN for them."""
        return self.notify is not None or self.orcpt is not None

    @property
    def needs_smtputf8(self) -> bool:
        """True if the server must offer SMTPUTF8 for them: `orcpt` is of type `utf-8` (RFC 6533 section 3)."""
        return self.orcpt is not None and self.orcpt[:6].upper() == "UTF-8;"

    def to_dict(self) -> dict[str, Any]:
        """The parameters in JSON types."""
        notify = None if self.notify is None else [each.value for each in self.notify]
        return {"notify": notify, "orcpt": self.orcpt, "extra": dict(self.extra)}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> RcptParams:
        """The inverse of `to_dict`."""
        return cls(notify=data["notify"], orcpt=data["orcpt"], extra=data["extra"])

    def __reduce__(self) -> tuple[Any, ...]:
        return _rcpt_params, (self.notify, self.orcpt, dict(self.extra))


def _rcpt_params(notify: tuple[Notify, ...] | None, orcpt: str | None, extra: dict[str, str | None]) -> RcptParams:
    return RcptParams(notify=notify, orcpt=orcpt, extra=extra)


def _check_notify(given: object) -> tuple[Notify, ...]:
    if isinstance(given, (Notify, str)):
        given = (given,)
    if isinstance(given, (bytes, bytearray, memoryview)) or not isinstance(given, Iterable):
        raise TypeError(f"notify must be a Notify, its name, or an iterable of these, not {type(given).__name__}")
    wanted = {_one_notify(each) for each in given}
    if not wanted:
        raise InvalidInputError("notify must not be empty; Notify.NEVER asks for silence, None leaves it away")
    if Notify.NEVER in wanted and len(wanted) > 1:
        raise InvalidInputError("notify must not have NEVER beside others")
    return tuple(each for each in Notify if each in wanted)


def _one_notify(given: object) -> Notify:
    if isinstance(given, Notify):
        return given
    return Notify(one_of("notify", given, tuple(each.value for each in Notify)))


def _check_orcpt(given: object) -> tuple[str, str]:
    """The value, and its spelling on the wire."""
    text = exact_text("orcpt", given)
    refuse_controls("orcpt", text)
    address_type, _, address = text.partition(";")
    if not _ATOM.fullmatch(address_type) or not address:
        raise refusal("orcpt", "must be '<addr-type>;<address>', such as 'rfc822;user@example.com'", text)
    if address_type.upper() == "UTF-8":
        encoded = xtext.encode_utf8_address(address)
    elif address.isascii():
        encoded = xtext.encode(address)
    else:
        raise refusal("orcpt", "must be ASCII unless its addr-type is utf-8", text)
    if len(address_type) + 1 + len(encoded) > ORCPT_LIMIT:
        raise refusal("orcpt", f"must not exceed {ORCPT_LIMIT} octets as xtext", text)
    return text, f" ORCPT={address_type};{encoded}"


NO_MAIL_PARAMS = MailParams()
NO_RCPT_PARAMS = RcptParams()
