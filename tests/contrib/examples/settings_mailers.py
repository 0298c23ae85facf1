"""The settings of a project on Django 6.1 and later."""

import os

from smtpconn.contrib.django import mailer_options

MAILERS = {
    "default": {
        "BACKEND": "smtpconn.contrib.django.EmailBackend",
        "OPTIONS": {
            "timeout": 10,
            "pool": {"max_size": 4, "max_idle": 45, "max_age": 300},
            **mailer_options(os.environ["EMAIL_URL"]),
        },
    },
}
