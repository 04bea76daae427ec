"""Drawing: at most so many nodes, and all that is hidden is counted."""

import itertools
from collections.abc import Iterator
from datetime import timedelta
from typing import Annotated

import msgspec
import pytest

import happened as h
from happened.edge.sight import as_mermaid, as_text
from happened.notification.drawing import ARROWS_MAX, NODES_MAX, Drawing, drawn
from happened.notification.flow import Arrow, Finding, Flow, Node, Times, declared_flow
from tests.notification.made import COMMANDS, EVENTS, MODULES, REACTIONS, VIEWS, many

NODES = COMMANDS + EVENTS + COMMANDS + REACTIONS + VIEWS + 1


Key = Annotated[str, h.Tag("key")]


class Came(h.Event):
    key: Key


class Moved(h.Event):
    key: Key


class Answer(h.Command):
    key: Key


class Answered(h.Event):
    key: Key


class Told(h.Event):
    key: Key


class Card(h.State):
    key: Key
    street: str = ""


class Count(h.State):
    key: Key
    count: int = 0

    def evolve(self, event: Came | Moved) -> "Count":
        return self.but(count=self.count + 1)


def ask(key: str) -> str:
    raise NotImplementedError


def answer(command: Answer, card: Card | None, world: h.World) -> Iterator[Answered]:
    yield Answered(world.ask(ask, command.key))


def wait(event: Came | Moved) -> Iterator[h.Later[Answer]]:
    yield h.Later(Answer(event.key), after=timedelta(days=1))


def tell(event: Answered) -> Told:
    return Told(event.key)


@pytest.fixture(scope="module")
def flow() -> Flow:
    """Return the map of a large system."""
    system = many()
    return declared_flow(system.topology, system.modules)


def check_counted(flow: Flow, drawing: Drawing) -> None:
    """Fail unless what is drawn, folded or hidden is all there is, and what is drawn hangs together."""
    shown = {node.id for node in drawing.nodes}
    assert len(drawing.nodes) <= NODES_MAX
    assert len(drawing.nodes) - len(drawing.folded) + sum(drawing.folded.values()) + drawing.hidden_nodes == len(flow.nodes)
    assert all(arrow.source in shown and arrow.target in shown for arrow in drawing.arrows)
    assert len(drawing.findings) + sum(drawing.hidden_findings.values()) == len(flow.findings)


def test_a_large_system_is_drawn_by_modules(flow: Flow) -> None:
    """Each module is a node, with how many it stands for; arrows between two are one."""
    drawing = drawn(flow)

    assert len(flow.nodes) == NODES
    assert {node.kind for node in drawing.nodes} == {"module", "outside"}
    assert len(drawing.folded) == MODULES
    check_counted(flow, drawing)
    place = {node.id: node.module for node in flow.nodes}
    inside = sum(place[arrow.source] == place[arrow.target] != "" for arrow in flow.arrows)
    assert drawing.hidden_arrows == inside


def test_of_more_modules_than_are_drawn_the_rest_is_counted(flow: Flow) -> None:
    """With their arrows, those inside a module and those to one that is not drawn."""
    drawing = drawn(flow, nodes_max=MODULES - 3)

    shown = {node.name if node.kind == "module" else node.id for node in drawing.nodes}
    place = {node.id: node.module or node.id for node in flow.nodes}
    ends = [(place[arrow.source], place[arrow.target]) for arrow in flow.arrows]
    assert len(shown) == MODULES - 3
    assert drawing.hidden_nodes == sum(one not in shown for one in place.values()) > 0
    assert drawing.hidden_arrows == sum(one == other or not {one, other} <= shown for one, other in ends)


def test_a_module_tells_how_often_its_handlers_failed(flow: Flow) -> None:
    """A failure is not hidden by drawing many as one."""
    failing = [node.id for node in flow.nodes if node.module == "many.module03" and node.kind in ("decider", "reaction")]
    failed = [msgspec.structs.replace(node, failed=2) if node.id in failing else node for node in flow.nodes]
    whole = msgspec.structs.replace(flow, nodes=tuple(failed))

    drawing = drawn(whole)

    assert {node.name: node.failed for node in drawing.nodes if node.failed} == {"many.module03": 2 * len(failing)}
    module = next(node for node in drawing.nodes if node.failed)
    assert f"module many.module03 ({drawing.folded[module.id]}) failed {2 * len(failing)} times" in list(as_text(whole, drawing))


def test_a_bundle_says_how_many_of_its_arrows_are_marked() -> None:
    """Some of them were seen: "never seen" alone would be a lie, and so would "not declared"."""
    nodes = (Node("outside", "outside", "outside"), *(Node(f"command:{n}", "command", str(n), module) for module in "ab" for n in range(3)))
    for status, said in (("unseen", "1 of 3 never seen"), ("undeclared", "1 of 3 NOT DECLARED"), ("seen", None)):
        arrows = tuple(Arrow("outside", f"command:{n}", status if n == 1 else "seen", 7) for n in range(3))
        flow = Flow("app", nodes, arrows, ())

        drawing = drawn(flow, nodes_max=3)

        [line] = [line for line in as_text(flow, drawing) if line.startswith("outside ")]
        [drawn_as] = [line for line in as_mermaid(flow, drawing) if "|" in line]
        assert line.endswith(f"  21  {said}" if said else "  21")
        assert (f'|"21, {said}"|' if said else '|"21"|') in drawn_as


def test_a_bundle_adds_up_what_its_arrows_count() -> None:
    """Rows, refusals and errors; times of several are not those of one."""
    nodes = (Node("outside", "outside", "outside"), *(Node(f"gateway:{n}", "gateway", str(n), module) for module in "ab" for n in range(3)))
    arrows = tuple(Arrow("outside", f"gateway:{n}", "seen", 10 + n, 2 + n, 4 + n, Times(1, 2), Times(1, 2)) for n in range(3))

    [bundle] = drawn(Flow("app", nodes, arrows, ()), nodes_max=3).arrows

    assert (bundle.count, bundle.refused, bundle.failed, bundle.waited, bundle.ran) == (33, 9, 15, None, None)


def test_around_a_focus_what_is_found_there_is_told_and_the_rest_is_counted() -> None:
    """But a cycle, which names more than its subject, and what is not declared: those are told wherever one looks."""
    found = [Finding(kind, "command:a", kind) for kind in ("cycle", "undeclared", "outside")]
    found += [Finding("unconsumed", "event:b", "b"), Finding("unrecorded", "Stock", "s"), Finding("outside", "command:c", "c")]
    nodes = (
        Node("command:a", "command", "a"),
        Node("event:b", "event", "b"),
        Node("view:Stock", "view", "Stock"),
        Node("decider:d", "decider", "d", reads=("Stock",)),
    )
    flow = Flow("app", nodes, (Arrow("event:b", "view:Stock"),), tuple(found))

    by_name = {focus: drawn(flow, focus=focus) for focus in ("b", "d", "a")}

    assert [one.kind for one in by_name["b"].findings] == ["cycle", "undeclared", "unconsumed", "unrecorded"]
    assert [one.kind for one in by_name["d"].findings] == ["cycle", "undeclared", "unrecorded"]
    assert [one.kind for one in by_name["a"].findings] == ["cycle", "undeclared", "outside"]
    assert "elsewhere: 2 outside, 1 unconsumed; without --focus they are listed" in list(as_text(flow, by_name["d"]))
    for drawing in (*by_name.values(), drawn(flow)):
        check_counted(flow, drawing)


def test_one_module_beside_what_is_opened_is_told_as_one() -> None:
    """As people say it."""
    flow = Flow("a", (Node("event:a", "event", "a", "one"), Node("event:b", "event", "b", "two")), (Arrow("event:a", "event:b"),), ())

    assert "1 of them is drawn as 1 module; open one by --focus MODULE" in list(as_text(flow, drawn(flow, focus="one")))


def test_one_module_is_opened(flow: Flow) -> None:
    """Its nodes are drawn, and the modules beside it that it has arrows with."""
    drawing = drawn(flow, focus="many.module03")

    own = [node for node in flow.nodes if node.module == "many.module03"]
    assert {node.id for node in own} <= {node.id for node in drawing.nodes}
    assert drawing.folded
    check_counted(flow, drawing)


@pytest.mark.parametrize("hops", [0, 1, 2, 3, 50])
def test_what_is_near_a_node_is_drawn(flow: Flow, hops: int) -> None:
    """Up and down so many arrows, not through the outside; the nearest where they are too many."""
    drawing = drawn(flow, focus="Happened010", hops=hops)

    check_counted(flow, drawing)
    assert drawing.folded == {}
    if hops == 0:
        assert [node.id for node in drawing.nodes] == ["event:Happened010"]
        assert (drawing.hidden_nodes, drawing.hidden_arrows) == (NODES - 1, len(flow.arrows))
    if hops == 1:
        beside = {a.target for a in flow.arrows if a.source == "event:Happened010"} | {
            a.source for a in flow.arrows if a.target == "event:Happened010"
        }
        assert {node.id for node in drawing.nodes} == {"event:Happened010"} | beside


def test_nothing_is_near_because_it_comes_from_outside_as_well() -> None:
    """Else all that somebody gives would be near everything; around the outside itself it is what is asked for."""
    nodes = (Node("outside", "outside", "outside"), *(Node(f"command:{name}", "command", name) for name in "ab"))
    flow = Flow("app", nodes, (Arrow("outside", "command:a"), Arrow("outside", "command:b")), ())

    assert [node.name for node in drawn(flow, focus="a", hops=5).nodes] == ["outside", "a"]
    assert [node.name for node in drawn(flow, focus="outside", hops=1).nodes] == ["outside", "a", "b"]


def test_without_modules_the_busiest_are_drawn(flow: Flow) -> None:
    """So many, and the rest is counted."""
    bare = declared_flow(many().topology)

    drawing = drawn(bare)

    assert len(drawing.nodes) == NODES_MAX
    check_counted(bare, drawing)
    assert drawing.hidden_nodes == NODES - NODES_MAX


def test_a_single_module_is_not_drawn_as_one_node(flow: Flow) -> None:
    """That would say nothing: of one module the busiest are drawn, and before anything was seen those with the most arrows."""
    system = many()
    single = declared_flow(system.topology, dict.fromkeys(system.modules, "many"))

    drawing = drawn(single)

    assert len(drawing.nodes) == NODES_MAX
    assert drawing.folded == {}
    assert len(drawing.arrows) >= 100
    check_counted(single, drawing)


def test_no_more_arrows_are_drawn_than_mermaid_takes() -> None:
    """Those that are not declared first, then the busiest, in their order; the rest is counted."""
    ends = [f"event:E{n:02}" for n in range(40)]
    every = [Arrow(one, other, "seen", at) for at, (one, other) in enumerate(itertools.product(ends, ends))]
    odd = [msgspec.structs.replace(every[0], status="undeclared"), *every[1:]]
    nodes = tuple(Node(end, "event", end.removeprefix("event:")) for end in ends)

    drawing = drawn(Flow("dense", nodes, tuple(odd), ()))

    assert drawing.arrows == (odd[0], *odd[len(odd) - ARROWS_MAX + 1 :])
    assert drawing.hidden_arrows == len(odd) - ARROWS_MAX


def test_each_part_of_an_app_is_in_its_module() -> None:
    """Also what is published, sent later, asked or copied: else a map by modules would have them one by one beside these."""
    app = h.App(
        "parts",
        records=[Came],
        deciders=[answer],
        gateways=[ask],
        reactions=[wait],
        publications=[tell],
        shares=[Count],
        views=[Count],
        subscriptions={"crm": [Moved]},
        replicas={"crm": [Card]},
    )

    assert {node.id for node in app.flow().nodes if not node.module} == {"outside", "subscription:crm"}
    assert {node.module for node in app.flow().nodes if node.module} == {__name__}


def test_what_is_not_there_is_said(flow: Flow) -> None:
    """A focus is a message, a handler or a module."""
    with pytest.raises(h.NotThere, match=r"called `Nothing`$"):
        drawn(flow, focus="Nothing")
    with pytest.raises(h.NotThere, match=r"called `module03`: it has `many.module03`$"):
        drawn(flow, focus="module03")
    with pytest.raises(h.NotThere, match=r"called `Hapened010`: it has `Happened010`, "):
        drawn(flow, focus="Hapened010")


def test_types_that_come_later_change_nothing_near_others(flow: Flow) -> None:
    """What is drawn around a node depends on what is near it alone."""
    system = many()
    system.topology["records"].append("Aaa")
    more = declared_flow(system.topology, system.modules)

    assert drawn(more, focus="Happened010").nodes == drawn(flow, focus="Happened010").nodes
