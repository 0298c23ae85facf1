"""`smtpconn serve` by an HTTP client: pages, files and JSON, and who is refused."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from email.message import EmailMessage
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from smtpconn import SmtpConnection, TlsConfig, TlsMode
from smtpconn.cli import main
from smtpconn.cli.captured_view import View, safe_name
from smtpconn.cli.web import Web
from smtpconn.testing import CapturedMail, LoopbackServer

ANNA, BEN = "anna@example.com", "ben@example.net"
SCRIPT = "<script>document.title = 'pwned'</script>"
PNG = b"\x89PNG\r\n\x1a\n" + b"\0" * 20


class Answer(NamedTuple):
    """What an HTTP client was told."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()

    @property
    def json(self) -> dict[str, Any]:
        found = json.loads(self.body)
        assert isinstance(found, dict)
        return found


@pytest.fixture
def web(server: LoopbackServer) -> Iterator[Web]:
    with Web(server, 0, server.url) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def ask(web: Web, path: str, *, method: str = "GET", **headers: str) -> Answer:
    connection = http.client.HTTPConnection("127.0.0.1", web.server_port, timeout=20)
    connection.putrequest(method, path, skip_host="Host" in headers)
    for name, value in headers.items():
        connection.putheader(name.replace("_", "-"), value)
    connection.endheaders()
    response = connection.getresponse()
    found = Answer(response.status, dict(response.getheaders()), response.read())
    connection.close()
    return found


def deliver(server: LoopbackServer, message: bytes | EmailMessage) -> CapturedMail:
    octets = message if isinstance(message, bytes) else message.as_bytes().replace(b"\n", b"\r\n")
    with SmtpConnection.connect(server.host, server.port, TlsMode.NONE, timeout=20) as connection:
        connection.send(ANNA, [BEN], octets, timeout=20)
    return server.mails[-1]


def letter() -> EmailMessage:
    """Text, HTML with a script and an image of its own, and two attachments with names to fear."""
    message = EmailMessage()
    message["From"], message["To"] = f"Ännä <{ANNA}>", BEN
    message["Subject"] = f"Invoice {SCRIPT}"
    message.set_content(f"Text {SCRIPT}\n")
    loads = '<img src="cid:logo"><link rel=preconnect href=//e>'
    message.add_alternative(f"<h1>Hello</h1>{SCRIPT}{loads}", subtype="html")
    html = list(message.iter_parts())[1]
    html.add_related(PNG, "image", "png", cid="<logo>")
    message.add_attachment(b"one", "text", "html", filename="../../x\u202efdp.html")
    message.add_attachment(b"two", "application", "pdf", filename='CON".pdf')
    return message


def test_the_list_shows_what_came_and_links_to_it(server: LoopbackServer, web: Web) -> None:
    assert "No mail yet" in ask(web, "/").text
    mail = deliver(server, letter())
    page = ask(web, "/")
    assert page.status == 200
    assert f'<a href="/mail/{mail.queue_id}">Invoice &lt;script&gt;' in page.text
    assert "1 captured mail<" in page.text
    assert "(3 attached)" in page.text
    assert "Ännä" in page.text
    assert "<script" not in page.text
    assert 'http-equiv="refresh"' not in page.text
    assert 'http-equiv="refresh"' in ask(web, "/?follow").text


def test_a_mail_is_shown_escaped_and_its_html_only_in_a_frame(server: LoopbackServer, web: Web) -> None:
    mail = deliver(server, letter())
    page = ask(web, f"/mail/{mail.queue_id}")
    assert "<script" not in page.text
    assert "Text &lt;script&gt;" in page.text
    assert f'<iframe sandbox src="/mail/{mail.queue_id}/html"' in page.text
    assert "<h1>Hello" not in page.text
    policy = page.headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'")
    assert "script-src" not in policy
    assert "unsafe" not in policy


def test_the_html_of_a_mail_may_neither_run_nor_load_anything(server: LoopbackServer, web: Web) -> None:
    mail = deliver(server, letter())
    frame = ask(web, f"/mail/{mail.queue_id}/html")
    rules = [rule.strip() for rule in frame.headers["Content-Security-Policy"].split(";")]
    assert rules[:3] == ["default-src 'none'", "style-src 'unsafe-inline'", "img-src data:"]
    assert "sandbox" in rules
    assert "frame-ancestors 'self'" in rules
    assert 'src="data:image/png;base64,iVBORw0KGgo' in frame.text
    assert "<link" not in frame.text.lower()


def test_attachments_are_downloads_with_safe_names(server: LoopbackServer, web: Web) -> None:
    mail = deliver(server, letter())
    found = [ask(web, f"/mail/{mail.queue_id}/attachment/{number}") for number in (1, 2, 3)]
    assert [each.body for each in found] == [PNG, b"one", b"two"]
    assert {each.headers["Content-Type"] for each in found} == {"application/octet-stream"}
    assert {each.headers["X-Content-Type-Options"] for each in found} == {"nosniff"}
    names = [each.headers["Content-Disposition"] for each in found]
    assert names == [
        "attachment; filename=\"part-3\"; filename*=UTF-8''part-3",
        "attachment; filename=\"xfdp.html\"; filename*=UTF-8''xfdp.html",
        "attachment; filename=\"CON_.pdf\"; filename*=UTF-8''CON_.pdf",
    ]
    whole = ask(web, f"/mail/{mail.queue_id}/raw")
    assert whole.body == mail.content
    assert whole.headers["Content-Disposition"].startswith(f'attachment; filename="{mail.queue_id}.eml"')


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("a.txt", "a.txt"), ("../a.txt", "a.txt"), ("C:\\x\\a.txt", "a.txt"), ("..", "part"), ("", "part"),
        (None, "part"), ("a\r\nb.txt", "ab.txt"), ("a\x00.txt", "a.txt"), ("con.txt", "_con.txt"), ("NUL", "_NUL"),
        (".profile", "profile"),
        ("a:b|c?.txt", "a_b_c_.txt"), ("x" * 200 + ".pdf", "x" * 96 + ".pdf"), ("gpj.\u202eexe", "gpj.exe"),
        ("Rechnung \u00fc.pdf", "Rechnung \u00fc.pdf"), ("a\ud800b", "ab"),
    ],
)  # fmt: skip
def test_a_safe_name_is_only_a_name(given: str | None, name: str) -> None:
    assert safe_name(given, "part") == name


def test_the_api_lists_and_shows(server: LoopbackServer, web: Web) -> None:
    """users:JS1."""
    mail = deliver(server, letter())
    listed = ask(web, "/api/mails").json
    assert (listed["schema"], listed["total"], len(listed["mails"])) == (1, 1, 1)
    assert listed["mails"][0]["sender"] == ANNA
    shown = ask(web, f"/api/mails/{mail.queue_id}").json
    assert shown["recipients"] == [BEN]
    assert shown["text"].strip() == f"Text {SCRIPT}"
    assert ["From", f"Ännä <{ANNA}>"] in shown["header"]
    assert [(each["name"], each["type"], each["size"]) for each in shown["attachments"]] == [
        ("part-3", "image/png", len(PNG)), ("xfdp.html", "text/html", 3), ("CON_.pdf", "application/pdf", 3),
    ]  # fmt: skip


@pytest.mark.parametrize(
    "path", ["/x", "/mail/1", "/api/mails/1", "/mail/{}/attachment/9", "/mail/{}/x", "/mail/{}/raw/1"]
)
def test_what_is_not_there_is_404(server: LoopbackServer, web: Web, path: str) -> None:
    mail = deliver(server, b"Subject: x\r\n\r\n")
    found = ask(web, path.format(mail.queue_id))
    assert found.status == 404
    assert "default-src 'none'" in found.headers["Content-Security-Policy"]


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:{port}", "127.0.0.1", "localhost:1", "127.0.0.1.evil:{port}", ""]
)
def test_another_host_is_refused_and_told_nothing(server: LoopbackServer, web: Web, host: str) -> None:
    """DNS rebinding."""
    deliver(server, b"Subject: secret\r\n\r\n")
    for path in ("/", "/api/mails"):
        found = ask(web, path, Host=host.format(port=web.server_port))
        assert found.status == 421
        assert b"secret" not in found.body
    assert ask(web, "/", Host=f"localhost:{web.server_port}").status == 200


def test_a_second_host_is_refused(web: Web) -> None:
    with socket.create_connection(("127.0.0.1", web.server_port), 20) as client:
        ours = f"Host: 127.0.0.1:{web.server_port}\r\n"
        client.sendall(f"GET / HTTP/1.1\r\n{ours}Host: evil.example\r\n\r\n".encode())
        assert b" 421 " in client.makefile("rb").readline()


def test_only_the_page_itself_forgets_mails(server: LoopbackServer, web: Web) -> None:
    """Cross-site request forgery."""
    deliver(server, b"Subject: x\r\n\r\n")
    assert ask(web, "/clear", method="POST").status == 403
    for origin in ("http://evil.example", "null", f"http://127.0.0.1.evil:{web.server_port}"):
        assert ask(web, "/clear", method="POST", Origin=origin).status == 403
    assert ask(web, "/api/mails", method="DELETE", Origin="http://evil.example").status == 403
    assert len(server.mails) == 1
    done = ask(web, "/clear", method="POST", Origin=f"http://localhost:{web.server_port}")
    assert (done.status, done.headers["Location"], server.mails) == (303, "/", [])
    deliver(server, b"Subject: x\r\n\r\n")
    assert ask(web, "/api/mails", method="DELETE").status == 200
    assert server.mails == []
    assert ask(web, "/", method="POST").status == ask(web, "/", method="DELETE").status == 404


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"\xff\xfe: \x80\r\n\r\n\x80\x81", id="octets"),
        pytest.param(b"Content-Type: text/plain; charset=nonsense\r\n\r\nx\xe4", id="an unknown charset"),
        pytest.param(b"Content-Type: multipart/mixed\r\n\r\n--x\r\n", id="no boundary"),
        pytest.param(b"Content-Transfer-Encoding: base64\r\n\r\n!!!", id="no base64"),
        pytest.param(
            b"".join(b'Content-Type: multipart/mixed; boundary="%d"\r\n\r\n--%d\r\n' % (n, n) for n in range(2000)),
            id="2,000 levels",
        ),
        pytest.param(
            b'Content-Type: multipart/mixed; boundary="b"\r\n\r\n' + b"--b\r\n\r\nx\r\n" * 2000, id="2,000 parts"
        ),
        pytest.param(b"Content-Type: message/rfc822\r\n\r\nSubject: inner\r\n\r\ninner", id="a mail in a mail"),
        pytest.param(b"From: a, b <\r\nSubject: =?utf-8?b?!!?=\r\nContent-ID: <\r\n\r\nx", id="fields that are none"),
    ],
)
def test_whatever_comes_is_shown_somehow(server: LoopbackServer, web: Web, content: bytes) -> None:
    mail = deliver(server, content)
    own = f"mail/{mail.queue_id}"
    for path in ("/", "/api/mails", f"/{own}", f"/api/mails/{mail.queue_id}", f"/{own}/raw"):
        assert ask(web, path).status == 200


def test_encoded_words_are_decoded(server: LoopbackServer) -> None:
    mail = deliver(server, b"Subject: =?utf-8?q?f=C3=BCnf?=\r\nX: \xc3\xbc\r\n\r\n")
    view = View.of(mail)
    assert (view.first("subject"), view.first("X")) == ("fünf", "ü")


# --- the command


def lines_of(child: subprocess.Popen[str], count: int) -> list[str]:
    assert child.stdout is not None
    return [child.stdout.readline() for _ in range(count)]


def start(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "smtpconn", "serve", "--port", "0", "--web-port", "0", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals")
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)])
def test_CLI4_it_serves_until_a_signal(number: signal.Signals, status: int) -> None:
    child = start("--json", "--tls", "starttls")
    told = json.loads(lines_of(child, 1)[0])
    assert list(told) == ["schema", "command", "url", "web", "ca"]
    port = int(told["url"].partition("?")[0].rpartition(":")[2])
    tls = TlsConfig(trust=Path(told["ca"]).read_bytes())
    with SmtpConnection.connect("127.0.0.1", port, TlsMode.STARTTLS, timeout=20, tls_config=tls) as connection:
        connection.send(ANNA, [BEN], b"Subject: hello\r\n\r\n", timeout=20)
    client = http.client.HTTPConnection(told["web"].split("/")[2], timeout=20)
    client.request("GET", "/api/mails")
    assert json.loads(client.getresponse().read())["mails"][0]["subject"] == "hello"
    child.send_signal(number)
    out, err = child.communicate(timeout=20)
    assert (child.returncode, out) == (status, "")
    assert err == ("smtpconn serve: interrupted after 1 mails\n" if status else "")


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals")
def test_in_a_pipe_it_says_where_it_is_in_plain_lines() -> None:
    child = start("--lmtp")
    mail, pages, _ = lines_of(child, 3)
    assert mail.startswith("mail   lmtp://127.0.0.1:")
    assert pages.startswith("pages  http://127.0.0.1:")
    child.send_signal(signal.SIGTERM)
    assert child.communicate(timeout=20) == ("", "")


def test_a_port_that_is_taken_is_69(capsys: pytest.CaptureFixture[str], server: LoopbackServer) -> None:
    assert main(["serve", "--port", str(server.port), "--web-port", "0"]) == 69
    assert "no port: Address already in use" in capsys.readouterr().err


def test_the_page_of_it_names_every_key_of_the_api(server: LoopbackServer, web: Web) -> None:
    page = (Path(__file__).parent.parent.parent / "docs/howto/serve.rst").read_text(encoding="utf-8")
    mail = deliver(server, letter())
    shown = ask(web, f"/api/mails/{mail.queue_id}").json
    for key in (*ask(web, "/api/mails").json, *shown, *shown["attachments"][0]):
        assert f"`{key}`" in page
