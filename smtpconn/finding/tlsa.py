"""What TLSA records mean for SMTP: which are usable, and what becomes of a server that has them (RFC 7671, RFC 7672).

Pure; the certificates themselves are looked at by `smtpconn.dane`.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass

from smtpconn.finding.records import TlsaRecord
from smtpconn.protocol.address import check_host
from smtpconn.protocol.errors import InvalidInputError

DANE_TA, DANE_EE = 2, 3
CERTIFICATE, PUBLIC_KEY = 0, 1
WHOLE, SHA_256, SHA_512 = 0, 1, 2
_DIGEST_OCTETS = {SHA_256: 32, SHA_512: 64}


class TlsaState(enum.Enum):
    """What is known of a server's TLSA records.

    `NOT_ASKED`: no resolver that validates is trusted. `INSECURE`: the zone is not signed. `NONE`: signed, and there
    are none. `UNUSABLE`: none of them means anything to SMTP. `USABLE`: the certificate must match one of them.
    """

    NOT_ASKED = "not asked"
    INSECURE = "insecure"
    NONE = "none"
    UNUSABLE = "unusable"
    USABLE = "usable"


@dataclass(frozen=True)
class TlsaAnswer:
    """The TLSA records of one server. `base`: the name that they stand at, without port and protocol."""

    state: TlsaState
    base: str
    records: tuple[TlsaRecord, ...] = ()


@dataclass(frozen=True)
class TlsaDemand:
    """What a server's certificate must match, whatever else is demanded of it.

    `records`: usable ones, at least one; one of them must match. `names`: a certificate under a DANE-TA record must
    have one of these; DANE-EE looks at no name (RFC 7672 section 3.1.1). `alone`: the records stand in place of the
    trust roots; otherwise they are demanded in addition. The caller vouches for where the records come from.

    Raises `InvalidInputError` or TypeError.
    """

    records: tuple[TlsaRecord, ...]
    names: tuple[str, ...]
    alone: bool = True

    def __post_init__(self) -> None:
        records = tuple(self.records)
        if not all(isinstance(record, TlsaRecord) for record in records):
            raise TypeError("TlsaDemand: records must be TlsaRecords")
        object.__setattr__(self, "records", usable(records))
        if not self.records:
            raise InvalidInputError("TlsaDemand: no record is usable with SMTP (RFC 7672 section 3.1)")
        if not isinstance(self.names, tuple):
            raise TypeError("TlsaDemand: names must be a tuple of host names")
        object.__setattr__(self, "names", tuple(check_host(name, argument="names") for name in self.names))
        if not isinstance(self.alone, bool):
            raise TypeError(f"TlsaDemand: alone must be a bool, not {type(self.alone).__name__}")


def usable(records: Iterable[TlsaRecord]) -> tuple[TlsaRecord, ...]:
    """Those of the records that a certificate may be matched with.

    Usages 0 and 1 name no trust that an SMTP client could share (RFC 7672 section 3.1.3); unknown numbers and digests
    of a wrong length match nothing. Of digests of the same thing the strongest kind alone counts (RFC 7671 section 9).
    """
    known = [record for record in dict.fromkeys(records) if _is_usable(record)]
    strongest: dict[tuple[int, int], int] = {}
    for record in known:
        kind = (record.usage, record.selector)
        strongest[kind] = max(strongest.get(kind, WHOLE), record.matching_type)
    return tuple(
        record
        for record in known
        if record.matching_type in (WHOLE, strongest[record.usage, record.selector])
    )


def _is_usable(record: TlsaRecord) -> bool:
    if record.usage not in (DANE_TA, DANE_EE) or record.selector not in (CERTIFICATE, PUBLIC_KEY):
        return False
    if record.matching_type == WHOLE:
        return bool(record.data)
    return len(record.data) == _DIGEST_OCTETS.get(record.matching_type)


def judged(base: str, records: tuple[TlsaRecord, ...], *, authenticated: bool) -> TlsaAnswer:
    """What an answer about TLSA records means (RFC 7672 section 2.2)."""
    if not authenticated:  # whoever can forge the answer can forge the records
        return TlsaAnswer(TlsaState.INSECURE, base)
    if not records:
        return TlsaAnswer(TlsaState.NONE, base)
    found = usable(records)
    return TlsaAnswer(TlsaState.USABLE, base, found) if found else TlsaAnswer(TlsaState.UNUSABLE, base, records)
