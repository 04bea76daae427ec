"""Opening: from a URL to the store or the channel behind it."""

from pathlib import Path

import msgspec

from happened.core.errors import Invalid
from happened.core.store import Engine
from happened.core.world import Source
from happened.log.log import Log, Progress
from happened.sourcing.memory_image import MemoryImage
from happened.stores.machine import Machine
from happened.stores.memory import MemoryStore
from happened.stores.over import PIN_NOTE, Over, Pin, Prefix
from happened.stores.sqlite import SqliteStore, connect_to_read
from happened.transfer.channel import Channel, LogChannel, Readable
from happened.transfer.systems import is_channel, nowhere


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
    raise Invalid(f"`{url}` names no log: write memory: or sqlite:///path", url=url)


def _over(store: SqliteStore) -> Over | None:
    """Return the log that a file holds over another one, if it does."""
    noted = store.notes(PIN_NOTE).get(PIN_NOTE)
    if noted is None:
        return None
    pin = msgspec.json.decode(noted, type=Pin)
    path = Path(store.path).parent / pin.path
    if not path.is_file():
        raise Invalid(f"{store.path} is a branch of {path}, which is not there: put it back, or drop the branch", path=str(path))
    prefix = Prefix(str(path), pin.position)
    try:
        return Over(prefix, store, pin, owns=True)
    except BaseException:
        prefix.close()
        raise


def _sqlite_path(url: object) -> str | None:
    if not isinstance(url, str):
        raise Invalid(f"{url!r} names no log: write memory: or sqlite:///path", url=str(url))
    return url.removeprefix("sqlite:///") if url.startswith("sqlite:///") else None


def open_log(url: str, *, create: bool = False, source: Source | None = None, progress: Progress = lambda _done, _all: None) -> Log:
    """Open a log without an app: to read, verify, or append `Loose` facts by hand. Close it when done.

    `Invalid` for a file that is not there, unless it says `create`. The log belongs to the first app that opens it.
    """
    path = _sqlite_path(url)
    if path and path != ":memory:" and not create and not (Path(path).is_file() and Path(path).stat().st_size):
        raise Invalid(f"there is no log at {path}: write open_log(..., create=True) to make one", url=url)
    engine = open_engine(url)
    try:
        log = Log(engine, source or Machine(), (), ignores=None, progress=progress)
        log.write_with(MemoryImage(engine, log.reader, (), log.opened_at))
    except BaseException:
        engine.close()
        raise
    return log


def channel_to(given: "str | Log | Channel | None") -> Channel:
    """Return the channel to another system. `Invalid` for what is none."""
    match given:
        case None:
            return nowhere()
        case Log():
            engine = given.engine
            return LogChannel(lambda: engine, lambda _store: True, own=False)
        case str():
            path = path_in(given)
            if not path:
                raise Invalid(f"`{given}` names no log that another process has: write sqlite:///path", url=given)
            return LogChannel(lambda: SqliteStore(path, connect=connect_to_read), _is_there, own=True)
        case _ if is_channel(given):
            return given
        case _:
            raise Invalid(f"{given!r} is no channel: give the running app, or the URL of its log")


def _is_there(store: Readable) -> bool:
    return isinstance(store, SqliteStore) and store.is_there()


def path_in(url: str) -> str | None:
    """Return the path that a URL of a file names."""
    return url.removeprefix("sqlite:///") if url.startswith("sqlite:///") else None


def beside(url: str) -> str:
    """Return the URL of the views' file beside a log."""
    path = path_in(url)
    if path is None:
        return "memory:"
    return f"sqlite:///{path.removesuffix('.db')}.views.db"


def snapshots_beside(url: str) -> str | None:
    """Return the path of the snapshots' file beside a log; `None` for one in memory."""
    path = path_in(url)
    return f"{path.removesuffix('.db')}.snapshots.db" if path is not None else None
