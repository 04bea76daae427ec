"""What every test here starts from: a new log's URL, and handlers that do as they are told."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.notification.model import Ways, ways
from tests.semantics.faults import Faults, install


@pytest.fixture
def url(tmp_path: Path) -> str:
    """Return the URL of a log that is not there yet."""
    return f"sqlite:///{tmp_path}/log.db"


@pytest.fixture
def faults(monkeypatch: pytest.MonkeyPatch) -> Faults:
    """Return what the connections of this test do."""
    return install(monkeypatch)


@pytest.fixture(autouse=True)
def told() -> Iterator[Ways]:
    """Have all handlers succeed at first."""
    ways.clear()
    yield ways
    ways.clear()
