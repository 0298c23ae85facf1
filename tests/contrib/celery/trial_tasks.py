"""The tasks of the tests: those of the documentation's example, and some that stop where a test wants them to."""

import os
import threading
import uuid
from typing import Any

from mail_tasks import app, journal, pool, send_mail

from smtpconn import ConnectionPool, Mail
from smtpconn.contrib.celery import close_on_shutdown, deliver, retry_if_safe

app.conf.broker_transport_options = {
    "visibility_timeout": int(os.environ.get("VISIBILITY", "3600")),
    "unacked_restore_interval": 1,
    "unacked_restore_throttle": 1,
}
app.conf.worker_hijack_root_logger = False

SHORT = 0.3  # seconds between attempts

if os.environ.get("USE_IN_PARENT"):
    pool.noop()  # before any fork: what the children must not inherit

_pools: dict[str, ConnectionPool] = {}
_lock = threading.Lock()


def _pool_at(url: str) -> ConnectionPool:
    with _lock:
        if url not in _pools:
            _pools[url] = ConnectionPool.from_url(url, max_size=2, timeout=30)
            close_on_shutdown(_pools[url])
        return _pools[url]


@app.task(bind=True, max_retries=50)
def send_at(self: Any, url: str, mail: dict[str, Any], key: str | None = None) -> dict[str, Any]:
    """Over a pool at this server."""
    told = deliver(self, _pool_at(url), Mail.from_dict(mail), journal=journal, key=key, countdown=SHORT)
    return dict(told.to_dict())


@app.task(bind=True, max_retries=50)
def send_and_linger(self: Any, url: str, mail: dict[str, Any], mark: str) -> dict[str, Any]:
    """The first time it does not come back when the mail is through."""
    told = dict(deliver(self, _pool_at(url), Mail.from_dict(mail), journal=journal, countdown=SHORT).to_dict())
    if journal.add("marks", mark, uuid.uuid4().hex):
        threading.Event().wait(600)
    return told


@app.task(bind=True, max_retries=3, soft_time_limit=1, time_limit=30)
def send_within_a_second(self: Any, mail: dict[str, Any], key: str) -> dict[str, Any]:
    """Cut off by the soft time limit where the server does not answer."""
    return dict(deliver(self, pool, Mail.from_dict(mail), journal=journal, key=key, countdown=SHORT).to_dict())


@app.task(bind=True, max_retries=3, soft_time_limit=1, time_limit=30)
def try_again_what_was_cut_off(self: Any, mail: dict[str, Any]) -> dict[str, Any]:
    """The soft time limit's own verdict decides."""
    given = Mail.from_dict(mail)
    try:
        outcome: Any = pool.send(given.sender, given.recipients, given.message)
    except Exception as error:
        outcome = error
    return dict(retry_if_safe(self, outcome, countdown=SHORT).to_dict())


__all__ = ["app", "send_at", "send_and_linger", "send_mail", "send_within_a_second", "try_again_what_was_cut_off"]
