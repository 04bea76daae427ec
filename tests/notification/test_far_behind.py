"""Who is far behind asks the index for what it hears, and passes over the rest: nothing of its own is missed, and it comes to the head."""

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any  # Any: bodies of any class

import pytest

import happened as h
from happened.log.log import FAR
from tests.transfer.model import until

No = Annotated[str, h.Tag("no")]


class Seen(h.Event):
    no: No


class Noise(h.Event):
    number: int


class Note(h.Command):
    no: No


class Noted(h.Event):
    no: No


@h.named("SeenElsewhere")
class SeenElsewhere(h.Event):
    no: No


class Times(h.State):
    no: No
    times: int = 0

    def evolve(self, event: Seen) -> "Times":
        return self.but(times=self.times + 1)


def note(command: Note) -> Iterator[Noted]:
    yield Noted(command.no)


def on_seen(event: Seen) -> Iterator[Note]:
    yield Note(event.no)


def tell(event: Seen) -> SeenElsewhere:
    return SeenElsewhere(event.no)


plain = h.App("far", records=[Seen, Noise], deciders=[note])
listening = h.App(
    "far",
    records=[Seen, Noise],
    deciders=[note],
    reactions=[h.Reaction(on_seen, since=0)],
    publications=[h.Publication(tell, since=0)],
    shares=[Times],
)


@pytest.mark.parametrize("seed", range(2))
def test_who_is_far_behind_misses_nothing(tmp_path: Path, seed: int) -> None:
    """A few events among very many others, written by two processes' worth of names, and some more while they are caught up with."""
    print("seed", seed)
    chance = random.Random(seed)
    url = f"sqlite:///{tmp_path}/far.db"
    facts: list[h.Event] = [Noise(number) for number in range(2 * FAR + chance.randrange(FAR))]
    places = sorted(chance.sample(range(len(facts)), 7))
    for number, place in enumerate(places):
        facts[place] = Seen(f"s-{number}")
    with plain.open(url, run=False) as running:
        running.record_all(facts)

    with listening.open(url) as running:
        receipt = running.record(Seen("late"))
        running.settled(wait_seconds_max=60)
        until(lambda: all(one["lag"] == 0 for what in ("reactions", "publications", "shares") for one in running.statistics()[what]))

        def named(name: str) -> list[Any]:
            bodies: list[Any] = [record.body for record in running.log.read(h.query(names=[name]))]
            return [body.no for body in bodies]

        told = [record.body["no"] for record in running.log.read() if record.name == "SeenElsewhere" and record.kind == "output"]
        [share] = running.statistics()["shares"]
        assert running.log.head > receipt.position
        assert named("Noted") == named("Seen") == told == [*(f"s-{number}" for number in range(7)), "late"]
        assert share["count"] == 8
        running.log.verify()
