"""Slices of handlers: workers share them as they come and go, and no event is passed over, heard twice, or heard out of the order of its key."""

import contextlib
import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any  # Any: methods of any kind

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

import happened as h
from happened.core.errors import Diverged
from happened.core.store import Commit
from happened.core.tags import term
from happened.log.lease import Held, Leases, Present, all_leases
from happened.log.redrawing import redraw
from happened.log.row import encode
from happened.log.slices import (
    SLICES,
    WHOLE,
    Part,
    Piece,
    Progress,
    cut,
    handler_of,
    part_name,
    parts_in,
    progress_of,
    shared_among,
    slice_of,
    slicer,
)
from happened.log.worker import claimed
from happened.notification.reacting import Reacting
from happened.notification.reactor import Reactor
from happened.stores.machine import Machine
from tests.notification.killed import Came, Count, Counted, Key, answered, child, mail, system
from tests.notification.model import until
from tests.notification.test_kills import finished, same_as_quiet
from tests.servers import fresh

KEYS = "abcdefghij"
HANDLER = "reaction/on_came"


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Return the URL of a log that is not there yet, in each store that several processes can share."""
    return fresh() if request.param == "postgres" else f"sqlite:///{tmp_path}/log.db"


def opened(url: str, code: str = "one") -> h.Running:
    """Open the log as a worker of its own."""
    return system(code).open(url, gateways={mail: answered}, source=Machine())


def holds(running: h.Running) -> int:
    """Return how many slices of one reaction an open app works on."""
    [slices] = [one["slices"] for one in running.statistics()["reactions"] if one["reaction"] == "on_came"]
    return int(slices)


def whole_again(running: h.Running) -> None:
    """Wait until one holds all slices in one part, under the handler's own name."""
    until(lambda: [part.name for part in parts_in(running.log.engine, HANDLER)] == [HANDLER], 20)
    assert parts_in(running.log.engine, HANDLER)[0].slices == WHOLE


# --- what they are


def test_a_slice_is_the_same_for_ever() -> None:
    """Logs that are shared rest on it: other slices under the same borders would pass events over."""
    assert [slice_of(text) for text in (term("key", "a"), term("key", "b"), term("order", "17"), term("key", "é"))] == [63, 5, 42, 29]
    assert len({slice_of(f"key\x1f{number}") for number in range(1_000)}) == SLICES


@settings(deadline=None)
@given(some.integers(1, 150))
def test_all_slices_are_shared_as_equally_as_may_be(count: int) -> None:
    owners = [f"worker {number}" for number in range(count)]
    pieces = list(shared_among(owners))
    assert [place for first, last, _ in pieces for place in range(first, last + 1)] == list(range(SLICES))
    sizes = [last - first + 1 for first, last, _ in pieces]
    assert [owner for *_, owner in pieces] == owners[:SLICES], "who comes later changes nothing for them"
    assert max(sizes) - min(sizes) <= 1


@settings(deadline=None)
@given(some.integers(0, 63), some.integers(0, 63), some.integers(1, 70))
def test_a_part_is_cut_where_its_owners_change(one: int, other: int, count: int) -> None:
    first, last = sorted((one, other))
    shares = list(shared_among([str(number) for number in range(count)]))
    pieces = cut((first, last), shares)
    assert [place for start, end, _ in pieces for place in range(start, end + 1)] == list(range(first, last + 1))
    owner = {place: share.owner for share in shares for place in range(share.first, share.last + 1)}
    assert all(owner[place] == piece.owner for piece in pieces for place in range(piece.first, piece.last + 1))


@settings(deadline=None)
@given(some.text("ab/@é0", min_size=1), some.integers(0, 63))
def test_a_part_is_known_by_its_name(name: str, first: int) -> None:
    """No name of a handler is taken for that of a part."""
    assert handler_of(part_name(f"reaction/{name}", first)) == f"reaction/{name}"
    assert handler_of("reaction/slices/01/x") == "reaction/slices/01/x"


Order = Annotated[str, h.Tag("order")]
Payer = Annotated[str, h.Tag("payer")]


class Placed(h.Event):
    order: Order
    payer: Payer


class Shipped(h.Event):
    order: Order


class Merged(h.Event):
    orders: tuple[Order, ...]


class Guessed(h.Event):
    order: Order | None


class Ship(h.Command):
    order: Order


class Open(h.State):
    order: Order

    def evolve(self, event: Placed | Shipped) -> "Open":
        return self


class Owes(h.State):
    payer: Payer

    def evolve(self, event: Placed) -> "Owes":
        return self


def by_state(event: Placed, order: Open) -> list[Ship]:
    raise NotImplementedError


def by_two(event: Placed, order: Open, owes: Owes) -> list[Ship]:
    raise NotImplementedError


def by_none(event: Placed | Shipped) -> list[Ship]:
    raise NotImplementedError


def of_many(event: Merged) -> list[Ship]:
    raise NotImplementedError


def of_none(event: Guessed) -> list[Ship]:
    raise NotImplementedError


@pytest.mark.parametrize(
    ("reaction", "by"),
    [
        (h.Reaction(by_state), "order"),
        (h.Reaction(by_two), ""),
        (h.Reaction(by_two, by="payer"), "payer"),
        (h.Reaction(by_none), ""),
        (h.Reaction(by_none, by="order"), "order"),
        (h.Reaction(by_none, by="order", since=0), "order"),
        (h.Reaction(of_many, by="order"), ""),
        (h.Reaction(of_none, by="order"), ""),
    ],
)
def test_what_goes_by_one_tag_can_be_divided(reaction: Any, by: str) -> None:
    """By two tags, or by one that an event may have none of or several, slices would have to wait for one another."""
    assert reaction.divided_by == by


def test_what_one_record_may_be_several_of_is_not_divided_before_there_is_one(url: str) -> None:
    """Code that records the former version may come later: its records are heard as one, and what they come to may be of several slices."""

    def in_two(old: h.Data) -> list[h.Data]:
        return [{"key": old["key"], "number": 0}, {"key": old["other"], "number": 1}]

    left = h.named("Left", version=2)(type("Left", (h.Event,), {"__annotations__": {"key": Key, "number": int}, "__module__": __name__}))

    def on_left_2(event: Any) -> Iterator[Count]:
        raise NotImplementedError

    on_left_2.__annotations__["event"] = left
    known = h.Reaction(h.named("on_came")(on_left_2), by="key")
    whole = h.App("failing", records=[left], deciders=[count], reactions=[known], upcasts=[h.Upcast("Left", 1, in_two)])
    with whole.open(url, run=False) as running:
        assert known.divided_by == "key"
        assert Step(running, known).reactor.by == {HANDLER: ""}


# --- workers come and go


def test_workers_share_what_one_had_and_one_has_all_again(url: str) -> None:
    with opened(url) as one:
        events = {f"e-{number}": Came(KEYS[number % len(KEYS)], number) for number in range(90)}
        for id in list(events)[:30]:  # noqa: A001 - as `record` calls it
            one.record(events[id], id=id)
        assert holds(one) == SLICES
        with opened(url) as two, opened(url) as three:
            until(lambda: sorted(map(holds, (one, two, three))) == [21, 21, 22], 20)
            for id in list(events)[30:60]:  # noqa: A001 - as `record` calls it
                one.record(events[id], id=id)
            until(lambda: finished(one, dict(list(events.items())[:60])), 20)
            ran = [
                next(each["runs"] for each in part.statistics()["reactions"] if each["reaction"] == "on_came") for part in (one, two, three)
            ]
            assert sum(ran) == 60
            assert all(ran), "each of them has its share"
            held = {
                name: lease
                for name, lease, is_held in all_leases(one.log.engine, one.log.source)
                if handler_of(name) == HANDLER and is_held
            }
            assert sorted(lease.slices for lease in held.values()) == [(0, 20), (21, 41), (42, 63)]
            assert len({lease.owner for lease in held.values()}) == 3
            assert not one.log.engine.notes("failing/")
        for id in list(events)[60:]:  # noqa: A001 - as `record` calls it
            one.record(events[id], id=id)
        until(lambda: finished(one, events), 20)
        whole_again(one)
        assert holds(one) == SLICES
        assert len(one.log.engine.notes("present/")) == 1
        same_as_quiet(one, events)


def test_what_a_message_caused_is_settled_in_whichever_part(url: str) -> None:
    """Another part may not have come so far: it has nothing to do with it."""
    with opened(url) as one, opened(url) as two:
        until(lambda: holds(one) == holds(two) == SLICES // 2, 20)
        for number in range(20):
            receipt = one.record(Came(KEYS[number % 4], number))
            assert one.settled(receipt, wait_seconds_max=10).done
            assert two.settled(receipt, wait_seconds_max=10).done
        assert one.settled().done
        noted = [part.progress.position for part in parts_in(one.log.engine, HANDLER)]
        assert len(noted) == 2


def test_workers_that_are_killed_stopped_and_started_hear_each_event_once(url: str) -> None:
    """Up to four work at once; some are killed, some stopped, under `make torture` also for longer than their leases last."""
    seed, rounds = int(os.environ.get("HAPPENED_SEED", "11")), max(8, int(os.environ.get("HAPPENED_KILLS", "8")) // 5)
    print("seed", seed, "rounds", rounds)
    chance = random.Random(seed)
    events: dict[str, Came] = {}
    recorded: set[str] = set()
    working: list[int] = []
    started = child(url, "many")
    assert started.stdin is not None
    assert started.stdout is not None
    most = 0
    with system("test").open(url, run=False) as running:
        for _ in range(rounds):
            while len(working) < chance.choice([2, 3, 4]):
                started.stdin.write("one more\n")
                started.stdin.flush()
                working.append(int(started.stdout.readline()))
            stopped = chance.sample(working, chance.choice([0, 1]))
            for one in stopped:
                os.kill(one, signal.SIGSTOP)
            longer = 11 if stopped and rounds > 8 and chance.random() < 0.2 else 0
            until_then = time.monotonic() + longer + chance.random() * 2
            while time.monotonic() < until_then:
                number = len(events)
                events[f"e-{number}"] = Came(chance.choice(KEYS[:5]), number)
                while f"e-{number}" not in recorded:
                    with contextlib.suppress(h.Overloaded):  # who is stopped may hold the log's lock
                        recorded.add(running.record(events[f"e-{number}"], id=f"e-{number}").id)
                    for one in stopped if f"e-{number}" not in recorded else ():
                        os.kill(one, signal.SIGCONT)
                time.sleep(chance.random() * 0.05)
            most = max(most, len(parts_in(running.log.engine, HANDLER)))
            for one in stopped:
                os.kill(one, signal.SIGCONT)
            for one in chance.sample(working, chance.choice([0, 1, 2])):
                os.kill(one, signal.SIGKILL)
                working.remove(one)
        for victim in working:
            os.kill(victim, signal.SIGKILL)
        started.communicate()
    print("events", len(events), "parts at most", most)
    assert most > 1, "slices were shared"
    with system("last").open(url, gateways={mail: answered}) as running:
        until(lambda: finished(running, events), 60)
        assert running.stuck() == []
        whole_again(running)
        same_as_quiet(running, events)


# --- between any two steps


class Step:
    """A worker without threads: its leases and its reactor, moved by hand."""

    def __init__(self, running: h.Running, reaction: Any, by: str | None = None) -> None:
        self.running = running
        self.leases = Leases(running.log.engine, Machine(), [])
        self.reactor = Reactor(running.log, self.leases, "reactions", [Reacting(reaction, running.log, running._sending)])
        self.leases.share(self.reactor.by if by is None else {reaction.lease: by})
        [self.crew] = self.reactor._crews

    def look(self) -> None:
        """Compete once."""
        self.leases._compete()

    def take(self, times: int = 1) -> None:
        """Take a step, or several."""
        for _ in range(times):
            self.crew._step()

    @property
    def slices(self) -> list[tuple[int, int]]:
        """The slices of the parts that it holds by its leases."""
        found = [progress_of(self.running.log.engine, name) for name in self.leases.parts(HANDLER)]
        return sorted(one.slices or WHOLE for one in found if one is not None)


def heard(running: h.Running) -> list[tuple[str, int]]:
    """Return what has been reacted to, in order."""
    return [(record.body.key, record.body.number) for record in running.log.read() if isinstance(record.body, Counted)]


@pytest.fixture
def quiet(url: str) -> Iterator[h.Running]:
    """Return an app with ten events, of five keys, on which nobody works."""
    with system("quiet").open(url, run=False, gateways={mail: answered}) as running:
        yield running


def came(running: h.Running, numbers: Sequence[int]) -> None:
    """Record events."""
    for number in numbers:
        running.record(Came(KEYS[number % 5], number))


def each_once_in_order(running: h.Running, count: int) -> None:
    """See that each event was reacted to once, in the order of its key."""
    found = heard(running)
    assert Counter(number for _, number in found) == Counter(range(count))
    for key in KEYS[:5]:
        assert [number for one, number in found if one == key] == [number for number in range(count) if KEYS[number % 5] == key]


def on_came_of(running: h.Running) -> Any:
    return running.app.reactions[0]


def test_what_is_given_is_given_as_far_as_it_has_come(quiet: h.Running) -> None:
    """One has done half; the other gets its slices from there on, and who gave them does not touch them any more."""
    one, two = Step(quiet, on_came_of(quiet)), Step(quiet, on_came_of(quiet))
    one.look()
    came(quiet, range(10))
    one.take()
    two.look()
    assert two.slices == []
    one.look()
    came(quiet, range(10, 20))
    one.take(3)
    two.look()
    assert (one.slices, two.slices) == ([(0, 31)], [(32, 63)])
    two.take(3)
    each_once_in_order(quiet, 20)
    assert one.leases.epoch(HANDLER) == two.leases.epoch(part_name(HANDLER, 32)) == 2

    two.leases.close()
    one.look()
    came(quiet, range(20, 25))
    one.take(6)
    assert one.slices == [WHOLE]
    each_once_in_order(quiet, 25)
    assert set(quiet.log.engine.notes("lease/")) == {f"lease/{HANDLER}"}


def test_who_is_stopped_in_a_run_can_not_write_into_slices_that_were_cut_meanwhile(
    quiet: h.Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its lease ran out, another took all and gave part of it back to a third; revived, it records nothing of its old run."""
    one, two, three = (Step(quiet, on_came_of(quiet)) for _ in range(3))
    one.look()
    one.take()
    came(quiet, range(10))
    writer = quiet.log.writer
    submit = writer.submit

    def stopped(*given: Any) -> None:
        monkeypatch.setattr(writer, "submit", submit)  # once
        quiet.log.engine.append(
            lambda unseen: Commit(notes={key: None for key in unseen.notes("") if key.startswith(("lease/", "present/"))}), 1 << 62
        )
        two.look()
        three.look()
        two.look()
        two.take(2)
        three.look()
        submit(*given)

    monkeypatch.setattr(writer, "submit", stopped)
    one.take()
    two.take(3)
    three.take(3)
    one.take(2)
    each_once_in_order(quiet, 10)


def test_borders_can_not_be_drawn_by_who_does_not_own_them(quiet: h.Running) -> None:
    """Not by a former owner, nor as of a progress that is not so any more; then nothing is changed."""
    one, two = Step(quiet, on_came_of(quiet)), Step(quiet, on_came_of(quiet))
    one.look()
    came(quiet, range(5))
    one.take()
    [part] = parts_in(quiet.log.engine, HANDLER)
    pieces = [Piece(0, 31, one.leases.owner), Piece(32, 63, two.leases.owner)]
    before = quiet.log.engine.notes("")
    with pytest.raises(Diverged, match="another owner"):
        redraw(quiet.log, two.leases, [part], pieces, position=quiet.log.head, by="key")
    stale = part._replace(progress=msgspec.structs.replace(part.progress, position=part.progress.position - 1))
    with pytest.raises(Diverged, match="other borders"):
        redraw(quiet.log, one.leases, [stale], pieces, position=quiet.log.head, by="key")
    assert quiet.log.engine.notes("") == before
    assert one.leases.epoch(HANDLER) == 1

    won_again = encode(
        Held(one.leases.owner, 5, quiet.log.source.now_us() + 10**7)
    ).decode()  # another had it in between, and it is not claimed yet
    quiet.log.engine.append(lambda _: Commit(notes={f"lease/{HANDLER}": won_again}), 1 << 62)
    with pytest.raises(Diverged, match="another owner"):
        redraw(quiet.log, one.leases, [part], pieces, position=quiet.log.head, by="key")


def test_parts_that_are_joined_go_on_in_an_epoch_after_those_of_both(quiet: h.Running) -> None:
    """Whoever owned one of them before can't write into what they have become, nor does it begin before both of them did."""
    one, position = Step(quiet, on_came_of(quiet)), quiet.log.head
    until_then = quiet.log.source.now_us() + 10**7
    parts = [
        Part(HANDLER, Progress(position, 7, 2, slices=(0, 31), by="key")),
        Part(part_name(HANDLER, 32), Progress(position, 3, 4, slices=(32, 63), by="key")),
    ]
    notes = {f"progress/{name}": encode(progress).decode() for name, progress in parts}
    notes |= {
        f"lease/{name}": encode(Held(one.leases.owner, progress.epoch, until_then, progress.span)).decode() for name, progress in parts
    }
    quiet.log.engine.append(lambda _: Commit(notes=dict(notes)), 1 << 62)

    redraw(quiet.log, one.leases, parts, [Piece(*WHOLE, one.leases.owner)], position=position, by="key")

    assert parts_in(quiet.log.engine, HANDLER) == [Part(HANDLER, Progress(position, 8, 4))]
    [(_, held, _)] = [lease for lease in all_leases(quiet.log.engine, Machine()) if handler_of(lease[0]) == HANDLER]
    assert (held.owner, held.epoch) == (one.leases.owner, 8)
    assert one.leases.epoch(HANDLER) == 8


def test_nobody_competes_while_borders_are_drawn(quiet: h.Running) -> None:
    """Else what was found before would be taken for what is held after."""
    one = Step(quiet, on_came_of(quiet))
    one.look()
    competing = threading.Thread(target=one.look)
    with one.leases.redrawn([HANDLER], {part_name(HANDLER, 32): 9}):
        competing.start()
        competing.join(0.2)
        assert competing.is_alive()
    competing.join()


def test_what_is_held_goes_with_its_slice(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An event that failed waits in its slice, with those that wait for it, wherever that goes; it is retried there."""
    failing = {"a", "b"}
    monkeypatch.setattr("tests.notification.test_slices.fails", failing)
    with app.open(url, run=False) as running:
        one, two = Step(running, reaction), Step(running, reaction)
        one.look()
        for number in range(10):
            running.record(Came(KEYS[number % 5], number))
        one.take(2)
        assert {held.key[0] for held in running.stuck()} == {term("key", "a"), term("key", "b")}
        assert {slice_of(term("key", "a")) > 31, slice_of(term("key", "b")) > 31} == {True, False}, "one on each side"
        two.look()
        one.look()
        one.take()
        two.look()
        failing.clear()
        for held in running.stuck():
            running.decide_about("retry", held.handler, held.position)
        one.take(2)
        assert {held.key[0] for held in running.stuck()} == {term("key", "a")}, "what is the other's stays as it is"
        two.take(2)
        assert running.stuck() == []
        each_once_in_order(running, 10)


def test_all_is_settled_once_each_part_has_heard_what_is_its_own(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last event of all is of one part, and another may not have come so far; what waits there for one that failed is not waited for."""
    failing = set[str]()
    monkeypatch.setattr("tests.notification.test_slices.fails", failing)
    with app.open(url, run=False) as running:
        one, two = Step(running, reaction), Step(running, reaction)
        one.look()
        running.record(Came("a", 0))
        one.take(2)
        two.look()
        one.look()
        one.take()
        two.look()
        first, last = sorted("ab", key=lambda key: slice_of(term("key", key)), reverse=True)
        assert (one.slices, two.slices) == ([(0, 31)], [(32, 63)])
        running.record(Came(first, 1))
        position = running.log.head
        running.record(Came(last, 2))

        one.take(2)
        with pytest.raises(h.Late, match=f"has not heard position {position}"):
            running.settled(wait_seconds_max=0)
        two.take(2)
        assert running.settled(wait_seconds_max=0).done

        failing.add(first)
        running.record_all([Came(first, 3), Came(first, 4), Came(last, 5)])
        two.take(2)
        one.take(2)
        found = running.settled(wait_seconds_max=0)
        assert (found.done, len(found.stuck)) == (False, 1)


def test_what_waits_for_an_event_that_is_not_heard_any_more_goes_on_in_its_slice(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An event that failed is not to be heard by the next code: who has its slice lets go of it, and runs those that have waited for it."""
    monkeypatch.setattr("tests.notification.test_slices.fails", {"a"})
    with app_of(on_either).open(url, run=False) as running:
        one, two = Step(running, on_came_of(running)), Step(running, on_came_of(running))
        one.look()
        one.take()
        two.look()
        running.record(Came("a", 0))
        running.record(Left("a", 1))
        one.take(2)
        one.look()
        one.take(2)
        two.look()
        two.take()
        assert slice_of(term("key", "a")) > 31
        assert [held.position for held in running.stuck()] == [running.log.head - 1]
        for each in (one, two):
            each.leases.close()
    with app_of(on_left).open(url, run=False) as running:
        one, two = Step(running, on_came_of(running)), Step(running, on_came_of(running))
        one.look()
        two.look()
        one.look()
        one.take(3)
        two.look()
        assert (one.slices, two.slices) == ([(0, 31)], [(32, 63)])
        one.take(2)
        two.take(3)
        assert heard(running) == [("a", 1)]
        assert running.stuck() == []


def test_while_something_is_recorded_what_was_passed_is_noted_in_time_by_parts_only(
    quiet: h.Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With one worker nothing is noted then: it would be a commit for each reaction and second."""
    monkeypatch.setattr("happened.notification.hearing.NOTED_AFTER_SECONDS", -1.0)
    one, two = Step(quiet, on_came_of(quiet)), Step(quiet, on_came_of(quiet))
    one.look()
    one.take()
    before = progress_of(quiet.log.engine, HANDLER)
    assert before is not None
    quiet.dispatch(Count("b", 0))
    one.take()
    assert progress_of(quiet.log.engine, HANDLER) == before
    two.look()
    one.look()
    one.take(2)
    quiet.dispatch(Count("b", 1))
    one.take()
    after = progress_of(quiet.log.engine, HANDLER)
    assert after is not None
    assert after.slices == (0, 31)
    assert after.position == quiet.log.head


def test_who_ends_gives_back_what_was_given_to_it_and_it_has_not_seen(quiet: h.Running) -> None:
    """Its process may go on, and then nobody knows that it has ended: its slices would wait until the lease runs out."""
    one, two = Step(quiet, on_came_of(quiet)), Step(quiet, on_came_of(quiet))
    one.look()
    two.look()
    one.look()
    one.take()
    two.leases.close()
    assert not [name for name, lease, is_held in all_leases(quiet.log.engine, Machine()) if lease.owner == two.leases.owner and is_held]
    one.look()
    one.take(2)
    assert one.slices == [WHOLE]


def test_what_is_given_to_one_that_has_just_ended_is_free(quiet: h.Running) -> None:
    """Who gives has not looked since; the process of the other one may go on."""
    one, two = Step(quiet, on_came_of(quiet)), Step(quiet, on_came_of(quiet))
    one.look()
    two.look()
    one.look()
    two.leases.close()
    one.take()
    assert one.slices == [(0, 31)]
    one.look()
    one.take(2)
    assert one.slices == [WHOLE]


def test_other_code_takes_over_what_was_divided_otherwise(quiet: h.Running) -> None:
    """It works in the old slices until all of them have come together, and then divides by its own."""
    one, two = Step(quiet, on_came_of(quiet)), Step(quiet, on_came_of(quiet))
    one.look()
    two.look()
    one.look()
    one.take()
    came(quiet, range(10))
    one.take(2)
    two.look()
    assert two.slices == [(32, 63)]
    new = Step(quiet, on_came_of(quiet), by="")  # to it, it is one whole
    new.look()
    assert new.slices == [], "those are there who divide by it"
    one.leases.close()
    two.leases.close()
    new.look()
    assert new.slices == [(0, 31), (32, 63)]
    came(quiet, range(10, 20))
    new.take(6)
    assert new.slices == [WHOLE]
    each_once_in_order(quiet, 20)


def test_other_code_keeps_its_own_order_where_parts_had_not_come_equally_far(url: str) -> None:
    """To the next code the reaction is one row: who is ahead waits for who is behind, and all that nobody has heard comes in its order."""
    with app_of(on_either).open(url, run=False) as running:
        one, two = Step(running, on_came_of(running)), Step(running, on_came_of(running))
        one.look()
        two.look()
        one.look()
        one.take()
        came(running, range(10))
        one.take(2)  # the other one hears nothing of it
        first = heard(running)
        assert 0 < len(first) < 10
        one.leases.close()
        two.leases.close()
    with app_of(on_either, by=()).open(url, run=False) as running:
        came(running, range(10, 20))
        new = Step(running, on_came_of(running))
        new.look()
        assert new.slices == [(0, 31), (32, 63)]
        new.take(6)
        assert new.slices == [WHOLE]
        rest = [number for _, number in heard(running)[len(first) :]]
        assert rest == sorted(rest)
        assert sorted([number for _, number in first] + rest) == list(range(20))


def test_a_branch_and_a_copy_go_on_in_the_parts_that_were_there(quiet: h.Running, tmp_path: Path) -> None:
    """One part is behind: what it has not heard is heard there, once, and nothing else is heard again."""
    one, two = Step(quiet, on_came_of(quiet)), Step(quiet, on_came_of(quiet))
    one.look()
    one.take()
    two.look()
    one.look()
    one.take()
    came(quiet, range(10))
    one.take(2)
    assert 0 < len(heard(quiet)) < 10
    assert len({part.progress.position for part in parts_in(quiet.log.engine, HANDLER)}) == 2
    with quiet.branch() as branch:
        branch.record(Came("a", 10))
        until(lambda: len(heard(branch)) == 11)  # its gateway answers nobody, which is no matter of this reaction
        each_once_in_order(branch, 11)
    h.copy_log(quiet.url, tmp_path / "copy.db")
    with opened(f"sqlite:///{tmp_path}/copy.db") as again:
        again.record(Came("a", 10))
        until(lambda: again.settled().done)
        each_once_in_order(again, 11)
        whole_again(again)


def test_trouble_of_a_part_goes_with_it(quiet: h.Running) -> None:
    """Nobody is said to be in trouble who is not there any more."""
    one, two = Step(quiet, on_came_of(quiet)), Step(quiet, on_came_of(quiet))
    one.look()
    two.look()
    one.look()
    one.take()
    two.look()
    quiet.log.engine.append(lambda _: Commit(notes={f"failing/{part_name(HANDLER, 32)}": "{}"}), 1 << 62)
    two.leases.close()
    one.look()
    one.take(3)
    assert one.slices == [WHOLE]
    assert quiet.log.engine.notes("failing/") == {}


def test_trouble_of_an_owner_before_is_over_when_the_work_goes_on(quiet: h.Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where this process has had the work before that one, and was in trouble then: that is not told of it any more."""
    one, two = Step(quiet, on_came_of(quiet)), Step(quiet, on_came_of(quiet))
    one.look()
    one.take(2)
    with monkeypatch.context() as patched:
        patched.setattr("happened.notification.hearing.claimed", raised)
        one.crew._begin(0)
        one.take()
    assert one.reactor.statistics()[0]["failure"] == "RuntimeError: unheard of"
    one.leases.close()
    one.take()
    assert one.reactor.statistics()[0]["failure"] is None
    two.look()
    two.take()
    quiet.log.engine.append(lambda _: Commit(notes={f"failing/{HANDLER}": "{}"}), 1 << 62)
    two.leases.close()
    one.look()
    time.sleep(max(0.0, one.crew._hearings()[0].retry_at - time.monotonic()))
    one.take(2)
    assert quiet.log.engine.notes("failing/") == {}
    one.leases.close()
    two.look()
    two.take()
    quiet.log.engine.append(lambda _: Commit(notes={f"failing/{HANDLER}": "{}"}), 1 << 62)
    two.leases.close()
    one.look()  # it has seen nothing of it: it was stopped
    one.take(2)
    assert quiet.log.engine.notes("failing/") == {}


def raised(*_: Any, **__: Any) -> None:
    raise RuntimeError("unheard of")


def test_a_tag_that_is_no_more_is_told(quiet: h.Running) -> None:
    with pytest.raises(h.Incompatible, match="does not have any more as one field"):
        slicer([Came], "order")


def test_who_is_not_there_any_more_gets_nothing(quiet: h.Running) -> None:
    """A note of presence that ran out, or whose process is gone, is nobody's, and is deleted by the next who looks."""
    one = Step(quiet, on_came_of(quiet))
    now = quiet.log.source.now_us()
    dead = Present(now - 1, now + 10**9, {HANDLER: "key"})
    host = one.leases.owner.split(":", maxsplit=1)[0]
    quiet.log.engine.append(
        lambda _: Commit(
            notes={
                "present/elsewhere:1:x": encode(Present(0, now - 1, {HANDLER: "key"})).decode(),
                f"present/{host}:999999:x": encode(dead).decode(),
            }
        ),
        1 << 62,
    )
    one.look()
    one.take(2)
    assert one.slices == [WHOLE]
    assert list(quiet.log.engine.notes("present/")) == [f"present/{one.leases.owner}"]


def test_whose_clock_is_far_ahead_gets_nothing_after_its_end(quiet: h.Running) -> None:
    """On another host nobody knows that it has ended, and its note runs out in an hour: its slices are not to wait for that."""
    one = Step(quiet, on_came_of(quiet))
    ahead = encode(Present(0, quiet.log.source.now_us() + 3_600_000_000, {HANDLER: "key"})).decode()
    quiet.log.engine.append(lambda _: Commit(notes={"present/elsewhere:1:x": ahead}), 1 << 62)
    one.look()
    came(quiet, range(10))
    one.take(3)
    assert one.slices == [WHOLE]
    assert "present/elsewhere:1:x" in quiet.log.engine.notes("present/"), "it may be there, and would note it again"


class Moody(Machine):
    """A machine of which something unheard of goes wrong."""

    wrong = False
    asked = 0

    def gone(self, owner: str) -> bool:
        if self.wrong:
            self.asked += 1
            raise RuntimeError("unheard of")
        return super().gone(owner)


def test_leases_are_competed_for_again_whatever_went_wrong(quiet: h.Running) -> None:
    """Who renews them goes on: else a worker would be there, and own nothing for ever."""
    machine = Moody()
    other = Step(quiet, on_came_of(quiet))
    other.look()
    leases = Leases(quiet.log.engine, machine, [])
    leases.share({HANDLER: "key"})
    leases.start()
    machine.wrong = True
    until(lambda: machine.asked > 1, 20)
    machine.wrong = False
    other.leases.close()
    until(lambda: leases.epoch(HANDLER) is not None, 20)
    assert ("log/leases", "failed") in [(handler, outcome) for handler, outcome, *_ in quiet.log.engine.samples()]
    leases.close()


def test_who_ends_gives_back_its_own_leases_alone(quiet: h.Running) -> None:
    """What another process holds stays that one's, though this one would have it, too."""
    engine = quiet.log.engine
    owner, other = Leases(engine, Machine(), ["a"]), Leases(engine, Machine(), ["a", "b"])
    owner.start()
    other.start()
    assert (owner.epoch("a"), other.epoch("a"), other.epoch("b")) == (1, None, 1)

    other.close()

    assert (owner.holder("a"), owner.holder("b")) == (owner.owner, None)
    owner.close()
    assert owner.holder("a") is None


def test_a_lease_is_free_once_it_ran_out_or_its_owner_is_gone(quiet: h.Running) -> None:
    """Nobody waits for what a process that is no more would have held on, and nobody takes what one on another host holds."""
    engine, now = quiet.log.engine, quiet.log.source.now_us()
    host = Machine().owner().split(":", maxsplit=1)[0]
    owners = {"gone": (f"{host}:999999:x", now + 10**10), "ran out": ("elsewhere:1:x", now - 1), "held": ("elsewhere:1:x", now + 10**10)}
    engine.append(
        lambda _: Commit(notes={f"lease/{name}": encode(Held(who, 7, until)).decode() for name, (who, until) in owners.items()}), 1 << 62
    )
    leases = Leases(engine, Machine(), list(owners))

    assert {name: leases.holder(name) for name in owners} == {"gone": None, "ran out": None, "held": "elsewhere:1:x"}
    assert {name: held for name, _, held in all_leases(engine, Machine()) if name in owners} == {
        "gone": False,
        "ran out": False,
        "held": True,
    }
    leases.start()
    assert {name: leases.epoch(name) for name in owners} == {"gone": 8, "ran out": 8, "held": None}

    leases.forget(["gone", "held", "none"])
    leases.close()
    leases.forget(["ran out"])
    assert [name for name in engine.notes("lease/") if name.removeprefix("lease/") in owners] == ["lease/gone", "lease/held"]


def test_who_lets_go_of_what_others_divide_lets_go_at_once(quiet: h.Running) -> None:
    """Who divides otherwise has taken parts that nobody was there for; when one comes who divides as they are divided it gets them, and waits for no lease."""
    one, two = Step(quiet, on_came_of(quiet)), Step(quiet, on_came_of(quiet))
    one.look()
    two.look()
    one.look()
    one.take()
    one.leases.close()
    two.leases.close()
    new = Step(quiet, on_came_of(quiet), by="")
    new.look()
    assert new.slices == [(0, 31), (32, 63)]
    late = Step(quiet, on_came_of(quiet))
    late.look()
    assert late.slices == []
    new.look()
    assert new.slices == []
    late.look()
    assert late.slices == [(0, 31), (32, 63)]


fails: set[str] = set()


def on_came(event: Came) -> Iterator[Count]:
    if event.key in fails:
        raise RuntimeError(event.key)
    yield Count(event.key, event.number)


class Left(h.Event):
    key: Key
    number: int


def on_either(event: Came | Left) -> Iterator[Count]:
    if event.key in fails and isinstance(event, Came):
        raise RuntimeError(event.key)
    yield Count(event.key, event.number)


def on_left(event: Left) -> Iterator[Count]:
    yield Count(event.key, event.number)


def app_of(function: Any, *, by: str | tuple[str, ...] = "key") -> h.App:
    """Return an app with this as its reaction, under the one name."""
    return h.App("failing", records=[Came, Left], deciders=[count], reactions=[h.Reaction(h.named("on_came")(function), by=by)])


def count(command: Count) -> Iterator[Counted]:
    yield Counted(command.key, command.number, 0, "")


def test_once_nothing_is_recorded_who_has_passed_all_says_so_in_one_commit(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who looks from elsewhere sees that nobody is behind; what is noted is not noted again, and adds no row."""

    def one(event: Came) -> Iterator[Count]:
        yield Count(event.key, event.number)

    def other(event: Left) -> Iterator[Count]:
        yield Count(event.key, event.number)

    app = h.App("passing", records=[Came, Left], deciders=[count], reactions=[one, other])
    with app.open(url, run=False) as running:
        leases = Leases(running.log.engine, Machine(), [])
        reactor = Reactor(running.log, leases, "reactions", [Reacting(each, running.log, running._sending) for each in app.reactions])
        leases.share(reactor.by)
        leases._compete()
        [crew] = reactor._crews
        crew._step()
        running.dispatch(Count("b", 0))
        head, commits = running.log.head, running.log.writer.commits

        def noted() -> list[int]:
            found = [progress_of(running.log.engine, each.lease) for each in app.reactions]
            return [each.position for each in found if each is not None]

        crew._step()
        assert max(noted()) < head
        monkeypatch.setattr("happened.log.worker.QUIET_SECONDS", -1.0)
        crew._step()
        crew._step()

        assert noted() == [head, head]
        assert (running.log.writer.commits, running.log.head) == (commits + 1, head)


reaction: Any = h.Reaction(on_came, by="key")
app = h.App("failing", records=[Came], deciders=[count], reactions=[reaction])


def test_a_former_owner_can_not_claim_again_what_another_one_has(quiet: h.Running) -> None:
    """It won its lease, was paused before it claimed how far the work has come, and another one has done both since."""
    claimed(quiet.log, HANDLER, 3, start=0)
    noted = quiet.log.engine.notes("")
    with pytest.raises(h.StoreFailed, match="another process's by now"):
        claimed(quiet.log, HANDLER, 2, start=0)
    assert quiet.log.engine.notes("") == noted
    assert claimed(quiet.log, HANDLER, 3, start=0) == progress_of(quiet.log.engine, HANDLER)
