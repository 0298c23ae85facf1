"""The pages of `smtpconn serve`: HTML without scripts, whatever a mail contains.

Knows views and HTML; refuses to know HTTP. The law: every text of a mail passes through `html.escape`; the HTML of a
mail is only ever in a frame of its own.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from html import escape

from smtpconn.cli.captured_view import View

STYLE = """
* { box-sizing: border-box; }
:root { color-scheme: light dark; }
body { font: 16px/1.45 system-ui, sans-serif; margin: 0 auto; max-width: 70rem; padding: 1rem; }
header { align-items: baseline; display: flex; flex-wrap: wrap; gap: 1rem; }
h1 { font-size: 1.3rem; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 1.05rem; margin: 1.5rem 0 .4rem; }
table { border-collapse: collapse; width: 100%; }
th, td { border-bottom: 1px solid #8886; padding: .35rem .5rem; text-align: left; vertical-align: top; }
td { overflow-wrap: anywhere; }
th[scope=row] { white-space: nowrap; width: 1%; }
td.number { text-align: right; white-space: nowrap; }
pre { border: 1px solid #8886; overflow: auto; padding: .7rem; white-space: pre-wrap; overflow-wrap: anywhere; }
iframe { background: #fff; border: 1px solid #8886; height: 32rem; width: 100%; }
form { display: inline; }
""".strip()


def listing(views: Sequence[View], *, where: str, follow: bool) -> str:
    """The list of all mails, the newest first."""
    rows = "".join(map(_row, reversed(views)))
    heads = "".join(f'<th scope="col">{name}</th>' for name in ("Subject", "From", "To", "At", "Octets"))
    mails = f"<table><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table>"
    empty = f"<p>No mail yet. Send some to <code>{escape(where)}</code>.</p>"
    link = '<a href="/">Stop following</a>' if follow else '<a href="/?follow">Follow</a>'
    clear = '<form method="post" action="/clear"><button>Forget all</button></form>' if views else ""
    body = f'<header><h1>{_count(len(views))}</h1><a href="/">Reload</a>{link}{clear}</header>'
    return _page("Captured mail", body + (mails if views else empty), refresh=2 if follow else None)


def mail(view: View) -> str:
    """One mail."""
    base = f"/mail/{escape(view.mail.queue_id)}"
    envelope = [("Sender", view.mail.sender or "<>"), ("Recipients", ", ".join(view.mail.recipients))]
    subject = escape(view.first("Subject") or "(no subject)")
    links = f'<a href="/">All mails</a><a href="{base}/raw">The whole mail</a>'
    parts = [
        f"<header><h1>{subject}</h1>{links}</header>",
        f"<h2>Envelope</h2>{_rows(envelope)}<h2>Header</h2>{_rows(view.header)}",
    ]
    if not view.is_whole:
        parts.append("<p><strong>This mail cannot be taken apart as a whole.</strong> What there is of it:</p>")
    if view.attachments:
        items = "".join(
            f'<li><a href="{base}/attachment/{number}" download>{escape(each.name)}</a> '
            f"({escape(each.kind)}, {len(each.octets):,} octets)</li>"
            for number, each in enumerate(view.attachments, 1)
        )
        parts.append(f"<h2>Attachments</h2><ul>{items}</ul>")
    if view.html is not None:
        frame = f'<iframe sandbox src="{base}/html" title="HTML of the mail" referrerpolicy="no-referrer"></iframe>'
        parts.append(f"<h2>HTML</h2>{frame}")
    if view.text is not None:
        parts.append(f"<h2>Text</h2><pre>{escape(view.text)}</pre>")
    return _page(view.first("Subject") or "(no subject)", "".join(parts))


def error(status: int, text: str) -> str:
    """What is not there, or not allowed."""
    return _page(f"{status}", f'<header><h1>{status}: {escape(text)}</h1><a href="/">All mails</a></header>')


def _page(title: str, body: str, *, refresh: int | None = None) -> str:
    again = f'<meta http-equiv="refresh" content="{refresh}">' if refresh else ""
    return (
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'{again}<title>{escape(title)} - smtpconn serve</title><link rel="stylesheet" href="/style.css"></head>'
        f"<body>{body}</body></html>"
    )


def _row(view: View) -> str:
    subject = escape(view.first("Subject") or "(no subject)")
    mark = f" ({len(view.attachments)} attached)" if view.attachments else ""
    cells = [view.first("From") or view.mail.sender or "<>", ", ".join(view.mail.recipients)]
    at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(view.mail.at))
    return (
        f'<tr><td><a href="/mail/{escape(view.mail.queue_id)}">{subject}</a>{mark}</td>'
        + "".join(f"<td>{escape(cell)}</td>" for cell in cells)
        + f'<td>{at}</td><td class="number">{len(view.mail.content):,}</td></tr>'
    )


def _rows(pairs: Sequence[tuple[str, str]]) -> str:
    rows = (f'<tr><th scope="row">{escape(name)}</th><td>{escape(value)}</td></tr>' for name, value in pairs)
    return f"<table><tbody>{''.join(rows)}</tbody></table>"


def _count(number: int) -> str:
    return "1 captured mail" if number == 1 else f"{number:,} captured mails"
