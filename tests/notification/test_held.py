"""What a reaction can't get past stops its key and no other; what waited comes in order, once, whatever happens in between."""

import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

import pytest

import happened as h
from happened.log.held import Held
from happened.log.log import Log
from happened.notification import hearing
from happened.notification.hearing import Heard
from happened.notification.listener import Listener
from happened.notification.reacting import Reacting
from tests.notification.model import Do, Key, Noted, app, do, done, ordered, ways, whole
from tests.notification.rig import Rig


def test_what_has_waited_is_not_run_again_by_the_next_owner() -> None:
    """The event that was waited for succeeds, then the process is killed: the next owner goes on behind what has waited."""
    rig = Rig(app)
    ways.failing = {1}
    rig.running.record(Noted(1, ("a",)))
    rig.take(100)
    rig.running.record(Noted(2, ("a",)))
    rig.take(100)
    ways.failing.clear()
    rig.look_after()
    assert done(rig.running) == [1, 2]

    rig.reacting = rig.owned()
    rig.take(100)

    assert done(rig.running) == [1, 2]
    whole(rig.running)


def test_what_is_held_is_tried_again_a_part_at_a_time_the_longest_due_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """There may be thousands: others have their turn between, and each of the thousands comes to its own."""
    monkeypatch.setattr(hearing, "RETRIES_SECONDS", 0.0)
    rig = Rig(app)
    ways.failing = set(range(5))
    rig.running.record_all([Noted(number, (f"key {number}",)) for number in range(5)])
    rig.take(100)
    held = [one.position for one in rig.held()]
    tried: list[int] = []
    again = Reacting._try

    def counted(self: Reacting, noted: Held, held: Held) -> None:
        tried.append(noted.position)
        again(self, noted, held)

    monkeypatch.setattr(Reacting, "_try", counted)
    rig.reacting._due = {position: -float(position) for position in held}
    for count in range(1, 6):
        rig.reacting.look_after()
        assert tried == held[::-1][:count]
    assert {one.attempts for one in rig.held()} == {2}


def test_who_shares_nothing_with_what_is_held_is_not_held_against_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many that are held cost those nothing that go on; who shares a key with one, also by one that waits for it, waits."""
    rig = Rig(app)
    ways.failing = set(range(50))
    rig.running.record_all([Noted(number, (f"key {number}",)) for number in range(50)])
    rig.take(100)
    compared: list[int] = []
    makes_wait = Held.makes_wait

    def counted(self: Held, position: int, key: Sequence[str]) -> bool:
        compared.append(self.position)
        return makes_wait(self, position, key)

    monkeypatch.setattr(Held, "makes_wait", counted)
    rig.running.record_all(
        [Noted(50, ("another",)), Noted(51, ("key 7", "more")), Noted(52, ("more", "most")), Noted(53, ("most",)), Noted(54, ())]
    )
    rig.take(100)

    assert done(rig.running) == [50]
    assert compared[:3] == [rig.held()[7].position] * 3
    ways.failing.clear()
    rig.look_after()
    assert [number for number in done(rig.running) if number > 50] == [51, 52, 53, 54]
    whole(rig.running)


@pytest.mark.parametrize("taken_over", [False, True])
def test_when_one_that_was_held_is_done_what_waited_for_it_is_read_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch, *, taken_over: bool
) -> None:
    """A million others may lie behind it, and a thousand be held while the outside is away."""
    rig = Rig(app)
    ways.failing = {0, 1, 2}
    rig.running.record_all([Noted(number, (f"key {number}",)) for number in range(50)])
    rig.running.record_all([Noted(50, ("key 1",)), Noted(51, ("else",)), Noted(52, ("key 1", "key 2"))])
    while rig.take(10):
        pass
    if taken_over:
        rig.reacting = rig.owned()
    places = {record.body.number: record.position for record in rig.running.log.read() if isinstance(record.body, Noted)}
    read: list[tuple[int, int]] = []
    between = hearing.heard_between

    def counted(log: Log, listener: Listener, start: int, until: int) -> Iterator[Heard]:
        read.append((start, until))
        return between(log, listener, start, until)

    monkeypatch.setattr(hearing, "heard_between", counted)
    ways.failing.clear()
    rig.look_after()

    assert read == [(places[50], places[52]), (places[52], places[52])]
    assert done(rig.running)[-5:] == [0, 1, 50, 2, 52]
    whole(rig.running)


Side = Annotated[str, h.Tag("side")]


class Came(h.Event):
    number: int
    key: Key
    side: Side


def on_came(event: Came) -> Iterator[Do]:
    """Have it done, unless it fails."""
    yield Do(event.number)
    if event.number in ways.failing:
        raise RuntimeError(f"{event.number} fails")


def going_by(by: Sequence[str]) -> h.App:
    """Return an app whose reaction goes by these tags."""
    return h.App("going", records=[Came], deciders=[do], reactions=[h.Reaction(on_came, by=by)])


CAME = [Came(1, "a", "x"), Came(2, "b", "x"), Came(3, "b", "y"), Came(4, "a", "y"), Came(5, "b", "x"), Came(6, "c", "x")]


@pytest.mark.parametrize("by", [("side",), ("key", "side"), ()])
def test_a_reaction_does_not_go_by_other_tags_while_something_is_held(tmp_path: Path, by: Sequence[str]) -> None:
    """Who has waited would not be known: what was run would be run again, and what has waited never. It says so, and goes on by the tags of then."""
    rig = Rig(going_by(["key"]), f"sqlite:///{tmp_path}/log.db")
    ways.failing = {2}
    rig.running.record_all(CAME)
    rig.take(100)
    assert done(rig.running) == [1, 4, 6]
    ways.failing.clear()

    rig.app = going_by(by)
    with pytest.raises(h.Invalid, match="went by key=b when position"):
        rig.restart()
    assert done(rig.running) == [1, 4, 6]

    rig.app = going_by(["key"])
    rig.restart()
    rig.look_after()
    assert done(rig.running) == [1, 4, 6, 2, 3, 5]
    rig.app = going_by(by)
    rig.restart()
    whole(rig.running)
    rig.running.close()


@pytest.mark.parametrize("by", [("key",), ("key", "side")])
def test_a_reaction_that_was_one_row_may_go_by_tags_while_something_is_held(tmp_path: Path, by: Sequence[str]) -> None:
    """All that came after it has waited: what is mended may ask for a state, and so go by its tags."""
    rig = Rig(going_by([]), f"sqlite:///{tmp_path}/log.db")
    ways.failing = {2}
    rig.running.record_all(CAME)
    rig.take(100)
    assert done(rig.running) == [1]
    ways.failing = {3}

    rig.app = going_by(by)
    rig.restart()
    rig.look_after()

    assert done(rig.running) == ([1, 2, 4, 6] if by == ("key",) else [1, 2])
    ways.failing.clear()
    rig.look_after()
    assert sorted(done(rig.running)) == [1, 2, 3, 4, 5, 6]
    whole(rig.running)
    rig.running.close()


@pytest.mark.parametrize("seed", range(60))
def test_each_event_runs_once_and_in_order_of_its_keys_whatever_fails(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Random events, keys, failures, kills at commits, and acts of people, against a model: what it says is done, and nothing else, in order."""
    print("seed", seed)
    chance = random.Random(seed)
    monkeypatch.setattr(hearing, "RUNS_MAX", chance.choice([1, 2, 3, 200]))
    monkeypatch.setattr(hearing, "RETRIES_SECONDS", chance.choice([0.0, 0.1]))
    rig = Rig(app)
    keys: dict[int, tuple[str, ...]] = {}
    aside: set[int] = set()
    """Skipped or parked once: out of order, or never."""
    skipped: set[int] = set()
    for _ in range(chance.randrange(20, 80)):
        match chance.randrange(8):
            case 0 | 1 | 2:
                number = len(keys)
                keys[number] = tuple(chance.sample("abcd", chance.choice([0, 1, 1, 1, 1, 1, 2, 2])))
                if chance.random() < 0.3:
                    ways.failing.add(number)
                rig.running.record(Noted(number, keys[number]))
            case 3 | 4:
                rig.perhaps_killed(chance, rig.take, chance.choice([1, 2, 3, 100]))
            case 5:
                if ways.failing:
                    ways.failing.discard(chance.choice(sorted(ways.failing)))
            case 6 if rig.held():
                held = chance.choice(rig.held())
                act = chance.choice(["retry", "retry", "skip", "park"])
                if held.attempts and not (act == "park" and held.parked):
                    number = next(
                        record.body.number for record in rig.running.log.read(after=held.position - 1) if record.position == held.position
                    )
                    rig.running.decide_about(act, "on_noted", held.position, actor="ann")
                    if act != "retry":
                        aside.add(number)
                    if act == "skip":
                        skipped.add(number)
                    rig.look_after()
            case _:
                rig.perhaps_killed(chance, rig.look_after)
        if chance.random() < 0.2:
            agree(rig, keys, aside, chance)
    while rig.take(3):
        pass
    ways.failing.clear()
    for held in rig.held():
        if held.parked:
            rig.running.decide_about("retry", "on_noted", held.position)
    for _ in range(100):
        rig.look_after()

    assert rig.held() == []
    assert sorted(done(rig.running)) == sorted(set(keys) - skipped)
    assert ordered([number for number in done(rig.running) if number not in aside], keys)
    whole(rig.running)


def agree(rig: Rig, keys: dict[int, tuple[str, ...]], aside: set[int], chance: random.Random) -> None:
    """Once all is taken and tried, those are done that neither fail nor stand behind one that does."""
    while rig.take(chance.choice([1, 7])):
        pass
    for _ in range(len(keys) + 1):
        rig.look_after()
    there = set(done(rig.running))
    blocked: set[str] = set()
    for number in sorted(set(keys) - aside - there):
        behind = bool(blocked & {*keys[number], ""}) if keys[number] else bool(blocked)
        assert number in ways.failing or behind, f"{number} of {keys[number]} fails not, and stands behind none of {blocked}"
        blocked |= set(keys[number]) or {""}
