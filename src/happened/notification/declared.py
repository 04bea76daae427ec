"""The declared flow: what an app's wiring says may happen, known before anything runs.

It is read from a topology, as `App.topology()` returns it and as the log records it: plain data. A node is a message or what handles it; an arrow says
that one leads to the other. Arrows of causes make cycles; what a handler only reads stands at its node.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any  # Any: a topology is plain data

OUTSIDE = "outside"
"""Where what nobody here sends comes from. Its own node."""

KINDS = (
    OUTSIDE,
    "subscription",
    "timer",
    "command",
    "decider",
    "gateway",
    "event",
    "reaction",
    "publication",
    "notification",
    "share",
    "replica",
    "view",
    "projection",
)
"""Kinds of nodes, in the order in which they are listed."""

MESSAGES = ("event", "command", "timer")
"""Kinds of nodes that upcasts rename."""

HANDLERS = ("decider", "reaction", "publication", "share", "subscription")

Pair = tuple[str, str]
"""The ids of two nodes, from one to the other."""


def id_of(kind: str, name: str) -> str:
    """Return the id of a node."""
    return f"{kind}:{name}" if kind != OUTSIDE else OUTSIDE


class Declared:
    """A topology as nodes and arrows."""

    def __init__(self, topology: Mapping[str, Any]) -> None:
        self.app: str = topology.get("app", "")
        self.nodes: dict[str, tuple[str, str]] = {}
        """Id -> kind and name."""
        self.reads: dict[str, list[str]] = {}
        """Id of a handler, or of a view that joins -> the states that it reads."""
        self.arrows: dict[Pair, None] = {}
        self._sources: dict[str, list[str]] = {}
        self.may: set[Pair] = set()
        """Arrows that need never be gone: nothing is missing where they are not seen."""
        self.commands: dict[str, str] = {}
        """Name of a decider -> name of its command."""
        self.states: dict[str, Mapping[str, Any]] = {state["name"]: state for state in topology.get("states", ())}
        self.views: list[str] = list(topology.get("views", ()))
        self.shared: list[str] = []
        """The states that are shared."""
        self._replicas = {name for names in topology.get("replicas", {}).values() for name in names}
        upcasts: Mapping[str, Any] = topology.get("upcasts", {})
        earlier: Sequence[Mapping[str, Any]] = upcasts.get("earlier", ())
        self._renamed: dict[tuple[str, int], str] = {(one["name"], one["version"]): one["to"] for one in earlier if "to" in one}
        self._names: dict[str, list[str]] = {}
        """Name -> today's names of what was called so, in any version."""
        for (was, _), to in self._renamed.items():
            self._names.setdefault(was, []).append(to)
        self._split: dict[tuple[str, int], Sequence[str]] = {(one["name"], one["version"]): one["into"] for one in earlier if "into" in one}
        self.unheard: frozenset[str] = frozenset((*upcasts.get("retired", ()), *topology.get("ignores", ())))
        """Names that are known, and no longer read."""
        self._read(topology)

    def today(self, name: str, version: int) -> str:
        """Return what is called today what was recorded under a name, in a version."""
        return self._renamed.get((name, version), name)

    def came_to(self, name: str, version: int) -> Sequence[str]:
        """Return the names of the events that what was recorded under a name may have come to; none where it is still one."""
        into = self._split.get((name, version))
        return sorted(event for kind, event in self.nodes.values() if kind == "event") if into is not None and not into else into or ()

    def as_today(self, pair: Pair) -> Iterator[Pair]:
        """Return what an arrow of an older wiring may be called today: its messages in whatever version."""
        source, target = map(self._names_today, pair)
        return ((one, other) for one in source for other in target)

    def sources(self, id: str) -> Sequence[str]:
        """Return the nodes with an arrow to this one."""
        return self._sources.get(id, ())

    def is_reached(self, id: str) -> bool:
        """Say whether something may come to a handler: it hears nothing, or somebody sends or records something of what it hears."""
        return not self.sources(id) or any(map(self.sources, self.sources(id)))

    def events_of(self, state: str) -> list[str]:
        """Return the names of the events that a state is folded from; all of the app's where it is folded from any."""
        found = self.states.get(state, {})
        if found.get("everything"):
            return sorted(name for kind, name in self.nodes.values() if kind == "event")
        return list(found.get("from", ()))

    def folds_everything(self, state: str) -> bool:
        """Say whether a state is folded from every event."""
        return bool(self.states.get(state, {}).get("everything"))

    def leaves_rows(self, id: str) -> bool:
        """Say whether a handler that runs leaves rows in this log: a subscription that only feeds copies does not, they lie elsewhere."""
        return not id.startswith("subscription:") or any(
            source == id and not target.startswith("replica:") for source, target in self.arrows
        )

    def _names_today(self, id: str) -> Sequence[str]:
        kind, _, name = id.partition(":")
        return [id, *(id_of(kind, to) for to in self._names.get(name, ()))] if kind in MESSAGES else [id]

    def _read(self, topology: Mapping[str, Any]) -> None:
        for event in topology.get("records", ()):
            self._arrow((OUTSIDE, ""), ("event", event))
        for system, events in topology.get("subscriptions", {}).items():
            for event in events:
                self._arrow(("subscription", system), ("event", event))
        for system, names in topology.get("replicas", {}).items():
            for name in names:
                self._arrow(("subscription", system), ("replica", name), may=True)
        for decider in topology.get("deciders", ()):
            self._decider(decider, topology.get("gateways", ()))
        for reaction in topology.get("reactions", ()):
            self._reaction(reaction, topology.get("gateways", ()))
        for publication in topology.get("publications", ()):
            self._heard(publication, "publication", _listed(publication.get("event", ())))
            for published in _listed(publication.get("publishes", ())):
                self._arrow(("publication", publication["name"]), ("notification", published))
        for command in self.commands.values():
            node = id_of("command", command)
            self._arrow((OUTSIDE, ""), self.nodes[node], may=bool(self.sources(node)))
        for share in topology.get("shares", ()):
            shared: Mapping[str, Any] = {"name": share, "state": share} if isinstance(share, str) else share
            state = shared.get("state", shared["name"])
            self.shared.append(state)
            self._heard(shared, "share", self.events_of(state))
        for view in self.views:
            self._node("view", view)
            if joins := self.states.get(view, {}).get("joins"):
                self._reads(("view", view), {"reads": joins})
            for event in self.events_of(view):
                self._arrow(("event", event), ("view", view))
        for projection in topology.get("projections", ()):
            self._heard(projection, "projection", projection.get("events", ()))

    def _decider(self, decider: Mapping[str, Any], gateways: Iterable[str]) -> None:
        node = "decider", decider["name"]
        self.commands[decider["name"]] = decider["command"]
        self._arrow(("command", decider["command"]), node)
        self._reads(node, decider)
        for event in decider.get("yields", ()):
            self._arrow(node, ("event", event))
        for gateway in gateways if decider.get("asks") else ():
            self._arrow(node, ("gateway", gateway), may=True)

    def _reaction(self, reaction: Mapping[str, Any], gateways: Iterable[str]) -> None:
        node = "reaction", reaction["name"]
        self._heard(reaction, "reaction", reaction.get("events", ()))
        for command in reaction.get("sends", ()):
            self._arrow(node, ("command", command))
        for gateway in gateways if reaction.get("asks") else ():
            self._arrow(node, ("gateway", gateway), may=True)
        for command in reaction.get("later", ()):
            self._arrow(node, ("timer", command))
            self._arrow(("timer", command), ("command", command))

    def _heard(self, handler: Mapping[str, Any], kind: str, events: Iterable[str]) -> None:
        node = kind, handler["name"]
        self._node(*node)
        self._reads(node, handler)
        for event in events:
            self._arrow(("event", event), node)

    def _reads(self, node: tuple[str, str], handler: Mapping[str, Any]) -> None:
        self.reads[self._node(*node)] = list(handler.get("reads", ()))
        for name in handler.get("reads", ()):
            if name in self._replicas:
                self._arrow(("replica", name), node, may=True)

    def _arrow(self, source: tuple[str, str], target: tuple[str, str], *, may: bool = False) -> None:
        pair = self._node(*source), self._node(*target)
        if pair not in self.arrows:
            self.arrows[pair] = None
            self._sources.setdefault(pair[1], []).append(pair[0])
        if may:
            self.may.add(pair)

    def _node(self, kind: str, name: str) -> str:
        node = id_of(kind, name)
        self.nodes.setdefault(node, (kind, name or kind))
        return node


def cycles(arrows: Iterable[Pair]) -> list[tuple[list[str], int]]:
    """Return the cycles of a graph, each by a shortest way around through its first node, in order, and how many more nodes it has.

    A group of nodes that all reach each other is one.
    """
    targets: dict[str, list[str]] = {}
    for source, target in sorted(arrows):
        targets.setdefault(source, []).append(target)
        targets.setdefault(target, [])
    groups = [group for group in _groups(targets) if len(group) > 1 or group[0] in targets[group[0]]]
    ways = sorted((_way_around(min(group), targets, set(group)), len(group)) for group in groups)
    return [(way, count - len(way)) for way, count in ways]


def _groups(targets: Mapping[str, Sequence[str]]) -> list[list[str]]:
    """Return the strongly connected components (Tarjan), without recursion: a chain of messages may be long."""
    numbers: dict[str, int] = {}
    lowest: dict[str, int] = {}
    stack: list[str] = []
    on_stack: set[str] = set()
    groups: list[list[str]] = []
    for root in targets:
        ahead = [(root, iter(targets[root]))] if root not in numbers else []
        while ahead:
            node, more = ahead[-1]
            if node not in numbers:
                numbers[node] = lowest[node] = len(numbers)
                stack.append(node)
                on_stack.add(node)
            for target in more:
                if target not in numbers:
                    ahead.append((target, iter(targets[target])))
                    break
                if target in on_stack:
                    lowest[node] = min(lowest[node], numbers[target])
            else:
                ahead.pop()
                if ahead:
                    lowest[ahead[-1][0]] = min(lowest[ahead[-1][0]], lowest[node])
                if lowest[node] == numbers[node]:
                    at = stack.index(node)
                    groups.append(stack[at:])
                    on_stack.difference_update(stack[at:])
                    del stack[at:]
    return groups


def _way_around(start: str, targets: Mapping[str, Sequence[str]], group: set[str]) -> list[str]:
    came: dict[str, str] = {}
    ahead = [start]
    for node in ahead:
        for target in targets[node]:
            if target == start:
                way = [node]
                while way[-1] != start:
                    way.append(came[way[-1]])
                return way[::-1]
            if target in group and target not in came:
                came[target] = node
                ahead.append(target)
    raise AssertionError("every node of a group is on a way around")


def _listed(given: str | Sequence[str]) -> Sequence[str]:
    return [given] if isinstance(given, str) else given
