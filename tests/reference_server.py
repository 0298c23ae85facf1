"""An SMTP and LMTP server without a socket: octets in, replies out, and a book of what it took responsibility for.

The oracle of the byte-cut and torture runs (faults P11, P12). It shares no line with the library and none with
`smtpconn.testing`: what it books is what a server would have to deliver. A mail is named by its first header line,
`Message-ID: NAME`.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field

LAST_LINE = re.compile(rb"(?m)^[0-9]{3} ")
PATH = re.compile(rb"<([^>]*)>")
PASSWORD = "correct horse"
Exchange = Generator[bytes, bytes, None]

_SALT, _ROUNDS = b"salted", 4_096
_SALTED = hashlib.pbkdf2_hmac("sha256", PASSWORD.encode(), _SALT, _ROUNDS)
FIXED = {
    "STARTTLS": b"220 go ahead\r\n",
    "NOOP": b"250 nothing done\r\n",
    "VRFY": b"252 maybe\r\n",
    "EXPN": b"250-<one@reference.test>\r\n250 <two@reference.test>\r\n",
    "HELP": b"214-commands\r\n214 and more\r\n",
    "QUIT": b"221 bye\r\n",
}


@dataclass
class ReferenceServer:
    """One connection. `refuse`: address -> reply to its RCPT. `final`: the replies to the ends of data, in order."""

    offers: Sequence[str] = ("PIPELINING",)
    lmtp: bool = False
    hello: Mapping[str, str] = field(default_factory=dict)
    refuse: Mapping[str, str] = field(default_factory=dict)
    final: Sequence[str] = ()
    data_anyway: bool = False  # 354 though nobody was accepted
    scripted: Mapping[int, str] = field(default_factory=dict)  # number of the reply, the greeting is 0 -> a refusal

    stops: int | None = None  # hears nothing more behind this reply

    def __post_init__(self) -> None:
        self.said = 1  # replies, the greeting included
        self.booked: set[tuple[str, str]] = set()
        self.finals = list(self.final)
        self._buffer = bytearray()
        self._mode = "command"
        self._chunk = 0
        self._last = False
        self._forget()

    def greeting(self) -> bytes:
        """What is said first."""
        return b"220 reference.test ready\r\n"

    def secured(self) -> None:
        """TLS has begun: nothing said in clear counts (RFC 3207 section 4.2)."""
        self._buffer.clear()
        self._forget()

    def hear(self, octets: bytes) -> bytes:
        """Take what the client wrote, give what is answered."""
        self._buffer += octets
        said: list[bytes] = []
        while (self.stops is None or self.said <= self.stops) and (answer := self._advance()) is not None:
            said.append(answer)
            self.said += len(LAST_LINE.findall(answer))
        return b"".join(said)

    def _forget(self) -> None:
        self._open = False
        self._recipients: list[str] = []
        self._content = bytearray()

    def _advance(self) -> bytes | None:
        if self._mode == "data":
            return self._read_data()
        if self._mode == "chunk":
            return self._read_chunk()
        end = self._buffer.find(b"\r\n")
        if end < 0:
            return None
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 2]
        if self._mode == "auth":
            return self._challenge(line)
        return self._command(line)

    def _read_data(self) -> bytes | None:
        if self._buffer.startswith(b".\r\n"):
            end, size = 0, 3
        else:
            found = self._buffer.find(b"\r\n.\r\n")
            if found < 0:
                return None
            end, size = found + 2, found + 5
        content = bytes(self._buffer[:end])
        del self._buffer[:size]
        self._mode = "command"
        return self._take(re.sub(rb"(?m)^\.", b"", content))

    def _read_chunk(self) -> bytes | None:
        if len(self._buffer) < self._chunk:
            return None
        self._content += self._buffer[: self._chunk]
        del self._buffer[: self._chunk]
        self._mode = "command"
        return self._take(bytes(self._content)) if self._last else b"250 chunk\r\n"

    def _take(self, content: bytes) -> bytes:
        """The end of data: one reply, or one for each recipient; a 2yz is a promise, and is booked."""
        named = re.match(rb"Message-ID: (\S+)\r\n", content)
        recipients = self._recipients
        count = len(recipients) if self.lmtp else 1
        replies = [self.finals.pop(0) if self.finals else "250 taken" for _ in range(count)]
        replies = [self.scripted.get(self.said + place, reply) for place, reply in enumerate(replies)]
        if not recipients:
            replies = ["554 no valid recipients"]
        for place, recipient in enumerate(recipients):
            if replies[place if self.lmtp else 0].startswith("2"):
                assert named is not None, content
                self.booked.add((named[1].decode(), recipient))
        self._forget()
        return "".join(f"{reply}\r\n" for reply in replies).encode()

    def _command(self, line: bytes) -> bytes | None:
        verb, _, rest = line.partition(b" ")
        name = verb.decode()
        if name in ("EHLO", "LHLO", "HELO"):
            return self._hello(name)
        if name in FIXED:
            return FIXED[name]
        if self.said in self.scripted and name != "BDAT":
            return f"{self.scripted[self.said]}\r\n".encode()
        commands = {"MAIL": self._mail, "RCPT": self._rcpt, "DATA": self._data, "BDAT": self._bdat}
        commands |= {"RSET": self._rset, "AUTH": self._auth}
        return commands[name](rest) if name in commands else b"500 what?\r\n"

    def _hello(self, verb: str) -> bytes:
        self._forget()
        if verb in self.hello:
            return f"{self.hello[verb]}\r\n".encode()
        lines = ["reference.test", *(self.offers if verb != "HELO" else ())]
        return "".join(f"250{' ' if line is lines[-1] else '-'}{line}\r\n" for line in lines).encode()

    def _mail(self, rest: bytes) -> bytes:
        if self._open:
            return b"503 one at a time\r\n"
        self._open = True
        return b"250 sender\r\n"

    def _rcpt(self, rest: bytes) -> bytes:
        if not self._open:
            return b"503 MAIL first\r\n"
        path = PATH.search(rest)
        assert path is not None
        recipient = path[1].decode()
        if recipient in self.refuse:
            return f"{self.refuse[recipient]}\r\n".encode()
        self._recipients.append(recipient)
        return b"250 recipient\r\n"

    def _data(self, rest: bytes) -> bytes:
        if not self._recipients and not self.data_anyway:
            return b"503 RCPT first\r\n"
        self._mode = "data"
        return b"354 go on\r\n"

    def _bdat(self, rest: bytes) -> bytes | None:
        words = rest.split()
        self._chunk, self._last = int(words[0]), words[1:] == [b"LAST"]
        self._mode = "chunk"
        return self._read_chunk()

    def _rset(self, rest: bytes) -> bytes:
        self._forget()
        return b"250 forgotten\r\n"

    # --- AUTH: PLAIN, SCRAM-SHA-256, XOAUTH2 ---

    def _auth(self, rest: bytes) -> bytes:
        name, _, initial = rest.partition(b" ")
        mechanism = {b"PLAIN": self._plain, b"SCRAM-SHA-256": self._scram, b"XOAUTH2": self._xoauth2}[name]
        self._exchange = mechanism()
        next(self._exchange)
        return self._challenge(initial)

    def _challenge(self, line: bytes) -> bytes:
        said = self._exchange.send(base64.b64decode(line))
        self._mode = "auth" if said.startswith(b"334") else "command"
        return said

    def _plain(self) -> Exchange:
        response = yield b""
        password = response.split(b"\0")[2].decode()
        yield b"235 welcome\r\n" if password == PASSWORD else b"535 no\r\n"

    def _xoauth2(self) -> Exchange:
        yield b""
        yield b"334 " + base64.b64encode(b'{"status":"401"}') + b"\r\n"
        yield b"535 no\r\n"

    def _scram(self) -> Exchange:
        first = (yield b"").partition(b",,")[2]
        nonce = first.partition(b"r=")[2] + b"server"
        server_first = b"r=%b,s=%b,i=%d" % (nonce, base64.b64encode(_SALT), _ROUNDS)
        final = yield b"334 " + base64.b64encode(server_first) + b"\r\n"
        bare, _, proof = final.partition(b",p=")
        exchanged = b",".join((first, server_first, bare))
        client_key = hmac.digest(_SALTED, b"Client Key", "sha256")
        signature = hmac.digest(hashlib.sha256(client_key).digest(), exchanged, "sha256")
        expected = bytes(a ^ b for a, b in zip(client_key, signature, strict=True))
        if base64.b64decode(proof) != expected:
            yield b"535 no\r\n"
        server_key = hmac.digest(_SALTED, b"Server Key", "sha256")
        verifier = base64.b64encode(hmac.digest(server_key, exchanged, "sha256"))
        yield b"334 " + base64.b64encode(b"v=" + verifier) + b"\r\n"
        yield b"235 welcome\r\n"
