"""A private Postfix (3.7 in Debian 12): smtpd on many ports, delivery into Maildirs.

| port | what is different there |
|---|---|
| `port` | everything: PIPELINING, CHUNKING, DSN, SMTPUTF8, VRFY, STARTTLS, AUTH before and after it |
| `tls_port` | implicit TLS; asks for a client certificate and writes into Received who it was |
| `lockstep_port` | neither PIPELINING nor CHUNKING |
| `bare_port` | no extension but PIPELINING and ENHANCEDSTATUSCODES |
| `strict_port` | closes with 421 after 5 s of silence, and at the 4th error; 452 for the 6th recipient |
| `limited_port` | 421 as its greeting to the 3rd parallel connection |
| `small_port` | advertises the size limit of the others and refuses 100 KiB at the end of data |
| `mutual_port` | STARTTLS is compulsory, and so is a client certificate of the authority |
| `tls12_port`, `tls12_implicit_port` | TLS 1.2 and no other |
| `tls11_port`, `tls11_implicit_port` | TLS 1.1 and no other |

Who asks by SNI for one of the names of `Certificates.chains`, on any port, is shown that certificate.

`user1@lab.test` to `user9@lab.test` and `jörg@lab.test` have mailboxes, everybody else there is 550 at RCPT. Who has
given a password may send anywhere (it goes nowhere); others get 554 for other domains. The senders `mail421@lab.test`
and `eod421@`, `eod450@`, `eod550@` get that code at MAIL or after the end of data, the recipients `rcpt421@`,
`rcpt450@`, `rcpt451@`, `rcpt552@` at RCPT; a 421 closes. `fails@` is accepted and then bounced.

AUTH is asked of a Dovecot. Mail comes out as it went in, with two exceptions that no setting turns off: a line that
is no header field gets an empty line in front of it, where none ended the headers before, and by DATA a first line
that begins with `From ` becomes `X-Mailbox-Line: From `. Header fields over 100 KiB are cut.
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from .daemon import HOST, Daemon, accepts, free_ports, greets, until
from .servers import DOMAIN, HOSTNAME, MailServer

if TYPE_CHECKING:
    from .certificates import Certificates

SIZE_LIMIT = 20 * 1024 * 1024
_LIBEXEC = Path("/usr/lib/postfix/sbin")
_QUEUES = ("active", "bounce", "corrupt", "defer", "deferred", "flush", "hold", "incoming", "saved", "trace", "private")

_MAIN = """\
compatibility_level = 3.6
queue_directory = {directory}/spool
data_directory = {directory}/data
command_directory = /usr/sbin
daemon_directory = {libexec}
shlib_directory = /usr/lib/postfix
meta_directory = {directory}/etc
maillog_file = {directory}/log/maillog
maillog_file_prefixes = {directory}/log
myhostname = {hostname}
mydestination =
mynetworks =
inet_interfaces = {host}
inet_protocols = ipv4
alias_maps =
alias_database =
default_transport = discard:
relay_transport = discard:
local_transport = discard:
smtputf8_enable = yes

# Mailboxes
virtual_mailbox_domains = {domain}
virtual_mailbox_base = {directory}/mail
virtual_mailbox_maps = texthash:{directory}/etc/mailboxes
transport_maps = inline:{{ {{ fails@{domain} = nobody: }} }}
virtual_uid_maps = static:65534
virtual_gid_maps = static:65534
virtual_minimum_uid = 1
virtual_mailbox_limit = 0
mailbox_size_limit = 0
message_size_limit = {size}

# Content comes out as it went in
local_header_rewrite_clients =
message_drop_headers =
disable_mime_output_conversion = yes

# The same as defaults except for what would make tests of one client wait for each other
smtpd_client_connection_count_limit = 0
smtpd_client_connection_rate_limit = 0
smtpd_client_message_rate_limit = 0
smtpd_client_event_limit_exceptions =
smtpd_peername_lookup = no
smtpd_discard_ehlo_keywords =
smtpd_relay_restrictions = permit_sasl_authenticated, reject_unauth_destination
smtpd_delay_reject = no
smtpd_sender_restrictions = check_sender_access inline:{{ {{ mail421@{domain} = 421 4.3.2 not now }} }}
smtpd_recipient_restrictions = check_recipient_access texthash:{directory}/etc/recipients
smtpd_end_of_data_restrictions = check_sender_access texthash:{directory}/etc/end-of-data

smtpd_tls_security_level = may
smtpd_tls_chain_files = {key}, {certificate}
smtpd_tls_loglevel = 1
tls_server_sni_maps = texthash:{directory}/etc/chains
smtpd_sasl_auth_enable = yes
smtpd_sasl_type = dovecot
smtpd_sasl_path = {auth_socket}
smtpd_sasl_security_options = noanonymous
smtpd_tls_auth_only = no
"""

_MASTER = """\
{host}:{port}          inet  n - n - 100 smtpd
{host}:{tls_port}      inet  n - n - 100 smtpd -o smtpd_tls_wrappermode=yes -o smtpd_tls_ask_ccert=yes
  -o smtpd_tls_received_header=yes -o smtpd_tls_CAfile={ca}
{host}:{lockstep_port} inet  n - n - 100 smtpd -o smtpd_discard_ehlo_keywords=pipelining,chunking
{host}:{bare_port}     inet  n - n - 100 smtpd -o smtpd_sasl_auth_enable=no -o smtpd_tls_security_level=none
  -o smtpd_discard_ehlo_keywords=size,vrfy,etrn,8bitmime,dsn,smtputf8,chunking
{host}:{strict_port}   inet  n - n - 100 smtpd -o smtpd_timeout=5s -o smtpd_hard_error_limit=3
  -o smtpd_recipient_limit=5 -o smtpd_recipient_overshoot_limit=5 -o smtpd_error_sleep_time=0
{host}:{limited_port}  inet  n - n - 100 smtpd -o smtpd_client_connection_count_limit=2
{host}:{small_port}    inet  n - n - 100 smtpd -o cleanup_service_name=small
{host}:{mutual_port}   inet  n - n - 100 smtpd -o smtpd_tls_security_level=encrypt -o smtpd_tls_req_ccert=yes
  -o smtpd_tls_received_header=yes -o smtpd_tls_CAfile={ca}
{host}:{tls12_port}    inet  n - n - 100 smtpd {tls12}
{host}:{tls12_implicit_port} inet n - n - 100 smtpd -o smtpd_tls_wrappermode=yes {tls12}
{host}:{tls11_port}    inet  n - n - 100 smtpd {tls11}
{host}:{tls11_implicit_port} inet n - n - 100 smtpd -o smtpd_tls_wrappermode=yes {tls11}
pickup   unix  n - n 60   1 pickup
cleanup  unix  n - n -    0 cleanup
small    unix  n - n -    0 cleanup -o message_size_limit=102400
qmgr     unix  n - n 300  1 qmgr
tlsmgr   unix  - - n 1000? 1 tlsmgr
rewrite  unix  - - n -    - trivial-rewrite
bounce   unix  - - n -    0 bounce
defer    unix  - - n -    0 bounce
trace    unix  - - n -    0 bounce
verify   unix  - - n -    1 verify
flush    unix  n - n 1000? 0 flush
proxymap unix  - - n -    - proxymap
showq    unix  n - n -    - showq
error    unix  - - n -    - error
retry    unix  - - n -    - error
discard  unix  - - n -    - discard
virtual  unix  - n n -    - virtual
nobody   unix  - n n -    - virtual -o virtual_mailbox_maps=inline:{{other@{domain}=other/}}
anvil    unix  - - n -    1 anvil
scache   unix  - - n -    1 scache
postlog  unix-dgram n - n - 1 postlogd
"""

_PORTS = (
    "port",
    "tls_port",
    "lockstep_port",
    "bare_port",
    "strict_port",
    "limited_port",
    "small_port",
    "mutual_port",
    "tls12_port",
    "tls12_implicit_port",
    "tls11_port",
    "tls11_implicit_port",
)
_COMMANDS = re.compile(r"(\w+)=(\d+)(?:/(\d+))?")


def _only(version: str, *others: str) -> str:
    """Return the options of an smtpd that speaks one version of TLS, whether TLS is compulsory or not."""
    names = ("smtpd_tls_protocols", "smtpd_tls_mandatory_protocols")
    return " ".join([*(f"-o {name}={version}" for name in names), *(f"-o {other}" for other in others)])


def _access(prefix: str, *codes: str) -> str:
    """Return a table for access(5): the address `prefix` with a code at its end gets that code."""
    return "".join(f"{prefix}{code}@{DOMAIN} {code} {code[0]}.3.0 as you asked\n" for code in codes)


class Postfix(MailServer):
    """A Postfix of our own; see the head of the module for its ports and users."""

    name = "Postfix"
    package = "postfix"
    trace = (b"Return-Path", b"X-Original-To", b"Delivered-To", b"Received")
    users = tuple(f"user{number}@{DOMAIN}" for number in range(1, 10))
    unicode_user = f"j\u00f6rg@{DOMAIN}"
    failing = f"fails@{DOMAIN}"

    def __init__(self, certificates: Certificates, auth_socket: str) -> None:
        super().__init__(certificates)
        self.auth_socket = auth_socket
        self.port = self.tls_port = self.lockstep_port = self.strict_port = self.limited_port = self.small_port = 0
        self.bare_port = 0
        self.mutual_port = self.tls12_port = self.tls12_implicit_port = self.tls11_port = self.tls11_implicit_port = 0

    @classmethod
    def programs(cls) -> tuple[Path, ...]:
        return Path("/usr/sbin/postfix"), _LIBEXEC / "master"

    def configure(self) -> Daemon:
        ports = dict(zip(_PORTS, free_ports(len(_PORTS)), strict=True))
        vars(self).update(ports)
        etc = self.directory / "etc"
        self._make_directories()
        (etc / "main.cf").write_text(
            _MAIN.format(
                directory=self.directory,
                libexec=_LIBEXEC,
                hostname=HOSTNAME,
                host=HOST,
                domain=DOMAIN,
                size=SIZE_LIMIT,
                key=self.certificates.server_key,
                certificate=self.certificates.server_certificate,
                auth_socket=self.auth_socket,
            ),
            encoding="ascii",
        )
        (etc / "master.cf").write_text(
            _MASTER.format(
                host=HOST,
                **ports,
                tls12=_only("TLSv1.2"),
                # OpenSSL 3 speaks 1.1 at security level 0 only.
                tls11=_only("TLSv1.1", "tls_medium_cipherlist=DEFAULT@SECLEVEL=0"),
                domain=DOMAIN,
                ca=self.certificates.ca_path,
            ),
            encoding="ascii",
        )
        chains = self.certificates.chains
        (etc / "chains").write_text("".join(f"{name} {path}\n" for name, path in chains.items()), encoding="ascii")
        mailboxes = [*self.users, self.unicode_user, self.failing]
        (etc / "mailboxes").write_text("".join(f"{user} {user.partition('@')[0]}/\n" for user in mailboxes), "utf-8")
        (etc / "recipients").write_text(_access("rcpt", "421", "450", "451", "552"), encoding="ascii")
        (etc / "end-of-data").write_text(_access("eod", "421", "450", "550"), encoding="ascii")
        for written in etc.iterdir():
            # Postfix waits until what it reads is two seconds old, lest somebody is still writing it.
            os.utime(written, (0, 0))
        # Not `postfix start-fg`: below its shell, master has a session of its own and outlives a signal to the shell.
        return Daemon([str(_LIBEXEC / "master"), "-s", "-c", str(etc)], self.directory / "log" / "output")

    def _make_directories(self) -> None:
        spool = self.directory / "spool"
        for directory in (self.directory / "etc", self.directory / "log", spool, spool / "pid", self.mail_directory):
            directory.mkdir(exist_ok=True)
        (self.directory / "etc" / "dynamicmaps.cf").touch()
        shutil.copy("/etc/postfix/postfix-files", self.directory / "etc")
        shutil.chown(self.mail_directory, 65534, 65534)
        for name in _QUEUES:
            self._make_private(spool / name, 0o700)
        self._make_private(self.directory / "data", 0o700)
        self._make_private(spool / "public", 0o710, "postdrop")
        self._make_private(spool / "maildrop", 0o730, "postdrop")

    @staticmethod
    def _make_private(directory: Path, mode: int, group: str | None = None) -> None:
        directory.mkdir(exist_ok=True)
        shutil.chown(directory, "postfix", group)
        directory.chmod(mode)

    def is_ready(self) -> bool:
        return greets(self.port) and all(accepts(getattr(self, name)) for name in _PORTS)

    def log(self) -> str:
        maillog = self.directory / "log" / "maillog"
        return maillog.read_text(encoding="utf-8", errors="replace") if maillog.exists() else ""

    def commands_of(self, address: str, timeout: float = 10.0) -> dict[str, tuple[int, int]]:
        """Return what the one client of a loopback address has sent by the end of its connection.

        For each command, in lower case and as smtpd counts it: how often it came, and how often it succeeded.

        Raises:
            TimeoutError: The connection did not end within `timeout` seconds.
        """
        end = re.compile(rf" disconnect from unknown\[{re.escape(address)}\] (.*)")
        if not until(lambda: end.search(self.log()) is not None, timeout):
            raise TimeoutError(f"no end of the connection from {address} in {timeout} s; {self.log()[-2000:]}")
        (counted,) = end.findall(self.log())
        return {command: (int(total or good), int(good)) for command, good, total in _COMMANDS.findall(counted)}

    def is_done_with(self, queue_id: str) -> bool:
        """Whether a mail has left the queue: delivered or bounced, and every notification about it has been sent."""
        return f" {queue_id}: removed" in self.log()

    def reports_about(self, queue_id: str) -> int:
        """Return how many notifications about a mail have been written; final once `is_done_with` it."""
        return len(re.findall(rf" {queue_id}: (?:sender|postmaster) .*notification: ", self.log()))
