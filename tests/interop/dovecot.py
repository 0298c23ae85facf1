"""A private Dovecot (2.3 in Debian 12): LMTP on TCP and on a Unix socket, AUTH for our Postfix; and, apart, submission.

| address | what it is |
|---|---|
| `port` | LMTP with STARTTLS |
| `tls_port` | LMTP under implicit TLS |
| `unix_socket` | LMTP on a Unix socket, with STARTTLS |
| `auth_socket` | what Postfix asks for AUTH: PLAIN, LOGIN, SCRAM-SHA-256, XOAUTH2, OAUTHBEARER |

`alice@lab.test`, `bob@`, `carol@`, `dave@` take mail; `full@` is over its quota (552 at the end of data), `broken@`
has a home where nothing can be written (451 at the end of data), everybody else is 550 at RCPT. Mail comes out as it
went in, headers or not; behind BDAT even without a final CRLF.

`DovecotSubmission` is another Dovecot with nothing but the submission service, which hands each command on to our
Postfix, so that its mail is found there. It wants AUTH before MAIL. It advertises SIZE without a number.

Both know `LOGIN`, `UNICODE_LOGIN`, and `BOSS`, who may name the user of `LOGIN` as his authzid. Bearer tokens are JSON
Web Tokens, checked here without asking anybody: `bearer_token` makes them.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING

from .daemon import HOST, Daemon, accepts, free_ports, greets
from .postfix import Postfix
from .servers import BOSS, DOMAIN, HOSTNAME, LOGIN, UNICODE_LOGIN, MailServer

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .certificates import Certificates

_COMMON = """\
base_dir = {directory}/run
state_dir = {directory}/state
log_path = {directory}/dovecot.log
info_log_path = {directory}/dovecot.log
listen = {host}
hostname = {hostname}
first_valid_uid = 1
default_process_limit = 100
shutdown_clients = yes

ssl = yes
ssl_cert = <{certificate}
ssl_key = <{key}

auth_mechanisms = plain login scram-sha-256 oauthbearer xoauth2
auth_username_format = %Ln
auth_failure_delay = 0
disable_plaintext_auth = no
passdb {{
  driver = oauth2
  mechanisms = oauthbearer xoauth2
  args = {directory}/oauth2.conf
}}
passdb {{
  driver = passwd-file
  args = {directory}/masters
  master = yes
}}
passdb {{
  driver = passwd-file
  args = {directory}/users
}}
userdb {{
  driver = passwd-file
  args = {directory}/users
}}
# No penalty for wrong passwords: one test's must not slow down the next one's.
service anvil {{
  unix_listener anvil-auth-penalty {{
    mode = 0
  }}
}}
service stats {{
  unix_listener stats-writer {{
    mode = 0666
  }}
}}
"""

_OAUTH2 = """\
introspection_mode = local
local_validation_key_dict = fs:posix:prefix={directory}/keys/
username_attribute = sub
"""
_SIGNING_KEY = b"known to who makes the tokens and who checks them"

_LMTP = """\
protocols = lmtp
mail_location = maildir:~
mail_plugins = quota
mail_fsync = never
plugin {{
  quota = maildir:User quota
}}
service auth {{
  unix_listener {directory}/auth {{
    mode = 0666
  }}
}}
service lmtp {{
  inet_listener lmtp {{
    port = {port}
  }}
  inet_listener lmtps {{
    port = {tls_port}
    ssl = yes
  }}
  unix_listener {directory}/lmtp {{
    mode = 0666
  }}
}}
"""


_SUBMISSION = """\
protocols = submission
mail_location = maildir:~
submission_relay_host = {host}
submission_relay_port = {relay_port}
service submission-login {{
  inet_listener submission {{
    port = {port}
  }}
  inet_listener submissions {{
    port = {tls_port}
    ssl = yes
  }}
}}
"""


def bearer_token(user: str = LOGIN[0], *, lifetime: float = 3600.0) -> str:
    """Return a token for a user, good for so many seconds: a JSON Web Token with HMAC-SHA-256 (RFC 7519)."""
    now = int(time.time())
    parts = [{"alg": "HS256", "typ": "JWT"}, {"sub": user, "iat": now - 7200, "exp": int(now + lifetime)}]
    signed = b".".join(_base64url(json.dumps(part).encode()) for part in parts)
    return (signed + b"." + _base64url(hmac.digest(_SIGNING_KEY, signed, hashlib.sha256))).decode()


def _base64url(octets: bytes) -> bytes:
    return base64.urlsafe_b64encode(octets).rstrip(b"=")


class _PrivateDovecot(MailServer):
    """What both have in common: passwords, TLS, the log."""

    def _daemon_of(self, services: str) -> Daemon:
        configuration = self.directory / "dovecot.conf"
        common = _COMMON.format(
            directory=self.directory,
            host=HOST,
            hostname=HOSTNAME,
            certificate=self.certificates.server_certificate,
            key=self.certificates.server_key,
        )
        configuration.write_text(common + services, encoding="ascii")
        (self.directory / "oauth2.conf").write_text(_OAUTH2.format(directory=self.directory), encoding="ascii")
        keys = self.directory / "keys" / "default" / "HS256"
        keys.mkdir(parents=True, exist_ok=True)
        (keys / "default").write_bytes(base64.b64encode(_SIGNING_KEY))
        return Daemon(["/usr/sbin/dovecot", "-F", "-c", str(configuration)], self.directory / "output")

    def _write_users(self, mailboxes: Iterable[str] = ()) -> None:
        """Write the file of passwords and users; see passwd-file in Dovecot's manual for its fields."""
        homes = self.directory / "mail"
        homes.mkdir(exist_ok=True)
        shutil.chown(homes, 65534, 65534)
        lines = [
            f"{user}:{{PLAIN}}{password}:65534:65534::{homes}/{user}::" for user, password in (LOGIN, UNICODE_LOGIN)
        ]
        lines += [f"{user}::65534:65534::{homes}/{user}::" for user in mailboxes]
        lines += [
            f"full::65534:65534::{homes}/full::userdb_quota_rule=*:bytes=1",
            "broken::65534:65534::/proc/nonexistent::",
        ]
        (self.directory / "users").write_text("\n".join(lines) + "\n", encoding="utf-8")
        (self.directory / "masters").write_text(f"{BOSS[0]}:{{PLAIN}}{BOSS[1]}::::::\n", encoding="utf-8")

    def log(self) -> str:
        log = self.directory / "dovecot.log"
        return log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""


class Dovecot(_PrivateDovecot):
    """A Dovecot of our own with LMTP; see the head of the module for its addresses and users."""

    name = "Dovecot"
    package = "dovecot-lmtpd"
    trace = (b"Return-Path", b"Delivered-To", b"Received")
    trace_of_one = frozenset({b"Delivered-To"})
    users = tuple(f"{user}@{DOMAIN}" for user in ("alice", "bob", "carol", "dave"))
    completes_last_chunk = False
    full = f"full@{DOMAIN}"
    broken = f"broken@{DOMAIN}"

    def __init__(self, certificates: Certificates) -> None:
        super().__init__(certificates)
        self.port = self.tls_port = 0
        self.unix_socket = str(self.directory / "lmtp")
        self.auth_socket = str(self.directory / "auth")

    @classmethod
    def programs(cls) -> tuple[Path, ...]:
        return Path("/usr/sbin/dovecot"), Path("/usr/lib/dovecot/lmtp")

    def configure(self) -> Daemon:
        self.port, self.tls_port = free_ports(2)
        self._write_users(user.partition("@")[0] for user in self.users)
        return self._daemon_of(_LMTP.format(directory=self.directory, port=self.port, tls_port=self.tls_port))

    def is_ready(self) -> bool:
        return greets(self.port) and all(accepts(at) for at in (self.tls_port, self.unix_socket, self.auth_socket))


class DovecotSubmission(_PrivateDovecot):
    """Dovecot's submission service in front of a Postfix; its users and their mailboxes are Postfix's."""

    name = "Dovecot submission"
    package = "dovecot-submissiond"
    trace = (*Postfix.trace, b"Received")
    users = Postfix.users

    def __init__(self, certificates: Certificates, relay: Postfix) -> None:
        super().__init__(certificates)
        self.port = self.tls_port = 0
        self.relay = relay
        self.mail_directory = relay.mail_directory

    @classmethod
    def programs(cls) -> tuple[Path, ...]:
        return Path("/usr/sbin/dovecot"), Path("/usr/lib/dovecot/submission")

    def configure(self) -> Daemon:
        self.port, self.tls_port = free_ports(2)
        self._write_users()
        services = _SUBMISSION.format(host=HOST, relay_port=self.relay.port, port=self.port, tls_port=self.tls_port)
        return self._daemon_of(services)

    def is_ready(self) -> bool:
        return greets(self.port) and accepts(self.tls_port)
