"""What every test here starts from: a new log's URL, and a history in a file."""

from pathlib import Path

import pytest

from happened.testing.history import History
from tests.servers import fresh


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Return the URL of a log that is not there yet, in each store that several processes can share."""
    return fresh() if request.param == "postgres" else f"sqlite:///{tmp_path}/log.db"


@pytest.fixture
def history(tmp_path: Path) -> History:
    """Return a history in a file that processes share."""
    return History(tmp_path / "history.jsonl")
