"""What every test here starts from: a new log, a database of each kind, and a function that does its work."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.projections.rig import database, tables, ways


@pytest.fixture
def log(tmp_path: Path) -> str:
    """Return the URL of a log that is not there yet."""
    return f"sqlite:///{tmp_path}/log.db"


@pytest.fixture(params=["sqlite", "postgresql"])
def empty(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Return the URL of a database without tables."""
    return database(request.param, tmp_path)


@pytest.fixture
def into(empty: str) -> str:
    """Return the URL of a database with the tables."""
    return tables(empty)


@pytest.fixture(autouse=True)
def told() -> Iterator[None]:
    """Have the function do its work, and nothing else."""
    ways.runs = 0
    before = ways.before
    yield
    ways.before = before
