"""What the documentation must say, and whether its tables agree with the code.

`tox -e docs` builds it and runs its examples.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

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
