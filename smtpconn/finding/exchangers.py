"""Which hosts take a domain's mail, and in which order: MX, no MX, null MX (RFC 5321 section 5.1, RFC 7505).

Pure: chance is an argument.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection

from smtpconn.finding.records import MxRecord, RecordSet, is_among, is_server
from smtpconn.protocol.errors import ResolveError

_CHANCE = random.SystemRandom()


def exchangers(
    domain: str,
    found: RecordSet[MxRecord],
    *,
    own_names: Collection[str] = (),
    chance: Callable[[], float] = _CHANCE.random,
) -> tuple[MxRecord, ...]:
    """The hosts to try, in order; the domain itself where it has no MX. `own_names`: what this relay is called in DNS.

    Raises:
        ResolveError: `permanent`: the domain takes no mail, no host that it names can be one, or it names only us.
    """
    if not found.records:
        # RFC 5321 section 5.1: "If an empty list of MXs is returned, the address is treated as if it was associated
        # with an implicit MX RR, with a preference of 0, pointing to that host."
        return (MxRecord(domain, 0),)
    if not any(record.host for record in found.records):
        raise ResolveError(f"{domain!r} takes no mail (null MX, RFC 7505)", permanent=True)
    # Where there are MX records and none is usable, "this situation MUST be reported as an error": never the domain.
    usable = [record for record in found.records if is_server(record.host)]
    if not usable:
        raise ResolveError(f"no MX record of {domain!r} names a host", permanent=True)
    ours = [record.preference for record in usable if is_among(record.host, own_names)]
    if ours:
        # What is not nearer to the destination than we are would send the mail back to us.
        usable = [record for record in usable if record.preference < min(ours)]
        if not usable:
            raise ResolveError(f"the best MX record of {domain!r} names this host: mail would loop", permanent=True)
    # Equal preferences are mixed, to spread the load.
    return tuple(sorted(usable, key=lambda record: (record.preference, chance())))
