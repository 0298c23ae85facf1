"""A Flask application with Flask-Mail, whose connections are leased from a pool."""

from __future__ import annotations

import os
from email.utils import parseaddr
from typing import Any

import flask_mail
from flask import Flask, current_app, request

from smtpconn import ConnectionPool, SendResult
from smtpconn.contrib import compat

pool = ConnectionPool.from_url(os.environ["EMAIL_URL"], timeout=10, max_size=4, max_messages=50)
PooledSMTP = compat.smtp_class(pool)


class Connection(flask_mail.Connection):
    def configure_host(self) -> Any:
        return PooledSMTP()


class Mail(flask_mail.Mail):
    def connect(self) -> Connection:
        return Connection(current_app.extensions["mail"])


app = Flask(__name__)
app.config["MAIL_DEFAULT_SENDER"] = "Shop <app@example.com>"
mail = Mail(app)


@app.post("/signup")
def signup() -> str:
    mail.send(flask_mail.Message("Welcome", recipients=[request.form["to"]], body="Hello.\n"))
    return "sent"


def send_and_tell(message: flask_mail.Message) -> SendResult:
    """In the place of `mail.send`, which drops what the server says of each recipient."""
    sender, *recipients = [
        parseaddr(flask_mail.sanitize_address(given))[1] for given in (message.sender, *message.send_to)
    ]
    return pool.send(sender, recipients, message.as_bytes())


@app.post("/invite")
def invite() -> dict[str, str]:
    message = flask_mail.Message("Come in", recipients=request.form.getlist("to"), body="Hello.\n")
    return {entry.address: entry.delivery.value for entry in send_and_tell(message).recipients}
