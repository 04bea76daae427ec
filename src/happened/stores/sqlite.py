"""A log in one SQLite file: WAL, `synchronous=FULL`, the standard library's `sqlite3`.

Table `log` has one row for each command; `note` is small and transactional; `run`, `covered`, `recent`, `block`, `counted`, `shelf` and `sample` are the
shelf: they can be dropped without loss. The SQL view `record` unfolds the rows, so that anyone can look with plain `sqlite3` (filter it by `row` where speed matters).

One connection writes, under a lock of this process and SQLite's own; readers take one from a pool, for a page at a time, and never wait. The WAL is grown
ahead of the writer and kept, since growing a file costs a sync twice, and a checkpoint runs in a thread of its own, outside of any commit.
"""

import contextlib
import functools
import operator
import os
import sqlite3
import threading
import time
import zlib
from bisect import bisect_right
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar  # Any: rows of the columns that were asked for

from happened.core.errors import Broken, Closed, Diverged, Error, Forked, Incompatible, Invalid, OutcomeUnknown, Overloaded, StoreFailed
from happened.core.store import LOG_WORK, START, Bare, Commit, Head, Parts, Row, Terms, Unseen, Wanted
from happened.stores import cold, runs
from happened.stores.cold import ASKED, BARE, COUNTED, HEADED, WHOLE, Cold, Columns, last_position, one_moment, roll_back
from happened.stores.looking import Looking
from happened.stores.packing import INCREMENTAL, Packing, Statement
from happened.stores.pages import Connect, Pages, out_of_order
from happened.stores.samples import Samples
from happened.stores.shelving import keys_between, merged, next_row_first, reading_in, reading_text

A = TypeVar("A")

INSERT_MANY = 64
"""Rows that one statement inserts where there are many: Python's lock is let go once instead of at each row, and a busy thread keeps it for 5 ms each time."""
INSERTS = {
    many: "insert into log(position, count, at, head, records, salts, digest, input) values"
    + ", ".join(["(?, ?, ?, ?, ?, ?, ?, ?)"] * many)
    for many in (1, 2, 4, 8, 16, 32, INSERT_MANY)
}

RECORD_VIEW = """create view record as
    with part(row, at, head, decided, asked, ordinal, record) as (
        select position, at, head, head ->> '$.d', 1, 0, input from log where input is not null
        union all
        select position, at, log.head, log.head ->> '$.d', input is not null and 0, each.key + (input is not null), each.value
        from log, json_each(log.records) as each)
    select part.row + ordinal as position, part.row as row,
        case when record ->> 0 in (0, 1, 2, 6) then 'system' when record ->> 0 = 4 then 'answer' when record ->> 0 in (3, 5, 7) then 'output'
             when name.body ->> 'what' in ('notification', 'share', 'beacon') then 'output'
             when asked or (decided is null and not exists(select 1 from log where log.position = part.row and input is not null)) then 'input'
             else 'internal' end as kind,
        coalesce(name.body ->> 'name',
            case record ->> 0 when 0 then 'schema' when 1 then 'topology' when 2 then 'epoch' when 3 then 'refusal' when 4 then 'answer'
            when 5 then 'schedule' when 6 then 'erasure' when 7 then 'nothing' end) as name,
        coalesce(name.body ->> 'version', 1) as version, record -> 1 as body,
        coalesce(record ->> '$[2].i', case when ordinal = 0 and part.head ->> '$.i' is not null then part.head ->> '$.i'
            else coalesce(part.head ->> '$.i', decided, part.row) || '#' || (ordinal + (decided is not null)) end) as id,
        strftime('%Y-%m-%dT%H:%M:%f', at / 1000000.0, 'unixepoch') as recorded,
        part.head ->> '$.c' as causation, coalesce(part.head ->> '$.g', part.head ->> '$.i', decided) as correlation,
        coalesce(part.head ->> '$.a', '') as actor, handler.body ->> 'name' as handler
    from part left join note as name on name.key = 'name/' || (record ->> 0)
    left join note as handler on handler.key = 'name/' || (part.head ->> '$.h')
    union all
    select first, first, 'cold', 'packed records', 1,
        json_object('first', first, 'last', last, 'see', 'they are packed: `happened tail` and `show` read them, `happened unpack` puts them back'),
        null, null, null, null, null, null
    from (select min(first) as first, max(last) as last from segment) where last is not null"""

DDL = (
    """create table if not exists log(
    position integer primary key,
    count    integer not null,
    at       integer not null,
    head     text not null,
    input    text,
    records  text not null,
    salts    blob not null,
    digest   blob not null)""",
    "create table if not exists note(key text primary key, body text not null) without rowid",
    RECORD_VIEW.replace("view", "view if not exists", 1),
    cold.DDL,
    *runs.DDL,
    (
        "create table if not exists sample(handler text not null, outcome text not null, count integer not null, ran integer not null, "
        "what text not null, primary key(handler, outcome)) without rowid"
    ),
)

TABLES = ("log", "note", "sample", *runs.TABLES)

VERSION_MIN = (3, 38)
"""The first that knows `->>`, which the view `record` is written with: an older one takes the file for a damaged one."""

NOT_WRITABLE = (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM)
"""Numbers of errors that an administrator mends, not a larger disk."""
MANGLED = (AttributeError, TypeError, ValueError, LookupError, ArithmeticError, MemoryError, zlib.error)
"""What reading numbers and bytes raises that are not what was written."""
BUSY_SECONDS = 0.0005
"""How long to sleep before asking for another process's lock again: a commit here takes 0.2 to 2 ms."""
POLL_SECONDS = 0.005
"""How often one of those who wait looks for commits of other processes."""
PAGE_BYTES = 4096
CHECKPOINT = f"{LOG_WORK}checkpoint"
"""Under which name checkpoints are counted that failed."""
CHECKPOINT_PAGES = 4_000
"""A checkpoint starts when the WAL has about so many pages (16 MB). What comes while it runs is written in a commit, which waits for it: with three times
as many pages that took three times as long, and nothing else was faster."""
PAGE_SECONDS = 0.00001
"""What a page costs in a commit beside the sync itself: measured 8 to 12 µs."""
GROW_BYTES = 4 * 1024 * 1024
WAL_BYTES_MAX = 64 * 1024 * 1024
GROW_FROM_PAGES = 400
"""A WAL is grown ahead only once a log is busy: a script of forty lines leaves no large file behind."""
SCRUB_SECONDS_MAX = 10.0
"""How long to wait for those who read, so that nothing that was erased stays in the WAL."""
CLOSE_SECONDS_MAX = 10.0
OPEN_SECONDS_MAX = 10.0
"""How long who opens a file waits for whoever holds all of it, as who makes it does."""
LOCK_SECONDS_MAX = 10.0
"""How long a step of packing waits for others."""
MISSING_SECONDS = 1.0
"""How long who opens a large log without an index waits to write it: longer than a commit, shorter than another one takes to do the same."""
SETTLE_SECONDS = 5.0
"""How long to try to learn the outcome of a commit that failed."""


def check_version() -> None:
    """Raise `Invalid` where the SQLite of this Python is older than what is kept in files needs."""
    if sqlite3.sqlite_version_info < VERSION_MIN:
        least = ".".join(map(str, VERSION_MIN))
        raise Invalid(
            f"the SQLite of this Python is {sqlite3.sqlite_version}, and {least} or newer is needed: take a Python that is built with a newer one, "
            "or keep the log and the views in PostgreSQL",
            found=sqlite3.sqlite_version,
            needed=least,
        )


def connect(path: str) -> sqlite3.Connection:
    """Open a file as the store wants it: no implicit transactions, no waiting inside SQLite."""
    check_version()
    return sqlite3.connect(path, timeout=0, isolation_level=None, check_same_thread=False, cached_statements=64)


def connect_to_read(path: str) -> sqlite3.Connection:
    """Open a file that is another's, to read only: a store on it can do nothing else."""
    check_version()
    uri = f"{Path(path).absolute().as_uri()}?mode=ro"
    return sqlite3.connect(uri, uri=True, timeout=0, isolation_level=None, check_same_thread=False, cached_statements=64)


def note_in(path: str, key: str) -> str | None:
    """Return a note of a file that is another's; `None` where it has none, or is no log now."""
    try:
        with contextlib.closing(connect_to_read(path)) as reader:
            return _noted(reader, key, None).get(key)
    except (sqlite3.Error, StoreFailed, Broken):  # whoever opens it to read says what is wrong
        return None


def is_open_elsewhere(path: str) -> bool:
    """Say whether any connection, of this process or another, has a file open: SQLite gives nobody a file for himself then."""
    connection = connect(path)
    try:
        connection.execute("pragma locking_mode=exclusive")
        connection.execute("begin exclusive")
        connection.execute("rollback")
    except sqlite3.OperationalError as error:
        if not _is_busy(error):
            raise _failed(error) from error
        return True
    except sqlite3.DatabaseError as error:
        raise Broken(f"{path} is no SQLite file, or a damaged one: {error}", path=path) from error
    finally:
        connection.close()
    return False


def drop_index_of(path: str) -> None:
    """Drop the index of a file, whatever is in it. Who has the file open takes it in anew."""
    with contextlib.closing(connect(path)) as connection:
        try:
            connection.execute("begin immediate")
            there = {name for (name,) in connection.execute("select name from sqlite_master where type = 'table'")}
            if "log" not in there:
                raise Invalid(f"{path} is no log", path=path)
            runs.drop(connection, there)
            connection.execute("commit")
        except sqlite3.Error as error:
            raise _failed(error) from error


def bytes_of(path: str) -> int:
    """Return what a log's file takes, with its write-ahead log; 0 where there is none."""
    return sum([file.stat().st_size for file in (Path(path), Path(f"{path}-wal")) if file.is_file()])


class SqliteStore:
    """Keeps one log in one SQLite file. Several processes may open the same file; each opens it after its fork."""

    def __init__(self, path: str, *, connect: Connect = connect) -> None:
        if not path:
            raise Invalid("a SQLite log needs a path: sqlite:///shop.db")
        if not Path(path).absolute().parent.is_dir():
            raise Invalid(f"there is no folder {Path(path).absolute().parent} to open {path} in", path=path)
        self.path = path
        self._connect = connect
        self._reads_only = connect is connect_to_read
        self._pid = os.getpid()
        self._lock = threading.RLock()
        """Of a kind that only its holder can release."""
        self._index_lock = threading.RLock()
        self._grown = threading.Condition()
        self._closed = False
        self._cold = Cold(path)
        self._rows = Pages(path, connect, self._cold, self._check_usable)
        self._runs = runs.Runs()
        self._terms_of: Callable[[Row], Terms] | None = None
        self._reading: dict[int, str] = {}
        self._reading_stored: dict[int, str] = {}
        self._reading_is_stored = False
        """Whoever opens the log next sees how this process reads it."""
        self._guest = False
        self._strange = False
        """A guest who reads tags otherwise than the index: he looks up no terms in it, and writes none."""
        self._generation = ""
        """Which making of the index this is: a new one has other runs under the old names."""
        self._samples = Samples()
        self._shown: dict[tuple[str, str], tuple[int, int, str]] = {}
        """Counts that the open transaction writes: given back where it fails."""
        self._owner = 0
        """The thread that holds the lock, while it decides."""
        self._file = (0, 0)
        """Device and number of the file that is open, to notice when another is put in its place."""
        self._changes = -1
        """What `data_version` was when the head was last looked for."""
        self._reopened = False
        """The connection is another one since then."""
        self._index_unsure = True
        """Others have written since it was looked, under the lock, whether the index is still the same."""
        self._others_write = False
        """Other processes have written between the last two commits of this one."""
        self._head = START
        self._head_row = 0
        self._last_seen = 0
        self._looking = Looking(self._last_position, lambda: self._last_seen, self._grown, POLL_SECONDS)
        self.sync_seconds = 0.0
        self._pages = 0
        self._wal_bytes = 0
        self._checkpoint_due = threading.Event()
        self._rest_due = False
        self._checkpointer: threading.Thread | None = None
        self._writer = self._open()

    # --- the seam

    def append(self, decide: Callable[[Unseen], Commit], seen: int, *, wait_seconds_max: float = 10.0) -> Head:
        """Take the lock, hand over what is unseen, store what comes back, sync."""
        deadline = time.monotonic() + wait_seconds_max
        if self._others_write and seen <= self._head.position:
            self._index_ahead()
        try:
            if not self._lock.acquire(timeout=max(wait_seconds_max, 0.0)):
                raise Overloaded(
                    f"the log's lock was not free within {wait_seconds_max:g} s; nothing was recorded", wait_seconds=wait_seconds_max
                )
            if self._closed or self._pid != os.getpid():
                self._check_usable()
            try:
                self._begin(deadline)
                unseen = self._unseen(seen)
                self._owner = threading.get_ident()
                try:
                    commit = decide(Unseen(unseen, self._head, functools.partial(_noted, self._writer)))
                finally:
                    self._owner = 0
                if not commit.rows and not commit.notes and not commit.instead:
                    self._writer.execute("rollback")
                    return self._head
                pages = self._pages
                flushed = self._write(commit)
            except sqlite3.Error as error:
                self._rolled_back()
                raise _failed(error) from error
            except BaseException:
                self._rolled_back()
                raise
            changes, self._changes = self._changes, -1  # until the commit is known here, the next one looks again
            try:
                head = self._commit(commit, self._pages - pages)
                self._settled(commit, flushed, head)
            except BaseException:
                self._rolled_back()  # nothing is left to do where it was committed
                raise
            if not self._reopened:
                self._changes = changes
            self._reopened = False
        finally:  # an interrupt may come as soon as it is acquired
            try:  # noqa: SIM105 - no function is called on this way
                self._lock.release()
            except RuntimeError:  # it was not acquired
                pass
        if commit.rows and self._looking.asked:
            self._looking.found(head.position, head.position)
        return head

    def read(
        self,
        after: int = 0,
        until: int | None = None,
        *,
        wanted: Sequence[Wanted] | None = None,
        backwards: bool = False,
        rows_max: int = 1000,
    ) -> Iterator[Sequence[Row]]:
        """Yield pages of rows."""

        def pages(after: int) -> Iterator[Sequence[Row]]:
            for page in self._read_pages(WHOLE, after, until, wanted, backwards=backwards, rows_max=rows_max):
                yield [Row(*found) for found in page]

        if rows_max == 1 and wanted is None and not backwards:
            return next_row_first(self._rows.row_holding, pages, after, until)
        return pages(after)

    def read_bare(
        self,
        after: int = 0,
        until: int | None = None,
        *,
        wanted: Sequence[Wanted] | None = None,
        rows_max: int = 1000,
        heads: bool = False,
        inputs: bool = False,
    ) -> Iterator[Sequence[Bare]]:
        """Yield pages of what a fold needs of rows."""
        return self._read_pages(ASKED if inputs else HEADED if heads else BARE, after, until, wanted, backwards=False, rows_max=rows_max)

    def notes(self, start: str, before: str | None = None) -> Mapping[str, str]:
        """Return the durable notes whose key starts with a text."""
        with self._rows.reader() as reader:
            return _noted(reader, start, before)

    def wait(self, after: int, wait_seconds_max: float) -> int:
        """Wait until something lies after this position."""
        self._check_usable()
        if wait_seconds_max <= 0:
            return self._last_position()
        return self._looking.wait(after, wait_seconds_max, lambda: self._closed)

    def _last_position(self) -> int:
        with self._rows.reader() as reader:
            return last_position(reader)

    def scrub(self, progress: Callable[[int, int], None]) -> bool:
        """Make the index anew, write the file anew without what was deleted in it, and empty the WAL."""
        if self._terms_of is not None and not self._strange:
            self._rebuild(progress)
        deadline = time.monotonic() + SCRUB_SECONDS_MAX
        with self._lock:
            self._check_usable()
            self._changes = -1
            try:
                self._until_free(lambda: self._writer.execute("vacuum"), deadline)
                self._writer.execute("pragma secure_delete=off")
                while True:
                    [(busy, _, _)] = self._writer.execute("pragma wal_checkpoint(truncate)")
                    if not busy or time.monotonic() > deadline:
                        break
                    time.sleep(BUSY_SECONDS)
            except Overloaded:
                return False
            except sqlite3.Error as error:
                raise _failed(error) from error
            self._pages = self._wal_bytes = 0
        return not busy

    def is_there(self) -> bool:
        """Say whether the file that was opened is still the one at its path."""
        return not self._closed and _file_at(self.path) == self._file

    def close(self) -> None:
        """Write the index's tail and the samples, let the WAL be taken into the file, close all connections."""
        if self._pid != os.getpid() or not self._lock.acquire(timeout=CLOSE_SECONDS_MAX):
            # After a fork, or beside a decider that does not end: what is open is left to the process's end, or to another call.
            self._closed = self._rows.closed = True
            return
        try:
            if not self._closed:
                self._flush_all()
        finally:
            self._closed = self._rows.closed = True
            self._checkpoint_due.set()
            self._lock.release()
        with self._grown:
            self._grown.notify_all()
        checkpointer = self._checkpointer
        if checkpointer is not None:
            checkpointer.join()
        self._rows.drop()
        self._writer.close()

    # --- the shelf

    def index(
        self, reading: Mapping[int, str], terms_of: Callable[[Row], Terms], progress: Callable[[int, int], None], *, guest: bool = False
    ) -> bool:
        """Use the index where it was made by the same reading, else make it anew; a guest does without it."""
        with self._index_lock:
            self._terms_of = terms_of
            self._reading = dict(reading)
            self._reading_is_stored = False
            self._guest = guest
            if self._runs.indexed == 0:
                with self._rows.reader() as reader, one_moment(reader):
                    self._load_index(reader)
            differs = bool(self._clashes(self._reading_stored))
            self._strange = guest and (self._strange or differs)
        if differs and not guest:
            self._rebuild(progress)
        elif not guest and not self._reads_only and self._runs.indexed == 0 and self._last_position() > runs.RECENT_RECORDS_MAX:
            with contextlib.suppress(
                Overloaded, sqlite3.OperationalError
            ):  # another process makes it, or this one may not write: it is made in memory
                self._rebuild(progress, missing=True)
        with self._rows.reader() as reader, self._index_lock:
            while self._index_next(reader):
                progress(self._runs.indexed, last_position(reader))
        return not self._strange

    def found_by(self, reading: Mapping[int, str], _terms_of: Callable[[Row], Terms], /) -> bool:
        """Say whether the index was made by this reading."""
        return all(self._reading_stored.get(name, how) == how for name, how in reading.items())

    def find_id(self, id: str) -> Sequence[int]:
        """Return the positions of the rows that may use this id. Called under the lock, it sees what `append` has handed over."""
        with self._index_as_of_now() as connection, self._index_read():
            return self._runs.find(connection, runs.IDS, id)

    def find_ids(self, ids: Sequence[str]) -> frozenset[str]:
        """Return those of these ids that some row may use."""
        with self._index_as_of_now() as connection, self._index_read():
            return self._runs.among(connection, runs.IDS, ids)

    def inspect(self) -> None:
        """Read all of the index from the disk. `Broken` where something of it is not as it was written."""
        for part in range(runs.PARTS):
            with self._index_as_of_now() as connection, self._index_read():
                self._runs.inspect(connection, part)
            time.sleep(BUSY_SECONDS)  # others use it between two parts: who takes a lock again at once keeps it from them

    @contextlib.contextmanager
    def _index_as_of_now(self) -> Generator[sqlite3.Connection]:
        """Have the index up to the head, or under the lock up to what `append` has handed over, with the connection to read its runs on."""
        with self._index_lock:
            if self._owner == threading.get_ident():
                try:
                    if self._index_unsure:
                        self._index_up_to_here()
                    yield self._writer
                except sqlite3.Error as error:
                    raise _failed(error) from error
                return
            with self._rows.reader() as reader, one_moment(reader):  # else it may be made anew between two looks
                self._look_for_rebuild(reader)
                self._catch_up_index(reader)
                yield reader

    def counted(self, after: int, until: int | None, counts_of: Callable[[Row], Sequence[tuple[str, int]]]) -> Mapping[str, int]:
        """Add up what rows count, by blocks; what begins in a block of which only a part is asked for is looked at row by row."""
        with self._rows.reader() as reader, one_moment(reader):
            with self._index_lock:
                self._look_for_rebuild(reader)
                self._catch_up_index(reader)
                known = self._runs.counts.here()

            def rows(first: int, last: int) -> Iterator[dict[str, int]]:
                for found in self._cold.rows_between(reader, COUNTED, first, last):
                    yield dict(counts_of(Row(*found)))

            first = self._cold.behind(reader, min(after, runs.POSITION)) + 1
            last = known.counted if until is None else self._cold.behind(reader, min(until, runs.POSITION))
            return known.between(reader, first, last, rows)

    def sample(self, handler: str, outcome: str, ran_us: int, what: str) -> None:
        """Count an execution that committed nothing; written with a commit some moments later, and at close."""
        self._samples.add(handler, outcome, ran_us, what)

    def samples(self) -> Sequence[tuple[str, str, int, int, str]]:
        """Return what was counted, of all processes that have flushed, and this one."""
        with self._rows.reader() as reader:
            counted = {
                (handler, outcome): (count, ran, what) for handler, outcome, count, ran, what in reader.execute("select * from sample")
            }
        for handler, outcome, count, ran, what in self._samples.all():
            before = counted.get((handler, outcome), (0, 0, ""))
            counted[handler, outcome] = (before[0] + count, before[1] + ran, what)
        return [(*key, *values) for key, values in counted.items()]

    # --- the cold part

    def compact(
        self, until: int, progress: Callable[[int, int], None], *, notes: Mapping[str, str] | None = None, rewrite: bool = False
    ) -> None:
        """Pack the rows that end at or before a position into segments; `rewrite` the file first where it can't give back what becomes free."""
        first_time: list[Statement] = [("drop view if exists record", ()), (RECORD_VIEW, ())]
        first_time += [("insert or replace into note(key, body) values(?, ?)", note) for note in (notes or {}).items()]
        with self._packing() as packing:
            if rewrite and not self.parts().gives_back:
                packing.vacuum()
            packing.pack(until, first_time, progress)

    def unpack(self, after: int, progress: Callable[[int, int], None], *, notes: Sequence[str] = ()) -> None:
        """Put the rows that lie after a position back into their table, and those that are packed with them."""
        with self._packing() as packing:
            packing.unpack(after, [("delete from note where key = ?", (note,)) for note in notes], progress)

    def cold_until(self) -> int:
        """Return the last position of the cold part."""
        with self._rows.reader() as reader:
            return self._cold.until(reader)

    def parts(self) -> Parts:
        """Return how much of the log is packed, and what it takes."""
        with self._rows.reader() as reader, one_moment(reader):
            until = self._cold.until(reader)
            count, rows, size = 0, 0, 0
            if until:
                [(count, rows, size)] = reader.execute("select count(*), sum(rows), sum(length(body)) from segment")
            [(hot,)] = reader.execute("select count(*) from log")
            [(free,)], [(page,)], [(mode,)] = [reader.execute(f"pragma {name}") for name in ("freelist_count", "page_size", "auto_vacuum")]
            return Parts(until, rows, size, count, hot, free * page, mode == INCREMENTAL, bytes_of(self.path))

    @contextlib.contextmanager
    def _packing(self) -> Generator[Packing]:
        self._check_usable()
        try:
            connection = self._connect(self.path)
        except sqlite3.Error as error:
            raise _failed(error) from error
        try:
            yield Packing(
                connection, self._cold, lambda attempt: self._until_free(attempt, _soon()), lambda: self._checkpointed(connection)
            )
        except sqlite3.Error as error:
            raise _failed(error) from error
        finally:
            connection.close()

    # --- writing

    def _open(self) -> sqlite3.Connection:
        try:
            connection = self._connect(self.path)
            try:
                self._set_up(connection)
            except BaseException:
                connection.close()
                raise
        except (sqlite3.DatabaseError, *MANGLED) as error:
            raise self._unopened(error) from error
        return connection

    def _set_up(self, connection: sqlite3.Connection) -> None:
        deadline = time.monotonic() + OPEN_SECONDS_MAX
        self._until_free(lambda: self._check_own(connection), deadline)
        self._until_free(lambda: connection.execute("pragma journal_mode=wal").fetchall(), deadline)
        connection.execute("pragma synchronous=full")
        connection.execute("pragma wal_autocheckpoint=0")
        tables = self._until_free(lambda: connection.execute("select name from sqlite_master where type = 'table'").fetchall(), deadline)
        there = {name for (name,) in tables}
        new_here = set(TABLES) - there
        if new_here and not (self._reads_only and new_here <= runs.LATER):  # new, or without what can be made anew
            self._until_free(lambda: connection.execute("begin immediate"), deadline)
            for statement in DDL:
                connection.execute(statement)
            connection.execute("commit")
        self._file = _file_at(self.path)
        latest = "select position, count, at, digest from log order by position desc limit 1"
        last = self._until_free(lambda: connection.execute(latest).fetchone(), deadline)
        if last is not None and not self._head_row:  # without the lock: who only reads takes none
            self._head, self._head_row = Head(last[0] + last[1] - 1, last[2], last[3]), last[0]

    def _unopened(self, error: Exception) -> Invalid | Broken:
        """Return what it means that the file could not be opened: also where SQLite's own text of what is wrong names a thing that is no text any more."""
        if isinstance(error, sqlite3.DatabaseError) and _code(error) in NOT_WRITABLE:
            return Invalid(
                f"{self.path} can't be opened as a log: its folder is not there, or this user can't write it or the file ({error})",
                path=self.path,
            )
        if isinstance(error, sqlite3.OperationalError):
            return Invalid(f"{self.path} can't be opened as a log: {error}", path=self.path)
        if isinstance(error, sqlite3.DatabaseError):
            return Broken(f"{self.path} is no SQLite file, or a damaged one: {error}", path=self.path)
        return Broken(f"{self.path} is damaged: {error}", path=self.path)

    def _check_own(self, connection: sqlite3.Connection) -> None:
        """Raise `Invalid` for another program's file, before anything is changed in it. A new one is made so that packing can shorten it."""
        tables = [name for (name,) in connection.execute("select name from sqlite_master where type = 'table' order by name")]
        if not tables:  # only a file that is still to be made takes it; in another it would take the lock
            connection.execute("pragma auto_vacuum=incremental")
        columns = tuple(name for _, name, *_ in connection.execute("pragma table_info(log)"))
        if tables and columns != Row.__struct_fields__:
            raise Invalid(
                f"{self.path} is no log but a SQLite file of something else, with the tables {', '.join(tables)}: a log has a file of its own",
                path=self.path,
            )

    def _until_free(self, attempt: Callable[[], A], deadline: float) -> A:
        while True:
            try:
                return attempt()
            except sqlite3.OperationalError as error:
                if not _is_busy(error):
                    raise
                if time.monotonic() > deadline:
                    raise Overloaded("another process holds the log's lock; nothing was recorded", path=self.path) from error
                time.sleep(BUSY_SECONDS)

    def _check_usable(self) -> None:
        if self._pid != os.getpid():
            raise Forked("this log was opened before a fork: open it in the child process", path=self.path)
        if self._closed:
            raise Closed("the log is closed", path=self.path)

    def _begin(self, deadline: float) -> None:
        try:
            self._writer.execute("begin immediate")
        except sqlite3.OperationalError as error:
            if not _is_busy(error):
                raise
            self._until_free(lambda: self._writer.execute("begin immediate"), deadline)

    def _unseen(self, seen: int) -> Sequence[Row]:
        """Return the rows after a position, and learn where the log stands. The last row this process knows must still be there, unchanged."""
        if _file_at(self.path) != self._file:
            raise Diverged(f"{self.path} is not the file that was opened: it was moved, deleted, or replaced", path=self.path)
        [(changes,)] = self._writer.execute("pragma data_version")
        if changes == self._changes and seen >= self._head.position and self._runs.indexed >= self._head.position:
            return ()  # no other connection has committed since
        last = "select position, count, at, digest from log order by position desc limit 1"
        found: tuple[int, int, int, bytes] | None = self._writer.execute(last).fetchone()
        if self._head_row and found is not None and found[0] != self._head_row:
            there = self._cold.digest_at(self._writer, self._head_row)
        else:
            there = found[3] if found is not None else None
        if self._head_row and there != self._head.digest:
            raise Diverged(
                f"the log no longer has what it had at position {self._head.position}: another file was put in its place",
                path=self.path,
                position=self._head.position,
            )
        if found is not None:
            position, count, at, digest = found
            self._others_write = position != self._head_row
            self._head, self._head_row = Head(position + count - 1, at, digest), position
        self._changes = changes
        self._index_unsure = True
        if seen > self._head.position:  # whoever asks for no rows, to change a note, does not wait for the index under the lock
            return ()
        if seen >= self._head.position and self._runs.indexed >= self._head.position:
            return ()
        rows = [Row(*row) for row in self._cold.rows_between(self._writer, WHOLE, seen + 1, runs.POSITION)]
        self._index_up_to_here()
        return rows

    def _index_ahead(self) -> None:
        """Find what other processes have written before the lock is taken, where they write: under it everybody waits."""
        with self._rows.reader() as reader, self._index_lock, one_moment(reader):
            self._look_for_rebuild(reader)
            self._catch_up_index(reader)

    def _index_up_to_here(self) -> None:
        """Find, under the lock, what other processes have written."""
        with self._index_lock:
            self._look_for_rebuild(self._writer)
            self._catch_up_index(self._writer)
            self._index_unsure = False

    def _write(self, commit: Commit) -> runs.Flushed | None:
        writer = self._writer
        samples = self._samples.are_due()
        if samples or self._runs.due():
            with self._index_lock:
                self._look_for_rebuild(writer)  # as in `_flush_all`
        if commit.rows:
            if self._runs.indexed < self._head.position:  # the caller wanted no rows, and adds some
                self._index_up_to_here()
            if commit.rows[-1].last > runs.POSITION:
                raise Invalid(f"a log has at most {runs.POSITION:,} records, and this one is full: go on in a new log", path=self.path)
            _insert(writer, commit.rows)
        for key, body in commit.notes.items():
            if body is None:
                writer.execute("delete from note where key = ?", (key,))
            else:
                writer.execute("insert or replace into note(key, body) values(?, ?)", (key, body))
        flushed = None
        if commit.instead:
            self._replace(commit.instead)
        elif self._runs.due() and self._writes_index(writer):
            with self._index_lock, self._index_read():
                flushed = self._runs.flush_next(writer)
            self._write_reading(writer)
            self._pages += 6
            samples = True
        elif commit.rows and not self._reading_is_stored and self._writes_index(writer):
            self._write_reading(writer)  # not only with the first part of the index: others may read otherwise
            self._pages += 1
        if samples:
            self._write_samples(writer)
            self._pages += 2
        letters = sum(map(len, map(_records_of, commit.rows))) + sum(map(len, filter(None, map(_input_of, commit.rows))))
        written = letters + 256 * len(commit.rows)
        self._pages += 2 + len(commit.notes) + written // 3800
        if self._pages >= GROW_FROM_PAGES:
            self._grow_wal()
        return flushed

    def _replace(self, rows: Sequence[Row]) -> None:
        """Put rows in the place of those at their positions, and drop what was derived from those."""
        writer = self._writer
        writer.execute("pragma secure_delete=on")
        until = self._cold.until(writer)
        packed = [row for row in rows if row.position <= until]
        for row in packed:
            if self._cold.digest_at(writer, row.position) != row.digest:
                raise Diverged(f"there is no such row at position {row.position} any more", path=self.path, position=row.position)
        self._cold.rewrite(writer, packed)
        for row in rows:
            if row.position <= until:
                continue
            changed = writer.execute(
                "update log set input = ?, records = ?, salts = ? where position = ? and digest = ?",
                (row.input, row.records, row.salts, row.position, row.digest),
            ).rowcount
            if changed != 1:
                raise Diverged(f"there is no such row at position {row.position} any more", path=self.path, position=row.position)
        runs.drop(writer)
        writer.execute("update sample set what = ''")
        writer.execute("drop view if exists record")  # it may be of a release that did not know erasures
        for statement in DDL:
            writer.execute(statement)
        self._samples.forget()

    def _commit(self, commit: Commit, pages: int) -> Head:
        started = time.perf_counter()
        try:
            self._writer.execute("commit")
            seconds = time.perf_counter() - started - pages * PAGE_SECONDS
            self.sync_seconds += (max(seconds, 0.0) - self.sync_seconds) / 16
        except sqlite3.Error as error:
            if _is_busy(error) and self._writer.in_transaction:
                self._rolled_back()
                raise _failed(error) from error
            self._settle(commit, error)
        if commit.rows:
            last = commit.rows[-1]
            return Head(last.last, last.at, last.digest)
        return self._head

    def _settled(self, commit: Commit, flushed: runs.Flushed | None, head: Head) -> None:
        if self._shown:
            self._shown.clear()
        if flushed is not None:
            with self._index_lock:
                self._runs.applied(flushed)
        if commit.rows:
            self._head, self._head_row = head, commit.rows[-1].position
            self._last_seen = head.position
        if commit.rows or commit.instead:
            with self._index_lock:
                if commit.instead:
                    self._load_index(self._writer)
                else:
                    self._runs.add(commit.rows, commit.terms)
        try:
            self._maybe_checkpoint()
        except Exception as error:  # noqa: BLE001 - the commit has taken place: a checkpoint comes again
            self._samples.add(CHECKPOINT, "failed", 0, str(error))

    def _rolled_back(self) -> None:
        self._reading_is_stored = False
        for (handler, outcome), (count, ran, what) in self._shown.items():
            self._samples.add(handler, outcome, ran, what, count)
        self._shown.clear()
        with contextlib.suppress(sqlite3.Error):  # SQLite may have rolled back by itself; a broken connection is seen at the next begin
            roll_back(self._writer)

    def _settle(self, commit: Commit, error: sqlite3.Error) -> None:
        """Learn whether a commit that failed took place: returns if it did, raises `error` if not, `OutcomeUnknown` if it can't be learned.

        After a failed sync the frames may lie in the WAL where no connection sees them, and come back after a crash. A checkpoint that succeeds
        and truncates the WAL leaves only what is in the file: then looking tells.
        """
        first = commit.rows[0] if commit.rows else None
        deadline = time.monotonic() + SETTLE_SECONDS
        while True:
            with contextlib.suppress(sqlite3.Error):
                self._writer.close()
            try:
                self._rows.drop()
                self._writer = self._open()
                self._reopened = True
                [(busy, _, _)] = self._writer.execute("pragma wal_checkpoint(truncate)")
                if not busy:
                    if first is not None:
                        found = self._cold.digest_at(self._writer, first.position) == first.digest
                    else:
                        found = all(_noted(self._writer, key).get(key) == body for key, body in commit.notes.items())
                    break
            except (sqlite3.Error, Invalid, Broken, Overloaded):
                pass  # tried again until the deadline, then the outcome is unknown
            if time.monotonic() > deadline:
                self._closed = self._rows.closed = True
                self._writer.close()
                raise OutcomeUnknown(
                    "a commit failed, and whether it took place can't be learned; the log is closed here. Open it again and dispatch the same id",
                    path=self.path,
                ) from error
            time.sleep(0.05)
        self._pages = self._wal_bytes = 0
        if not found:
            raise _failed(error) from error

    # --- the write-ahead log

    def _grow_wal(self) -> None:
        """Write zeros behind the WAL's end, under SQLite's write lock: a sync of a file that doesn't grow is a third faster."""
        if self._wal_bytes >= WAL_BYTES_MAX or (self._pages + 256) * (PAGE_BYTES + 24) < self._wal_bytes:
            return
        try:
            with open(self.path + "-wal", "ab") as wal:  # noqa: PTH123 - Path.open is the same with more steps, on the way of every commit
                self._wal_bytes = wal.tell()
                if self._wal_bytes < WAL_BYTES_MAX and (self._pages + 256) * (PAGE_BYTES + 24) >= self._wal_bytes:
                    wal.write(bytes(GROW_BYTES))
                    self._wal_bytes += GROW_BYTES
        except OSError:
            self._wal_bytes = WAL_BYTES_MAX  # no room ahead: SQLite grows the file as it goes, and says so where it can't

    def _maybe_checkpoint(self) -> None:
        if self._rest_due:
            self._rest_due = False
            busy, pages, done = self._checkpointed(self._writer)
            self._pages = 0 if not busy and pages == done else pages
        elif self._pages > CHECKPOINT_PAGES and not self._checkpoint_due.is_set():
            self._checkpoint_due.set()
            if self._checkpointer is None:
                self._checkpointer = threading.Thread(target=self._checkpoint, name="happened-checkpoint", daemon=True)
                self._checkpointer.start()

    def _ending(self) -> bool:
        return self._closed

    def _checkpoint(self) -> None:
        """Take most of the WAL into the file, beside the writer; the writer takes the few pages that came meanwhile, and begins it anew."""
        try:
            connection = self._connect(self.path)
        except sqlite3.Error as error:
            self._samples.add(CHECKPOINT, "failed", 0, str(error))
            self._checkpointer = None  # the next one that is due begins a new thread
            self._checkpoint_due.clear()
            return
        try:
            while True:
                self._checkpoint_due.wait()
                if self._ending():
                    return
                try:
                    self._checkpointed(connection)
                except Error as error:
                    self._samples.add(CHECKPOINT, "failed", 0, str(error))
                self._pages = min(self._pages, CHECKPOINT_PAGES // 2)
                self._rest_due = True
                self._checkpoint_due.clear()
                if self._ending():  # `close` may have called just before that
                    return
        finally:
            connection.close()

    def _checkpointed(self, connection: sqlite3.Connection) -> tuple[int, int, int]:
        """Take the WAL into the file as far as nobody reads; return what SQLite says of it.

        A reader keeps its place meanwhile, so that nobody begins the WAL anew while the checkpoint begins: before 3.51.3 SQLite may then take what is
        written next for taken into the file already, and the file is damaged (https://sqlite.org/wal.html#walresetbug).
        """
        with self._rows.reader() as reader, one_moment(reader):
            last_position(reader)  # it has its place from its first read on
            try:
                found: tuple[int, int, int] = connection.execute("pragma wal_checkpoint(passive)").fetchone()
            except sqlite3.Error as error:
                raise _failed(error) from error
            return found

    # --- the index

    def _load_index(self, connection: sqlite3.Connection) -> None:
        with self._index_read():
            self._runs.load(connection)
            self._reading_stored = reading_on(connection)
            self._generation = _generation(connection)
        last = last_position(connection)
        if self._runs.indexed > last:  # both are of one file, and the index was read first
            raise Broken(
                f"{self.path} is damaged: its index knows of position {self._runs.indexed}, and the log ends at {last}. Restore a copy",
                path=self.path,
            )

    @contextlib.contextmanager
    def _index_read(self) -> Generator[None]:
        """Say that the file is damaged where what the index is made of can't be what was written."""
        try:
            yield
        except MANGLED as error:
            raise Broken(f"the index in {self.path} is damaged: {error}. {runs.MAKE_ANEW}", path=self.path) from error

    def _look_for_rebuild(self, connection: sqlite3.Connection) -> None:
        """Begin anew where another process has made the index anew: under the runs' old names lie others now. It may have erased what samples speak of."""
        if self._terms_of is not None and _generation(connection) != self._generation:
            self._samples.forget()
            self._check_reading(reading_on(connection))  # before it is taken in: who has heard of it once hears of it every time
            self._load_index(connection)

    def _clashes(self, stored: Mapping[int, str]) -> list[int]:
        return [name for name, how in self._reading.items() if stored.get(name, how) != how]

    def _writes_index(self, connection: sqlite3.Connection) -> bool:
        if self._guest and not self._strange:
            self._strange = bool(self._clashes(reading_on(connection)))
        return self._terms_of is not None and not self._strange

    def _check_reading(self, stored: Mapping[int, str]) -> None:
        clash = self._clashes(stored)
        if clash and self._guest:
            self._strange = True
        elif clash:
            raise Incompatible(
                "another process reads the tags of this log otherwise: run the same code in all of them", names=clash, path=self.path
            )

    def _catch_up_index(self, connection: sqlite3.Connection, progress: Callable[[int, int], None] | None = None) -> None:
        if self._terms_of is None:
            return
        with self._index_lock:
            while self._index_next(connection):
                pass

    def _index_next(self, connection: sqlite3.Connection) -> bool:
        """Find some of the rows that are not in the index yet; say whether there were any."""
        assert self._terms_of is not None, "an index is made by a reading"
        rows = self._to_index(connection)
        self._runs.add(rows, list(map(self._terms_of, rows)))
        return bool(rows)

    def _rebuild(self, progress: Callable[[int, int], None], *, missing: bool = False) -> None:
        """Make the index anew, and write it as it grows: all of a large one at once takes much memory. With `missing`, only where there is still none."""
        with self._lock, self._index_lock:
            self._begin(time.monotonic() + (MISSING_SECONDS if missing else 10))
            try:
                if missing:
                    self._load_index(self._writer)
                    if self._runs.indexed:
                        self._check_reading(self._reading_stored)
                        self._writer.execute("rollback")
                        return
                generation = runs.drop(self._writer)
                self._runs.load(self._writer)
                self._reading_stored = {}
                last = last_position(self._writer)
                written = 0
                while self._index_next(self._writer):
                    progress(self._runs.indexed, last)
                    if self._runs.indexed - written >= 64 * runs.FLUSH_RECORDS:
                        self._runs.applied(self._runs.flush_all(self._writer))
                        written = self._runs.indexed
                flushed = self._runs.flush_all(self._writer)
                self._write_reading(self._writer)
                self._writer.execute("commit")
                self._generation = generation
            except BaseException:
                self._rolled_back()
                self._runs.load(self._writer)
                raise
            self._runs.applied(flushed)

    def _write_reading(self, writer: sqlite3.Connection) -> None:
        stored = reading_on(writer)
        self._check_reading(stored)
        if any(name not in stored for name in self._reading):
            stored.update(self._reading)
            writer.execute("insert or replace into shelf(key, body) values('reading', ?)", (reading_text(stored),))
        self._reading_stored = stored
        self._reading_is_stored = True

    def _write_samples(self, writer: sqlite3.Connection) -> None:
        self._shown.update(self._samples.taken())
        for (handler, outcome), (count, ran, what) in self._shown.items():
            writer.execute(
                "insert into sample(handler, outcome, count, ran, what) values(?, ?, ?, ?, ?) on conflict(handler, outcome) do update set "
                "count = count + excluded.count, ran = ran + excluded.ran, what = excluded.what",
                (handler, outcome, count, ran, what),
            )

    def _flush_all(self) -> None:
        """Write the index's tail, so that the next open has nothing to find again. Left undone where another process holds the lock."""
        try:
            self._begin(time.monotonic() + (1 if self._last_seen else 0))  # who has only read does not wait to write
        except (sqlite3.Error, Overloaded):
            return  # the tail is found again in the rows
        try:
            with self._index_lock:
                self._look_for_rebuild(self._writer)  # a tail belongs behind the runs that it was made behind, and no others
                if self._writes_index(self._writer):
                    self._catch_up_index(self._writer)
                    with self._index_read():
                        self._runs.flush_all(self._writer)
                    self._write_reading(self._writer)
                self._write_samples(self._writer)
            self._writer.execute("commit")
        except (sqlite3.Error, Incompatible, Broken):  # of a damaged index the next open says so
            self._rolled_back()

    # --- reading

    def _read_pages(
        self,
        columns: Columns,
        after: int,
        until: int | None,
        wanted: Sequence[Wanted] | None,
        *,
        backwards: bool,
        rows_max: int,
    ) -> Iterator[list[Any]]:
        """Yield pages of rows, as these columns of them."""
        self._check_usable()
        if wanted is None and not backwards:
            rows = self._rows.first_behind(after, columns, rows_max=rows_max)
            if rows:
                end = self._last_of(columns, rows)
                yield from self._between(columns, rows, after, end if until is None else until)
                if len(rows) < rows_max or (until is not None and until <= end):
                    return
                after = end
        if wanted is None:
            positions, ranges = set[int](), [self._rows.all_after(after)]
            last = ranges[0][1]
        else:
            positions, ranges, last = self._places(wanted, after, until)
        last = last if until is None else min(last, until)
        if ranges:
            if positions:
                ranges = merged([*ranges, *[(position, position) for position in positions]])
            pages = self._rows.read_ranges(ranges, last, columns, backwards=backwards, rows_max=rows_max)
        else:
            places = sorted(positions)
            places = places[max(bisect_right(places, after) - 1, 0) :]  # of the rows before, only the last may end behind it
            pages = self._rows.read_at(places[::-1] if backwards else places, columns, rows_max=rows_max)
        for page in pages:
            yield from self._between(columns, page, after, last)

    def _between(self, columns: Columns, page: list[Any], after: int, last: int) -> Iterator[list[Any]]:
        """Yield what of a page ends behind one position and not behind another, if anything does."""
        ends = self._last_of(columns, page[:1]), self._last_of(columns, page)
        if min(ends) <= after or max(ends) > last:
            page = [found for found in page if after < columns.last(found) <= last]
        if page:
            yield page

    def _last_of(self, columns: Columns, page: list[Any]) -> int:
        try:
            return columns.last(page[-1])
        except TypeError as error:
            raise Broken(f"{self.path} is damaged: a row there says no number of records. Restore a copy", path=self.path) from error

    def _places(self, wanted: Sequence[Wanted], after: int, until: int | None) -> tuple[set[int], list[tuple[int, int]], int]:
        """Return where the index says that there is something wanted: positions of rows, and ranges of positions; and up to where it knows.

        All of them are where rows may lie that reach behind `after`; the positions are those of rows that begin no later than `until`.
        """
        with self._index_lock, self._rows.reader() as reader, one_moment(reader):
            self._look_for_rebuild(reader)
            self._catch_up_index(reader)
            first, last = self._rows.first_after(reader, after), runs.POSITION if until is None else min(until, runs.POSITION)
            positions: set[int] = set()
            ranges: list[tuple[int, int]] = []
            with self._index_read():
                for item in wanted:
                    if item.terms and not self._strange:
                        found = [self._runs.find(reader, runs.TAGS, term, first, last) for term in item.terms]
                        positions.update(found[0] if len(found) == 1 else set(found[0]).intersection(*found[1:]))
                    elif item.names:
                        ranges += self._runs.blocks(item.names)
                    else:
                        ranges.append((0, self._runs.indexed))
            return positions, [(max(start, first), end) for start, end in merged(ranges) if end >= first], self._runs.indexed

    def _to_index(self, connection: sqlite3.Connection) -> list[Row]:
        """Return the next rows that are not in the index, without what it does not need of them."""
        rows = [Row(*row) for row in self._cold.rows_between(connection, COUNTED, self._runs.indexed + 1, runs.POSITION, 1000)]
        last = self._runs.indexed
        for row in rows:
            if not (type(row.count) is type(row.at) is int and row.count > 0 and type(row.head) is type(row.records) is str):
                raise Broken(
                    f"{self.path} is damaged: the row at position {row.position} has values that none can have", position=row.position
                )
            if row.position <= last:
                raise out_of_order(self.path, row.position)
            last = row.last
        return rows


_records_of: Callable[[Row], str] = operator.attrgetter("records")
_input_of: Callable[[Row], str | None] = operator.attrgetter("input")


def _insert(connection: sqlite3.Connection, rows: Sequence[Row]) -> None:
    """Insert rows, many by a statement."""
    start = 0
    while start < len(rows):
        many = min(1 << (len(rows) - start).bit_length() - 1, INSERT_MANY)  # few different statements, which are kept prepared
        values: list[Any] = []
        for row in rows[start : start + many]:
            # Of values other than numbers, texts and bytearrays the module asks each time whether somebody adapts them, for half a microsecond.
            values += (row.position, row.count, row.at, row.head, row.records, bytearray(row.salts), bytearray(row.digest), row.input)
        connection.execute(INSERTS[many], values)
        start += many


def _soon() -> float:
    return time.monotonic() + LOCK_SECONDS_MAX


def _noted(connection: sqlite3.Connection, start: str, before: str | None = None) -> Mapping[str, str]:
    try:
        found = connection.execute("select key, body from note where key >= ? and key < ?", keys_between(start, before)).fetchall()
    except sqlite3.Error as error:
        raise _failed(error) from error
    for key, body in found:
        if type(body) is not str:
            raise Broken(f"the note {key!r:.100} is damaged: what it says is no text", note=str(key))
    return dict(found)


def _failed(error: sqlite3.Error) -> StoreFailed | Broken:
    if _code(error) in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return Broken(f"the log's file is damaged, and nothing was recorded: {error}. Restore a copy", error=str(error))
    if _code(error) in NOT_WRITABLE:
        return StoreFailed(
            f"the log's file or its folder can't be written by this user, and nothing was recorded: {error}", error=str(error)
        )
    return StoreFailed(f"the log could not be written, and nothing was recorded: {error}", error=str(error))


def _file_at(path: str) -> tuple[int, int]:
    try:
        found = os.stat(path)  # noqa: PTH116 - Path.stat is the same with more steps, on the way of every commit
    except FileNotFoundError:
        return 0, 0
    return found.st_dev, found.st_ino


def _is_busy(error: sqlite3.Error) -> bool:
    return _code(error) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def _code(error: sqlite3.Error) -> int:
    """Return SQLite's own number of an error; 0 for one that the module raised by itself."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def _generation(connection: sqlite3.Connection) -> str:
    row = connection.execute("select body from shelf where key = 'generation'").fetchone()
    return row[0] if row is not None else ""


def reading_on(connection: sqlite3.Connection) -> dict[int, str]:
    """Return by which reading of each name the index on disk was made."""
    row = connection.execute("select body from shelf where key = 'reading'").fetchone()
    try:
        return reading_in(row[0]) if row is not None else {}
    except MANGLED as error:
        raise Broken(f"what the index says of itself can't be read, so it is damaged: {error}. {runs.MAKE_ANEW}") from error
