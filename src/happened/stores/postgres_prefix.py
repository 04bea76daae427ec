"""A log in PostgreSQL that another lies over: looked at up to a position, and never written. A role that may select is enough.

Its index is used as it is. What is not filed there, and what others file by another reading while this is open, is looked at row by row; whoever the log
belongs to will file it.
"""

from collections.abc import Callable, Iterator, Mapping

from happened.core.errors import Invalid
from happened.core.store import Engine, Row, Terms
from happened.stores.postgres import PostgresStore, Standing
from happened.stores.postgres_tables import Connection, seen_there

UNREACHED = "can't be reached (a branch keeps no password: give it in PGPASSWORD, in ~/.pgpass or in a service of libpq)"


class PostgresPrefix(PostgresStore):
    """Keeps nothing: the log is another's. `check` raises where it no longer has what it had at the position that is looked at last."""

    def __init__(self, url: str, until: int, check: Callable[[Engine], None]) -> None:
        self._until = until
        self._check = check
        super().__init__(url)

    def found_by(self, reading: Mapping[int, str], terms_of: Callable[[Row], Terms], /) -> bool:
        """Say whether the index was made by this reading. Nothing is rebuilt or filed."""
        return self.index(reading, terms_of, lambda _done, _all: None, guest=True)

    def _opened(self) -> Connection:
        return seen_there(self.where, unreached=UNREACHED)  # it is closed, and nobody writes

    def _begun_at(self, seen: int, deadline: float) -> tuple[Standing, list[Row]]:
        raise Invalid(f"{self.url} is what a branch lies over: through that it is only read", url=self.url)

    def _file_if_free(self) -> None:
        """File nothing: `_ids_after` and ranges of rows stand in for it."""

    def _ids_after(self, after: int, until: int) -> Iterator[tuple[int, str | None]]:
        return super()._ids_after(after, min(until, self._until))

    def _look_at_reading(self, generation: str, connection: Connection) -> None:
        if generation != self._generation:  # the index was made anew, or another log is in the place of this one
            self._check(self)
        super()._look_at_reading(generation, connection)
