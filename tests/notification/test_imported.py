"""What was recorded elsewhere, with causes that callers give: its trees and its flow are those of the callers, in whatever order it comes."""

import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

import happened as h

SPANS = (("page", None), ("cart", 0), ("price", 1), ("price", 1), ("stock", 1), ("mail", 0), ("queue", 5), ("mail", 6))
"""A trace: what each span is called, and which one caused it."""


def spans(trace: str) -> list[h.Message]:
    """Return the spans of a trace as messages, causes first."""
    return [
        h.Message(
            h.Loose(name, {"place": place}),
            id=f"{trace}-{place}",
            correlation=trace,
            causation=None if cause is None else f"{trace}-{cause}",
        )
        for place, (name, cause) in enumerate(SPANS)
    ]


@pytest.mark.parametrize("seed", [None, 1, 2, 3])
def test_a_trace_is_the_tree_that_its_causes_say_in_whatever_order_it_came(tmp_path: Path, seed: int | None) -> None:
    """Spans are often told when they end: those that were caused come before their causes."""
    with h.open_log(f"sqlite:///{tmp_path}/log.db", create=True) as log:
        told = spans("t")
        if seed is not None:
            random.Random(seed).shuffle(told)
        for message in told:
            log.append(message)
    with h.App("traces", ignores=[name for name, _ in SPANS]).open(f"sqlite:///{tmp_path}/log.db", run=False) as running:
        lines = running.trace("t", fold=False).lines

    depths = {line.id: line.depth for line in lines}
    assert depths == {f"t-{place}": depth for place, depth in enumerate((0, 1, 2, 2, 2, 1, 2, 3))}
    above: list[str] = []
    for line in lines:  # depth first: what stands before a line, one less deep, is its cause
        del above[line.depth :]
        cause = SPANS[int(line.id.removeprefix("t-"))][1]
        assert above[-1:] == ([] if cause is None else [f"t-{cause}"])
        above.append(line.id)


def test_causes_that_lead_back_to_themselves_hide_nothing(tmp_path: Path) -> None:
    """Each record stands in the story once."""
    with h.open_log(f"sqlite:///{tmp_path}/log.db", create=True) as log:
        for name, cause in (("a", "c"), ("b", "a"), ("c", "b"), ("d", "d")):
            log.append(h.Message(h.Loose(name, {}), id=name, correlation="t", causation=cause))
    with h.App("traces", ignores=["a", "b", "c", "d"]).open(f"sqlite:///{tmp_path}/log.db", run=False) as running:
        story = running.trace("t", fold=False)

    assert sorted(line.name for line in story.lines) == ["a", "b", "c", "d"]
    assert story.records == 4


class Ordered(h.Event):
    """What is recorded with a cause."""


class Paid(h.Event):
    """What is recorded with a cause."""


class Send(h.Command):
    """What is dispatched with a cause."""


class Sent(h.Event):
    """What that comes to."""


def send(_command: Send) -> Iterator[Sent]:
    """Send it."""
    yield Sent()


def test_the_flow_has_an_arrow_for_each_cause_that_a_caller_gave(tmp_path: Path) -> None:
    """In bulk and one by one, facts and commands; it is nothing that a wiring should have declared."""
    app = h.App("shop", records=[Ordered, Paid], deciders=[send])
    with app.open(f"sqlite:///{tmp_path}/log.db") as running:
        for number in range(3):
            running.record(Ordered(), id=f"o-{number}")
            running.record_all([h.Message(Paid(), id=f"p-{number}", causation=f"o-{number}")])
            list(running.dispatch_all([h.Message(Send(), id=f"s-{number}", causation=f"p-{number}")]))
        running.log.append(h.Message(Paid(), id="late", causation="not here"))
        running.log.append(h.Message(Ordered(), causation="s-1#1"))
        flow = running.flow()

    counts = Counter({(arrow.source, arrow.target): arrow.count for arrow in flow.arrows if arrow.count})
    assert counts == {
        ("outside", "event:Ordered"): 3,
        ("outside", "event:Paid"): 1,
        ("event:Ordered", "event:Paid"): 3,
        ("event:Paid", "command:Send"): 3,
        ("command:Send", "decider:send"): 3,
        ("decider:send", "event:Sent"): 3,
        ("event:Sent", "event:Ordered"): 1,
    }
    assert flow.undeclared == ()


def test_a_cause_is_the_message_that_has_this_id_before_it_is_a_part_of_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such ids are not taken any more; logs may hold them, and what is subscribed to keeps the id that it had."""
    monkeypatch.setattr("happened.log.log._check_names_no_part", str)
    app = h.App("shop", records=[Ordered, Paid], deciders=[send])
    with app.open(f"sqlite:///{tmp_path}/log.db") as running:
        running.dispatch(Send(), id="o")
        running.record(Ordered(), id="o#1")
        running.record_all([h.Message(Paid(), causation="o#1")])
        running.record(Ordered(), id="alone#1")
        running.record_all([h.Message(Paid(), causation="alone#1")])
        flow = running.flow()

    counts = {(arrow.source, arrow.target): arrow.count for arrow in flow.arrows}
    assert counts["event:Ordered", "event:Paid"] == 2
    assert ("event:Sent", "event:Paid") not in counts
