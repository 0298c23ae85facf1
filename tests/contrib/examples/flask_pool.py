"""A Flask application with a pool, no extension."""

from __future__ import annotations

import os
from email.message import EmailMessage
from typing import Any

from flask import Flask, current_app, request

from smtpconn import ConnectionPool, SmtpError


def create_app(config: dict[str, Any] | None = None) -> Flask:
    app = Flask(__name__)
    app.config.update(config or {"EMAIL_URL": os.environ["EMAIL_URL"]})
    # Nothing connects here: preloading, forking and reloading need no hook.
    app.extensions["smtpconn"] = ConnectionPool.from_url(app.config["EMAIL_URL"], max_size=4)

    @app.post("/signup")
    def signup() -> str:
        message = EmailMessage()
        message["From"], message["To"], message["Subject"] = "app@example.com", request.form["to"], "Welcome"
        message.set_content("Hello.\n")
        try:
            result = current_app.extensions["smtpconn"].send_message(message, timeout=10)
        except SmtpError as error:
            return str(error.delivery.value)
        return str(result.delivery.value)

    return app
