"""`ConnectionPool` through Exim with its defaults.

A session may have 10 commands that are no mail; of its mails those beyond the 10th are queued.
"""

from __future__ import annotations

import re
import threading
from collections import Counter

import pytest

from smtpconn import ConnectionPool, Delivery, RecipientsRefusedError, TlsMode

from .exim import Exim
from .servers import UNKNOWN

pytestmark = [pytest.mark.interop, pytest.mark.slow, pytest.mark.timeout(300)]

SENDER = "sender@elsewhere.test"
THREADS = 8


@pytest.mark.parametrize(("probe_after", "count"), [(15.0, 1_000), (0.0, 240), (None, 240)])
def test_PO17_a_thousand_mails_every_tenth_refused_and_no_caller_sees_an_error(
    exim: Exim, probe_after: float | None, count: int
) -> None:
    """Issue acceptance 5; pool:VA3, VA4, DF11: each mail is stored once, none of the refused ones."""
    user = exim.users[7 % len(exim.users)]
    run = f"PO17-{probe_after}"
    failures: list[BaseException] = []
    refused: list[int] = []

    def work(who: int) -> None:
        for number in range(who, count, THREADS):
            recipient = UNKNOWN if number % 10 == 0 else user
            try:
                result = pool.send(SENDER, [recipient], f"Subject: {run} {number}\r\n\r\nx\r\n".encode())
                assert result.delivery is Delivery.DELIVERED
            except RecipientsRefusedError:
                refused.append(number)
            except BaseException as error:  # what a caller sees is what is counted
                failures.append(error)

    before = len(exim.mailbox(user))
    with ConnectionPool(exim.host, exim.port, TlsMode.NONE, timeout=60, probe_after=probe_after) as pool:
        threads = [threading.Thread(target=work, args=(who,)) for who in range(THREADS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(200)
            assert not thread.is_alive()
        stats = pool.stats()
    assert failures == []
    assert sorted(refused) == list(range(0, count, 10))
    assert stats.messages == count + stats.stale_retries
    stored = exim.wait_for_mails(user, before + count - len(refused), timeout=120)
    numbers = Counter(int(found[1]) for mail in stored if (found := re.search(rf"Subject: {run} (\d+)".encode(), mail)))
    assert numbers == Counter(number for number in range(count) if number % 10)
