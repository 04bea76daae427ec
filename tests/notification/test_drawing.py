"""Drawing: at most so many nodes, and all that is hidden is counted."""

import pytest

import happened as h
from happened.notification.drawing import NODES_MAX, Drawing, drawn
from happened.notification.flow import Flow, declared_flow
from tests.notification.made import COMMANDS, EVENTS, MODULES, REACTIONS, VIEWS, many

NODES = COMMANDS + EVENTS + COMMANDS + REACTIONS + VIEWS + 1


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


def test_without_modules_the_busiest_are_drawn(flow: Flow) -> None:
    """So many, and the rest is counted."""
    bare = declared_flow(many().topology)

    drawing = drawn(bare)

    assert len(drawing.nodes) == NODES_MAX
    check_counted(bare, drawing)
    assert drawing.hidden_nodes == NODES - NODES_MAX


def test_what_is_not_there_is_said(flow: Flow) -> None:
    """A focus is a message, a handler or a module."""
    with pytest.raises(h.NotThere, match="Nothing"):
        drawn(flow, focus="Nothing")


def test_types_that_come_later_change_nothing_near_others(flow: Flow) -> None:
    """What is drawn around a node depends on what is near it alone."""
    system = many()
    system.topology["records"].append("Aaa")
    more = declared_flow(system.topology, system.modules)

    assert drawn(more, focus="Happened010").nodes == drawn(flow, focus="Happened010").nodes
