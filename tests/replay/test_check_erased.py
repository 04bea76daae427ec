"""Deciding again a log of which something is erased: what had read it is named, and is no fault of the code."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import pytest

import happened as h
from happened.checking.decisions import ERASED, NOT_KEPT, Checked, decide_again
from happened.checking.reactions import GONE, UNHEARD, UNSENT
from happened.checking.reactions import NOT_KEPT as NOT_SENT
from happened.edge.replaying import decided_as_text
from happened.sourcing.replay import input_in
from tests.commands import run

Sku = Annotated[str, h.Tag("sku")]


class Received(h.Event):
    sku: Sku
    customer: Annotated[str, h.Tag("customer")]
    units: int


class Ordered(h.Event):
    sku: Sku
    left: int


class Noted(h.Event):
    sku: Sku
    units: int


class Order(h.Command):
    sku: Sku
    units: int


class Note(h.Command):
    sku: Sku
    units: int


class Stock(h.State):
    sku: Sku
    units: int = 0

    def evolve(self, event: Received | Ordered) -> "Stock":
        return self.but(units=self.units + event.units if isinstance(event, Received) else event.left)


class Sold(h.State):
    sku: Sku
    times: int = 0

    def evolve(self, _: Ordered) -> "Sold":
        return self.but(times=self.times + 1)


def rate(sku: str) -> int:
    return len(sku)


def app(more: int = 0, reacts: int = 0, store: str = "all") -> h.App:
    """Return the app, of code that comes to something else by so much."""

    def order(command: Order, stock: Stock, world: h.World) -> Iterator[Ordered]:
        world.ask(rate, command.sku)
        if command.units > stock.units:
            raise h.Refused("too many", left=stock.units)
        yield Ordered(command.sku, stock.units - command.units + more)

    def note(command: Note) -> Iterator[Noted]:
        yield Noted(command.sku, command.units)

    def watch(event: Ordered, sold: Sold, world: h.World) -> Iterator[Note]:
        world.ask(rate, event.sku)
        yield Note(event.sku, sold.times + reacts)

    return h.App("shop", records=[Received], deciders=[order, note], gateways=[rate], reactions=[watch], store=store)


@pytest.fixture
def url(tmp_path: Path) -> str:
    """Make a history: facts, an order and what follows from it, a refusal, an order of something else."""
    url = f"sqlite:///{tmp_path}/log.db"
    with app().open(url) as running:
        for who, sku in (("first", "nut"), ("second", "nut"), ("third", "bolt")):
            running.record(Received(sku, who, 5), id=who)
        running.settled(running.dispatch(Order("nut", 1), id="o-1"))
        with pytest.raises(h.Refused):
            running.dispatch(Order("nut", 100), id="o-2")
        running.settled(running.dispatch(Order("bolt", 1), id="o-3"))
    return url


def erased(url: str, *what: str) -> dict[str, int]:
    """Erase messages or records; return where those stood."""
    with app().open(url, run=False) as running:
        at = {record.id: record.position for record in running.log.read()}
        for one in what:
            assert running.erase(one, actor="ann", reason="asked for").records
    return at


def again(url: str, of: h.App) -> Checked:
    """Decide the log again."""
    with h.open_log(url) as log:
        checked = decide_again(of, log)
    assert checked.same + checked.unproven + checked.diverged == checked.inputs + checked.runs
    return checked


def test_what_had_read_something_that_is_erased_is_named_and_fails_nothing(url: str) -> None:
    """Its header says that it had: also where the code was changed, nothing can be told of it."""
    at = erased(url, "second")

    same, changed = again(url, app()), again(url, app(more=1))

    [one] = same.unproven_divergences
    assert (one.id, one.had_read, one.may_have_read) == ("o-1", (at["second"],), ())
    assert (same.unproven, same.diverged, changed.unproven, changed.diverged) == (1, 0, 1, 1)
    assert [one.id for one in changed.divergences] == ["o-3"]
    assert f"  erased  position {at['second']}, which it had read" in list(decided_as_text(same, 20))


def test_what_may_have_read_something_that_is_erased_is_named(url: str) -> None:
    """Of what was not the last change of a state the log does not say who had read it: the code that is what it was did; where it is another, it may be that."""
    at = erased(url, "first")

    same, changed = again(url, app()), again(url, app(more=1))

    [one] = same.unproven_divergences
    assert (one.id, one.had_read, one.may_have_read) == ("o-1", (), (at["first"],))
    assert (same.unproven, same.diverged) == (1, 0)
    assert (changed.unproven, [(one.id, one.may_have_read) for one in changed.divergences]) == (
        0,
        [("o-1", (at["first"],)), ("o-3", (at["first"],))],
    )
    assert f"  erased  position {at['first']}, which it may have read" in list(decided_as_text(changed, 20))


def test_who_reads_the_same_state_later_had_read_it_too(url: str) -> None:
    """An event that is known to have changed a state is missing in it ever after."""
    with app().open(url) as running:
        running.record(Received("nut", "fourth", 5), id="fourth")
        running.settled(running.dispatch(Order("nut", 1), id="o-4"))
    at = erased(url, "o-1#2")

    changed = again(url, app(more=1))

    assert [(one.id, one.had_read) for one in changed.unproven_divergences if one.handler == "order"] == [
        ("o-2", (at["o-1#2"],)),
        ("o-4", (at["o-1#2"],)),
    ]
    assert [one.id for one in changed.divergences] == ["o-3"]


def test_a_run_of_a_reaction_that_may_have_read_what_is_erased_is_named(url: str) -> None:
    """Its row does not say what it had read: where its code is another, that may be why."""
    with app().open(url) as running:
        running.settled(running.dispatch(Order("nut", 1), id="o-4"))
    at = erased(url, "o-1#2")

    same, changed = again(url, app()), again(url, app(reacts=5))

    assert [(one.handler, one.may_have_read) for one in same.unproven_divergences if one.handler == "watch"] == [("watch", (at["o-1#2"],))]
    assert same.diverged == 0
    assert [one.may_have_read for one in changed.divergences if one.handler == "watch"] == [(at["o-1#2"],)] * 2
    assert same.unchecked == {ERASED: 1, f"{GONE} (a reaction's run)": 1}


def test_a_run_of_a_reaction_whose_answer_is_erased_is_not_run_again(url: str) -> None:
    """It can't hear what it had heard."""
    with app().open(url, run=False) as running:
        [first, _] = [record.id for record in running.log.read() if record.kind == "answer" and record.id.endswith(":watch")]
    erased(url, first)

    checked = again(url, app())

    assert (checked.unchecked, checked.diverged) == ({f"{UNHEARD} (a reaction's run)": 1}, 0)


def test_a_run_of_a_reaction_whose_command_is_erased_is_not_run_again(url: str) -> None:
    """There is nothing to compare with."""
    with app().open(url, run=False) as running:
        [first, _] = [record.id for record in running.log.read() if record.name == "Note"]
    erased(url, first)

    checked = again(url, app())

    assert (checked.unchecked, checked.diverged) == ({ERASED: 1, f"{UNSENT} (a reaction's run)": 1}, 0)


def test_what_was_never_kept_is_not_said_to_be_erased(tmp_path: Path) -> None:
    """An app that keeps decisions only has no inputs to decide again, and nobody has erased anything."""
    url = f"sqlite:///{tmp_path}/log.db"
    keeps = app(store="decisions")
    with keeps.open(url) as running:
        running.record(Received("nut", "ann", 5))
        running.settled(running.dispatch(Order("nut", 1)))

    checked = again(url, keeps)

    assert checked.unchecked == {NOT_KEPT: 2, f"{NOT_SENT} (a reaction's run)": 1}
    with keeps.open(url, run=False) as running:
        row = next(row for rows in running.log.engine.read() for row in rows if row.input is not None)
        with pytest.raises(h.NotThere, match="is not kept"):
            input_in(running.log.reader, row)


@pytest.mark.parametrize("what", [["o-1#1"], ["o-2#1", "o-2#2"], ["o-2#2"]], ids=["an answer", "a refusal and its answer", "a refusal"])
def test_a_decision_of_which_something_is_erased_is_not_decided_again(url: str, what: list[str]) -> None:
    """What it had heard, or what it is to be compared with, is not there: whatever the code comes to."""
    erased(url, *what)

    checked = again(url, app())

    assert (checked.unchecked, checked.diverged, checked.unproven) == ({ERASED: 1}, 0, 0)


def test_a_refusal_whose_reason_is_erased_and_that_is_accepted_now_is_a_difference(url: str) -> None:
    """That it was refused is known."""
    erased(url, "o-2#2")

    def order(command: Order, world: h.World) -> Iterator[Ordered]:
        world.ask(rate, command.sku)
        yield Ordered(command.sku, 0)

    checked = again(url, h.App("shop", records=[Received], deciders=[order], gateways=[rate]))

    assert "o-2" in [one.id for one in checked.divergences]


MODEL = """
import happened as h
from typing import Annotated

Sku = Annotated[str, h.Tag("sku")]

class Received(h.Event):
    sku: Sku

class Counted(h.Event):
    sku: Sku
    units: int

class Count(h.Command):
    sku: Sku

class Stock(h.State):
    sku: Sku
    units: int = 0

    def evolve(self, event: Received) -> "Stock":
        return self.but(units=self.units + 1)

def count(command: Count, stock: Stock) -> list[Counted]:
    return [Counted(command.sku, stock.units)]

app = h.App("stock", records=[Received], deciders=[count])
"""


def test_the_exit_code_is_that_of_the_code(tmp_path: Path) -> None:
    """Erasing breaks no check that was green; a changed code is told, with what may be why."""
    (tmp_path / "model.py").write_text(MODEL, encoding="utf-8")
    (tmp_path / "other.py").write_text(MODEL.replace("stock.units)]", "stock.units + 7)]"), encoding="utf-8")
    fill = (
        "import model as m\nwith m.app.open('sqlite:///log.db') as r:\n r.record(m.Received('nut'), id='d-1')\n r.record(m.Received('nut'))\n"
        " r.dispatch(m.Count('nut'))\n r.erase('d-1', actor='ann', reason='asked for')\n"
    )
    subprocess.run([sys.executable, "-c", fill], cwd=tmp_path, check=True)
    check = ("--decide", "--log", "sqlite:///log.db")

    code, text, _ = run(tmp_path, "check", "model:app", *check)
    _, told, _ = run(tmp_path, "check", "model:app", *check, "--json")
    other, differs, _ = run(tmp_path, "check", "other:app", *check)

    assert (code, other) == (0, 1)
    assert "1 come to something else, and had read what is erased since, or may have" in text
    decided = json.loads(told)["decide"]
    assert (decided["unproven"], decided["diverged"], decided["unproven_divergences"][0]["may_have_read"]) == (1, 0, [6])
    assert "erased  position 6, which it may have read" in differs


class Begun(h.Event):
    sku: Sku


class Went(h.Event):
    sku: Sku


class Go(h.Command):
    sku: Sku


class Trip(h.State):
    sku: Sku
    begun: bool = False
    steps: int = 0

    def evolve(self, event: Begun | Went) -> "Trip":
        if isinstance(event, Begun):
            return self.but(begun=True)
        if not self.begun:
            raise ValueError("never begun")
        return self.but(steps=self.steps + 1)


def go(command: Go, trip: Trip) -> Iterator[Went]:
    yield Went(command.sku)


def test_a_state_that_stands_still_since_something_is_erased_is_named(tmp_path: Path) -> None:
    """What its `evolve` can't take any more stops its key: whoever had read it can't be decided again, and nothing else stops."""
    url = f"sqlite:///{tmp_path}/log.db"
    trips = h.App("trips", records=[Begun], deciders=[go])
    with trips.open(url) as running:
        begun = running.record(Begun("nut"), id="begun")
        for number in range(3):
            running.dispatch(Go("nut"), id=f"g-{number}")
        later = running.record(Begun("nut"), id="again")
        running.dispatch(Go("nut"), id="g-3")
        for one in ("begun", "again"):
            running.erase(one, actor="ann", reason="asked for")

    checked = again(url, trips)

    assert (checked.inputs, checked.same, checked.unproven, checked.diverged) == (4, 1, 3, 0)
    assert [one.had_read for one in checked.unproven_divergences] == [(begun.position,)] * 2 + [(begun.position, later.position)]
    assert "never begun" in str(checked.unproven_divergences[0].differences[0].now)
