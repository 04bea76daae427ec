"""A channel that disturbs what comes through it, as networks and brokers do: it changes the order, and delivers again what it has delivered.

It shows what a channel promises: each record at least once, and up to where a page is whole. The rest is for whoever listens to put right.
"""

from collections.abc import Sequence
from random import Random
from typing import TypeVar

import happened as h
from happened.transfer.channel import Channel, LogChannel, Origin, Page, Standing

T = TypeVar("T")

WINDOW = 200
"""So many change places with each other."""


def shuffled(items: Sequence[T], chance: Random) -> list[T]:
    """Return items in disorder within windows."""
    found: list[T] = []
    for start in range(0, len(items), WINDOW):
        window = list(items[start : start + WINDOW])
        chance.shuffle(window)
        found += window
    return found


class Rough:
    """The channel to a running app, in disorder where there is a seed, and with every record `twice`."""

    def __init__(self, upstream: h.Running, seed: int | None, *, twice: bool) -> None:
        engine = upstream.log.engine
        self._channel: Channel = LogChannel(lambda: engine, lambda _store: True, own=False)
        self._chance = Random(f"{seed} {upstream.app.name}") if seed is not None else None
        self._twice = twice

    def read(self, after: int, wait_seconds_max: float) -> Page:
        """Return what was published, in disorder; and say of a part of it that there may be more."""
        page = self._channel.read(after, wait_seconds_max)
        items = [*page.items, *page.items] if self._twice else list(page.items)
        position = page.position
        if self._chance is not None and items:
            position = self._chance.choice((position, page.items[len(page.items) // 2].position))
            items = shuffled(items, self._chance)
        return Page(items, position, page.head)

    def origin(self) -> Origin:
        """Return whose records these are."""
        return self._channel.origin()

    def head(self) -> int:
        """Return the position of the last record."""
        return self._channel.head()

    def recorded_at(self, position: int) -> tuple[int, str] | None:
        """Return when a record was recorded, and its link of the chain."""
        return self._channel.recorded_at(position)

    def standing(self, share: str) -> Standing | None:
        """Return how a share stands."""
        return self._channel.standing(share)

    def close(self) -> None:
        """Close it, not the app."""
        self._channel.close()
