"""Time travel: states as of any position, from the nearest snapshot on. Reads only."""

from collections.abc import Mapping
from typing import NamedTuple

from happened.core.state import Fold, Key, State
from happened.sourcing.memory_image import NEVER, NOTHING, MemoryImage
from happened.sourcing.snapshot import Snapshots


class Travel(NamedTuple):
    """Folds states as of positions that are the last of a row."""

    image: MemoryImage
    snapshots: Snapshots

    def state(self, fold: Fold, key: Key, until: int) -> State | None:
        """Return one state, by the index. `Stuck` if it stood still."""
        after, before = self.snapshots.one(fold, key, until)
        return self.image.as_of(fold, key, until, after=after, before=before or NEVER).state

    def states(self, fold: Fold, until: int, known: tuple[int, Mapping[Key, State]] = (0, NOTHING)) -> dict[Key, State]:
        """Return all states of a class by key, from what is known of an earlier position, or the nearest snapshot after it. `Stuck` if any stood still."""
        after, states = known
        if self.snapshots.position(fold, until) > after:
            since = self.snapshots.since(fold, until)
            after, states = since.position, {key: entry.state for key, entry in since.entries.items() if entry.state is not None}
        return self.image.states(fold, start=states, after=after, until=until)

    def start(self, fold: Fold, until: int) -> tuple[int, list[dict[Key, tuple[State, int]]]]:
        """Return the nearest snapshot: its position, and each state with the position of its last change; of a view then those of each state that it joins."""
        return self.snapshots.since(fold, until).rows()
