"""What each test leaves behind is taken away."""

import os
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

from tests.databases import OPENED

if "CI" not in os.environ:  # there no example has a time limit, either
    settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.load_profile("untimed")


@pytest.fixture(autouse=True)
def databases_in_memory_are_closed() -> Iterator[None]:
    """Close them."""
    yield
    while OPENED:
        OPENED.pop().close()
