"""TLS with Postfix: what a bad certificate, name or version ends before SMTP begins, by the server's own count."""

from __future__ import annotations

import re
import ssl
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from smtpconn import (
    CertificateError,
    ConnectionPool,
    PasswordAuth,
    ServiceUnavailableError,
    StartTlsUnavailableError,
    TlsConfig,
    TlsError,
    TlsMode,
)

from .certificates import CHAINS
from .clients import SENDER, TIMEOUT, Dial, connect, mail, trusting
from .daemon import until
from .servers import DOMAIN, LOGIN

if TYPE_CHECKING:
    from .exim import Exim
    from .postfix import Postfix

pytestmark = pytest.mark.interop

modes = pytest.mark.parametrize("tls_mode", [TlsMode.STARTTLS, TlsMode.IMPLICIT], ids=["STARTTLS", "IMPLICIT"])

BEFORE_TLS = {
    TlsMode.STARTTLS: {"ehlo": (1, 1), "starttls": (1, 0), "commands": (2, 1)},
    TlsMode.IMPLICIT: {"commands": (0, 0)},
}
"""What Postfix counts of a client that goes when the handshake has shown it the certificate."""


@modes
@pytest.mark.parametrize(
    "fault", ["untrusted", "unexpected name", *(fault for fault in CHAINS if fault != "intermediate")]
)
def test_a_certificate_that_does_not_verify_ends_it_and_no_command_follows(
    postfix: Postfix, fault: str, tls_mode: TlsMode
) -> None:
    """features:E28, F16, SY24, BS18, F112, D11: expired, wrong host, self-signed, no SAN, missing intermediate.

    With credentials, which must not leave.
    """
    config = {
        "untrusted": trusting(postfix, trust=postfix.certificates.other_ca_path),
        "unexpected name": trusting(postfix, server_name="wrong.lab.test"),
    }.get(fault) or trusting(postfix, server_name=f"{fault}.{DOMAIN}")
    dial = Dial()
    with pytest.raises(CertificateError) as refused:
        connect(postfix, tls_mode, tls_config=config, credentials=PasswordAuth(*LOGIN), dial=dial)
    assert refused.value.permanent
    assert refused.value.stage == "tls"
    assert refused.value.scope == "service"
    assert isinstance(refused.value.__cause__, ssl.SSLCertVerificationError)
    assert postfix.commands_of(dial.address) == BEFORE_TLS[tls_mode]


@modes
@pytest.mark.parametrize("fault", ["untrusted", "unexpected name"])
def test_exim_sees_no_command_behind_such_a_handshake_either(exim: Exim, fault: str, tls_mode: TlsMode) -> None:
    """features:E28, F16: for Exim, whose TLS is GnuTLS, the handshake itself has failed."""
    config = (
        trusting(exim, trust=exim.certificates.other_ca_path)
        if fault == "untrusted"
        else trusting(exim, server_name="wrong.lab.test")
    )
    dial = Dial()
    with pytest.raises(CertificateError) as refused:
        connect(exim, tls_mode, tls_config=config, credentials=PasswordAuth(*LOGIN), dial=dial)
    assert refused.value.permanent
    assert until(lambda: f"[{dial.address}] " in exim.log(), 5), exim.log()[-2000:]
    ended = [line for line in exim.log().splitlines() if f"[{dial.address}] " in line]
    assert len(ended) == 1
    assert "TLS error on connection from" in ended[0]
    assert "(gnutls_handshake): " in ended[0]


@modes
def test_a_complete_chain_of_another_name_by_sni_is_accepted(
    postfix: Postfix, tls_mode: TlsMode, message_id: str
) -> None:
    """features:F112, F112a, BS28: the check of the test above, that what it refuses it refuses for its fault."""
    name = f"intermediate.{DOMAIN}"
    with connect(postfix, tls_mode, tls_config=trusting(postfix, server_name=name)) as connection:
        assert connection.tls is not None
        assert connection.tls.server_name == name
        shown = ssl.PEM_cert_to_DER_cert(certificates_in(postfix.certificates.chains[name])[0])
        assert connection.tls.peer_certificate == shown
        assert connection.send(SENDER, [postfix.users[6]], mail(message_id), timeout=TIMEOUT).all_delivered
    assert postfix.wait_for_mail(postfix.users[6], message_id)


def certificates_in(pem: Path) -> list[str]:
    return re.findall(r"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----\n", pem.read_text(), re.DOTALL)


@modes
def test_the_missing_intermediate_helps_when_the_caller_has_it(postfix: Postfix, tls_mode: TlsMode) -> None:
    """features:F112, F113, D11: a partial chain ends at what the caller trusts."""
    (_, intermediate) = certificates_in(postfix.certificates.chains[f"intermediate.{DOMAIN}"])
    config = TlsConfig(trust=intermediate.encode(), server_name=f"no-intermediate.{DOMAIN}")
    with connect(postfix, tls_mode, tls_config=config) as connection:
        connection.noop(timeout=TIMEOUT)


@modes
def test_without_a_server_name_the_host_is_what_is_verified(postfix: Postfix, tls_mode: TlsMode) -> None:
    """features:F112: `127.0.0.1` is in the certificate of mail.lab.test and in no other."""
    config = TlsConfig(trust=Path(postfix.ca_path))
    with connect(postfix, tls_mode, tls_config=config) as connection:
        assert connection.tls is not None
        assert connection.tls.server_name == "127.0.0.1"
    dial = Dial()
    with pytest.raises(CertificateError):
        connect(postfix, tls_mode, tls_config=trusting(postfix, server_name="127.0.0.2"), dial=dial)
    assert postfix.commands_of(dial.address) == BEFORE_TLS[tls_mode]


@modes
def test_a_pool_reports_a_bad_certificate_and_sends_nothing(postfix: Postfix, tls_mode: TlsMode) -> None:
    """features:E28, in a pool: no second try with the same certificate, none in the clear."""
    dial = Dial()
    port = postfix.tls_port if tls_mode is TlsMode.IMPLICIT else postfix.port
    config = trusting(postfix, server_name=f"expired.{DOMAIN}")
    with ConnectionPool(postfix.host, port, tls_mode, tls_config=config, dial=dial, timeout=TIMEOUT) as pool:
        with pytest.raises(CertificateError):
            pool.send(SENDER, [postfix.users[6]], b"x\r\n")
        assert pool.stats().opened == 0
    assert postfix.commands_of(dial.address) == BEFORE_TLS[tls_mode]


def test_starttls_that_is_not_offered_ends_with_quit(postfix: Postfix) -> None:
    """features:F12, F4: nothing but QUIT follows the EHLO."""
    dial = Dial()
    with pytest.raises(StartTlsUnavailableError) as refused:
        connect(postfix, TlsMode.STARTTLS, port=postfix.bare_port, dial=dial)
    assert refused.value.permanent
    assert refused.value.extension == "STARTTLS"
    assert postfix.commands_of(dial.address) == {"ehlo": (1, 1), "quit": (1, 1), "commands": (2, 2)}


def test_implicit_tls_to_a_plain_port_is_a_tls_error(postfix: Postfix) -> None:
    """features:E29."""
    with pytest.raises(TlsError) as refused:
        connect(postfix, TlsMode.IMPLICIT, port=postfix.bare_port)
    assert not isinstance(refused.value, CertificateError)


# --- versions


@modes
def test_a_server_of_tls_1_2_is_refused_where_1_3_is_demanded_and_taken_otherwise(
    postfix: Postfix, tls_mode: TlsMode
) -> None:
    """features:F112, D11, BS18."""
    port = postfix.tls12_implicit_port if tls_mode is TlsMode.IMPLICIT else postfix.tls12_port
    with connect(postfix, tls_mode, port) as connection:
        assert connection.tls is not None
        assert connection.tls.version == "TLSv1.2"
    dial = Dial()
    config = trusting(postfix, minimum_version="TLSv1.3")
    with pytest.raises(TlsError) as refused:
        connect(postfix, tls_mode, port, tls_config=config, dial=dial)
    assert not isinstance(refused.value, CertificateError)
    assert refused.value.stage == "tls"
    assert postfix.commands_of(dial.address) == BEFORE_TLS[tls_mode]


@modes
def test_tls_1_3_is_spoken_where_both_can(postfix: Postfix, tls_mode: TlsMode) -> None:
    """features:F112a."""
    with connect(postfix, tls_mode, tls_config=trusting(postfix, minimum_version="TLSv1.3")) as connection:
        assert connection.tls is not None
        assert connection.tls.version == "TLSv1.3"


@modes
def test_a_server_of_tls_1_1_is_refused(postfix: Postfix, tls_mode: TlsMode) -> None:
    """features:D11, BS18, faults:TC22."""
    port = postfix.tls11_implicit_port if tls_mode is TlsMode.IMPLICIT else postfix.tls11_port
    dial = Dial()
    with pytest.raises(TlsError) as refused:
        connect(postfix, tls_mode, port, dial=dial)
    assert not isinstance(refused.value, CertificateError)
    assert postfix.commands_of(dial.address) == BEFORE_TLS[tls_mode]


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1_1 is deprecated:DeprecationWarning")  # what is being tested
def test_the_server_of_tls_1_1_does_speak_it(postfix: Postfix) -> None:
    context = ssl.create_default_context(cafile=postfix.ca_path)
    context.set_ciphers("DEFAULT@SECLEVEL=0")
    context.minimum_version = ssl.TLSVersion.TLSv1_1
    dial = Dial()
    with (
        dial(postfix.host, postfix.tls11_implicit_port, TIMEOUT) as plain,
        context.wrap_socket(plain, server_hostname=postfix.tls_name) as secure,
    ):
        assert secure.version() == "TLSv1.1"
        assert secure.recv(512).startswith(b"220 ")


# --- the client's certificate


@modes
def test_postfix_writes_down_whom_the_client_certificate_names(
    postfix: Postfix, tls_mode: TlsMode, message_id: str
) -> None:
    """features:F112, BS28: asked for on one port, compulsory on the other; both take it and say who it is."""
    config = trusting(postfix, client_certificate=postfix.certificates.client_certificate)
    port = postfix.tls_port if tls_mode is TlsMode.IMPLICIT else postfix.mutual_port
    with connect(postfix, tls_mode, port, tls_config=config) as connection:
        assert connection.send(SENDER, [postfix.users[6]], mail(message_id), timeout=TIMEOUT).all_delivered
    stored = postfix.wait_for_mail(postfix.users[6], message_id)
    assert b'(Client CN "smtpconn test client", Issuer "smtpconn test authority" (verified OK))' in b" ".join(
        stored.split()
    )


def test_where_a_client_certificate_is_compulsory_none_is_no_way_in(postfix: Postfix) -> None:
    """features:F91, F112: Postfix finishes the handshake and answers the EHLO behind it with 421."""
    dial = Dial()
    with pytest.raises(ServiceUnavailableError) as refused:
        connect(postfix, TlsMode.STARTTLS, postfix.mutual_port, credentials=PasswordAuth(*LOGIN), dial=dial)
    assert refused.value.stage == "EHLO"
    assert refused.value.reply is not None
    assert refused.value.reply.code == 421
    assert refused.value.retry_safe
    assert "auth" not in postfix.commands_of(dial.address)


@modes
def test_without_a_client_certificate_a_server_that_only_asks_takes_the_mail(
    postfix: Postfix, tls_mode: TlsMode, message_id: str
) -> None:
    with connect(postfix, tls_mode, postfix.tls_port if tls_mode is TlsMode.IMPLICIT else None) as connection:
        assert connection.send(SENDER, [postfix.users[6]], mail(message_id), timeout=TIMEOUT).all_delivered
    assert b"Client CN" not in postfix.wait_for_mail(postfix.users[6], message_id)
