"""The same with a pool: the backend, and one option more."""

import os

MAILERS = {
    "default": {
        "BACKEND": "smtpconn.contrib.django.EmailBackend",
        "OPTIONS": {
            "host": os.environ["MAIL_HOST"],
            "port": int(os.environ["MAIL_PORT"]),
            "username": os.environ["MAIL_USER"],
            "password": os.environ["MAIL_PASSWORD"],
            "use_tls": True,
            "timeout": 10,
            "pool": {"max_size": 4, "max_idle": 45, "max_age": 300, "max_messages": 50},
        },
    },
}
