"""features:SY3: every class of error comes back whole from a process pool.

Not among the tables of the core: those run where no process can be started, too.
"""

from __future__ import annotations

import multiprocessing
import site
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from smtpconn.protocol.errors import SmtpError

from .protocol.test_errors import CLASSES, with_everything


def raise_it(error: SmtpError) -> None:
    """Runs in another process."""
    raise error


def test_every_class_comes_back_from_a_process_pool_with_all_attributes_SY3() -> None:
    context, home = multiprocessing.get_context("spawn"), str(Path(__file__).parents[1])  # where `raise_it` is found
    with ProcessPoolExecutor(1, mp_context=context, initializer=site.addsitedir, initargs=(home,)) as pool:
        for error in map(with_everything, CLASSES):
            came_back = pool.submit(raise_it, error).exception(30)
            assert type(came_back) is type(error)
            assert vars(came_back) == vars(error)
            assert (str(came_back), came_back.args) == (str(error), error.args)
