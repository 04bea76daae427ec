"""The snapshots of the log that a branch is of: what the branch shares with it need not be folded again.

They are only read. Whether one is of what is shared is told by its digest, as everywhere: it is that of the branch's own row at its position.
"""

from collections.abc import Iterator

import msgspec

from happened.core.errors import Closed
from happened.log.log import Identity, Log, latest_erasure
from happened.shelf.snapshots import Kept, SnapshotsFile
from happened.sourcing.snapshot import meaning_after


class OriginSnapshots(SnapshotsFile):
    """Snapshots in memory, over those of an origin up to a position. Those are no more there when the origin is closed, or something in it is erased.

    Only the branch's own can be dropped: by their numbers, the origin's are none of those in memory.
    """

    def __init__(self, origin: Log, below: SnapshotsFile, until: int, branch: Identity) -> None:
        super().__init__(None)
        self._origin = origin
        self._below = below
        self._until = until
        self._branch = branch
        self._erasure = latest_erasure(origin.engine)

    def listed(self) -> list[Kept]:
        """Return those that both may have, as if they were the branch's, and then its own."""
        return [*self._shared(), *super().listed()]

    def chunk(self, id: int, n: int) -> bytes | None:
        """Return one chunk of a snapshot, `None` where it is not there any more."""
        if id > 0:
            return super().chunk(id, n)
        try:
            found = self._below.chunk(_below(id), n)
            return found if self._holds() else None  # asked after it was read: what was there before an erasure is not used
        except Closed:
            return None

    def _shared(self) -> Iterator[Kept]:
        try:
            there = self._below.listed() if self._holds() else []
        except Closed:
            return
        for kept in there:
            meaning = kept.fingerprint.partition("-")[0]
            if kept.position <= self._until and kept.fingerprint == meaning_after(meaning, self._erasure):
                own = msgspec.structs.replace(kept, id=_above(kept.id), fingerprint=meaning, log=self._branch.id, epoch=self._branch.epoch)
                yield own

    def _holds(self) -> bool:
        return latest_erasure(self._origin.engine) == self._erasure


def _above(id: int) -> int:
    """Return a number below 0 for any number of a snapshot but 0: an origin may be a branch, too."""
    return -2 * id if id > 0 else 2 * id - 1


def _below(id: int) -> int:
    """Return the number that `_above` was given."""
    return (id + 1) // 2 if id % 2 else -id // 2
