"""Drawing: the part of a flow map that people can read at once, and how much of it is hidden.

At most 150 nodes and 500 arrows are drawn. Around a focus they are the nearest; else, where there are more, each module is drawn as one node and its arrows as bundles;
where all are of one module, or none is known, the busiest nodes, or before anything was seen those with the most arrows. Nothing is left out without
being counted.
"""

import difflib
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence

import msgspec

from happened.core.errors import NotThere
from happened.notification.declared import OUTSIDE
from happened.notification.flow import EARLIER, SEEN, UNDECLARED, UNSEEN, Arrow, Finding, Flow, Node

NODES_MAX = 150
ARROWS_MAX = 500
"""Mermaid draws no more, unless a page tells it to."""
NEAR_MAX = 3
"""How many names are told to who asks for one that is not there."""
MODULE = "module"
"""The kind of a node that stands for all nodes of a module."""

_WORST = (UNDECLARED, EARLIER, UNSEEN, SEEN)
"""What a bundle of arrows is said to be, the first that one of them is."""


ALWAYS = (UNDECLARED, "cycle")
"""Kinds of findings that are told wherever one looks: a cycle names more than its subject, and what is not declared is why a map is wrong."""


class Bundle(Arrow, frozen=True):
    """Several arrows, drawn as one. Its status is the worst that one of them has."""

    arrows: int = 1
    marked: int = 1
    """How many of them have that status."""


class Drawing(msgspec.Struct, frozen=True):
    """What is drawn of a flow map, and how much is not."""

    nodes: tuple[Node, ...]
    arrows: tuple[Arrow, ...]
    findings: tuple[Finding, ...]
    """Around a focus those about what is drawn."""
    hidden_findings: Mapping[str, int]
    """The other ones: how many of each kind."""
    folded: Mapping[str, int]
    """For each node that stands for a module, how many nodes it stands for."""
    hidden_nodes: int
    hidden_arrows: int
    """Arrows that are not drawn, not even in a bundle: one of their ends is hidden, both are in one folded module, or there are too many."""


def drawn(flow: Flow, *, focus: str | None = None, hops: int = 2, nodes_max: int = NODES_MAX) -> Drawing:
    """Choose what to draw. `focus` is the name or id of a node, or a module; `NotThere` where it is none."""
    modules = {node.module for node in flow.nodes if node.module}
    drawing = _chosen(flow, modules, focus, hops, nodes_max)
    if focus is None:
        return drawing
    about = {text for node in drawing.nodes for text in (node.id, node.name, *node.reads)}
    near = tuple(finding for finding in flow.findings if finding.kind in ALWAYS or finding.subject in about)
    return msgspec.structs.replace(
        drawing, findings=near, hidden_findings=Counter(finding.kind for finding in flow.findings if finding not in near)
    )


def _chosen(flow: Flow, modules: Collection[str], focus: str | None, hops: int, nodes_max: int) -> Drawing:
    if focus is not None:
        found = [node.id for node in flow.nodes if focus in (node.id, node.name)]
        if found:
            return _capped(flow, _distances(flow.arrows, found, hops), nodes_max, {})
        if focus not in modules:
            names = sorted({*modules, *(node.name for node in flow.nodes)})
            near = [name for name in names if focus.lower() in name.lower()][:NEAR_MAX] or difflib.get_close_matches(focus, names, NEAR_MAX)
            like = f": it has {', '.join(f'`{name}`' for name in near)}" if near else ""
            raise NotThere(f"the flow has no message, handler or module called `{focus}`{like}", focus=focus, near=near)
        return _folded(flow, {focus}, nodes_max)
    if len(flow.nodes) <= nodes_max:
        return _capped(flow, dict.fromkeys((node.id for node in flow.nodes), 0), nodes_max, {})
    if len(modules) > 1:
        return _folded(flow, set(), nodes_max)
    return _capped(flow, dict.fromkeys((node.id for node in flow.nodes), 0), nodes_max, {})


def _folded(flow: Flow, opened: set[str], nodes_max: int) -> Drawing:
    """Draw each module as a node, but those that are opened; around an opened one only what it has arrows with."""
    place = {node.id: node.id if node.module in opened or not node.module else f"{MODULE}:{node.module}" for node in flow.nodes}
    folded: dict[str, int] = {}
    nodes: dict[str, Node] = {}
    for node in flow.nodes:
        at = place[node.id]
        if at != node.id:
            folded[at] = folded.get(at, 0) + 1
            known = nodes.get(at)
            seen, failed = (node.seen, node.failed) if known is None else (node.seen + known.seen, node.failed + known.failed)
            node = Node(at, MODULE, node.module, node.module, seen=seen, failed=failed)  # noqa: PLW2901 - from here on it is what is drawn
        nodes[at] = node
    bundles: dict[tuple[str, str], Arrow] = {}
    inside = 0
    for arrow in flow.arrows:
        pair = place[arrow.source], place[arrow.target]
        if pair[0] == pair[1]:
            inside += 1
            continue
        bundles[pair] = _bundled(bundles.get(pair), arrow, pair)
    whole = Flow(flow.app, tuple(nodes.values()), tuple(bundles[pair] for pair in sorted(bundles)), flow.findings, flow.after, flow.until)
    start = [node.id for node in whole.nodes if node.module in opened]
    distances = _distances(whole.arrows, start, 1) if opened else dict.fromkeys((node.id for node in whole.nodes), 0)
    drawing = _capped(whole, distances, nodes_max, folded)
    shown = {node.id for node in drawing.nodes}
    hidden = sum(place[node.id] not in shown for node in flow.nodes)
    bundled = sum((place[arrow.source], place[arrow.target]) in {(a.source, a.target) for a in drawing.arrows} for arrow in flow.arrows)
    return msgspec.structs.replace(
        drawing,
        folded={node: count for node, count in folded.items() if node in shown},
        hidden_nodes=hidden,
        hidden_arrows=len(flow.arrows) - bundled,
    )


def _bundled(before: Arrow | None, arrow: Arrow, pair: tuple[str, str]) -> Arrow:
    """Add an arrow to its bundle. Times of several are not those of one, and are left out."""
    if before is None:
        return msgspec.structs.replace(arrow, source=pair[0], target=pair[1])
    status = next((one for one in _WORST if one in (before.status, arrow.status)), arrow.status)
    arrows, marked = (before.arrows, before.marked) if isinstance(before, Bundle) else (1, 1)
    marked = (marked if before.status == status else 0) + (arrow.status == status)
    count, refused, failed = before.count + arrow.count, before.refused + arrow.refused, before.failed + arrow.failed
    return Bundle(*pair, status, count, refused, failed, arrows=arrows + 1, marked=marked)


def _distances(arrows: Iterable[Arrow], start: Sequence[str], hops: int) -> dict[str, int]:
    """Return how many arrows each node is away, up or down. Nobody goes through the outside: everything is near it."""
    beside: dict[str, list[str]] = {}
    for arrow in arrows:
        beside.setdefault(arrow.source, []).append(arrow.target)
        beside.setdefault(arrow.target, []).append(arrow.source)
    distances = dict.fromkeys(start, 0)
    ahead = list(start)
    for node in ahead:
        if distances[node] < hops and (node != OUTSIDE or node in start):
            for other in beside.get(node, ()):
                if other not in distances:
                    distances[other] = distances[node] + 1
                    ahead.append(other)
    return distances


def _capped(flow: Flow, distances: Mapping[str, int], nodes_max: int, folded: Mapping[str, int]) -> Drawing:
    """Draw the nodes that have a distance: the nearest, of those the busiest, of those with the most arrows, up to so many; and between them the busiest arrows, before them those that are not declared."""
    ends = Counter(end for arrow in flow.arrows for end in (arrow.source, arrow.target))
    near = sorted(
        (node for node in flow.nodes if node.id in distances), key=lambda node: (distances[node.id], -node.seen, -ends[node.id], node.id)
    )
    shown = {node.id for node in near[:nodes_max]}
    between = [arrow for arrow in flow.arrows if arrow.source in shown and arrow.target in shown]
    chosen = set(sorted(range(len(between)), key=lambda at: (between[at].status != UNDECLARED, -between[at].count))[:ARROWS_MAX])
    arrows = tuple(arrow for at, arrow in enumerate(between) if at in chosen)
    nodes = tuple(node for node in flow.nodes if node.id in shown)
    return Drawing(nodes, arrows, flow.findings, {}, folded, len(flow.nodes) - len(nodes), len(flow.arrows) - len(arrows))
