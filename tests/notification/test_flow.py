"""The flow map: what is declared, what was seen, and what does not fit."""

import copy
import json
import random
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any  # Any: a topology is plain data

import msgspec
import pytest

import happened as h
from happened.checking.decisions import decide_again
from happened.core.store import Row
from happened.log.compacting import InBackground
from happened.log.log import Log
from happened.log.paths import counts_of
from happened.log.worker import Advance, Worker
from happened.log.writer import Job
from happened.notification.declared import cycles
from happened.notification.flow import Arrow, Flow, Times, declared_flow, observed_flow
from happened.testing import Clock
from tests.notification.made import Step, many, record, traffic
from tests.notification.model import until
from tests.servers import fresh

Sku = Annotated[str, h.Tag("sku")]


class Received(h.Event):
    sku: Sku


class Ordered(h.Event):
    sku: Sku


class Lost(h.Event):
    sku: Sku


class Order(h.Command):
    sku: Sku


class Stock(h.State):
    sku: Sku
    units: int = 0

    def evolve(self, event: Received | Ordered) -> "Stock":
        return self.but(units=self.units + (1 if isinstance(event, Received) else -1))


class Watch(h.State):
    count: int = 0

    def evolve(self, event: h.Event) -> "Watch":
        return self.but(count=self.count + 1)


def order(command: Order, stock: Stock) -> list[Ordered]:
    if not stock.units:
        raise h.Refused("none left")
    return [Ordered(command.sku), Ordered(command.sku)] if command.sku == "pair" else [Ordered(command.sku)]


shop = h.App("shop", records=[Received, Lost], deciders=[order], views=[Stock])

TOPOLOGY: dict[str, Any] = {
    "app": "shop",
    "records": ["Received"],
    "deciders": [
        {"name": "order", "command": "Order", "reads": ["Stock", "Card"], "yields": ["Ordered", "Short"], "asks": True},
        {"name": "restock", "command": "Restock", "reads": [], "yields": ["Asked"]},
        {"name": "cancel", "command": "Cancel", "reads": [], "yields": ["Cancelled"]},
    ],
    "states": [{"name": "Stock", "from": ["Ordered", "Received"]}, {"name": "Board", "from": ["Asked", "Cancelled"]}],
    "views": ["Board"],
    "gateways": ["freight"],
    "reactions": [
        {"name": "refill", "events": ["Short"], "sends": ["Restock"], "later": ["Cancel"], "reads": ["Stock"], "asks": True},
        {"name": "again", "events": ["crm/Moved"], "sends": ["Order"], "later": [], "reads": []},
    ],
    "publications": [{"name": "tell", "event": ["Ordered"], "publishes": "OrderTaken", "reads": []}],
    "shares": [{"name": "StockCard", "state": "Stock"}],
    "subscriptions": {"crm": ["crm/Moved"]},
    "replicas": {"crm": ["Card"]},
}

ARROWS = """
outside -> event:Received
outside -> command:Order
outside -> command:Restock
outside -> command:Cancel
command:Order -> decider:order
command:Restock -> decider:restock
command:Cancel -> decider:cancel
decider:order -> event:Ordered
decider:order -> event:Short
decider:order -> gateway:freight
decider:restock -> event:Asked
decider:cancel -> event:Cancelled
event:Asked -> view:Board
event:Cancelled -> view:Board
event:Short -> reaction:refill
reaction:refill -> command:Restock
reaction:refill -> timer:Cancel
reaction:refill -> gateway:freight
timer:Cancel -> command:Cancel
event:Ordered -> publication:tell
publication:tell -> notification:OrderTaken
event:Ordered -> share:StockCard
event:Received -> share:StockCard
subscription:crm -> event:crm/Moved
event:crm/Moved -> reaction:again
reaction:again -> command:Order
subscription:crm -> replica:Card
replica:Card -> decider:order
"""

STEPS = [
    Step("1", None, None, ("event:Received",)),
    Step("2", "command:Order", "decider:order", ("answer:freight", "event:Ordered", "event:Ordered", "event:Short"), actor="ann"),
    Step("2/tell", None, None, ("notification:OrderTaken",), "publication:tell", "event:Ordered", "2", "2#2"),
    Step("2/share", None, None, ("share:StockCard",), "share:StockCard", "event:Ordered", "2", "2#2"),
    Step("2/refill", "command:Restock", None, (), "reaction:refill", "event:Short", "2", "2#4", "pending", depth=1),
    Step("2/later", None, "reaction:refill", ("later:Cancel", "answer:freight"), "reaction:refill", "event:Short", "2", "2#4", depth=1),
    Step("2/refilled", None, "decider:restock", ("event:Asked",), correlation="2", decides="2/refill"),
    Step("2/rung", "command:Cancel", "decider:cancel", ("event:Cancelled",), "reaction:refill", None, "2", "2#4", depth=1),
    Step("3", None, None, ("event:crm/Moved",), "subscription:crm", None),
    Step("3/again", "command:Order", "decider:order", ("refusal",), "reaction:again", "event:crm/Moved", "3", "3", "refused", depth=1),
]
"""Every arrow once or more."""


@pytest.fixture
def log() -> Iterator[Log]:
    """Open a log by itself."""
    with closing(h.open_log("memory:", create=True)) as log:
        yield log


def pairs(flow: Flow) -> set[str]:
    """Return the arrows as lines."""
    return {f"{arrow.source} -> {arrow.target}" for arrow in flow.arrows}


def arrow(flow: Flow, source: str, target: str) -> Arrow:
    """Return an arrow."""
    return next(arrow for arrow in flow.arrows if (arrow.source, arrow.target) == (source, target))


def findings(flow: Flow, *kinds: str) -> list[str]:
    """Return the subjects of what was found."""
    return [finding.subject for finding in flow.findings if finding.kind in kinds]


# --- declared


def test_a_wiring_of_every_kind_is_drawn_whole() -> None:
    """Commands, deciders, events, reactions, timers, publications, shares, subscriptions, replicas, views and gateways, with what leads to what."""
    flow = declared_flow(TOPOLOGY)

    assert pairs(flow) == set(ARROWS.strip().splitlines())
    assert {node.id: node.reads for node in flow.nodes if node.reads} == {"decider:order": ("Stock", "Card"), "reaction:refill": ("Stock",)}
    assert {node.kind for node in flow.nodes} >= {"timer", "replica", "share", "notification", "subscription"}
    assert all(arrow.status == "declared" for arrow in flow.arrows)
    assert findings(flow) == []
    assert findings(flow, "undecided", "unrecorded", "cycle", "unconsumed", "everything") == []


def test_an_app_is_drawn_before_anything_runs() -> None:
    """From its annotations, with the modules of its parts."""
    flow = shop.flow()

    assert pairs(flow) == {
        "outside -> event:Received",
        "outside -> event:Lost",
        "outside -> command:Order",
        "command:Order -> decider:order",
        "decider:order -> event:Ordered",
        "event:Ordered -> view:Stock",
        "event:Received -> view:Stock",
    }
    assert {node.module for node in flow.nodes if node.kind != "outside"} == {__name__}
    assert [(finding.kind, finding.subject) for finding in flow.findings] == [("unconsumed", "event:Lost"), ("outside", "command:Order")]


def test_a_fold_of_every_event_is_marked() -> None:
    """Such a state consumes all of them, and each new one reaches it."""
    flow = h.App("shop", records=[Received, Lost], views=[Watch]).flow()

    assert [(finding.kind, finding.subject) for finding in flow.findings] == [("everything", "Watch")]
    assert {"event:Lost -> view:Watch", "event:Received -> view:Watch"} <= pairs(flow)


def without(**changes: Any) -> dict[str, Any]:
    """Return the topology with some parts replaced."""
    return {**copy.deepcopy(TOPOLOGY), **changes}


def test_what_does_not_fit_in_a_wiring_is_found() -> None:
    """Commands nobody decides, events nobody consumes, states that nobody changes, ways that lead back."""
    undecided = declared_flow(without(deciders=TOPOLOGY["deciders"][:1]))
    unconsumed = declared_flow(without(states=TOPOLOGY["states"][:1], views=[]))
    unrecorded = declared_flow(without(records=[]))
    around = declared_flow(
        without(reactions=[*TOPOLOGY["reactions"], {"name": "loop", "events": ["Asked"], "sends": ["Order"], "later": [], "reads": []}])
    )

    assert findings(undecided, "undecided") == ["command:Cancel", "command:Restock"]
    assert findings(undecided, "unrecorded") == ["Board"]
    assert findings(unconsumed, "unconsumed") == ["event:Asked", "event:Cancelled"]
    assert findings(unrecorded, "unrecorded") == ["Stock"]
    [cycle] = [finding.text for finding in around.findings if finding.kind == "cycle"]
    assert cycle.endswith("Order -> order -> Short -> refill -> Restock -> restock -> Asked -> loop -> Order")
    assert findings(declared_flow(TOPOLOGY), "outside") == []


def test_what_hears_or_shares_what_nobody_records_is_found(log: Log) -> None:
    """Nothing ever comes to it: that is said before anything runs, and once."""
    unheard = without(
        states=[*TOPOLOGY["states"], {"name": "Gone", "from": ["Left"]}],
        reactions=[
            *TOPOLOGY["reactions"],
            {"name": "deaf", "events": ["Left", "Short", "Moved"], "sends": ["Order"], "later": [], "reads": []},
        ],
        publications=[*TOPOLOGY["publications"], {"name": "mute", "event": ["Left"], "publishes": "Shouted", "reads": []}],
        shares=[*TOPOLOGY["shares"], {"name": "GoneCard", "state": "Gone"}],
        projections=[{"name": "rows", "version": 1, "events": ["Left", "Ordered"]}],
    )
    record(log, STEPS, unheard)

    flow = observed_flow(log)

    told, before = ([one.text for one in found.findings if one.kind == "unrecorded"] for found in (flow, declared_flow(unheard)))
    assert told == before
    assert told == [
        "`Gone` is shared, and nobody records `Left`, which it is folded from",
        "projection `rows` hears `Left`, and nobody records that",
        "publication `mute` hears `Left`, and nobody records that",
        "reaction `deaf` hears `Left`, `Moved`, and nobody records that",
    ]
    assert findings(flow, "idle") == ["reaction:deaf"]


def test_a_cycle_says_how_many_more_lead_back_and_which_step_is_a_timer() -> None:
    """Of a group that reach each other one way is told, and nothing of it is hidden without a count; a timer has the name of the command that it sends."""
    loop = {"name": "loop", "events": ["Asked"], "sends": [], "later": ["Restock"], "reads": []}
    also = {"name": "also", "events": ["Asked"], "sends": ["Restock"], "later": [], "reads": []}

    [alone] = [finding.text for finding in declared_flow(without(reactions=[loop])).findings if finding.kind == "cycle"]
    [both] = [finding.text for finding in declared_flow(without(reactions=[loop, also])).findings if finding.kind == "cycle"]

    assert alone == "these lead back to themselves: Restock -> restock -> Asked -> loop -> timer Restock -> Restock"
    assert both == "these lead back to themselves: Restock -> restock -> Asked -> also -> Restock; 2 more do so by other ways"


def test_cycles_are_named_by_a_shortest_way() -> None:
    """Each group of nodes that reach each other once, in order; a long chain is no trouble."""
    chain = [(f"{n:05}", f"{n + 1:05}") for n in range(20_000)]

    assert cycles([("b", "c"), ("c", "b"), ("c", "d"), ("d", "e"), ("e", "b"), ("x", "x"), ("a", "b")]) == [(["b", "c"], 2), (["x"], 0)]
    assert cycles(chain) == []
    [(way, others)] = cycles([*chain, ("20000", "00000")])
    assert (len(way), others) == (20_001, 0)


class Customer(h.State):
    sku: Sku
    country: str = ""

    def evolve(self, event: Received) -> "Customer":
        return self.but(country=event.sku)


class Lands(h.State):
    country: str
    orders: int = 0

    @staticmethod
    def key_of(event: Ordered, customer: Customer) -> str:
        return customer.country

    def evolve(self, event: Ordered) -> "Lands":
        return self.but(orders=self.orders + 1)


def test_what_a_view_joins_is_read_by_it() -> None:
    """So the events that only the joined state is folded from are consumed, and it is told where nobody records them."""
    joining = h.App("joining", records=[Received, Ordered], views=[Lands]).flow()
    lacking = h.App("lacking", records=[Ordered], views=[Lands]).flow()

    assert {node.id: node.reads for node in joining.nodes if node.reads} == {"view:Lands": ("Customer",)}
    assert joining.findings == ()
    assert [one.text for one in lacking.findings] == ["`Customer` is read, and nobody records `Received`, which it is folded from"]


def test_what_follows_from_what_never_came_is_not_told_again(log: Log) -> None:
    """An event that was never recorded is told where it should have come from, not at each view that shows it; one that nobody records, where it is heard."""
    app = h.App("quiet", records=[Received, Ordered], views=[Stock, Lands])
    topology = app.topology()
    record(log, [Step("1", None, None, ("event:Received",))], topology)

    flow = observed_flow(log, topology)

    assert {(one.source, one.target) for one in flow.arrows if one.status == "unseen"} >= {("event:Ordered", "view:Lands")}
    assert [one.text for one in flow.findings if one.kind == "unseen"] == ["outside -> event `Ordered` is declared, and was never seen"]


def test_the_same_wiring_gives_the_same_map() -> None:
    """In whatever order it is listed."""
    print("seed 7")
    chance = random.Random(7)
    shuffled = copy.deepcopy(TOPOLOGY)
    for key in ("deciders", "states", "reactions"):
        chance.shuffle(shuffled[key])

    assert msgspec.json.encode(declared_flow(shuffled)) == msgspec.json.encode(declared_flow(TOPOLOGY))


# --- observed


def test_every_kind_of_arrow_is_seen_and_counted(log: Log) -> None:
    """What is recorded once is seen once; of two events in one row both count; a refusal is one; and nothing is undeclared."""
    record(log, STEPS, TOPOLOGY)

    flow = observed_flow(log, TOPOLOGY)

    assert pairs(flow) == set(ARROWS.strip().splitlines())
    assert flow.undeclared == ()
    assert {(one.source, one.target) for one in flow.arrows if one.status == "unseen"} == {
        ("outside", "command:Restock"),
        ("outside", "command:Cancel"),
        ("replica:Card", "decider:order"),
    }
    assert arrow(flow, "subscription:crm", "replica:Card").status == "declared", "no log tells what a copy takes in"
    assert findings(flow, "unseen") == []
    assert arrow(flow, "decider:order", "event:Ordered").count == 2
    assert (arrow(flow, "command:Order", "decider:order").count, arrow(flow, "command:Order", "decider:order").refused) == (2, 1)
    assert arrow(flow, "command:Restock", "decider:restock").count == 1
    assert arrow(flow, "event:Short", "reaction:refill").waited == Times(1024, 1024)
    assert arrow(flow, "timer:Cancel", "command:Cancel").count == 1
    asked = arrow(flow, "decider:order", "gateway:freight")
    assert (asked.waited, asked.ran) == (None, Times(1024, 1024)), "who is asked is asked at once"
    assert arrow(flow, "event:Received", "share:StockCard").count == 1
    assert next(node.seen for node in flow.nodes if node.id == "reaction:refill") == 3


def test_an_app_sees_what_it_did(tmp_path: Path) -> None:
    """Counts, refusals and failures of a running app; a command that was kept first counts as one; a fresh process sees the same."""
    url = f"sqlite:///{tmp_path}/shop.db"
    with shop.open(url) as running:
        for n in range(20):
            running.record(Received("nut"), id=f"r{n}")
        running.record(Received("pair"))
        running.dispatch(Order("nut"))
        running.dispatch(Order("pair"))
        running.outcome(running.enqueue(Order("nut")))
        with pytest.raises(h.Refused):
            running.dispatch(Order("bolt"))
        flow = running.flow()
    with shop.open(url, run=False) as again:
        assert again.flow() == flow
        assert again.flow(after=again.log.head).arrows != flow.arrows

    decided = arrow(flow, "command:Order", "decider:order")
    assert (decided.count, decided.refused) == (4, 1)
    assert decided.ran is not None
    assert arrow(flow, "outside", "command:Order").count == 4
    assert arrow(flow, "outside", "event:Received").count == 21
    assert arrow(flow, "decider:order", "event:Ordered").count == 4
    assert arrow(flow, "event:Ordered", "view:Stock").count == 4
    assert flow.undeclared == ()
    assert findings(flow, "unseen") == ["event:Lost"]


def test_a_projection_hears_each_of_its_events(log: Log) -> None:
    """It is in the user's own database, so no row tells of it: as of a view, its events are counted."""
    topology = without(projections=[{"name": "rows", "version": 1, "events": ["Ordered", "Cancelled", "Received"]}])
    record(log, STEPS[:2], topology)

    flow = observed_flow(log)

    assert (arrow(flow, "event:Ordered", "projection:rows").status, arrow(flow, "event:Ordered", "projection:rows").count) == ("seen", 2)
    assert arrow(flow, "event:Cancelled", "projection:rows").status == "unseen"


def test_a_stretch_is_named_by_positions_or_times() -> None:
    """What lies after one and up to another; a time is the last position recorded by then."""
    clock = Clock()
    with shop.open(source=clock) as running:
        receipts = list[h.Receipt]()
        for n in range(4):
            clock.move(timedelta(hours=1))
            receipts.append(running.record(Received(f"{n}")))
        began = clock.now - timedelta(hours=3)

        def seen(**stretch: Any) -> int:
            return arrow(running.flow(**stretch), "outside", "event:Received").count

        assert seen() == 4
        assert seen(after=receipts[0].position) == 3
        assert seen(until=receipts[1].position) == 2
        assert seen(after=receipts[0].position, until=receipts[1].position) == 1
        assert seen(after=began, until=began + timedelta(hours=1, minutes=30)) == 1
        assert seen(until=began - timedelta(seconds=1)) == 0
        assert seen(after=clock.now) == 0
        with pytest.raises(h.Invalid, match="zone"):
            running.flow(after=clock.now.replace(tzinfo=None))


def test_a_wiring_that_was_in_force_is_no_discrepancy(log: Log) -> None:
    """What an older wiring declared is marked as earlier, until the stretch lies behind it."""
    older = without(publications=[{"name": "shout", "event": ["Ordered"], "publishes": "Shouted", "reads": []}])
    record(log, [Step("0", None, None, ("notification:Shouted",), "publication:shout", "event:Ordered")], older)
    record(log, STEPS[:2], TOPOLOGY)
    later = log.head
    record(log, [Step("9", None, None, ("notification:Shouted",), "publication:shout", "event:Ordered")])

    flow = observed_flow(log)

    assert arrow(flow, "publication:shout", "notification:Shouted").status == "earlier"
    assert flow.undeclared == ()
    assert {one.target for one in observed_flow(log, after=later).undeclared} == {"publication:shout", "notification:Shouted"}


def test_a_timer_that_an_older_wiring_has_set_is_no_discrepancy_when_it_rings(log: Log) -> None:
    """Also in a stretch in which that wiring was not in force any more: it may have been set long before."""
    record(log, STEPS[:6], TOPOLOGY)
    newer = without(reactions=[{**TOPOLOGY["reactions"][0], "later": []}, TOPOLOGY["reactions"][1]])
    record(log, STEPS[8:9], newer)
    released = log.head
    record(log, STEPS[7:8])

    flow = observed_flow(log, newer, after=released)

    assert (arrow(flow, "timer:Cancel", "command:Cancel").status, arrow(flow, "timer:Cancel", "command:Cancel").count) == ("earlier", 1)
    assert flow.undeclared == ()


RENAMED = {
    "Received": "Delivered",
    "Ordered": "Sold",
    "Short": "RanShort",
    "Order": "Buy",
    "Cancel": "Withdraw",
    "crm/Moved": "crm/Relocated",
}


def renamed(topology: dict[str, Any]) -> dict[str, Any]:
    """Return a topology with today's names."""
    text = json.dumps(topology)
    for name, to in RENAMED.items():
        text = text.replace(json.dumps(name), json.dumps(to))
    changed: dict[str, Any] = json.loads(text)
    return changed


@pytest.mark.parametrize("known", [True, False], ids=["with the wiring of then", "without"])
def test_what_was_recorded_under_an_earlier_name_counts_for_todays(log: Log, *, known: bool) -> None:
    """Events, commands and timers, whoever recorded or heard them; a name that was another message's in another version is not mixed up with it."""
    upcasts = {"earlier": [{"name": name, "version": 1, "to": to} for name, to in RENAMED.items()]}
    today = {
        **renamed(TOPOLOGY),
        "upcasts": {**upcasts, "earlier": [*upcasts["earlier"], {"name": "Asked", "version": 7, "to": "Ordered"}]},
    }
    record(log, STEPS, TOPOLOGY if known else None)

    flow = observed_flow(log, today)

    lines = [line.replace(":", " ").split(" ") for line in ARROWS.strip().splitlines()]
    expected = {" ".join(RENAMED.get(word, word) for word in line) for line in lines}
    assert {pair.replace(":", " ") for pair in pairs(flow)} == expected
    assert (flow.undeclared, findings(flow, "unseen", "idle", "undeclared")) == ((), [])
    assert (arrow(flow, "decider:order", "event:Sold").count, arrow(flow, "command:Buy", "decider:order").refused) == (2, 1)
    assert (arrow(flow, "event:Delivered", "share:StockCard").count, arrow(flow, "decider:restock", "event:Asked").count) == (1, 1)
    assert arrow(flow, "timer:Withdraw", "command:Withdraw").count == 1


def test_what_an_older_wiring_declared_under_an_earlier_name_is_no_discrepancy(log: Log) -> None:
    """Also where today's wiring has neither that arrow nor that name."""
    older = without(publications=[{"name": "shout", "event": ["Ordered"], "publishes": "Shouted", "reads": []}])
    record(log, [Step("0", None, None, ("notification:Shouted",), "publication:shout", "event:Ordered")], older)
    today = {**renamed(TOPOLOGY), "upcasts": {"earlier": [{"name": "Ordered", "version": 1, "to": "Sold"}]}}

    flow = observed_flow(log, today)

    assert (arrow(flow, "event:Sold", "publication:shout").status, flow.undeclared) == ("earlier", ())


def test_an_undeclared_arrow_of_an_earlier_name_is_found(log: Log) -> None:
    """Upcasts say what a message is called, not who may record it: also of one that became several."""
    today = without(
        upcasts={"earlier": [{"name": "Sold", "version": 1, "to": "Ordered"}, {"name": "Done", "version": 1, "into": ["Short", "Asked"]}]}
    )
    record(log, [Step("1", "command:Cancel", "decider:cancel", ("event:Sold", "event:Done"))])

    flow = observed_flow(log, today)

    assert {one.target for one in flow.undeclared} == {"event:Ordered", "event:Done"}


class Handed(h.Event):
    sku: Sku


class Packed(h.Event):
    sku: Sku


class Sent(h.Event):
    sku: Sku


class Ship(h.Command):
    sku: Sku


class Parcel(h.State):
    sku: Sku
    sent: bool = False

    def evolve(self, event: Packed | Sent) -> "Parcel":
        return self.but(sent=isinstance(event, Sent))


def in_two(handed: Handed) -> Iterator[Packed | Sent]:
    yield Packed(handed.sku)
    yield Sent(handed.sku)


def in_two_by_name(handed: h.Data) -> list[tuple[str, h.Data]]:
    return [("Packed", handed), ("Sent", handed)]


@pytest.mark.parametrize("upcast", [in_two, h.Upcast("Handed", 1, in_two_by_name)], ids=["typed", "plain"])
@pytest.mark.parametrize("unread", [{"upcasts": [h.Retired("Lost")]}, {"ignores": ["Lost"]}], ids=["retired", "ignored"])
def test_an_event_that_became_several_or_is_no_longer_read_is_no_discrepancy(
    tmp_path: Path, upcast: Any, unread: dict[str, list[Any]]
) -> None:
    """It is counted under the name that it was recorded by, as an earlier one; what it may have come to is seen, and not counted."""
    url = f"sqlite:///{tmp_path}/shop.db"

    @h.named("ship")
    def ship_then(command: Ship) -> list[Handed]:
        return [Handed(command.sku)]

    def ship(command: Ship) -> list[Packed | Sent]:
        return [Packed(command.sku), Sent(command.sku)]

    def follow(event: Sent) -> Iterator[Remind]:
        if event.sku != "nut":
            yield Remind(event.sku)

    with h.App("shop", records=[Lost], deciders=[ship_then]).open(url) as running:
        running.record(Lost("nut"))
        running.dispatch(Ship("nut"))
    today = h.App(
        "shop",
        deciders=[ship, remind],
        reactions=[h.Reaction(follow, since=0)],
        views=[Parcel],
        upcasts=[upcast, *unread.get("upcasts", [])],
        ignores=unread.get("ignores", []),
    )
    with today.open(url) as running:
        running.settled()
        flow = running.flow()
        running.dispatch(Ship("nut"))
        again = running.flow()
    with closing(h.open_log(url)) as log:
        alone = observed_flow(log)

    assert flow.undeclared == ()
    assert (arrow(flow, "decider:ship", "event:Handed").count, arrow(flow, "decider:ship", "event:Handed").status) == (1, "earlier")
    assert arrow(flow, "outside", "event:Lost").status == "earlier"
    assert [
        (arrow(flow, "decider:ship", f"event:{one}").status, arrow(flow, "decider:ship", f"event:{one}").count)
        for one in ("Packed", "Sent")
    ] == [("seen", 0)] * 2
    assert {arrow(flow, f"event:{one}", "view:Parcel").status for one in ("Packed", "Sent")} == {"seen"}
    assert arrow(flow, "event:Sent", "reaction:follow").status == "seen"
    assert findings(flow, "unseen") == ["command:Remind"]
    assert arrow(again, "decider:ship", "event:Packed").count == 1
    assert alone == msgspec.structs.replace(again, nodes=alone.nodes)


def test_a_log_without_wiring_has_a_map_of_what_was_seen(log: Log) -> None:
    """None of it is undeclared then: nobody has said what may happen, so nothing can be otherwise."""
    log.append(h.Loose("Noted", {}))

    flow = observed_flow(log)

    assert pairs(flow) == {"outside -> event:Noted"}
    assert [one.status for one in flow.arrows] == ["seen"]
    assert [one.status for one in observed_flow(log, {}).arrows] == ["undeclared"]


def test_no_log_is_read_for_a_map(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a long log only the rows at both ends of the stretch are looked at."""
    counted: list[Row] = []
    system = many()
    with closing(h.open_log(f"sqlite:///{tmp_path}/log.db", create=True)) as log:
        for start in range(6):
            record(log, list(traffic(system, 3_000, start)), system.topology if start == 0 else None)

        def count(row: Row) -> Any:
            counted.append(row)
            return counts_of(row)

        monkeypatch.setattr("happened.notification.observed.counts_of", count)
        flow = observed_flow(log, after=5_001, until=30_001)

    assert sum(one.count for one in flow.arrows if one.target.startswith("decider:")) > 10_000
    assert 0 < len(counted) <= 4_096


# --- declared against observed


def drop(*path: str | int) -> Callable[[dict[str, Any]], None]:
    """Return what takes something out of a topology."""

    def change(topology: dict[str, Any]) -> None:
        at: Any = topology
        for step in path[:-1]:
            at = at[step]
        at.pop(at.index(path[-1]) if path[-1] in at and not hasattr(at, "keys") else path[-1])

    return change


DISCREPANCIES: list[tuple[str, Callable[[dict[str, Any]], None], set[str]]] = [
    ("a decider yields more", drop("deciders", 0, "yields", "Short"), {"decider:order -> event:Short"}),
    ("a decider asks somebody", drop("gateways", "freight"), {"decider:order -> gateway:freight", "reaction:refill -> gateway:freight"}),
    ("a reaction hears more", drop("reactions", 0, "events", "Short"), {"event:Short -> reaction:refill"}),
    ("a reaction sends more", drop("reactions", 0, "sends", "Restock"), {"reaction:refill -> command:Restock"}),
    ("a timer rings", drop("reactions", 0, "later", "Cancel"), {"reaction:refill -> timer:Cancel", "timer:Cancel -> command:Cancel"}),
    ("a fact comes in", drop("records", "Received"), {"outside -> event:Received"}),
    ("a subscription brings more", drop("subscriptions", "crm"), {"subscription:crm -> event:crm/Moved"}),
    ("a publication says more", drop("publications", 0, "publishes"), {"publication:tell -> notification:OrderTaken"}),
    (
        "an unknown publication",
        drop("publications", 0),
        {"event:Ordered -> publication:tell", "publication:tell -> notification:OrderTaken"},
    ),
    ("an unknown share", drop("shares", 0), {"event:Ordered -> share:StockCard"}),
    (
        "an unknown decider",
        drop("deciders", 2),
        {"outside -> command:Cancel", "command:Cancel -> decider:cancel", "decider:cancel -> event:Cancelled"},
    ),
]


@pytest.mark.parametrize(("change", "expected"), [case[1:] for case in DISCREPANCIES], ids=[case[0] for case in DISCREPANCIES])
def test_a_discrepancy_is_found(log: Log, change: Callable[[dict[str, Any]], None], expected: set[str]) -> None:
    """Each that is planted, and nothing else."""
    changed = copy.deepcopy(TOPOLOGY)
    change(changed)
    outside = Step("4", "command:Cancel", "decider:cancel", ("event:Cancelled",))
    record(log, [*STEPS, outside], changed)

    flow = observed_flow(log)

    assert {f"{one.source} -> {one.target}" for one in flow.undeclared} == expected
    assert len(findings(flow, "undeclared")) == len(expected)


def test_a_large_system_has_no_false_alarm(log: Log) -> None:
    """300 message types, 180 handlers, whatever comes."""
    system = many()
    record(log, list(traffic(system, 2_000)), system.topology)

    flow = observed_flow(log)

    assert flow.undeclared == ()
    assert findings(flow, "idle") == []


def test_a_handler_that_only_fails_is_seen_to_run() -> None:
    """Its runs committed nothing; they are counted as failures."""

    def fail(command: Order) -> list[Ordered]:
        raise ValueError(command.sku)

    with h.App("shop", deciders=[fail]).open() as running:
        assert findings(running.flow(), "idle") == ["decider:fail"]
        with pytest.raises(ValueError, match="nut"):
            running.dispatch(Order("nut"))

        flow = running.flow()

    assert findings(flow, "idle") == []
    assert next(node.failed for node in flow.nodes if node.id == "decider:fail") == 1


def test_what_was_asked_or_is_to_be_sent_and_is_erased_is_no_discrepancy(url: str) -> None:
    """Of an answer and of a timer that are erased it is only left that there was one: who may ask, or send later, may have."""

    def rate(sku: str) -> int:
        return len(sku)

    def ask(command: Order, world: h.World) -> list[Ordered]:
        world.ask(rate, command.sku)
        return [Ordered(command.sku)]

    def later(event: Ordered) -> Iterator[h.Later[Remind]]:
        yield h.Later(Remind(event.sku), after=timedelta(days=1))

    app = h.App("shop", deciders=[ask, remind], gateways=[rate], reactions=[later])
    with app.open(url) as running:
        running.settled(running.dispatch(Order("nut")))
        running.erase(("sku", "nut"), actor="ann", reason="asked for")
        flow = running.flow()

    assert flow.undeclared == ()
    assert (arrow(flow, "decider:ask", "gateway:?").count, arrow(flow, "reaction:later", "timer:?").count) == (1, 1)


@pytest.mark.parametrize("name", ["index", "pending", "compact"])
def test_what_the_log_does_by_itself_is_no_run_of_a_decider_of_that_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Where it fails the map counts no failure of the decider, nor `check`, and the samples say what it is."""

    @h.named(name)
    def decide(command: Order) -> list[Ordered]:
        return [Ordered(command.sku)]

    def fail(*_: object, **__: object) -> None:
        raise h.StoreFailed("planted")

    app = h.App("shop", records=[Received], deciders=[decide])
    with app.open(f"sqlite:///{tmp_path}/log.db", run=False) as running:
        log = running.log
        if name == "index":
            monkeypatch.setattr(log.engine, "index", fail)
        running.record(Received("nut"))
        if name == "pending":
            worker = Worker(log, None, name, begin=fail, step=fail)
            worker.start()
            until(lambda: bool(log.engine.samples()))
            worker.stop()
        if name == "compact":
            monkeypatch.setattr("happened.log.compacting.InBackground._pack", fail)
            with InBackground(log, above=1):
                until(lambda: bool(log.engine.samples()))
        flow = running.flow()
        counted = {one["handler"] for one in running.statistics()["executions"]}
        checked = decide_again(app, log)

    assert counted == {f"log/{name}"}
    assert findings(flow, "idle") == [f"decider:{name}"]
    assert [node.id for node in flow.nodes if node.failed] == []
    assert checked.unchecked == {}


class Remind(h.Command):
    sku: Sku


class Reminded(h.Event):
    sku: Sku


def remind(command: Remind) -> list[Reminded]:
    return [Reminded(command.sku)]


def follow(event: Ordered) -> Iterator[Remind | h.Later[Remind]]:
    yield Remind(event.sku)
    yield h.Later(Remind(event.sku), after=timedelta(milliseconds=1))


@pytest.mark.parametrize("kind", ["memory:", "sqlite:///"])
def test_reactions_and_timers_are_seen_at_work(tmp_path: Path, kind: str) -> None:
    """What a running app sends at once and later: as declared, each arrow with its count, and those that wait with their times."""
    app = h.App("shop", records=[Received], deciders=[order, remind], reactions=[follow], views=[Stock])
    with app.open(kind if kind == "memory:" else f"{kind}{tmp_path}/log.db") as running:
        running.record(Received("nut"))
        receipt = running.dispatch(Order("nut"))
        running.settled(receipt)
        while not next(one.count for one in running.flow().arrows if one.source == "timer:Remind"):
            running.log.wait(running.log.head, 0.05)

        flow = running.flow()

    assert flow.undeclared == ()
    assert findings(flow, "idle", "unseen") == []
    assert arrow(flow, "event:Ordered", "reaction:follow").count == 2
    assert arrow(flow, "event:Ordered", "reaction:follow").ran is not None
    assert arrow(flow, "reaction:follow", "command:Remind").count == 1
    assert arrow(flow, "reaction:follow", "timer:Remind").count == 1
    assert arrow(flow, "timer:Remind", "command:Remind").waited is not None
    assert arrow(flow, "command:Remind", "decider:remind").count == 2
    assert (findings(flow, "unconsumed"), findings(flow, "outside")) == (["event:Reminded"], ["command:Order"])


def leave(command: Remind) -> Iterator[Reminded]:
    if command.sku == "never":
        yield Reminded(command.sku)


def test_a_kept_command_that_comes_to_nothing_leads_nowhere() -> None:
    """That it was decided, and nothing came of it, is kept as a record; it is no message of the app, and no discrepancy."""

    def follow(event: Received) -> Iterator[Remind]:
        yield Remind(event.sku)

    with h.App("shop", records=[Received], deciders=[leave], reactions=[follow]).open() as running:
        running.settled(running.record(Received("nut")))
        running.outcome(running.enqueue(Remind("nut")))

        flow = running.flow()

    assert flow.undeclared == ()
    assert arrow(flow, "command:Remind", "decider:leave").count == 2
    assert {node.id for node in flow.nodes if node.seen} == {
        "command:Remind",
        "decider:leave",
        "event:Received",
        "reaction:follow",
    }


def test_runs_that_failed_are_those_of_the_handler_whatever_it_is_called() -> None:
    """A decider and a reaction may be functions of one name, and a name may have a `/` in it."""

    @h.named("restock")
    def decide(command: Order) -> Iterator[Ordered]:
        raise ValueError(command.sku)

    @h.named("restock")
    def react(event: Lost) -> Iterator[Order]:
        raise ValueError(event.sku)

    @h.named("stock/watch")
    def watch(event: Received) -> Iterator[Order]:
        raise ValueError(event.sku)

    with h.App("shop", records=[Received, Lost], deciders=[decide], reactions=[react, watch]).open() as running:
        with pytest.raises(ValueError, match="nut"):
            running.dispatch(Order("nut"))
        running.record(Received("nut"))
        while not running.stuck():
            running.log.wait(running.log.head, 0.01)

        flow = running.flow()

    failed = {node.id: node.failed for node in flow.nodes if node.failed}
    assert failed.pop("reaction:stock/watch") > 0
    assert failed == {"decider:restock": 1}
    assert findings(flow, "idle") == ["reaction:restock"]


def test_trouble_of_the_world_is_no_failure_of_a_handler(monkeypatch: pytest.MonkeyPatch) -> None:
    """A commit that could not be made in time is made again: no run has raised, and a handler that did nothing else was not seen to run."""
    app = h.App("shop", records=[Received], deciders=[order, remind], reactions=[follow], views=[Stock])
    with app.open() as running:
        running.record(Received("nut"))
        submit, busy = running.log.writer.submit, [True]

        def submitted(job: Job, wait_seconds_max: float) -> None:
            if isinstance(job, Advance) and busy and busy.pop():
                raise h.Overloaded("another process holds the log's lock; nothing was recorded")
            submit(job, wait_seconds_max)

        monkeypatch.setattr(running.log.writer, "submit", submitted)
        running.settled(running.dispatch(Order("nut")))
        counted = {(one["handler"], one["outcome"]): one["count"] for one in running.statistics()["executions"]}
        flow = running.flow()

    assert counted == {("reaction/follow", "trouble"): 1}
    assert [node.id for node in flow.nodes if node.failed] == []
    assert arrow(flow, "reaction:follow", "command:Remind").count == 1


@pytest.mark.parametrize("postgres", [False, True], ids=["sqlite", "postgres"])
def test_a_handler_that_commits_nothing_is_seen_to_run_from_elsewhere_while_it_runs(
    url: str, monkeypatch: pytest.MonkeyPatch, *, postgres: bool
) -> None:
    """What it has counted is written along with the next commit, not only when its process ends: that may be killed."""
    monkeypatch.setattr("happened.stores.samples.WRITTEN_AFTER_SECONDS", -1.0)

    def quiet(event: Received) -> list[Remind]:
        return []

    def fail(event: Received) -> list[Remind]:
        raise ValueError(event.sku)

    app = h.App("shop", records=[Received, Lost], deciders=[remind], reactions=[quiet, fail])
    url = fresh() if postgres else url
    with app.open(url) as running:
        running.record(Received("nut"))
        while not running.stuck() or any(one["lag"] for one in running.statistics()["reactions"]):
            running.log.wait(running.log.head, 0.01)
        running.record(Lost("nut"))
        with app.open(url, run=False) as elsewhere:
            flow = elsewhere.flow()

    assert findings(flow, "idle") == ["decider:remind"]
    assert next(node.failed for node in flow.nodes if node.id == "reaction:fail") > 0


def test_what_a_handler_heard_and_did_nothing_about_was_seen() -> None:
    """A process manager that waits for the last of several events has heard all of them, as has one that fails on one of them; no row says so."""

    def wait(event: Received | Lost | Ordered) -> Iterator[Remind]:
        if isinstance(event, Lost):
            yield Remind(event.sku)
        if event.sku == "bad":
            raise ValueError(event.sku)

    app = h.App("shop", records=[Received, Lost], deciders=[order, remind], reactions=[h.Reaction(wait, by="sku")])
    with app.open() as running:
        first = running.record(Lost("nut"))
        running.record(Received("nut"))
        running.settled()
        waits = running.flow()
        before = running.flow(until=first.position)
        running.dispatch(Order("nut"))
        running.settled()
        every = running.flow()

    assert (arrow(waits, "event:Received", "reaction:wait").status, arrow(waits, "event:Received", "reaction:wait").count) == ("seen", 0)
    assert arrow(waits, "event:Ordered", "reaction:wait").status == "unseen"
    assert arrow(before, "event:Received", "reaction:wait").status == "unseen"
    assert findings(every, "unseen", "idle") == []
    with app.open() as running:
        running.record(Received("bad"))
        while not running.stuck():
            running.log.wait(running.log.head, 0.01)
        assert arrow(running.flow(), "event:Received", "reaction:wait").status == "seen"


@h.named("Took")
class Took(h.Event):
    sku: Sku


@h.named("Taken", version=2)
class Taken(h.Event):
    sku: Sku


@h.named("heed")
def heed_took(event: Took) -> list[Remind]:
    return []


@h.named("heed")
def heed_taken(event: Taken) -> list[Remind]:
    return []


def test_what_was_heard_under_an_earlier_name_and_came_to_nothing_was_seen(tmp_path: Path) -> None:
    """No row says so, and the sample of the run has the name of then."""
    url = f"sqlite:///{tmp_path}/shop.db"
    with h.App("shop", records=[Took], deciders=[remind], reactions=[heed_took]).open(url) as running:
        running.record(Took("nut"))
        running.settled()
    today = h.App("shop", records=[Taken], deciders=[remind], reactions=[heed_taken], upcasts=[h.Upcast("Took", 1, to="Taken")])
    with today.open(url, run=False) as running:
        flow = running.flow()

    assert arrow(flow, "event:Taken", "reaction:heed").status == "seen"
    assert "reaction:heed" not in findings(flow, "unseen", "idle")


class Card(h.State):
    sku: Sku
    units: int = 0


def test_a_subscription_that_only_feeds_copies_is_not_said_to_be_idle() -> None:
    """What it takes in lies beside the views, and in no row of the log."""

    def sell(command: Order, card: Card | None) -> Iterator[Ordered]:
        yield Ordered(command.sku)

    flow = observed(h.App("till", deciders=[sell], replicas={"store": [Card]}))

    assert findings(flow, "idle") == ["decider:sell"]


def observed(app: h.App) -> Flow:
    """Return the map of an app on a log in which nothing has happened yet."""
    with app.open(channels=dict.fromkeys(["store"])) as running:
        return running.flow()
