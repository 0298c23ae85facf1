"""What a loopback server can be told: one dataclass, read anew by each session.

It knows names, defaults and which values make sense together. It refuses to know how any of it is done.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from .wire import Delivery

if TYPE_CHECKING:
    import ssl

    from .ca import Issued, TestAuthority

__all__ = ["DEFAULT_EXTENSIONS", "QUIRKS", "ServerOptions"]

DEFAULT_EXTENSIONS = (
    "PIPELINING", "SIZE", "8BITMIME", "ENHANCEDSTATUSCODES", "DSN", "SMTPUTF8", "CHUNKING", "BINARYMIME",
)  # fmt: skip

QUIRKS = {
    "swallow-behind-end-of-data": "answers the end of data and drops what stands behind it in the flight (Courier)",
    "503-behind-end-of-data": "answers 503 to each command behind an end of data in its flight (Haraka)",
    "die-behind-end-of-data": "closes without a reply, nothing booked, if anything stands behind an end of data "
    "(Dovecot's submission service)",
    "close-on-pipelining": "500 and close as soon as a command is followed by another without waiting (OpenSMTPD)",
    "503-mail-behind-rset": "503 to a MAIL in the same flight as the RSET before it (Dovecot's submission service)",
    "run-refused-chunks": "502 to a BDAT without recipients, its chunk taken for commands (go-smtp)",
    "merge-duplicates": "LMTP: one final reply for recipients that are the same (Nodemailer's smtp-server)",
    "354-without-recipients": "354 to DATA though nobody was accepted; refuses the lone dot",
    "lenient-mail": "MAIL starts afresh whatever went before, and no RSET is owed after a refused chunk",
}


@dataclass(kw_only=True, eq=False)
class ServerOptions:
    """Options of `LoopbackServer`; all may be changed between connections.

    Attributes:
        protocol: "smtp" or "lmtp".
        host: the address to listen on; loopback addresses only.
        port: 0 lets the system choose; the port listened on once started.
        unix_socket: a path, or True for one in a temporary directory; then no TCP port is used.
        tls: None, "implicit" or "starttls".
        ca: the authority that issues the certificate; made when needed.
        certificate: an `Issued` or `ssl.SSLContext` to be used instead of a good certificate of `ca`.
        client_certificates: None, "optional" or "required": ask clients for a certificate of `ca`.
        extensions: the lines of the EHLO reply behind the first; STARTTLS, AUTH and LIMITS are added as the other
            options say, a bare `SIZE` gets the size limit.
        size_limit: octets of a message; None: no limit.
        auth: passwords by user.
        tokens: bearer tokens by user.
        mechanisms: offered with AUTH; by default all that `auth` and `tokens` allow (-PLUS inside TLS).
        require_auth: MAIL before AUTH is a 530; None: if AUTH is configured.
        scram_iterations: of SCRAM-SHA-256.
        scram_final: the code that carries the server's last message, "334" (RFC 4954) or "235".
        scram_tamper: what a false server changes: "signature", "nonce" or None.
        greeting: text of the 220, or a whole reply if it begins with three digits.
        name: how the server calls itself.
        max_connections: more get a 421 for a greeting.
        max_recipients: more get a 452 at RCPT, unannounced.
        max_messages: MAIL commands on a connection; the next gets a 421, unannounced.
        limits: MAILMAX, RCPTMAX, RCPTDOMAINMAX (RFC 9422): announced and enforced.
        idle_timeout: seconds after which a silent client gets a 421.
        lists: members by mailing list, for EXPN.
        delivery: how replies are cut: "coalesced" (all replies to a flight in one segment), "whole" (a segment each),
            "line", "octet".
        rtt: seconds before a flight is answered.
        seed: of everything random: SCRAM salt and nonce, `fault_rate`.
        fault_rate: probability of a fault at each reply of a transaction; none behind a surplus on the same
            connection, because a reply too many and one that is missing would hide each other from any client.
        fault_kinds: what `fault_rate` draws from; None: RST, EOF, 421, 4yz, 5yz, malformed, surplus, cut-reply.
        keep: True keeps all mails, a number the latest so many. The ledger is always whole.
        socket_buffer: octets of the kernel's buffers of a connection; None: the system's choice.
        quirks: misbehaviour of real servers, keys of `QUIRKS`.
    """

    protocol: Literal["smtp", "lmtp"] = "smtp"
    host: str = "127.0.0.1"
    port: int = 0
    unix_socket: str | bool | None = None
    tls: Literal["implicit", "starttls"] | None = None
    ca: TestAuthority | None = None
    certificate: Issued | ssl.SSLContext | None = None
    client_certificates: Literal["optional", "required"] | None = None
    extensions: Sequence[str] = DEFAULT_EXTENSIONS
    size_limit: int | None = 52_428_800
    auth: Mapping[str, str] | None = None
    tokens: Mapping[str, str] | None = None
    mechanisms: Sequence[str] | None = None
    require_auth: bool | None = None
    scram_iterations: int = 4096
    scram_final: Literal["334", "235"] = "334"
    scram_tamper: Literal["signature", "nonce"] | None = None
    greeting: str | None = None
    name: str = "mx.test"
    max_connections: int | None = None
    max_recipients: int | None = None
    max_messages: int | None = None
    limits: Mapping[str, int] = field(default_factory=dict)
    idle_timeout: float | None = None
    lists: Mapping[str, Sequence[str]] = field(default_factory=dict)
    delivery: Delivery = "coalesced"
    rtt: float = 0.0
    seed: int = 0
    fault_rate: float = 0.0
    fault_kinds: Sequence[str] | None = None
    keep: bool | int = True
    socket_buffer: int | None = None
    quirks: Collection[str] = ()

    def __post_init__(self) -> None:
        """Raise `ValueError` for values that make no sense."""
        if self.protocol not in ("smtp", "lmtp"):
            raise ValueError(f"protocol is 'smtp' or 'lmtp', not {self.protocol!r}")
        if self.tls not in (None, "implicit", "starttls"):
            raise ValueError(f"tls is None, 'implicit' or 'starttls', not {self.tls!r}")
        if self.delivery not in ("coalesced", "whole", "line", "octet"):
            raise ValueError(f"unknown delivery {self.delivery!r}")
        if not (self.host in ("localhost", "::1") or self.host.startswith("127.")):
            raise ValueError(f"the server listens on loopback only, not on {self.host!r}")
        unknown = set(self.quirks) - set(QUIRKS)
        if unknown:
            raise ValueError(f"unknown quirks {sorted(unknown)}; known are {', '.join(QUIRKS)}")
        unknown = set(self.limits) - {"MAILMAX", "RCPTMAX", "RCPTDOMAINMAX"}
        if unknown:
            raise ValueError(f"unknown limits {sorted(unknown)}")
