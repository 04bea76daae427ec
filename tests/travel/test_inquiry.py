"""What differs, how one entity went, who set a field, since when something no longer holds: each held against what a plain replay says."""

from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import happened as h
from happened.core.state import fold_of
from happened.inquiry import bisect, blame, differences, steps
from tests.travel.made import ALONE, VIEWS, Cancel, Line, Order, Ordered, Received, Returned, Sku, Stock, history, shop

SEEDS = st.integers(0, 2**32)


@settings(max_examples=10, deadline=None)
@given(seed=SEEDS, data=st.data())
def test_what_differs_between_two_positions(seed: int, data: st.DataObject) -> None:
    with shop.open("memory:", run=False) as running:
        history(running, seed, 12)
        before, after = (running.at(data.draw(st.integers(0, running.log.head))) for _ in range(2))
        found = differences(before, after, VIEWS)
        assert {(one.state, one.key) for one in found if one.state != "Returned"} == {
            (fold_of(state).name, key)
            for state in ALONE
            for key in {*before.states(state), *after.states(state)}
            if before.states(state).get(key) != after.states(state).get(key)
        }
        for one in found:
            assert one.before != one.after
            assert one.fields
        assert differences(before, before, VIEWS) == []


def test_fields_that_differ_are_told_with_both_values() -> None:
    with shop.open("memory:", run=False) as running:
        first = running.record(Received("a", 1, Decimal("1.5")))
        last = running.record(Received("a", 2, Decimal("1.5")))
        [one] = differences(running.at(first), running.at(last), [Stock])
        assert (one.key, one.fields) == (("a",), {"units": (1, 3)})
        [new] = differences(running.at(0), running.at(first), [Stock])
        assert new.before is None
        assert new.fields == {"sku": (None, "a"), "units": (None, 1), "price": (None, Decimal("1.5"))}


@settings(max_examples=10, deadline=None)
@given(seed=SEEDS)
def test_the_steps_of_an_entity_lead_to_what_it_is(seed: int) -> None:
    with shop.open("memory:", run=False) as running:
        history(running, seed, 20)
        folds = [fold_of(state) for state in VIEWS]
        for tag, value, state in (("sku", "sku-1", Stock), ("order", "o-2", Order)):
            found = list(steps(running.log, folds, tag, value, running.log.head))
            last: h.State | None = None
            for one in found:
                for changed in one.changes:
                    if changed.state == state.__name__:
                        assert (changed.key, changed.before, changed.error) == ((value,), last, "")
                        last = changed.after
                        assert running.at(one.position).position <= one.position
            assert last == running.state(state, value)
            assert [one.position for one in found] == [record.position for record in running.log.read(h.query(**{tag: value}))]


def test_a_state_that_stands_still_says_so_in_its_steps() -> None:
    with shop.open("memory:", run=False) as running:
        running.record(Received("a", 1, Decimal(1)))
        running.record(Received("a", 2, Decimal(1)))
        first, second = steps(running.log, [fold_of(Fragile)], "sku", "a", running.log.head)
        assert [one.error for one in first.changes] == ["ValueError: never"]
        assert second.changes == ()


class Fragile(h.State):
    sku: Sku
    units: int = 0

    def evolve(self, event: Received) -> "Fragile":
        raise ValueError("never")


def test_blame_names_event_command_and_actor_and_all_before() -> None:
    with shop.open("memory:", run=False) as running:
        running.record(Received("a", 5, Decimal(1)), id="delivery", actor="anna")
        running.record(Received("b", 5, Decimal(1)))
        running.record(Ordered("o", "CH", (Line("a", 2),)), id="order", actor="ben")
        running.record(Received("a", 0, Decimal(2)), id="price", actor="carl")
        found = blame(running.log, running.travel, Stock, ("a",), None, running.log.head)
        assert [(one.id, one.actor) for one in found] == [("price", "carl"), ("order", "ben"), ("delivery", "anna")]
        units = blame(running.log, running.travel, Stock, ("a",), "units", running.log.head)
        assert [one.id for one in units] == ["order", "delivery"]
        running.dispatch(Cancel("o"), id="cancel", actor="dora")
        [gone, _] = blame(running.log, running.travel, Order, ("o",), None, running.log.head)
        assert (gone.name, gone.command, gone.cause, gone.actor) == ("Cancelled", "Cancel", "cancel", "dora")
        assert gone.changes[0].after is None
        [joined] = blame(running.log, running.travel, Returned, ("CH",), "cancelled", running.log.head)
        assert (joined.command, joined.changes[0].after) == ("Cancel", Returned("CH", 1))
        with pytest.raises(h.NotThere, match="has set"):
            blame(running.log, running.travel, Stock, ("never",), None, running.log.head)
        with pytest.raises(h.Invalid, match="has no field"):
            blame(running.log, running.travel, Stock, ("a",), "colour", running.log.head)


@settings(max_examples=15, deadline=None)
@given(seed=SEEDS, least=st.integers(-30, 5), data=st.data())
def test_bisect_finds_the_first_position_where_something_no_longer_holds(seed: int, least: int, data: st.DataObject) -> None:
    with shop.open("memory:", run=False) as running:
        history(running, seed, 20)
        head, expression = running.log.head, f"units >= {least}"
        ends = [row.last for rows in running.log.engine.read() for row in rows]
        fails = [end for end in ends if any(one.units < least for one in running.at(end).states(Stock).values())]
        linear = bisect(running.log, running.travel, Stock, None, expression, head, linear=True)
        assert linear.position == (fails[0] if fails else None)
        if data.draw(st.booleans()) and ends:
            running.snapshots.take(fold_of(Stock), data.draw(st.sampled_from(ends)))
        found = bisect(running.log, running.travel, Stock, None, expression, head)
        assert found.how == "bisection"
        if found.position is None:
            assert head not in fails
        else:  # it holds just before, and no more there
            assert found.position in fails
            assert found.holds_at not in fails
            assert found.holds_at == max([end for end in ends if end < found.position], default=0)
            assert found.state is not None


def test_bisect_takes_a_logarithmic_number_of_folds_and_says_so() -> None:
    with shop.open("memory:", run=False) as running:
        for n in range(200):
            running.record(Received("a", 1, Decimal(n)))
        found = bisect(running.log, running.travel, Stock, ("a",), "units < 150", running.log.head)
        assert found.position == bisect(running.log, running.travel, Stock, ("a",), "units < 150", running.log.head, linear=True).position
        assert found.state == Stock("a", 150, Decimal(149))
        assert found.looks <= 10
        never = bisect(running.log, running.travel, Stock, ("a",), "price >= Decimal(0)", running.log.head)
        assert (never.position, never.holds_at) == (None, running.log.head)


@pytest.mark.parametrize(
    ("expression", "said"),
    [
        ("units >", "is no expression"),
        ("colour == 1", "has no field `colour`"),
        ("open('x')", "has no field `open`"),
        ("units.__class__", "private"),
        ("units / 0 > 1", "fails on"),
    ],
)
def test_a_wrong_expression_is_said(expression: str, said: str) -> None:
    with shop.open("memory:", run=False) as running:
        running.record(Received("a", 1, Decimal(1)))
        with pytest.raises(h.Invalid, match=said):
            bisect(running.log, running.travel, Stock, None, expression, running.log.head)


class Named(h.Event):
    sku: Sku
    name: str


class Priced(h.Event):
    sku: Sku
    cents: int


class Offer(h.Command):
    sku: Sku
    name: str
    cents: int


class Article(h.State):
    sku: Sku
    name: str = ""
    cents: int = 0

    def evolve(self, event: Named | Priced) -> "Article":
        match event:
            case Named():
                return self.but(name=event.name)
            case Priced():
                return self.but(cents=event.cents)


def offer(command: Offer) -> list[Named | Priced]:
    return [Named(command.sku, command.name), Priced(command.sku, command.cents), Priced(command.sku, command.cents - 1)]


def test_of_several_events_of_a_command_each_is_told_by_what_it_set() -> None:
    """No event is said to have set a field that it does not touch, and none that was set over is left out."""
    with h.App("shop", deciders=[offer], views=[Article]).open("memory:", run=False) as running:
        running.dispatch(Offer("a", "nut", 100), id="one")
        running.dispatch(Offer("a", "bolt", 100), id="two")

        def told(field: str | None) -> list[tuple[str, h.State | None]]:
            found = blame(running.log, running.travel, Article, ("a",), field, running.log.head)
            return [(one.id, one.changes[0].after) for one in found]

        assert told("name") == [("two#1", Article("a", "bolt", 99)), ("one#1", Article("a", "nut"))]
        assert [one for one, _ in told("cents")] == ["two#3", "two#2", "one#3", "one#2", "one#1"]
        assert [one for one, _ in told(None)] == ["two#3", "two#2", "two#1", "one#3", "one#2", "one#1"]
