"""VRFY, EXPN, HELP, NOOP, RSET, EHLO and QUIT: the exact replies of each server, and a session that goes on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from smtpconn import ExtensionUnavailableError, InvalidInputError, PasswordAuth, SessionState, SmtpConnection, TlsMode

from .clients import SENDER, TIMEOUT, connect
from .servers import DOMAIN, LOGIN, UNKNOWN, MailServer

if TYPE_CHECKING:
    from smtpconn import Reply

    from .dovecot import Dovecot, DovecotSubmission
    from .exim import Exim
    from .postfix import Postfix

pytestmark = pytest.mark.interop


def still_takes_mail(connection: SmtpConnection, server: MailServer) -> bool:
    return connection.send(SENDER, [server.users[8 % len(server.users)]], b"x\r\n", timeout=TIMEOUT).all_delivered


def codes(*replies: Reply) -> list[int]:
    return [reply.code for reply in replies]


def test_postfix_verifies_neither_lists_nor_helps(postfix: Postfix) -> None:
    """features:F88, F89, KM26, KM27, KM28, E87, servers 3: 252 says "cannot tell", which is no yes and no no."""
    with connect(postfix) as connection:
        known, unknown = (connection.vrfy(user, timeout=TIMEOUT) for user in (postfix.users[0], UNKNOWN))
        assert codes(known, unknown) == [252, 550]
        assert known.is_positive
        assert unknown.is_permanent
        assert UNKNOWN in unknown.text
        assert str(unknown.enhanced) == "5.1.1"
        expn, bare, topic = (
            connection.expn("list", timeout=TIMEOUT),
            connection.help(timeout=TIMEOUT),
            connection.help("MAIL", timeout=TIMEOUT),
        )
        assert codes(expn, bare, topic) == [500, 500, 500]
        assert still_takes_mail(connection, postfix)


def test_postfix_takes_an_internationalised_vrfy(postfix: Postfix) -> None:
    """features:F88, E197, C20: `VRFY jörg@... SMTPUTF8`, as RFC 6531 3.7.4.2 has it."""
    with connect(postfix) as connection:
        assert connection.vrfy(postfix.unicode_user, timeout=TIMEOUT).code == 252
        assert connection.vrfy(f"jürg@{DOMAIN}", timeout=TIMEOUT).code == 550


def test_exim_verifies_lists_and_helps(exim: Exim) -> None:
    """features:F88, F89, E87, servers 3."""
    with connect(exim) as connection:
        known = connection.vrfy(exim.users[0], timeout=TIMEOUT)
        assert known.code == 250
        assert known.text == f"<{exim.users[0]}> is deliverable"
        assert connection.vrfy(UNKNOWN, timeout=TIMEOUT).code == 550
        assert connection.vrfy("bob@[", timeout=TIMEOUT).code == 501
        listed = connection.expn(f"list@{DOMAIN}", timeout=TIMEOUT)
        assert listed.code == 250
        assert len(listed.lines) == 2
        assert [user for user in exim.users if user in listed.text] == list(exim.users[:2])
        helped = connection.help(timeout=TIMEOUT)
        assert helped.code == 214
        assert len(helped.lines) == 2
        assert "HELP" in helped.text
        assert still_takes_mail(connection, exim)


def test_dovecot_lmtp_wants_a_bare_name(dovecot: Dovecot) -> None:
    """features:F88, F89, servers 3: VRFY sends what it is given, because servers differ in what they take."""
    with connect(dovecot) as connection:
        bare, address = (connection.vrfy(name, timeout=TIMEOUT) for name in ("alice", dovecot.users[0]))
        assert codes(bare, address) == [252, 501]
        assert codes(connection.expn("list", timeout=TIMEOUT), connection.help(timeout=TIMEOUT)) == [500, 500]
        with pytest.raises(ExtensionUnavailableError) as unavailable:
            connection.vrfy("jörg", timeout=TIMEOUT)
        assert unavailable.value.extension == "SMTPUTF8"
        assert still_takes_mail(connection, dovecot)


def test_dovecot_submission_asks_postfix(dovecot_submission: DovecotSubmission) -> None:
    """features:F88, F89: it passes a bare name on, and for Postfix that is somebody of another domain."""
    server = dovecot_submission
    with connect(server, TlsMode.STARTTLS, credentials=PasswordAuth(*LOGIN)) as connection:
        assert codes(
            connection.vrfy("user1", timeout=TIMEOUT),
            connection.vrfy(server.users[0], timeout=TIMEOUT),
            connection.expn("list", timeout=TIMEOUT),
            connection.help(timeout=TIMEOUT),
        ) == [554, 501, 500, 500]
        assert still_takes_mail(connection, server)


@pytest.mark.parametrize("verb", ["vrfy", "expn", "help"])
@pytest.mark.parametrize("argument", ["", "a\r\nRSET", "a\0"])
def test_what_could_be_another_command_is_not_sent(postfix: Postfix, verb: str, argument: str) -> None:
    """features:F88, F67a, E196."""
    with connect(postfix) as connection:
        with pytest.raises(InvalidInputError):
            getattr(connection, verb)(argument, timeout=TIMEOUT)
        connection.noop(timeout=TIMEOUT)


def test_noop_reset_and_rehlo_keep_the_session(mail_server: MailServer) -> None:
    """features:F10, F87, F90, KM9, KM24, KM25, KM29, E91: and the snapshot of the second EHLO equals the first."""
    with connect(mail_server) as connection:
        assert connection.state is SessionState.AUTHENTICATION
        before = connection.capabilities
        connection.noop(timeout=TIMEOUT)
        connection.reset(timeout=TIMEOUT)
        connection.set_ehlo_domain("again.lab.test")
        connection.rehlo(timeout=TIMEOUT)
        assert connection.capabilities.extensions == before.extensions
        assert still_takes_mail(connection, mail_server)
        connection.noop(timeout=TIMEOUT)
        assert connection.quit(timeout=TIMEOUT)
        assert not connection.quit(timeout=TIMEOUT)


def test_authentication_outlives_rehlo(postfix: Postfix) -> None:
    """features:F10."""
    with connect(postfix, TlsMode.STARTTLS, credentials=PasswordAuth(*LOGIN)) as connection:
        connection.rehlo(timeout=TIMEOUT)
        assert connection.is_authenticated
        assert connection.send(SENDER, ["anybody@elsewhere.test"], b"x\r\n", timeout=TIMEOUT).all_delivered
