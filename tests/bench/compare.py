"""Measures smtpconn and its peers at the same work: `compare.py RESULTS.json [--rounds N] [--smoke] [--case KEY ...]`.

In each round every contestant of a case runs once, one after the other, in a process of its own; what is compared are
ratios within a round, and their median over the rounds. The server runs in other processes, and counts the mails.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import platform
import shutil
import smtplib
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

from cases import CASES, GOALS, IMPORTS, ONE_PER_TRIP, Case, Contestant, Goal
from senders import peak_of

HERE = Path(__file__).resolve().parent
NODE_ROOT = Path(os.environ.get("SMTPCONN_NODE_ROOT", "/opt/smtpconn-node"))
SMTP_SINK, SMTP_SOURCE = Path("/usr/sbin/smtp-sink"), Path("/usr/sbin/smtp-source")
POSTCONF = Path("/usr/sbin/postconf")
PATIENCE = 300.0


class MissingError(Exception):
    """A program that a contestant or a server needs is not installed."""


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


# --- servers ---


@contextmanager
def running(script: str, *arguments: str) -> Iterator[int]:
    """One of our servers; gives its port."""
    process = subprocess.Popen(
        [sys.executable, str(HERE / script), *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdin is not None
    try:
        yield int(process.stdout.readline())
    finally:
        process.stdin.close()  # the sink ends its processes then
        try:
            process.wait(0.5)
        except subprocess.TimeoutExpired:
            process.terminate()
            process.wait(10)
        process.stdout.close()


@contextmanager
def postfix_sink() -> Iterator[int]:
    if not SMTP_SINK.exists():
        raise MissingError(f"{SMTP_SINK} is not there: install Postfix")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    user = ["-u", "nobody"] if os.getuid() == 0 else []
    process = subprocess.Popen([str(SMTP_SINK), *user, f"127.0.0.1:{port}", "64"])
    try:
        for _ in range(100):
            with socket.socket() as probe:
                if not probe.connect_ex(("127.0.0.1", port)):
                    break
            time.sleep(0.05)
        yield port
    finally:
        process.terminate()
        process.wait(10)


@contextmanager
def served(case: Case) -> Iterator[dict[str, Any]]:
    """The server of a case and the path to it: what a job has to know of them, and the port where mails are counted."""
    with ExitStack() as stack:
        known: dict[str, Any] = {}
        arguments = ["lmtp"] if case.lmtp else []
        if case.tls:
            from smtpconn.testing import TestAuthority

            authority = stack.enter_context(TestAuthority())
            known["authority"] = str(authority.path)
            # As the public authorities have it: the chain is a part of what a handshake costs.
            arguments.append(str(authority.issue(("127.0.0.1",), intermediate=True).path))
        if case.server == "sink":
            known["port"] = known["counter"] = stack.enter_context(running("sink.py", *arguments))
        else:
            known["port"] = stack.enter_context(postfix_sink())
        if case.rtt:
            known["port"] = stack.enter_context(running("delay.py", str(known["port"]), str(case.rtt)))
        yield known


def counted(port: int | None) -> int | None:
    """How many mails our sink has taken."""
    if port is None:
        return None
    with smtplib.SMTP("127.0.0.1", port, "counter.test", timeout=30) as client:
        return int(client.docmd("VRFY", "count")[1])


def trip(port: int) -> float:
    """Seconds of a round trip over the path to this port: what the relay and a loaded machine make of it."""
    seconds = []
    with socket.create_connection(("127.0.0.1", port), timeout=30) as client:
        client.recv(1_000)
        for _ in range(11):
            began = time.perf_counter()
            client.sendall(b"NOOP\r\n")
            client.recv(1_000)
            seconds.append(time.perf_counter() - began)
        client.sendall(b"QUIT\r\n")
        client.recv(1_000)
    return statistics.median(seconds)


# --- one run ---


def run(case: Case, contestant: Contestant, known: dict[str, Any]) -> dict[str, float]:
    """One contestant once: what it took for all of its mails."""
    job = {
        "client": contestant.client,
        "mails": contestant.mails,
        "connections": case.connections,
        "octets": case.octets,
        "recipients": case.recipients,
        "lmtp": case.lmtp,
        "warm": case.warm,
        **known,
        **contestant.options,
    }
    before = counted(known.get("counter"))
    found = _by_smtp_source(job) if contestant.client == "smtp-source" else _measured(_command(job))
    mails = contestant.mails * int(job["connections"])
    if before is not None and not case.tls:
        taken = counted(known["counter"])
        assert taken is not None
        warm = int(job["connections"]) if case.warm and contestant.client != "smtp-source" else 0
        if taken - before != mails + warm:
            text = f"{case.key}, {contestant.name}: {mails + warm} mails, the server took {taken - before}"
            raise AssertionError(text)
    return {**found, "mails": mails, "rate": mails / found["seconds"], "cpu": found["cpu"] / mails}


def _command(job: dict[str, Any]) -> list[str]:
    if job["client"] == "nodemailer":
        node = shutil.which("node")
        if node is None or not (NODE_ROOT / "node_modules" / "nodemailer").exists():
            raise MissingError(f"Nodemailer is not in {NODE_ROOT}: .ci/servers installs it")
        return [node, str(HERE / "nodemailer.cjs"), str(NODE_ROOT), json.dumps(job)]
    return [sys.executable, str(HERE / "senders.py"), json.dumps(job)]


def _measured(command: list[str]) -> dict[str, float]:
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=PATIENCE, check=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def _by_smtp_source(job: dict[str, Any]) -> dict[str, float]:
    if not SMTP_SOURCE.exists():
        raise MissingError(f"{SMTP_SOURCE} is not there: install Postfix")
    command = [
        str(SMTP_SOURCE), "-d", "-s", str(job["connections"]), "-m", str(job["mails"] * job["connections"]),
        "-l", str(job["octets"]), "-f", "sender@client.test", "-t", "r0@server.test", f"127.0.0.1:{job['port']}",
    ]  # fmt: skip
    began = time.perf_counter()
    pid = os.posix_spawn(command[0], command, os.environ)
    peak, watching = [0], threading.Event()

    def watch() -> None:
        while True:
            with contextlib.suppress(OSError):
                peak.append(peak_of(pid))
            if watching.wait(0.05):
                return

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        _, status, used = os.wait4(pid, 0)
        seconds = time.perf_counter() - began
    finally:
        watching.set()
        watcher.join()
    if status:
        raise AssertionError(f"smtp-source ended with {os.waitstatus_to_exitcode(status)}")
    return {"seconds": seconds, "cpu": used.ru_utime + used.ru_stime, "peak": max(peak)}


# --- rounds ---


def tiny(case: Case) -> Case:
    """The same case in its short form: once each, and small."""
    contestants = tuple(dataclasses.replace(each, mails=min(each.mails, 3)) for each in case.contestants)
    return dataclasses.replace(case, contestants=contestants, octets=min(case.octets, 1 << 20), rtt=min(case.rtt, 2))


def measured(case: Case, rounds: int, missing: set[str]) -> dict[str, list[dict[str, float]]]:
    """By contestant: what each round gave."""
    found: dict[str, list[dict[str, float]]] = {}
    with served(case) as known:
        for number in range(rounds):
            # Not always in the same order: the one behind a hot neighbour would always suffer.
            first = number % len(case.contestants)
            order = case.contestants[first:] + case.contestants[:first]
            path = {"trip": trip(known["port"])} if case.rtt else {}
            for contestant in order:
                if contestant.name in missing:
                    continue
                try:
                    found.setdefault(contestant.name, []).append({**run(case, contestant, known), **path})
                except MissingError as error:
                    if os.environ.get("SMTPCONN_REQUIRE_SERVERS") == "1":
                        raise
                    say(f"left out: {error}")
                    missing.add(contestant.name)
                    found.pop(contestant.name, None)
    return found


def imports(rounds: int) -> dict[str, list[float]]:
    """Seconds of each import in a fresh interpreter."""
    found: dict[str, list[float]] = {name: [] for name in IMPORTS}
    for _ in range(rounds):
        for name in IMPORTS:
            code = f"import time; began = time.perf_counter(); import {name}; print(time.perf_counter() - began)"
            command = [sys.executable, "-c", code]  # not at the root of a checkout: what is installed is measured
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, cwd=HERE)
            found[name].append(float(done.stdout))
    return found


def bare_peak() -> int:
    """KiB of the interpreter that has done nothing."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        time.sleep(0.5)
        peak = int(peak_of(process.pid))
        process.communicate(b"\n")
    return peak


def ratio(goal: Goal, case: Case, found: dict[str, list[dict[str, float]]]) -> float | None:
    """The median over the rounds of the ratio within a round; None where one of the two is missing."""
    ours = [each[goal.measure] for each in found.get(goal.ours, ())]
    if goal.other == ONE_PER_TRIP:
        others = [case.connections / each["trip"] for each in found.get(goal.ours, ())]
    else:
        others = [each[goal.measure] for each in found.get(goal.other, ())]
    if not ours or not others:
        return None
    found_ratio: float = statistics.median(mine / other for mine, other in zip(ours, others, strict=True))
    return found_ratio


def machine() -> dict[str, str]:
    """Where the figures come from."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = cpuinfo.read_text(encoding="utf-8").splitlines()
        names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
        model = names[0] if names else model
    return {
        "processors": f"{os.cpu_count()} x {model}",
        "system": f"{platform.system()} {platform.release().split('-')[0]}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "day": time.strftime("%Y-%m-%d"),
        "load": f"{os.getloadavg()[0]:.1f}",  # of others, before anything of this was started
    }


def versions() -> dict[str, str]:
    """What the peers are, as far as they are there."""
    found = {"smtpconn": metadata.version("smtpconn"), "aiosmtplib": metadata.version("aiosmtplib")}
    package = NODE_ROOT / "node_modules" / "nodemailer" / "package.json"
    if package.exists():
        found["Nodemailer"] = json.loads(package.read_text(encoding="utf-8"))["version"]
    if POSTCONF.exists():
        command = [str(POSTCONF), "-d", "-h", "mail_version"]
        found["Postfix"] = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.strip()
    return found


def report(case: Case, found: dict[str, list[dict[str, float]]]) -> list[dict[str, Any]]:
    """Say what a case gave; the goals that it speaks of, with their ratios."""
    goals = []
    for name, each in found.items():
        rate, cpu, peak = (statistics.median(one[key] for one in each) for key in ("rate", "cpu", "peak"))
        say(f"  {name:34} {rate:10.1f}/s {cpu * 1e6:12.1f} us of CPU {peak / 1024:8.1f} MiB")
    for goal in GOALS:
        value = ratio(goal, case, found) if goal.case == case.key else None
        if value is None:
            continue
        goals.append({**dataclasses.asdict(goal), "value": value})
        word = "reached" if goal.is_reached_by(value) else "MISSED "
        bound = f"{'at most' if goal.is_most else 'at least'} {goal.bound}"
        say(f"  {word} {goal.ours} by {goal.other}, {goal.measure}: {value:.2f} ({bound})")
    return goals


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", type=Path)
    parser.add_argument("--case", dest="cases", action="append", choices=[case.key for case in CASES])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--smoke", action="store_true", help="every case once, and tiny")
    chosen = parser.parse_args()
    rounds = 1 if chosen.smoke else chosen.rounds
    missing: set[str] = set()
    results: dict[str, Any] = {"machine": machine(), "versions": versions(), "rounds": rounds, "cases": {}, "goals": []}
    for case in CASES:
        if chosen.cases and case.key not in chosen.cases:
            continue
        case = tiny(case) if chosen.smoke else case
        say(f"{case.key}: {case.title}")
        try:
            found = measured(case, min(rounds, 3) if case.key == "stream" else rounds, missing)
        except MissingError as error:
            if os.environ.get("SMTPCONN_REQUIRE_SERVERS") == "1":
                raise
            say(f"left out: {error}")
            continue
        results["cases"][case.key] = found
        results["goals"] += report(case, found)
    if not chosen.cases:
        results["imports"] = imports(1 if chosen.smoke else 15)
        results["bare_peak"] = bare_peak()
        medians = {name: statistics.median(each) for name, each in results["imports"].items()}
        say(", ".join(f"import {name}: {value * 1e3:.1f} ms" for name, value in medians.items()))
        say(f"a bare interpreter: {results['bare_peak'] / 1024:.1f} MiB")
    chosen.results.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
