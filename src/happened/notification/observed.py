"""The observed flow: what the log says has happened, from what its rows count: no row is read for it but at the two ends of a stretch.

An arrow counts rows, but one to what is recorded counts records. Times stand where something waits and runs: from a command to its decider, from an
event to what hears it, from a timer to its command, from a decider to the gateway that it asks.
"""

import weakref
from collections.abc import Iterator, Mapping

from happened.core.store import Wanted
from happened.core.tally import count_in
from happened.log.log import Log
from happened.log.names import Name
from happened.log.paths import ASKED, FAILED, LATER, REPEATED, SENT, Path, counts_of, path_in
from happened.log.records import PUBLISHED, Reader
from happened.log.row import BUILT_IN, TOPOLOGY, taken_apart
from happened.notification.declared import OUTSIDE, Declared, Pair, id_of

_, SHARE, BEACON = PUBLISHED
EVENT = "event"


class Seen:
    """What was seen of an arrow."""

    def __init__(self) -> None:
        self.count = 0
        self.refused = 0
        self.failed = 0
        self.times = 0
        """A tally."""


class Observed:
    """What was counted, as arrows between nodes."""

    def __init__(self, counted: Mapping[str, int], names: Mapping[int, Name], wirings: list[Declared]) -> None:
        self.arrows: dict[Pair, Seen] = {}
        self.records: dict[str, int] = {}
        """Id of a message -> how many of it were recorded."""
        self.runs: dict[str, int] = {}
        """Id of a handler -> how many rows it made."""
        self._names = names
        self._commands = {decider: command for wiring in wirings for decider, command in wiring.commands.items()}
        self._copies = {node for wiring in wirings for node in wiring.nodes if node.startswith("replica:")}
        for text, number in sorted(counted.items()):
            if text[0] == SENT:
                self._sent(text[1:], number)
            elif text[0] in (REPEATED, ASKED, FAILED, LATER):
                self._more(text[0], text[1:], number)
            else:
                self._path(path_in(text), count_in(number), number)

    def _path(self, path: Path, count: int, tally: int) -> None:
        handler = self._node(path.handler) if path.handler not in (0, path.sender) else None
        sender = (
            self._node(path.sender or path.cause) if path.sender or path.cause else OUTSIDE
        )  # without a sender a caller has said the cause
        asked = self._node(path.asked) if path.asked else None
        refused = count if path.outcome == "refused" else 0
        if path.sender:
            self._count(self.runs, sender, count)
        if asked is not None:
            self._count(self.records, asked, count)
            if path.sender and not path.cause:
                timer = id_of("timer", asked.partition(":")[2])
                self._see(timer, asked, count, times=tally if handler is None else 0)
            else:
                self._see(sender, asked, count)
        if path.cause and path.sender:
            self._see(self._node(path.cause), sender, count, times=tally if handler is None else 0)
        if handler is not None:
            self._count(self.runs, handler, count)
            decider = handler.partition(":")[2]
            if asked is None and decider in self._commands:  # it was kept first, and decided later
                asked = id_of("command", self._commands[decider])
            if asked is not None:
                self._see(asked, handler, count, refused=refused, times=tally)
        for number in path.recorded:
            self._recorded(handler or sender, number, count)

    def _more(self, kind: str, text: str, number: int) -> None:
        handler, _, what = text.partition(":")
        source = self._node(int(handler)) if int(handler) else OUTSIDE
        if kind == REPEATED:
            self._recorded(source, int(what), number)
        elif kind == LATER:
            self._see(source, id_of("timer", self._node(int(what)).partition(":")[2]), number)
        elif (copy := id_of("replica", what.partition("/")[2])) in self._copies:  # what was read of one is an answer, too
            self._see(copy, source, count_in(number))
        else:
            count = count_in(number)
            self._see(source, id_of("gateway", what or "?"), count, failed=count if kind == FAILED else 0, times=number)

    def _sent(self, text: str, number: int) -> None:
        """Take the times of a sender in whose row a decider's stand at the path: they belong to what it heard."""
        cause, sender, asked = map(int, text.split(":"))
        if not sender:
            return  # a caller has said the cause: nothing has waited or run
        if cause:
            self._see(self._node(cause), self._node(sender), 0, times=number)
        else:
            command = self._node(asked)
            self._see(id_of("timer", command.partition(":")[2]), command, 0, times=number)

    def _recorded(self, source: str, number: int, count: int) -> None:
        node = self._node(number)
        self._count(self.records, node, count)
        if source == OUTSIDE and node.startswith(f"{SHARE}:"):  # nothing caused it: a share begins with all that there is
            source = node
        self._see(source, node, count)

    def _see(self, source: str, target: str, count: int, *, refused: int = 0, failed: int = 0, times: int = 0) -> None:
        if source == target and source.startswith(f"{SHARE}:"):  # a share and what it says have one name
            return
        seen = self.arrows.get((source, target))
        if seen is None:
            seen = self.arrows[source, target] = Seen()
        seen.count += count
        seen.refused += refused
        seen.failed += failed
        seen.times += times

    @staticmethod
    def _count(counts: dict[str, int], node: str, count: int) -> None:
        counts[node] = counts.get(node, 0) + count

    def _node(self, number: int) -> str:
        name = self._names.get(number)
        if name is None:
            return id_of("event", BUILT_IN.get(number, f"number {number}"))
        return id_of(SHARE if name.what == BEACON else name.what, name.name)


def counted_in(log: Log, after: int, until: int | None) -> Mapping[str, int]:
    """Return what was counted of a stretch of a log."""
    return log.engine.counted(after, until, counts_of)


def renamed_in(reader: Reader) -> Mapping[int, str]:
    """Return what recorded events are called today, by their numbers, where upcasts have renamed them: one that became several keeps its name."""
    found: dict[int, str] = {}
    for number, name in list(reader.names.by_number.items()):
        today = reader.names_today(number) if name.what == EVENT and reader.lifts else ()
        if len(today) == 1 and today != frozenset([name.name]) and not reader.splits(number):
            found[number] = next(iter(today))
    return found


_known: "weakref.WeakKeyDictionary[Log, tuple[int, list[tuple[int, bytes]]]]" = weakref.WeakKeyDictionary()
"""For each open log up to where it was looked through for topologies, and those: what is recorded does not change."""


def topologies(log: Log, until: int) -> list[tuple[int, bytes]]:
    """Return the topologies that a log has recorded up to a position, as JSON, with their positions, in order. Found by the index: no scan."""
    looked, found = _known.get(log, (0, []))
    if until > looked:
        found = [*found, *_topologies(log, looked, until)]
        _known[log] = until, found
    return [one for one in found if one[0] <= until]


def _topologies(log: Log, after: int, until: int) -> Iterator[tuple[int, bytes]]:
    for rows in log.engine.read(after, until, wanted=[Wanted((), (TOPOLOGY,))]):
        for row in rows:
            if row.input is None and f"[{TOPOLOGY}," in row.records:
                for ordinal, (_, record) in enumerate(taken_apart(row)):
                    if record.number == TOPOLOGY:
                        yield row.position + ordinal, bytes(record.body)
