"""A recorded input, decided again: the same answers, ids, chance and clock, and nobody outside is asked."""

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any  # Any: answers of gateways

import pytest

import happened as h
from happened.core.state import Fold, Key
from happened.core.store import Row
from happened.log.records import Reader
from happened.log.row import decode_header
from happened.sourcing.memory_image import MemoryImage
from happened.sourcing.replay import Input, Replay, input_in

Account = Annotated[str, h.Tag("account")]


class Paid(h.Event):
    account: Account
    cents: int
    rate: int
    number: str
    lot: float
    at: datetime


class Pay(h.Command):
    account: Account
    cents: int


class Spent(h.State):
    account: Account
    cents: int = 0

    def evolve(self, event: Paid) -> "Spent":
        """Add it."""
        return self.but(cents=self.cents + event.cents)


ASKED: list[str] = []


def rate(account: str) -> int:
    """Stand for the outside: it says something else each time."""
    ASKED.append(account)
    if account == "down":
        raise ConnectionError("nobody there")
    return len(ASKED)


def pay(command: Pay, spent: Spent, world: h.World) -> Iterator[Paid]:
    """Use all that a World has."""
    if spent.cents + command.cents > 100:
        raise h.Refused("too much", left=100 - spent.cents)
    try:
        asked = world.ask(rate, command.account)
    except h.GatewayFailed:
        asked = -1
    yield Paid(command.account, command.cents, asked, str(world.new_id()), world.random(), world.now)


def keen(command: Pay, spent: Spent, world: h.World) -> Iterator[Paid]:
    """Ask what was not asked then, and take every error for none."""
    try:
        asked = world.ask(rate, f"{command.account}?")
    except Exception:  # noqa: BLE001 - that is what is tried
        asked = 0
    yield Paid(command.account, spent.cents, asked, "", 0.0, world.now)


APP = h.App("payments", deciders=[pay], gateways=[rate])


def recorded(path: Path) -> tuple[list[Row], Any]:
    """Record some payments; return the rows that decide, and the log, open to be read."""
    with APP.open(f"sqlite:///{path}") as running:
        for number, (account, cents) in enumerate([("a", 30), ("b", 50), ("down", 1), ("a", 60), ("a", 20)]):
            try:
                running.dispatch(Pay(account, cents), id=f"p-{number}")
            except h.Refused:
                assert number == 4
        running.outcome(running.enqueue(Pay("b", 7), id="p-5"))
    log = h.open_log(f"sqlite:///{path}")
    rows = [row for page in log.engine.read() for row in page]
    return rows, log


def decided(rows: list[Row], log: Any, replay: Replay) -> Iterator[tuple[Row, Any, list[Any]]]:
    """Decide each recorded input again; yield its row, what came of it, and the events that were recorded."""
    reader = Reader(log.names, [*APP.events, *APP.handlers])
    kept = {decode_header(row.head).id: row for row in rows if decode_header(row.head).outcome == "pending"}
    for row in rows:
        header = decode_header(row.head)
        name = log.names.by_number.get(header.handler)
        if name is None or name.what != "decider":
            continue
        image = MemoryImage(log.engine, reader, APP.folds, row.position - 1)

        def entry(fold: Fold, key: Key, image: MemoryImage = image) -> Any:
            return image.get(fold, key)

        again = replay.decide(input_in(reader, row, kept.get(header.decides)), entry)
        yield row, again, [record.body for record in reader.records(row) if isinstance(record.body, h.Event)]


def test_what_was_decided_is_decided_again_and_nobody_is_asked(tmp_path: Path) -> None:
    """Answers, errors of the outside, ids, chance and clock are those of then, for what was dispatched and for what was enqueued."""
    rows, log = recorded(tmp_path / "payments.db")
    ASKED.clear()

    with log:
        found = list(decided(rows, log, Replay(APP.handlers, APP.gateways)))

    assert len(found) == 6
    assert [len(events) for _, _, events in found] == [1, 1, 1, 1, 0, 1]
    for _, again, events in found:
        assert (list(again.events), again.failure) == (events, None)
    assert found[2][1].events[0].rate == -1
    refusal = found[4][1].refusal
    assert (refusal.text, refusal.facts) == ("too much", {"left": 10})
    assert not ASKED


def test_a_question_that_was_not_asked_then_is_unanswered_and_names_itself(tmp_path: Path) -> None:
    """It stops the run, also where the decider catches whatever it can."""
    rows, log = recorded(tmp_path / "payments.db")
    other = h.App("payments", deciders=[keen], gateways=[rate])
    ASKED.clear()

    with log:
        found = [again for _, again, _ in decided(rows, log, Replay(other.handlers, other.gateways))]

    first = found[0].failure
    assert isinstance(first, h.Unanswered)
    assert str(first) == "`rate('a?')` is asked for `p-0`, and no answer to it was recorded"
    assert first.facts == {"gateway": "rate", "arguments": ["a?"], "nth": 0, "id": "p-0"}
    assert not ASKED


def test_a_policy_answers_what_was_not_asked_then(tmp_path: Path) -> None:
    """Its answers are among those of the run, and what it raises is what the outside would have raised."""
    rows, log = recorded(tmp_path / "payments.db")
    other = h.App("payments", deciders=[keen], gateways=[rate])

    def policy(gateway: Any, args: tuple[Any, ...], _kwargs: Any) -> int:
        assert gateway is rate
        if args == ("b?",):
            raise ConnectionError("still nobody")
        return 7

    with log:
        found = [again for _, again, _ in decided(rows, log, Replay(other.handlers, other.gateways, policy=policy))]

    assert [again.events[0].rate for again in found] == [7, 0, 7, 7, 7, 0]
    assert [(answer.gateway, answer.error) for answer in found[1].answers] == [("rate", ""), ("rate", "ConnectionError: still nobody")]


def test_what_decides_no_input_is_not_there(tmp_path: Path) -> None:
    """A row of facts, or of what the log says of itself, has nothing to be decided."""
    rows, log = recorded(tmp_path / "payments.db")

    with log, pytest.raises(h.NotThere, match="decides no input"):
        input_in(log.reader, rows[0])
    with pytest.raises(h.Invalid, match="no decider takes `Pay`"):
        Replay({}, ()).decide(Input("x", Pay("a", 1), 0), lambda _fold, _key: None)
