"""The mechanisms of AUTH as exchanges: PLAIN, LOGIN, SCRAM-SHA-256(-PLUS), XOAUTH2, OAUTHBEARER.

A mechanism turns challenges into responses and knows no reply codes; `Session.auth` carries them. Its laws: a secret
lives in an attribute that no repr shows, never in a local of a frame that an exception leaves through (SEC2), so a
failed check sets `doubt` or `malformed` instead of raising; no proof is sent after a failed check of the server; what
was sent is not shown when a server echoes it, whole or in part (F49).
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets
import stringprep
import unicodedata
from typing import NoReturn

from smtpconn.protocol.reply import Reply, decimal, safe_octets

ITERATIONS = (4_096, 600_000)  # both inclusive: below it is weak, above it is an attack on our CPU (L12)
_NONCE_OCTETS = 24
_REDACTED = b"***"
_SHORTEST_ECHO = 4  # octets; shorter strings are found everywhere
_PART = 8  # octets of a secret that are recognised in an echo that was cut, wrapped or put into other words
_COVER = b"\1"
_COVERED = re.compile(rb"\x01+")
_REPLY_HEAD = re.compile(rb"[2-5][0-9][0-9](?:[ -]|\Z)")
_CHALLENGE = re.compile(rb"334(?: ([A-Za-z0-9+/= ]*))?\r\n")
_BASE64 = re.compile(rb"(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?")


def pbkdf2_pure(password: bytes, salt: bytes, iterations: int) -> bytes:
    """PBKDF2-HMAC-SHA-256, one block (RFC 8018 section 5.2), where `hashlib` has none: Pyodide and WASI."""
    keyed = hmac.new(password, digestmod=hashlib.sha256)

    def round_of(octets: bytes) -> bytes:
        mac = keyed.copy()
        mac.update(octets)
        return mac.digest()

    block = round_of(salt + b"\0\0\0\1")
    total = int.from_bytes(block, "big")
    for _ in range(iterations - 1):
        block = round_of(block)
        total ^= int.from_bytes(block, "big")
    return total.to_bytes(32, "big")


def _pbkdf2_openssl(password: bytes, salt: bytes, iterations: int) -> bytes:
    return hashlib.pbkdf2_hmac("sha256", password, salt, iterations)


pbkdf2 = _pbkdf2_openssl if hasattr(hashlib, "pbkdf2_hmac") else pbkdf2_pure


def saslprep(text: str) -> str | None:
    """RFC 4013 over the stdlib's tables; None if a character is prohibited or nothing is left.

    Code points unassigned in Unicode 3.2 pass.
    """
    mapped = "".join(
        " " if stringprep.in_table_c12(character) else character
        for character in text
        if not stringprep.in_table_b1(character)
    )
    prepared = unicodedata.normalize("NFKC", mapped)
    return prepared if _is_prepared(prepared) else None


def _is_prepared(text: str) -> bool:
    prohibited = (
        stringprep.in_table_c12, stringprep.in_table_c21_c22, stringprep.in_table_c3, stringprep.in_table_c4,
        stringprep.in_table_c5, stringprep.in_table_c6, stringprep.in_table_c7, stringprep.in_table_c8,
        stringprep.in_table_c9,
    )  # fmt: skip
    if not text or any(table(character) for character in text for table in prohibited):
        return False
    if not any(stringprep.in_table_d1(character) for character in text):
        return True
    # RFC 3454 section 6: right-to-left text begins and ends so, and holds nothing left-to-right
    ends = stringprep.in_table_d1(text[0]) and stringprep.in_table_d1(text[-1])
    return ends and not any(stringprep.in_table_d2(character) for character in text)


def saslname(text: str) -> str:
    """RFC 5802 section 5.1: `=` and `,` escaped."""
    return text.replace("=", "=3D").replace(",", "=2C")


def decoded(text: bytes) -> bytes | None:
    """What RFC 4648 base64 stands for, blanks around it aside; None if it is none. The same on every Python."""
    text = text.strip(b" ")
    return base64.b64decode(text) if _BASE64.fullmatch(text) else None


def _in_base64(secret: bytes) -> list[bytes]:
    """What base64 of any text around the secret has in it, for each of the three alignments."""
    found = []
    for before in range(3):
        whole = base64.b64encode(bytes(before) + secret).rstrip(b"=")
        end = len(whole) - (1 if (before + len(secret)) % 3 else 0)
        found.append(whole[(0, 2, 3)[before] : end])
    return found


class Mechanism:
    """One exchange. `cancelled`, `doubt` and `malformed` say why it must not succeed.

    `detail` is what a server sent beside.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.cancelled: str | None = None  # the exchange ends with `*`
        self.doubt: str | None = None  # the server did not prove that it knows the secret
        self.malformed: str | None = None  # the challenge breaks the mechanism's grammar
        self.detail: str | None = None
        self.advice = ""
        self._parts: dict[int, set[bytes]] = {}  # of what was sent: width to the pieces of that width

    def start(self) -> bytes | None:
        """The initial response, or None if the mechanism has none."""
        return None

    def respond(self, challenge: bytes) -> bytes | None:
        """The response to a challenge; None cancels the exchange."""
        self.cancelled = "the server asked for more than the mechanism has to say"
        return None

    def accept(self, reply: Reply) -> None:
        """Look at the 235; sets `doubt` if the server still owes a proof."""

    def _sends(self, octets: bytes, secret: bytes) -> bytes:
        for form in (base64.b64encode(octets), secret, *_in_base64(secret)):
            width = min(len(form), _PART)
            if width >= _SHORTEST_ECHO:
                parts = self._parts.setdefault(width, set())
                parts.update([form[at : at + width] for at in range(len(form) - width + 1)])
        return octets

    def redacted(self, octets: bytes) -> bytes:
        """A server's octets without an echo of what was sent (it quotes the AUTH line); a challenge as it is."""
        found = _CHALLENGE.fullmatch(octets)
        if found and decoded(found[1] or b"") is not None:
            return octets
        return b"\r\n".join(self._line_without_echo(line) for line in octets.split(b"\r\n"))

    def _line_without_echo(self, line: bytes) -> bytes:
        head = 4 if _REPLY_HEAD.match(line) else 0
        return line[:head] + self._without_echo(line[head:])

    def _without_echo(self, text: bytes) -> bytes:
        covered = bytearray(len(text))
        for width, parts in self._parts.items():
            for at in range(len(text) - width + 1):
                if text[at : at + width] in parts:
                    covered[at : at + width] = _COVER * width
        shown, end = b"", 0
        for echo in _COVERED.finditer(covered):
            shown += text[end : echo.start()] + _REDACTED
            end = echo.end()
        return shown + text[end:]

    def __repr__(self) -> str:
        return f"<Mechanism {self.name}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("an exchange is not pickled or copied: it holds a secret")


class PlainMechanism(Mechanism):
    """RFC 4616."""

    def __init__(self, user: str, password: str, authzid: str | None) -> None:
        super().__init__("PLAIN")
        self._fields = ((authzid or "").encode(), user.encode(), password.encode())

    def start(self) -> bytes | None:
        """See `Mechanism.start`."""
        return self._sends(b"\0".join(self._fields), self._fields[2])


class LoginMechanism(Mechanism):
    """draft-murchison-sasl-login: two questions whose text is never read."""

    def __init__(self, user: str, password: str) -> None:
        super().__init__("LOGIN")
        self._answers = [password.encode(), user.encode()]

    def respond(self, challenge: bytes) -> bytes | None:
        """See `Mechanism.respond`."""
        if not self._answers:
            return super().respond(challenge)
        answer = self._answers.pop()
        return answer if self._answers else self._sends(answer, answer)


class BearerMechanism(Mechanism):
    """XOAUTH2 and OAUTHBEARER (RFC 7628): one response; a challenge is the error, and has an answer of its own."""

    def __init__(self, name: str, initial: str, token: str, error_answer: bytes) -> None:
        super().__init__(name)
        self._initial = initial.encode()
        self._token = token.encode()
        self._error_answer: bytes | None = error_answer

    def start(self) -> bytes | None:
        """See `Mechanism.start`."""
        return self._sends(self._initial, self._token)

    def respond(self, challenge: bytes) -> bytes | None:
        """See `Mechanism.respond`."""
        answer, self._error_answer = self._error_answer, None
        if answer is None:
            return super().respond(challenge)
        self.detail = safe_octets(self._without_echo(challenge), 500)
        self.doubt = "the server sent an error and then success"
        return answer


_SERVER_FIRST = re.compile(rb"r=([\x21-\x2b\x2d-\x7e]+),s=([A-Za-z0-9+/=]+),i=([0-9]{1,20})(?:,.*)?\Z", re.DOTALL)
_STATUS = re.compile(rb"[245]\.[0-9]{1,3}\.[0-9]{1,3}[ \t]+")


class ScramMechanism(Mechanism):
    """SCRAM-SHA-256 and -PLUS (RFC 5802, RFC 7677): both sides prove that they know the password."""

    def __init__(self, user: str, password: str, gs2: bytes, binding: bytes, nonce: str | None = None) -> None:
        """`user` and `password` are prepared by SASLprep."""
        super().__init__("SCRAM-SHA-256-PLUS" if gs2.startswith(b"p=") else "SCRAM-SHA-256")
        self._password = password.encode()
        self._gs2 = gs2
        self._binding = base64.b64encode(gs2 + binding)
        nonce = nonce or base64.b64encode(secrets.token_bytes(_NONCE_OCTETS)).decode()
        self._nonce = nonce.encode()
        self._bare = f"n={saslname(user)},r={nonce}".encode()
        self._signature = b""
        self._turn = 0
        if gs2.startswith(b"p="):
            self.advice = " (a server that binds otherwise needs channel_binding=None)"

    def start(self) -> bytes | None:
        """See `Mechanism.start`."""
        return self._gs2 + self._bare

    def respond(self, challenge: bytes) -> bytes | None:
        """See `Mechanism.respond`."""
        self._turn += 1
        if challenge.startswith(b"e="):
            self.detail = safe_octets(self._without_echo(challenge), 500)
            self.doubt = "the server sent an error and then success"
            return b""
        if self._turn == 1:
            return self._prove(challenge)
        if self._turn == 2:
            self._verify(challenge)
            return None if self.cancelled else b""
        return super().respond(challenge)

    def _prove(self, challenge: bytes) -> bytes | None:
        """The proof, or None with the reason set: nothing is sent after a failed check (F43a)."""
        if challenge.startswith(b"m="):
            self._distrust("the server demands an unknown SCRAM extension")
            return None
        found = _SERVER_FIRST.match(challenge)
        if not found:
            self.malformed = "the server's first SCRAM message breaks the grammar"
            return None
        nonce, salt, iterations = found[1], decoded(found[2]), decimal(found[3])
        if salt is None:
            self.malformed = "the server's SCRAM salt is not base64"
            return None
        if not nonce.startswith(self._nonce) or len(nonce) == len(self._nonce):
            self._distrust("the server's SCRAM nonce does not extend ours")
            return None
        if not ITERATIONS[0] <= iterations <= ITERATIONS[1]:
            self._distrust(f"the server asks for {iterations} SCRAM iterations, not {ITERATIONS[0]} to {ITERATIONS[1]}")
            return None
        final = b"c=" + self._binding + b",r=" + nonce
        proof = self._proof(salt, iterations, self._bare + b"," + challenge + b"," + final)
        return self._sends(final + b",p=" + proof, proof)

    def _proof(self, salt: bytes, iterations: int, message: bytes) -> bytes:
        salted = pbkdf2(self._password, salt, iterations)
        self._password = b""
        client_key = hmac.digest(salted, b"Client Key", "sha256")
        signature = hmac.digest(hashlib.sha256(client_key).digest(), message, "sha256")
        self._signature = hmac.digest(hmac.digest(salted, b"Server Key", "sha256"), message, "sha256")
        proof = int.from_bytes(client_key, "big") ^ int.from_bytes(signature, "big")
        return base64.b64encode(proof.to_bytes(32, "big"))

    def _verify(self, final: bytes) -> None:
        """RFC 5802 section 3: the server's signature, in constant time."""
        claimed = final[2:].partition(b",")[0] if final.startswith(b"v=") else b""
        if self._signature and hmac.compare_digest(claimed, base64.b64encode(self._signature)):
            self._turn = 2
            self.doubt = None
            self._signature = b""
        else:
            self._distrust("the server's SCRAM signature is missing or wrong")

    def _distrust(self, reason: str) -> None:
        self.doubt = self.cancelled = reason

    def accept(self, reply: Reply) -> None:
        """See `Mechanism.accept`."""
        if self.doubt is not None or (self._turn >= 2 and not self._signature):
            return
        text = reply.raw[4:-2]
        status = _STATUS.match(text)
        text = text[status.end() if status else 0 :].strip(b" ")
        self._verify(text if text.startswith(b"v=") else decoded(text) or b"")
