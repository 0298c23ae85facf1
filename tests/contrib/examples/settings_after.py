"""What changes, on Django 5.2 and 6.0: these two settings, and nothing else."""

EMAIL_BACKEND = "smtpconn.contrib.django.EmailBackend"
SMTPCONN = {"pool": {"max_size": 4}}
