"""The plugin, seen from a user's project (users PT17): each test below is one that a user would write."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys

import pytest

pytest_plugins = ["pytester"]

PREFACE = """
import smtplib, ssl, threading
import pytest

def send(server, *recipients, content="Subject: x\\r\\n\\r\\n", **options):
    with smtplib.SMTP(server.host, server.port) as client:
        return client.sendmail("a@x.test", recipients or ["b@x.test"], content, **options)
"""


@pytest.fixture
def user(pytester: pytest.Pytester) -> pytest.Pytester:
    pytester.makeini("[pytest]\naddopts = -p no:cacheprovider\nfilterwarnings = error")
    return pytester


def plugin_arguments() -> list[str]:
    """Where the package is installed pytest finds the plugin by itself, by its entry point."""
    found = {entry.value for entry in importlib.metadata.entry_points(group="pytest11")}
    return [] if "smtpconn.testing.plugin" in found else ["-p", "smtpconn.testing.plugin"]


def run(user: pytest.Pytester, test: str, **outcomes: int) -> None:
    user.makepyfile(PREFACE + test)
    result = user.runpytest_subprocess(*plugin_arguments(), "--strict-markers")
    result.assert_outcomes(**(outcomes or {"passed": 1}))


OF_STRANGERS = """
# PT1
def test_envelope(smtpconn_server):
    send(smtpconn_server, "b@x.test", "c@x.test")
    mail = smtpconn_server.mails[0]
    assert (mail.sender, mail.recipients) == ("a@x.test", ["b@x.test", "c@x.test"])
    assert mail.message["Subject"] == "x"


def test_dsn_parameters(smtpconn_server):
    send(smtpconn_server, mail_options=["RET=HDRS"], rcpt_options=["NOTIFY=FAILURE"])
    mail = smtpconn_server.mails[0]
    assert mail.mail_params["RET"] == "HDRS"
    assert mail.rcpt_params == [{"NOTIFY": "FAILURE"}]


# PT2
def test_lmtp_verdict(smtpconn_lmtp_server):
    smtpconn_lmtp_server.refuse("b@x.test", "452 4.2.2 Full", when="data")
    with smtplib.LMTP(smtpconn_lmtp_server.host, smtpconn_lmtp_server.port) as client:
        with pytest.raises(smtplib.SMTPDataError, match="4.2.2"):
            client.sendmail("a@x.test", ["b@x.test"], "x")


@pytest.mark.smtpconn(unix_socket=True)
def test_lmtp_over_a_unix_socket(smtpconn_lmtp_server):
    with smtplib.LMTP(smtpconn_lmtp_server.unix_socket) as client:
        client.sendmail("a@x.test", ["b@x.test"], "x")
    assert smtpconn_lmtp_server.mails[0].recipients == ["b@x.test"]


# PT3
def test_tls(smtpconn_tls_server, smtpconn_ca):
    trust = ssl.create_default_context(cafile=smtpconn_ca.path)
    with smtplib.SMTP_SSL(smtpconn_tls_server.host, smtpconn_tls_server.port, context=trust) as client:
        assert client.noop()[0] == 250


def test_starttls(smtpconn_starttls_server, smtpconn_ca):
    with smtplib.SMTP(smtpconn_starttls_server.host, smtpconn_starttls_server.port) as client:
        client.starttls(context=ssl.create_default_context(cafile=smtpconn_ca.path))
        assert client.ehlo()[0] == 250


# PT4
def test_certificate_failure(smtpconn_server_factory, smtpconn_ca):
    server = smtpconn_server_factory(tls="implicit", certificate=smtpconn_ca.issue(expired=True))
    trust = ssl.create_default_context(cafile=smtpconn_ca.path)
    with pytest.raises(ssl.SSLCertVerificationError, match="expired"):
        smtplib.SMTP_SSL(server.host, server.port, context=trust)


# PT5
def test_factory(smtpconn_server_factory):
    one, two = smtpconn_server_factory(), smtpconn_server_factory(protocol="lmtp")
    assert one.port != two.port
    send(one)
    assert (one.received, two.received) == (1, 0)


# PT8
@pytest.mark.smtpconn(auth={"user": "secret"}, faults=[("MAIL", "421", 2)], greeting="hello")
def test_421_in_mid_batch(smtpconn_server):
    with smtplib.SMTP(smtpconn_server.host, smtpconn_server.port) as client:
        client.login("user", "secret")
        client.sendmail("a@x.test", ["b@x.test"], "x")
        with pytest.raises(smtplib.SMTPSenderRefused, match="421"):
            client.sendmail("a@x.test", ["b@x.test"], "x")
    assert smtpconn_server.received == 1


@pytest.mark.smtpconn(faults=[{"stage": "NOOP", "kind": "4yz"}], extensions=["SIZE"], greeting="far")
class TestMarkers:
    @pytest.mark.smtpconn(greeting="near")
    def test_the_closest_marker_wins(self, smtpconn_server):
        with smtplib.SMTP() as client:
            assert client.connect(smtpconn_server.host, smtpconn_server.port)[1] == b"near"
            assert client.noop()[0] == 451
            client.ehlo()
            assert list(client.esmtp_features) == ["size"]
"""


@pytest.mark.once
def test_the_tests_of_a_stranger_pass(user: pytest.Pytester) -> None:
    """features:F118, users:PT1-PT5, PT8: the fixtures, judged by smtplib."""
    run(user, OF_STRANGERS, passed=10)


@pytest.mark.once
def test_what_a_fixture_started_is_stopped(user: pytest.Pytester) -> None:
    run(
        user,
        """
def test_one(smtpconn_server, smtpconn_server_factory):
    smtpconn_server_factory(protocol="lmtp")
    assert threading.active_count() == 3

def test_two():
    assert threading.active_count() == 1
""",
        passed=2,
    )


@pytest.mark.once
def test_the_marker_takes_keywords_only(user: pytest.Pytester) -> None:
    run(user, "@pytest.mark.smtpconn(1)\ndef test(smtpconn_server): pass\n", errors=1)


def test_loading_the_plugin_imports_nothing_heavy() -> None:
    program = "import sys, pytest, smtpconn.testing.plugin as p; print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert [name for name in modules if name.startswith("smtpconn")] == [
        "smtpconn", "smtpconn.testing", "smtpconn.testing.plugin",
    ]  # fmt: skip
    assert not {"cryptography", "ssl"} & set(modules)


# What a user of the library writes; the tests above are judged by smtplib.
OWN_SUITE = '''
import pytest
from smtpconn import RecipientsRefusedError
from smtpconn.testing import LoopbackServer


def greet(pool, address):
    """The application under test."""
    return pool.send("app@example.com", [address], b"Subject: Hello\\r\\n\\r\\nHello.\\r\\n")


def test_pool(smtpconn_pool, smtpconn_server):
    assert greet(smtpconn_pool, "ben@example.net").all_delivered
    assert smtpconn_server.mails[0].message["Subject"] == "Hello"


@pytest.mark.smtpconn(tls="starttls", auth={"app": "secret"})
def test_a_pool_of_a_server_with_options(smtpconn_pool, smtpconn_server):
    greet(smtpconn_pool, "ben@example.net")
    assert smtpconn_server.sessions[0].user == "app"


def test_outbox(smtpconn_outbox):
    smtpconn_outbox.refuse("nobody@example.net", "550 5.1.1 No such user")
    greet(smtpconn_outbox.pool, "ben@example.net")
    with pytest.raises(RecipientsRefusedError):
        greet(smtpconn_outbox.pool, "nobody@example.net")
    assert [mail.recipients for mail in smtpconn_outbox] == [["ben@example.net"]]
'''


def test_F118_the_tests_of_an_application_pass(user: pytest.Pytester) -> None:
    """users:PT6, PT7."""
    user.makepyfile(OWN_SUITE)
    result = user.runpytest_subprocess(*plugin_arguments(), "--strict-markers")
    result.assert_outcomes(passed=3)


@pytest.mark.once
def test_F118_a_test_that_keeps_or_loses_a_lease_fails(user: pytest.Pytester) -> None:
    user.makeini("[pytest]\naddopts = -p no:cacheprovider")  # the pool warns, too
    held, dropped = "*did not give back the leases of MainThread*", "*lost 1 leases*"
    tests = "leases = []\n"
    says: list[str] = []
    for name, pool in (("pool", "smtpconn_pool"), ("outbox", "smtpconn_outbox.pool")):
        for kept, words in (("leases.append(lease)", held), ("del lease", dropped)):
            tests += f"def test_{len(says) // 2}(smtpconn_{name}):\n"
            tests += f"    lease = {pool}.connection()\n    lease.__enter__()\n    {kept}\n"
            says += [f"*ERROR at teardown of test_{len(says) // 2}*", words]
    user.makepyfile(tests)
    result = user.runpytest_subprocess(*plugin_arguments())
    result.assert_outcomes(passed=4, errors=4)
    result.stdout.fnmatch_lines(says)
