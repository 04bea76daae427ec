"""What every test here starts from: a new log's URL."""

from pathlib import Path

import pytest


@pytest.fixture
def url(tmp_path: Path) -> str:
    """Return the URL of a log that is not there yet."""
    return f"sqlite:///{tmp_path}/log.db"
