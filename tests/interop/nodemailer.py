"""Nodemailer's smtp-server, the only one of these servers that offers REQUIRETLS (RFC 8689), and that under TLS only.

| port | what it is |
|---|---|
| `port` | SMTP with STARTTLS, DSN, SMTPUTF8, 8BITMIME; no CHUNKING |
| `tls_port` | the same under implicit TLS |
| `lmtp_port` | LMTP that merges recipients given twice, and so answers fewer times than it was asked |

AUTH PLAIN, LOGIN and XOAUTH2 know the user of `LOGIN`, and `TOKEN`. Everybody takes mail but `UNKNOWN`. What arrived is
told by `received`.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .daemon import HOST, Daemon, accepts, free_ports, greets
from .servers import DOMAIN, HOSTNAME, LOGIN, MailServer, MissingServerError

if TYPE_CHECKING:
    from .certificates import Certificates

TOKEN = "nodemailer's"
REFUSAL = {"status": "401", "schemes": "bearer", "scope": "https://mail.lab.test/"}
"""What a refused token is told by XOAUTH2's 334."""

SIZE_LIMIT = 1_000_000
_ROOT = Path(os.environ.get("SMTPCONN_NODE_ROOT", "/opt/smtpconn-node"))
_SCRIPT = Path(__file__).with_suffix(".cjs")


class Nodemailer(MailServer):
    """An smtp-server of our own; see the head of the module for its ports."""

    name = "Nodemailer"
    package = "nodejs"
    trace = ()
    users = tuple(f"user{number}@{DOMAIN}" for number in range(1, 10))

    def __init__(self, certificates: Certificates) -> None:
        super().__init__(certificates)
        self.port = self.tls_port = self.lmtp_port = 0
        self.ledger = self.directory / "ledger"

    @classmethod
    def programs(cls) -> tuple[Path, ...]:
        return Path(shutil.which("node") or "/usr/bin/node"), _ROOT / "node_modules" / "smtp-server"

    @classmethod
    def require(cls) -> None:
        for needed in cls.programs():
            if not needed.exists():
                raise MissingServerError(f"{needed} is not there: install it with .ci/servers")

    def configure(self) -> Daemon:
        self.port, self.tls_port, self.lmtp_port = free_ports(3)
        self.ledger.touch()
        configuration = self.directory / "configuration.json"
        values = {
            "root": str(_ROOT),
            "host": HOST,
            "hostname": HOSTNAME,
            "port": self.port,
            "tls_port": self.tls_port,
            "lmtp_port": self.lmtp_port,
            "key": str(self.certificates.server_key),
            "certificate": str(self.certificates.server_certificate),
            "ledger": str(self.ledger),
            "size": SIZE_LIMIT,
            "user": LOGIN[0],
            "password": LOGIN[1],
            "token": TOKEN,
            "refusal": REFUSAL,
        }
        configuration.write_text(json.dumps(values), encoding="utf-8")
        return Daemon([str(self.programs()[0]), str(_SCRIPT), str(configuration)], self.directory / "output")

    def is_ready(self) -> bool:
        return greets(self.port) and accepts(self.tls_port) and accepts(self.lmtp_port)

    def log(self) -> str:
        return (self.directory / "output").read_text(encoding="utf-8", errors="replace")

    def received(self) -> list[dict[str, Any]]:
        """Every mail that it has accepted, the oldest first; its answer comes behind the entry."""
        return [json.loads(line) for line in self.ledger.read_text(encoding="utf-8").splitlines()]
