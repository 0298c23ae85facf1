"""Send a mail to everybody named, and say who did not get it."""

import os
import sys
from email.message import EmailMessage

from smtpconn import PasswordAuth, SmtpConnection, TlsMode

host, port = os.environ["MAIL_HOST"], int(os.environ["MAIL_PORT"])
user, password = os.environ["MAIL_USER"], os.environ["MAIL_PASSWORD"]

msg = EmailMessage()
msg["From"], msg["To"], msg["Subject"] = "anna@example.com", ", ".join(sys.argv[1:]), "Nightly report"
msg.set_content("All is well.\n")

with SmtpConnection.connect(host, port, TlsMode.STARTTLS, timeout=10) as c:
    c.auth(PasswordAuth(user, password), timeout=10)
    result = c.send_message(msg, timeout=30)
print(result.queue_id, [r.address for r in result.rejected])
