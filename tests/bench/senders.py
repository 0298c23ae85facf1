"""One measurement: `senders.py JOB`, a JSON object, does one piece of work with one library and prints what it took.

It runs in a process of its own, so that processor time and memory are the client's alone. The clock begins when every
connection is open and has taken one mail (`warm` false: at once), and ends with the last verdict.
"""

from __future__ import annotations

import json
import re
import resource
import smtplib
import ssl
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

SENDER = "sender@client.test"
LINE = b"The quick brown fox jumps over the lazy dog, and comes back for more.\r\n"
HEAD = b"From: sender@client.test\r\nTo: list@server.test\r\nSubject: a measurement\r\n\r\n"
PATIENCE = 120.0

Work = Callable[[int], None]  # sends so many mails over one connection that is open


def text(octets: int) -> bytes:
    """A mail of about so many octets; every tenth line begins with a dot."""
    block = LINE * 9 + b"." + LINE[1:]
    return HEAD + (block * (octets // len(block) + 1))[: max(0, octets - len(HEAD) - 2)].rstrip(b"\r\n") + b"\r\n"


def recipients_of(job: dict[str, Any]) -> list[str]:
    return [f"r{number}@server.test" for number in range(job["recipients"])]


class Spring:
    """A binary file of so many octets that stands nowhere."""

    def __init__(self, octets: int) -> None:
        self._left = octets
        self._block = LINE * 4096

    def read(self, size: int) -> bytes:
        octets = self._block[: min(size, self._left) // len(LINE) * len(LINE)]
        self._left -= len(octets)
        return octets


# --- smtplib ---


def by_smtplib(job: dict[str, Any]) -> Work:
    kind = smtplib.LMTP if job["lmtp"] else smtplib.SMTP
    message, recipients = text(job["octets"]), recipients_of(job)
    client = kind("127.0.0.1", job["port"], local_hostname="client.test", timeout=PATIENCE)
    client.ehlo_or_helo_if_needed()

    def work(count: int) -> None:
        for _ in range(count):
            refused = client.sendmail(SENDER, recipients, message)
            assert not refused

    def work_lmtp(count: int) -> None:
        # sendmail reads one final reply, however many recipients there are, and would be out of step from then on.
        for _ in range(count):
            client.mail(SENDER)
            for recipient in recipients:
                client.rcpt(recipient)
            replies = [client.data(message), *(client.getreply() for _ in recipients[1:])]
            assert all(code == 250 for code, _ in replies)

    return work_lmtp if job["lmtp"] else work


def by_fresh_smtplib(job: dict[str, Any]) -> Work:
    message, recipients = text(job["octets"]), recipients_of(job)

    def work(count: int) -> None:
        for _ in range(count):
            with smtplib.SMTP("127.0.0.1", job["port"], local_hostname="client.test", timeout=PATIENCE) as client:
                client.sendmail(SENDER, recipients, message)

    return work


def logins_by_smtplib(job: dict[str, Any]) -> Work:
    context = ssl.create_default_context(cafile=job["authority"])

    def work(count: int) -> None:
        for _ in range(count):
            with smtplib.SMTP("127.0.0.1", job["port"], local_hostname="client.test", timeout=PATIENCE) as client:
                client.starttls(context=context)
                client.login("user", "secret")

    return work


# --- smtpconn ---


def by_smtpconn(job: dict[str, Any]) -> Work:
    from smtpconn import Mail, Pipelining, SmtpConnection, TlsMode

    message, recipients, verb = text(job["octets"]), recipients_of(job), job["verb"]
    opening = SmtpConnection.connect_lmtp if job["lmtp"] else SmtpConnection.connect
    level = Pipelining[job["level"]]
    connection = opening(
        "127.0.0.1", job["port"], TlsMode.NONE, timeout=PATIENCE, ehlo_domain="client.test", pipelining=level
    )
    params = None
    if job.get("binary"):
        from smtpconn import MailParams

        params = MailParams(body="BINARYMIME")

    def one_by_one(count: int) -> None:
        send = connection.send_bdat if verb == "send_bdat" else connection.send
        for _ in range(count):
            result = send(SENDER, recipients, message, timeout=PATIENCE, params=params)
            assert result.all_delivered

    def mails(count: int) -> Iterator[Mail]:
        for _ in range(count):
            yield Mail(SENDER, recipients, message, chunking=level is Pipelining.BURST)

    def batch(count: int) -> None:
        for outcome in connection.send_many(mails(count), timeout=PATIENCE):
            assert outcome.result is not None
            assert outcome.result.all_delivered

    return batch if verb == "send_many" else one_by_one


def streams_by_smtpconn(job: dict[str, Any]) -> Work:
    from smtpconn import SmtpConnection, TlsMode

    connection = SmtpConnection.connect(
        "127.0.0.1", job["port"], TlsMode.NONE, timeout=PATIENCE, ehlo_domain="client.test"
    )

    def work(count: int) -> None:
        send = connection.send_bdat if job["verb"] == "send_bdat" else connection.send
        for _ in range(count):
            send(SENDER, recipients_of(job), Spring(job["octets"]), timeout=PATIENCE)

    return work


def logins_by_smtpconn(job: dict[str, Any]) -> Work:
    from smtpconn import SmtpConnection, TlsConfig, TlsMode

    config = TlsConfig(trust=Path(job["authority"]))

    def work(count: int) -> None:
        for _ in range(count):
            with SmtpConnection.connect(
                "127.0.0.1",
                job["port"],
                TlsMode.STARTTLS,
                timeout=PATIENCE,
                tls_config=config,
                credentials=("user", "secret"),
                ehlo_domain="client.test",
            ):
                pass

    return work


# --- aiosmtplib ---


def by_aiosmtplib(job: dict[str, Any]) -> tuple[float, float]:
    import asyncio  # here: it would be a fourth of the memory of those who do not need it

    import aiosmtplib

    message, recipients = text(job["octets"]), recipients_of(job)

    async def opened() -> aiosmtplib.SMTP:
        client = aiosmtplib.SMTP(
            hostname="127.0.0.1", port=job["port"], local_hostname="client.test", timeout=PATIENCE, start_tls=False
        )
        await client.connect()
        await client.sendmail(SENDER, recipients, message)
        return client

    async def work(client: aiosmtplib.SMTP) -> None:
        for _ in range(job["mails"]):
            await client.sendmail(SENDER, recipients, message)

    async def measured() -> tuple[float, float]:
        clients = [await opened() for _ in range(job["connections"])]
        began = time.perf_counter(), processor()
        await asyncio.gather(*[work(client) for client in clients])
        return time.perf_counter() - began[0], processor() - began[1]

    return asyncio.run(measured())


# --- the measurement ---

OPENERS: dict[str, Callable[[dict[str, Any]], Work]] = {
    "smtplib": by_smtplib,
    "smtplib, fresh": by_fresh_smtplib,
    "smtplib, logins": logins_by_smtplib,
    "smtpconn": by_smtpconn,
    "smtpconn, streams": streams_by_smtpconn,
    "smtpconn, logins": logins_by_smtpconn,
}


def processor() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def peak_of(pid: int | str) -> int:
    """KiB of memory that the process had at most; 0 where the system does not tell.

    Not `ru_maxrss`: that begins with the memory of whoever started the process.
    """
    status = Path(f"/proc/{pid}/status")
    found = re.search(r"VmHWM:\s+(\d+)", status.read_text(encoding="utf-8")) if status.exists() else None
    return int(found[1]) if found else 0


def threaded(job: dict[str, Any]) -> tuple[float, float]:
    """Seconds and seconds of the processor for all the mails, on as many threads as connections."""
    works = [OPENERS[job["client"]](job) for _ in range(job["connections"])]
    if job["warm"]:
        for work in works:
            work(1)
    threads = [threading.Thread(target=work, args=(job["mails"],)) for work in works]
    began = time.perf_counter(), processor()
    if len(works) == 1:
        works[0](job["mails"])
    else:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    return time.perf_counter() - began[0], processor() - began[1]


def main(job: dict[str, Any]) -> None:
    seconds, cpu = by_aiosmtplib(job) if job["client"] == "aiosmtplib" else threaded(job)
    sys.stdout.write(json.dumps({"seconds": seconds, "cpu": cpu, "peak": peak_of("self")}))
    sys.stdout.flush()


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
