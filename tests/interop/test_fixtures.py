"""What the fixtures are made of: skipping or failing, leaving nothing behind, reading back, the corpus."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from .corpus import CORPUS, OURS, TEN_MIB, assert_same_octets, cpython_mails
from .daemon import Daemon, DaemonError, accepts
from .exim import Exim
from .postfix import Postfix
from .servers import MissingServerError, running, without_header

if TYPE_CHECKING:
    from .certificates import Certificates


def test_what_is_not_installed_is_skipped_or_fails_when_required(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(Postfix, "programs", classmethod(lambda cls: (tmp_path / "postfix",)))

    def never() -> Postfix:
        raise AssertionError("it must not be started")

    monkeypatch.delenv("SMTPCONN_REQUIRE_SERVERS", raising=False)
    with pytest.raises(pytest.skip.Exception, match=r"package postfix is not there: install it with \.ci/servers"):
        running(never, Postfix).__enter__()
    monkeypatch.setenv("SMTPCONN_REQUIRE_SERVERS", "1")
    with pytest.raises(pytest.fail.Exception, match="package postfix is not there"):
        running(never, Postfix).__enter__()


def test_a_server_is_skipped_by_who_is_not_root(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(Postfix, "programs", classmethod(lambda cls: (tmp_path,)))
    monkeypatch.setattr("os.geteuid", lambda: 65534)
    with pytest.raises(MissingServerError, match="only root can start Postfix"):
        Postfix.require()


def _processes_naming(directory: Path) -> list[str]:
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            command = entry.read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if str(directory) in command:
                found.append(command)
    return found


@pytest.mark.interop
def test_nothing_of_a_server_is_left_when_it_has_stopped(certificates: Certificates) -> None:
    with running(lambda: Exim(certificates), Exim) as server:
        port, directory = server.port, server.directory
        assert accepts(port)
        assert _processes_naming(directory) != []
    assert not accepts(port)
    assert not directory.exists()
    assert _processes_naming(directory) == []


def test_a_daemon_that_ends_at_once_says_why_and_one_that_never_answers_is_ended(tmp_path: Path) -> None:
    output = tmp_path / "output"
    with pytest.raises(DaemonError, match="code 3: no reason"):
        Daemon(["/bin/sh", "-c", "echo no reason; exit 3"], output).start(lambda: False)
    daemon = Daemon(["/bin/sh", "-c", "sleep 60 & echo $!; wait"], tmp_path / "pid")
    with pytest.raises(DaemonError, match="not ready in time"):
        daemon.start(lambda: False, timeout=0.3)
    child = int((tmp_path / "pid").read_text())
    # Ended; where process 1 does not look after orphans it stays in the table as a zombie.
    with suppress(FileNotFoundError):
        assert Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[0] == "Z"


def test_without_header_wants_the_header_and_takes_its_continuation_lines() -> None:
    assert without_header(b"Received: a\n\tb\n c\nX: y\n\nz\n", b"received") == b"X: y\n\nz\n"
    with pytest.raises(ValueError, match="expected b'Received'"):
        without_header(b"X: y\n\nz\n", b"Received")


def test_the_corpus_has_what_it_promises() -> None:
    assert len({sample.id for sample in CORPUS}) == len(CORPUS)
    assert max(len(sample.octets) for sample in OURS) == TEN_MIB
    for sample in CORPUS:
        rest = sample.octets.replace(b"\r\n", b"")
        assert not {0, 10, 13} & set(rest), sample.id
        assert b"\r\n\r\n" in sample.marked("<x@lab.test>"), sample.id


def test_the_mails_of_cpython_are_in_the_corpus() -> None:
    mails = cpython_mails()
    if not mails.samples:
        pytest.skip("this Python comes without its test suite")
    assert len(mails.samples) + len(mails.skipped) >= 40
    assert all(sample in CORPUS for sample in mails.samples)


def test_a_difference_is_shown_with_its_surroundings_only() -> None:
    assert_same_octets(b"same", b"same")
    with pytest.raises(
        AssertionError, match="1000001 octets instead of 1000000, first difference at octet 500000"
    ) as caught:
        assert_same_octets(b"x" * 500_000 + b"y" + b"x" * 500_000, b"x" * 1_000_000)
    assert len(str(caught.value)) < 400
