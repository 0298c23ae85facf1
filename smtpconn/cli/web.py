"""The HTTP side of `smtpconn serve`: who may ask, what is answered, and with which headers.

Knows requests of a browser on this machine; refuses to know how mails came and how a page looks. Its laws: loopback
only, and only under a name of loopback's (a page of somebody else's whose name was bound to 127.0.0.1 sends its own
`Host`); what changes anything comes from this page itself; nothing of a mail runs, and nothing of it is loaded from
elsewhere.
"""

from __future__ import annotations

import http.server
import json
import re
import socketserver
import urllib.parse
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from smtpconn.cli import mail_pages, shapes
from smtpconn.cli.captured_view import Captured, View

_PATIENCE = 10.0  # seconds that a client may take for his request
_SHOWN = 500  # mails in a list: each is parsed for it
_STRICT = (
    "default-src 'none'; style-src 'self'; frame-src 'self'; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'"
)
# The HTML of a mail: no scripts, no forms, no plugins (sandbox), and nothing is loaded. Styles that stand in the mail
# itself apply, and images that it carries.
_MAIL = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; form-action 'none'; base-uri 'none'; "
    "frame-ancestors 'self'; sandbox"
)
_FILE = "default-src 'none'; sandbox"
_ALWAYS = {
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "same-origin",  # with none at all a browser sends `Origin: null` with the form
    "X-Content-Type-Options": "nosniff",
    "X-DNS-Prefetch-Control": "off",
}
_HTML = "text/html; charset=utf-8"


class Mailbox(Protocol):
    """The captured mails, as far as it matters here."""

    @property
    def mails(self) -> Any:
        """All of them, oldest first."""
        ...

    def clear(self) -> None:
        """Forget them."""
        ...


class Answer(NamedTuple):
    """What goes back."""

    body: bytes
    kind: str = _HTML
    policy: str = _STRICT
    status: int = 200
    name: str | None = None  # of the file that is downloaded
    location: str | None = None


class Web(socketserver.ThreadingMixIn, http.server.HTTPServer):
    """The pages of one mailbox on a loopback port; 0 lets the system choose. `where`: the URL for mail."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, mailbox: Mailbox, port: int, where: str) -> None:
        self.mailbox = mailbox
        self.where = where
        super().__init__(("127.0.0.1", port), _Handler)

    def server_bind(self) -> None:
        """Without the look-up of the host's name that the base class makes."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = "127.0.0.1", int(self.server_address[1])

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is nobody's fault."""

    @property
    def url(self) -> str:
        """Where a browser finds the list."""
        return f"http://127.0.0.1:{self.server_port}/"

    @property
    def hosts(self) -> set[str]:
        """What a `Host` may say."""
        port = self.server_port
        names = ("127.0.0.1", "localhost", "[::1]")
        return {f"{name}:{port}" for name in names} | (set(names) if port == 80 else set())


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Web
    timeout = _PATIENCE
    server_version = "smtpconn"
    sys_version = ""

    def do_GET(self) -> None:
        """Pages, files and JSON."""
        self._respond(self._get)

    def do_HEAD(self) -> None:
        """The same without the body."""
        self._respond(self._get)

    def do_POST(self) -> None:
        """Only the button that forgets all mails."""
        self._respond(self._post)

    def do_DELETE(self) -> None:
        """The same for programs: a page of another site cannot send this without asking first, and is told nothing."""
        self._respond(self._delete)

    def log_message(self, *_: Any) -> None:
        """Nothing: the terminal is for the mails."""

    # --- who may ask

    def _respond(self, find: Callable[[str], Answer]) -> None:
        path = self.path.partition("?")[0]
        answer = _refusal(421, "this name is not mine") if self._is_foreign() else find(path)
        self.send_response(answer.status)
        headers = {**_ALWAYS, "Content-Security-Policy": answer.policy, "Content-Type": answer.kind}
        if answer.policy != _STRICT:
            headers["Referrer-Policy"] = "no-referrer"
        headers["Content-Length"] = str(len(answer.body))
        if answer.name is not None:
            headers["Content-Disposition"] = _disposition(answer.name)
        if answer.location is not None:
            headers["Location"] = answer.location
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body)

    def _is_foreign(self) -> bool:
        """DNS rebinding: exactly one `Host`, and it is one of ours."""
        given = self.headers.get_all("Host") or []
        return len(given) != 1 or given[0].strip().lower() not in self.server.hosts

    def _is_ours(self) -> bool:
        """Cross-site request forgery: what changes anything says that it comes from this page."""
        origin = self.headers.get("Origin", "")
        return origin.startswith("http://") and origin[len("http://") :].lower() in self.server.hosts

    # --- what is answered

    def _get(self, path: str) -> Answer:
        if path == "/":
            return self._listing()
        if path == "/style.css":
            return Answer(mail_pages.STYLE.encode(), "text/css; charset=utf-8")
        if path == "/api/mails":
            mails = [view.summary() for view in self._views()]
            return _json({"mails": mails, "total": len(self.server.mailbox.mails)})
        found = re.fullmatch(r"/(mail|api/mails)/([\w-]{1,40})(?:/(raw|html|attachment)(?:/(\d{1,4}))?)?", path)
        mail = None if found is None else self._mail(found[2])
        if found is None or mail is None:
            return _refusal(404, "there is no such thing")
        return _of_mail(View.of(mail), found[1] == "api/mails", found[3], found[4])

    def _listing(self) -> Answer:
        follow = self.path.partition("?")[2] == "follow"
        return Answer(mail_pages.listing(self._views(), where=self.server.where, follow=follow).encode())

    def _views(self) -> list[View]:
        return [View.of(mail) for mail in self.server.mailbox.mails[-_SHOWN:]]

    def _mail(self, number: str) -> Captured | None:
        return next((mail for mail in self.server.mailbox.mails if mail.queue_id == number), None)

    def _post(self, path: str) -> Answer:
        if path != "/clear":
            return _refusal(404, "there is no such thing")
        if not self._is_ours():
            return _refusal(403, "this comes from another page")
        self.server.mailbox.clear()
        return Answer(b"", status=303, location="/")

    def _delete(self, path: str) -> Answer:
        if path != "/api/mails":
            return _refusal(404, "there is no such thing")
        if "Origin" in self.headers and not self._is_ours():
            return _refusal(403, "this comes from another page")
        self.server.mailbox.clear()
        return _json({"mails": [], "total": 0})


def _of_mail(view: View, as_json: bool, what: str | None, number: str | None) -> Answer:
    if what is None:
        return _json(view.to_json()) if as_json else Answer(mail_pages.mail(view).encode("utf-8", "replace"))
    if what == "raw" and number is None:
        return Answer(view.mail.content, "application/octet-stream", _FILE, name=f"{view.mail.queue_id}.eml")
    if what == "html" and number is None and view.html is not None:
        return Answer(view.framed_html.encode("utf-8", "replace"), _HTML, _MAIL)
    if what == "attachment" and number is not None and 0 < int(number) <= len(view.attachments):
        attachment = view.attachments[int(number) - 1]
        return Answer(attachment.octets, "application/octet-stream", _FILE, name=attachment.name)
    return _refusal(404, "there is no such thing")


def _json(body: dict[str, Any]) -> Answer:
    text = json.dumps({"schema": shapes.SCHEMA, **body}, indent=2)
    return Answer(text.encode("ascii"), "application/json")


def _refusal(status: int, text: str) -> Answer:
    return Answer(mail_pages.error(status, text).encode(), status=status)


def _disposition(name: str) -> str:
    """RFC 6266: the name in ASCII for old browsers, and as it is."""
    plain = re.sub(r'[^ !#-\[\]-~]|%', "_", name)
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{urllib.parse.quote(name, safe='')}"
