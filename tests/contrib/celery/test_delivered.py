"""The tasks of the documentation in a real worker, over a real broker, at a real Postfix (users 10 and 18, MG4)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import celery
import pytest

from smtpconn import Mail
from smtpconn.contrib.celery import Action, Decision

from ...interop.daemon import until
from ...interop.postfix import Postfix
from ...interop.servers import UNKNOWN

PATIENCE = 60.0
COUNT = 10

pytestmark = [pytest.mark.interop, pytest.mark.timeout(240)]


@pytest.mark.parametrize("module", ["plain_tasks", "mail_tasks"])
def test_MG4_the_children_of_a_worker_deliver_each_mail_once_over_a_connection_each(
    module: str,
    postfix: Postfix,
    account: Callable[..., dict[str, str]],
    source_address: str,
    start_worker: Any,
    client: celery.Celery,
) -> None:
    """users:MG4, CE1, CE3, CE5: prefork, two children; who is refused for good is told, and bounces."""
    environment = account(postfix, source_address=source_address)
    url, trust = f"{environment['EMAIL_URL']}&max_size=1", environment["SSL_CERT_FILE"]
    # The example says max_size itself where it has no journal.
    url = environment["EMAIL_URL"] if module == "plain_tasks" else url
    worker = start_worker(url, module=module, execution="prefork", concurrency=2, SSL_CERT_FILE=trust)

    def submit(name: str, *recipients: str) -> Any:
        content = f"Message-ID: <{name}.{module}.{source_address}@example.com>\r\n\r\nHello.\r\n"
        if module == "plain_tasks":
            return client.send_task("plain_tasks.send", ("anna@example.com", recipients, content))
        mail = Mail("anna@example.com", recipients, content.encode())
        return client.send_task("mail_tasks.send_mail", (mail.to_dict(), name))

    answers = [submit(f"m{number}", "user5@lab.test") for number in range(COUNT)]
    bounced = submit("bounced", "user5@lab.test", UNKNOWN)
    told = [Decision.from_dict(answer.get(timeout=PATIENCE)) for answer in [*answers, bounced]]
    assert [decision.action for decision in told] == [Action.DONE] * COUNT + [Action.BOUNCE]
    assert [entry.address for entry in told[-1].recipients] == [UNKNOWN]
    suffix = f".{module}.{source_address}@example.com>"
    names = [f"<m{number}{suffix}" for number in range(COUNT)] + [f"<bounced{suffix}"]
    assert until(lambda: all(postfix.find_mail("user5", name) for name in names), PATIENCE)
    assert [len(postfix.find_mail("user5", name)) for name in names] == [1] * (COUNT + 1)
    worker.ask_to_stop()
    worker.await_end()
    assert 1 <= postfix.log().count(f" connect from unknown[{source_address}]") <= 2
