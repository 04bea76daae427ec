"""A branch of which nothing is otherwise comes out as its origin, record by record."""

import random
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest

import happened as h
from tests.branches.conftest import Make, told
from tests.branches.desk import Balance, Total, desk, draw, remind, tariff, warn, watch
from tests.branches.door import Came, Greet, Greeted, greet


def hear(event: Came) -> Iterator[Greet]:
    yield Greet(event.name)


door = h.App("door", records=[Came], deciders=[greet], reactions=[hear])


def essence(record: h.Record) -> tuple[Any, ...]:
    """Return all of a record but its position: names are recorded where they are first used."""
    return (
        record.kind,
        record.name,
        record.id,
        str(record.body),
        record.time,
        record.occurred,
        record.causation,
        record.correlation,
        record.actor,
        record.handler,
        record.fingerprint,
        record.tags,
    )


@pytest.mark.parametrize("seed", range(10))
def test_an_untouched_branch_is_equal_to_its_origin(make: Make, seed: int) -> None:
    """Wherever it begins: ids, times, chance, answers, refusals, what reactions saw and sent, what timers rang, what is pending and to come."""
    made = make(seed, 40)
    if seed % 3:
        made.settle()
    made.clock.move(timedelta(minutes=2))
    made.settle()
    chance = random.Random(seed)
    head = made.running.log.head

    for at in (0, *sorted(chance.sample(range(1, head), 4)), head):
        with made.running.branch(at=at) as branch:
            assert branch.begins <= at
            assert not branch.diff(), f"from {at}:\n{branch.diff()}"
            assert list(map(essence, told(branch))) == list(map(essence, made.records()))
            assert branch.states(Balance) == made.running.states(Balance)
            assert branch.state(Total) == made.running.states(Total)[()]
            assert branch.view(Total).find(since=branch.log.head) == made.running.states(Total)[()]
            assert branch.log.verify().position == branch.log.head
            assert set(branch.log.engine.notes("timer/")) == set(made.running.log.engine.notes("timer/"))
            assert branch.failed == ()


def test_other_code_that_decides_the_same_makes_no_difference(make: Make) -> None:
    """Reactions of which the origin never ran the code hear everything, and come to the same."""
    made = make(4, 40)
    made.settle()
    functions: list[Callable[..., Any]] = [draw, warn, watch, remind, tariff]
    assert len(functions) == 5

    with made.running.branch(at=0, code=desk) as branch:
        assert not branch.diff()


def test_a_branch_of_a_branch(make: Make) -> None:
    """It lies over both."""
    made = make(6, 40)
    made.settle()
    paid = next(record.position for record in made.records() if record.name == "Paid")

    with made.running.branch(h.Drop(paid)) as first:
        assert first.diff()
        with first.branch(at=0) as second:
            assert not second.diff(), str(second.diff())
            assert list(map(essence, told(second))) == list(map(essence, told(first)))
        with first.branch(at=first.log.head) as second:
            assert not second.diff()


def test_a_branch_of_a_branch_finds_what_a_reaction_heard_by_any_id(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also by one that looks like that of a part, which is not taken any more."""
    monkeypatch.setattr("happened.log.log._check_names_no_part", str)
    with door.open() as running:
        running.record(Came("ann"), id="came#1")
        running.settled()

        with running.branch(at=0) as first, first.branch(at=0) as second:
            assert [record.name for record in told(second) if record.kind == "internal"] == ["Greeted"]
            assert not second.diff()


@pytest.mark.parametrize("edited", [False, True])
@pytest.mark.parametrize("at", ["before", "between", "behind"])
def test_a_branch_of_a_branch_finds_what_a_reaction_heard_of_a_row_of_several(at: str, edited: bool) -> None:
    """Each fact has an id of its own, which no index knows; and in a branch that is edited it stands elsewhere than in the log."""
    with door.open() as running:
        first_of_all = running.record(Came("eve"), id="eve").position
        running.log.append([h.Message(Came("ann"), id="one"), h.Message(Came("bob"), id="two")], id="both")
        running.settled()
        drop = [h.Drop(first_of_all)] if edited else []

        with running.branch(*drop, at=0) as first:
            both = next(record.position for record in first.log.read() if record.id == "two")
            with first.branch(at={"before": 0, "between": both, "behind": first.log.head}[at]) as second:
                greeted = [record.body for record in told(second) if record.kind == "internal"]
                assert greeted == [Greeted(name) for name in ("eve", "ann", "bob")[edited:]]
                assert not second.diff(), str(second.diff())


def test_what_is_in_flight_stays_so(make: Make) -> None:
    """A branch of a log that is not settled is as unsettled."""
    made = make(8, 30)
    for _ in range(20):
        made.step()
        with made.running.branch(at=0) as branch:
            assert not branch.diff(), str(branch.diff())
