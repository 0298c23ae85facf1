"""Make a mail, hand it to the workers, and ask what became of it."""

from email.message import EmailMessage
from email.policy import SMTP
from email.utils import make_msgid

from mail_tasks import send_mail

from smtpconn import Mail

message = EmailMessage()
message["From"] = "anna@example.com"
message["To"] = "ben@example.net"
message["Subject"] = "Grüße"
message["Message-ID"] = make_msgid(domain="example.com")  # the same in every attempt
message.set_content("Schöne Grüße!\n")

octets = message.as_bytes(policy=SMTP.clone(cte_type="7bit"))  # any server takes these
mail = Mail("anna@example.com", ["ben@example.net"], octets)
task = send_mail.delay(mail.to_dict(), key=message["Message-ID"])  # submit it twice: one mail
print(task.get(timeout=60)["action"])
