"""Deliver the mail on standard input: lmtp_delivery.py SOCKET SENDER RECIPIENT..."""

import sys

from smtpconn import Delivery, DeliveryUnknownError, SmtpConnection

path, sender, *recipients = sys.argv[1:]
data = sys.stdin.buffer.read()

with SmtpConnection.connect_lmtp(unix_socket=path, timeout=5) as c:
    try:
        entries = c.send_lmtp(sender, recipients, data, newlines="crlf", timeout=60).recipients
    except DeliveryUnknownError as error:
        entries = error.recipients  # some verdicts are known, some are UNKNOWN

for r in entries:
    if r.delivery is Delivery.DELIVERED:
        print(r.address, "done")
    elif r.delivery is Delivery.UNKNOWN:
        print(r.address, "may have it or not: decide")
    else:
        print(r.address, "bounce" if r.permanent else "keep, and try later", r.reply)
