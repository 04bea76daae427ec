"""What was recorded elsewhere, with causes that callers give: its trees and its flow are those of the callers, in whatever order it comes."""

import random
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

import happened as h
from happened.edge.sight import causes_as_text, story_as_text
from happened.notification.story import story_of
from happened.notification.why import causes_of

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


def test_what_an_enqueued_command_came_to_is_a_cause_as_any_other(tmp_path: Path) -> None:
    """Its decision has a row of its own, and the parts of that are called after the command."""
    with h.App("shop", records=[Ordered], deciders=[send]).open(f"sqlite:///{tmp_path}/log.db") as running:
        running.outcome(running.enqueue(Send(), id="s"))
        [sent] = running.log.read(h.query(names=["Sent"]))
        running.log.append(h.Message(Ordered(), causation=sent.id))
        flow = running.flow()

    assert sent.id == "s#1"
    arrows = {(arrow.source, arrow.target): arrow.count for arrow in flow.arrows if arrow.target == "event:Ordered" and arrow.count}
    assert arrows == {("event:Sent", "event:Ordered"): 1}


def imported(names: str) -> list[h.Message]:
    """Return messages, each caused by the one before it, by an actor of its own."""
    began = datetime(2026, 3, 1, 8, tzinfo=UTC)
    return [
        h.Message(
            h.Loose(name, {"sku": "nut"}, tags=(("sku", "nut"),)),
            id=f"t-{name}",
            actor=f"the {name}",
            occurred=began + timedelta(milliseconds=place),
            correlation="t",
            causation=f"t-{names[place - 1]}" if place else None,
        )
        for place, name in enumerate(names)
    ]


def test_a_fact_with_a_cause_says_who_and_when_and_not_how_long_a_handler_took(tmp_path: Path) -> None:
    """No handler has waited or run; and all was recorded at once, so only when it happened tells anything."""
    with h.open_log(f"sqlite:///{tmp_path}/log.db", create=True) as log:
        for message in imported("abc"):
            log.append(message)
        lines = story_of(log, "t").lines
        causes = causes_of(log, log.head, {})
        told = list(story_as_text(story_of(log, "t")))

    assert [(line.waited_us, line.ran_us, line.actor, line.actors) for line in lines] == [(None, None, f"the {name}", 1) for name in "abc"]
    assert [line.occurred.microsecond for line in lines] == [0, 1_000, 2_000]
    assert [(cause.name, cause.waited_us, cause.ran_us) for cause in causes] == [("c", None, None), ("b", None, None), ("a", None, None)]
    assert told[-1].endswith("    c  t-c  by the c  happened 2026-03-01 08:00:00.002000")


def test_a_cause_that_is_not_here_is_said(tmp_path: Path) -> None:
    """Spans get lost, and others are told elsewhere: who lacks them is no beginning. What is alike is told as one all the same."""
    with h.open_log(f"sqlite:///{tmp_path}/log.db", create=True) as log:
        log.append(h.Message(h.Loose("page", {}), id="p", correlation="other"))
        for own, cause in (("a", None), ("b", "a"), ("c", "p"), ("d", "lost"), ("e", "d")):
            log.append(h.Message(h.Loose("cart" if cause in ("p", "lost") else "page", {}), id=own, correlation="t", causation=cause))
        story, folded = (story_of(log, "t", fold=fold) for fold in (False, True))
        told = list(story_as_text(story))

    lost = "its cause is not in this conversation: "
    assert {line.id: line.says for line in story.lines} == {"a": "", "b": "", "c": f"{lost}p", "d": f"{lost}lost", "e": ""}
    assert [line.depth for line in story.lines] == [0, 1, 0, 0, 1]
    assert any(line.endswith(f"cart  d  {lost}lost") for line in told)
    assert sum(line.count for line in folded.lines) == 5


def test_what_is_told_as_one_says_how_many_did_it(tmp_path: Path) -> None:
    """Nobody is hidden behind the first."""
    with h.open_log(f"sqlite:///{tmp_path}/log.db", create=True) as log:
        for actor in ("ann", "bob", "ann", ""):
            log.append(h.Message(h.Loose("a", {}), actor=actor, correlation="t"))
        [line] = story_of(log, "t").lines
        told = list(story_as_text(story_of(log, "t")))

    assert (line.count, line.actor, line.actors) == (4, "ann", 3)
    assert told[-1].endswith("x4 a  by ann and 2 more")


def test_a_reason_is_found_where_it_was_recorded_later(tmp_path: Path) -> None:
    """It is in the log, so nobody is told that it is not."""
    with h.open_log(f"sqlite:///{tmp_path}/log.db", create=True) as log:
        for message in reversed(imported("abc")):
            log.append(message)
        [c] = log.find("t-c")
        causes = causes_of(log, c.position, {})
        told = list(causes_as_text("row", causes))
        times = [line.split()[1] for line in story_as_text(story_of(log, "t")) if "t-" in line]

    assert [cause.id for cause in causes] == ["t-c", "t-b", "t-a"]
    assert told[-1] == "which came from outside"
    assert [time[0] for time in times] == ["+", "-", "-"]
    assert all(time[1].isdecimal() for time in times)


def test_a_reason_that_leads_back_to_itself_ends(tmp_path: Path) -> None:
    """Each step is told once."""
    with h.open_log(f"sqlite:///{tmp_path}/log.db", create=True) as log:
        for name, cause in (("a", "c"), ("b", "a"), ("c", "b")):
            log.append(h.Message(h.Loose(name, {}), id=name, causation=cause))
        causes = causes_of(log, log.head, {})

    assert [cause.id for cause in causes] == ["c", "b", "a"]
    assert list(causes_as_text("row", causes))[-1].startswith("caused by `c`, which stands above")


def test_the_flow_of_what_is_recorded_in_one_go_is_that_of_its_causes(tmp_path: Path) -> None:
    """Whatever the first of the batch is; also of what has caused another of its own name."""
    app = h.App("shop", records=[Ordered, Paid])
    with app.open(f"sqlite:///{tmp_path}/log.db") as running:
        messages = [h.Message(Ordered(), id="o-0", causation="elsewhere")]
        for number in range(1, 9):
            made = Paid() if number % 3 else Ordered()
            messages.append(h.Message(made, id=f"o-{number}", causation=f"o-{number // 2}" if number % 4 else None))
        running.record_all(messages)
        counts = {(arrow.source, arrow.target): arrow.count for arrow in running.flow().arrows if arrow.count}

    assert counts == {
        ("outside", "event:Ordered"): 1,
        ("outside", "event:Paid"): 2,
        ("event:Ordered", "event:Paid"): 2,
        ("event:Paid", "event:Ordered"): 1,
        ("event:Paid", "event:Paid"): 2,
        ("event:Ordered", "event:Ordered"): 1,
    }


def refuse(_command: Send) -> list[Sent]:
    """Say no."""
    raise h.Refused("no")


def test_what_followed_from_a_refusal_says_so_in_the_flow(tmp_path: Path) -> None:
    """What the framework records itself has a name for people, too."""
    app = h.App("shop", records=[Paid], deciders=[refuse])
    with app.open(f"sqlite:///{tmp_path}/log.db") as running:
        with pytest.raises(h.Refused):
            running.dispatch(Send(), id="s-1")
        running.log.append(h.Message(Paid(), causation="s-1#1"))
        flow = running.flow()

    assert [arrow.count for arrow in flow.arrows if (arrow.source, arrow.target) == ("event:refusal", "event:Paid")] == [1]
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


def test_a_log_is_whole_whatever_ids_callers_gave(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With number signs in them, as those that the log gives itself have, and children before their parents, or without."""
    monkeypatch.setattr("happened.log.log._check_names_no_part", str)
    with h.open_log(f"sqlite:///{tmp_path}/log.db", create=True) as log:
        for id, cause in (("t", None), ("t#2", "t#1"), ("t#1", "t"), ("t#3", "t#2"), ("u", "t#9")):  # noqa: A001 - as everywhere
            log.append(h.Message(h.Loose("Span", {}), id=id, correlation="t", causation=cause))
        verified = log.verify()
        lines = story_of(log, "t", fold=False).lines

    assert verified.kinds["input"] == 5
    assert [(line.id, line.depth) for line in lines] == [("t", 0), ("t#1", 1), ("t#2", 2), ("t#3", 3), ("u", 0)]
