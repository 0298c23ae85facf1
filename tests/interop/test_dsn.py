"""Delivery status notifications that Postfix and Exim write because `SmtpConnection` asked, or do not write."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

import pytest

from smtpconn import ExtensionUnavailableError, MailParams, Notify, RcptParams, Recipient, SendResult
from smtpconn.testing import Relay

from .clients import SENDER, TIMEOUT, connect, mail
from .daemon import until
from .exim import Exim
from .postfix import Postfix
from .reports import Report

if TYPE_CHECKING:
    from .dovecot import Dovecot

pytestmark = pytest.mark.interop

ORCPT = "rfc822;first+of=all here@elsewhere.test"
ORCPT_XTEXT = "rfc822;first+2Bof+3Dall+20here@elsewhere.test"

chunked = pytest.mark.parametrize("chunked", [False, True], ids=["DATA", "BDAT"])


@pytest.fixture(params=["postfix", "exim"])
def server(request: pytest.FixtureRequest) -> Postfix | Exim:
    """Each server that offers DSN."""
    found = request.getfixturevalue(request.param)
    assert isinstance(found, (Postfix, Exim))
    return found


@pytest.fixture
def envid() -> str:
    """An envelope id that no other mail has, with characters that travel encoded."""
    return f"{uuid.uuid4().hex}+a=b c"


def as_reported(server: Postfix | Exim, value: str, xtext: str) -> str:
    """RFC 3461 wants xtext decoded in a notification. Postfix does it, Exim 4.96 copies it."""
    return value if isinstance(server, Postfix) else xtext


def encoded(envid: str) -> str:
    return envid.replace("+", "+2B").replace("=", "+3D").replace(" ", "+20")


def ask(
    server: Postfix | Exim, recipient: str, notify: Notify, ret: str, envid: str, message: bytes, *, chunked: bool
) -> SendResult:
    """Send a mail from a mailbox of the server, to which it reports."""
    with connect(server) as connection:
        send = connection.send_bdat if chunked else connection.send
        result = send(
            server.users[8],
            [Recipient(recipient, RcptParams(notify=notify, orcpt=ORCPT))],
            message,
            timeout=TIMEOUT,
            params=MailParams(ret=ret, envid=envid),
        )
    assert result.all_delivered
    return result


def reports(server: Postfix | Exim, envid: str) -> list[Report]:
    """The notifications about one mail that have arrived."""
    wanted = as_reported(server, envid, encoded(envid))
    found = [Report.read(stored) for stored in server.mailbox(server.users[8]) if wanted.encode() in stored]
    return [report for report in found if report is not None and report.fields["original-envelope-id"] == wanted]


def wait_for_report(server: Postfix | Exim, envid: str) -> Report:
    assert until(lambda: reports(server, envid) != [], 15), server.log()[-2000:]
    (report,) = reports(server, envid)
    return report


def reports_when_done(server: Postfix | Exim, result: SendResult) -> int:
    """How many notifications about a mail were written, asked when the mail has left the queue."""
    queue_id = result.queue_id
    assert queue_id is not None
    assert until(lambda: server.is_done_with(queue_id), 15), server.log()[-2000:]
    return server.reports_about(queue_id)


@chunked
@pytest.mark.parametrize("ret", ["HDRS", "FULL"])
def test_a_delivery_is_reported_with_what_the_sender_gave(
    server: Postfix | Exim, ret: str, chunked: bool, envid: str, message_id: str
) -> None:
    """features:F76, F77, MP4, MP5, MP13, MP14, MP16, KM17, KM19, BS14.

    Of a mail that arrived only the headers come back, whatever RET says (RFC 3461 section 6.2).
    """
    user = server.users[7]
    ask(server, user, Notify.SUCCESS, ret, envid, mail(message_id, "the body"), chunked=chunked)
    assert server.wait_for_mail(user, message_id)
    report = wait_for_report(server, envid)
    assert report.fields["action"] == "delivered"
    assert report.fields["original-recipient"] == as_reported(server, ORCPT, ORCPT_XTEXT)
    assert report.fields["final-recipient"].partition(";")[2].strip() == user
    assert report.fields["status"] == "2.0.0"
    assert report.returned_type == "text/rfc822-headers"
    assert message_id in report.returned
    assert "the body" not in report.returned


@chunked
@pytest.mark.parametrize(("ret", "returned"), [("HDRS", "text/rfc822-headers"), ("FULL", "message/rfc822")])
def test_a_failure_is_reported_with_the_headers_or_the_whole_mail(
    server: Postfix | Exim, ret: str, returned: str, chunked: bool, envid: str, message_id: str
) -> None:
    """features:MP4, MP13: RET at work."""
    ask(server, server.failing, Notify.FAILURE, ret, envid, mail(message_id, "the body"), chunked=chunked)
    report = wait_for_report(server, envid)
    assert report.fields["action"] == "failed"
    assert report.fields["original-recipient"] == as_reported(server, ORCPT, ORCPT_XTEXT)
    assert report.fields["status"].startswith("5.")
    assert report.returned_type == returned
    assert message_id in report.returned
    assert ("the body" in report.returned) is (ret == "FULL")


@chunked
@pytest.mark.parametrize("notify", [Notify.NEVER, Notify.SUCCESS], ids=["NEVER", "SUCCESS"])
def test_a_failure_that_nobody_asked_about_is_not_reported(
    server: Postfix | Exim, notify: Notify, chunked: bool, envid: str, message_id: str
) -> None:
    """features:MP13."""
    result = ask(server, server.failing, notify, "HDRS", envid, mail(message_id), chunked=chunked)
    assert reports_when_done(server, result) == 0


@chunked
@pytest.mark.parametrize("notify", [Notify.NEVER, Notify.FAILURE], ids=["NEVER", "FAILURE"])
def test_a_delivery_that_nobody_asked_about_is_not_reported(
    server: Postfix | Exim, notify: Notify, chunked: bool, envid: str, message_id: str
) -> None:
    """features:MP13."""
    result = ask(server, server.users[7], notify, "HDRS", envid, mail(message_id), chunked=chunked)
    assert server.wait_for_mail(server.users[7], message_id)
    assert reports_when_done(server, result) == 0


def test_without_any_wish_a_failure_is_reported_and_a_delivery_is_not(server: Postfix | Exim, message_id: str) -> None:
    """features:MP13: the default of RFC 3461 4.1, and a check that `reports_about` counts at all."""
    with connect(server) as connection:
        failure = connection.send(server.users[8], [server.failing], mail(message_id), timeout=TIMEOUT)
        delivery = connection.send(server.users[8], [server.users[7]], mail(message_id), timeout=TIMEOUT)
    assert reports_when_done(server, failure) == 1
    assert reports_when_done(server, delivery) == 0


def test_several_wishes_in_one_notify_reach_the_server(server: Postfix | Exim, envid: str, message_id: str) -> None:
    """features:MP13, E176: in the order of the list, once each."""
    with Relay((server.host, server.port)) as relay, connect(server, port=relay.port) as connection:
        notify = [Notify.DELAY, Notify.SUCCESS, Notify.FAILURE]
        recipient = Recipient(server.users[7], RcptParams(notify=notify, orcpt=ORCPT))
        params = MailParams(ret="FULL", envid=envid)
        assert connection.send(
            server.users[8], [recipient], mail(message_id), timeout=TIMEOUT, params=params
        ).all_delivered
        sent = relay.octets_to_server
    assert f" NOTIFY=SUCCESS,FAILURE,DELAY ORCPT={ORCPT_XTEXT}\r\n".encode() in sent
    assert f" RET=FULL ENVID={encoded(envid)}\r\n".encode() in sent
    assert wait_for_report(server, envid).fields["action"] == "delivered"


@pytest.mark.parametrize("given", ["ret", "envid", "notify", "orcpt"])
@chunked
def test_dovecot_lmtp_has_no_dsn_and_is_not_asked(dovecot: Dovecot, given: str, chunked: bool) -> None:
    """features:F78, E175: `servers` 4 has Dovecot answer 555."""
    params = {"ret": MailParams(ret="HDRS"), "envid": MailParams(envid="x")}.get(given)
    wishes = {"notify": RcptParams(notify=Notify.NEVER), "orcpt": RcptParams(orcpt=ORCPT)}.get(given)
    recipient = dovecot.users[0] if wishes is None else Recipient(dovecot.users[0], wishes)
    with Relay((dovecot.host, dovecot.port)) as relay, connect(dovecot, port=relay.port) as connection:
        send = connection.send_lmtp_bdat if chunked else connection.send_lmtp
        before = relay.octets_to_server
        with pytest.raises(ExtensionUnavailableError) as unavailable:
            send(SENDER, [recipient], b"x\r\n", timeout=TIMEOUT, params=params)
        assert unavailable.value.extension == "DSN"
        connection.noop(timeout=TIMEOUT)
        assert relay.octets_to_server == before + b"NOOP\r\n"
