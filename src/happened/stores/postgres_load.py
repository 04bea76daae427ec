"""A new log in PostgreSQL, filled with the rows of another one in one transaction: it is there whole, or not at all, wherever it is stopped."""

from collections.abc import Callable, Mapping

import psycopg

from happened.core.errors import Invalid, OutcomeUnknown, StoreFailed
from happened.core.store import START, Commit, Head, Row, Terms, Unseen
from happened.stores.postgres import PostgresStore
from happened.stores.postgres_cold import put_rows
from happened.stores.postgres_notes import written
from happened.stores.postgres_tables import Connection, migrate, one_line, where_in

TAKEN_SECONDS = 1
"""How long to wait for who uses an empty log; who still does then may be filling it."""
ENDED_SECONDS_MAX = 30
"""How long to wait for the end of a transaction whose connection was lost."""


class PostgresLoad:
    """Takes rows, and then notes, which end it. `Invalid` where there is a log already; the tables are made where there are none."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._where = where_in(url)
        self._head, self._row = START, 0
        self._whole = False
        self._is_new = False
        try:
            self._connection = self._where.connect()
        except psycopg.Error as error:
            raise self._where.trouble(error, "can't be reached") from error
        try:
            there = self._connection.execute("select 1 from pg_namespace where nspname = %s", (self._where.schema,)).fetchall()
            self._is_new = bool(migrate(self._where, self._connection)) and not there
            self._connection.execute("begin isolation level read committed, read write")
            if not self._is_empty(self._connection, TAKEN_SECONDS):
                raise self._taken()
        except psycopg.errors.LockNotAvailable as error:
            self.close()
            raise self._taken() from error
        except psycopg.Error as error:
            self.close()
            raise self._where.trouble(error, "can't be filled") from error
        except BaseException:
            self.close()
            raise

    def append(self, decide: Callable[[Unseen], Commit], seen: int) -> Head:
        """Add rows; with notes the log is whole, and there for all to see."""
        rows, _, notes, *_ = decide(Unseen((), self._head, _nothing))
        try:
            with self._connection.cursor() as cursor:
                if rows:
                    put_rows(cursor, self._where, rows)
                    last = rows[-1]
                    self._head, self._row = Head(last.last, last.at, last.digest), last.position
                if notes:
                    cursor.execute(
                        self._where.sql("update @head set position = %s, at = %s, digest = %s, row = %s"),
                        (self._head.position, self._head.at, self._head.digest, self._row),
                    )
                    keys, bodies, _ = written(notes)  # a new log has none to delete
                    cursor.execute(self._where.sql("select @note_down(%s::text[], %s::text[])"), (keys, bodies))
        except psycopg.Error as error:
            raise self._failed(error) from error
        if notes:
            self._commit()
        return self._head

    def index(self, reading: Mapping[int, str], terms_of: Callable[[Row], Terms], progress: Callable[[int, int], None]) -> bool:
        """Make the index of the whole log; before it is whole there is nothing to be found. Whoever opens the log does so where it was stopped."""
        if not self._whole:
            return True
        store = PostgresStore(self._url)
        try:
            return store.index(reading, terms_of, progress)
        finally:
            store.close()

    def close(self) -> None:
        """Give the connection back. What is not whole leaves nothing: no rows, and no schema that was made for it."""
        self._connection.close()
        if self._is_new and not self._whole:
            self._is_new = False
            try:
                with self._where.connect() as connection, connection.transaction():
                    if self._is_empty(connection, ENDED_SECONDS_MAX):  # else it is somebody's by now
                        connection.execute(f'drop schema "{self._where.schema}" cascade'.encode())
            except psycopg.Error as error:
                raise StoreFailed(
                    f"the empty tables of {self._where.said} could not be dropped: {one_line(error)}", error=one_line(error)
                ) from error

    def _commit(self) -> None:
        """Commit, and learn whether it took place where no answer comes."""
        try:
            self._connection.execute("commit")
        except psycopg.OperationalError as error:
            try:
                with self._where.connect() as connection, connection.transaction():
                    taken_back = self._is_empty(connection, ENDED_SECONDS_MAX)
            except psycopg.Error:
                raise OutcomeUnknown(
                    f"the connection was lost at the end: see whether {self._where.said} is there, whole, with `happened verify`",
                    url=self._where.said,
                ) from error
            if taken_back:
                raise self._failed(error) from error
        self._whole = True

    def _is_empty(self, connection: Connection, wait_seconds_max: int) -> bool:
        """Say whether there is neither a row nor a note, and keep it so to the end of the open transaction. Waits for who fills it."""
        connection.execute(f"set local lock_timeout = {wait_seconds_max * 1000}".encode())
        found = connection.execute(self._where.sql("select position from @head for update")).fetchall()
        return found == [(0,)] and not connection.execute(self._where.sql("select 1 from @note limit 1")).fetchall()

    def _failed(self, error: psycopg.Error) -> StoreFailed:
        return StoreFailed(f"{self._where.said} could not be filled, and holds nothing: {one_line(error)}", error=one_line(error))

    def _taken(self) -> Invalid:
        return Invalid(f"there is a log already at {self._where.said}, or one is being made: name another schema", url=self._where.said)


def _nothing(_start: str) -> Mapping[str, str]:
    return {}
