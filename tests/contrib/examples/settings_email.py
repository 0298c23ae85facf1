"""The settings of a project on Django 5.2 or 6.0 (and on later ones that keep the old settings)."""

import os

from smtpconn.contrib.django import mailer_options

SECRET_KEY = "of the example"

EMAIL_BACKEND = "smtpconn.contrib.django.EmailBackend"
_options = mailer_options(os.environ["EMAIL_URL"])  # or EMAIL_HOST = "mx.example.com", and so on, as they were
EMAIL_HOST, EMAIL_PORT = _options["host"], _options["port"]
EMAIL_HOST_USER, EMAIL_HOST_PASSWORD = _options["username"], _options["password"]
EMAIL_USE_TLS = _options["use_tls"]
EMAIL_TIMEOUT = 10

SMTPCONN = {"trust": _options["trust"], "pool": {"max_size": 4}}
