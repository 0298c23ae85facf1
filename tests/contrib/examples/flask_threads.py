"""A Flask application that answers before the mail is out: few threads, fewer connections, and no error is lost."""

from __future__ import annotations

import os
from concurrent.futures import Future, ThreadPoolExecutor
from email.message import EmailMessage

from flask import Flask, request

from smtpconn import ConnectionPool, SendResult

app = Flask(__name__)
pool = ConnectionPool.from_url(os.environ["EMAIL_URL"], max_size=4)
executor = ThreadPoolExecutor(16)


@app.post("/signup")
def signup() -> tuple[str, int]:
    message = EmailMessage()
    message["From"], message["To"], message["Subject"] = "app@example.com", request.form["to"], "Welcome"
    message.set_content("Hello.\n")
    executor.submit(pool.send_message, message, timeout=10).add_done_callback(look_at)
    return "It is on its way.", 202


def look_at(call: Future[SendResult]) -> None:
    if (error := call.exception()) is not None:
        app.logger.error("a mail was not sent: %s", error)
    for refused in call.result().rejected if error is None else ():
        app.logger.warning("refused: %s", refused.reply)
