"""The comparisons of `compare.py` in their short form: each contestant of each case once, and no figure asserted."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).resolve().parent

pytestmark = [pytest.mark.bench, pytest.mark.timeout(600)]


def script(name: str, *arguments: str) -> None:
    subprocess.run([sys.executable, str(HERE / name), *arguments], check=True, timeout=540)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The short form of all cases; the server has counted the mails of each."""
    path = tmp_path_factory.mktemp("bench") / "results.json"
    script("compare.py", str(path), "--smoke")
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def test_every_case_runs_with_every_contestant_of_ours(results: dict[str, Any]) -> None:
    assert len(results["cases"]) >= 9  # without Postfix one is left out
    for key, found in results["cases"].items():
        ours = [name for name in found if name.startswith("smtpconn")]
        assert ours, key
        for name in found:
            (run,) = found[name]
            assert run["mails"] > 0
            assert run["rate"] > 0
            assert run["cpu"] >= 0
            assert run["peak"] > 1024 or name == "Postfix smtp-source"  # it may be done before it is looked at


def test_a_peer_stands_beside_ours_in_every_comparison(results: dict[str, Any]) -> None:
    assert {"smtplib", "aiosmtplib"} <= set(results["cases"]["far-1"])
    assert all("smtplib" in found for key, found in results["cases"].items() if key != "stream")


def test_the_page_is_made_of_the_figures(results: dict[str, Any], tmp_path: Path) -> None:
    source = tmp_path / "results.json"
    source.write_text(json.dumps(results), encoding="utf-8")
    script("page.py", str(source), str(tmp_path / "page"))
    page = (tmp_path / "page" / "figures.inc").read_text(encoding="utf-8")
    for key, found in results["cases"].items():
        if key == "stream":
            continue
        plot = (tmp_path / "page" / f"{key}.svg").read_text(encoding="utf-8")
        assert f"/benchmarks/{key}.svg" in page
        assert all(name in plot and name in page for name in found)
