"""A name server on loopback that answers over UDP out of a table, and says AD where the table says so.

Knows DNS messages, by dnspython; validates nothing: what is "authenticated" is the table's word.
"""

from __future__ import annotations

import socket
import threading
from typing import Any

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.resolver
import dns.rrset

Zone = dict[str, Any]
"""`"name. KIND"` to a list of records, an `Rcode`, octets behind the id, or None for silence; `AD(...)` around it."""


class AD:
    """An answer that DNSSEC vouches for."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer


class Alias:
    """The records of another name, behind one CNAME record or several."""

    def __init__(self, *names: str) -> None:
        self.names = names


class NameServer:
    """Answers out of `zone`; a name that is not there does not exist. `asked`: the questions, in order."""

    def __init__(self, zone: Zone) -> None:
        self.zone = zone
        self.asked: list[str] = []
        self._sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._sock.bind(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def resolver(self) -> dns.resolver.Resolver:
        """A resolver that asks this server and nobody else."""
        resolver = dns.resolver.Resolver(configure=False)
        resolver.nameservers = ["127.0.0.1"]
        resolver.port = self._sock.getsockname()[1]
        return resolver

    def close(self) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.sendto(b"stop", self._sock.getsockname())
        self._thread.join(10)
        self._sock.close()

    def _serve(self) -> None:
        while True:
            octets, peer = self._sock.recvfrom(4096)
            if octets == b"stop":
                return
            answer = self._answer(dns.message.from_wire(octets))
            if answer is not None:
                self._sock.sendto(answer, peer)

    def _answer(self, query: dns.message.Message) -> bytes | None:
        question = query.question[0]
        kind = dns.rdatatype.to_text(question.rdtype)
        self.asked.append(f"{question.name.to_text()} {kind}")
        name = question.name.to_text()
        found, authenticated = _unwrapped(self.zone.get(self.asked[-1], dns.rcode.NXDOMAIN))
        response = dns.message.make_response(query)
        if authenticated and query.flags & dns.flags.AD:
            response.flags |= dns.flags.AD
        if found is None or isinstance(found, bytes):
            return found and query.to_wire()[:2] + found
        if isinstance(found, Alias):
            for target in found.names:
                response.answer.append(dns.rrset.from_text(name, 60, "IN", "CNAME", target))
                name = target
            found, _ = _unwrapped(self.zone.get(f"{name} {kind}", dns.rcode.NXDOMAIN))
            if isinstance(found, Alias):  # a loop of aliases: there is no end to come to
                found = []
        if isinstance(found, dns.rcode.Rcode):
            response.set_rcode(found)
        elif found:
            response.answer.append(dns.rrset.from_text_list(name, 60, "IN", kind, found))
        return response.to_wire()


def _unwrapped(found: Any) -> tuple[Any, bool]:
    return (found.answer, True) if isinstance(found, AD) else (found, False)
