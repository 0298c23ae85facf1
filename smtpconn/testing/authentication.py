"""SASL on the server's side: PLAIN, LOGIN, SCRAM-SHA-256(-PLUS), XOAUTH2, OAUTHBEARER.

It knows the mechanisms and their users. It refuses to know the client library's SASL: both sides written alike would
only prove that they agree.

Laws: a wrong secret is a 535 with the same text whatever was wrong; what breaks a grammar is a 501 and a violation.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import stringprep
import unicodedata
from collections.abc import Generator
from typing import TYPE_CHECKING

from .faults import Decision, reply_octets

if TYPE_CHECKING:
    from .options import ServerOptions
    from .session import Session

__all__ = ["Dialogue", "mechanisms"]

# yields challenges, is sent responses (None only first, where the client sent no initial response), returns the user
# and what the final 235 carries.
_Exchange = Generator[bytes, bytes, "tuple[str, bytes]"]


class _Refused(Exception):  # noqa: N818 - an answer
    def __init__(self, reply: str = "535 5.7.8 Authentication credentials invalid", violation: str = "") -> None:
        super().__init__(reply)
        self.reply = reply
        self.violation = violation


def mechanisms(options: ServerOptions, *, secure: bool) -> list[str]:
    """Return the mechanisms in force."""
    if options.mechanisms is not None:
        return [name.upper() for name in options.mechanisms]
    names: list[str] = []
    if options.auth:
        names += ["PLAIN", "LOGIN", "SCRAM-SHA-256", *(["SCRAM-SHA-256-PLUS"] if secure else [])]
    if options.tokens:
        names += ["XOAUTH2", "OAUTHBEARER"]
    return names


class Dialogue:
    """One AUTH command: challenges out, responses in, 235 or a refusal at the end."""

    def __init__(self, session: Session, mechanism: str) -> None:
        self._session = session
        self._mechanism = mechanism
        self._options = session.options

    def run(self, initial: str | None) -> str | None:
        """Return the user, or None if the exchange failed; the last reply is queued already."""
        exchange = self._exchange()
        try:
            challenge = next(exchange)
            response = None if initial is None else self._decode("" if initial == "=" else initial)
            if response is None and (response := self._ask(challenge)) is None:
                return None
            while True:
                challenge = exchange.send(response)
                if (response := self._ask(challenge)) is None:
                    return None
        except StopIteration as done:
            user, final = done.value
            text = b" " + base64.b64encode(final) if final else b" Authentication successful"
            decision = self._reply(b"235 2.7.0%s\r\n" % text)
            return user if decision.octets.startswith(b"235") else None
        except _Refused as refused:
            if refused.violation:
                self._session.violation(f"AUTH {self._mechanism}: {refused.violation}")
            self._reply(reply_octets(refused.reply))
            return None

    def _reply(self, default: bytes) -> Decision:
        decision = self._session.decide("AUTH", default, also=f"AUTH {self._mechanism}")
        self._session.emit(decision)
        return decision

    def _ask(self, challenge: bytes) -> bytes | None:
        """Send a 334 and return the response; None if something else was sent in its place."""
        decision = self._reply(b"334 %s\r\n" % base64.b64encode(challenge))
        if not decision.octets.startswith(b"334"):
            return None
        line = self._session.wire.read_line()
        if line is None:
            raise ConnectionAbortedError("the client closed inside AUTH")
        text = line.rstrip(b"\r").decode("ascii", "replace")
        if self._session.wire.pending():
            self._session.violation("octets behind an AUTH response")
        if text == "*":
            raise _Refused("501 5.7.0 Authentication cancelled")
        return self._decode(text)

    def _decode(self, text: str) -> bytes:
        try:
            return base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError):
            raise _Refused("501 5.5.2 Bad base64", "response is not base64") from None

    def _exchange(self) -> _Exchange:
        if self._mechanism.startswith("SCRAM-"):
            return self._scram()
        return {"PLAIN": self._plain, "LOGIN": self._login, "XOAUTH2": self._xoauth2, "OAUTHBEARER": self._oauthbearer}[
            self._mechanism
        ]()

    # -- mechanisms

    def _check_password(self, user: str, password: str) -> str:
        known = (self._options.auth or {}).get(user)
        if known is None or not hmac.compare_digest(known.encode(), password.encode()):
            raise _Refused
        return user

    def _plain(self) -> _Exchange:
        response = yield b""
        parts = response.split(b"\0")
        if len(parts) != 3:
            raise _Refused("501 5.5.2 Bad response", "not authzid NUL user NUL password")
        return self._check_password(_text(parts[1]), _text(parts[2])), b""

    def _login(self) -> _Exchange:
        user = yield b"Username:"
        password = yield b"Password:"
        return self._check_password(_text(user), _text(password)), b""

    def _xoauth2(self) -> _Exchange:
        fields = (yield b"").split(b"\1")
        if len(fields) != 4 or not fields[0].startswith(b"user=") or not fields[1].startswith(b"auth=Bearer "):
            raise _Refused("501 5.5.2 Bad response", "not user=...^Aauth=Bearer ...^A^A")
        user, token = _text(fields[0][5:]), _text(fields[1][12:])
        if (self._options.tokens or {}).get(user) != token:
            response = yield json.dumps({"status": "400", "schemes": "Bearer", "scope": "mail"}).encode()
            raise _Refused(violation="" if response == b"" else "the error was not answered by an empty line")
        return user, b""

    def _oauthbearer(self) -> _Exchange:
        response = yield b""
        head, *pairs = response.split(b"\1")
        names = dict(pair.split(b"=", 1) for pair in pairs if b"=" in pair)
        gs2 = head.split(b",")
        if len(gs2) != 3 or gs2[0] not in (b"n", b"y") or pairs[-2:] != [b"", b""] or b"auth" not in names:
            raise _Refused("501 5.5.2 Bad response", "not the grammar of RFC 7628 3.1")
        user = _text(gs2[1][2:]).replace("=2C", ",").replace("=3D", "=")
        token = _text(names[b"auth"].removeprefix(b"Bearer "))
        owners = [name for name, known in (self._options.tokens or {}).items() if known == token]
        if not owners or (user and user not in owners):
            response = yield json.dumps({"status": "invalid_token", "scope": "mail"}).encode()
            raise _Refused(violation="" if response == b"\1" else "the error was not answered by %x01")
        return user or owners[0], b""

    def _scram(self) -> _Exchange:
        options, chance = self._options, self._session.random
        gs2, bare, fields = self._client_first((yield b""))
        user = fields["n"].replace("=2C", ",").replace("=3D", "=")
        prepared = {saslprep(name): (name, secret) for name, secret in (options.auth or {}).items()}
        name, secret = prepared.get(user, ("", ""))
        salt = bytes(chance.randrange(256) for _ in range(16))
        nonce = fields["r"] + base64.b64encode(bytes(chance.randrange(256) for _ in range(12))).decode()
        if options.scram_tamper == "nonce":
            nonce = "x" + nonce[1:]
        first = f"r={nonce},s={base64.b64encode(salt).decode()},i={options.scram_iterations}"
        final = _text((yield first.encode()))
        without_proof, separator, proof = final.rpartition(",p=")
        binding = base64.b64encode(gs2.encode() + (self._binding() if gs2.startswith("p=") else b"")).decode()
        if not separator or without_proof != f"c={binding},r={nonce}":
            raise _Refused(violation="channel binding or nonce do not fit")
        salted = hashlib.pbkdf2_hmac("sha256", saslprep(secret).encode(), salt, options.scram_iterations)
        message = f"{bare},{first},{without_proof}".encode()
        key = _hmac(salted, b"Client Key")
        expected = _xor(key, _hmac(hashlib.sha256(key).digest(), message))
        if not name or not hmac.compare_digest(base64.b64encode(expected), proof.encode()):
            raise _Refused
        signature = _hmac(_hmac(salted, b"Server Key"), message)
        if options.scram_tamper == "signature":
            signature = _xor(signature, b"\1" * 32)
        verifier = b"v=" + base64.b64encode(signature)
        if options.scram_final == "235":
            return name, verifier
        if (yield verifier) != b"":
            raise _Refused("501 5.5.2 Bad response", "the server's signature was not answered by an empty line")
        return name, b""

    def _client_first(self, response: bytes) -> tuple[str, str, dict[str, str]]:
        """Split client-first into gs2 header, bare part and the attributes of the latter."""
        parts = _text(response).split(",", 2)
        plus = self._mechanism.endswith("-PLUS")
        flags = ("p=tls-server-end-point",) if plus else ("n", "y")
        if len(parts) != 3 or parts[0] not in flags:
            raise _Refused("501 5.5.2 Bad response", "bad gs2 header")
        if parts[0] == "y" and "SCRAM-SHA-256-PLUS" in mechanisms(self._options, secure=bool(self._session.wire.tls)):
            raise _Refused(violation="gs2 flag y though -PLUS was offered")
        fields = dict(field.split("=", 1) for field in parts[2].split(",") if "=" in field)
        if list(fields)[:2] != ["n", "r"] or not fields["n"] or not fields["r"]:
            raise _Refused("501 5.5.2 Bad response", "client-first is not n=...,r=...")
        return f"{parts[0]},{parts[1]},", parts[2], fields

    def _binding(self) -> bytes:
        """tls-server-end-point (RFC 5929 4)."""
        from cryptography import x509

        der = self._session.site.certificate()
        if der is None:
            raise _Refused("454 4.7.0 No channel binding")
        algorithm = x509.load_der_x509_certificate(der).signature_hash_algorithm
        name = algorithm.name if algorithm else "sha256"
        return hashlib.new("sha256" if name in ("md5", "sha1") else name, der).digest()


def saslprep(text: str) -> str:
    """SASLprep (RFC 4013) as far as a server of known users needs it: mapping and NFKC."""
    mapped = (" " if stringprep.in_table_c12(c) else c for c in text if not stringprep.in_table_b1(c))
    return unicodedata.normalize("NFKC", "".join(mapped))


def _text(octets: bytes) -> str:
    try:
        return octets.decode()
    except UnicodeDecodeError:
        raise _Refused("501 5.5.2 Bad response", "response is not UTF-8") from None


def _hmac(key: bytes, message: bytes) -> bytes:
    return hmac.new(key, message, "sha256").digest()


def _xor(left: bytes, right: bytes) -> bytes:
    return bytes(a ^ b for a, b in zip(left, right, strict=True))
