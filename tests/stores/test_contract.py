"""The contract of stores, run for those that come with the library."""

from pathlib import Path
from typing import ClassVar

import pytest

from happened.stores.memory import MemoryStore
from happened.testing.store_contract import Place, StoreContract


class TestMemoryStore(StoreContract):
    """One store in one process: every handle is the same."""

    @pytest.fixture
    def place(self) -> Place:
        """Keep one store for the test."""
        store = MemoryStore()
        return Place(lambda: store)


class TestSqliteStore(StoreContract):
    """One file, opened by any number of handles and processes."""

    shared: ClassVar[bool] = True
    packs: ClassVar[bool] = True

    @pytest.fixture
    def place(self, tmp_path: Path) -> Place:
        """Keep the file in the test's own folder."""
        return Place.named("happened.stores.sqlite:SqliteStore", str(tmp_path / "log.db"))
