"""What `evolve` may return: the next state of the same key, or `None` where its annotation says so. Anything else stops the key, and is said."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Optional

import msgspec
import pytest

import happened as h
from happened.core.state import fold_of
from happened.wiring import Decider

Sku = Annotated[str, h.Tag("sku")]


class Counted(h.Event):
    sku: Sku
    units: int


class Count(h.Command):
    sku: Sku
    units: int


class Forgetful(h.State):
    sku: Sku
    units: int = 0

    def evolve(self, event: Counted) -> "Forgetful":
        if event.units < 0:
            return None  # type: ignore[return-value]  # the mistake that is planted
        return self.but(units=event.units)


class Wandering(h.State):
    sku: Sku
    units: int = 0

    def evolve(self, event: Counted) -> "Wandering":
        return self.but(sku="other" if event.units < 0 else self.sku, units=event.units)


class Strange(h.State):
    sku: Sku
    units: int = 0

    def evolve(self, event: Counted) -> "Strange":
        found: Any = event if event.units < 0 else self.but(units=event.units)
        return found  # type: ignore[no-any-return]  # the mistake that is planted


SAID: dict[type[Any], str] = {
    Forgetful: r"`Forgetful\.evolve` returned None for `Counted`: return the next state, or annotate `-> Forgetful \| None`",
    Wandering: r"`Wandering\.evolve` changed the key `sku` from 'bad' to 'other' for `Counted`",
    Strange: r"`Strange\.evolve` returned a `Counted` for `Counted`",
}


def count_forgetful(command: Count, counted: Forgetful) -> Iterator[Counted]:
    yield Counted(command.sku, command.units)


def count_wandering(command: Count, counted: Wandering) -> Iterator[Counted]:
    yield Counted(command.sku, command.units)


def count_strange(command: Count, counted: Strange) -> Iterator[Counted]:
    yield Counted(command.sku, command.units)


DECIDERS: dict[type[Any], Decider] = {Forgetful: count_forgetful, Wandering: count_wandering, Strange: count_strange}


@pytest.mark.parametrize("state", DECIDERS, ids=lambda state: state.__name__)
def test_what_is_no_next_state_is_not_decided(state: type[Any]) -> None:
    """A decision whose events the state can't take is not recorded, and the state stays as it was."""
    with h.App("counts", deciders=[DECIDERS[state]]).open() as running:
        running.dispatch(Count("bad", 1))
        before = running.log.head

        with pytest.raises(h.Invalid, match=SAID[state]):
            running.dispatch(Count("bad", -1))

        assert (running.log.head, running.state(state, "bad")) == (before, state("bad", 1))


@pytest.mark.parametrize("state", DECIDERS, ids=lambda state: state.__name__)
def test_a_fact_that_has_no_next_state_stops_its_key(state: type[Any], tmp_path: Path) -> None:
    """What has happened is recorded whatever `evolve` makes of it: the key stands still in the image and in the view, others go on."""
    app = h.App("counts", records=[Counted], deciders=[DECIDERS[state]], views=[state])
    with app.open(f"sqlite:///{tmp_path}/counts.db") as running:
        running.record_all([Counted("bad", 1), Counted("bad", -1), Counted("good", 1)])
        receipt = running.record(Counted("good", 2))

        assert running.state(state, "good") == running.view(state).get("good", since=receipt) == state("good", 2)
        with pytest.raises(h.Stuck, match=SAID[state]):
            running.state(state, "bad")
        with pytest.raises(h.Stuck, match=SAID[state]):
            running.view(state).get("bad", since=receipt)
        with pytest.raises(h.Stuck, match=SAID[state]):
            running.states(state)


class Ends(h.State):
    sku: Sku

    def evolve(self, event: Counted) -> "Ends | None":
        return self


class EndsOptionally(h.State):
    sku: Sku

    def evolve(self, event: Counted) -> Optional["EndsOptionally"]:
        return self


class Lasts(h.State):
    sku: Sku
    name: str = ""

    def evolve(self, event: Counted) -> "Lasts":
        match event:
            case Counted(units=1):
                return self
            case _:
                return self.but(name="x") if event.units else self


class Whole(h.State):
    sku: Sku

    def evolve(self, event: Counted) -> "Whole":
        return Whole(event.sku)


class Local(h.State):
    sku: Sku

    def evolve(self, event: Counted) -> "Local":
        after = msgspec.structs.replace(self)
        return after  # noqa: RET504 - a name of its own is what is looked for


class Rebound(h.State):
    sku: Sku

    def evolve(self, event: Counted) -> "Rebound":
        self = Rebound("other")  # noqa: PLW0642 - the mistake that is planted
        return self  # noqa: RET504 - a name of its own is what is looked for


class Spread(h.State):
    sku: Sku

    def evolve(self, event: Counted) -> "Spread":
        return self.but(sku=event.sku)


@pytest.mark.parametrize(
    ("state", "may_end", "may_move"),
    [
        (Ends, True, False),
        (EndsOptionally, True, False),
        (Lasts, False, False),
        (Whole, False, True),
        (Local, False, True),
        (Rebound, False, True),
        (Spread, False, True),
        (Wandering, False, True),
    ],
)
def test_only_what_may_move_is_looked_at(state: type[Any], may_end: bool, may_move: bool) -> None:
    """What returns `self`, or `self.but(...)` without the key, needs no look at each event; all else is looked at."""
    fold = fold_of(state)

    assert (fold.may_end, fold.may_move) == (may_end, may_move)
