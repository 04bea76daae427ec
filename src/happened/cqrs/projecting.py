"""Projecting: one projection at work, each event once.

A page of events and the checkpoint are written in one transaction of the user's database, the checkpoint as a compare-and-set on position and owner's epoch.
So nothing is written twice or left out, whoever is killed, and an owner that was paused and revived writes nothing.
"""

import threading
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple  # Any: events of any class

import sqlalchemy as sql
from sqlalchemy import event as hooks
from sqlalchemy.exc import DBAPIError, OperationalError, SQLAlchemyError

from happened.core.errors import Diverged, Error, Invalid, Late, StoreFailed, Stuck
from happened.core.messages import Event, Position, Recorded, events_of
from happened.core.store import Row
from happened.core.waiting import within
from happened.cqrs.projection import Projection
from happened.log.held import told
from happened.log.lease import Leases
from happened.log.log import Log
from happened.log.records import envelope_of
from happened.log.row import decode_header
from happened.log.worker import IDLE_SECONDS, Worker

PAGE_ROWS = 1_000
"""Rows of the log in one transaction."""
LOOK_SECONDS = 1.0
"""How often an owner that has nothing to do looks whether the checkpoint is still its own."""
POLL_SECONDS = 0.02
STALLED = "60s"
"""How long a process may hold its transaction open and do nothing before PostgreSQL takes it away: a paused one holds up who comes after it."""
BEYOND_LIMITS = "54"
"""The class of PostgreSQL's errors of what is too large, such as a key for its index. The driver counts them among the database's own trouble."""
NOBODY = -1
NOTHING = "0" * 64

CHECKPOINT = sql.Table(
    "happened_checkpoint",
    sql.MetaData(),
    sql.Column("name", sql.Text, primary_key=True),
    sql.Column("log", sql.Text, nullable=False),
    sql.Column("epoch", sql.BigInteger, nullable=False),
    sql.Column("position", sql.BigInteger, nullable=False),
    sql.Column("digest", sql.Text, nullable=False),
    sql.Column("owner", sql.BigInteger, nullable=False),
)
OF = CHECKPOINT.c


class Heard(NamedTuple):
    """An event, as a projection hears it."""

    position: int
    event: Event
    recorded: Recorded


class Checkpoint(NamedTuple):
    """How far a projection has come, and who may go on."""

    log: str
    epoch: int
    position: int
    digest: str
    owner: int


class Failed(Exception):
    """A projection's function has raised, on the event at a position."""

    def __init__(self, heard: Heard) -> None:
        super().__init__()
        self.heard = heard


class Projecting:
    """One projection at work on one log."""

    def __init__(self, projection: Projection, log: Log, leases: Leases) -> None:
        self.projection = projection
        self.name = projection.name
        self.worker = Worker(log, leases, projection.lease, begin=self._begin, step=self._step)
        self._log = log
        self._leases = leases
        into = projection.into
        self._owns = isinstance(into, str)
        self._engine = sql.create_engine(into, hide_parameters=True) if isinstance(into, str) else into
        self._at = Checkpoint("", 0, 0, NOTHING, NOBODY)
        self._made = False
        """The checkpoint's table is there."""
        self._looked = 0.0
        self._moved = threading.Condition()
        self._stuck_at: int | None = None

    # --- asking

    def wait(self, since: int, wait_seconds_max: float) -> Position:
        """Wait until it has come to a position; return the one that it is at."""
        deadline = time.monotonic() + within(wait_seconds_max)
        while True:
            found, failure = None, None
            try:
                with self._reading() as connection:
                    found = self._found(connection)
            except StoreFailed as error:
                failure = told(error)
            position = self._checked(found).position if found is not None else 0
            if found is not None and position >= since:
                return Position(position)
            failure = self.worker.failure or failure
            facts = {"projection": self.name, "position": position, "lag": self._log.head - position}
            if self._stuck_at is not None and self._stuck_at <= since and failure is not None:
                raise Stuck(failure, **facts)
            if time.monotonic() >= deadline:
                why = f": {failure}" if failure is not None else ""
                raise Late(f"`{self.name}` is at position {position}, and not at {since} within {wait_seconds_max:.3g} s{why}", **facts)
            with self._moved:
                self._moved.wait(min(POLL_SECONDS, max(0.0, deadline - time.monotonic())))

    def statistics(self) -> dict[str, Any]:
        """Return how far it has come, by whichever process, and what keeps it from going on."""
        mine = self._leases.epoch(self.worker.name) is not None and self._at.owner != NOBODY
        at, failure = self._at, self.worker.failure
        if not mine:
            try:
                with self._reading() as connection:
                    at = self._found(connection) or at
            except StoreFailed as error:
                failure = failure or told(error)
        lag = max(0, self._log.head - at.position)
        return {"projection": self.name, "position": at.position, "lag": lag, "mine": mine, "failure": failure}

    def again(self, empty: Callable[[sql.Connection], object]) -> None:
        """Have all be written anew from the beginning: the checkpoint is set back in the transaction in which a function empties the tables."""
        start = self._start()._replace(owner=NOBODY)
        with self._writing() as connection:
            if self._found(connection) is None:
                connection.execute(CHECKPOINT.insert().values(name=self.name, **start._asdict()))
            else:
                connection.execute(self._of_own(CHECKPOINT.update()).values(**start._asdict()))
            with self._guarded(connection) as check:
                empty(connection)
                check()
        self._looked = 0.0

    def close(self) -> None:
        """Give the connections back that are ours."""
        if self._owns:
            self._engine.dispose()

    # --- at work

    def _begin(self, epoch: int) -> None:
        """Claim the checkpoint for an epoch, so that who had it before can't write any more; go on from there."""
        self._at = self._at._replace(owner=NOBODY)
        if self._leases.holder(self.worker.name) != self._leases.owner:
            raise StoreFailed(f"the projection `{self.name}` is another process's by now", projection=self.name)
        self._log.names.learn(self._log.engine.notes)  # others have come here: what names they met is not known to this process
        start = self._start()._replace(owner=epoch)
        with self._writing() as connection:
            found = self._found(connection)
            if found is None:
                connection.execute(CHECKPOINT.insert().values(name=self.name, **start._asdict()))
                found = start
            found = self._checked(found)._replace(owner=epoch, epoch=self._log.identity.epoch)
            same = (OF.position == found.position, OF.digest == found.digest)
            done = connection.execute(self._of_own(CHECKPOINT.update()).where(*same).values(owner=epoch, epoch=found.epoch))
            if done.rowcount != 1:
                raise self._lost()
        self._at = found
        self._looked = time.monotonic()

    def _step(self) -> None:
        at = self._at
        head = self._log.wait(at.position, IDLE_SECONDS)
        if head <= at.position:
            self._stuck_at = None
            self._look()
            return
        wanted = self._log.far_behind(at.position, head, self.projection.events)
        last = self._log.row_at(head) if wanted is not None else None
        rows = next(iter(self._log.engine.read(at.position, head, wanted=wanted, rows_max=PAGE_ROWS)), None)
        self._checked(at)  # after the page was read: a database may be replaced by an older copy while it is followed
        if rows:
            self._take(rows)
        elif last is not None:
            self._commit([], last)
        self._stuck_at = None

    def _look(self) -> None:
        """Begin anew where the checkpoint was set back."""
        if time.monotonic() < self._looked + LOOK_SECONDS:
            return
        with self._reading() as connection:
            found = self._found(connection)
        if found != self._at:
            self._begin(self._at.owner)
        self._looked = time.monotonic()

    def _take(self, rows: Sequence[Row]) -> None:
        """Write a page; where the function raises, what lies before that event, and then say so."""
        heard = list(self._heard(rows))
        try:
            self._commit(heard, rows[-1])
        except Failed as failed:
            before = [row for row in rows if row.last < failed.heard.position]
            if before:
                self._commit([one for one in heard if one.position <= before[-1].last], before[-1])
                return
            self._stuck_at = failed.heard.position
            what = type(failed.heard.event).__name__
            text = f"`{self.name}` can't get past position {failed.heard.position}, `{what}`: {_said(failed.__cause__)}"
            raise Stuck(text, projection=self.name, position=failed.heard.position) from failed.__cause__

    def _heard(self, rows: Sequence[Row]) -> Generator[Heard]:
        self._log.reader.learn(rows)  # names that the next page has
        pages = self._log.reader.pages(self.projection.events)(rows)
        for row, records in zip(rows, pages, strict=True):
            header = None
            for ordinal, record in enumerate(records, row.input is not None):
                position = row.position + ordinal
                if record.body is None or position <= self.projection.since:
                    continue
                header = header or decode_header(row.head)
                recorded = envelope_of(row, header, ordinal, record.extra)
                for event in events_of(record.body):
                    yield Heard(position, event, recorded)

    def _commit(self, heard: Sequence[Heard], last: Row) -> None:
        """Write what these events come to, and the checkpoint, in one transaction. It is locked first: nobody else has written since."""
        before = self._at
        after = before._replace(position=last.last, digest=last.digest.hex())
        own = (OF.position == before.position, OF.digest == before.digest, OF.owner == before.owner, OF.log == before.log)
        with self._writing() as connection:
            if connection.execute(self._of_own(CHECKPOINT.update()).where(*own).values(owner=before.owner)).rowcount != 1:
                raise self._lost()
            with self._guarded(connection) as check:
                for one in heard:
                    self._call(connection, one, check)
            connection.execute(self._of_own(CHECKPOINT.update()).values(position=after.position, digest=after.digest))
        self._at = after
        with self._moved:
            self._moved.notify_all()

    def _call(self, connection: sql.Connection, heard: Heard, check: Callable[[], None]) -> None:
        try:
            self.projection.function(heard.event, *(heard.recorded if asks else connection for asks in self.projection.asks))
            check()
        except Exception as error:
            if isinstance(error, DBAPIError) and _passes(error):
                raise
            raise Failed(heard) from error

    def _lost(self) -> Error:
        return StoreFailed(f"the projection `{self.name}` is another process's by now, or was set back", projection=self.name)

    # --- the checkpoint

    def _of_own(self, statement: Any) -> Any:  # Any: an update or a select
        return statement.where(OF.name == self.name)

    def _found(self, connection: sql.Connection) -> Checkpoint | None:
        if not self._made:
            self._made = sql.inspect(connection).has_table(CHECKPOINT.name)
        if not self._made:
            return None
        found = connection.execute(self._of_own(sql.select(OF.log, OF.epoch, OF.position, OF.digest, OF.owner))).fetchone()
        return Checkpoint(*found) if found is not None else None

    def _checked(self, found: Checkpoint) -> Checkpoint:
        """Hold a checkpoint against the log."""
        identity = self._log.identity
        row = self._log.row_at(found.position) if found.position else None
        there = row.digest.hex() if row is not None and row.last == found.position else None
        same = found.log == identity.id and found.epoch <= identity.epoch and identity.has(found.epoch, found.position)
        if not same or (found.position and there != found.digest):
            asked = " Is it another app's, which writes here, too? Name one of both functions otherwise: `@named`."
            other = asked if found.log != identity.id else ""
            raise Diverged(
                f"the projection `{self.name}` was written from another history: its checkpoint is position {found.position} of log {found.log}.{other} "
                "Was an older log put in place? Restore the right one, or write all anew: running.reproject(...)",
                projection=self.name,
                position=found.position,
                log=found.log,
            )
        return found

    def _start(self) -> Checkpoint:
        """Return where it begins: at the last whole row up to `since`."""
        row = self._log.row_at(min(self.projection.since, self._log.head)) if self.projection.since else None
        if row is not None and row.last > self.projection.since:
            row = self._log.row_at(row.position - 1) if row.position > 1 else None
        identity = self._log.identity
        position, digest = (row.last, row.digest.hex()) if row is not None else (0, NOTHING)
        return Checkpoint(identity.id, identity.epoch, position, digest, NOBODY)

    # --- the database

    @contextmanager
    def _reading(self) -> Generator[sql.Connection]:
        """Connect. `StoreFailed` where the database is not there."""
        try:
            with self._engine.connect() as connection:
                yield connection
        except SQLAlchemyError as error:
            raise StoreFailed(f"the database of `{self.name}`: {_said(error)}", projection=self.name) from error

    @contextmanager
    def _writing(self) -> Generator[sql.Connection]:
        """Connect, and write all or nothing."""
        with self._reading() as connection:
            if connection.dialect.name == "postgresql":
                connection.execute(sql.text(f"set local idle_in_transaction_session_timeout = '{STALLED}'"))
            if not self._made:
                CHECKPOINT.create(connection, checkfirst=True)
                connection.commit()
            yield connection
            connection.commit()

    @contextmanager
    def _guarded(self, connection: sql.Connection) -> Generator[Callable[[], None]]:
        """Let users' functions write in a transaction that they can't end; what is yielded sees that they have not."""
        raw: Any = connection.connection.dbapi_connection
        if getattr(raw, "autocommit", False) is True or getattr(raw, "in_transaction", True) is False:
            raise Invalid(f"the engine of `{self.name}` commits by itself (AUTOCOMMIT): give one that has transactions")
        transaction = connection.get_transaction()

        def refuse(_connection: sql.Connection) -> None:
            raise Invalid("a projection does not commit: what it writes is committed with the checkpoint")

        def check() -> None:
            if transaction is None or connection.get_transaction() is not transaction or not transaction.is_active:
                raise Invalid("a projection does not roll back: raise an error, and nothing of the page is written")

        hooks.listen(connection, "commit", refuse)
        try:
            yield check
        except BaseException:
            if not connection.closed:
                connection.invalidate()  # after a commit that was refused a mere `close` would leave its rows to whoever has the connection next
            raise
        finally:
            hooks.remove(connection, "commit", refuse)


def _passes(error: DBAPIError) -> bool:
    """Say whether trouble is of the database, and may be over at the next try, and not of what is written."""
    code: int = getattr(error.orig, "sqlite_errorcode", 0) & 0xFF
    beyond = (getattr(error.orig, "sqlstate", None) or "").startswith(BEYOND_LIMITS)
    return error.connection_invalidated or (isinstance(error, OperationalError) and code != 1 and not beyond)


def _said(error: BaseException | None) -> str:
    """Tell an error, without statement and values."""
    inner = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
    return told(inner) if inner is not None else ""
