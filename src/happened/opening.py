"""Opening: from a URL to the store or the channel behind it, and what is done to a log as a whole."""

import contextlib
import errno
import gzip
import os
import zlib
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING

import msgspec

from happened.core.errors import Broken, Invalid, StoreFailed
from happened.core.store import Engine
from happened.core.world import Source
from happened.log.adoption import adopted
from happened.log.copying import Fillable, copied
from happened.log.erasure import Erasure, erased, scrubbed
from happened.log.lifting import Lifts
from happened.log.log import Identity, Log, Progress
from happened.log.portable import Exported, exported, imported
from happened.log.receipt import Receipt
from happened.shelf.connection import Look, Place, as_shown
from happened.shelf.rows import FileLook, ViewsFile, forget_rows
from happened.shelf.snapshots import SnapshotsFile, forget_snapshots
from happened.sourcing.memory_image import MemoryImage
from happened.stores.machine import Machine
from happened.stores.memory import MemoryStore
from happened.stores.over import PIN_NOTE, Over, Pin, Prefix
from happened.stores.sqlite import SqliteStore, check_version, connect_to_read, drop_index_of, is_open_elsewhere, note_in
from happened.transfer.channel import Channel, LogChannel, Readable
from happened.transfer.systems import is_channel, nowhere

if TYPE_CHECKING:
    from happened.stores.postgres_tables import Where


def open_engine(url: str) -> Engine:
    """Open the store that a URL names. `Invalid` for a URL that names none."""
    path = _sqlite_path(url)
    if path == ":memory:":
        raise Invalid(f"`{url}` names no file: write memory: for a log that is not kept", url=url)
    if path is not None:
        store = SqliteStore(path)
        try:
            return _over(store) or store
        except BaseException:
            store.close()
            raise
    if url in ("memory:", "memory://"):
        return MemoryStore()
    if is_postgres(url):
        return _postgres(url)
    shown = as_shown(url)
    raise Invalid(f"`{shown}` names no log: write memory:, sqlite:///path or postgresql://user@host/database?schema=name", url=shown)


def is_postgres(url: str) -> bool:
    """Say whether a URL names a database of PostgreSQL."""
    return url.startswith(("postgresql://", "postgres://"))


def _postgres(url: str) -> Engine:
    with _driver():
        from happened.stores.postgres import PostgresStore  # lazy: its driver is an extra
    return PostgresStore(url)


def check_postgres(url: str) -> None:
    """Raise `Invalid` unless there is a log in the schema of a URL of PostgreSQL. Nothing is made."""
    with _driver():
        from happened.stores.postgres_tables import check_there  # lazy: see above
    check_there(url)


def migrate(url: str) -> list[int]:
    """Make or bring up to date the tables of a log in PostgreSQL; return the numbers of the steps that were taken. `Invalid` for another URL."""
    if not is_postgres(url):
        shown = as_shown(url)
        raise Invalid(f"`{shown}` is no log in PostgreSQL: only those have tables to be made", url=shown)
    with _driver():
        from happened.stores.postgres_tables import migrated  # lazy: see above
    return migrated(url)


def schema_in(url: str) -> str:
    """Return the schema that a URL of PostgreSQL names. `Invalid` where it can't be read."""
    return _where_in(url).schema


def _where_in(url: str) -> "Where":
    with _driver():
        from happened.stores.postgres_tables import where_in  # lazy: see above
    return where_in(url)


@contextlib.contextmanager
def _driver() -> Generator[None]:
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name != "psycopg":
            raise
        raise Invalid("a log in PostgreSQL needs its driver: pip install 'happened[postgres]'") from error


def _over(store: SqliteStore) -> Over | None:
    """Return the log that a file holds over another one, if it does."""
    noted = store.notes(PIN_NOTE).get(PIN_NOTE)
    if noted is None:
        return None
    pin = msgspec.json.decode(noted, type=Pin)
    prefix = _prefix(store.path, pin)
    under = prefix
    try:
        under = (_over(prefix) if isinstance(prefix, Prefix) else None) or prefix
        return Over(under, store, pin, owns=True)
    except BaseException:
        under.close()
        raise


def _prefix(own: str, pin: Pin) -> Engine:
    """Open what a branch in a file lies over, to read only."""
    if is_postgres(pin.path):
        try:
            with _driver():
                from happened.stores.postgres_prefix import PostgresPrefix  # lazy: see above
            return PostgresPrefix(pin.path, pin.position, pin.check)
        except (Invalid, StoreFailed) as error:
            text = f"{own} is a branch of a log that can't be opened: {error}. Where that is gone for good, drop the branch"
            raise type(error)(text, **{**error.facts, "url": pin.path}) from error
    path = Path(own).parent / pin.path
    if not path.is_file():
        raise Invalid(f"{own} is a branch of {path}, which is not there: put it back, or drop the branch", path=str(path))
    return Prefix(str(path), pin.position)


def _sqlite_path(url: object) -> str | None:
    if not isinstance(url, str):
        raise Invalid(f"{url!r} names no log: write memory: or sqlite:///path", url=str(url))
    return path_in(url)


def open_log(url: str, *, create: bool = False, source: Source | None = None, progress: Progress = lambda _done, _all: None) -> Log:
    """Open a log without an app: to read, verify, or append `Loose` facts by hand. Close it when done.

    `Invalid` for a log that is not there, unless it says `create`. The log belongs to the first app that opens it.
    """
    path = _sqlite_path(url)
    if path and path != ":memory:" and not create and not (Path(path).is_file() and Path(path).stat().st_size):
        raise Invalid(f"there is no log at {path}: write open_log(..., create=True) to make one", url=url)
    if is_postgres(url) and not create:
        check_postgres(url)
    return log_for_guest(url, source=source, progress=progress)


def log_for_guest(
    url: str,
    classes: Iterable[type] = (),
    *,
    called: Mapping[type, str] | None = None,
    lifts: Lifts | None = None,
    source: Source | None = None,
    progress: Progress = lambda _done, _all: None,
) -> Log:
    """Open a log beside the app that it belongs to: what is derived from it stays as it is, whatever these classes read otherwise."""
    engine = open_engine(url)
    try:
        log = Log(engine, source or Machine(), classes, called=called, ignores=None, lifts=lifts, progress=progress, guest=True)
        log.write_with(MemoryImage(engine, log.reader, (), log.opened_at))
    except BaseException:
        engine.close()
        raise
    return log


def adopt(url: str, *, actor: str, reason: str, epoch: int | None = None, source: Source | None = None) -> Receipt:
    """Take over a log that was restored from a copy: begin a new epoch, record who did it and why, and return the receipt of that record.

    Receipts, views, replicas and subscriptions that know positions of the earlier epoch beyond it are `Diverged` from then on; what they know before it
    stands. Views are folded anew where they must be. `Invalid` while anybody is seen to have the log open. The new epoch is the next one; `epoch` says a higher one,
    where a copy from before an earlier adoption is adopted: the number of that one must not come twice.
    """
    shown = as_shown(url)
    path = path_in(url)
    if is_postgres(url):
        check_postgres(url)
        from happened.stores.postgres_tables import is_open_elsewhere as is_open_there  # lazy: its driver is an extra

        is_open = is_open_there(url)
    elif path is None:
        raise Invalid(
            f"`{shown}` names no log that can have been restored: write sqlite:///path or postgresql://user@host/database?schema=name",
            url=shown,
        )
    elif not Path(path).is_file():
        raise Invalid(f"there is no log at {path}", url=url)
    else:
        is_open = is_open_elsewhere(path)
    if is_open:
        raise Invalid(f"{shown} is open, in this process or another: stop all that use it, then adopt it", url=shown)
    with open_log(url, source=source) as log:
        return adopted(log, actor=actor, reason=reason, epoch=epoch)


def drop_index(url: str) -> None:
    """Drop the index of a log, which is made of its rows: the app makes it anew when it is opened next. `Invalid` while anybody is seen to have it open."""
    shown = as_shown(url)
    if is_postgres(url):
        from happened.stores import postgres_tables as postgres  # lazy: psycopg is an extra

        if postgres.is_open_elsewhere(url):
            raise Invalid(f"{shown} is open, in this process or another: stop all that use it", url=shown)
        postgres.drop_index_of(url)
        return
    path = path_in(url)
    if path is None or not Path(path).is_file():
        raise Invalid(f"there is no log at {shown}", url=shown)
    if is_open_elsewhere(path):
        raise Invalid(f"{shown} is open, in this process or another: stop all that use it", url=shown)
    drop_index_of(path)


def erase(
    url: str,
    what: str | tuple[str, str],
    *,
    actor: str,
    reason: str,
    keep: Sequence[str] = (),
    dry_run: bool = False,
    views: str | None = None,
    progress: Progress = lambda _done, _all: None,
) -> Erasure:
    """Erase the bodies of all records of an id, or of all that have a tag, as ("customer", "c-17"); record who did it and why. Others may go on meanwhile.

    Gone are the bodies and their salts, answers of the outside and refusals beside them, what was published of them, and all that was derived: from the
    log, its index, snapshots and views, whose files or tables are written anew. Not gone: ids, actors and other texts of headers, tags given by hand, what
    others were told (`published`), and copies of files or tables. `keep` names tags that go on leading to the records. `dry_run` only says what would be
    erased. It reads the whole log, and writes it anew.
    """
    with open_log(url) as log:
        return erased_in(log, what, views or beside(url), actor=actor, reason=reason, keep=keep, dry_run=dry_run, progress=progress)


def erased_in(
    log: Log,
    what: str | tuple[str, str] | None,
    views: str,
    *,
    actor: str = "",
    reason: str = "",
    keep: Sequence[str] = (),
    dry_run: bool = False,
    progress: Progress = lambda _done, _all: None,
) -> Erasure:
    """Erase in an open log, and take the bytes out of its files; without anything only the bytes of what was erased before."""
    found = Erasure(0, {}, {}, (), (), 0, 0)
    if what is not None:
        found = erased(log, what, actor=actor, reason=reason, keep=keep, dry_run=dry_run, progress=progress)
    if dry_run:
        return found
    path = log.engine.path if isinstance(log.engine, SqliteStore | Over) else None
    snapshots = snapshots_beside(f"sqlite:///{path}") if path is not None else None

    def forget(position: int) -> bool:
        rows_gone = _forget_rows(views, log.identity.id, position)
        return _forget_snapshots(log.engine, snapshots) and rows_gone

    done = scrubbed(log, forget, progress)
    return msgspec.structs.replace(found, scrubbed=done)


def _forget_rows(views: str, log: str, position: int) -> bool:
    if is_postgres(views):
        where = _where_in(views)
        from happened.shelf.postgres_rows import forget_rows as forget_rows_there  # lazy: its driver is an extra

        return forget_rows_there(where, log, position)
    path = path_in(views)
    return path is None or forget_rows(path, log, position)


def _forget_snapshots(engine: Engine, path: str | None) -> bool:
    where = getattr(engine, "where", None)  # a log in PostgreSQL knows where it is, with its password
    if where is None:
        return forget_snapshots(path)
    with _driver():
        from happened.shelf.postgres_snapshots import SnapshotsSchema  # lazy: see above
    with contextlib.closing(SnapshotsSchema(where)) as there:
        return there.forget()


def copy_log(log: Log | str, to: str | Path, *, until: int | None = None, progress: Progress = lambda _done, _all: None) -> Identity:
    """Copy a log, to which others may go on writing, to a new file, or the URL of a new log: all of it, or up to a position. Return who the copy is.

    Positions and digests are those of the origin, which the copy names; each row is held against the chain on the way. `Invalid` where there is a file or
    log already; until the copy is whole there is none. Of a log in PostgreSQL all is one transaction.
    """
    if isinstance(log, str):
        with open_log(log, progress=progress) as opened:
            return copy_log(opened, to, until=until, progress=progress)
    with _new_log(str(to)) as made:
        return copied(log, made, until, Machine(), progress)


def export_log(
    log: Log | str,
    to: str | Path | IO[bytes],
    *,
    after: int = 0,
    until: int | None = None,
    tag: tuple[str, str] | None = None,
    plain: bool = False,
    progress: Progress = lambda _done, _all: None,
) -> Exported:
    """Write a log, or what lies between two positions, or has a tag, into a new file of JSON lines, compressed where its name ends in `.gz`.

    With schemas, wiring and digests, so that a whole log, or one up to a position, can be imported again; `plain` writes records for other tools.
    Memory is one page. `Invalid` where there is a file already; until it is whole there is none. Into a file that is open, as a pipe, it is written as it
    comes, uncompressed.
    """
    if isinstance(log, str):
        with open_log(log, progress=progress) as opened:
            return export_log(opened, to, after=after, until=until, tag=tag, plain=plain, progress=progress)
    if not isinstance(to, str | Path):
        return exported(log, to, after=after, until=until, tag=tag, plain=plain, told=progress)
    with _new(to) as part, _written_to(part, compressed=str(to).endswith(".gz")) as file:
        return exported(log, file, after=after, until=until, tag=tag, plain=plain, told=progress)


def import_log(source: str | Path, to: str, *, progress: Progress = lambda _done, _all: None) -> Identity:
    """Make a new log, at a URL, of what was exported: at the same positions, with the same digests, each row held against the chain. It names its origin.

    `Broken` where the file is damaged or cut off, `Invalid` for a slice, or where there is a log already. What fails leaves no log.
    """
    if not is_postgres(to) and not path_in(to):
        shown = as_shown(to)
        raise Invalid(f"`{shown}` names no new log: write sqlite:///path or postgresql://user@host/database?schema=name", url=shown)
    if not Path(_checked_path(str(source))).is_file():
        raise Invalid(f"there is no file at {source}", path=str(source))
    try:
        with _new_log(to) as made, _read_from(Path(source)) as lines:
            return imported(lines, made, Machine(), told=progress)[0]
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise Broken(f"{source} is damaged or cut off: {error}", path=str(source)) from error


@contextlib.contextmanager
def _new(to: str | Path) -> Generator[Path]:
    """Give a path beside one that is new, and move what was made there into its place if all went well."""
    path = Path(_checked_path(str(to)))
    if path.exists():
        raise Invalid(f"there is something at {path} already: name a new file", path=str(path))
    if not path.absolute().parent.is_dir():
        raise Invalid(f"there is no folder {path.absolute().parent}", path=str(path))
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        yield part
        try:
            os.link(part, path)  # unlike a renaming it takes nobody's place
        except FileExistsError as error:
            raise Invalid(f"there is something at {path} by now: name a new file", path=str(path)) from error
    finally:
        for file in (part, Path(f"{part}-wal"), Path(f"{part}-shm")):
            file.unlink(missing_ok=True)


@contextlib.contextmanager
def _new_log(to: str) -> Generator[Callable[[], Fillable]]:
    """Give a function that makes what fills a new log, at a path or URL, anew each time it is called."""
    if is_postgres(to):
        with _driver():
            from happened.stores.postgres_load import PostgresLoad  # lazy: see above
        yield lambda: PostgresLoad(to)
        return
    with _new(path_in(to) or to) as part:

        def make() -> SqliteStore:
            for file in (part, Path(f"{part}-wal"), Path(f"{part}-shm")):
                file.unlink(missing_ok=True)
            return SqliteStore(str(part))

        yield make


@contextlib.contextmanager
def _written_to(path: Path, *, compressed: bool) -> Generator[IO[bytes]]:
    with path.open("wb") as raw:
        if compressed:
            with gzip.GzipFile(filename="", fileobj=raw, mode="wb", compresslevel=6) as packed:
                yield packed  # type: ignore[misc]  # it has all that is asked of a file here
        else:
            yield raw
        raw.flush()
        os.fsync(raw.fileno())


@contextlib.contextmanager
def _read_from(path: Path) -> Generator[Iterable[bytes]]:
    with gzip.open(path, "rb") if path.name.endswith(".gz") else path.open("rb") as file:
        yield file


def channel_to(given: "str | Log | Channel | None") -> Channel:
    """Return the channel to another system. `Invalid` for what is none."""
    match given:
        case None:
            return nowhere()
        case Log():
            engine = given.engine
            if isinstance(engine, Over):
                raise _told_to_nobody(repr(given))
            return LogChannel(lambda: engine, lambda _store: True, own=False)
        case str():
            if is_postgres(given):
                return LogChannel(lambda: _told_by_database(given), lambda _store: True, own=True)
            path = path_in(given)
            if not path:
                raise Invalid(
                    f"`{as_shown(given)}` names no log that another process has: write sqlite:///path or postgresql://user@host/database?schema=name",
                    url=as_shown(given),
                )
            if note_in(path, PIN_NOTE) is not None:
                raise _told_to_nobody(path)
            return LogChannel(lambda: _told_by(path), _is_there, own=True)
        case _ if is_channel(given):
            return given
        case _:
            raise Invalid(f"{given!r} is no channel: give the running app, or the URL of its log")


def _told_to_nobody(what: str) -> Invalid:
    return Invalid(f"{what} is a branch: what would have been is told to no other system. Give the log that it is of", branch=what)


def _told_by(path: str) -> SqliteStore:
    """Open the log of another system to read. `Invalid` where there is none, and for a branch."""
    if not Path(path).is_file():
        raise Invalid(f"there is no log at {path}", path=path)
    store = SqliteStore(path, connect=connect_to_read)
    try:
        if store.notes(PIN_NOTE):
            raise _told_to_nobody(path)
    except BaseException:
        store.close()
        raise
    return store


def _told_by_database(url: str) -> Engine:
    """Open the log of another system to read. `Invalid` where there is none: nothing is made."""
    check_postgres(url)
    return _postgres(url)


def _is_there(store: Readable) -> bool:
    return isinstance(store, SqliteStore) and store.is_there()


def path_in(url: str) -> str | None:
    """Return the path that a URL of a file names. `Invalid` where no file can have it."""
    return _checked_path(url.removeprefix("sqlite:///")) if url.startswith("sqlite:///") else None


def _checked_path(path: str) -> str:
    try:
        Path(path).stat()
    except ValueError as error:  # a zero byte, or half a character
        raise Invalid(f"no file can be called {path!a}: {error}", path=ascii(path)) from error
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise Invalid(f"no file can be called {path[:100]}...: {error.strerror}", path=path) from error
    return path


def open_rows(url: str, log: str, *, ddl: Sequence[str] = ()) -> Place:
    """Open the place of views, or of replicas, that a URL names; `log` is the URL of the log. `Invalid` for a URL that names none."""
    if not is_postgres(url):
        check_version()
        path_in(url)  # a file can have it
        return ViewsFile(url, path_in(log), ddl=ddl)
    where = _where_in(url)
    from happened.shelf.postgres_rows import RowsSchema  # lazy: its driver is an extra

    return RowsSchema(where, ddl=ddl)


@contextlib.contextmanager
def look_at_rows(url: str) -> Generator[Look | None]:
    """Look at the views that a URL names, and make nothing; `None` where there are none. `Invalid` for what holds something else."""
    if is_postgres(url):
        where = _where_in(url)
        from happened.shelf.postgres_rows import SchemaLook  # lazy: its driver is an extra

        with contextlib.closing(SchemaLook(where)) as there:
            yield None if there.is_empty else there
        return
    path = path_in(url)
    if path is None or not Path(path).is_file():
        yield None
        return
    with contextlib.closing(FileLook(path)) as file:
        yield file


def open_snapshots(url: str) -> SnapshotsFile:
    """Return the snapshots beside a log, those of one in memory in memory."""
    if not is_postgres(url):
        check_version()
        return SnapshotsFile(snapshots_beside(url))
    where = _where_in(url)
    from happened.shelf.postgres_snapshots import SnapshotsSchema  # lazy: its driver is an extra

    return SnapshotsSchema(where)


def is_kept(url: str) -> bool:
    """Say whether a log is there still when its process has ended."""
    return path_in(url) is not None or is_postgres(url)


def beside(url: str) -> str:
    """Return the URL of the views beside a log: a file beside a file, the same schema of PostgreSQL, or memory."""
    if is_postgres(url):
        return url
    path = path_in(url)
    if path is None:
        return "memory:"
    return f"sqlite:///{path.removesuffix('.db')}.views.db"


def snapshots_beside(url: str) -> str | None:
    """Return the path of the snapshots' file beside a log; `None` for one in memory."""
    path = path_in(url)
    return f"{path.removesuffix('.db')}.snapshots.db" if path is not None else None
