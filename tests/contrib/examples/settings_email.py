"""The settings of a project on Django 5.2 or 6.0 (and on later ones that keep the old settings)."""

import os

from smtpconn.contrib.django import mailer_options

_options = mailer_options(os.environ["EMAIL_URL"])

EMAIL_BACKEND = "smtpconn.contrib.django.EmailBackend"
EMAIL_HOST, EMAIL_PORT = _options.pop("host"), _options.pop("port")
EMAIL_HOST_USER, EMAIL_HOST_PASSWORD = _options.pop("username", ""), _options.pop("password", "")
EMAIL_USE_TLS, EMAIL_USE_SSL = _options.pop("use_tls", False), _options.pop("use_ssl", False)
EMAIL_TIMEOUT = _options.pop("timeout", 10)

SMTPCONN = {"pool": {"max_size": 4}, **_options}
