from __future__ import annotations

import base64
import hashlib
import hmac
import smtplib
import ssl
from collections.abc import Callable

import pytest

from smtpconn.testing import LoopbackServer
from smtpconn.testing.authentication import saslprep

from .conftest import Dial, Talk

Serve = Callable[..., LoopbackServer]
AUTH = {"user": "pencil", "a,b=c": "p"}
TOKENS = {"user@x.test": "t0ken"}


def b64(octets: bytes | str) -> str:
    return base64.b64encode(octets.encode() if isinstance(octets, str) else octets).decode()


@pytest.fixture
def server(serve: Serve) -> LoopbackServer:
    return serve(auth=AUTH, tokens=TOKENS)


def test_mechanisms_follow_the_options(server: LoopbackServer, serve: Serve, dial: Dial) -> None:
    def offered(server: LoopbackServer) -> str:
        talk = dial(server, hello=False)
        return next((line[4:] for line in talk.hello().split("\n") if line[4:].startswith("AUTH")), "")

    assert offered(server) == "AUTH PLAIN LOGIN SCRAM-SHA-256 XOAUTH2 OAUTHBEARER"
    assert offered(serve(auth=AUTH, mechanisms=["LOGIN"])) == "AUTH LOGIN"
    assert offered(serve(auth=AUTH, tls="starttls")) == ""  # not in clear, where TLS is to be had
    assert offered(serve()) == ""


@pytest.mark.parametrize("mechanism", ["plain", "login"])
@pytest.mark.parametrize("initial", [True, False])
@pytest.mark.parametrize("password", ["pencil", "wrong"])
def test_smtplib_logs_in(server: LoopbackServer, mechanism: str, initial: bool, password: str) -> None:
    with smtplib.SMTP(server.host, server.port) as client:
        client.ehlo()
        client.user, client.password = "user", password
        method = getattr(client, f"auth_{mechanism}")
        if password == "wrong":
            with pytest.raises(smtplib.SMTPAuthenticationError, match="535"):
                client.auth(mechanism.upper(), method, initial_response_ok=initial)
        else:
            assert client.auth(mechanism.upper(), method, initial_response_ok=initial)[0] == 235
    assert server.sessions[0].user == ("user" if password == "pencil" else None)
    assert server.violations == []


def test_mail_needs_auth_where_it_is_configured(server: LoopbackServer, serve: Serve, dial: Dial) -> None:
    assert dial(server).ask("MAIL FROM:<a@x.test>").startswith("530")
    assert dial(serve(auth=AUTH, require_auth=False)).ask("MAIL FROM:<a@x.test>").startswith("250")


@pytest.mark.parametrize(
    ("lines", "codes", "violations"),
    [
        (["AUTH PLAIN", "*"], ["334", "501"], 0),
        (["AUTH PLAIN !!!"], ["501"], 1),
        (["AUTH PLAIN " + b64("\0user")], ["501"], 1),
        (["AUTH PLAIN " + b64(b"\0\xff\0x")], ["501"], 1),
        (["AUTH CRAM-MD5"], ["504"], 0),
        (["AUTH PLAIN " + b64("\0user\0pencil"), "AUTH PLAIN " + b64("\0user\0pencil")], ["235", "503"], 1),
        (["AUTH PLAIN ="], ["501"], 1),
        (["AUTH LOGIN " + b64("user"), b64("pencil")], ["334", "235"], 0),
        (["AUTH XOAUTH2 " + b64("user=user@x.test\1auth=Bearer t0ken\1\1")], ["235"], 0),
        (["AUTH XOAUTH2 " + b64("user=user@x.test\1auth=Bearer old\1\1"), ""], ["334", "535"], 0),
        (["AUTH XOAUTH2 " + b64("user=user@x.test\1auth=Bearer old\1\1"), "AQ=="], ["334", "535"], 1),
        (["AUTH XOAUTH2 " + b64("user=user@x.test")], ["501"], 1),
        (["AUTH OAUTHBEARER " + b64("n,a=user@x.test,\1auth=Bearer t0ken\1\1")], ["235"], 0),
        (["AUTH OAUTHBEARER " + b64("n,,\1host=h\1port=25\1auth=Bearer t0ken\1\1")], ["235"], 0),
        (["AUTH OAUTHBEARER " + b64("n,a=other,\1auth=Bearer t0ken\1\1"), "AQ=="], ["334", "535"], 0),
        (["AUTH OAUTHBEARER " + b64("n,,\1auth=Bearer old\1\1"), ""], ["334", "535"], 1),
        (["AUTH OAUTHBEARER " + b64("n,,auth=Bearer t0ken")], ["501"], 1),
        (["AUTH SCRAM-SHA-256 " + b64("x,,n=user,r=abc")], ["501"], 1),
        (["AUTH SCRAM-SHA-256 " + b64("n,,r=abc,n=user")], ["501"], 1),
        (["AUTH SCRAM-SHA-256 " + b64("n,,n=user,r=abc"), b64("c=biws,r=abc,p=AAAA")], ["334", "535"], 1),
    ],
)
def test_exchanges(server: LoopbackServer, dial: Dial, lines: list[str], codes: list[str], violations: int) -> None:
    talk = dial(server)
    assert [talk.ask(line)[:3] for line in lines] == codes
    assert len(server.violations) == violations
    assert not any("pencil" in line or b64("pencil") in line for line in server.sessions[0].lines)


def scram(
    talk: Talk, user: str, password: str, *, gs2: str = "n,,", binding: bytes = b"", plus: bool = False
) -> tuple[str, bool]:
    """The client's side, from RFC 5802; the last reply's code and whether the server proved itself."""
    bare = f"n={user.replace('=', '=3D').replace(',', '=2C')},r=clientnonce"
    reply = talk.ask(f"AUTH SCRAM-SHA-256{'-PLUS' if plus else ''} {b64(gs2 + bare)}")
    if not reply.startswith("334"):
        return reply[:3], False
    first = base64.b64decode(reply[4:]).decode()
    fields = dict(field.split("=", 1) for field in first.split(","))
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), base64.b64decode(fields["s"]), int(fields["i"]))
    without_proof = f"c={b64(gs2.encode() + binding)},r={fields['r']}"
    message = f"{bare},{first},{without_proof}".encode()
    key = hmac.digest(salted, b"Client Key", "sha256")
    mask = hmac.digest(hashlib.sha256(key).digest(), message, "sha256")
    proof = bytes(a ^ b for a, b in zip(key, mask, strict=True))
    reply = talk.ask(b64(f"{without_proof},p={b64(proof)}"))
    expected = b"v=" + base64.b64encode(hmac.digest(hmac.digest(salted, b"Server Key", "sha256"), message, "sha256"))
    proven = base64.b64decode(reply.split(" ")[-1] if reply[0] in "23" else "") == expected
    if reply.startswith("334"):
        reply = talk.ask("")
    return reply[:3], proven


@pytest.mark.parametrize("final", ["334", "235"])
def test_scram_proves_both_sides(serve: Serve, dial: Dial, final: str) -> None:
    server = serve(auth=AUTH, scram_final=final, scram_iterations=5000)
    assert scram(dial(server), "user", "pencil") == ("235", True)
    assert scram(dial(server), "a,b=c", "p") == ("235", True)
    assert scram(dial(server), "user", "wrong") == ("535", False)
    assert scram(dial(server), "nobody", "pencil") == ("535", False)
    assert server.violations == []
    assert [session.user for session in server.sessions] == ["user", "a,b=c", None, None]


def test_a_false_server_cannot_prove_itself(serve: Serve, dial: Dial) -> None:
    assert scram(dial(serve(auth=AUTH, scram_tamper="signature")), "user", "pencil") == ("235", False)
    talk = dial(serve(auth=AUTH, scram_tamper="nonce"))
    first = base64.b64decode(talk.ask("AUTH SCRAM-SHA-256 " + b64("n,,n=user,r=abc"))[4:])
    assert not first.startswith(b"r=abc")


@pytest.mark.parametrize("hash_algorithm", ["sha256", "sha384"])
def test_scram_plus_binds_the_certificate_RFC_5929(serve: Serve, dial: Dial, hash_algorithm: str) -> None:
    server = serve(auth=AUTH, tls="implicit")
    assert server.ca is not None
    issued = server.ca.issue(hash_algorithm=hash_algorithm)  # type: ignore[arg-type]
    server.certificate = issued
    binding = hashlib.new(hash_algorithm, issued.der).digest()
    context = ssl.create_default_context(cafile=server.ca.path)

    def secure() -> Talk:
        talk = dial(server, hello=False)
        talk.sock = context.wrap_socket(talk.sock, server_hostname="localhost")
        assert "SCRAM-SHA-256-PLUS" in talk.hello()
        return talk

    gs2 = "p=tls-server-end-point,,"
    assert scram(secure(), "user", "pencil", gs2=gs2, binding=binding, plus=True) == ("235", True)
    assert scram(secure(), "user", "pencil", gs2=gs2, binding=binding[:-1], plus=True) == ("535", False)
    assert scram(secure(), "user", "pencil", gs2="y,,") == ("535", False)
    assert scram(secure(), "user", "pencil") == ("235", True)
    assert server.violations == [
        "AUTH SCRAM-SHA-256-PLUS: channel binding or nonce do not fit",
        "AUTH SCRAM-SHA-256: gs2 flag y though -PLUS was offered",
    ]


@pytest.mark.parametrize("stage", ["AUTH", "auth plain"])
def test_every_reply_of_auth_can_be_changed(server: LoopbackServer, dial: Dial, stage: str) -> None:
    server.reply(stage, "454 4.7.0 Later", nth=2)
    talk = dial(server)
    assert talk.ask("AUTH PLAIN").startswith("334")
    assert talk.ask(b64("\0user\0pencil")).startswith("454")
    assert server.sessions[0].user is None
    assert talk.ask("AUTH PLAIN " + b64("\0user\0pencil")).startswith("235")


def test_a_client_may_leave_inside_auth(server: LoopbackServer, dial: Dial) -> None:
    talk = dial(server)
    talk.ask("AUTH LOGIN")
    talk.close()
    server.wait_for_connections(0, 5)
    assert server.sessions[0].closed_by == "client"


def test_saslprep_maps_and_normalises() -> None:
    assert saslprep("I\u00adX") == "IX"
    assert saslprep("\u212a\u00a0") == "K "
