"""Stories: a conversation as a tree, its repeats folded, nothing left out without a count."""

from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Annotated

import msgspec
import pytest

import happened as h
from happened.log.log import Log
from happened.notification.story import Line, Story, story_of
from tests.notification.made import Step, many, record, traffic

Sku = Annotated[str, h.Tag("sku")]


class Received(h.Event):
    sku: Sku


class Ordered(h.Event):
    sku: Sku


class Shipped(h.Event):
    sku: Sku


class Order(h.Command):
    sku: Sku


class Ship(h.Command):
    sku: Sku


class Remind(h.Command):
    sku: Sku


def freight(sku: str) -> int:
    return 5


def order(command: Order, world: h.World) -> list[Ordered]:
    world.ask(freight, command.sku)
    return [Ordered(command.sku)] * 3


def ship(command: Ship) -> list[Shipped]:
    if command.sku == "broken":
        raise ValueError("it fell down")
    return [Shipped(command.sku)]


def remind(command: Remind) -> list[Shipped]:
    raise h.Refused("there is nothing to remind of")


def follow(event: Ordered) -> Iterator[Ship | h.Later[Remind]]:
    yield Ship(event.sku)
    yield h.Later(Remind(event.sku), after=timedelta(days=1))


shop = h.App("shop", records=[Received], deciders=[order, ship, remind], gateways=[freight], reactions=[follow])


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Log]:
    """Open a log by itself."""
    with closing(h.open_log(f"sqlite:///{tmp_path}/log.db", create=True)) as log:
        yield log


def drawn(story: Story) -> list[str]:
    """Return a story as indented lines."""
    return [
        f"{'  ' * line.depth}{line.name}{f' x{line.count}' if line.count > 1 else ''}{' ' + line.outcome if line.outcome else ''}"
        for line in story.lines
    ]


def check_counted(story: Story) -> None:
    """Fail unless each record is in a line."""
    assert sum(line.count for line in story.lines) == story.records
    assert all(line.depth <= before.depth + 1 for before, line in zip(story.lines, story.lines[1:], strict=False))


def line(story: Story, name: str) -> Line:
    """Return the first line of a name."""
    return next(line for line in story.lines if line.name == name)


def test_a_conversation_is_a_tree_of_what_caused_what() -> None:
    """The command, what the outside answered, what was decided, what reactions sent, and what is still to come; the same by any of its ids."""
    with shop.open() as running:
        running.record(Received("nut"), id="before")
        receipt = running.dispatch(Order("nut"), id="o-1", actor="ann")
        running.settled(receipt)

        story = running.trace("o-1")

        assert drawn(story) == [
            "Order accepted",
            "  answer",
            "  Ordered x3",
            "    schedule x3",
            "    Ship x3 accepted",
            "      Shipped x3",
        ]
        assert (story.correlation, story.records, story.timers, story.pending, story.stuck) == ("o-1", 14, 3, 0, 0)
        check_counted(story)
        asked, sent = line(story, "Order"), line(story, "Ship")
        assert (asked.actor, asked.handler, asked.sender) == ("ann", "order", "")
        assert asked.ran_us is not None
        assert (sent.handler, sent.sender) == ("ship", "follow")
        assert line(story, "answer").says == "freight: 5"
        assert line(story, "schedule").says.startswith("Remind at ")
        assert line(story, "schedule").says.endswith(": waits")
        for what in (receipt.position, receipt, str(receipt), "o-1#2", sent.id, story.lines[-1].position):
            assert running.trace(what) == story
        for elsewhere in (f"x{receipt}", msgspec.structs.replace(receipt, log="another")):
            with pytest.raises(h.Diverged, match="of another log"):
                running.trace(elsewhere)
        assert len(running.trace("o-1", fold=False).lines) == 14
        check_counted(running.trace("o-1", fold=False))
        assert drawn(running.trace("before")) == ["Received"]


def test_what_waits_fails_or_is_refused_is_said(tmp_path: Path) -> None:
    """A command that nobody has decided yet, and why; a refusal, with its text."""
    with shop.open(f"sqlite:///{tmp_path}/shop.db", run=False) as running:
        running.enqueue(Ship("nut"), id="waits")
        with pytest.raises(h.Refused):
            running.dispatch(Remind("nut"), id="no")
        waits, refused = running.trace("waits"), running.trace("no")
    with shop.open(f"sqlite:///{tmp_path}/shop.db") as running:
        kept = running.enqueue(Ship("broken"), id="fails")
        with pytest.raises(h.Stuck):
            running.outcome(kept)
        fails = running.trace("fails")
        decided = running.trace("waits")

    assert (drawn(waits), waits.pending) == (["Ship pending"], 1)
    assert (drawn(decided), decided.pending) == (["Ship accepted", "  Shipped"], 0)
    assert drawn(refused) == ["Remind refused", "  refusal"]
    assert refused.lines[1].says == "there is nothing to remind of"
    assert (drawn(fails), fails.pending, fails.stuck) == (["Ship pending"], 1, 1)
    assert "it fell down" in fails.lines[0].says


def test_twins_are_folded_with_all_below_them(log: Log) -> None:
    """What differs in a name or an outcome below is another line; how often something is there makes no difference."""
    steps = [Step("root", None, None, ("event:Began",))]
    for n in range(300):
        steps.append(
            Step(
                f"c{n}",
                "command:Do",
                "decider:do",
                ("refusal",) if n % 100 == 7 else ("event:Done",) * (1 + n % 3),
                "reaction:on",
                "event:Began",
                "root",
                "root",
                "refused" if n % 100 == 7 else "accepted",
                waited=n,
            )
        )
        if n % 50 == 9:
            steps.append(Step(f"n{n}", None, None, ("notification:Told",), "publication:tell", "event:Done", "root", f"c{n}#1"))
    record(log, steps)

    story = story_of(log, "root")

    assert drawn(story) == [
        "Began",
        "  Do x291 accepted",
        "    Done x582",
        "  Do x3 refused",
        "    refusal x3",
        "  Do x2 accepted",
        "    Done x2",
        "      Told x2",
        "  Do x4 accepted",
        "    Done x4",
        "      Told x4",
        "    Done x6",
    ]
    check_counted(story)
    assert story.lines[1].waited_us == (0, 299)
    assert (story.lines[1].id, story.lines[1].body) == ("c0", None)
    assert len(story_of(log, "root", fold=False).lines) == story.records


def test_a_long_chain_is_a_story(log: Log) -> None:
    """As deep as it may be: causes that were given by hand have no limit."""
    steps = [
        Step(f"c{n}", None, None, (f"event:E{n % 2}",), correlation="c0" if n else None, causation=f"c{n - 1}" if n else None)
        for n in range(5_000)
    ]
    record(log, steps)

    story = story_of(log, "c4999")

    assert [line.depth for line in story.lines] == list(range(5_000))
    check_counted(story)


def test_a_large_conversation_is_folded_to_few_lines(log: Log) -> None:
    """10,000 records that have few shapes are few lines."""
    lines = [Step("root", "command:Receive", "decider:receive", ("event:Received",) * 2_400)]
    lines += [
        Step(
            f"r{n}",
            "command:Store",
            "decider:store",
            ("event:Stored", "event:Counted"),
            "reaction:on",
            "event:Received",
            "root",
            f"root#{n + 1}",
        )
        for n in range(2_400)
    ]
    record(log, lines)

    story = story_of(log, "root")

    assert drawn(story) == ["Receive accepted", "  Received x2400", "    Store x2400 accepted", "      Stored x2400", "      Counted x2400"]
    check_counted(story)


def test_every_conversation_of_a_large_system_is_whole(log: Log) -> None:
    """Whatever reacts to what: each record of a conversation is in a line."""
    steps = list(traffic(many(), 2_000, 5))
    record(log, steps)
    expected: dict[str, int] = {}
    for step in steps:
        expected[step.correlation or step.id] = expected.get(step.correlation or step.id, 0) + 1 + len(step.records)

    for correlation, count in expected.items():
        story = story_of(log, correlation)
        assert story.records == count
        check_counted(story)


def test_what_is_not_there_is_said(log: Log) -> None:
    """Neither an id nor a position nor a conversation; nor what the log records about itself."""
    log.append(h.Loose("Noted", {}), id="note", correlation="others/12")

    assert story_of(log, "others/12").records == 1
    for what in ("nobody", "nobody#1", 0, 10**20, "99999999999999999999", 1):
        with pytest.raises(h.NotThere, match=str(what)):
            story_of(log, what)
    for own in (1, "1"):
        with pytest.raises(h.NotThere, match="position 1 is what the log says about itself"):
            story_of(log, own)


def test_who_decided_a_command_to_nothing_is_said() -> None:
    """No record of it names the decider; its row does, whether it was kept first or not, with how long it waited and ran."""

    def nothing(command: Remind) -> Iterator[Shipped]:
        if command.sku == "never":
            yield Shipped(command.sku)

    with h.App("shop", records=[Received], deciders=[nothing]).open() as running:
        running.dispatch(Remind("nut"), id="now")
        running.outcome(running.enqueue(Remind("nut"), id="later"))
        told = [running.trace(what).lines[0] for what in ("now", "later")]

    assert [(line.id, line.handler, line.outcome) for line in told] == [("now", "nothing", "accepted"), ("later", "nothing", "accepted")]
    assert all(line.waited_us is not None and line.ran_us is not None for line in told)


def test_a_conversation_of_which_something_is_erased_is_told() -> None:
    """What it consists of is known, and not what it said: also of what was to come later."""
    with shop.open() as running:
        receipt = running.dispatch(Order("nut"), id="o-1")
        running.settled(receipt)
        before = running.trace("o-1", fold=False)
        assert before.timers == 3

        running.erase(("sku", "nut"), actor="ann", reason="they asked")
        story = running.trace("o-1", fold=False)

    assert [(line.position, line.depth, line.name, line.outcome) for line in story.lines] == [
        (line.position, line.depth, line.name, line.outcome) for line in before.lines
    ]
    assert {line.says for line in story.lines} == {"erased"}
    assert story.timers == 0
    check_counted(story)


def test_what_was_never_kept_is_not_told_as_erased() -> None:
    """An app that keeps decisions only has no body of what was asked."""

    def just(command: Remind) -> Iterator[Shipped]:
        yield Shipped(command.sku)

    with h.App("shop", deciders=[just], store="decisions").open() as running:
        running.dispatch(Remind("nut"), id="r-1")
        story = running.trace("r-1")

    assert [(line.name, line.says) for line in story.lines] == [("Remind", "not kept"), ("Shipped", "")]
