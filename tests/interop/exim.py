"""A private Exim (4.96 in Debian 12) beside Postfix: SMTP on three ports, delivery into Maildirs.

| port | what it is |
|---|---|
| `port` | SMTP with STARTTLS; AUTH PLAIN, LOGIN, XOAUTH2 and OAUTHBEARER before and after it |
| `tls_port` | the same under implicit TLS |
| `strict_port` | 421 and EOF after 5 s of silence; 421 at the 3rd MAIL of a connection, which stays open |

Exim's own limits are kept, because clients meet them: 10 commands without mail per connection, of mails beyond the
10th in a connection each is queued instead of delivered at once (our queue is run every second), 3 unknown commands,
3 syntax errors.

`user1@lab.test` to `user9@lab.test` and `jörg@lab.test` have mailboxes, everybody else there is 550 at RCPT. Who has
given a password may send anywhere (it goes nowhere); others get 550 for other domains. Mail comes out as it went in,
with one exception: headers without an empty line behind them are given one, and a mail without any begins with one.
`fails@` is accepted and then bounced, `list@` are user1 and user2.

XOAUTH2 and OAUTHBEARER compare their first response, octet for octet, with that of the user of `LOGIN` and `TOKEN`;
another one is 535 at once, without the challenge that says why. PLAIN takes an authzid from `BOSS`; the log shows it.
The answer to QUIT takes 0.2 s, because Exim waits that long for the client to close first.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from .daemon import HOST, Daemon, accepts, free_ports, greets
from .servers import BOSS, DOMAIN, HOSTNAME, LOGIN, UNICODE_LOGIN, MailServer

if TYPE_CHECKING:
    from .certificates import Certificates

TOKEN = "exim.has-no~idea+of/tokens="
"""The bearer token of the user of `LOGIN`: every character that RFC 6750 2.1 allows besides letters and digits."""

SIZE_LIMIT = 20 * 1024 * 1024
_USER = "Debian-exim"
_ROOT = Path(os.environ.get("SMTPCONN_EXIM_ROOT", "/opt/smtpconn-exim"))

_CONFIGURATION = r"""
exim_path = {program}
exim_user = Debian-exim
exim_group = Debian-exim
never_users =
deliver_drop_privilege = true
keep_environment =
spool_directory = {directory}/spool
log_file_path = {directory}/log/%slog
pid_file_path = {directory}/exim.pid
primary_hostname = {hostname}
qualify_domain = {domain}
message_size_limit = {size}

daemon_smtp_ports = {port} : {tls_port} : {strict_port}
local_interfaces = {host}
tls_on_connect_ports = {tls_port}
tls_advertise_hosts = *
tls_certificate = {certificate}
tls_privatekey = {key}

# No DNS
host_lookup =
helo_lookup_domains =
rfc1413_hosts =
disable_ipv6 = true
smtp_accept_max = 100
smtp_receive_timeout = ${{if eq{{$received_port}}{{{strict_port}}}{{5s}}{{5m}}}}
smtp_accept_max_per_connection = ${{if eq{{$received_port}}{{{strict_port}}}{{2}}{{1000}}}}
dsn_advertise_hosts = *
prdr_enable = true
smtputf8_advertise_hosts = *

# Headers that the client sent stay in the mail
return_path_remove = false
envelope_to_remove = false
delivery_date_remove = false

domainlist local_domains = {domain}
localpartlist mailboxes = fails : list : {mailboxes}
acl_smtp_rcpt = check_recipient
acl_smtp_vrfy = accept
acl_smtp_expn = accept
acl_smtp_etrn = deny

begin acl
check_recipient:
  accept authenticated = *
  deny   !domains = +local_domains
         message = relay not permitted
  deny   !local_parts = +mailboxes
         message = no such user here
  accept

begin routers
elsewhere:
  driver = redirect
  domains = !+local_domains
  data = :blackhole:
list:
  driver = redirect
  domains = +local_domains
  local_parts = list
  data = user1@{domain}, user2@{domain}
fails:
  driver = redirect
  domains = +local_domains
  local_parts = fails
  allow_fail
  data = :fail: this mailbox is closed
mailbox:
  driver = accept
  domains = +local_domains
  local_parts = +mailboxes
  transport = maildir

begin transports
maildir:
  driver = appendfile
  maildir_format
  directory = {directory}/mail/$local_part_data
  create_directory
  user = Debian-exim
  group = Debian-exim
  delivery_date_add
  envelope_to_add
  return_path_add

begin retry
* * F,1h,1s

begin authenticators
plain:
  driver = plaintext
  public_name = PLAIN
  server_prompts = :
  server_condition = {plain_condition}
  server_set_id = ${{if eq{{$auth1}}{{}}{{$auth2}}{{$auth1 by $auth2}}}}
login:
  driver = plaintext
  public_name = LOGIN
  server_prompts = Username:: : Password::
  server_condition = {login_condition}
  server_set_id = $auth1
xoauth2:
  driver = plaintext
  public_name = XOAUTH2
  server_prompts = :
  server_condition = ${{if eq{{$auth1}}{{user={user}\x01auth=Bearer {token}\x01\x01}}}}
  server_set_id = {user}
oauthbearer:
  driver = plaintext
  public_name = OAUTHBEARER
  server_prompts = :
  server_condition = ${{if eq{{$auth1}}{{n,a={user},\x01auth=Bearer {token}\x01\x01}}}}
  server_set_id = {user}
"""


def _condition(user: str, password: str) -> str:
    checks = [
        f"and{{{{eq{{{user}}}{{{name}}}}}{{eq{{{password}}}{{{secret}}}}}}}"
        for name, secret in (LOGIN, UNICODE_LOGIN, BOSS)
    ]
    return "${if or{" + "".join(f"{{{check}}}" for check in checks) + "}}"


class Exim(MailServer):
    """An Exim of our own; see the head of the module for its ports and users."""

    name = "Exim"
    package = "exim4-daemon-light"
    trace = (b"Return-path", b"Envelope-to", b"Delivery-date", b"Received")
    users = tuple(f"user{number}@{DOMAIN}" for number in range(1, 10))
    unicode_user = f"j\u00f6rg@{DOMAIN}"
    failing = f"fails@{DOMAIN}"
    program = _ROOT / "usr/sbin/exim4"

    def __init__(self, certificates: Certificates) -> None:
        super().__init__(certificates)
        self.port = self.tls_port = self.strict_port = 0

    @classmethod
    def programs(cls) -> tuple[Path, ...]:
        return (cls.program,)

    def configure(self) -> Daemon:
        self.port, self.tls_port, self.strict_port = free_ports(3)
        for name in ("spool", "log", "mail"):
            (self.directory / name).mkdir(exist_ok=True)
            shutil.chown(self.directory / name, _USER, _USER)
        # Exim reads them as its own user, from whom root's directory of certificates is closed.
        certificate = shutil.copy(self.certificates.server_certificate, self.directory / "server.pem")
        key = shutil.copy(self.certificates.server_key, self.directory / "server.key")
        shutil.chown(key, _USER, _USER)
        configuration = self.directory / "exim.conf"
        configuration.write_text(
            _CONFIGURATION.format(
                program=self.program,
                directory=self.directory,
                hostname=HOSTNAME,
                domain=DOMAIN,
                host=HOST,
                size=SIZE_LIMIT,
                port=self.port,
                tls_port=self.tls_port,
                strict_port=self.strict_port,
                certificate=certificate,
                key=key,
                mailboxes=" : ".join(user.partition("@")[0] for user in (*self.users, self.unicode_user)),
                user=LOGIN[0],
                token=TOKEN,
                plain_condition=_condition("$auth2", "$auth3"),
                login_condition=_condition("$auth1", "$auth2"),
            ),
            encoding="utf-8",
        )
        argv = [str(self.program), "-C", str(configuration), "-bdf", "-q1s"]
        return Daemon(argv, self.directory / "output")

    def is_ready(self) -> bool:
        others = (self.tls_port, self.strict_port)
        return greets(self.port) and all(accepts(port) for port in others)

    def log(self) -> str:
        logs = [self.directory / "log" / f"{name}log" for name in ("main", "reject", "panic")]
        return "".join(log.read_text(encoding="utf-8", errors="replace") for log in logs if log.exists())

    def is_done_with(self, queue_id: str) -> bool:
        """Whether a mail has left the queue: delivered or bounced, and every notification about it has been sent."""
        return f" {queue_id} Completed" in self.log()

    def reports_about(self, queue_id: str) -> int:
        """Return how many notifications about a mail have been written; final once `is_done_with` it."""
        return self.log().count(f" <= <> R={queue_id} ")
