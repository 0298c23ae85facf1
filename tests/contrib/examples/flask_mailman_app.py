"""A Flask application with Flask-Mailman: one setting differs."""

import os

from flask import Flask, request
from flask_mailman import EmailMessage, Mail

app = Flask(__name__)
app.config.update(
    MAIL_BACKEND="smtpconn.contrib.flask.EmailBackend",
    MAIL_SERVER=os.environ["MAIL_SERVER"],
    MAIL_PORT=int(os.environ["MAIL_PORT"]),
    MAIL_USE_TLS="MAIL_USE_TLS" in os.environ,  # STARTTLS
    MAIL_USERNAME=os.environ.get("MAIL_USERNAME"),
    MAIL_PASSWORD=os.environ.get("MAIL_PASSWORD"),
    MAIL_TIMEOUT=10,
    MAIL_DEFAULT_SENDER="app@example.com",
    MAIL_SMTPCONN={"pool": {"max_size": 4}},
)
Mail(app)


@app.post("/signup")
def signup() -> str:
    return str(EmailMessage("Welcome", "Hello.", to=[request.form["to"]]).send())
