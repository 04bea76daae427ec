"""Redrawing: the borders of a handler's parts, drawn anew by the worker that owns them."""

from collections.abc import Sequence

import msgspec

from happened.core.errors import Diverged
from happened.log.lease import NOTE as LEASE_NOTE
from happened.log.lease import PRESENT, Held, Leases
from happened.log.log import Log
from happened.log.row import encode
from happened.log.slices import NOTE, WHOLE, Part, Piece, Progress, handler_of, part_name
from happened.log.worker import FAILING, SUBMIT_SECONDS_MAX
from happened.log.writer import Batch, Job


def redraw(log: Log, leases: Leases, before: Sequence[Part], after: Sequence[Piece], *, position: int, by: str) -> None:
    """Make pieces of parts, all of them as far as a position, in one commit: one part is cut, or neighbours are joined.

    What is given to another worker gets a higher epoch with it. `Diverged` where a part is not what it was, or is another's by now: nothing is changed.
    """
    job = Redrawing(leases, before, after, position, by)
    with leases.redrawn([name for name, _ in before], job.epochs):
        log.writer.submit(job, SUBMIT_SECONDS_MAX)


class Redrawing(Job):
    """That, as something to be recorded."""

    def __init__(self, leases: Leases, before: Sequence[Part], after: Sequence[Piece], position: int, by: str) -> None:
        super().__init__(f"{before[0].name}:{position}")
        self._leases = leases
        self._before = before
        self._after = after
        self._position = position
        self._by = by
        self.epochs: dict[str, int] = {}
        """Of the pieces that stay with this worker, by their names."""

    def draft(self, batch: Batch) -> None:
        """Compare, and write all of it."""
        for name, progress in self._before:
            noted = batch.noted(LEASE_NOTE + name)
            lease = msgspec.json.decode(noted, type=Held) if noted is not None else None
            same = batch.noted(NOTE + name) == encode(progress).decode()
            if not same or lease is None or (lease.owner, lease.epoch) != (self._leases.owner, progress.epoch):
                raise Diverged(f"`{name}` has another owner now, or other borders", worker=name)
        handler = handler_of(self._before[0].name)
        epoch = max(progress.epoch for _, progress in self._before) + 1
        began = max(progress.began for _, progress in self._before)
        notes: dict[str, str | None] = {key + name: None for name, _ in self._before for key in (NOTE, LEASE_NOTE, FAILING)}
        for first, last, owner in self._after:
            name = part_name(handler, first)
            progress = Progress(self._position, epoch, began)
            if (first, last) != WHOLE:
                progress = msgspec.structs.replace(progress, slices=(first, last), by=self._by)
            notes[NOTE + name] = encode(progress).decode()
            there = owner == self._leases.owner or batch.noted(PRESENT + owner) is not None
            notes[LEASE_NOTE + name] = self._leases.lease_now(owner, epoch, (first, last), there=there)
            if owner == self._leases.owner:
                self.epochs[name] = epoch
        batch.kept.update(notes)
