"""What the real mail servers of the tests have in common: a private directory, one daemon, Maildirs to read back from.

Knows Maildirs and the headers that a server puts on top of a mail; knows no server's configuration (`postfix`,
`dovecot`, `exim` do). Its laws: everything listens on 127.0.0.1 or a Unix socket below a directory of its own in
/tmp; nothing of the machine's own mail system is read or written; what a server stores comes back by `original` as
the octets that were sent.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from abc import ABC, abstractmethod
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, TypeVar

import pytest

from .daemon import HOST, Daemon, DaemonError, until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from .certificates import Certificates

ServerT = TypeVar("ServerT", bound="MailServer")

DOMAIN = "lab.test"
HOSTNAME = "mail.lab.test"
UNKNOWN = "unknown@lab.test"
"""Nobody on any of the servers: 550 at RCPT."""

LOGIN = ("tester", "correct horse 4 battery")
"""User and password of every server that offers AUTH."""
UNICODE_LOGIN = ("unicode", "p\u00e4ssw\u00f6rd \u20ac")
"""The same with a password that is UTF-8 on the wire, and its own SASLprep form."""
BOSS = ("boss", "the boss's own")
"""Who may say by PLAIN's authzid that he acts for the user of `LOGIN`."""

_INSTALL = "install it with .ci/servers (root, Debian 12)"


class MissingServerError(Exception):
    """A server cannot run here; the message says what is missing and how to get it."""


def without_header(stored: bytes, name: bytes) -> bytes:
    """Return a stored mail without its first header, which must be called `name`, its continuation lines included."""
    lines = stored.split(b"\n")
    if not lines[0].lower().startswith(name.lower() + b":"):
        raise ValueError(f"expected {name!r} on top of the stored mail, found {lines[0][:80]!r}")
    end = 1
    while end < len(lines) and lines[end][:1] in (b" ", b"\t"):
        end += 1
    return b"\n".join(lines[end:])


def header_block(stored: bytes) -> bytes:
    """Return the headers of a stored mail, up to its first empty line."""
    return stored.partition(b"\n\n")[0]


def _headers_of(stored: Path) -> bytes:
    """Return the headers of a mail in a file, without reading all of a large one."""
    head = b""
    with stored.open("rb") as file:
        while b"\n\n" not in head and (more := file.read(65_536)):
            head += more
    return header_block(head)


@contextmanager
def running(make: Callable[[], ServerT], server_type: type[ServerT]) -> Iterator[ServerT]:
    """Run the server that `make` gives.

    Where it cannot run here, the test is skipped; with SMTPCONN_REQUIRE_SERVERS=1 it fails.
    """
    try:
        server_type.require()
    except MissingServerError as error:
        if os.environ.get("SMTPCONN_REQUIRE_SERVERS") == "1":
            pytest.fail(f"{error} (SMTPCONN_REQUIRE_SERVERS=1)", pytrace=False)
        pytest.skip(str(error))
    with make() as server:
        yield server


class MailServer(ABC):
    """One real server: started by `start`, read from by the methods about mail, ended by `stop`.

    A user may be written as an address or as its local part.
    """

    name: ClassVar[str]
    package: ClassVar[str]
    trace: ClassVar[tuple[bytes, ...]]
    """The headers put on top of a mail at delivery, in order."""
    trace_of_one: ClassVar[frozenset[bytes]] = frozenset()
    """Those of them that a mail to several recipients does not get."""
    users: ClassVar[tuple[str, ...]]
    """Addresses that take mail."""
    completes_last_chunk: ClassVar[bool] = True
    """Whether a mail that comes by BDAT without a final CRLF is given one."""

    port: int
    """Where the server listens without TLS, and offers STARTTLS."""
    tls_port: int
    host = HOST
    tls_name = HOSTNAME
    """A name that the certificate is good for; `host` is another."""

    def __init__(self, certificates: Certificates) -> None:
        self.certificates = certificates
        # A short path: a Unix socket's has at most 107 octets.
        self.directory = Path(tempfile.mkdtemp(prefix="sc-", dir="/tmp"))
        self.directory.chmod(0o755)
        self.mail_directory = self.directory / "mail"
        self._daemon: Daemon | None = None
        self._headers: dict[Path, bytes] = {}

    @property
    def ca_path(self) -> str:
        """The file with the authority to trust, in PEM."""
        return str(self.certificates.ca_path)

    @classmethod
    @abstractmethod
    def programs(cls) -> tuple[Path, ...]:
        """The files without which this server cannot run."""

    @classmethod
    def require(cls) -> None:
        """Make sure that the server can run here.

        Raises:
            MissingServerError: It is not installed, or we are not root.
        """
        for program in cls.programs():
            if not program.exists():
                raise MissingServerError(f"{program} of Debian's package {cls.package} is not there: {_INSTALL}")
        if os.geteuid() != 0:
            raise MissingServerError(f"only root can start {cls.name}: it changes to users of its own")

    @abstractmethod
    def configure(self) -> Daemon:
        """Choose ports, write the configuration, and return the daemon to start; called again if a start failed."""

    @abstractmethod
    def is_ready(self) -> bool:
        """Whether every port answers."""

    @abstractmethod
    def log(self) -> str:
        """Everything that the server has logged so far."""

    def start(self) -> None:
        """Start the server, and return when it answers on every port.

        Raises:
            DaemonError: It did not start in three attempts, each with other ports.
        """
        for attempt in range(3):
            self._daemon = self.configure()
            try:
                self._daemon.start(self.is_ready)
            except DaemonError as error:
                # Somebody may have taken a port between our look and the server's bind.
                if attempt == 2:
                    raise DaemonError(f"{error}\n{self.log()[-4000:]}") from error
            else:
                return

    def stop(self) -> None:
        """End the server with all its processes, and remove its directory."""
        if self._daemon is not None:
            self._daemon.stop()
        shutil.rmtree(self.directory)

    def __enter__(self: ServerT) -> ServerT:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    # --- what has arrived

    def _stored_files(self, user: str) -> list[Path]:
        home = self.mail_directory / user.partition("@")[0]
        files = [entry for folder in ("new", "cur") if (home / folder).is_dir() for entry in (home / folder).iterdir()]
        return sorted(files, key=lambda entry: (entry.stat().st_mtime_ns, entry.name))

    def mailbox(self, user: str) -> list[bytes]:
        """Return every mail of a user as it is stored, the oldest first."""
        return [entry.read_bytes() for entry in self._stored_files(user)]

    def find_mail(self, user: str, message_id: str) -> list[bytes]:
        """Return those mails of a user that have `message_id` in their headers: two, if one was delivered twice."""
        found = []
        for entry in self._stored_files(user):
            # What is in a Maildir is complete and never changes.
            if entry not in self._headers:
                self._headers[entry] = _headers_of(entry)
            if message_id.encode() in self._headers[entry]:
                found.append(entry.read_bytes())
        return found

    def wait_for_mail(self, user: str, message_id: str, timeout: float = 15.0) -> bytes:
        """Return the mail with `message_id` in its headers as it is stored, as soon as it is there.

        Raises:
            TimeoutError: It did not arrive within `timeout` seconds; the message ends with the server's log.
        """
        if not until(lambda: bool(self.find_mail(user, message_id)), timeout):
            raise TimeoutError(f"no {message_id} for {user} in {timeout} s; {self.name}: {self.log()[-2000:]}")
        return self.find_mail(user, message_id)[0]

    def wait_for_mails(self, user: str, count: int, timeout: float = 15.0) -> list[bytes]:
        """Return a user's mails as they are stored, as soon as there are `count`; for mails without a Message-ID.

        Raises:
            TimeoutError: There were fewer after `timeout` seconds.
        """
        if not until(lambda: len(self._stored_files(user)) >= count, timeout):
            found = len(self._stored_files(user))
            raise TimeoutError(f"{found} of {count} mails for {user} in {timeout} s; {self.log()[-2000:]}")
        return self.mailbox(user)

    @classmethod
    def original(cls, stored: bytes, message_id: str | None = None) -> bytes:
        """Return the octets that were sent: without the trace headers of this server, and with CRLF at line ends.

        With `message_id` it is an error if what is left does not have it in its headers. Compare with `expected`.
        """
        for name in cls.trace:
            if name not in cls.trace_of_one or stored.lower().startswith(name.lower() + b":"):
                stored = without_header(stored, name)
        if message_id is not None and message_id.encode() not in header_block(stored):
            raise ValueError(f"{message_id} is not in the headers of {stored[:200]!r}")
        return stored.replace(b"\n", b"\r\n")

    @classmethod
    def expected(cls, sent: bytes, *, chunked: bool = False) -> bytes:
        """Return what `original` gives back of a mail that was sent: a CRLF more, where its last line lacks it.

        DATA cannot do without it, and behind BDAT (`chunked`) most servers add it.
        """
        incomplete = sent != b"" and not sent.endswith(b"\r\n")
        return sent + b"\r\n" if incomplete and (cls.completes_last_chunk or not chunked) else sent

    @staticmethod
    def envelope_sender(stored: bytes) -> str:
        """Return the reverse-path that the mail arrived with, without angle brackets."""
        first = stored.partition(b"\n")[0]
        if not first.lower().startswith(b"return-path:"):
            raise ValueError(f"expected Return-Path on top of the stored mail, found {first!r}")
        return first.partition(b":")[2].strip().decode().removeprefix("<").removesuffix(">")
