"""The settings of a project on Django 6.1 and later."""

import os

from smtpconn.contrib.django import mailer_options

SECRET_KEY = "of the example"

_options = mailer_options(os.environ["EMAIL_URL"])  # or {"host": "mx.example.com", "use_tls": True, ...}
MAILERS = {
    "default": {
        "BACKEND": "smtpconn.contrib.django.EmailBackend",
        "OPTIONS": {**_options, "timeout": 10, "pool": {"max_size": 4, "max_idle": 45, "max_age": 300}},
    },
}
