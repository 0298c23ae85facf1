"""Send a personal mail to each row of a CSV file: newsletter.py READERS.csv RECORD.csv

Ctrl-C begins nothing more, and writes down what was begun. The same command then goes on with the rest.
"""

import csv
import os
import signal
import sys
import threading
from collections.abc import Iterator
from email.message import EmailMessage
from pathlib import Path

from smtpconn import ConnectionPool, Delivery, Mail

readers, record = Path(sys.argv[1]), Path(sys.argv[2])
stopping = threading.Event()
signal.signal(signal.SIGINT, lambda *_: stopping.set())


def finished() -> set[str]:
    """Everybody but those who provably have no mail and may get it later."""
    if not record.exists():
        return set()
    with record.open(encoding="utf-8", newline="") as file:
        return {number for number, verdict, _ in csv.reader(file) if verdict != "later"}


def mails() -> Iterator[Mail]:
    """Made one by one, as connections ask for them."""
    done = finished()
    with readers.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            if stopping.is_set():
                return
            if row["number"] not in done:
                message = EmailMessage()
                message["From"], message["To"] = "news@example.com", row["address"]
                message["Subject"] = f"News for {row['name']}"
                message.set_content(f"Dear {row['name']},\n\nnothing is new.\n")
                yield Mail.from_message(message, tag=row["number"])


with ConnectionPool.from_url(os.environ["EMAIL_URL"]) as pool, record.open("a", encoding="utf-8", newline="") as file:
    lines = csv.writer(file)
    for outcome in pool.send_many(mails(), concurrency=4, timeout=60):  # any progress bar goes around this iterator
        verdict = outcome.delivery.value
        if outcome.delivery is Delivery.NOT_DELIVERED and (outcome.scope == "service" or not outcome.permanent):
            verdict = "later"  # a wrong password is permanent, too, and no fault of the mail
        told = outcome.error if outcome.result is None else outcome.result.reply
        lines.writerow([outcome.mail.tag, verdict, told])
        file.flush()
