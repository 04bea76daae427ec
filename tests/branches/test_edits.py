"""What is otherwise in a branch: each edit, other code, what does not fit, what goes on, and that nothing reaches outside."""

import builtins
import random
import socket
import sqlite3
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

import happened as h
from happened.testing import Clock
from tests.branches.conftest import Make, told
from tests.branches.desk import Balance, Draw, Drawn, Opened, Paid, Warn, Warned, charge, desk, draw, remind, tariff, warn, watch
from tests.programs import p08_branch
from tests.programs.p02_order import PlaceOrder, StockReceived, Wish, price, shop
from tests.servers import fresh


def fee_of(fee: int) -> Callable[[str, Decimal], Decimal]:
    def answered(account: str, amount: Decimal) -> Decimal:
        return Decimal(fee)

    return answered


def by_units(sku: str, units: int) -> Decimal:
    return Decimal(units)


def of(records: list[h.Record] | tuple[h.Record, ...]) -> list[tuple[str, str]]:
    return [(record.name, record.id) for record in records]


@pytest.fixture
def running() -> Iterator[h.Running]:
    """Have 100 paid in, 70 and 60 drawn, and 5 paid in: one is overdrawn by 30, and warned."""
    clock = Clock()
    with desk.open(source=clock, gateways={tariff: fee_of(2)}) as one:
        one.record(Paid("a", Decimal(100)), id="first")
        for own, amount in (("seventy", 70), ("sixty", 60)):
            clock.move(timedelta(minutes=1))
            one.dispatch(Draw("a", Decimal(amount)), id=own)
            one.settled()
        while one.settled(wait_seconds_max=20).timers:
            clock.move(timedelta(minutes=1))
        one.record(Paid("a", Decimal(5)), id="last")
        yield one


def at(running: h.Running, id: str) -> int:
    return next(record.position for record in running.log.read() if record.id == id)


def test_a_changed_fact_changes_what_follows(running: h.Running) -> None:
    """Enough was paid in, so nobody was warned, and no fee was due."""
    with running.branch(h.Change(at(running, "first"), Paid("a", Decimal(200)))) as branch:
        difference = branch.diff()

        assert difference.first is not None
        assert difference.first.what == "changed"
        assert difference.changed[0].fields == {"amount": ("100", "200")}
        assert not difference.added
        assert {name for name, _ in of(difference.missing)} >= {"Warn", "Warned", "schedule", "Charge", "Charged"}
        assert branch.state(Balance, "a") == Balance("a", Decimal(75))
        assert [row.state for row in difference.rows] == ["Balance", "Total"]


def test_a_dropped_command_takes_with_it_what_it_decided(running: h.Running) -> None:
    """Its events, and all that they caused."""
    with running.branch(h.Drop(at(running, "sixty"))) as branch:
        difference = branch.diff()

        assert of(difference.missing)[:2] == [("Draw", "sixty"), ("Drawn", "sixty#1")]
        assert str(difference.first).startswith("missing: ")
        assert branch.state(Balance, "a") == Balance("a", Decimal(35))


def test_an_event_that_was_decided_is_replaced_and_its_command_is_not_decided_again(running: h.Running) -> None:
    """Its command stays, and what comes later is decided on what was put there."""
    drawn = at(running, "seventy#1")

    with running.branch(h.Change(drawn, Drawn("a", Decimal(10), "edited"))) as branch:
        assert [(one.before.id, dict(one.fields)["amount"]) for one in branch.diff().changed] == [("seventy#1", ("70", "10"))]
        assert branch.state(Balance, "a") == Balance("a", Decimal(35))
    with running.branch(h.Drop(drawn)) as branch:
        assert of(branch.diff().missing)[0] == ("Drawn", "seventy#1")
        assert branch.log.find("seventy")
        assert branch.log.verify().position == branch.log.head


def test_a_command_that_a_reaction_has_sent_is_changed_or_dropped(running: h.Running) -> None:
    """The reaction ran as it did; what its command caused follows from the one in its place."""
    sent = next(record for record in running.log.read() if record.name == "Warn")

    with running.branch(h.Drop(sent.position)) as branch:
        difference = branch.diff()
        assert str(difference.first) == f"missing: {sent.position} Warn {sent.id}: {sent.body}"
        assert [record.name for record in difference.missing][:3] == ["Warn", "Warned", "schedule"]
        assert "Charge" not in [record.name for record in difference.missing]
        assert not difference.added
        balance = branch.state(Balance, "a")
        assert balance is not None
        assert balance.warned == 0
    with running.branch(h.Change(sent.position, Warn("b")), at=0) as branch:
        difference = branch.diff()
        assert next((one.before.id, dict(one.fields)) for one in difference.changed) == (sent.id, {"account": ("a", "b")})
        assert [record.causation for record in branch.log.read() if record.id == sent.id] == [sent.causation]
        balance = branch.state(Balance, "b")
        assert balance is not None
        assert balance.warned == 3
        assert branch.log.verify().position == branch.log.head
    with running.branch(h.Change(sent.position, Draw("a", Decimal(3))), answers={tariff: fee_of(2)}) as branch:
        assert [record.name for record in branch.diff().added][:3] == ["Drawn", "schedule", "Warn"]


def test_an_edit_of_a_command_that_no_reaction_sends_is_said(running: h.Running) -> None:
    """By other code, or since what it heard did not happen; changed or dropped, sent at once or later. One that applies is not named."""
    sent = {name: next(record for record in running.log.read() if record.name == name) for name in ("Warn", "Charge")}
    paid = next(record for record in running.log.read() if record.name == "Paid")
    for record, to in ((sent["Warn"], Warn("b")), (sent["Charge"], None)):
        edit = h.Drop(record.position) if to is None else h.Change(record.position, to)
        with running.branch(edit, at=0) as branch:
            assert branch.failed == ()
        for code in (other(draw, warn, charge, reactions=()), None):
            edits = [edit] if code is not None else [edit, h.Change(paid.position, Paid("a", Decimal(1000)))]
            with running.branch(*edits, at=0, code=code) as branch:
                assert [(one.position, one.id) for one in branch.failed] == [(record.position, record.id)]
                assert f"{record.id}: its edit applies to nothing: no reaction has sent this command here" in str(branch.diff())


def test_a_command_that_a_reaction_has_sent_later_is_changed_or_dropped(running: h.Running) -> None:
    """Where it came is what is otherwise; that it was to come is not."""
    sent = next(record for record in running.log.read() if record.name == "Charge")

    with running.branch(h.Drop(sent.position)) as branch:
        assert [record.name for record in branch.diff().missing] == ["Charge", "answer", "Charged"]
        assert branch.settled(wait_seconds_max=20).timers == ()
        assert not branch.log.find(sent.id)
    with running.branch(h.Change(sent.position, Warn("b")), at=0) as branch:
        assert [record.name for record in branch.diff().added][:1] == ["Warned"]
        assert "schedule" not in [one.before.name for one in branch.diff().changed]


@pytest.mark.parametrize("seed", range(6))
def test_any_command_of_a_handler_can_be_dropped(make: Make, seed: int) -> None:
    """It is not there, nothing else has its id, and nothing but what it caused is missing for another reason than the states."""
    made = make(seed, 60)
    made.settle()
    sent = [record for record in made.records() if record.kind == "input" and record.name in ("Warn", "Charge")]
    for record in made.chance.sample(sent, min(4, len(sent))):
        with made.running.branch(h.Drop(record.position), answers={tariff: fee_of(1)}) as branch:
            difference = branch.diff()
            assert not branch.log.find(record.id)
            assert record.id in [one.id for one in difference.missing]
            assert difference.first is not None
            assert difference.first.before is not None
            assert difference.first.before.id == record.id


def test_what_is_inserted_is_decided_in_its_place(running: h.Running) -> None:
    """After a position, or first of all; a command that is refused is recorded so."""
    early = h.Insert(0, h.Message(Draw("a", Decimal(60)), id="early", actor="me"))
    middle = h.Insert(at(running, "seventy"), Paid("a", Decimal(1000)))

    with running.branch(early) as branch:
        assert branch.begins == 0
        assert of(branch.diff().added) == [("Draw", "early"), ("refusal", "early#1")]
        assert next(record for record in branch.log.read() if record.id == "early").actor == "me"
    with running.branch(middle) as branch:
        assert branch.state(Balance, "a") == Balance("a", Decimal(975))
        assert branch.begins == at(running, "seventy#1")


def test_answers_and_the_clock_of_a_command(running: h.Running) -> None:
    """What the outside said, that it failed, and when it was."""
    order = shop.open("memory:", gateways={price: by_units}, source=Clock())
    with order:
        order.record(StockReceived("widget", 50), id="stock")
        order.dispatch(PlaceOrder("o", "c", (Wish("widget", 2),)), id="order")
        answered = next(record.position for record in order.log.read() if record.kind == "answer")
        with order.branch(h.Answer(answered, Decimal("9.99"))) as branch:
            assert {one.before.name: dict(one.fields) for one in branch.diff().changed}["OrderPlaced"]["lines"][1][0]["price"] == "9.99"
            assert branch.diff().first is not None
        with order.branch(h.Answer(answered, TimeoutError("no answer"))) as branch:
            [failed] = branch.failed
            assert "TimeoutError: no answer" in failed.error
            assert of(branch.diff().missing)[0] == ("PlaceOrder", "order")


@pytest.mark.parametrize("value", ["cheap", None, {"price": "1"}, object()])
def test_an_answer_that_the_gateway_can_not_have_given_is_refused(value: object) -> None:
    """Before anything is done: the decider would fail on it, and every later command would be decided on what did not happen."""
    with shop.open("memory:", gateways={price: by_units}, source=Clock()) as order:
        order.record(StockReceived("widget", 50), id="stock")
        order.dispatch(PlaceOrder("o", "c", (Wish("widget", 2),)), id="order")
        answered = next(record.position for record in order.log.read() if record.kind == "answer")

        with pytest.raises(h.Invalid, match=f"position {answered} is an answer of the gateway `price`, which does not return"):
            order.branch(h.Answer(answered, value))


def test_an_answer_that_fails_in_a_branch_may_be_caught() -> None:
    """It is recorded as a failure, heard again by a branch of that branch, and one that failed may be an answer."""

    class Ship(h.Command):
        order: str

    class Shipped(h.Event):
        order: str
        cents: int

    def postage(order: str) -> int:
        return 500

    def ship(command: Ship, world: h.World) -> Iterator[Shipped]:
        try:
            cents = world.ask(postage, command.order)
        except h.GatewayFailed:
            cents = 0
        yield Shipped(command.order, cents)

    with h.App("post", deciders=[ship], gateways=[postage]).open() as running:
        running.dispatch(Ship("o"), id="o")
        answered = h.Position(next(record.position for record in running.log.read() if record.kind == "answer"))

        with running.branch(h.Answer(answered, TimeoutError("no answer"))) as branch:
            assert branch.failed == ()
            assert [one.fields for one in branch.diff().changed if one.before.name == "Shipped"] == [{"cents": (500, 0)}]
            [said] = [record.body for record in branch.log.read() if record.kind == "answer"]
            assert said["error"] == "TimeoutError: no answer"
            assert "answer" not in said
            with branch.branch(at=0) as again, branch.branch(h.Answer(answered, 7)) as answering:
                assert not again.diff()
                assert [record.body for record in answering.log.read() if record.name == "Shipped"] == [Shipped("o", 7)]


def test_the_eighth_program(tmp_path: Path) -> None:
    """As the reference has it."""
    with shop.open(f"sqlite:///{tmp_path}/shop.db", gateways={price: by_units}) as order:
        seen = order.record(StockReceived("widget", 50), id="stock").position
        order.dispatch(PlaceOrder("o", "c", (Wish("widget", 2),)), id="order")
        order.dispatch(PlaceOrder("p", "c", (Wish("widget", 40),)), id="more")
        answered = next(record.position for record in order.log.read() if record.kind == "answer")

        difference, units = p08_branch.changed(order, h.Position(seen), h.Position(answered))

    assert units == 3
    assert difference.first is not None
    assert difference.first.what == "changed"
    assert [record.name for record in difference.added] == ["refusal"]
    assert [record.name for record in difference.missing] == ["OrderPlaced"]


class Stamped(h.Event):
    account: str
    at: datetime


class Stamp(h.Command):
    account: str


def stamp(command: Stamp, world: h.World) -> Iterator[Stamped]:
    yield Stamped(command.account, world.now)


def test_the_clock_of_one_command() -> None:
    """It hears another time, and is recorded when it was."""
    app = h.App("stamps", deciders=[stamp])
    noon = datetime(2030, 1, 1, 12, tzinfo=UTC)
    with app.open(source=Clock()) as running:
        running.dispatch(Stamp("a"), id="one")
        running.dispatch(Stamp("b"), id="two")
        with running.branch(h.Clock(at(running, "one"), noon)) as branch:
            assert [(one.after.body, one.after.time) for one in branch.diff().changed] == [
                (Stamped("a", noon), datetime(2026, 1, 1, tzinfo=UTC))
            ]


def strict_draw(command: Draw, balance: Balance, world: h.World) -> Iterator[Drawn]:
    if command.amount > balance.amount:
        raise h.Refused("overdrawn")
    yield Drawn(command.account, command.amount, str(world.new_id()))


def broken_draw(command: Draw) -> Iterator[Drawn]:
    yield Drawn(command.account, command.amount / 0, "")


def asking(command: Draw, balance: Balance, world: h.World) -> Iterator[Drawn]:
    try:
        fee = world.ask(tariff, command.account, command.amount)
    except Exception:  # noqa: BLE001 - what a decider that catches everything does
        fee = Decimal(0)
    yield Drawn(command.account, command.amount + fee, "")


def warn_all(event: Paid) -> Iterator[Warn]:
    yield Warn(event.account)


def other(*deciders: Any, reactions: Any = (watch, remind)) -> h.App:
    return h.App("desk", records=[Opened, Paid], deciders=deciders, gateways=[tariff], reactions=reactions, views=[Balance])


def test_other_code_decides_otherwise(running: h.Running) -> None:
    """Overdrafts are refused, and what they caused is gone."""
    with running.branch(at=0, code=other(strict_draw, warn, charge)) as branch:
        difference = branch.diff()

        assert [record.id for record in difference.added if record.name == "refusal"] == ["sixty#1"]
        assert branch.state(Balance, "a") == Balance("a", Decimal(35))
        assert not branch.failed


def test_a_reaction_that_is_new_hears_what_is_given(running: h.Running) -> None:
    """In its turn, with ids of its own, the same in each such branch."""
    code = other(draw, warn, charge, reactions=(watch, remind, warn_all))
    ids: list[list[str]] = []
    for _ in range(2):
        with running.branch(at=0, code=code, answers={tariff: fee_of(2)}) as branch:
            ids.append([record.id for record in branch.diff().added])
            assert [record.name for record in branch.diff().added if record.kind == "input"].count("Warn") >= 2
    assert ids[0] == ids[1]


def test_a_decider_that_raises_is_seen(running: h.Running) -> None:
    """Nothing of its commands is recorded, and the difference says why."""
    with running.branch(at=0, code=other(broken_draw, warn, charge)) as branch:
        assert [one.id for one in branch.failed] == ["seventy", "sixty"]
        assert "DivisionByZero" in branch.failed[0].error
        assert "failed (2):" in str(branch.diff())


def test_a_new_question_is_unanswered_or_given_to_a_function(running: h.Running) -> None:
    """Also where the decider catches every error."""
    code = other(asking, warn, charge)

    with pytest.raises(h.Unanswered, match=r"`seventy` asks `tariff\('a', Decimal\('70'\)\)`.*answers=\{tariff: a function\}"):
        running.branch(at=0, code=code)
    with running.branch(at=0, code=code, answers={tariff: fee_of(3)}) as branch:
        assert next(record.body.amount for record in branch.log.read() if record.name == "Drawn") == Decimal(73)
        with pytest.raises(h.Invalid, match="not among the app's gateways"):
            running.branch(answers={warn: lambda: None})


@pytest.mark.parametrize(
    ("edit", "text"),
    [
        (h.Drop(10_000), "there is nothing at position 10000: the log ends at"),
        (h.Drop(0), "positions begin with 1"),
        (h.Drop(-1), "no position"),
        (h.Change(1, Paid("a", Decimal(1))), "only commands and events can be changed"),
        (h.Insert(10_000, Paid("a", Decimal(1))), "there is nothing at position 10000"),
        (h.Insert(0, "nothing"), "can't be inserted: give a command or an event"),
        (h.Insert(0, StockReceived("a", 1)), "the app has no `StockReceived`"),
        ("drop", "is no edit"),
    ],
)
def test_what_does_not_fit_is_said(running: h.Running, edit: Any, text: str) -> None:
    """Before anything is done."""
    with pytest.raises(h.Invalid, match=text):
        running.branch(edit)


def test_what_does_not_fit_its_position_is_said(running: h.Running) -> None:
    """The kinds, what a reaction has sent, two edits of one place, edits that exclude each other, a beginning behind an edit."""
    fact, command, event = at(running, "first"), at(running, "seventy"), at(running, "seventy#1")
    caused = next(record.position for record in running.log.read() if record.name == "Warned")
    sent = next(record.position for record in running.log.read() if record.name == "Warn")
    now = datetime(2026, 1, 1, tzinfo=UTC)
    edits: list[tuple[list[Any], str]] = [
        ([h.Change(fact, Draw("a", Decimal(1)))], "give an event"),
        ([h.Change(command, Paid("a", Decimal(1)))], "give a command"),
        ([h.Answer(command, 1)], "no answer of the outside"),
        ([h.Clock(fact, now)], "only the clock of a command"),
        ([h.Clock(command, datetime(2026, 1, 1))], "a time must have a zone"),  # noqa: DTZ001 - that is what is wrong
        ([h.Drop(caused)], "`watch` has heard, and comes anew in a branch"),
        ([h.Clock(sent, now)], "change or drop the command that it has sent"),
        ([h.Change(sent, Paid("a", Decimal(1)))], "give a command"),
        ([h.Drop(sent), h.Drop(sent)], "two edits"),
        ([h.Drop(fact), h.Drop(fact)], "two edits"),
        ([h.Clock(command, now), h.Drop(event)], "not decided again"),
        ([h.Change(fact, StockReceived("a", 1))], "the app has no `StockReceived`"),
    ]
    for given, text in edits:
        with pytest.raises(h.Invalid, match=text):
            running.branch(*given)
    with pytest.raises(h.Invalid, match="an edit is about what lies before"):
        running.branch(h.Drop(fact), at=command)
    for code in (Paid, "shop:app"):
        with pytest.raises(h.Invalid, match="`code` is the app to run the branch with"):
            running.branch(code=code)  # type: ignore[arg-type]  # that is what is tried
    with pytest.raises(h.Invalid, match=f"the log ends at position {running.log.head}: there is no {running.log.head + 1} in it yet"):
        running.branch(at=running.log.head + 1)


def test_a_branch_goes_on_when_it_is_given_something(running: h.Running) -> None:
    """As a running app: reactions run, `would` tries, and the origin knows nothing of it."""
    head = running.log.head
    with running.branch() as branch:
        assert branch.begins == branch.log.head == head
        branch.record(Paid("b", Decimal(10)), id="more")
        branch.dispatch(Draw("b", Decimal(30)), id="drawn")
        assert branch.settled(wait_seconds_max=20).done
        assert [record.name for record in branch.log.read(after=head) if record.name == "Warned"] == ["Warned"]
        assert branch.trace("drawn").records > 2
        assert branch.outcome(branch.enqueue(Draw("b", Decimal(1)), id="later"), wait_seconds_max=20).events
        with pytest.raises(h.Refused):
            branch.dispatch(Draw("b", Decimal(500)))
        assert branch.log.identity.id != running.log.identity.id
    assert running.log.head == head
    assert running.log.find("drawn") == []


def test_a_branch_reaches_nothing_outside(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """With sockets and files blocked it is made, edited, run by other code, gone on with, and compared."""
    made = make(2, 40)
    made.settle()
    fact = next(record.position for record in made.records() if record.name == "Paid")
    asked: list[str] = []

    def refuse(*given: Any, **named: Any) -> Any:
        asked.append(f"{given} {named}")
        raise AssertionError(asked[-1])

    for place, name in ((socket, "socket"), (socket, "create_connection"), (socket, "getaddrinfo"), (builtins, "open")):
        monkeypatch.setattr(place, name, refuse)
    opened = sqlite3.connect

    def in_memory(path: Any, *given: Any, **named: Any) -> Any:
        return opened(path, *given, **named) if ":memory:" in str(path) or "mode=memory" in str(path) else refuse(path)

    monkeypatch.setattr(sqlite3, "connect", in_memory)
    with made.running.branch(h.Drop(fact), answers={tariff: fee_of(1)}) as branch:
        assert branch.diff()
        branch.dispatch(Draw("a0", Decimal(1)))
        branch.settled(wait_seconds_max=20)
    assert asked == []


def test_a_changed_prefix_is_diverged(tmp_path: Path, running: h.Running) -> None:
    """A branch in a file does not lie over another log."""
    url, kept = f"sqlite:///{tmp_path}/desk.db", f"sqlite:///{tmp_path}/desk.branch-x.db"
    for own in ("one", "two"):
        with desk.open(url, source=Clock(), views="memory:") as origin:
            origin.record(Paid("a", Decimal(100)), id=own)
            if own == "one":
                with origin.branch() as branch:
                    branch.record(Paid("a", Decimal(1)), id="mine")
                    branch.save(kept)
                    with pytest.raises(h.Invalid, match="names no new file"):
                        branch.save(kept)
        if own == "one":
            with desk.open(kept, views="memory:", run=False) as again:
                assert again.state(Balance, "a") == Balance("a", Decimal(101))
                assert again.log.verify().position == again.log.head
            (tmp_path / "desk.db").unlink()
    with pytest.raises(h.Diverged, match="no longer has what it had"):
        desk.open(kept, views="memory:", run=False)
    with running.branch() as branch, pytest.raises(h.Invalid, match="in memory"):
        branch.save(f"sqlite:///{tmp_path}/other.db")


def test_the_origin_goes_on_while_a_branch_is_made_and_read(tmp_path: Path) -> None:
    """Whatever is recorded meanwhile is not in it."""
    with desk.open(f"sqlite:///{tmp_path}/desk.db", views="memory:", gateways={tariff: fee_of(1)}) as origin:
        for n in range(30):
            origin.record(Paid(f"a{n % 3}", Decimal(10)), id=f"paid-{n}")
        stop = threading.Event()

        def busy() -> None:
            n = 0
            while not stop.is_set():
                n += 1
                origin.dispatch(Draw(f"a{n % 3}", Decimal(1)), id=f"busy-{n}") if n < 150 else stop.wait(0.01)

        thread = threading.Thread(target=busy)
        thread.start()
        try:
            for _ in range(8):
                with origin.branch(at=0) as branch:
                    until = branch.until
                    assert not branch.diff(), str(branch.diff())
                    here = [record.id for record in told(branch)]
                    assert sorted(here) == sorted(record.id for record in origin.log.read(until=until) if record.kind != "system")
        finally:
            stop.set()
            thread.join()


def test_a_difference_says_how_much_it_hides(running: h.Running) -> None:
    """Of each kind so many lines."""
    with running.branch(h.Drop(at(running, "sixty"))) as branch:
        difference = branch.diff()
        lines = list(difference.lines(2))

    assert lines[1] == f"missing ({len(difference.missing)}):"
    assert lines[4] == f"  and {len(difference.missing) - 2} more"
    assert Warned.__name__ in str(difference)


@pytest.mark.parametrize("kept", ["file", "PostgreSQL"])
@pytest.mark.parametrize("seed", range(4))
def test_a_branch_of_a_saved_branch_is_saved_and_opened_again(tmp_path: Path, seed: int, kept: str) -> None:
    """Three deep, over a log in a file or in PostgreSQL; each is read, found by its index, verified and gone on with as what it was in memory; those below may go on meanwhile."""
    chance = random.Random(seed)
    print(f"seed {seed}")
    urls = [f"sqlite:///{tmp_path}/desk{number}.db" if number or kept == "file" else fresh() for number in range(4)]
    with desk.open(urls[0], source=Clock(), views="memory:", gateways={tariff: fee_of(2)}) as running:
        for number in range(20):
            running.record(Paid(f"a{chance.randrange(3)}", Decimal(chance.randrange(50))), id=f"paid-{number}")
    for number, url in enumerate(urls[1:]):
        with desk.open(urls[number], run=False, views="memory:") as below:
            drops = [record.position for record in told(below) if record.name == "Paid"]
            with below.branch(h.Drop(chance.choice(drops))) as branch:
                for more in range(3):
                    branch.record(Paid(f"a{chance.randrange(3)}", Decimal(5)), id=f"more-{number}-{more}")
                branch.save(url)
                expected, found = told(branch), dict(branch.states(Balance))
            below.record(Paid("a0", Decimal(1000)), id=f"behind-{number}")
        with desk.open(url, run=False, views="memory:") as again:
            assert told(again) == expected
            assert again.states(Balance) == found
            for account in ("a0", "a1", "a2"):
                own = [record for record in expected if getattr(record.body, "account", "") == account]
                assert [record for record in again.log.read(h.query(account=account)) if record.kind != "system"] == own
                assert again.state(Balance, account) == found.get((account,))
            for record in expected:
                assert [row.position for row in again.log.find(record.id)] == [record.row]
            assert again.log.verify().position == again.log.head


def test_a_branch_of_an_unsaved_branch_is_not_saved(tmp_path: Path) -> None:
    """There would be nothing to lie over."""
    with desk.open(f"sqlite:///{tmp_path}/desk.db", source=Clock(), views="memory:") as running:
        running.record(Paid("a", Decimal(1)))
        with (
            running.branch() as one,
            one.branch() as other,
            pytest.raises(h.Invalid, match="one of another branch can where that was saved"),
        ):
            other.save(f"sqlite:///{tmp_path}/other.db")


@pytest.mark.parametrize("kept", ["file", "PostgreSQL"])
def test_what_was_erased_is_given_again_as_erased_and_the_chain_of_the_branch_holds(tmp_path: Path, kept: str) -> None:
    """A fact, with a tag that was kept and without; in memory and saved."""
    url = fresh() if kept == "PostgreSQL" else f"sqlite:///{tmp_path}/desk.db"
    with desk.open(url, source=Clock(), views="memory:", gateways={tariff: fee_of(2)}) as running:
        for number in range(4):
            running.record(Paid(f"a{number % 2}", Decimal(9)), id=f"paid-{number}", occurred=datetime(2026, 1, 1, tzinfo=UTC))
            running.dispatch(Draw(f"a{number % 2}", Decimal(2)), id=f"draw-{number}")
        running.settled(wait_seconds_max=20)
        for erased, tags in (("paid-1", ("account",)), ("paid-3", ())):
            running.erase(erased, actor="me", reason="asked for", keep=tags)
        for place in (0, at(running, "draw-2") - 1, running.log.head):
            with running.branch(at=place) as branch:
                assert not branch.diff(), str(branch.diff())
                assert branch.log.verify().position == branch.log.head
        with running.branch(h.Drop(at(running, "paid-0"))) as branch:
            branch.save(f"sqlite:///{tmp_path}/desk.branch-x.db")
            expected = told(branch)
    with h.open_log(f"sqlite:///{tmp_path}/desk.branch-x.db") as log:
        assert log.verify().position == log.head
        assert [record.id for record in log.read() if record.kind != "system"] == [record.id for record in expected]
