"""`at`: equal to a replay from zero, at every position, with and without snapshots, whatever the state is."""

import itertools
from collections.abc import Mapping
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any  # Any: states of any class

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import happened as h
from happened.core.state import fold_of
from tests.travel.made import ALONE, EPOCH, VIEWS, Cancel, Cancelled, Home, Line, Ordered, Received, Returned, Stock, Total, history, shop

SEEDS = st.integers(0, 2**32)


def replayed(running: h.Running, until: int) -> dict[type[h.State], dict[Any, h.State]]:
    """Fold all records up to a position by hand, one after the other: what everything else is held against."""
    found: dict[type[h.State], dict[Any, h.State]] = {state: {} for state in VIEWS}
    for record in running.log.read(until=until):
        if record.kind not in ("input", "internal") or not isinstance(record.body, h.Event):
            continue
        envelope = h.Recorded(record.id, record.time, record.occurred, record.actor)
        for state in VIEWS:  # a joined state stands before what joins it
            _step(found, state, record.body, envelope)
    return found


def _step(found: dict[type[h.State], dict[Any, h.State]], state: type[h.State], event: h.Event, envelope: h.Recorded) -> None:
    fold = fold_of(state)
    if not fold.follows(type(event)):
        return
    if state is Returned:
        assert isinstance(event, Cancelled)
        home = found[Home].get((event.order,), Home(event.order))
        reached = list(fold.reading(Cancelled)(event, envelope, {"home": home}))
    else:
        reached = list(fold.touched(event, envelope))
    for key, message in reached:
        after = fold.step(found[state].get(key), key, message, (envelope,) if fold.wants_record else ())
        if after is None:
            found[state].pop(key, None)
        else:
            found[state][key] = after


def same_as_replayed(running: h.Running, past: h.Past, expected: Mapping[type[h.State], Mapping[Any, h.State]]) -> None:
    for state in ALONE:
        assert past.states(state) == expected[state], (state, past.position)
        for key in [*expected[state], *running.states(state)]:
            assert past.state(state, *key) == expected[state].get(key), (state, key, past.position)
    for state in VIEWS:
        fold = fold_of(state)
        rows = {tuple(getattr(row, field) for field in fold.key): row for row in past.view(state).rows(limit=10_000)}
        assert rows == expected[state], (state, past.position)


@settings(max_examples=15, deadline=None)
@given(seed=SEEDS, length=st.integers(0, 25), data=st.data())
def test_the_past_is_what_a_replay_from_zero_comes_to(seed: int, length: int, data: st.DataObject) -> None:
    with shop.open("memory:", run=False) as running:
        history(running, seed, length)
        ends = [row.last for rows in running.log.engine.read() for row in rows]
        taken = data.draw(st.lists(st.sampled_from(ends), max_size=4)) if ends else []
        for position, state in itertools.product(taken, VIEWS):
            running.snapshots.take(fold_of(state), position)
        for position in data.draw(st.lists(st.integers(0, running.log.head), max_size=5)):
            past = running.at(position)
            assert past.position == max([end for end in ends if end <= position], default=0)
            same_as_replayed(running, past, replayed(running, past.position))
        assert {one.wrong for one in running.snapshots.listed(shop.snapped())} <= {""}


def test_a_time_is_the_last_position_recorded_at_it_or_before() -> None:
    with shop.open("memory:", run=False) as running:
        history(running, 7, 20)
        times = {record.position: record.time for record in running.log.read()}
        for position, time in times.items():
            past = running.at(time)
            assert past.position == max(at for at, other in times.items() if other <= time)
            assert past.position >= position
            assert past.time == time
        assert running.at(EPOCH).position == 0
        assert running.at(EPOCH).time is None
        assert running.at(max(times.values()) + timedelta(days=1)).position == running.log.head


def test_a_view_of_the_past_is_asked_as_one_of_today(tmp_path: Path) -> None:
    with shop.open(f"sqlite:///{tmp_path}/shop.db") as running:
        first = running.record_all([Received("a", 5, Decimal("1.5")), Received("b", 9, Decimal("2.5"))])
        assert first is not None
        running.record(Received("a", 100, Decimal(7)))
        past = running.at(first).view(Stock)
        assert past.get(sku="a").units == 5
        assert past.find(sku="c") is None
        assert [row.sku for row in past.where("price > 2").rows()] == ["b"]
        assert [row.sku for row in past.order_by("-units").rows(limit=1)] == ["b"]
        assert past.sql("select sum(units) from Stock") == [(14,)]
        assert past.position == first.position
        assert past.position_of(sku="b") == first.position
        with pytest.raises(h.Invalid, match="nothing as new as"):
            past.rows(since=running.log.head)
        with pytest.raises(h.NotThere):
            past.get(sku="c")


def test_what_is_not_there_yet_is_said() -> None:
    with shop.open("memory:", run=False) as running:
        history(running, 1, 5)
        with pytest.raises(h.Invalid, match="the log ends at position"):
            running.at(running.log.head + 1)
        nothing: Any = None
        for wrong in (-1, nothing):
            with pytest.raises(h.Invalid, match="is no position"):
                running.at(wrong)
        missing = r"`Missing` is not among the app's views, which are: .*views=\["
        for views in (running.view, running.at(0).view):
            with pytest.raises(h.Invalid, match=missing):
                views(Missing)
        assert running.at(0).state(Stock, "sku-1") is None
        assert running.at(0).states(Total) == {}


class Missing(Stock):
    pass


def test_a_position_inside_a_command_is_the_end_of_the_one_before() -> None:
    with shop.open("memory:", run=False) as running:
        one = running.record(Received("a", 1, Decimal(1)))
        lines = (Line("a", 1),)
        running.log.append([Ordered("o", "CH", lines), Received("a", 2, Decimal(1))])
        inside = running.at(one.position + 1)
        assert inside.position == one.position
        assert inside.state(Stock, "a") == Stock("a", 1, Decimal(1))


def test_the_past_emits_and_records_nothing(tmp_path: Path) -> None:
    with shop.open(f"sqlite:///{tmp_path}/shop.db") as running:
        history(running, 3, 20)
        running.settled()
        head = running.log.head
        before = running.log.engine.notes("")
        past = running.at(head // 2)
        for state in VIEWS:
            past.view(state).rows()
        for state in ALONE:
            past.states(state)
        assert past.checkpoints() == ()
        assert running.log.head == head
        assert {key: value for key, value in running.log.engine.notes("").items() if "lease" not in key} == {
            key: value for key, value in before.items() if "lease" not in key
        }
        with pytest.raises(h.Refused):
            running.dispatch(Cancel("never"))
