"""`SmtpConnection` before aiosmtpd: another implementation's view of AUTH, TLS, parameters and every octet.

DSN, CHUNKING, BINARYMIME, REQUIRETLS, FUTURERELEASE, DELIVERBY and MT-PRIORITY are `judge`'s; see there.
"""

from __future__ import annotations

import datetime
import re
import smtplib
from typing import TYPE_CHECKING

import pytest

from smtpconn import (
    AuthenticationError,
    CertificateError,
    ConnectionPool,
    DeliverBy,
    ExtensionUnavailableError,
    InvalidInputError,
    LoginAuth,
    MailParams,
    Notify,
    PasswordAuth,
    PlainAuth,
    RcptParams,
    Recipient,
    ScramAuth,
    SmtpConnection,
    SmtpError,
    StartTlsUnavailableError,
    TlsConfig,
    TlsMode,
    UsageError,
)

from .clients import SENDER, TIMEOUT
from .corpus import CORPUS, Sample, assert_same_octets
from .judge import EXTENSIONS, Judge, binding_of, judging, server_context
from .servers import LOGIN, UNICODE_LOGIN

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from .certificates import Certificates

pytestmark = pytest.mark.interop

USER = "user@lab.test"
modes = pytest.mark.parametrize("tls_mode", [TlsMode.STARTTLS, TlsMode.IMPLICIT], ids=["STARTTLS", "IMPLICIT"])
chunked = pytest.mark.parametrize("chunked", [False, True], ids=["DATA", "BDAT"])


def connect(judge: Judge, tls_mode: TlsMode, certificates: Certificates, **options: Any) -> SmtpConnection:
    if tls_mode is not TlsMode.NONE:
        options.setdefault("tls_config", TlsConfig(trust=certificates.ca_path, server_name=judge.tls_name))
    return SmtpConnection.connect(judge.host, judge.port, tls_mode, timeout=TIMEOUT, **options)


# --- AUTH


# aiosmtpd takes implicit TLS for none, and so must be told not to require TLS for AUTH, of which it warns.
@pytest.mark.filterwarnings("ignore:Requiring AUTH while not requiring TLS:UserWarning")
@modes
@pytest.mark.parametrize("login", [LOGIN, UNICODE_LOGIN], ids=["ascii", "unicode"])
@pytest.mark.parametrize(("make", "mechanism"), [(PasswordAuth, "PLAIN"), (PlainAuth, "PLAIN"), (LoginAuth, "LOGIN")])
def test_user_and_password_arrive_in_their_octets(
    certificates: Certificates, make: type[PasswordAuth], mechanism: str, login: tuple[str, str], tls_mode: TlsMode
) -> None:
    """features:F35, F38, F40, F49a, E32, E33, E38, E149: LOGIN's first prompt is `User Name` and a NUL here."""
    with (
        judging(server_context(certificates), implicit=tls_mode is TlsMode.IMPLICIT, auth_required=True) as judge,
        connect(judge, tls_mode, certificates, credentials=make(*login)) as connection,
    ):
        assert connection.is_authenticated
        assert connection.send(SENDER, [USER], b"x\r\n", timeout=TIMEOUT).all_delivered
    assert judge.ledger.passwords == [(mechanism, login[0].encode(), login[1].encode())]
    assert [mail.content for mail in judge.ledger.received] == [b"x\r\n"]


@modes
@pytest.mark.parametrize("make", [PlainAuth, LoginAuth])
def test_a_refused_password_leaves_the_connection_to_the_next(
    certificates: Certificates, make: type[PlainAuth], tls_mode: TlsMode
) -> None:
    """features:F47, E35."""
    implicit = tls_mode is TlsMode.IMPLICIT
    with (
        judging(server_context(certificates), implicit=implicit) as judge,
        connect(judge, tls_mode, certificates) as connection,
    ):
        with pytest.raises(AuthenticationError) as refused:
            connection.auth(make(LOGIN[0], "wrong"), timeout=TIMEOUT)
        assert refused.value.permanent
        assert refused.value.reply is not None
        assert refused.value.reply.code == 535
        assert connection.usable
        connection.auth(make(*LOGIN), timeout=TIMEOUT)
        assert connection.is_authenticated
    assert judge.ledger.commands.count("AUTH") == 2


def test_what_the_server_demands_is_not_lowered_by_the_client(certificates: Certificates) -> None:
    """features:F49b, E141: in the clear aiosmtpd offers no AUTH, and would it, no password would leave."""
    with judging() as judge, connect(judge, TlsMode.NONE, certificates) as connection:
        assert not connection.capabilities.supports_auth_extension
        with pytest.raises((UsageError, ExtensionUnavailableError)):
            connection.auth_plain(*LOGIN, timeout=TIMEOUT)
        with pytest.raises(ExtensionUnavailableError):
            connection.auth_scram(*LOGIN, timeout=TIMEOUT)
    with judging(auth_require_tls=False) as judge:
        with connect(judge, TlsMode.NONE, certificates) as connection:
            assert connection.capabilities.supports_auth("PLAIN")
            for authenticate in (connection.auth_plain, connection.auth_login):
                with pytest.raises(UsageError):
                    authenticate(*LOGIN, timeout=TIMEOUT)
        assert "AUTH" not in judge.ledger.commands
        with connect(judge, TlsMode.NONE, certificates, allow_plaintext_auth=True) as connection:
            connection.auth_login(*LOGIN, timeout=TIMEOUT)
        assert judge.ledger.commands.count("AUTH") == 1


SCRAM = ("SCRAM-SHA-256", "PLAIN")
PLUS = (*SCRAM, "SCRAM-SHA-256-PLUS")


@modes
@pytest.mark.parametrize(
    ("offered", "binding", "mechanism", "header"),
    [
        (PLUS, "tls-server-end-point", "SCRAM-SHA-256-PLUS", "p=tls-server-end-point,,"),
        (PLUS, "auto", "SCRAM-SHA-256-PLUS", "p=tls-server-end-point,,"),
        (PLUS, None, "SCRAM-SHA-256", "n,,"),
        (SCRAM, "auto", "SCRAM-SHA-256", "y,,"),
        (SCRAM, None, "SCRAM-SHA-256", "n,,"),
    ],
    ids=["demanded", "auto", "not asked for", "auto, not offered", "plain"],
)
@pytest.mark.parametrize("login", [LOGIN, UNICODE_LOGIN], ids=["ascii", "unicode"])
def test_scram_with_and_without_channel_binding(
    certificates: Certificates,
    offered: tuple[str, ...],
    binding: str | None,
    mechanism: str,
    header: str,
    login: tuple[str, str],
    tls_mode: TlsMode,
) -> None:
    """features:F43, F44, E153, E154, E156, BS15: judged by scramp, over the certificate that the client has seen."""
    credentials = ScramAuth(*login, channel_binding=binding)
    own = binding_of(certificates) if offered is PLUS else None
    implicit = tls_mode is TlsMode.IMPLICIT
    with (
        judging(server_context(certificates), implicit=implicit, mechanisms=offered, binding=own) as judge,
        connect(judge, tls_mode, certificates, credentials=credentials) as connection,
    ):
        assert connection.is_authenticated
    assert judge.ledger.scram == [(mechanism, header)]


def test_a_binding_to_another_certificate_is_refused(certificates: Certificates) -> None:
    """features:F44: as if somebody with a certificate of his own sat between client and server."""
    credentials = ScramAuth(*LOGIN, channel_binding="tls-server-end-point")
    with (
        judging(server_context(certificates), mechanisms=PLUS, binding=bytes(32)) as judge,
        pytest.raises(AuthenticationError) as refused,
    ):
        connect(judge, TlsMode.STARTTLS, certificates, credentials=credentials)
    assert refused.value.permanent
    assert [mechanism for mechanism, _ in judge.ledger.scram] == ["SCRAM-SHA-256-PLUS"]


@pytest.mark.parametrize("binding", [None, "auto"])
def test_a_wrong_password_fails_the_proof(certificates: Certificates, binding: str | None) -> None:
    """features:F43, F47."""
    with (
        judging(server_context(certificates), mechanisms=PLUS, binding=binding_of(certificates)) as judge,
        connect(judge, TlsMode.STARTTLS, certificates) as connection,
    ):
        with pytest.raises(AuthenticationError):
            connection.auth(ScramAuth(LOGIN[0], "wrong", channel_binding=binding), timeout=TIMEOUT)
        connection.auth(ScramAuth(*LOGIN, channel_binding=binding), timeout=TIMEOUT)
        assert connection.is_authenticated


# --- TLS


@modes
@pytest.mark.parametrize("fault", ["untrusted", "wrong name"])
def test_nothing_is_said_to_who_cannot_prove_his_name(
    certificates: Certificates, fault: str, tls_mode: TlsMode
) -> None:
    """features:E28, F16."""
    trust = certificates.other_ca_path if fault == "untrusted" else certificates.ca_path
    config = TlsConfig(trust=trust, server_name="wrong.lab.test" if fault == "wrong name" else "mail.lab.test")
    with (
        judging(server_context(certificates), implicit=tls_mode is TlsMode.IMPLICIT) as judge,
        pytest.raises(CertificateError),
    ):
        connect(judge, tls_mode, certificates, tls_config=config, credentials=PasswordAuth(*LOGIN))
    assert judge.ledger.commands == (["EHLO", "STARTTLS"] if tls_mode is TlsMode.STARTTLS else [])


def test_behind_starttls_ehlo_is_said_again_and_believed_anew(certificates: Certificates) -> None:
    """features:F15, WM3: AUTH stands in the second reply only."""
    with judging(server_context(certificates)) as judge:
        with connect(judge, TlsMode.STARTTLS, certificates, credentials=PasswordAuth(*LOGIN)) as connection:
            assert not connection.capabilities.supports_starttls
        assert judge.ledger.commands == ["EHLO", "STARTTLS", "EHLO", "AUTH", "QUIT"]
        assert len(set(judge.ledger.ehlo)) == 1


def test_starttls_that_is_not_there_is_no_reason_to_go_on(certificates: Certificates) -> None:
    """features:F12."""
    with judging() as judge, pytest.raises(StartTlsUnavailableError):
        connect(judge, TlsMode.STARTTLS, certificates)
    assert judge.ledger.commands == ["EHLO", "QUIT"]


@modes
def test_a_client_certificate_opens_what_is_closed_without_one(certificates: Certificates, tls_mode: TlsMode) -> None:
    """features:F112, BS28: in TLS 1.3 the refusal comes when our side of the handshake is done."""
    context = server_context(certificates, client_certificate=True)
    config = TlsConfig(
        trust=certificates.ca_path, server_name="mail.lab.test", client_certificate=certificates.client_certificate
    )
    # Not by STARTTLS: aiosmtpd warns of such a context in its log, and works.
    with judging(context, implicit=tls_mode is TlsMode.IMPLICIT) as judge:
        with connect(judge, tls_mode, certificates, tls_config=config) as connection:
            assert connection.send(SENDER, [USER], b"x\r\n", timeout=TIMEOUT).all_delivered
        judge.ledger.commands.clear()
        with pytest.raises(SmtpError) as refused:
            connect(judge, tls_mode, certificates)
        assert refused.value.retry_safe
    assert judge.ledger.commands == (["EHLO", "STARTTLS"] if tls_mode is TlsMode.STARTTLS else [])


# --- octets


@pytest.fixture(scope="module")
def listener() -> Iterator[Judge]:
    """One judge in the clear for all samples, with every extension."""
    with judging(extensions=EXTENSIONS) as judge:
        yield judge


def short(sample: Sample) -> bool:
    """RFC 5321 4.5.3.1.6 allows text lines of 1,000 octets with CRLF, and aiosmtpd takes no longer ones by DATA."""
    return max((len(line) for line in sample.octets.split(b"\r\n")), default=0) <= 998 and len(sample.octets) < 1 << 20


@chunked
@pytest.mark.parametrize("sample", [sample for sample in CORPUS if short(sample)], ids=lambda sample: sample.id)
def test_every_octet_of_a_mail_arrives_and_none_besides(listener: Judge, sample: Sample, chunked: bool) -> None:
    """features:F60, F61, F71, E60, E63, C33: before any store has touched them; bytes, and a stream in odd pieces."""
    listener.ledger.received.clear()
    params = MailParams(smtputf8=sample.smtputf8 or None)
    with SmtpConnection.connect(listener.host, listener.port, TlsMode.NONE, timeout=TIMEOUT) as connection:
        send = connection.send_bdat if chunked else connection.send
        send(SENDER, [USER], sample.octets, timeout=TIMEOUT, params=params)
        pieces = [sample.octets[start : start + 37] for start in range(0, len(sample.octets), 37)]
        size = None if pieces else 0  # an iterator must be said to be empty
        send(SENDER, [USER], iter(pieces), timeout=TIMEOUT, params=params, size=size)
    # By DATA an empty mail, too: `CRLF . CRLF` is an empty line before the dot (features:F60).
    incomplete = not sample.octets.endswith(b"\r\n") and (sample.octets != b"" or not chunked)
    for received in listener.ledger.received:
        assert_same_octets(received.content, sample.octets + b"\r\n" * incomplete)
        assert bool(received.chunks) is chunked
    assert len(listener.ledger.received) == 2


BINARY = bytes(range(256)) * 300 + b"\r\n.\r\n\n.\n\r\0QUIT"


@pytest.mark.parametrize("kind", ["bytes", "stream"])
def test_binarymime_passes_every_octet_untouched(listener: Judge, kind: str) -> None:
    """features:F71, MP2, E170, E172: NUL, bare CR and bare LF, and no CRLF at the end."""
    listener.ledger.received.clear()
    message = BINARY if kind == "bytes" else iter([BINARY[start : start + 997] for start in range(0, len(BINARY), 997)])
    with SmtpConnection.connect(listener.host, listener.port, TlsMode.NONE, timeout=TIMEOUT) as connection:
        params = MailParams(body="BINARYMIME")
        assert connection.send_bdat(SENDER, [USER], message, timeout=TIMEOUT, params=params).all_delivered
        with pytest.raises(InvalidInputError):
            connection.send(SENDER, [USER], BINARY, timeout=TIMEOUT, params=params)
        with pytest.raises(InvalidInputError):
            connection.send_bdat(SENDER, [USER], BINARY, timeout=TIMEOUT)
        assert connection.usable
    (received,) = listener.ledger.received
    assert received.content == BINARY
    assert "BODY=BINARYMIME" in received.mail_parameters
    assert sum(received.chunks) == len(BINARY)
    assert (len(received.chunks) == 1) is (kind == "bytes")


@pytest.mark.parametrize("missing", ["BINARYMIME", "CHUNKING"])
def test_binarymime_needs_both_of_its_extensions(certificates: Certificates, missing: str) -> None:
    """features:MP2, E172, E175."""
    left = tuple(line for line in EXTENSIONS if line != missing)
    with (
        judging(extensions=left) as judge,
        connect(judge, TlsMode.NONE, certificates) as connection,
        pytest.raises(ExtensionUnavailableError) as unavailable,
    ):
        connection.send_bdat(SENDER, [USER], BINARY, timeout=TIMEOUT, params=MailParams(body="BINARYMIME"))
    assert unavailable.value.extension == missing
    assert judge.ledger.commands == ["EHLO", "QUIT"]


# --- parameters


UNTIL = datetime.datetime(2029, 12, 31, 23, 0, tzinfo=datetime.timezone(datetime.timedelta(hours=2)))


@chunked
@modes
def test_every_parameter_is_understood_and_in_its_order(
    certificates: Certificates, tls_mode: TlsMode, chunked: bool
) -> None:
    """features:E176, MP1-MP8, MP10, MP11, MP13, MP14, F75, BS14, KM16-KM19."""
    params = MailParams(
        body="8BITMIME",
        smtputf8=True,
        ret="FULL",
        envid="QQ+3 1",
        auth="e+mc2@example.com",
        requiretls=True,
        hold_for=3600,
        deliver_by=DeliverBy(120, "N", trace=True),
        mt_priority=-3,
    )
    to: list[Recipient | str] = [
        Recipient(USER, RcptParams(notify=[Notify.FAILURE, Notify.SUCCESS], orcpt="rfc822;a+b@c")),
        Recipient("other@lab.test", RcptParams(notify=Notify.NEVER)),
        "third@lab.test",
    ]
    implicit = tls_mode is TlsMode.IMPLICIT
    with (
        judging(server_context(certificates), implicit=implicit, extensions=EXTENSIONS) as judge,
        connect(judge, tls_mode, certificates, credentials=PasswordAuth(*LOGIN)) as connection,
    ):
        send = connection.send_bdat if chunked else connection.send
        assert send(SENDER, to, b"x\r\n", timeout=TIMEOUT, params=params).all_delivered
    (received,) = judge.ledger.received
    assert received.mail_parameters == [
        "SIZE=3",
        "BODY=8BITMIME",
        "SMTPUTF8",
        "RET=FULL",
        "ENVID=QQ+2B3+201",
        "AUTH=e+2Bmc2@example.com",
        "REQUIRETLS",
        "HOLDFOR=3600",
        "BY=120;NT",
        "MT-PRIORITY=-3",
    ]
    assert received.recipients == [USER, "other@lab.test", "third@lab.test"]
    assert received.rcpt_parameters == [
        ["NOTIFY=SUCCESS,FAILURE", "ORCPT=rfc822;a+2Bb@c"],
        ["NOTIFY=NEVER"],
        [],
    ]


SINGLE: list[tuple[MailParams, str]] = [
    (MailParams(hold_until=UNTIL), "HOLDUNTIL=2029-12-31T21:00:00Z"),
    (MailParams(hold_for=86_400), "HOLDFOR=86400"),
    (MailParams(deliver_by=DeliverBy(60, "R")), "BY=60;R"),
    (MailParams(deliver_by=DeliverBy(-5, "N")), "BY=-5;N"),
    (MailParams(mt_priority=9), "MT-PRIORITY=9"),
    (MailParams(mt_priority=0), "MT-PRIORITY=0"),
    (MailParams(ret="HDRS"), "RET=HDRS"),
    (MailParams(auth="<>"), "AUTH=<>"),
]


@pytest.mark.parametrize(("params", "written"), SINGLE, ids=[written for _, written in SINGLE])
def test_each_parameter_alone(certificates: Certificates, params: MailParams, written: str) -> None:
    """features:MP4, MP6, MP8-MP11, E84, E211, E212, E214, F79, F80."""
    with (
        judging(server_context(certificates), extensions=EXTENSIONS) as judge,
        connect(judge, TlsMode.STARTTLS, certificates) as connection,
    ):
        assert connection.send(SENDER, [USER], b"x\r\n", timeout=TIMEOUT, params=params).all_delivered
    assert judge.ledger.received[0].mail_parameters == ["SIZE=3", written]


GATED: list[tuple[str, Callable[[], dict[str, Any]]]] = [
    ("DSN", lambda: {"params": MailParams(ret="HDRS")}),
    ("DSN", lambda: {"params": MailParams(envid="x")}),
    ("DSN", lambda: {"recipient": Recipient(USER, RcptParams(notify=Notify.NEVER))}),
    ("DSN", lambda: {"recipient": Recipient(USER, RcptParams(orcpt="rfc822;a@b"))}),
    ("REQUIRETLS", lambda: {"params": MailParams(requiretls=True)}),
    ("FUTURERELEASE", lambda: {"params": MailParams(hold_for=1)}),
    ("FUTURERELEASE", lambda: {"params": MailParams(hold_until=UNTIL)}),
    ("DELIVERBY", lambda: {"params": MailParams(deliver_by=DeliverBy(120, "N"))}),
    ("MT-PRIORITY", lambda: {"params": MailParams(mt_priority=1)}),
    ("CHUNKING", lambda: {"chunked": True}),
]


@pytest.mark.parametrize(("extension", "given"), GATED)
def test_what_is_not_offered_is_refused_here(
    certificates: Certificates, extension: str, given: Callable[[], dict[str, Any]]
) -> None:
    """features:F78, E175, E79: each alone is missing from the reply to EHLO; the mail without it is taken."""
    wish = {"params": None, "recipient": USER, "chunked": False, **given()}
    left = tuple(line for line in EXTENSIONS if not line.startswith(extension))
    with (
        judging(server_context(certificates), extensions=left) as judge,
        connect(judge, TlsMode.STARTTLS, certificates) as connection,
    ):
        send = connection.send_bdat if wish["chunked"] else connection.send
        before = list(judge.ledger.commands)
        with pytest.raises(ExtensionUnavailableError) as unavailable:
            send(SENDER, [wish["recipient"]], b"x\r\n", timeout=TIMEOUT, params=wish["params"])
        assert unavailable.value.extension == extension
        connection.noop(timeout=TIMEOUT)
        assert judge.ledger.commands == [*before, "NOOP"]
        assert connection.send(SENDER, [USER], b"x\r\n", timeout=TIMEOUT).all_delivered


def test_requiretls_needs_tls_whatever_is_offered(certificates: Certificates) -> None:
    """features:MP7, E213."""
    with (
        judging(extensions=EXTENSIONS) as judge,
        connect(judge, TlsMode.NONE, certificates) as connection,
        pytest.raises(ExtensionUnavailableError) as unavailable,
    ):
        connection.send(SENDER, [USER], b"x\r\n", timeout=TIMEOUT, params=MailParams(requiretls=True))
    assert unavailable.value.extension == "REQUIRETLS"
    assert judge.ledger.commands == ["EHLO", "QUIT"]


@pytest.mark.parametrize(
    ("params", "word"),
    [
        (MailParams(hold_for=86_401), "hold_for"),
        (MailParams(hold_until=datetime.datetime(2030, 1, 1, 0, 0, 1, tzinfo=datetime.timezone.utc)), "hold_until"),
        (MailParams(deliver_by=DeliverBy(59, "R")), "deliver_by"),
    ],
)
def test_limits_that_extensions_announce_are_kept(certificates: Certificates, params: MailParams, word: str) -> None:
    """features:MP8, MP9, E210: FUTURERELEASE and DELIVERBY say how far they go."""
    with judging(extensions=EXTENSIONS) as judge, connect(judge, TlsMode.NONE, certificates) as connection:
        with pytest.raises(SmtpError) as refused:
            connection.send(SENDER, [USER], b"x\r\n", timeout=TIMEOUT, params=params)
        assert re.search(word, str(refused.value))
        assert connection.usable
    assert judge.ledger.commands == ["EHLO", "QUIT"]


@pytest.mark.parametrize(
    ("command", "code"),
    [
        ("MAIL FROM:<a@lab.test> BY=1", 501),
        ("MAIL FROM:<a@lab.test> BY=60;R", 250),
        ("MAIL FROM:<a@lab.test> HOLDFOR=0", 501),
        ("MAIL FROM:<a@lab.test> HOLDUNTIL=2029-12-31T21:00:00+00:00", 501),
        ("MAIL FROM:<a@lab.test> MT-PRIORITY=10", 501),
        ("MAIL FROM:<a@lab.test> REQUIRETLS=YES", 501),
        ("MAIL FROM:<a@lab.test> RET=FULL RET=FULL", 501),
        ("MAIL FROM:<a@lab.test> ENVID=a=b", 501),
        ("MAIL FROM:<a@lab.test> ENVID=a+2b", 501),
        ("MAIL FROM:<a@lab.test> BODY=9BIT", 501),
        ("MAIL FROM:<a@lab.test> XFOO=1", 555),
        ("BDAT", 501),
        ("BDAT LAST", 501),
        ("BDAT -1", 501),
    ],
)
def test_the_judge_refuses_what_the_rfcs_do(listener: Judge, command: str, code: int) -> None:
    with smtplib.SMTP(listener.host, listener.port, timeout=TIMEOUT) as client:
        client.ehlo()
        assert client.docmd(command)[0] == code


@pytest.mark.parametrize("parameter", ["NOTIFY=NEVER,SUCCESS", "NOTIFY=", "NOTIFY=success", "ORCPT=a@b", "ORCPT=x;a=b"])
def test_the_judge_refuses_such_recipients_too(listener: Judge, parameter: str) -> None:
    with smtplib.SMTP(listener.host, listener.port, timeout=TIMEOUT) as client:
        client.ehlo()
        assert client.mail(SENDER)[0] == 250
        assert client.docmd(f"RCPT TO:<a@lab.test> {parameter}")[0] == 501
        assert client.rcpt(USER)[0] == 250


# --- the rest


@chunked
def test_internationalised_addresses_are_understood(certificates: Certificates, chunked: bool) -> None:
    """features:F65, E70, WM12."""
    with judging(extensions=EXTENSIONS) as judge, connect(judge, TlsMode.NONE, certificates) as connection:
        send = connection.send_bdat if chunked else connection.send
        assert send("grüße@bücher.test", ["jörg@lab.test", USER], "ä\r\n".encode(), timeout=TIMEOUT).all_delivered
    (received,) = judge.ledger.received
    assert received.sender == "grüße@bücher.test"
    assert received.recipients == ["jörg@lab.test", USER]
    assert received.mail_parameters == ["SIZE=4", "BODY=8BITMIME", "SMTPUTF8"]
    assert received.content == "ä\r\n".encode()


def test_a_server_that_takes_ascii_only_is_sent_ascii_only(certificates: Certificates) -> None:
    """features:F65, F78."""
    with (
        judging(enable_SMTPUTF8=False) as judge,
        connect(judge, TlsMode.NONE, certificates) as connection,
        pytest.raises(ExtensionUnavailableError),
    ):
        connection.send(SENDER, ["jörg@lab.test"], b"x\r\n", timeout=TIMEOUT)
    assert judge.ledger.commands == ["EHLO", "QUIT"]


def test_limits_are_read_and_a_pool_keeps_mailmax(certificates: Certificates) -> None:
    """features:F30, BS26: RFC 9422; no connection carries a third mail."""
    with judging(extensions=("LIMITS MAILMAX=2 RCPTMAX=3 RCPTDOMAINMAX=x FUTURE=1",)) as judge:
        with connect(judge, TlsMode.NONE, certificates) as connection:
            limits = connection.capabilities.limits
            assert (limits["MAILMAX"], limits["RCPTMAX"]) == (2, 3)
            assert "RCPTDOMAINMAX" not in limits
        judge.ledger.commands.clear()
        with ConnectionPool(judge.host, judge.port, TlsMode.NONE, timeout=TIMEOUT, max_size=1) as pool:
            for _ in range(5):
                pool.send(SENDER, [USER], b"x\r\n")
    sessions = " ".join(judge.ledger.commands).split("EHLO ")[1:]
    assert [session.split().count("MAIL") for session in sessions] == [2, 2, 1]


def test_vrfy_expn_and_help_have_aiosmtpds_codes(certificates: Certificates) -> None:
    """features:F88, F89, servers 3: HELP is 250 here, and EXPN 502."""
    with judging() as judge, connect(judge, TlsMode.NONE, certificates) as connection:
        replies = (
            connection.vrfy(USER, timeout=TIMEOUT),
            connection.expn("list", timeout=TIMEOUT),
            connection.help(timeout=TIMEOUT),
            connection.help("RSET", timeout=TIMEOUT),
        )
    assert [reply.code for reply in replies] == [252, 502, 250, 250]
