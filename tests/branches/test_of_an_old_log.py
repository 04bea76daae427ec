"""A branch of a log that an older release has written, or of which something was erased."""

from collections.abc import Iterable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Annotated

import pytest

import happened as h
from happened.testing import Clock

Account = Annotated[str, h.Tag("account")]


class Paid(h.Event):
    account: Account
    pounds: int


class Drawn(h.Event):
    account: Account
    pounds: int


class Draw(h.Command):
    account: Account
    pounds: int


class Drawings(h.State):
    account: Account
    count: int = 0

    def evolve(self, event: Drawn) -> "Drawings":
        return self.but(count=self.count + 1)


def draw(command: Draw, drawings: Drawings) -> Iterator[Drawn]:
    yield Drawn(command.account, command.pounds)


once = h.App("bank", records=[Paid], deciders=[draw], views=[Drawings])


class PaidIn(h.Event):
    account: Account
    pence: int


@h.named("Drawn", version=2)
class DrawnToday(h.Event):
    account: Account
    pence: int


@h.named("Draw", version=2)
class DrawToday(h.Command):
    account: Account
    pence: int


class Balance(h.State):
    account: Account
    pence: int = 0
    parts: int = 0

    def evolve(self, event: PaidIn | DrawnToday) -> "Balance":
        match event:
            case PaidIn():
                return self.but(pence=self.pence + event.pence, parts=self.parts + 1)
            case DrawnToday():
                return self.but(pence=self.pence - event.pence)


@h.named("draw")
def draw_today(command: DrawToday, balance: Balance) -> Iterator[DrawnToday]:
    if command.pence > balance.pence:
        raise h.Refused("overdrawn", missing=command.pence - balance.pence)
    yield DrawnToday(command.account, command.pence)


def in_pence(old: h.Data) -> h.Data:
    return {"account": old["account"], "pence": old["pounds"] * 100}


def in_two_halves(old: h.Data) -> Iterable[tuple[str, h.Data]]:
    return [("PaidIn", {"account": old["account"], "pence": old["pounds"] * 50})] * 2


today = h.App(
    "bank",
    records=[PaidIn],
    deciders=[draw_today],
    views=[Balance],
    upcasts=[h.Upcast("Paid", 1, in_two_halves), h.Upcast("Draw", 1, in_pence), h.Upcast("Drawn", 1, in_pence)],
)


@pytest.fixture
def url(tmp_path: Path) -> str:
    """Have 5 pounds paid in, 3 drawn, and then 4 and 1, of which the 4 are enqueued."""
    found = f"sqlite:///{tmp_path}/bank.db"
    with once.open(found) as running:
        running.record(Paid("a", 5), id="paid")
        running.dispatch(Draw("a", 3), id="three")
        running.outcome(running.enqueue(Draw("a", 4), id="four"))
        running.dispatch(Draw("a", 1), id="one")
    return found


def test_what_an_older_release_was_given_is_given_again_as_it_is_read_today(url: str) -> None:
    """Commands, facts, one that became several, and what was enqueued: decided on states of all that, as with a log of today's."""
    with today.open(url) as running:
        with running.branch(at=0) as branch:
            difference = branch.diff()

            assert branch.failed == ()
            assert [(one.name, one.id) for one in difference.missing] == [("Drawn", "four#1")]
            assert [(one.name, one.id) for one in difference.added] == [("refusal", "four#1")]
            assert branch.state(Balance, "a") == Balance("a", 100, 2)
            assert branch.view(Balance).get("a", since=branch.log.head) == Balance("a", 100, 2)
        three = next(record.position for record in running.log.read() if record.id == "three")
        with running.branch(h.Drop(three + 1), at=0) as branch:
            assert branch.state(Balance, "a") == Balance("a", 500 - 400 - 100, 2)


@pytest.mark.parametrize("erased", ["three", "four", ("account", "a")])
def test_a_command_that_was_erased_stays_as_it_is(url: str, erased: str | tuple[str, str]) -> None:
    """It is not known any more what was asked; what came of it, or is left of that, stands."""
    with once.open(url) as running:
        assert running.erase(erased, actor="ann", reason="asked for").scrubbed
        with running.branch(at=0) as branch:
            assert not branch.diff()
            assert branch.states(Drawings) == running.states(Drawings)
            assert branch.log.verify().position == branch.log.head
        for begins in range(running.log.head):  # also between a command that was enqueued and its decision
            with running.branch(at=begins) as branch:
                assert not branch.diff()
        paid = next(record.position for record in running.log.read() if record.id == "paid")
        with running.branch(h.Insert(paid, Draw("a", 1)), at=0) as branch:
            assert [record.name for record in branch.diff().added] == ["Draw", "Drawn"]
            before, after = running.state(Drawings, "a"), branch.state(Drawings, "a")
            assert after is not None
            assert after.count == (before.count if before is not None else 0) + 1


class Remind(h.Command):
    account: Account
    pounds: int


class Reminded(h.Event):
    account: Account
    pounds: int


def remind(command: Remind, drawings: Drawings) -> Iterator[Reminded]:
    yield Reminded(command.account, command.pounds)


def watch(event: Paid) -> Iterator[Remind | h.Later[Remind]]:
    yield Remind(event.account, event.pounds)
    yield h.Later(Remind(event.account, event.pounds), after=timedelta(minutes=1))


@pytest.mark.parametrize("erased", ["paid", ("account", "a")])
def test_what_a_reaction_did_on_an_event_that_was_erased_stays_as_it_is(erased: str | tuple[str, str]) -> None:
    """It can't hear that again: what it sent at once and later stands, also where something else is otherwise."""
    clock = Clock()
    with h.App("bank", records=[Paid], deciders=[remind], reactions=[watch], views=[Drawings]).open(source=clock) as running:
        for name in ("a", "b"):
            running.record(Paid(name, 5), id="paid" if name == "a" else "too")
            running.settled()
        clock.move(timedelta(minutes=2))
        while running.settled(wait_seconds_max=20).timers:
            pass
        running.record(Paid("c", 1), id="last")
        running.settled()
        running.erase(erased, actor="ann", reason="asked for")
        too = h.Position(next(record.position for record in running.log.read() if record.id == "too"))

        with running.branch(at=0) as branch:
            assert not branch.diff()
            assert branch.log.verify().position == branch.log.head
        with running.branch(h.Drop(too), at=0) as branch:
            difference = branch.diff()
            assert [record.name for record in difference.missing] == ["Paid", "schedule", "Remind", "Reminded", "Remind", "Reminded"]
            assert {record.body.account for record in difference.missing if isinstance(record.body, Remind | Reminded)} == {"b"}
            assert not difference.added
            assert not difference.changed


@pytest.mark.parametrize("ids", [("paid#1", "too"), ("paid", "too")], ids=["with a number sign", "of their own in one row"])
def test_so_it_does_whatever_the_id_of_the_event(ids: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """An id may look like that of a part, as none does any more that is taken today, or be one of several that were recorded together."""
    monkeypatch.setattr("happened.log.log._check_names_no_part", str)
    clock = Clock()
    with h.App("bank", records=[Paid], deciders=[remind], reactions=[watch], views=[Drawings]).open(source=clock) as running:
        facts = [h.Message(Paid(name, 5), id=id) for name, id in zip("ab", ids, strict=True)]  # noqa: A001 - as everywhere
        for given in [facts[:1], facts[1:]] if "#" in ids[0] else [facts]:
            running.log.append(given, id=given[0].id if len(given) == 1 else "both")
        running.settled()
        clock.move(timedelta(minutes=2))
        while running.settled(wait_seconds_max=20).timers:
            pass
        running.erase(("account", "a"), actor="ann", reason="asked for")
        [paid, _] = [record.position for record in running.log.read(h.query(names=["Paid"]))]

        with running.branch(at=0) as branch:
            assert not branch.diff()
        with running.branch(h.Drop(paid), at=0) as branch:
            assert [record.name for record in branch.diff().missing] == ["Paid", "schedule", "Remind", "Reminded", "Remind", "Reminded"]


def draw_later(event: Paid) -> Iterator[h.Later[Draw]]:
    yield h.Later(Draw(event.account, 1), after=timedelta(minutes=1))


@h.named("Paid", version=2)
class PaidToday(h.Event):
    account: Account
    pence: int


@h.named("draw_later")
def draw_later_today(event: PaidToday) -> Iterator[h.Later[DrawToday]]:
    yield h.Later(DrawToday(event.account, 100), after=timedelta(minutes=1))


@h.named("draw")
def draw_freely(command: DrawToday) -> Iterator[DrawnToday]:
    yield DrawnToday(command.account, command.pence)


def test_what_was_to_be_sent_later_is_compared_as_it_is_read_today(tmp_path: Path) -> None:
    """That it was kept in another shape is no difference."""
    url, clock = f"sqlite:///{tmp_path}/bank.db", Clock()
    with h.App("bank", records=[Paid], deciders=[draw], reactions=[draw_later]).open(url, source=clock) as running:
        running.record(Paid("a", 5), id="paid")
        running.settled()
        clock.move(timedelta(minutes=2))
        while running.settled(wait_seconds_max=20).timers:
            pass

    upcasts = [h.Upcast(name, 1, in_pence) for name in ("Paid", "Draw", "Drawn")]
    app = h.App("bank", records=[PaidToday], deciders=[draw_freely], reactions=[draw_later_today], upcasts=upcasts)
    with app.open(url, source=clock) as running, running.branch(at=0) as branch:
        assert not branch.diff()
