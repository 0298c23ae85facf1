"""One profile for everybody: the same examples every time, so that a failure in CI is a failure here.

With SMTPCONN_EXPLORE=1 others are looked for, and more of them; hypothesis then prints how to repeat what it found.
"""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

settings.register_profile(
    "ci", max_examples=500, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("explore", settings.get_profile("ci"), max_examples=5_000, derandomize=False)
settings.load_profile("explore" if "SMTPCONN_EXPLORE" in os.environ else "ci")
