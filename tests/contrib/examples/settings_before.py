"""Django's own backend: a connection for each `send_mail`."""

import os

EMAIL_BACKEND = "django.core.mail.backends.smtp.EmailBackend"
EMAIL_HOST = os.environ["MAIL_HOST"]
EMAIL_PORT = int(os.environ["MAIL_PORT"])
EMAIL_HOST_USER = os.environ["MAIL_USER"]
EMAIL_HOST_PASSWORD = os.environ["MAIL_PASSWORD"]
EMAIL_USE_TLS = True
EMAIL_TIMEOUT = 10
