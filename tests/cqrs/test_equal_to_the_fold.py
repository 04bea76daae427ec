"""Whatever happens to events, processes and tables: a view equals a plain fold of the events, on both databases."""

import os
import random
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import date
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import Annotated, Any  # Any: states of several classes

import pytest

import happened as h
from happened.log import lease
from tests.servers import fresh


class Kind(Enum):
    SMALL = "small"
    LARGE = "large"


class Put(h.Event):
    place: str
    day: date
    kind: Kind
    amount: Decimal = Decimal(0)


class Moved(h.Event):
    """From one key to another, at once."""

    source: str
    target: str
    day: date
    kind: Kind


class Cleared(h.Event):
    places: tuple[str, ...]
    day: date
    kind: Kind


class Held(h.State):
    """A row of three fields of a key, deleted and born again; some events have two keys, or several."""

    place: str
    day: date
    kind: Kind
    amount: Annotated[Decimal, h.Places(2)] = Decimal(0)
    events: int = 0

    @staticmethod
    def key_of(event: Put | Moved | Cleared) -> Iterator[tuple[str, date, Kind]]:
        match event:
            case Put():
                yield event.place, event.day, event.kind
            case Moved():
                yield event.source, event.day, event.kind
                yield event.target, event.day, event.kind
            case Cleared():
                for place in event.places:
                    yield place, event.day, event.kind

    def evolve(self, event: Put | Moved | Cleared) -> "Held | None":
        match event:
            case Put() if event.amount == 13:
                raise ValueError("thirteen")
            case Put():
                return self.but(amount=self.amount + event.amount, events=self.events + 1)
            case Moved() if event.source == self.place and event.target != self.place:
                return None
            case Moved():
                return self.but(events=self.events + 1)
            case Cleared():
                return None


class Every(h.State):
    """One row for all."""

    amount: Decimal = Decimal(0)
    events: int = 0

    def evolve(self, event: Put | Moved | Cleared) -> "Every":
        return self.but(amount=self.amount + (event.amount if isinstance(event, Put) else 0), events=self.events + 1)


stock = h.App("stock", records=[Put, Moved, Cleared], views=[Held, Every])
PLACES = ["", " ", "a", "A", "a ", "ä", "\U0001f600", "%", "_", "'", '"', "\\", "\u2028", "0", "true"]
DAYS = [date.min, date(2024, 2, 29), date.max]


def folded(events: list[Any]) -> tuple[dict[Any, Held], set[Any], Every]:
    """Return what both views are to hold, and the keys that stand still."""
    rows: dict[Any, Held] = {}
    still: set[Any] = set()
    every = Every()
    for event in events:
        every = every.evolve(event)
        for key in Held.key_of(event):
            if key in still:
                continue
            try:
                after = rows.get(key, Held(*key)).evolve(event)
            except ValueError:
                still.add(key)
                continue
            if after is None:
                rows.pop(key, None)
            else:
                rows[key] = after
    return rows, still, every


class Play:
    """Several handles on one log, as several processes have, and what was recorded."""

    def __init__(self, seed: int, url: str) -> None:
        self.dice = random.Random(seed)
        self.url = url
        self.events: list[Any] = []
        self.handles: list[h.Running] = [stock.open(url)]
        self.last: h.Receipt | None = None

    def event(self) -> Any:
        """Draw an event."""
        dice = self.dice
        place, day, kind = dice.choice(PLACES), dice.choice(DAYS), dice.choice(list(Kind))
        match dice.randrange(6):
            case 0:
                return Moved(place, dice.choice(PLACES), day, kind)
            case 1:
                return Cleared(tuple(dice.choice(PLACES) for _ in range(dice.randrange(4))), day, kind)
            case _:
                amount = Decimal(13) if dice.random() < 0.03 else Decimal(dice.randint(-99_999_999, 99_999_999)) / 100
                return Put(place, day, kind, amount)

    def record(self) -> None:
        """Record one event, or many, through any handle."""
        some = [self.event() for _ in range(self.dice.choice([1, 1, 1, 5, 40]))]
        self.last = self.dice.choice(self.handles).record_all(some)
        self.events += some

    def open_or_close(self) -> None:
        """Another process comes, or one goes: often the one that follows."""
        if len(self.handles) == 1 or (len(self.handles) < 3 and self.dice.random() < 0.5):
            self.handles.append(stock.open(self.url, run=self.dice.random() < 0.7))
        else:
            self.handles.pop(self.dice.randrange(len(self.handles))).close()
        if not any(handle._followers._run for handle in self.handles):
            self.handles.append(stock.open(self.url))

    def rebuild(self) -> None:
        """Build one of the views anew, where that can be done."""
        for handle in self.handles:
            try:
                handle.rebuild(self.dice.choice(stock.views))
            except h.Invalid as error:
                assert "rebuild" in str(error)  # noqa: PT017 - it is followed elsewhere, or runs no views

    def close(self) -> None:
        """Close all handles."""
        for handle in self.handles:
            handle.close()

    def look(self) -> None:
        """Compare each handle's rows with the fold, by all ways of asking."""
        rows, still, every = folded(self.events)
        for handle in self.handles:
            view = handle.view(Held)
            assert handle.view(Every).get(since=self.last, wait_seconds_max=60) == every
            for key in self.dice.sample(sorted(rows, key=str), min(5, len(rows))):
                if key in still:
                    with pytest.raises(h.Stuck, match="thirteen"):
                        view.get(*key, since=self.last, wait_seconds_max=60)
                else:
                    assert view.get(*key, since=self.last, wait_seconds_max=60) == rows[key]
            answer = view.rows(limit=10_000)
            assert {(row.place, row.day, row.kind): row for row in answer} == rows
            assert (answer.stuck, answer.position) == (len(still), handle.log.head)
            place = self.dice.choice(PLACES)
            assert set(view.where(place=place).rows()) == {row for row in rows.values() if row.place == place}
            assert view.order_by("place", "day", "kind").rows()[:] == sorted(
                rows.values(), key=lambda row: (row.place, row.day, row.kind.value)
            )
            [(cents,)] = view.sql(f'select sum(amount) from "{view.table}"')
            assert (cents or 0) == 100 * sum(row.amount for row in rows.values())


@pytest.mark.parametrize("store", ["sqlite", "postgres"])
@pytest.mark.parametrize("seed", range(int(os.environ.get("HAPPENED_SEEDS", "3"))))
def test_a_view_equals_a_plain_fold_whatever_comes(store: str, seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Events of hostile keys, rows deleted and born again, keys that stand still, rebuilds, and processes that come and go."""
    monkeypatch.setattr(lease, "LEASE_SECONDS", 2)
    play = Play(seed, fresh() if store == "postgres" else f"sqlite:///{tmp_path}/log.db")
    with ExitStack() as last_first:
        last_first.callback(play.close)
        for _ in range(40):
            play.record()
            play.dice.choice([play.open_or_close, play.rebuild, play.look, *[play.record] * 3])()
        play.look()
