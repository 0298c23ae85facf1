"""yagmail composes, a pool sends: to everybody named."""

import os
import sys

import yagmail

from smtpconn import ConnectionPool

pool = ConnectionPool.from_url(os.environ["EMAIL_URL"], timeout=10)
yag = yagmail.Client("anna@example.com", smtp_skip_login=True)  # composes only: connects nowhere, needs no password

recipients, text = yag.prepare_send(to=sys.argv[1:], subject="Report", contents=["All is well.", "<b>Grüße</b>"])
result = pool.send(yag.user, recipients, text.encode(), newlines="crlf")
for entry in result.recipients:
    print(entry.address, entry.delivery.value)
