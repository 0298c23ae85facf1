"""A signed zone on loopback (Knot DNS), and a resolver that validates it (Unbound).

Knows both programs' configuration; knows no mail. The zones are the caller's: those of `signed` are signed by Knot
with a key of their own, and that key is the only trust anchor; `plain` ones are not signed; of the `bogus` ones the
resolver expects a signature and finds none, so that it answers SERVFAIL. Nobody else is ever asked.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import dns.exception
import dns.flags
import dns.message
import dns.query
import dns.rdatatype
import dns.resolver

from .daemon import HOST, Daemon, DaemonError, free_ports
from .servers import MissingServerError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_KNOTD, _UNBOUND = Path("/usr/sbin/knotd"), Path("/usr/sbin/unbound")

_KNOT = """\
server:
    rundir: "{directory}"
    listen: {host}@{port}
database:
    storage: "{directory}/db"
log:
  - target: stdout
    any: info
policy:
  - id: ours
    algorithm: ecdsap256sha256
    single-type-signing: on
template:
  - id: default
    storage: "{directory}/zones"
    file: "%s.zone"
    zonefile-sync: -1
zone:
{zones}
"""

_RESOLVER = """\
server:
    directory: "{directory}"
    username: ""
    chroot: ""
    pidfile: ""
    use-syslog: no
    interface: {host}@{port}
    outgoing-interface: {host}
    access-control: 127.0.0.0/8 allow
    do-ip6: no
    do-not-query-localhost: no
    num-threads: 1
    module-config: "validator iterator"
    local-zone: "test." nodefault
    trust-anchor-file: "{directory}/anchors"
remote-control:
    control-enable: no
{stubs}
"""

_STUB = """\
stub-zone:
    name: "{name}"
    stub-addr: {host}@{port}
"""

_HEAD = """\
$TTL 60
@ SOA ns hostmaster 1 3600 600 86400 60
@ NS ns
ns A 127.0.0.1
"""


class NameServers:
    """Both daemons; `resolver()` asks the validating one. The text of a zone goes without SOA and NS."""

    def __init__(self, *, signed: Mapping[str, str], plain: Mapping[str, str], bogus: Mapping[str, str]) -> None:
        self._signed, self._plain, self._bogus = dict(signed), dict(plain), dict(bogus)
        self.directory = Path(tempfile.mkdtemp(prefix="sc-", dir="/tmp"))
        self.directory.chmod(0o755)
        self._daemons: list[Daemon] = []
        self._authority = self._port = 0

    @staticmethod
    def require() -> None:
        """Make sure that both can run here.

        Raises:
            MissingServerError: One of them is not installed, or we are not root.
        """
        for program, package in ((_KNOTD, "knot"), (_UNBOUND, "unbound")):
            if not program.exists():
                raise MissingServerError(
                    f"{program} of Debian's package {package} is not there: install it with .ci/servers"
                )
        if os.geteuid() != 0:
            raise MissingServerError("only root can start the name servers: their directory is root's")

    def resolver(self) -> dns.resolver.Resolver:
        """A resolver that asks Unbound and nobody else."""
        resolver = dns.resolver.Resolver(configure=False)
        resolver.nameservers = [HOST]
        resolver.port = self._port
        return resolver

    def __enter__(self) -> NameServers:
        try:
            self._start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    def stop(self) -> None:
        """End both, and remove their directory."""
        while self._daemons:
            self._daemons.pop().stop()
        shutil.rmtree(self.directory, ignore_errors=True)

    def _start(self) -> None:
        for attempt in range(3):
            self._authority, self._port = free_ports(2)
            try:
                self._run([str(_KNOTD), "-c", self._write_knot()], "knot", self._is_signed)
                self._write_anchors()
                self._run([str(_UNBOUND), "-d", "-c", self._write_unbound()], "unbound", self._validates)
            except DaemonError:
                # Somebody may have taken a port between our look and the server's bind.
                while self._daemons:
                    self._daemons.pop().stop()
                if attempt == 2:
                    raise
            else:
                return

    def _run(self, argv: list[str], name: str, ready: Callable[[], bool]) -> None:
        daemon = Daemon(argv, self.directory / f"{name}.log")
        self._daemons.append(daemon)
        daemon.start(ready)

    def _write_knot(self) -> str:
        zones = self.directory / "zones"
        for directory in (zones, self.directory / "db"):
            directory.mkdir(exist_ok=True)
        entries = []
        for name, text in {**self._signed, **self._plain, **self._bogus}.items():
            (zones / f"{name}.zone").write_text(f"$ORIGIN {name}.\n{_HEAD}{text}", encoding="ascii")
            signing = "    dnssec-signing: on\n    dnssec-policy: ours\n" if name in self._signed else ""
            entries.append(f"  - domain: {name}\n{signing}")
        path = self.directory / "knot.conf"
        text = _KNOT.format(directory=self.directory, host=HOST, port=self._authority, zones="".join(entries))
        path.write_text(text, encoding="ascii")
        return str(path)

    def _keys(self, zone: str) -> list[str]:
        query = dns.message.make_query(f"{zone}.", "DNSKEY", want_dnssec=True)
        with contextlib.suppress(dns.exception.DNSException, OSError):
            answer = dns.query.udp(query, HOST, port=self._authority, timeout=1).answer
            return [
                f"{zone}. DNSKEY {key.to_text()}"
                for rrset in answer
                if rrset.rdtype == dns.rdatatype.DNSKEY
                for key in rrset
            ]
        return []

    def _is_signed(self) -> bool:
        return all(self._keys(zone) for zone in self._signed)

    def _write_anchors(self) -> None:
        keys = [key for zone in self._signed for key in self._keys(zone)]
        first = keys[0].partition(" ")[2]
        keys += [f"{zone}. {first}" for zone in self._bogus]
        (self.directory / "anchors").write_text("".join(f"{key}\n" for key in keys), encoding="ascii")

    def _write_unbound(self) -> str:
        names = [*self._signed, *self._plain, *self._bogus]
        stubs = "".join(_STUB.format(name=name, host=HOST, port=self._authority) for name in names)
        path = self.directory / "unbound.conf"
        text = _RESOLVER.format(directory=self.directory, host=HOST, port=self._port, stubs=stubs)
        path.write_text(text, encoding="ascii")
        return str(path)

    def _validates(self) -> bool:
        """Whether an answer about each signed zone comes with the AD bit."""
        with contextlib.suppress(dns.exception.DNSException, OSError):
            for zone in self._signed:
                query = dns.message.make_query(f"{zone}.", "SOA", flags=dns.flags.RD | dns.flags.AD)
                if not dns.query.udp(query, HOST, port=self._port, timeout=1).flags & dns.flags.AD:
                    return False
            return True
        return False
