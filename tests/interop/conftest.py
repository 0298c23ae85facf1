"""The real servers as fixtures, one of each for the whole run: `postfix`, `dovecot`, `exim`,
`dovecot_submission`, and what they have in common.

Where a server cannot run here (not installed, or we are not root), what needs it is skipped and says why; with
SMTPCONN_REQUIRE_SERVERS=1 in the environment it fails instead.
"""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

import pytest

from .certificates import Certificates, make_certificates
from .dovecot import Dovecot, DovecotSubmission
from .exim import Exim
from .postfix import Postfix
from .servers import MailServer, running

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """An authority, a server's and a client's certificate."""
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="session")
def dovecot(certificates: Certificates) -> Iterator[Dovecot]:
    """A running Dovecot with LMTP on TCP and on a Unix socket."""
    with running(lambda: Dovecot(certificates), Dovecot) as server:
        yield server


@pytest.fixture(scope="session")
def postfix(certificates: Certificates, dovecot: Dovecot) -> Iterator[Postfix]:
    """A running Postfix that asks `dovecot` about passwords."""
    with running(lambda: Postfix(certificates, dovecot.auth_socket), Postfix) as server:
        yield server


@pytest.fixture(scope="session")
def exim(certificates: Certificates) -> Iterator[Exim]:
    """A running Exim with the limits of its defaults."""
    with running(lambda: Exim(certificates), Exim) as server:
        yield server


@pytest.fixture(scope="session")
def dovecot_submission(certificates: Certificates, postfix: Postfix) -> Iterator[DovecotSubmission]:
    """Dovecot's submission service in front of `postfix`."""
    with running(lambda: DovecotSubmission(certificates, postfix), DovecotSubmission) as server:
        yield server


@pytest.fixture(params=["postfix", "exim"])
def smtp_server(request: pytest.FixtureRequest) -> MailServer:
    """Each SMTP server in turn."""
    server = request.getfixturevalue(request.param)
    assert isinstance(server, MailServer)
    return server


@pytest.fixture(params=["postfix", "exim", "dovecot"])
def mail_server(request: pytest.FixtureRequest) -> MailServer:
    """Each server in turn; `mail_server.users[0]` takes mail on all of them."""
    server = request.getfixturevalue(request.param)
    assert isinstance(server, MailServer)
    return server


@pytest.fixture
def message_id() -> str:
    """A Message-ID that no other mail has."""
    return f"<{uuid.uuid4()}@lab.test>"
