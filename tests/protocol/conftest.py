"""Every dialogue of the core runs three times: the server's octets whole, by line and by octet."""

from __future__ import annotations

from typing import cast

import pytest

from .dialogue import DELIVERIES, Delivery


@pytest.fixture(params=DELIVERIES)
def delivery(request: pytest.FixtureRequest) -> Delivery:
    """How the server's octets arrive."""
    return cast("Delivery", request.param)
