"""A visit: a log that is looked at with the code of an app, beside the app that it belongs to, which may be running and of other code."""

import gc
from collections.abc import Generator
from contextlib import closing, contextmanager
from pathlib import Path

from happened.core.errors import Invalid
from happened.cqrs.past import Joining
from happened.log.log import Log, Progress
from happened.opening import is_kept, log_for_guest, open_snapshots, snapshots_beside
from happened.sourcing.memory_image import MemoryImage
from happened.sourcing.snapshot import Snapshot, Snapshots
from happened.wiring import Wiring

GC_OBJECTS = 200_000
"""How many more objects there may be before rings are looked for."""


def visit(url: str, app: Wiring, progress: Progress = lambda _done, _all: None) -> Log:
    """Open a log with today's classes of an app, to look at. Nothing that is derived from it is made anew: `Log.indexed` says whether tags are looked up.

    `Invalid` for a log of another app. `Incompatible` where a record that came since the index was written can't be read.
    """
    log = log_for_guest(url, [*app.events, *app.handlers], called=app.called, lifts=app.lifts, progress=progress)
    try:
        check_whose(log.identity.app, app)
    except BaseException:
        log.close()
        raise
    return log


def snapshots_of(url: str, app: Wiring) -> list[Snapshot]:
    """Return the snapshots beside a log, each with why this code does not use it, if it does not."""
    path = snapshots_beside(url)
    if not is_kept(url) or (path is not None and not Path(path).is_file()):
        return []
    with closing(visit(url, app)) as log:
        image = MemoryImage(log.engine, log.reader, app.folds, log.opened_at)
        with closing(Snapshots(log, image, Joining(log), open_snapshots(url))) as snapshots:
            return snapshots.listed(app.snapped())


@contextmanager
def seldom_collected() -> Generator[None]:
    """Look for rings of objects seldom while a log is read: what is read makes none, and to look for them takes a third of the time."""
    before = gc.get_threshold()
    gc.set_threshold(GC_OBJECTS, 50, 50)
    try:
        yield
    finally:
        gc.set_threshold(*before)


def check_whose(name: str, app: Wiring) -> None:
    """Raise `Invalid` for a log of another app than this one."""
    if name not in ("", app.name):
        raise Invalid(f"the log is of the app `{name}`, not of `{app.name}`", app=app.name, log=name)
