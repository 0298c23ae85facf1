"""Mails as tasks that survive the death of a worker."""

import os

from celery import Celery

from smtpconn import ConnectionPool, Mail
from smtpconn.contrib.celery import RedisJournal, close_on_shutdown, deliver

app = Celery("mail_tasks", broker=os.environ["BROKER_URL"], backend=os.environ["BROKER_URL"])
app.conf.update(
    task_acks_late=True,  # a task is done when its function has returned
    task_reject_on_worker_lost=True,  # a killed child's task goes back to the queue
    worker_prefetch_multiplier=1,
    broker_transport_options={"visibility_timeout": 7200},  # seconds; longer than the longest countdown and a task
)

pool = ConnectionPool.from_url(os.environ["EMAIL_URL"], timeout=45)
journal = RedisJournal.from_url(os.environ["JOURNAL_URL"])
close_on_shutdown(pool)


@app.task(bind=True, max_retries=8, soft_time_limit=60, time_limit=90)
def send_mail(self, mail, key=None):
    return deliver(self, pool, Mail.from_dict(mail), journal=journal, key=key).to_dict()
