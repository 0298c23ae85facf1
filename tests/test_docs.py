"""What the documentation must say, and whether its tables agree with the code.

`tox -e docs` builds it and runs its examples.
"""

from __future__ import annotations

import builtins
import contextlib
import inspect
import itertools
import os
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

import smtpconn
from smtpconn import (
    AuthenticationError,
    MailParams,
    RcptParams,
    Reply,
    SessionState,
    SmtpConnection,
    Timeouts,
    testing,
    tls_sessions,
)
from smtpconn.protocol import (
    address,
    audit,
    body,
    commands,
    errors,
    extensions,
    ledger,
    mechanisms,
    params,
    reply,
    session,
    transaction,
)
from smtpconn.testing import LoopbackServer, plugin

CHECKOUT = Path(__file__).resolve().parent.parent
DOCS = CHECKOUT / "docs"


def text_of(page: str) -> str:
    return (DOCS / page).read_text(encoding="utf-8")


def words_of(page: str) -> str:
    """The page with each run of white space as one blank, so that a sentence is found wherever its lines break."""
    return " ".join(text_of(page).split())


def section_of(page: str, title: str) -> str:
    """The words from this title to the next one that is underlined in the same way."""
    text = text_of(page)
    found = re.search(rf"^{re.escape(title)}\n(.)\1+\n(.*?)(?=^[^\n]+\n\1{{4,}}\n|\Z)", text, re.MULTILINE | re.DOTALL)
    assert found, f"{page} has no section {title!r}"
    return " ".join(found[2].split())


@pytest.mark.parametrize(
    "sentence",
    [
        "No unsolicited bulk mail. Do not send mail to many people who have not asked for it.",
        "No spoofing. Do not use a sender's address, a header field or an EHLO domain that you have no right to use",
        "Respect the server. Its policy and its rates are its owner's to set.",
        "Respect third parties.",
        "only with their consent or another good reason",
    ],
)
def test_F119_acceptable_use_forbids_bulk_and_spoofing_and_asks_for_the_respect_of_servers_and_people(
    sentence: str,
) -> None:
    assert sentence in section_of("topics/acceptable-use.rst", "What it is not for")


def test_F119_security_tells_how_to_report_in_private_and_what_is_in_scope() -> None:
    notice = " ".join((CHECKOUT / "SECURITY.md").read_text(encoding="utf-8").split())
    assert "Report it in private" in notice
    assert "Not in a public issue" in notice
    scope = notice.partition("## Scope")[2]
    assert scope.index("These are vulnerabilities of smtpconn") < scope.index("These are not:")
    page = text_of("topics/security.rst")
    assert page.count(".. include:: ../../SECURITY.md") == 2
    for heading in ("## Reporting a vulnerability", "## Scope", "## Supported versions"):  # what the page includes by
        assert heading in page
        assert heading in notice


def test_F120_the_request_boundary_and_the_policy_have_their_own_duties() -> None:
    said = section_of("topics/acceptable-use.rst", "Where abuse is stopped")
    for duty in ("rate limit", "challenge", "**fail closed**", "`SendPolicy`", "how many recipients; how many octets"):
        assert duty in said
    assert "It must not be the rate limiter" in said


def test_F120_line_ends_are_ours_in_the_envelope_and_the_applications_in_header_fields() -> None:
    said = section_of("topics/acceptable-use.rst", "Line ends: whose duty")
    assert "In the envelope it is ours. A CR, LF or NUL in an address" in said
    assert "In header fields it is the application's." in said


def test_every_block_of_python_in_the_pages_is_run_or_taken_from_a_test() -> None:
    """DO: `testcode` and `doctest` run when the documentation is built; a plain block would only be shown."""
    for page in DOCS.rglob("*.rst"):
        text = page.read_text(encoding="utf-8")
        assert not re.search(r"^ *\.\. (?:code-block|code|sourcecode):: *(?:py|pycon|$)", text, re.MULTILINE), page.name
        for included in re.findall(r"^\.\. literalinclude:: (\S+)", text, re.MULTILINE):
            assert (page.parent / included).resolve().is_relative_to(CHECKOUT / "tests"), included


def test_no_line_of_code_that_is_run_is_wider_than_the_page() -> None:
    """102 characters at 1280 pixels (_static/pages.css); what stands behind them would have to be scrolled to."""
    for page in DOCS.rglob("*.rst"):
        shown = False
        for line in page.read_text(encoding="utf-8").splitlines():
            shown = line.lstrip().startswith(".. testcode::") or (shown and (not line or line.startswith(" ")))
            assert not shown or len(line) <= 3 + 102, f"{page.name}: {line}"


def blocks_of(page: str, *directives: str) -> list[str]:
    """The contents of the blocks of these kinds, without their indentation."""
    kinds = "|".join(directives)
    found = re.findall(rf"^\.\. (?:{kinds})::\n((?:\n|   .*\n)+)", text_of(page) + "\n", re.MULTILINE)
    return [inspect.cleandoc(text.replace("\n   ", "\n")) for text in found]


@pytest.mark.once
@pytest.mark.parametrize("name", ["first-message", "threads", "lmtp"])
def test_a_tutorial_runs_when_its_blocks_are_copied_one_after_the_other(name: str) -> None:
    """DO1: with nothing else; elsewhere in the pages a server is there already."""
    page = f"tutorial/{name}.rst"
    program = "\n".join(blocks_of(page, "testcode"))
    done = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, timeout=50)
    assert done.stderr == ""
    assert done.stdout.split("\n") == [*"\n".join(blocks_of(page, "testoutput")).split("\n"), ""]


def test_no_recipe_for_many_mails_gives_up_a_mail_because_of_a_wrong_password(tmp_path: Path) -> None:
    """MG6: a mail is not to blame for what fails all of them, though the error is permanent; the next run sends it."""
    readers, record, journal = (tmp_path / name for name in ("readers.csv", "record.csv", "journal"))
    rows = "".join(f"{number},user{number}@example.net,Reader\n" for number in range(20))
    readers.write_text(f"number,address,name\n{rows}", encoding="utf-8")
    recipe = next(block for block in blocks_of("howto/many-mails.rst", "testcode") if "def run()" in block)
    newsletter = CHECKOUT / "tests" / "contrib" / "examples" / "newsletter.py"
    with LoopbackServer(auth={"anna": "secret"}, tls="starttls") as server:
        for url in (server.url.replace(":secret@", ":wrong@"), server.url):
            environment = {**os.environ, "EMAIL_URL": url}
            done = subprocess.run(
                [sys.executable, str(newsletter), str(readers), str(record)],
                env=environment, capture_output=True, timeout=50,
            )  # fmt: skip
            names = {"url": url, "journal_path": journal, "server": server}
            with contextlib.nullcontext() if url == server.url else pytest.raises(AuthenticationError):
                exec(recipe, names)  # noqa: S102 - our own page
            assert (b"AuthenticationError" in done.stderr) == (url != server.url)
        assert len(server.mails) == 20 + 50


FOREIGN = {"EmailSender", "PyThreadState_SetAsyncExc", "QueueHandler", "SMTPHandler", "SMTPTimeoutError"}  # of others


def test_every_class_that_a_page_names_is_there() -> None:
    """The page that compares with the documents of old names theirs."""
    code = "\n".join(path.read_text(encoding="utf-8") for path in (CHECKOUT / "smtpconn").rglob("*.py"))
    known = {*re.findall(r"\w+", code), *dir(builtins), *FOREIGN}
    for page in DOCS.rglob("*.rst"):
        text = page.read_text(encoding="utf-8")
        blocks = re.findall(r"^\.\. test\w+::.*\n((?:\n|   .*\n)+)", text, re.MULTILINE)
        own = set(re.findall(r"\w+", "".join(blocks)))
        named = re.findall(r"(?<![`:\w])`([A-Z][a-z]+[A-Z]\w+|[A-Z]{2,}[a-z]\w+)(?=[`(.])", text)
        if page.name != "seed-methods.rst":
            assert set(named) <= known | own, page.name


# --- the reference is complete ---


def documented(page: str) -> list[str]:
    """The names that this page documents by their docstrings."""
    return re.findall(r"^\.\. (?:auto(?:class|exception|function)|data):: (\w+)$", text_of(page), re.MULTILINE)


def rows_of(page: str) -> list[list[str]]:
    """The cells of every row of its list-tables."""
    rows = re.findall(r"^   \* - .*(?:\n     -.*)*", text_of(page), re.MULTILINE)
    return [[cell.strip() for cell in re.split(r"\n     -|   \* -", row)[1:]] for row in rows]


def test_every_public_name_is_documented_once() -> None:
    """DO5: also the errors, which have a page of their own."""
    names = documented("reference/api.rst") + documented("reference/errors.rst")
    assert sorted(names) == sorted(smtpconn.__all__)


def test_F118_SY30_every_name_of_the_test_kit_is_documented_once() -> None:
    assert sorted(documented("reference/testing.rst")) == sorted(testing.__all__)


@pytest.mark.parametrize("name", testing.__all__)
def test_F118_every_class_of_the_test_kit_explains_itself_and_its_public_methods(name: str) -> None:
    thing = getattr(testing, name)
    if isinstance(thing, type):
        assert (thing.__doc__ or "").strip()
        for attribute, value in vars(thing).items():
            if not attribute.startswith("_") and (inspect.isfunction(value) or isinstance(value, property)):
                assert inspect.getdoc(value), f"{name}.{attribute}"


def test_F118_every_fixture_of_the_plugin_is_documented() -> None:
    told = {row[0].strip("`") for row in cells_of("reference/testing.rst", "fixture")}
    assert told == {name for name in vars(plugin) if name.startswith("smtpconn_")}


@pytest.mark.parametrize(
    "option", ["whole", "line", "octet", "coalesced", "lmtp", "starttls", "auth=", "quirks=", "fault(", "rtt="]
)
def test_F118_what_the_row_asks_for_is_in_the_page(option: str) -> None:
    assert option in text_of("reference/testing.rst")


def test_every_error_has_a_row_that_says_what_its_class_says() -> None:
    table = {cells[0].strip("`"): cells for cells in rows_of("reference/errors.rst") if cells[0].endswith("Error`")}
    assert set(table) == {name for name in smtpconn.__all__ if name.endswith("Error")} - {"SmtpError"}
    for name, (_, _, permanent, scope, _) in table.items():
        kind = getattr(smtpconn, name)
        if permanent == "reply":  # the reply decides; without one nothing is said
            assert kind("text").permanent is None
        elif name == "ReplyError":
            assert scope == "reply"
        else:
            given = {"reply": Reply(550, b"550 no\r\n")} if issubclass(kind, smtpconn.ReplyError) else {}
            error = kind("text", **given)
            assert str(error.permanent) == permanent, name
            assert scope in ("reply", error.scope), name


def test_every_stage_that_an_error_can_name_is_explained() -> None:
    told = {stage for cells in rows_of("reference/errors.rst") for stage in re.findall(r"`([^`]+)`", cells[0])}
    stages = {kind.stage for kind in vars(ledger).values() if isinstance(kind, ledger.Kind)}
    assert {"input", "lock", "pool", "resolve", "connect", "tls", "body", "AUTH PLAIN"} | stages <= told


# --- tables that repeat what the code says ---


def cells_of(page: str, first: str) -> list[list[str]]:
    """The rows of the simple table whose head begins with this word; lines that continue a row are left away."""
    found = re.search(rf"^(=+(?: +=+)+)\n{first} .*\n\1\n(.*?)^\1$", text_of(page), re.MULTILINE | re.DOTALL)
    assert found, f"{page} has no table that begins with {first!r}"
    columns = [match.span() for match in re.finditer("=+", found[1])]
    starts = [begin for begin, _ in columns] + [None]
    rows = [[line[a:b].strip() for a, b in itertools.pairwise(starts)] for line in found[2].splitlines()]
    return [row for row in rows if row[0]]


LIMITS = {
    "local part of an address": address.LOCAL_PART_LIMIT,
    "domain of an address, EHLO domain": address.DOMAIN_LIMIT,
    "a label of a domain": address.LABEL_LIMIT,
    "an address": address.ADDRESS_LIMIT,
    "a host to connect to": address.HOST_LIMIT,
    "the path of a Unix socket": 107,
    "a command line": commands.LINE_LIMIT,
    "a response of AUTH": commands.AUTH_RESPONSE_LIMIT,
    "`envid`, encoded": params.ENVID_LIMIT,
    "`orcpt`, encoded": params.ORCPT_LIMIT,
    "commands without an answer": transaction.GROUP,
    "a slice of a message": body.SLICE,
    "a slice without an end of data in it": body.LONG_SLICE,
    "a BDAT chunk of a stream": body.CHUNK,
    "a line of a reply": reply.MAX_LINE,
    "a reply": reply.MAX_REPLY,
    "a reply to EXPN or HELP": reply.MAX_LISTING,
    "the lines of a reply": reply.MAX_LINES,
    "lines kept of an EHLO reply": extensions.LINES_KEPT,
    "challenges of one AUTH": session._CHALLENGES,
    "iterations of SCRAM": mechanisms.ITERATIONS,
    "`str()` of an error, of a reply": errors._SHOWN,
    "TLS tickets kept for a server": tls_sessions.TICKETS_KEPT,
    "servers whose TLS tickets are kept": tls_sessions.SERVERS_KEPT,
}


def test_limits_are_those_of_the_code() -> None:
    said = [line for line in text_of("reference/limits.rst").splitlines() if re.search(r"\S {2,}[\d,]+ ", line)]
    told = {re.split(r" {2,}", line)[0]: re.findall(r"[\d,]*\d", re.split(r" {2,}", line)[1]) for line in said}
    numbers = {item: [int(number.replace(",", "")) for number in found] for item, found in told.items()}
    assert numbers == {item: list(n) if isinstance(n, tuple) else [n] for item, n in LIMITS.items()}
    assert f"up to {commands.LONGEST_LINE:,} in all" in text_of("reference/limits.rst")


def test_timeouts_are_listed_with_their_defaults() -> None:
    told = {row[0].strip("`"): row[1] for row in cells_of("topics/timeouts.rst", "field")}
    assert told == {field.name: f"{field.default:g}" if field.default else "None" for field in fields(Timeouts)}


def test_audit_events_are_listed_with_their_fields_in_the_order_of_a_session() -> None:
    told = {row[0].strip("`"): re.findall(r"`(\w+)`", row[1]) for row in cells_of("topics/policies.rst", "event")}
    own = {field.name for field in fields(audit.AuditEvent)}
    events = [kind for kind in audit.AuditEvent.__subclasses__() if kind.__module__ == audit.__name__]
    assert told == {kind.__name__: [f.name for f in fields(kind) if f.name not in own] for kind in events}


def test_parameters_are_listed_in_the_order_of_the_wire() -> None:
    tables = re.split(r"^Of a recipient$", text_of("topics/parameters.rst"), flags=re.MULTILINE)
    for text, kind in zip(tables, (MailParams, RcptParams), strict=True):
        told = re.findall(r"^`([a-z_0-9]+)`   ", text, re.MULTILINE)
        assert told == [field.name for field in fields(kind) if field.name != "octets"]


def test_every_state_of_a_session_is_listed() -> None:
    assert [row[0].strip("`") for row in cells_of("topics/session.rst", "state")] == [
        "GREETING", "EHLO", "AUTHENTICATION", "STARTTLS", "MAIL_FROM", "RCPT_TO", "DATA", "QUIT", "CLOSED",
    ]  # fmt: skip
    assert {row[0].strip("`") for row in cells_of("topics/session.rst", "state")} == {s.name for s in SessionState}


def test_what_the_pages_show_of_a_connection_is_in_the_reference() -> None:
    """Part of it is inherited, and what else is inherited is not for callers."""
    hidden = re.search(r"^   :exclude-members: (.*)$", text_of("reference/api.rst"), re.MULTILINE)
    assert hidden
    public = {name for name in dir(SmtpConnection) if not name.startswith("_")} - set(hidden[1].split(", "))
    assert {"usable", "is_shutting_down", "close", "connection_id"} & public == {"usable", "is_shutting_down", "close"}
    shown = {
        name
        for page in DOCS.rglob("*.rst")
        for name in re.findall(r"(?<![\w./])connection\.([a-z_0-9]+)", page.read_text(encoding="utf-8"))
    }
    assert shown - {"wire"} <= public
