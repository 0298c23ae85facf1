from __future__ import annotations

import hashlib
import os
import pathlib
import pickle
import signal
import socket
import ssl
import subprocess
import sys
import textwrap
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import FrozenInstanceError, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import certifi
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.x509.oid import NameOID

from smtpconn import tls_context
from smtpconn.pem import pem_certificates
from smtpconn.protocol.errors import CertificateError, InvalidInputError, SmtpError, TlsError
from smtpconn.resolve import SocketAddress
from smtpconn.tls import TlsConfig, TlsInfo, TlsMode
from smtpconn.tls_context import ssl_context, tls_server_end_point
from smtpconn.transport import SocketTransport

from .tls_authority import CLIENT, Authority, Certificate, OneConnection, TlsEcho, certify, server_context, with_sha1

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

HOST = "mail.example.test"


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority.new()


@pytest.fixture
def no_contexts() -> Iterator[None]:
    """The cache of contexts is of the process; these tests look at it."""
    with tls_context._contexts_lock:
        kept = tls_context._contexts.copy()
        tls_context._contexts.clear()
    yield
    with tls_context._contexts_lock:
        tls_context._contexts.clear()
        tls_context._contexts.update(kept)


# --- birth: F112, E31, E129, IN22 ---


def test_the_defaults_are_those_of_the_contract() -> None:
    config = TlsConfig()
    assert (config.trust, config.server_name, config.client_certificate) == ("system", None, None)
    assert (config.minimum_version, config.x509_strict, config.alpn, config.context) == ("TLSv1.2", True, (), None)


def test_a_configuration_is_frozen_and_keyword_only() -> None:
    with pytest.raises(FrozenInstanceError):
        TlsConfig().trust = "certifi"  # type: ignore[misc]
    with pytest.raises(TypeError):
        TlsConfig("certifi")  # type: ignore[call-arg]


def test_equal_configurations_are_equal_hash_alike_and_survive_pickle(authority: Authority) -> None:
    pem = authority.root.pem
    one = TlsConfig(trust=(pem, "certifi"), server_name=HOST, alpn=("smtp",), client_certificate=("a.pem", "b.pem"))
    two = TlsConfig(
        trust=(bytearray(pem), "certifi"),  # type: ignore[arg-type]  # taken, and copied
        server_name=HOST + ".",
        alpn=["smtp"],  # type: ignore[arg-type]  # taken, and copied
        client_certificate=(pathlib.Path("a.pem"), "b.pem"),
    )
    assert one == two
    assert hash(one) == hash(two)
    assert pickle.loads(pickle.dumps(one)) == one  # noqa: S301 - our own octets
    assert one != TlsConfig()


def test_a_configuration_with_a_context_is_not_picklable() -> None:
    with pytest.raises(TypeError, match="SSLContext"):
        pickle.dumps(TlsConfig(context=ssl.create_default_context()))


_PEM_HEAD = "-----BEGIN PRIVATE KEY-----"


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("server_name", "", "server_name must not be empty"),  # E31
        ("server_name", "b\u00fccher.example", "server_name must be ASCII"),  # E129, TC12
        ("server_name", "a b", "server_name must be a host name"),
        ("server_name", "[::1]", "without brackets"),
        ("server_name", "mail\r\nexample", "server_name"),
        ("trust", "/etc/ssl/ca.pem", "trust must be 'system', 'certifi', a pathlib.Path"),
        ("trust", f"{_PEM_HEAD}\nsecret", "trust must be"),
        ("trust", "", "trust must be"),
        ("trust", (), "trust must not be empty"),
        ("trust", ("system", "System"), "trust must be"),
        ("trust", b"", "must have at least one certificate"),
        ("trust", pathlib.Path("a\0b"), "trust must be a path"),
        ("minimum_version", "TLSv1.1", "minimum_version must be 'TLSv1.2' or 'TLSv1.3'"),
        ("minimum_version", "", "minimum_version must be"),
        ("minimum_version", "\x1b[31m", "minimum_version must be"),
        ("alpn", ("",), "1 to 255 ASCII octets"),
        ("alpn", ("x" * 256,), "1 to 255 ASCII octets"),
        ("alpn", ("\u00fc",), "1 to 255 ASCII octets"),
        ("client_certificate", (), "client_certificate must be"),
        ("client_certificate", ("a", "b", str, "d"), "client_certificate must be"),
        ("client_certificate", "", "client_certificate must be a path"),
        ("client_certificate", ("a\0", "b"), "client_certificate must be a path"),
    ],
)
def test_IN22_E31_a_bad_value_is_refused_at_birth_and_never_echoes_what_may_be_a_key(
    name: str, value: Any, text: str
) -> None:
    with pytest.raises(InvalidInputError, match=text) as caught:
        TlsConfig(**{name: value})
    assert "secret" not in str(caught.value)
    assert "\x1b" not in str(caught.value)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("server_name", 5),
        ("server_name", b"mail"),
        ("trust", None),
        ("trust", True),
        ("trust", ["system"]),
        ("trust", ("system", None)),
        ("trust", (("system",),)),
        ("minimum_version", 1.2),
        ("minimum_version", ssl.TLSVersion.TLSv1_2),
        ("x509_strict", 1),
        ("x509_strict", None),
        ("alpn", "smtp"),
        ("alpn", (b"smtp",)),
        ("client_certificate", 5),
        ("client_certificate", ("a", None)),
        ("client_certificate", ("a", "b", "hunter2")),
        ("client_certificate", ("a", "b", b"hunter2")),
        ("context", object()),
        ("context", "default"),
    ],
)
def test_IN22_a_wrong_type_is_a_type_error(name: str, value: Any) -> None:
    with pytest.raises(TypeError, match=name) as caught:
        TlsConfig(**{name: value})
    assert "hunter2" not in str(caught.value)


class LyingStr(str):
    __slots__ = ()

    def __str__(self) -> str:
        return "evil.example"

    def __eq__(self, other: object) -> bool:
        return True

    def __hash__(self) -> int:
        return 1


def test_V18_a_lying_str_subclass_is_copied_once_to_what_it_holds() -> None:
    config = TlsConfig(server_name=LyingStr(HOST), trust=LyingStr("certifi"), alpn=(LyingStr("smtp"),))
    assert (config.server_name, config.trust, config.alpn) == (HOST, "certifi", ("smtp",))
    assert {type(config.server_name), type(config.trust), type(config.alpn[0])} == {str}
    with pytest.raises(InvalidInputError):
        TlsConfig(trust=LyingStr("nonsense"))


def test_the_repr_shows_no_octet_of_a_pem_and_no_password(authority: Authority) -> None:
    config = TlsConfig(
        trust=(authority.root.pem, pathlib.Path("ca.pem"), "system"),
        client_certificate=("client.pem", "client.key", lambda: "hush"),
        x509_strict=False,
        server_name=HOST,
    )
    assert repr(config) == (
        f"TlsConfig(trust=(<PEM, {len(authority.root.pem)} octets>, 'ca.pem', 'system'), server_name='{HOST}', "
        "x509_strict=False, client_certificate='client.pem')"
    )
    assert repr(TlsConfig()) == "TlsConfig(trust='system')"
    assert repr(TlsConfig(context=ssl.create_default_context())) == "TlsConfig(context=<SSLContext>)"
    assert repr(TlsMode.STARTTLS) == "TlsMode.STARTTLS"


def test_D11_the_modes_are_three_and_none_is_opportunistic() -> None:
    assert [mode.name for mode in TlsMode] == ["IMPLICIT", "STARTTLS", "NONE"]


# --- given contexts: TC42 ---


def _unverifying() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _optional() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_OPTIONAL
    return context


def _nameless() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname = False
    return context


def _server() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.verify_mode = ssl.CERT_REQUIRED
    return context


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (_unverifying, "does not verify certificates"),
        (_optional, "does not verify certificates"),
        (_nameless, "does not verify names"),
        (_server, "of the server kind"),
    ],
)
def test_TC42_a_context_that_does_not_verify_or_is_a_servers_is_refused(
    make: Callable[[], ssl.SSLContext], text: str
) -> None:
    with pytest.raises(InvalidInputError, match=text):
        TlsConfig(context=make())


def test_TC42_a_context_that_stops_verifying_later_is_refused_when_it_is_used() -> None:
    context = ssl.create_default_context()
    config = TlsConfig(context=context)
    context.check_hostname = False
    with pytest.raises(InvalidInputError, match="does not verify names"):
        ssl_context(config)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("trust", "certifi"),
        ("client_certificate", "a.pem"),
        ("minimum_version", "TLSv1.3"),
        ("x509_strict", False),
        ("alpn", ("smtp",)),
    ],
)
def test_F112_a_given_context_excludes_everything_but_the_server_name(name: str, value: Any) -> None:
    context = ssl.create_default_context()
    with pytest.raises(InvalidInputError, match=f"context excludes {name}"):
        TlsConfig(context=context, **{name: value})
    assert TlsConfig(context=context, server_name=HOST).server_name == HOST


def test_a_given_context_is_used_as_it_is_and_not_altered() -> None:
    context = ssl.create_default_context()
    before = (context.verify_flags, context.options, context.minimum_version, context.hostname_checks_common_name)
    assert ssl_context(TlsConfig(context=context)) is context
    assert before == (
        context.verify_flags, context.options, context.minimum_version, context.hostname_checks_common_name,
    )  # fmt: skip


# --- PEM: F113, E109 ---


def _damaged(pem: bytes) -> bytes:
    lines = pem.split(b"\n")
    lines[3] = lines[3][:10] + b"!" + lines[3][11:]
    return b"\n".join(lines)


def _shortened(pem: bytes) -> bytes:
    lines = pem.split(b"\n")
    del lines[3]
    return b"\n".join(lines)


def _not_der(pem: bytes) -> bytes:
    return pem.replace(b"\nMI", b"\nAA", 1)


def _inner_fault(pem: bytes) -> bytes:
    """Base64 and outer length are right; what stands inside is no certificate."""
    return b"-----BEGIN CERTIFICATE-----\nMAMCAQE=\n-----END CERTIFICATE-----\n"


BAD_BUNDLES: dict[str, Callable[[bytes, bytes], bytes]] = {
    "base64 damaged": lambda good, other: good + _damaged(other),
    "a line is missing": lambda good, other: good + _shortened(other),
    "no DER": lambda good, other: good + _not_der(other),
    "no certificate inside": lambda good, other: good + _inner_fault(other) + good,
    "empty block": lambda good, other: good + b"-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n",
    "no end": lambda good, other: good + other[: other.index(b"-----END")],
    "begin twice": lambda good, other: good + other[: other.index(b"-----END")] + other,
    "stray end": lambda good, other: good + b"-----END CERTIFICATE-----\n",
    "trailing boundary": lambda good, other: good + b"-----BEGIN CERTIFICATE-----",
    "trailing half boundary": lambda good, other: good + b"----- BEGIN CERT",
    "trailing boundary without dashes": lambda good, other: good + b"BEGIN CERTIFICATE",
    "text glued to the end": lambda good, other: good.rstrip() + b"-----BEGIN CERTIFICATE-----\n",
    "a private key": lambda good, other: good + b"-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----\n",
    "a trusted certificate": lambda good, other: good + other.replace(b"CERTIFICATE", b"TRUSTED CERTIFICATE"),
    "a request": lambda good, other: good + other.replace(b"CERTIFICATE", b"CERTIFICATE REQUEST"),
    "nothing": lambda good, other: b"",
    "white space": lambda good, other: b" \r\n\t\n",
    "prose": lambda good, other: b"there is no certificate here, c2VjcmV0",
    "DER": lambda good, other: ssl.PEM_cert_to_DER_cert(good.decode()),
    "UTF-16": lambda good, other: good.decode().encode("utf-16"),
    "old Mac line ends": lambda good, other: good.replace(b"\n", b"\r"),
}


@pytest.mark.parametrize("fault", BAD_BUNDLES)
def test_E109_a_bundle_is_taken_whole_or_not_at_all_and_never_echoed(
    authority: Authority, tmp_path: Path, fault: str
) -> None:
    octets = BAD_BUNDLES[fault](authority.root.pem, authority.stranger.pem)
    with pytest.raises(InvalidInputError) as of_octets:
        TlsConfig(trust=octets)
    path = tmp_path / "bundle.pem"
    path.write_bytes(octets)
    with pytest.raises(InvalidInputError) as of_path:
        ssl_context(TlsConfig(trust=path))
    for caught in (of_octets, of_path):
        text = str(caught.value) + repr(caught.value)
        assert "c2VjcmV0" not in text
        for line in octets.split(b"\n"):
            assert len(line) < 20 or b"-----" in line or line.decode("latin-1") not in text


def test_F113_text_between_the_blocks_crlf_and_certificates_given_twice_are_fine(authority: Authority) -> None:
    text = "# Issuer: CN=F\u0151tan\u00fas\u00edtv\u00e1ny\n".encode()
    bundle = text + authority.root.pem.replace(b"\n", b"\r\n") + text + authority.stranger.pem + authority.root.pem
    assert pem_certificates(bundle) == [authority.root.der, authority.stranger.der, authority.root.der]
    context = ssl_context(TlsConfig(trust=bundle))
    assert context.cert_store_stats()["x509_ca"] == 2


def test_C38_a_bundle_of_the_size_of_a_system_store_is_taken() -> None:
    octets = pathlib.Path(certifi.where()).read_bytes()
    assert len(pem_certificates(octets)) == octets.count(b"-----BEGIN CERTIFICATE-----") > 64
    assert ssl_context(TlsConfig(trust=octets)).cert_store_stats()["x509_ca"] > 64


def test_F113_pem_replaces_the_default_roots_and_a_tuple_adds(authority: Authority, tmp_path: Path) -> None:
    path = authority.stranger.file(tmp_path)
    path.write_bytes(authority.stranger.pem)
    assert ssl_context(TlsConfig(trust=authority.root.pem)).cert_store_stats()["x509_ca"] == 1
    assert ssl_context(TlsConfig(trust=(authority.root.pem, path))).cert_store_stats()["x509_ca"] == 2
    assert ssl_context(TlsConfig(trust=("certifi", authority.root.pem))).cert_store_stats()["x509_ca"] > 50


def test_a_file_that_cannot_be_read_is_a_tls_error_with_its_cause(tmp_path: Path) -> None:
    for path in (tmp_path / "missing.pem", tmp_path):
        with pytest.raises(TlsError, match="trust: cannot read") as caught:
            ssl_context(TlsConfig(trust=path))
        assert isinstance(caught.value.__cause__, OSError)
        assert not isinstance(caught.value, CertificateError)


def test_F113_an_empty_system_store_is_a_tls_error_and_no_silent_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "none.pem"))
    monkeypatch.setenv("SSL_CERT_DIR", os.pathsep.join([str(tmp_path), "", str(tmp_path / "none")]))
    (tmp_path / "README").touch()
    with pytest.raises(TlsError, match=r"no trust roots.*certifi"):
        ssl_context(TlsConfig())
    (tmp_path / "0123abcd.0").touch()  # OpenSSL reads these only when it looks for an issuer
    assert ssl_context(TlsConfig()).cert_store_stats()["x509_ca"] == 0


def test_certifi_missing_is_a_tls_error_that_names_it(monkeypatch: pytest.MonkeyPatch, no_contexts: None) -> None:
    monkeypatch.setitem(sys.modules, "certifi", None)
    with pytest.raises(TlsError, match="needs the package certifi"):
        ssl_context(TlsConfig(trust="certifi"))


# --- the contexts that we build: D11 ---


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("minimum", ["TLSv1.2", "TLSv1.3"])
def test_D11_what_a_built_context_demands(authority: Authority, strict: bool, minimum: str) -> None:
    config = TlsConfig(trust=authority.root.pem, x509_strict=strict, minimum_version=minimum, alpn=("smtp",))
    context = ssl_context(config)
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname
    assert not context.hostname_checks_common_name
    assert context.minimum_version is (ssl.TLSVersion.TLSv1_3 if minimum == "TLSv1.3" else ssl.TLSVersion.TLSv1_2)
    assert bool(context.verify_flags & ssl.VERIFY_X509_STRICT) is strict
    assert context.verify_flags & ssl.VERIFY_X509_PARTIAL_CHAIN
    assert context.options & ssl.OP_NO_COMPRESSION
    assert context.options & ssl.OP_NO_RENEGOTIATION
    assert context.security_level >= 2


def test_an_interpreter_with_weaker_default_ciphers_is_brought_to_level_2(
    monkeypatch: pytest.MonkeyPatch, no_contexts: None
) -> None:
    monkeypatch.setattr(tls_context, "_SECURITY_LEVEL", 3)  # whatever the default is, it is below
    assert ssl_context(TlsConfig(trust="certifi")).security_level == 2


def test_a_context_is_built_once_per_configuration_whatever_the_server_name(
    authority: Authority, no_contexts: None
) -> None:
    config = TlsConfig(trust=authority.root.pem)
    first = ssl_context(config)
    assert ssl_context(replace(config, server_name=HOST)) is first
    assert ssl_context(TlsConfig(trust=bytes(bytearray(authority.root.pem)))) is first
    assert ssl_context(replace(config, x509_strict=False)) is not first


def test_threads_that_ask_at_once_share_one_context(authority: Authority, no_contexts: None) -> None:
    config = TlsConfig(trust=authority.root.pem)
    start = threading.Barrier(8)

    def ask(_: int) -> ssl.SSLContext:
        start.wait(10)
        return ssl_context(config)

    with ThreadPoolExecutor(8) as threads:
        assert len({id(context) for context in threads.map(ask, range(8))}) == 1
    assert len(tls_context._contexts) == 1


def test_a_rotated_file_gives_a_new_context(authority: Authority, tmp_path: Path, no_contexts: None) -> None:
    path = tmp_path / "ca.pem"
    path.write_bytes(authority.root.pem)
    config = TlsConfig(trust=path)
    first = ssl_context(config)
    assert ssl_context(config) is first
    path.write_bytes(authority.root.pem + authority.stranger.pem)
    second = ssl_context(config)
    assert (first.cert_store_stats()["x509_ca"], second.cert_store_stats()["x509_ca"]) == (1, 2)
    assert len(tls_context._contexts) == 1
    path.unlink()
    with pytest.raises(TlsError, match="cannot read"):
        ssl_context(config)


def test_the_system_store_is_another_when_its_variables_are(
    authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_contexts: None
) -> None:
    path = tmp_path / "ca.pem"
    path.write_bytes(authority.root.pem)
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path))
    monkeypatch.setenv("SSL_CERT_FILE", str(path))
    context = ssl_context(TlsConfig())
    assert context.get_ca_certs(binary_form=True) == [authority.root.der]
    monkeypatch.setenv("SSL_CERT_FILE", certifi.where())
    assert ssl_context(TlsConfig()) is not context


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_LE6_a_forked_child_does_not_wait_for_a_thread_of_its_parent(authority: Authority) -> None:
    config = TlsConfig(trust=authority.root.pem)
    with tls_context._contexts_lock:
        child = os.fork()
        if child == 0:
            code = 1
            try:
                signal.alarm(5)
                code = 0 if ssl_context(config).check_hostname else 2
            finally:
                os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_the_cache_of_contexts_is_bounded(authority: Authority, no_contexts: None) -> None:
    for number in range(40):
        ssl_context(TlsConfig(trust=authority.root.pem, alpn=(f"n{number}",)))
    assert len(tls_context._contexts) == 32
    assert next(iter(tls_context._contexts))[-1] == ("n8",)


# --- client certificates ---


def test_a_client_certificate_is_loaded_from_one_file_two_files_or_with_a_password(tmp_path: Path) -> None:
    client = certify("client", authority=False, usage=CLIENT)
    whole = client.file(tmp_path)
    certificate, key, locked = tmp_path / "c.pem", tmp_path / "k.pem", tmp_path / "l.pem"
    certificate.write_bytes(client.pem)
    key.write_bytes(client.key_pem())
    locked.write_bytes(client.key_pem(b"hush"))
    for given in (whole, str(whole), (whole,), (certificate, key), (certificate, locked, lambda: "hush")):
        ssl_context(TlsConfig(trust="certifi", client_certificate=given))


def test_a_rotated_client_certificate_gives_a_new_context(tmp_path: Path, no_contexts: None) -> None:
    """The old one would be shown until the process ends, and expire meanwhile."""
    client = certify("client", authority=False, usage=CLIENT)
    certificate, key = tmp_path / "c.pem", tmp_path / "k.pem"
    certificate.write_bytes(client.pem)
    key.write_bytes(client.key_pem())
    config = TlsConfig(trust="certifi", client_certificate=(certificate, key))
    for rotated in (certificate, key):
        known = ssl_context(config)
        assert ssl_context(config) is known
        rotated.write_bytes(rotated.read_bytes() + b"\n")
        assert ssl_context(config) is not known


def test_a_client_certificate_that_cannot_be_used_is_refused_without_a_prompt(tmp_path: Path) -> None:
    client, other = certify("client", usage=CLIENT), certify("other", usage=CLIENT)
    certificate, key, locked = tmp_path / "c.pem", tmp_path / "k.pem", tmp_path / "l.pem"
    certificate.write_bytes(client.pem)
    key.write_bytes(other.key_pem())
    locked.write_bytes(client.key_pem(b"hush"))
    cases: list[tuple[Any, type[SmtpError], str]] = [
        ((certificate, key), InvalidInputError, "they do not fit"),
        ((certificate,), InvalidInputError, "client_certificate"),
        ((certificate, locked), InvalidInputError, "password callable"),
        ((certificate, locked, lambda: "wrong"), InvalidInputError, "client_certificate"),
        ((certificate, tmp_path / "missing"), TlsError, "cannot read a file"),
    ]
    for given, kind, text in cases:
        with pytest.raises(kind, match=text):
            ssl_context(TlsConfig(trust="certifi", client_certificate=given))


def test_what_the_password_callable_raises_passes_as_it_is(tmp_path: Path) -> None:
    client = certify("client", usage=CLIENT)
    certificate, locked = tmp_path / "c.pem", tmp_path / "l.pem"
    certificate.write_bytes(client.pem)
    locked.write_bytes(client.key_pem(b"hush"))

    def vault() -> str:
        raise LookupError("the vault is shut")

    with pytest.raises(LookupError, match="the vault is shut"):
        ssl_context(TlsConfig(trust="certifi", client_certificate=(certificate, locked, vault)))


# --- the table of faults section 13 ---


class Row(NamedTuple):
    """What the server shows (the last link is the leaf's issuer chain), what is dialled, and what must come of it."""

    id: str
    make: Callable[[Authority], list[Certificate]]
    refused: str | None  # a part of the text; None: accepted
    host: str = HOST
    built_only: bool = False  # a caller's context decides for itself (TC7, TC8, TC9, TC19, TC35)
    trust: Callable[[Authority], bytes] = lambda authority: authority.root.pem


def _leaf(**faults: Any) -> Callable[[Authority], list[Certificate]]:
    subject = faults.pop("subject", "server")
    names = faults.pop("names", (HOST,))
    return lambda authority: [certify(subject, authority.root, names=names, **faults)]


def _below_intermediate(authority: Authority) -> Certificate:
    return certify("server", authority.intermediate, names=(HOST,))


def _constrained(permitted: str) -> Callable[[Authority], list[Certificate]]:
    def make(authority: Authority) -> list[Certificate]:
        middle = certify("constrained", authority.root, authority=True, permitted=(permitted,))
        return [certify("server", middle, names=(HOST,)), middle]

    return make


def _under_no_authority(authority: Authority) -> list[Certificate]:
    middle = certify("no authority", authority.root, basic_constraints=False)
    return [certify("server", middle, names=(HOST,)), middle]


SHA1_ROOT = certify("root of RSA", authority=True, key="rsa2048")


def _signed_with_sha1(authority: Authority) -> list[Certificate]:
    return [with_sha1(certify("server", SHA1_ROOT, names=(HOST,)), SHA1_ROOT)]


_MISMATCH = "not valid for"
TABLE = [
    Row("TC1 expired", _leaf(days=(-5, -1)), "expired"),
    Row("TC2 not yet valid", _leaf(days=(1, 5)), "not yet valid"),
    Row("TC3 wrong host", _leaf(names=("other.example.test",)), _MISMATCH),
    Row("TC3 a name below", _leaf(names=("a." + HOST,)), _MISMATCH),
    Row("TC4 self-signed", lambda a: [certify(HOST, names=(HOST,))], r"trust=\.\.\."),
    Row("TC5 untrusted root", lambda a: [certify("server", a.stranger, names=(HOST,))], r"trust=\.\.\."),
    Row("TC5 untrusted root sent along", lambda a: [certify("s", a.stranger, names=(HOST,)), a.stranger], "trust="),
    Row("TC6 incomplete chain", lambda a: [_below_intermediate(a)], r"trust=\.\.\."),
    Row("TC7 no SAN, CN matches", _leaf(subject=HOST, names=()), _MISMATCH, built_only=True),
    Row("TC8 SHA-1 signature", _signed_with_sha1, "too weak", built_only=True, trust=lambda a: SHA1_ROOT.pem),
    Row("TC9 key too small", _leaf(key="rsa1024"), "too weak", built_only=True),
    Row("TC10 IP address, DNS SAN only", _leaf(names=("127.0.0.1.test", HOST)), _MISMATCH, host="127.0.0.1"),
    Row("TC10 IP address as a DNS name's CN", _leaf(subject="127.0.0.1"), _MISMATCH, host="127.0.0.1"),
    Row("TC11 other IP SAN", _leaf(names=("127.0.0.2",)), _MISMATCH, host="127.0.0.1"),
    Row("TC13 wildcard two labels deep", _leaf(names=("*.test",)), _MISMATCH),
    Row("TC13 one label for two", _leaf(names=("*.example.test",)), _MISMATCH, host="a.mail.example.test"),
    Row("TC14 partial wildcard", _leaf(names=("m*.example.test",)), _MISMATCH),
    Row("TC14 partial wildcard behind", _leaf(names=("*l.example.test",)), _MISMATCH),
    Row("TC15 wildcard not left-most", _leaf(names=("mail.*.test",)), _MISMATCH),
    Row("TC15 * alone", _leaf(names=("*",)), _MISMATCH),
    Row("TC16 clientAuth only", _leaf(usage=CLIENT), "purpose"),
    Row("TC17 outside the permitted names", _constrained("other.test"), "permitted subtree"),
    Row("TC17 inside the permitted names", _constrained("example.test"), None),
    Row("TC18 issuer is no authority", _under_no_authority, "invalid CA"),
    Row("TC19 no key identifiers", _leaf(identifiers=False), r"TlsConfig\(x509_strict=False\)", built_only=True),
    Row("TC28 NUL in a name", _leaf(names=(HOST + "\0.evil.test",)), _MISMATCH),
    Row("TC29 empty subject", _leaf(subject=None), None),
    Row("TC29 no CN", _leaf(subject="unit", attribute=NameOID.ORGANIZATIONAL_UNIT_NAME), None),
    Row("TC29 CN of somebody else", _leaf(subject="other.example.test"), None),
    Row("TC29 second of many names", _leaf(names=("a.test", HOST, "b.test")), None),
    Row("TC29 name in capitals", _leaf(names=("MAIL.Example.TEST",)), None),
    Row("TC30 wildcard of one label", _leaf(names=("*.example.test",)), None),
    Row("TC31 IPv4", _leaf(names=("127.0.0.1",)), None, host="127.0.0.1"),
    Row("TC31 IPv6", _leaf(names=("::1",)), None, host="::1"),
    Row("TC32 A-label", _leaf(names=("xn--bcher-kva.example",)), None, host="xn--bcher-kva.example"),
    Row("TC35 intermediate as anchor", lambda a: [_below_intermediate(a)], None, built_only=True,
        trust=lambda a: a.intermediate.pem),
    Row("TC35 leaf as anchor's sibling", lambda a: [_below_intermediate(a)], "trust=", trust=lambda a: a.stranger.pem),
    Row("TC36 chain in order", lambda a: [_below_intermediate(a), a.intermediate, a.root], None),
    Row("TC36 chain in odd order", lambda a: [_below_intermediate(a), a.root, a.stranger, a.intermediate], None),
    Row("RSA key", _leaf(key="rsa2048"), None),
    Row("Ed25519 key", _leaf(key="ed25519"), None),
]  # fmt: skip


def _opened(echo: OneConnection, host: str, config: TlsConfig, *, starttls: bool) -> Any:
    plain = SocketTransport.connect(SocketAddress(socket.AF_INET, echo.address, host), timeout=5)
    try:
        if starttls:
            plain.send(b"STARTTLS\r\n", 5)
            assert plain.recv(100, 5) == b"220 go\r\n"
        return plain.start_tls(config, 5)
    except BaseException:
        plain.close()
        raise


def _assert_accepted(echo: TlsEcho, config: TlsConfig, host: str, leaf: Certificate) -> None:
    with OneConnection(echo) as server:
        transport = _opened(server, host, config, starttls=echo.starttls)
        info = transport.tls
        assert info.peer_certificate == leaf.der
        assert info.server_name == (config.server_name or host)
        assert info.version in ("TLSv1.2", "TLSv1.3")
        assert info.cipher
        transport.send(b"EHLO x\r\n", 5)
        assert transport.recv(100, 5) == b"EHLO x\r\n"
        transport.close()


@pytest.mark.parametrize("starttls", [False, True], ids=["implicit", "starttls"])
@pytest.mark.parametrize(
    ("row", "kind"),
    [
        pytest.param(row, kind, id=f"{row.id}-{kind}")
        for row in TABLE
        for kind in ("built", "given")
        if not (kind == "given" and row.built_only)
    ],
)
def test_the_table_of_faults_section_13(
    row: Row, kind: str, starttls: bool, authority: Authority, tmp_path: Path
) -> None:
    leaf, *chain = row.make(authority)
    pem = row.trust(authority)
    if kind == "built":
        config = TlsConfig(trust=pem)
    else:
        config = TlsConfig(context=ssl.create_default_context(cadata=pem.decode()))
    echo = TlsEcho(server_context(leaf.file(tmp_path, *chain)), starttls=starttls)
    if row.refused is None:
        _assert_accepted(echo, config, row.host, leaf)
        return
    refused = row.refused
    if kind == "given" and "trust=" in refused:
        refused = "load it into the given context"
    with OneConnection(echo) as server, pytest.raises(CertificateError, match=refused) as caught:
        _opened(server, row.host, config, starttls=starttls)
    error = caught.value
    assert error.permanent is True
    assert error.stage == "tls"
    assert error.scope == "service"
    assert row.host in str(error)
    assert isinstance(error.__cause__, ssl.SSLCertVerificationError)
    assert echo.received == b""  # E28: no SMTP command reached it
    assert pickle.loads(pickle.dumps(error)).permanent is True  # noqa: S301 - our own octets


@pytest.mark.parametrize("starttls", [False, True], ids=["implicit", "starttls"])
def test_TC19_the_remedy_that_the_error_names_helps(authority: Authority, tmp_path: Path, starttls: bool) -> None:
    leaf = certify("server", authority.root, names=(HOST,), identifiers=False)
    echo = TlsEcho(server_context(leaf.file(tmp_path)), starttls=starttls)
    _assert_accepted(echo, TlsConfig(trust=authority.root.pem, x509_strict=False), HOST, leaf)


def test_x509_strict_false_relaxes_nothing_else(authority: Authority, tmp_path: Path) -> None:
    for leaf in (
        certify("server", authority.root, names=(HOST,), days=(-5, -1)),
        certify("server", authority.root, names=("other.test",)),
        certify("server", authority.stranger, names=(HOST,)),
        certify(HOST, authority.root),
    ):
        echo = TlsEcho(server_context(leaf.file(tmp_path)), starttls=False)
        with OneConnection(echo) as server, pytest.raises(CertificateError) as caught:
            _opened(server, HOST, TlsConfig(trust=authority.root.pem, x509_strict=False), starttls=False)
        assert "x509_strict" not in str(caught.value)


def test_the_remedy_for_a_given_context_is_one_for_that_context(authority: Authority, tmp_path: Path) -> None:
    leaf = certify("server", authority.root, names=(HOST,), identifiers=False)
    context = ssl.create_default_context(cadata=authority.root.pem.decode())
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    echo = TlsEcho(server_context(leaf.file(tmp_path)), starttls=False)
    with OneConnection(echo) as server, pytest.raises(CertificateError, match="clear VERIFY_X509_STRICT"):
        _opened(server, HOST, TlsConfig(context=context), starttls=False)


@pytest.mark.parametrize("starttls", [False, True], ids=["implicit", "starttls"])
@pytest.mark.parametrize("version", ["TLSv1", "TLSv1_1"], ids=["TC21", "TC22"])
def test_TC21_TC22_an_old_server_is_refused(authority: Authority, tmp_path: Path, starttls: bool, version: str) -> None:
    leaf = certify("server", authority.root, names=(HOST,))
    context = server_context(leaf.file(tmp_path))
    with pytest.warns(DeprecationWarning, match="deprecated"):
        context.minimum_version = ssl.TLSVersion[version]
    with pytest.warns(DeprecationWarning, match="deprecated"):
        context.maximum_version = ssl.TLSVersion[version]
    with (
        OneConnection(TlsEcho(context, starttls=starttls)) as server,
        pytest.raises(TlsError, match=f"with {HOST}:.* failed") as caught,
    ):
        _opened(server, HOST, TlsConfig(trust=authority.root.pem), starttls=starttls)
    assert not isinstance(caught.value, CertificateError)


def test_a_server_of_1_2_is_refused_where_1_3_is_demanded(authority: Authority, tmp_path: Path) -> None:
    leaf = certify("server", authority.root, names=(HOST,))
    context = server_context(leaf.file(tmp_path))
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    config = TlsConfig(trust=authority.root.pem, minimum_version="TLSv1.3")
    with OneConnection(TlsEcho(context, starttls=False)) as server, pytest.raises(TlsError, match="failed"):
        _opened(server, HOST, config, starttls=False)


@pytest.mark.parametrize(("copies", "accepted"), [(40, True), (2_000, False)])
def test_TC40_a_long_chain_is_accepted_or_refused_but_bounded(
    authority: Authority, tmp_path: Path, copies: int, accepted: bool
) -> None:
    leaf = _below_intermediate(authority)
    chain = [authority.intermediate, *[authority.stranger] * copies]
    echo = TlsEcho(server_context(leaf.file(tmp_path, *chain)), starttls=False)
    config = TlsConfig(trust=authority.root.pem)
    if accepted:
        _assert_accepted(echo, config, HOST, leaf)
        return
    with OneConnection(echo) as server, pytest.raises(TlsError, match="excessive message size"):
        _opened(server, HOST, config, starttls=False)


@pytest.mark.parametrize("given", [HOST, HOST + "."])
def test_TC33_the_configured_name_is_verified_and_sent_without_its_dot(
    authority: Authority, tmp_path: Path, given: str
) -> None:
    leaf = certify("server", authority.root, names=(HOST,))
    echo = TlsEcho(server_context(leaf.file(tmp_path)), starttls=False)
    _assert_accepted(echo, TlsConfig(trust=authority.root.pem, server_name=given), "127.0.0.1", leaf)
    assert echo.sni == HOST


def test_the_server_name_stands_above_the_host_that_was_dialled(authority: Authority, tmp_path: Path) -> None:
    leaf = certify("server", authority.root, names=(HOST,))
    echo = TlsEcho(server_context(leaf.file(tmp_path)), starttls=False)
    config = TlsConfig(trust=authority.root.pem, server_name="other.example.test")
    with OneConnection(echo) as server, pytest.raises(CertificateError, match=r"other\.example\.test"):
        _opened(server, HOST, config, starttls=False)


@pytest.mark.parametrize("how", ["path", "octets", "both"])
def test_TC34_a_private_authority_by_path_or_by_octets(authority: Authority, tmp_path: Path, how: str) -> None:
    path = tmp_path / "ca.pem"
    path.write_bytes(authority.stranger.pem + authority.root.pem)
    trust: Any = {"path": path, "octets": path.read_bytes(), "both": (authority.stranger.pem, path)}[how]
    leaf = certify("server", authority.root, names=(HOST,))
    _assert_accepted(TlsEcho(server_context(leaf.file(tmp_path)), starttls=False), TlsConfig(trust=trust), HOST, leaf)


def test_SY25_the_system_store_follows_ssl_cert_file_and_certifi_does_not(
    authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "ca.pem"
    path.write_bytes(authority.root.pem)
    monkeypatch.setenv("SSL_CERT_FILE", str(path))
    leaf = certify("server", authority.root, names=(HOST,))
    _assert_accepted(TlsEcho(server_context(leaf.file(tmp_path)), starttls=False), TlsConfig(), HOST, leaf)
    echo = TlsEcho(server_context(leaf.file(tmp_path)), starttls=False)
    with OneConnection(echo) as server, pytest.raises(CertificateError, match="not a known authority"):
        _opened(server, HOST, TlsConfig(trust="certifi"), starttls=False)


def test_a_client_certificate_is_shown_to_a_server_that_asks(authority: Authority, tmp_path: Path) -> None:
    leaf = certify("server", authority.root, names=(HOST,))
    client = certify("client", authority.root, usage=CLIENT)
    context = server_context(leaf.file(tmp_path))
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(cadata=authority.root.pem.decode())
    config = TlsConfig(trust=authority.root.pem, client_certificate=client.file(tmp_path))
    _assert_accepted(TlsEcho(context, starttls=False), config, HOST, leaf)


def test_alpn_names_are_offered(authority: Authority, tmp_path: Path) -> None:
    leaf = certify("server", authority.root, names=(HOST,))
    context = server_context(leaf.file(tmp_path))
    context.set_alpn_protocols(["smtp"])
    chosen: list[str | None] = []

    def serve(sock: socket.socket) -> None:
        with context.wrap_socket(sock, server_side=True) as wrapped:
            chosen.append(wrapped.selected_alpn_protocol())

    with OneConnection(serve) as server:
        _opened(server, HOST, TlsConfig(trust=authority.root.pem, alpn=("smtp",)), starttls=False).close()
    assert chosen == ["smtp"]


# --- TlsInfo ---


def test_F121_tls_info_goes_to_json_types_and_back() -> None:
    info = TlsInfo("TLSv1.3", "TLS_AES_256_GCM_SHA384", HOST, b"\x30\x00")
    assert TlsInfo.from_dict(info.to_dict()) == info
    assert info.to_dict()["peer_certificate"] == "MAA="
    assert pickle.loads(pickle.dumps(info)) == info  # noqa: S301 - our own octets
    assert "\\x30" not in repr(info)


# --- channel binding: F44, E157 ---


@pytest.mark.parametrize(
    ("signature", "digest"),
    [(hashes.SHA256(), "sha256"), (hashes.SHA384(), "sha384"), (hashes.SHA512(), "sha512")],
    ids=["SHA-256", "SHA-384", "SHA-512"],
)
@pytest.mark.parametrize("key", ["p256", "rsa2048"])
def test_E157_the_binding_is_the_certificates_hash_by_its_signatures_hash(
    signature: hashes.HashAlgorithm, digest: str, key: str
) -> None:
    der = certify("server", key=key, signature=signature).der
    assert tls_server_end_point(der) == hashlib.new(digest, der).digest()


def test_E157_sha_1_is_replaced_by_sha_256() -> None:
    certificate = with_sha1(certify("server", SHA1_ROOT), SHA1_ROOT)
    assert isinstance(certificate.certificate.signature_hash_algorithm, hashes.SHA1)
    assert tls_server_end_point(certificate.der) == hashlib.sha256(certificate.der).digest()


def test_E157_no_binding_for_ed25519_and_for_what_is_no_certificate() -> None:
    assert tls_server_end_point(certify("server", key="ed25519").der) is None
    assert tls_server_end_point(b"") is None
    assert tls_server_end_point(b"\x30\x03\x02\x01\x01") is None


def test_F44_no_binding_without_cryptography(monkeypatch: pytest.MonkeyPatch) -> None:
    der = certify("server").der
    monkeypatch.setitem(sys.modules, "cryptography", None)
    assert tls_server_end_point(der) is None


def test_the_certificates_of_the_table_are_what_they_claim() -> None:
    leaf = certify("server", certify("root", authority=True), names=(HOST + "\0.evil.test",))
    names = leaf.certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == [HOST + "\0.evil.test"]


# --- D1: without ssl, cryptography, certifi, dnspython ---


def test_D1_everything_imports_without_ssl_and_plain_tcp_works(tmp_path: Path) -> None:
    script = """
        import sys
        for name in ("ssl", "_ssl", "cryptography", "dns", "certifi"):
            sys.modules[name] = None
        import socket
        from smtpconn import resolve, tls, tls_context, transport
        from smtpconn.deadline import Deadline
        from smtpconn.protocol.errors import TlsError
        listener = socket.create_server(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        [address] = resolve.addresses("127.0.0.1", port, Deadline.after(5))
        plain = transport.SocketTransport.connect(address, timeout=5)
        served = listener.accept()[0]
        served.sendall(b"220 hello\\r\\n")
        assert plain.recv(100, 5) == b"220 hello\\r\\n"
        assert plain.send(b"QUIT\\r\\n", 5) == 6
        assert not plain.readable()
        config = tls.TlsConfig(trust=PEM)
        assert tls_context.tls_server_end_point(b"") is None
        try:
            tls.TlsConfig(context=object())
        except TypeError:
            pass
        else:
            raise SystemExit("a context without ssl")
        try:
            plain.start_tls(config, 5)
        except TlsError as error:
            assert "module ssl" in str(error), error
        else:
            raise SystemExit("TLS without ssl")
        served.settimeout(5)
        assert served.recv(100) == b"QUIT\\r\\n"
        assert served.recv(100) == b""
        served.close()
        listener.close()
        print("plain TCP works")
    """
    pem = certify("root", authority=True).pem
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(script).replace("PEM", repr(pem))],
        capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "plain TCP works\n", "")


def test_SY0_3_without_ssl_no_server_is_bothered_with_a_connection_that_cannot_be(tmp_path: Path) -> None:
    script = """
        import sys
        for name in ("ssl", "_ssl", "cryptography", "dns", "certifi"):
            sys.modules[name] = None
        import socket
        from smtpconn.connection import SmtpConnection
        from smtpconn.protocol.errors import TlsError
        from smtpconn.tls import TlsMode
        listener = socket.create_server(("127.0.0.1", 0))
        listener.settimeout(0)
        for mode in (TlsMode.IMPLICIT, TlsMode.STARTTLS):
            try:
                SmtpConnection.connect("127.0.0.1", listener.getsockname()[1], mode, timeout=5)
            except TlsError as error:
                assert "module ssl" in str(error), error
                assert error.permanent
            else:
                raise SystemExit("TLS without ssl")
        try:
            listener.accept()
        except BlockingIOError:
            print("nobody came")
    """
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(script)],
        capture_output=True, text=True, timeout=30, check=False, cwd=tmp_path,
    )  # fmt: skip
    assert done.stdout == "nobody came\n", done.stderr
