"""The page of `smtpconn serve` in a headless Chromium, with a mail that was made to break out of it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from email.message import EmailMessage
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import Page, expect

from smtpconn import SmtpConnection, TlsMode
from smtpconn.cli.web import Web
from smtpconn.testing import LoopbackServer

if TYPE_CHECKING:
    from .conftest import Beacon

ANNA, BEN = "anna@example.com", "ben@example.net"
DOT = bytes.fromhex(  # a GIF of one pixel
    "47494638396101000100800000ff0000ffffff21f90401000000002c00000000010001000002024401003b"
)
HOSTILE = """
<!DOCTYPE html><html><head><base href="{beacon}/base/">
<meta http-equiv="refresh" content="0;url={beacon}/refresh">
<link rel="stylesheet" href="{beacon}/style"><link rel="preload" as="image" href="{beacon}/preload">
<link rel="prefetch" href="{beacon}/prefetch"><style>@import "{beacon}/import"; h1 {{ color: rgb(1, 2, 3) }}
  body {{ background: url({beacon}/background) }} @font-face {{ font-family: x; src: url({beacon}/font) }}</style>
<script src="{beacon}/script"></script><script>fetch("{beacon}/inline"); parent.document.title = "taken"</script>
</head><body onload="fetch('{beacon}/onload')"><h1>Hello from HTML</h1><p style="font-family: x">text</p>
<img id="remote" src="{beacon}/image" onerror="fetch('{beacon}/onerror')"><img id="own" src="cid:dot">
<img src="relative"><iframe src="{beacon}/frame"></iframe><iframe srcdoc="<script>fetch('{beacon}/srcdoc')</script>"></iframe>
<object data="{beacon}/object"></object><embed src="{beacon}/embed"><video src="{beacon}/video" autoplay></video>
<svg><script>fetch("{beacon}/svg")</script><image href="{beacon}/svgimage"/></svg>
<a id="out" href="{beacon}/link">a link</a> <a id="top" target="_top" href="{beacon}/top">one to the top</a>
<form action="{beacon}/form"><button id="send">send</button></form></body></html>
"""  # noqa: E501  # one mail


@pytest.fixture
def server() -> Iterator[LoopbackServer]:
    with LoopbackServer() as running:
        yield running


@pytest.fixture
def web(server: LoopbackServer) -> Iterator[Web]:
    with Web(server, 0, server.url) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def deliver(server: LoopbackServer, message: EmailMessage) -> None:
    with SmtpConnection.connect(server.host, server.port, TlsMode.NONE, timeout=20) as connection:
        connection.send_message(message, timeout=20)


def hostile(beacon: Beacon) -> EmailMessage:
    message = EmailMessage()
    message["From"], message["To"] = ANNA, BEN
    message["Subject"] = "A <script>document.title = 'taken'</script> mail"
    message.set_content(f"Plain <script>fetch('{beacon.url}/plain')</script> text\n")
    message.add_alternative(HOSTILE.format(beacon=beacon.url), subtype="html")
    list(message.iter_parts())[1].add_related(DOT, "image", "gif", cid="<dot>")
    page = f"<script>fetch('{beacon.url}/attached')</script>"
    message.add_attachment(page.encode(), "text", "html", filename="../../etc/page.html")
    message.add_attachment(b"%PDF-1.4", "application", "pdf", filename="invoice.pdf")
    return message


def test_a_multipart_mail_is_listed_shown_and_taken_apart(
    page: Page, server: LoopbackServer, web: Web, beacon: Beacon
) -> None:
    page.goto(web.url)
    expect(page.get_by_text("No mail yet")).to_be_visible()
    deliver(server, hostile(beacon))
    page.get_by_role("link", name="Reload").click()
    page.get_by_role("link", name="A <script>").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("A <script>document.title = 'taken'</script> mail")
    expect(page.locator("pre")).to_contain_text("Plain <script>")
    frame = page.frame_locator("iframe[title]")
    expect(frame.get_by_role("heading", name="Hello from HTML")).to_have_css("color", "rgb(1, 2, 3)")
    expect(frame.locator("#own")).to_have_js_property("naturalWidth", 1)
    for name, octets in {"page.html": b"<script>", "invoice.pdf": b"%PDF-1.4", "part-3": DOT}.items():
        with page.expect_download() as download:
            page.get_by_role("link", name=name).click()
        assert download.value.suggested_filename == name
        assert Path(download.value.path()).read_bytes().startswith(octets)
    assert beacon.seen == []


def test_no_script_of_a_mail_runs_and_nothing_is_loaded_from_elsewhere(
    page: Page, server: LoopbackServer, web: Web, beacon: Beacon
) -> None:
    page.goto(beacon.url + "/proof")  # that it would be seen
    assert "/proof" in beacon.seen
    beacon.seen.clear()
    deliver(server, hostile(beacon))
    base = f"{web.url}mail/{server.mails[0].queue_id}"
    popups: list[object] = []
    page.context.on("page", lambda opened: popups.append(opened))
    page.goto(base, wait_until="networkidle")
    frame = page.frame_locator("iframe[title]")
    expect(frame.get_by_role("heading", name="Hello from HTML")).to_be_visible()
    expect(frame.locator("#remote")).to_have_js_property("naturalWidth", 0)
    for selector in ("#send", "#top", "#out"):
        frame.locator(selector).click()
        page.wait_for_load_state("networkidle")
        assert page.url == base
    assert page.title().startswith("A <script>document.title")
    # The same HTML without a frame around it.
    page.goto(base + "/html", wait_until="networkidle")
    expect(page.get_by_role("heading", name="Hello from HTML")).to_be_visible()
    page.locator("#send").click()
    assert page.url == base + "/html"
    assert beacon.seen == []
    assert popups == []


def test_another_name_for_loopback_sees_nothing(page: Page, server: LoopbackServer, web: Web, beacon: Beacon) -> None:
    """DNS rebinding: in this browser every name leads to 127.0.0.1."""
    deliver(server, hostile(beacon))
    answer = page.goto(f"http://evil.example:{web.server_port}/api/mails")
    assert answer is not None
    assert answer.status == 421
    assert "anna" not in answer.text()
    page.goto(beacon.url)
    asked = "url => fetch(url).then(answer => answer.text(), error => 'refused')"
    assert page.evaluate(asked, f"{web.url}api/mails") == "refused"
    with page.expect_request(f"{web.url}clear"):  # it is sent; what comes back is kept from the page
        page.evaluate("url => fetch(url, {method: 'POST', mode: 'no-cors'}).catch(() => 0)", f"{web.url}clear")
    page.evaluate("url => fetch(url, {method: 'DELETE'}).catch(() => 0)", f"{web.url}api/mails")
    assert len(server.mails) == 1


def test_following_and_forgetting(page: Page, server: LoopbackServer, web: Web, beacon: Beacon) -> None:
    page.goto(web.url)
    page.get_by_role("link", name="Follow").click()
    deliver(server, hostile(beacon))
    expect(page.get_by_text("1 captured mail")).to_be_visible()  # without a click
    page.get_by_role("link", name="Stop following").click()
    page.get_by_role("button", name="Forget all").click()
    expect(page.get_by_text("No mail yet")).to_be_visible()
    assert server.mails == []


@pytest.mark.parametrize("width", [380, 1000])
def test_nothing_is_wider_than_the_window(
    page: Page, server: LoopbackServer, web: Web, beacon: Beacon, width: int
) -> None:
    message = hostile(beacon)
    message.replace_header("Subject", "x" * 300)
    deliver(server, message)
    page.set_viewport_size({"width": width, "height": 700})
    for path in ("", f"mail/{server.mails[0].queue_id}"):
        page.goto(web.url + path)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
