"""What every test here starts from: a new log's URL, and connections that can be made to fail."""

from pathlib import Path

import pytest

from tests.semantics.faults import Faults, install
from tests.servers import fresh


@pytest.fixture
def url(tmp_path: Path) -> str:
    """Return the URL of a log that is not there yet."""
    return f"sqlite:///{tmp_path}/log.db"


@pytest.fixture(params=["sqlite", "postgres"])
def any_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Return the URL of a log that is not there yet, in each store that several processes can share."""
    return fresh() if request.param == "postgres" else f"sqlite:///{tmp_path}/log.db"


@pytest.fixture
def faults(monkeypatch: pytest.MonkeyPatch) -> Faults:
    """Return what the connections of this test do."""
    return install(monkeypatch)
