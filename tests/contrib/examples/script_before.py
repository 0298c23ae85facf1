"""Send a mail to everybody named, with smtplib."""

import os
import smtplib
import sys
from email.message import EmailMessage

host, port = os.environ["MAIL_HOST"], int(os.environ["MAIL_PORT"])
user, password = os.environ["MAIL_USER"], os.environ["MAIL_PASSWORD"]

msg = EmailMessage()
msg["From"], msg["To"], msg["Subject"] = "anna@example.com", ", ".join(sys.argv[1:]), "Nightly report"
msg.set_content("All is well.\n")

with smtplib.SMTP(host, port) as s:
    s.starttls()
    s.login(user, password)
    print(s.send_message(msg))
