"""What each test leaves behind is taken away."""

from collections.abc import Iterator

import pytest

from tests.databases import OPENED


@pytest.fixture(autouse=True)
def databases_in_memory_are_closed() -> Iterator[None]:
    """Close them."""
    yield
    while OPENED:
        OPENED.pop().close()
