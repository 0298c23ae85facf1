"""redmail composes, a pool sends: to everybody named."""

import os
import sys

from redmail import EmailSender

from smtpconn import ConnectionPool
from smtpconn.contrib import compat

pool = ConnectionPool.from_url(os.environ["EMAIL_URL"], timeout=10)

# Calls stay: each leases a connection, and gives it back.
email = EmailSender(host="", port=0, cls_smtp=compat.smtp_class(pool), use_starttls=False)
for number in range(3):
    email.send(
        subject=f"Report {number}", sender="anna@example.com", receivers=sys.argv[1:], html="<p>All is {{ how }}.</p>",
        body_params={"how": "well"},
    )  # fmt: skip

# Where the answer for each recipient matters: compose, then send.
message = email.get_message(subject="Report 3", sender="anna@example.com", receivers=sys.argv[1:], text="All is well.")
for entry in pool.send_message(message).recipients:
    print(entry.address, entry.delivery.value)
