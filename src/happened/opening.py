"""Opening: from a URL to the store or the channel behind it."""

from collections.abc import Sequence
from pathlib import Path

import msgspec

from happened.core.errors import Invalid
from happened.core.store import Engine
from happened.core.world import Source
from happened.log.adoption import adopted
from happened.log.erasure import Erasure, erased, scrubbed
from happened.log.log import Log, Progress
from happened.log.receipt import Receipt
from happened.shelf.rows import forget_rows
from happened.sourcing.memory_image import MemoryImage
from happened.stores.machine import Machine
from happened.stores.memory import MemoryStore
from happened.stores.sqlite import SqliteStore, connect_to_read, is_open_elsewhere
from happened.transfer.channel import Channel, LogChannel, Readable
from happened.transfer.systems import is_channel, nowhere


def open_engine(url: str) -> Engine:
    """Open the store that a URL names. `Invalid` for a URL that names none."""
    path = _sqlite_path(url)
    if path == ":memory:":
        raise Invalid(f"`{url}` names no file: write memory: for a log that is not kept", url=url)
    if path is not None:
        return SqliteStore(path)
    if url in ("memory:", "memory://"):
        return MemoryStore()
    raise Invalid(f"`{url}` names no log: write memory: or sqlite:///path", url=url)


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


def adopt(url: str, *, actor: str, reason: str, epoch: int | None = None, source: Source | None = None) -> Receipt:
    """Take over a log that was restored from a copy: begin a new epoch, record who did it and why, and return the receipt of that record.

    Receipts, views, replicas and subscriptions that know positions of the earlier epoch beyond it are `Diverged` from then on; what they know before it
    stands. Views are folded anew where they must be. `Invalid` while anybody has the log open. The new epoch is the next one; `epoch` says a higher one,
    where a copy from before an earlier adoption is adopted: the number of that one must not come twice.
    """
    path = path_in(url)
    if path is None:
        raise Invalid(f"`{url}` names no file that can have been restored: write sqlite:///path", url=url)
    if not Path(path).is_file():
        raise Invalid(f"there is no log at {path}", url=url)
    if is_open_elsewhere(path):
        raise Invalid(f"{path} is open, in this process or another: stop all that use it, then adopt it", url=url)
    with open_log(url, source=source) as log:
        return adopted(log, actor=actor, reason=reason, epoch=epoch)


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
    log's file, the index, and the views' file, which is written anew. Not gone: ids, actors and other texts of headers, tags given by hand, what others
    were told (`published`), and copies of the files. `keep` names tags that go on leading to the records. `dry_run` only says what would be erased.
    It reads the whole log, and writes its file anew.
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
    path = path_in(views)
    done = scrubbed(log, lambda position: path is None or forget_rows(path, log.identity.id, position), progress)
    return msgspec.structs.replace(found, scrubbed=done)


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
