"""The mechanisms of AUTH: their exact octets, the vectors of the RFCs, and what they refuse to believe."""

from __future__ import annotations

import base64
import copy
import hashlib
import hmac
import importlib.util
import pickle
import time
from collections.abc import Callable, Iterator

import pytest

from smtpconn.protocol import mechanisms
from smtpconn.protocol.mechanisms import (
    ITERATIONS,
    BearerMechanism,
    LoginMechanism,
    Mechanism,
    PlainMechanism,
    ScramMechanism,
    decoded,
    pbkdf2_pure,
    saslname,
    saslprep,
)
from smtpconn.protocol.reply import Reply

Pbkdf2 = Callable[[bytes, bytes, int], bytes]
PBKDF2: list[Pbkdf2] = [mechanisms._pbkdf2_openssl, pbkdf2_pure]
IDS = ["hashlib", "pure"]

# RFC 7677 section 3
NONCE = "rOprNGfwEbeRWgbNEkqO"
SERVER_NONCE = "rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0"
CLIENT_FIRST = b"n,,n=user,r=" + NONCE.encode()
SERVER_FIRST = f"r={SERVER_NONCE},s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096".encode()
CLIENT_FINAL = f"c=biws,r={SERVER_NONCE},p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=".encode()
SERVER_FINAL = b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="


@pytest.fixture(params=PBKDF2, ids=IDS)
def each_pbkdf2(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Pbkdf2:
    """Each of the two implementations, as the one in use."""
    monkeypatch.setattr(mechanisms, "pbkdf2", request.param)
    chosen: Pbkdf2 = request.param
    return chosen


def reply(text: bytes) -> Reply:
    return Reply(int(text[:3]), text + b"\r\n")


def scram(
    user: str = "user", password: str = "pencil", gs2: bytes = b"n,,", binding: bytes = b"", nonce: str | None = NONCE
) -> ScramMechanism:
    return ScramMechanism(user, password, gs2, binding, nonce)


# --- PBKDF2


@pytest.mark.parametrize("pbkdf2", PBKDF2, ids=IDS)
@pytest.mark.parametrize(
    ("password", "salt", "iterations", "first_block"),
    [
        (b"passwd", b"salt", 1, "55ac046e56e3089fec1691c22544b605f94185216dde0465e68b9d57c20dacbc"),
        (b"Password", b"NaCl", 80_000, "4ddcd8f60b98be21830cee5ef22701f9641a4418d04c0414aeff08876b34ab56"),
    ],
)
def test_pbkdf2_gives_the_octets_of_RFC_7914_section_11_E159(
    pbkdf2: Pbkdf2, password: bytes, salt: bytes, iterations: int, first_block: str
) -> None:
    assert pbkdf2(password, salt, iterations).hex() == first_block


@pytest.mark.parametrize("password", [b"", b"x" * 64, b"x" * 65, b"\xff" * 200])
@pytest.mark.parametrize("iterations", [1, 2, 100])
def test_both_pbkdf2_agree_SY0_2(password: bytes, iterations: int) -> None:
    assert pbkdf2_pure(password, b"\0salt", iterations) == mechanisms._pbkdf2_openssl(password, b"\0salt", iterations)


def test_the_pure_one_is_taken_where_hashlib_has_none_SY0_2(monkeypatch: pytest.MonkeyPatch) -> None:
    there = hasattr(hashlib, "pbkdf2_hmac")
    assert mechanisms.pbkdf2 is (mechanisms._pbkdf2_openssl if there else pbkdf2_pure)
    monkeypatch.delattr(hashlib, "pbkdf2_hmac", raising=False)
    spec = mechanisms.__spec__
    assert spec is not None
    assert spec.loader is not None
    another = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(another)
    assert another.pbkdf2 is another.pbkdf2_pure


# --- base64


@pytest.mark.parametrize("octets", [b"", b"\0", b"\xff\xfe", b"abc", b"\x80\xff\0\x01", bytes(range(256))])
def test_base64_is_that_of_RFC_4648_E104(octets: bytes) -> None:
    assert decoded(base64.b64encode(octets)) == octets
    assert decoded(b"  " + base64.b64encode(octets) + b" ") == octets


@pytest.mark.parametrize(
    "text",
    [
        b"=",
        b"==",
        b"====",
        b"Y",
        b"YQ",
        b"YQ=",
        b"YQ===",
        b"YQ==YQ==",
        b"Y!==",
        b"YW Jj",
        b"YWJj\r\n",
        b"YWJj=",
        b"-_-_",
    ],
)
def test_what_is_not_base64_is_not_guessed_E104(text: bytes) -> None:
    assert decoded(text) is None


# --- SASLprep, saslname


@pytest.mark.parametrize(
    ("text", "prepared"),
    [
        pytest.param("I\u00adX", "IX", id="RFC 4013 section 3: soft hyphen to nothing"),
        pytest.param("user", "user", id="RFC 4013: no change"),
        pytest.param("USER", "USER", id="RFC 4013: case kept"),
        pytest.param("\u00aa", "a", id="RFC 4013: NFKC"),
        pytest.param("\u2168", "IX", id="RFC 4013: roman nine"),
        pytest.param("\u0007", None, id="RFC 4013: prohibited"),
        pytest.param("\u0627\u0031", None, id="RFC 4013: bidirectional check"),
        pytest.param("\u212a", "K", id="E158 kelvin"),
        pytest.param("a\u00a0b", "a b", id="no-break space is a space"),
        pytest.param("\u0627\u0628", "\u0627\u0628", id="right to left throughout"),
        pytest.param("\u0627 1 \u0628", "\u0627 1 \u0628", id="right to left at both ends"),
        pytest.param("\u0627a\u0628", None, id="left to right inside"),
        pytest.param("a\u0627", None, id="right to left at the end only"),
        pytest.param("\u0627-", None, id="right to left at the beginning only"),
        pytest.param("", None, id="nothing"),
        pytest.param("\u00ad", None, id="nothing left"),
        pytest.param("\ud800", None, id="lone surrogate"),
        pytest.param("\ue000", None, id="private use"),
        pytest.param("\ufffd", None, id="replacement character"),
        pytest.param("\U0001f600", "\U0001f600", id="F49a unassigned in Unicode 3.2 passes"),
        pytest.param("pässwörd", "pässwörd", id="letters"),
    ],
)
def test_saslprep_F49a(text: str, prepared: str | None) -> None:
    assert saslprep(text) == prepared


@pytest.mark.parametrize(("text", "name"), [("a,b=c", "a=2Cb=3Dc"), ("=2C", "=3D2C"), ("user", "user")])
def test_saslname_E48_E144(text: str, name: str) -> None:
    assert saslname(text) == name


# --- PLAIN, LOGIN, bearers


@pytest.mark.parametrize(
    ("mechanism", "initial"),
    [
        pytest.param(PlainMechanism("user", "pass", None), b"\0user\0pass", id="E32"),
        pytest.param(PlainMechanism("user", "pass", "boss"), b"boss\0user\0pass", id="F39"),
        pytest.param(PlainMechanism("ü", "pässwörd", None), "\0ü\0pässwörd".encode(), id="E38"),
        pytest.param(PlainMechanism("I\u00adX", "\u212a", None), "\0I\u00adX\0\u212a".encode(), id="E158 as given"),
        pytest.param(LoginMechanism("user", "pass"), None, id="F40 no initial response"),
        pytest.param(Mechanism("ANY"), None, id="no mechanism in particular"),
    ],
)
def test_the_initial_response(mechanism: Mechanism, initial: bytes | None) -> None:
    assert mechanism.start() == initial


@pytest.mark.parametrize(
    "prompts", [(b"Username:", b"Password:"), (b"", b""), (b"User Name\0", b"\xff"), (b"e=x", b"v=")]
)
def test_login_never_reads_the_prompts_E149(prompts: tuple[bytes, bytes]) -> None:
    mechanism = LoginMechanism("üser", "pässwörd")
    assert [mechanism.respond(prompt) for prompt in prompts] == ["üser".encode(), "pässwörd".encode()]
    assert mechanism.cancelled is None
    assert mechanism.respond(b"more?") is None
    assert mechanism.cancelled == "the server asked for more than the mechanism has to say"


def test_an_unexpected_challenge_cancels_E50() -> None:
    mechanism = PlainMechanism("user", "pass", None)
    mechanism.start()
    assert mechanism.respond(b"") is None
    assert mechanism.cancelled is not None


def test_a_bearer_answers_the_error_once_E40_E42() -> None:
    mechanism = BearerMechanism("XOAUTH2", "user=u\x01auth=Bearer tok\x01\x01", "tok", b"")
    assert mechanism.start() == b"user=u\x01auth=Bearer tok\x01\x01"
    assert mechanism.respond(b'{"status":"401"}\x1b') == b""
    assert mechanism.detail == '{"status":"401"}\\x1b'
    mechanism.accept(reply(b"235 ok"))
    assert mechanism.doubt == "the server sent an error and then success"
    assert mechanism.respond(b"again") is None
    assert mechanism.cancelled is not None


def test_the_detail_is_short_and_without_an_echo_of_the_token() -> None:
    token = "ya29.A0ARrdaM-secret-secret"
    mechanism = BearerMechanism("XOAUTH2", f"user=u\x01auth=Bearer {token}\x01\x01", token, b"")
    mechanism.start()
    mechanism.respond(b"bad token " + token.encode() + b" " + b"x" * 600)
    assert mechanism.detail is not None
    assert mechanism.detail.startswith("bad token *** xxx")
    assert len(mechanism.detail) <= 503


def test_the_detail_of_SCRAM_is_without_an_echo_of_the_proof_SEC3() -> None:
    mechanism = scram()
    mechanism.start()
    mechanism.respond(SERVER_FIRST)
    mechanism.respond(b"e=no " + CLIENT_FINAL.partition(b",p=")[2])
    assert mechanism.detail == "e=no ***"


# --- SCRAM


@pytest.mark.parametrize("in_the_235", [False, True, None], ids=["challenge", "text of the 235", "base64 in the 235"])
def test_scram_gives_the_octets_of_RFC_7677_section_3_E44_E45(each_pbkdf2: Pbkdf2, in_the_235: bool | None) -> None:
    mechanism = scram()
    assert mechanism.name == "SCRAM-SHA-256"
    assert mechanism.start() == CLIENT_FIRST
    assert mechanism.respond(SERVER_FIRST) == CLIENT_FINAL
    if in_the_235 is False:
        assert mechanism.respond(SERVER_FINAL) == b""
        mechanism.accept(reply(b"235 2.7.0 ok"))
    elif in_the_235:
        mechanism.accept(reply(b"235 2.7.0 " + SERVER_FINAL))
    else:
        mechanism.accept(reply(b"235 " + base64.b64encode(SERVER_FINAL)))
    assert (mechanism.doubt, mechanism.cancelled, mechanism.malformed) == (None, None, None)


def hi(password: bytes, salt: bytes, iterations: int) -> bytes:
    """RFC 5802 section 2.2: `Hi()`."""
    block = hmac.digest(password, salt + b"\0\0\0\1", "sha256")
    result = int.from_bytes(block, "big")
    for _ in range(iterations - 1):
        block = hmac.digest(password, block, "sha256")
        result ^= int.from_bytes(block, "big")
    return result.to_bytes(len(block), "big")


class ScramServer:
    """The other side of RFC 5802, written from the RFC, without a line of ours."""

    def __init__(self, password: bytes, salt: bytes = b"0123456789abcdef", iterations: int = 4_096) -> None:
        salted = hi(password, salt, iterations)
        self.client_key = hmac.new(salted, b"Client Key", hashlib.sha256).digest()
        self.server_key = hmac.new(salted, b"Server Key", hashlib.sha256).digest()
        self.salt, self.iterations = salt, iterations
        self.bare = self.first = b""
        self.gs2 = b""

    def challenge(self, client_first: bytes, extra: bytes = b"") -> bytes:
        flag, authzid, self.bare = client_first.split(b",", 2)
        self.gs2 = flag + b"," + authzid + b","
        nonce = self.bare.split(b",r=")[1]
        parts = (nonce + b"SERVER", base64.b64encode(self.salt), str(self.iterations).encode())
        self.first = b"r=%s,s=%s,i=%s" % parts + extra
        return self.first

    def verify(self, client_final: bytes, binding: bytes = b"") -> bytes | None:
        without, proof = client_final.rsplit(b",p=", 1)
        channel = without.split(b",")[0].removeprefix(b"c=")
        assert base64.b64decode(channel) == self.gs2 + binding
        message = self.bare + b"," + self.first + b"," + without
        signature = hmac.new(hashlib.sha256(self.client_key).digest(), message, hashlib.sha256).digest()
        if bytes(a ^ b for a, b in zip(base64.b64decode(proof), signature, strict=True)) != self.client_key:
            return None
        return b"v=" + base64.b64encode(hmac.new(self.server_key, message, hashlib.sha256).digest())


@pytest.mark.parametrize(
    ("gs2", "binding", "channel"),
    [
        pytest.param(b"n,,", b"", b"biws", id="E155 none"),
        pytest.param(b"y,,", b"", b"eSws", id="E154 not offered"),
        pytest.param(b"p=tls-server-end-point,,", b"\x01" * 32, None, id="E153 bound"),
    ],
)
def test_scram_and_an_independent_server_believe_each_other(
    gs2: bytes, binding: bytes, channel: bytes | None, each_pbkdf2: Pbkdf2
) -> None:
    server = ScramServer("pässwörd".encode(), iterations=4_097)
    mechanism = scram("a,b=c", "pässwörd", gs2, binding, None)
    assert mechanism.name == ("SCRAM-SHA-256-PLUS" if binding else "SCRAM-SHA-256")
    assert ("channel_binding=None" in mechanism.advice) is bool(binding)
    first = mechanism.start()
    assert first is not None
    assert first.startswith(gs2 + b"n=a=2Cb=3Dc,r=")  # E48
    assert len(base64.b64decode(first.split(b",r=")[1], validate=True)) == 24
    final = mechanism.respond(server.challenge(first, b",x=ignored"))  # F43: unknown attributes behind are ignored
    assert final is not None
    if channel is not None:
        assert final.startswith(b"c=" + channel + b",")
    proof = server.verify(final, binding)
    assert proof is not None
    assert mechanism.respond(proof + b",x=ignored") == b""
    mechanism.accept(reply(b"235 ok"))
    assert (mechanism.doubt, mechanism.cancelled) == (None, None)


def test_two_exchanges_have_two_nonces() -> None:
    assert scram(nonce=None).start() != scram(nonce=None).start()


def _first(text: str) -> bytes:
    return text.replace("R", SERVER_NONCE).replace("S", "W22ZaJ0SNY7soEsUEjb6gQ==").encode()


@pytest.mark.parametrize(
    ("challenge", "trusted", "words"),
    [
        pytest.param(b"r=other,s=YQ==,i=4096", False, "nonce", id="E46 nonce without our prefix"),
        pytest.param(f"r={NONCE},s=YQ==,i=4096".encode(), False, "nonce", id="E46 nonce equal to ours"),
        pytest.param(_first("r=R,s=S,i=4095"), False, "4095 SCRAM iterations", id="E46 L12 below"),
        pytest.param(_first("r=R,s=S,i=600001"), False, "600001 SCRAM iterations", id="E46 L12 above"),
        pytest.param(_first("r=R,s=S,i=99999999999999999999"), False, "iterations", id="E46 far above"),
        pytest.param(b"m=x," + _first("r=R,s=S,i=4096"), False, "unknown SCRAM extension", id="E46 m="),
        pytest.param(_first("r=R,s=S,i=lots"), True, "grammar", id="E46 i=lots"),
        pytest.param(_first("s=S,i=4096"), True, "grammar", id="E46 no r"),
        pytest.param(_first("r=R,i=4096"), True, "grammar", id="E46 no s"),
        pytest.param(_first("r=R,s=S"), True, "grammar", id="E46 no i"),
        pytest.param(_first("s=S,r=R,i=4096"), True, "grammar", id="F43 order"),
        pytest.param(_first("r=R,s=,i=4096"), True, "grammar", id="F43 empty salt"),
        pytest.param(_first("r=R,s=!,i=4096"), True, "grammar", id="E46 salt of another alphabet"),
        pytest.param(_first("r=R,s=YQ,i=4096"), True, "salt", id="E46 salt not base64"),
        pytest.param(_first("r=R,s==,i=4096"), True, "salt", id="E46 a salt of padding"),
        pytest.param(_first("r=R,s=S,i=4096\n"), True, "grammar", id="a line end behind it"),
        pytest.param(b"", True, "grammar", id="nothing"),
        pytest.param(SERVER_FINAL, True, "grammar", id="the end before the beginning"),
    ],
)
def test_no_proof_after_a_failed_check_of_the_servers_first_message_E46_F43a(
    challenge: bytes, trusted: bool, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mechanisms, "pbkdf2", lambda *_: pytest.fail("the password was used"))
    mechanism = scram()
    mechanism.start()
    assert mechanism.respond(challenge) is None
    reason = mechanism.malformed if trusted else mechanism.cancelled
    assert reason is not None
    assert words in reason
    assert mechanism.doubt == (None if trusted else reason)
    assert (mechanism.malformed is None) is not trusted


@pytest.mark.parametrize("iterations", ITERATIONS)
def test_both_ends_of_the_iteration_counts_are_allowed_L12(iterations: int, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    def costly(password: bytes, salt: bytes, count: int) -> bytes:
        seen.append(count)
        return bytes(32)

    monkeypatch.setattr(mechanisms, "pbkdf2", costly)
    mechanism = scram()
    mechanism.start()
    assert mechanism.respond(_first(f"r=R,s=S,i={iterations}")) is not None
    assert seen == [iterations]


@pytest.mark.parametrize(
    "final",
    [
        pytest.param(b"v=AAAA", id="E47 wrong"),
        pytest.param(SERVER_FINAL[:-1], id="cut"),
        pytest.param(SERVER_FINAL + b"=", id="longer"),
        pytest.param(b"v=", id="empty"),
        pytest.param(b"", id="E47 missing"),
        pytest.param(b"v=\xff", id="no text"),
        pytest.param(b"x=1," + SERVER_FINAL, id="not in front"),
    ],
)
@pytest.mark.parametrize("in_the_235", [False, True])
def test_a_server_that_does_not_prove_itself_is_not_believed_E45_E47(final: bytes, in_the_235: bool) -> None:
    mechanism = scram()
    mechanism.start()
    assert mechanism.respond(SERVER_FIRST) == CLIENT_FINAL
    if in_the_235:
        mechanism.accept(reply(b"235 2.7.0 " + final))
    else:
        assert mechanism.respond(final) is None
        mechanism.accept(reply(b"235 ok"))
    assert mechanism.doubt == mechanism.cancelled == "the server's SCRAM signature is missing or wrong"


@pytest.mark.parametrize("text", [b"235 ok", b"235 " + SERVER_FINAL, b"235"])
@pytest.mark.parametrize("challenges", [(), (b"e=other-error",)])
def test_success_before_any_proof_is_not_believed_E45(text: bytes, challenges: tuple[bytes, ...]) -> None:
    mechanism = scram()
    mechanism.start()
    for challenge in challenges:
        assert mechanism.respond(challenge) == b""
    mechanism.accept(reply(text))
    assert mechanism.doubt is not None


def test_an_error_of_the_server_is_answered_and_kept_E47_F43a() -> None:
    mechanism = scram()
    mechanism.start()
    mechanism.respond(SERVER_FIRST)
    assert mechanism.respond(b"e=invalid-proof") == b""
    assert mechanism.detail == "e=invalid-proof"
    assert mechanism.cancelled is None
    assert mechanism.doubt == "the server sent an error and then success"


def test_a_challenge_behind_the_signature_cancels_F46() -> None:
    mechanism = scram()
    mechanism.start()
    mechanism.respond(SERVER_FIRST)
    assert mechanism.respond(SERVER_FINAL) == b""
    assert mechanism.respond(b"") is None
    assert mechanism.cancelled == "the server asked for more than the mechanism has to say"


# --- secrets

SECRET = "correct horse battery staple"


def exchanges() -> Iterator[tuple[Mechanism, list[bytes]]]:
    """Each mechanism behind its last response, and the octets that it sent."""
    plain = PlainMechanism("user", SECRET, None)
    yield plain, [plain.start() or b""]
    login = LoginMechanism("user", SECRET)
    yield login, [login.respond(b"") or b"", login.respond(b"") or b""][1:]
    bearer = BearerMechanism("OAUTHBEARER", f"n,,\x01auth=Bearer {SECRET}\x01\x01", SECRET, b"\x01")
    yield bearer, [bearer.start() or b""]
    proving = scram()
    proving.start()
    yield proving, [proving.respond(SERVER_FIRST) or b""]


@pytest.mark.parametrize("place", range(4), ids=["PLAIN", "LOGIN", "OAUTHBEARER", "SCRAM"])
def test_an_echo_is_taken_out_E152_F49(place: int) -> None:
    mechanism, sent = list(exchanges())[place]
    secret = SECRET.encode() if place < 3 else CLIENT_FINAL.rsplit(b"p=")[1]
    encoded = base64.b64encode(sent[0])
    for echo in (
        encoded,
        encoded.rstrip(b"="),
        sent[0].replace(b"\0", b" ").replace(b"\x01", b" "),
        secret,
        base64.b64encode(secret),
        base64.b64encode(b"?" + secret),
        base64.b64encode(b"??" + secret + b"?"),
    ):
        octets = b"535-5.7.8 no: " + echo + b"\r\n535 " + echo + b"\r\n"
        shown = mechanism.redacted(octets)
        assert secret not in shown
        assert encoded.rstrip(b"=") not in shown
        assert base64.b64encode(secret)[:-4] not in shown
        assert shown.startswith(b"535-5.7.8 no: ")
        assert b"\r\n535 " in shown
        assert shown.endswith(b"\r\n")
        assert b"***" in shown


def test_an_echo_cut_or_wrapped_is_taken_out_too() -> None:
    mechanism = PlainMechanism("user", SECRET, None)
    encoded = base64.b64encode(mechanism.start() or b"")
    cut = mechanism.redacted(b"500 5.5.2 unknown: AUTH PLAIN " + encoded[:30] + b"...\r\n")
    assert cut == b"500 5.5.2 unknown: AUTH PLAIN ***...\r\n"
    wrapped = mechanism.redacted(b"500-" + encoded[:20] + b"\r\n500 " + encoded[20:] + b"\r\n")
    assert wrapped == b"500-***\r\n500 ***\r\n"
    assert mechanism.redacted(b"HTTP/1.1 400 " + encoded[:20]) == b"HTTP/1.1 400 ***"
    assert mechanism.redacted(SECRET.encode()) == b"***"


@pytest.mark.parametrize(
    "octets",
    [
        b"535 5.7.8 Error: authentication failed\r\n",
        b"535\r\n",
        b"235 2.7.0 ok\r\n",
        b"334 " + base64.b64encode(b"\0user\0" + SECRET.encode()) + b"\r\n",
        b"334 \r\n",
        b"334\r\n",
    ],
)
def test_what_is_no_echo_and_what_is_a_challenge_stays(octets: bytes) -> None:
    """A challenge must be answered as it was sent."""
    mechanism = PlainMechanism("user", SECRET, None)
    mechanism.start()
    assert mechanism.redacted(octets) == octets


def test_a_short_password_does_not_eat_the_reply() -> None:
    """Strings of less than four octets are found everywhere; the code and the line ends are never touched."""
    mechanism = PlainMechanism("user", "no", None)
    mechanism.start()
    assert mechanism.redacted(b"535 no, no\r\n") == b"535 no, no\r\n"
    digits = PlainMechanism("user", "535 ", None)
    digits.start()
    assert digits.redacted(b"535 535 x\r\n") == b"535 ***x\r\n"


def test_a_long_refusal_of_a_long_token_costs_linear_work_G_SEC_5() -> None:
    """What a line of the refusal costs does not grow with the token: a hostile server may write a thousand lines."""
    token = base64.b64encode(hashlib.shake_128(b"token").digest(6_600)).decode()
    mechanism = BearerMechanism("XOAUTH2", f"user=u\x01auth=Bearer {token}\x01\x01", token, b"")
    refusal = b"535-no\r\n" * 500 + b"535 " + token[100:110].encode() + b"\r\n"
    began = time.process_time()
    mechanism.start()
    shown = mechanism.redacted(refusal)
    assert time.process_time() - began < 1
    assert shown == b"535-no\r\n" * 500 + b"535 ***\r\n"


@pytest.mark.parametrize("place", range(4))
def test_an_exchange_is_neither_shown_nor_pickled_SEC1(place: int) -> None:
    mechanism, _ = list(exchanges())[place]
    assert repr(mechanism) == f"<Mechanism {mechanism.name}>"
    for way in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="not pickled or copied"):
            way(mechanism)
