"""The flow map: what may happen by the wiring, what has happened by the log, and the difference between both.

It is plain data. Without a log it is the declared flow alone; with one, each arrow says how often it was seen and how long that took, and each finding
what does not fit. Everything is in a fixed order: the same wiring and the same log give the same map, byte for byte.
"""

import functools
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any  # Any: a topology is plain data

import msgspec

from happened.core.store import LOG_WORK
from happened.core.tally import quantile_us, ran_in, waited_in
from happened.log.log import Log, place_of
from happened.log.row import encode
from happened.notification.declared import HANDLERS, KINDS, MESSAGES, OUTSIDE, Declared, Pair, cycles, id_of
from happened.notification.hearing import ON
from happened.notification.observed import UNKNOWN, Observed, Seen, counted_in, topologies

DECLARED, SEEN, UNSEEN, EARLIER, UNDECLARED = "declared", "seen", "unseen", "earlier", "undeclared"

UNWIRED = ("act:", "unread:")
"""What begin the ids of what people decide, and of what came from other systems and can't be read: that is in no wiring."""

WIRINGS_MAX = 16
"""How many wirings are kept for the next map."""

LISTENERS = ("reaction", "publication", "projection")
CONSUMERS = (*LISTENERS, "share", "view")


class Times(msgspec.Struct, frozen=True, omit_defaults=True):
    """How long something took, in microseconds: half of all stayed below `p50`, 99 of 100 below `p99`. Each is the upper end of a bin that begins at half of it."""

    p50: int
    p99: int


class Node(msgspec.Struct, frozen=True):
    """A message, or what handles it."""

    id: str
    kind: str
    """`command`, `event`, `notification`, `timer`, `decider`, `reaction`, `publication`, `share`, `subscription`, `replica`, `view`, `projection`, `gateway` or `outside`."""
    name: str
    module: str = ""
    reads: tuple[str, ...] = ()
    """States that a handler reads, or a view joins."""
    seen: int = 0
    """How many were recorded, or how many rows a handler made."""
    failed: int = 0
    """Runs that raised, in all the time of the log."""


class Arrow(msgspec.Struct, frozen=True):
    """One node leads to another."""

    source: str
    target: str
    status: str = DECLARED
    """`declared` (no log was looked at, or none tells of it, as of what a copy takes in), `seen`, `unseen`, `undeclared`, or `earlier`: declared by a wiring that was in force then and is not now, or of a
    message that became several or is no longer read, as `upcasts` and `ignores` say.
    """
    count: int = 0
    refused: int = 0
    failed: int = 0
    """Questions that had an error for an answer."""
    waited: Times | None = None
    ran: Times | None = None


class Finding(msgspec.Struct, frozen=True):
    """Something that does not fit, or is good to know."""

    kind: str
    """`undeclared`, `undecided`, `unrecorded`, `cycle`, `unconsumed`, `everything`, `unseen`, `idle`, `outside`."""
    subject: str
    text: str


class Flow(msgspec.Struct, frozen=True):
    """A flow map. `after` and `until` are positions of the stretch of the log that was looked at, `None` where none was."""

    app: str
    nodes: tuple[Node, ...]
    arrows: tuple[Arrow, ...]
    findings: tuple[Finding, ...]
    after: int | None = None
    until: int | None = None

    @property
    def undeclared(self) -> tuple[Arrow, ...]:
        """Arrows that were seen, and that no wiring in force declares."""
        return tuple(arrow for arrow in self.arrows if arrow.status == UNDECLARED)


Moment = int | datetime | None
"""A position, or a time with a zone."""


def declared_flow(topology: Mapping[str, Any], modules: Mapping[str, str] | None = None) -> Flow:
    """Return the map of a wiring. `modules` says for ids of nodes in which module they are."""
    declared, findings = _wiring(encode(topology))
    arrows = [Arrow(source, target) for source, target in declared.arrows]
    return _flow(declared, arrows, {}, modules or {}, findings)


@functools.lru_cache(maxsize=WIRINGS_MAX)
def _wiring(topology: bytes) -> tuple[Declared, tuple[Finding, ...]]:
    """Return a wiring and what is to be said of it. Kept: who plays a map through a log asks for the same again and again."""
    declared = Declared(msgspec.json.decode(topology))
    return declared, tuple(_of_wiring(declared))


def observed_flow(
    log: Log,
    topology: Mapping[str, Any] | None = None,
    modules: Mapping[str, str] | None = None,
    *,
    after: Moment = None,
    until: Moment = None,
) -> Flow:
    """Return the map of a wiring with what a log has seen of it, between two positions or times. Without a topology the log's own is taken.

    Where it has none, as one that was only appended to, all that was seen is `seen`, and nothing undeclared.

    Cost: some ten milliseconds, however long the log is: sums of stretches are added up, and rows are read at both ends only.
    """
    first = position_of(log, after) if after is not None else 0
    last = min(position_of(log, until), log.head) if until is not None else log.head
    recorded = topologies(log, last)
    declared, findings = _wiring(encode(topology) if topology is not None else recorded[-1][1] if recorded else b"{}")
    wirings = [(at, _wiring(one)[0]) for at, one in recorded]
    in_force = [one for at, one in wirings if at > first] + [one for at, one in wirings if at <= first][-1:]
    before = {pair for one in in_force if one is not declared for pair in one.arrows}
    before |= {
        pair for _, one in wirings for pair in one.arrows if pair[0].startswith("timer:")
    }  # it may ring long after what has set it is gone
    erased = {_erased(pair) for one in (declared, *in_force) for pair in one.arrows}
    before = {renamed for pair in before for renamed in declared.as_today(pair)}
    observed = Observed(counted_in(log, first, last), log.names.by_number, [one for _, one in wirings], declared)
    reached = _reached(declared, observed)
    failed, heard = _sampled(log)
    heard = {renamed for pair in heard for renamed in declared.as_today(pair)}
    split, stood_for = _split(declared, observed)
    there = {*observed.records, *(one for node in observed.records for one in observed.came_to.get(node, ()))}
    arrows: list[Arrow] = []
    for pair in dict.fromkeys([*declared.arrows, *observed.arrows]):
        seen = observed.arrows.get(pair)
        count = seen.count if seen is not None else reached.get(pair, 0)
        if pair in declared.arrows or pair[1].startswith(UNWIRED) or _is_said(pair) or pair in erased:
            known = SEEN if count or pair in stood_for or (pair in heard and pair[0] in there) else UNSEEN
            status = DECLARED if pair[1].startswith("replica:") else known
        elif topology is None and not recorded:  # nobody has ever said what may happen
            status = SEEN
        else:
            status = EARLIER if pair in before or pair in split or _is_unheard(declared, pair) else UNDECLARED
        arrows.append(_arrow(pair, status, seen, count))
    found = [*findings, *_of_log(declared, arrows, observed, failed)]
    flow = _flow(declared, arrows, {**observed.records, **observed.runs}, modules or {}, found, failed)
    return msgspec.structs.replace(flow, app=declared.app or log.identity.app, after=first, until=last)


def _sampled(log: Log) -> tuple[dict[str, int], set[Pair]]:
    """Return of runs that committed nothing how many failed, for each handler that ran, and what was heard so: in all the time of the log."""
    failed: dict[str, int] = {}
    heard: set[Pair] = set()
    for worker, outcome, count, _, _ in log.engine.samples():
        what, _, event = outcome.partition(ON)
        if what != "trouble":  # it came to no run, or to one that is run again
            handler = _counted_as(worker)
            failed[handler] = failed.get(handler, 0) + (count if what == "failed" else 0)
            heard.add((id_of("event", event), handler))
    return failed, heard


def _counted_as(worker: str) -> str:
    """Return the node of a handler from the name that its runs are counted under which committed nothing: a decider's own, or `KIND/NAME`.

    What the log does by itself is no node: what is returned for that is none's.
    """
    kind, _, name = worker.partition("/")
    return id_of(kind, name) if (kind in KINDS or worker.startswith(LOG_WORK)) and name else id_of("decider", worker)


def position_of(log: Log, moment: int | datetime) -> int:
    """Return the position that a position or a time says: the last that was recorded at that time or before."""
    return log.position_at(moment) if isinstance(moment, datetime) else place_of(moment)


def _is_said(pair: Pair) -> bool:
    """Say whether an arrow leads from message to message with no handler between: a caller has said that one caused the other."""
    return all(end.startswith(("event:", "command:")) for end in pair)


def _reached(declared: Declared, observed: Observed) -> dict[Pair, int]:
    """Return what no row tells: a view folds each of its events, a share each that its state is folded from, and a projection hears each."""
    return {(source, target): observed.records.get(source, 0) for source, target in declared.arrows if _is_folded(source, target)}


def _is_folded(source: str, target: str) -> bool:
    """Say whether an arrow leads to what folds each event, and leaves no row for it."""
    return target.startswith(("view:", "projection:")) or (target.startswith("share:") and source.startswith("event:"))


def _split(declared: Declared, observed: Observed) -> tuple[set[Pair], set[Pair]]:
    """Return the arrows of events that became several, and the declared ones that they stand for: how often each of those was seen is not known."""
    split, stood_for = set[Pair](), set[Pair]()
    for source, target in observed.arrows:
        sources, targets = (observed.came_to.get(end, [end]) for end in (source, target))
        found = {(one, other) for one in sources for other in targets} & declared.arrows.keys()
        if found and (source in observed.came_to or target in observed.came_to):
            split.add((source, target))
            stood_for |= found
    come = {one for node in observed.records for one in observed.came_to.get(node, ())}
    return split, stood_for | {(source, target) for source, target in declared.arrows if source in come and _is_folded(source, target)}


def _erased(pair: Pair) -> Pair | None:
    """Return what is left of an arrow where what was asked, read of a copy, or is to be sent later was erased: only the handler."""
    source, target = pair
    if source.startswith("replica:"):
        return target, id_of("gateway", UNKNOWN)
    kind = target.partition(":")[0]
    return (source, id_of(kind, UNKNOWN)) if kind in ("gateway", "timer") else None


def _is_unheard(declared: Declared, pair: Pair) -> bool:
    """Say whether an arrow begins or ends at a message that is known, and no longer read."""
    return any(kind in MESSAGES and name in declared.unheard for kind, _, name in (end.partition(":") for end in pair))


def _arrow(pair: Pair, status: str, seen: Seen | None, count: int) -> Arrow:
    if seen is None:
        return Arrow(*pair, status, count)
    waited = _times(waited_in(seen.times)) if not pair[1].startswith("gateway:") else None  # one that is asked is asked at once
    return Arrow(*pair, status, seen.count, seen.refused, seen.failed, waited, _times(ran_in(seen.times)))


def _times(bins: Sequence[int]) -> Times | None:
    if not bins:
        return None
    p50, p99 = quantile_us(bins, 0.5), quantile_us(bins, 0.99)
    return Times(p50, p99) if p50 is not None and p99 is not None else None


def _flow(
    declared: Declared,
    arrows: Sequence[Arrow],
    seen: Mapping[str, int],
    modules: Mapping[str, str],
    findings: Sequence[Finding],
    failed: Mapping[str, int] | None = None,
) -> Flow:
    known = dict(declared.nodes)
    for end in [end for arrow in arrows for end in (arrow.source, arrow.target)]:
        kind, _, name = end.partition(":")
        known.setdefault(end, (kind, name or kind))
    nodes = [
        Node(
            node,
            kind,
            name,
            modules.get(node, ""),
            tuple(declared.reads.get(node, ())),
            seen.get(node, 0),
            (failed or {}).get(node, 0),
        )
        for node, (kind, name) in known.items()
    ]
    return Flow(declared.app, tuple(sorted(nodes, key=_place)), tuple(sorted(arrows, key=_ends)), tuple(findings))


def _place(node: Node) -> tuple[str, int, str]:
    return node.module, KINDS.index(node.kind) if node.kind in KINDS else len(KINDS), node.name


def _ends(arrow: Arrow) -> tuple[str, str]:
    return arrow.source, arrow.target


# --- what does not fit


def _of_wiring(declared: Declared) -> list[Finding]:
    """Return what is to be said of a wiring alone."""
    events = sorted(name for kind, name in declared.nodes.values() if kind == "event")
    produced = {name for name in events if declared.sources(id_of("event", name))}
    commands = sorted(name for kind, name in declared.nodes.values() if kind == "command")
    decided = set(declared.commands.values())
    found = [
        Finding("undecided", id_of("command", command), f"no decider takes the command `{command}`")
        for command in commands
        if command not in decided
    ]
    read = sorted({state for states in declared.reads.values() for state in states} & set(declared.states))
    for state in dict.fromkeys([*read, *declared.views, *declared.shared]):
        found += _of_state(declared, state, produced)
    for node, (kind, _) in sorted(declared.nodes.items()):
        missing = [event for event in declared.sources(node) if not declared.sources(event)] if kind in LISTENERS else []
        if missing:
            found.append(Finding("unrecorded", node, f"{_named(node)} hears {_listed(missing)}, and nobody records that"))
    causes = [pair for pair in declared.arrows if not pair[1].startswith(("view:", "gateway:"))]
    for way, others in cycles(causes):
        shown = " -> ".join(_step(*declared.nodes[node]) for node in [*way, way[0]])
        more = f"; {others:,} more do so by other ways" if others else ""
        found.append(Finding("cycle", way[0], f"these lead back to themselves: {shown}{more}"))
    heard = {source for source, target in declared.arrows if target.startswith(tuple(f"{kind}:" for kind in CONSUMERS))}
    folded = {event for state in read for event in declared.events_of(state)}
    for event in events:
        if event in produced and id_of("event", event) not in heard and event not in folded:
            found.append(Finding("unconsumed", id_of("event", event), f"nobody consumes the event `{event}`"))
    for state in dict.fromkeys([*read, *declared.views]):
        if declared.folds_everything(state):
            found.append(Finding("everything", state, f"`{state}` is folded from every event: each new one reaches it"))
    for command in commands:
        if command in decided and all(source == OUTSIDE for source in declared.sources(id_of("command", command))):
            found.append(Finding("outside", id_of("command", command), f"the command `{command}` comes from outside only"))
    return found


def _step(kind: str, name: str) -> str:
    """Return what a message or handler is called on a way: a timer has the name of its command, which comes next."""
    return f"{kind} {name}" if kind == "timer" else name


def _of_state(declared: Declared, state: str, produced: set[str]) -> list[Finding]:
    if declared.folds_everything(state):
        return []
    missing = [event for event in declared.events_of(state) if event not in produced]
    if not missing:
        return []
    which = "shown" if state in declared.views else "shared" if state in declared.shared else "read"
    listed = _listed([id_of("event", event) for event in missing])
    return [Finding("unrecorded", state, f"`{state}` is {which}, and nobody records {listed}, which it is folded from")]


def _listed(events: Iterable[str]) -> str:
    """Return the names of events, from their ids."""
    return ", ".join(f"`{event.partition(':')[2]}`" for event in events)


def _of_log(declared: Declared, arrows: Iterable[Arrow], observed: Observed, sampled: Collection[str]) -> list[Finding]:
    """Return what is to be said of a wiring beside what was seen; `sampled` are handlers that ran and committed nothing."""
    ordered = sorted(arrows, key=_ends)
    found = [
        Finding(
            UNDECLARED,
            arrow.target,
            f"{_named(arrow.source)} -> {_named(arrow.target)} was seen {arrow.count:,} times, and is not declared",
        )
        for arrow in ordered
        if arrow.status == UNDECLARED
    ]
    idle = [
        node
        for node, (kind, _) in sorted(declared.nodes.items())
        if kind in HANDLERS
        and node not in observed.runs
        and node not in observed.records
        and node not in sampled
        and declared.leaves_rows(node)
    ]
    found += [Finding("idle", node, f"{_named(node)} was never seen to run") for node in idle if declared.is_reached(node)]
    came = {*observed.records, *(one for into in observed.came_to.values() for one in into)}
    never = {node for node in declared.nodes if node.startswith("event:") and node not in came and declared.sources(node)}
    return found + [
        Finding(UNSEEN, arrow.target, f"{_named(arrow.source)} -> {_named(arrow.target)} is declared, and was never seen")
        for arrow in ordered
        if arrow.status == UNSEEN
        and (arrow.source, arrow.target) not in declared.may
        and arrow.source not in idle
        and arrow.target not in idle
        and arrow.source not in never  # what leads to it tells that already
    ]


def _named(node: str) -> str:
    kind, _, name = node.partition(":")
    return f"{kind} `{name}`" if name else kind
