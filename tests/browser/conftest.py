"""A headless Chromium, and a server that a page must not reach."""

from __future__ import annotations

import http.server
import os
import shutil
import threading
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

_NAMES = ("chromium", "chromium-browser", "google-chrome")


class Beacon(http.server.ThreadingHTTPServer):
    """Notes every path that is asked for."""

    daemon_threads = True

    def __init__(self) -> None:
        self.seen: list[str] = []
        super().__init__(("127.0.0.1", 0), _Noting)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Noting(http.server.BaseHTTPRequestHandler):
    server: Beacon

    def do_GET(self) -> None:
        if self.path != "/favicon.ico":  # of its own pages, whenever the browser has time for it
            self.server.seen.append(self.path)
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(b"<title>beacon</title>")

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture
def beacon() -> Iterator[Beacon]:
    with Beacon() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """The system's Chromium, which every name leads to loopback in."""
    program = next((found for name in _NAMES if (found := shutil.which(name))), None)
    if program is None:
        if os.environ.get("SMTPCONN_REQUIRE_SERVERS"):
            pytest.fail("there is no Chromium (.ci/servers installs it)")
        pytest.skip("there is no Chromium")
    arguments = ["--host-resolver-rules=MAP * 127.0.0.1", "--no-proxy-server"]
    with sync_playwright() as playwright:
        sandboxed = hasattr(os, "geteuid") and os.geteuid() != 0  # root has no sandbox of Chromium's
        found = playwright.chromium.launch(executable_path=program, args=arguments, chromium_sandbox=sandboxed)
        yield found
        found.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    context = browser.new_context(accept_downloads=True, viewport={"width": 1000, "height": 800})
    context.set_default_timeout(20_000)
    yield context.new_page()
    context.close()
