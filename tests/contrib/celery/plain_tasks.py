"""Mails as tasks that are acknowledged before they run: a worker that is killed takes its mail with it."""

import os

from celery import Celery

from smtpconn import ConnectionPool, SmtpError
from smtpconn.contrib.celery import Action, close_on_shutdown, retry_if_safe

app = Celery("plain_tasks", broker=os.environ["BROKER_URL"], backend=os.environ["BROKER_URL"])
pool = ConnectionPool.from_url(os.environ["EMAIL_URL"], max_size=1)
close_on_shutdown(pool)


@app.task(bind=True, max_retries=8, soft_time_limit=60)
def send(self, sender, recipients, content):
    try:
        outcome = pool.send(sender, recipients, content.encode(), timeout=45, newlines="crlf")
    except SmtpError as error:
        outcome = error
    decision = retry_if_safe(self, outcome)
    if decision.action is Action.RETRY_SOME:  # the others have it
        waiting = [entry.address for entry in decision.recipients]
        send.apply_async((sender, waiting, content), countdown=60)
    return decision.to_dict()
