"""Django's own backend on 6.1 and later."""

import os

MAILERS = {
    "default": {
        "BACKEND": "django.core.mail.backends.smtp.EmailBackend",
        "OPTIONS": {
            "host": os.environ["MAIL_HOST"],
            "port": int(os.environ["MAIL_PORT"]),
            "username": os.environ["MAIL_USER"],
            "password": os.environ["MAIL_PASSWORD"],
            "use_tls": True,
            "timeout": 10,
        },
    },
}
