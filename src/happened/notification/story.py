"""A story: one conversation as a tree of what caused what, with repeats folded, and nothing left out without a count.

The conversation is found by the index. A line is a record, or many that are alike: siblings with the same name, kind, handler and outcome, under which the
same kinds of things happened. Lines stand in the order of the tree, each with its depth, so a story of any depth is a plain list.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any  # Any: bodies are of any class

import msgspec

from happened.core.errors import NotThere
from happened.core.messages import is_data
from happened.core.store import Row
from happened.core.world import moment
from happened.log.held import all_held
from happened.log.log import Log
from happened.log.names import Name
from happened.log.receipt import Receipt, is_receipt
from happened.log.records import OUTPUT, SYSTEMIC, Record
from happened.log.row import ANSWER, BUILT_IN, REFUSAL, SCHEDULE, Header, decode_header, is_unkept
from happened.notification.timer import note_of

POSITION_DIGITS_MAX = 18


class Line(msgspec.Struct, frozen=True):
    """A record of a story, or many that are alike."""

    depth: int
    count: int
    position: int
    """Of the first."""
    last: int
    """The position of the last."""
    kind: str
    name: str
    id: str
    """Of the first."""
    time: datetime
    until: datetime
    """When the last was recorded."""
    occurred: datetime
    """When the first happened."""
    handler: str = ""
    """Who decided it, or for a command who decided about it."""
    sender: str = ""
    """Which handler sent it."""
    outcome: str = ""
    """Of a command: `accepted`, `refused`, or `pending` while nobody has decided it."""
    actor: str = ""
    """Of the first."""
    actors: int = 1
    """How many there are of those who did it."""
    waited_us: tuple[int, int] | None = None
    """How long the handler waited, at least and at most."""
    ran_us: tuple[int, int] | None = None
    says: str = ""
    """What a refusal, an answer or a timer says, what stands still, what was erased or is not kept, and a cause that is not here; of the first where they are many."""
    body: Any = None
    """Where it is one record: its body."""


class Story(msgspec.Struct, frozen=True):
    """A conversation. The counts of all lines add up to `records`."""

    correlation: str
    records: int
    lines: tuple[Line, ...]
    pending: int
    """Commands that nobody has decided yet."""
    timers: int
    """Commands that are still to be sent."""
    stuck: int
    """Records that a handler could not get past."""


class _Item:
    """A record in its place in the tree."""

    __slots__ = ("below", "handler", "outcome", "ran", "record", "says", "sender", "shape", "waited")

    def __init__(self, record: Record) -> None:
        self.record = record
        self.below: list[_Item] = []
        self.handler = ""
        self.sender = ""
        self.outcome = ""
        self.says = ""
        self.waited: int | None = None
        self.ran: int | None = None
        self.shape = 0


def story_of(log: Log, what: Receipt | str | int, *, fold: bool = True) -> Story:
    """Return the conversation that a position, a receipt, an id or a correlation belongs to; each record for itself without `fold`. `NotThere` for none.

    Cost: some 50 µs a record, whatever the length of the log.
    """
    correlation = correlation_of(log, what)
    every: list[_Item] = []
    items: dict[str, _Item] = {}
    pending: dict[str, _Item] = {}
    rows = list(log.conversation(correlation))
    log.reader.learn(rows)
    noted = log.engine.notes("timer/")
    timers = 0
    for row in rows:
        header = decode_header(row.head)
        for record in log.reader.records(row):
            if record.kind == SYSTEMIC:
                continue
            item = _Item(record)
            every.append(item)
            _tell(log, item, header, row)
            if record.name == BUILT_IN[SCHEDULE] and record.kind == OUTPUT and record.body is not None:
                waits = note_of(record.body["due"], record.body["id"]) in noted
                timers += waits
                item.says = f"{item.says}: {'waits' if waits else 'was sent'}"
            items.setdefault(record.id, item)
    roots = _linked(every, items)
    for row in rows:
        _decided(decode_header(row.head), row, log.names.by_number, items, pending)
    for held in all_held(log.engine):
        stands = items.get(held.id)
        if stands is not None and stands.record.position == held.position:
            stands.says = f"{'parked' if held.parked else 'held'} by {held.handler}: {held.error or 'waits for its turn'}"
    stuck = sum(item.says.startswith(("held by", "parked by")) for item in items.values())
    return Story(correlation, len(every), tuple(_lines(roots, fold=fold)), len(pending), timers, stuck)


def _linked(every: Sequence[_Item], items: Mapping[str, _Item]) -> list[_Item]:
    """Put each record below what caused it, wherever that stands: what was imported may come before its cause. Return those that nothing caused here."""
    above: dict[_Item, _Item] = {}
    for item in every:
        cause = items.get(item.record.causation or "")
        if cause is None and item.record.causation and not item.says:
            item.says = f"its cause is not in this conversation: {item.record.causation}"
        if cause is not None and cause is not item and not _is_below(cause, item, above):
            above[item] = cause
            cause.below.append(item)
    return [item for item in every if item not in above]


def _is_below(item: _Item, other: _Item, above: Mapping[_Item, _Item]) -> bool:
    """Say whether one record stands below another: a cause that callers give may lead back to itself."""
    if not other.below:
        return False
    while (up := above.get(item)) is not None:
        if up is other:
            return True
        item = up
    return False


def _from_the_leaves(roots: Sequence[_Item]) -> list[_Item]:
    """Return all records of a tree, each after those below it."""
    ordered: list[_Item] = []
    ahead = list(roots)
    while ahead:
        item = ahead.pop()
        ordered.append(item)
        ahead += item.below
    return ordered[::-1]


def correlation_of(log: Log, what: Receipt | str | int) -> str:
    """Return what the conversation is called that a position, a receipt, an id or a correlation belongs to. `NotThere` for none, `Diverged` for a receipt of another log."""
    if isinstance(what, Receipt):
        what = log.since(what)
    text = str(what)
    rows: Iterable[Row | None] = []
    if text.isdecimal() and len(text) <= POSITION_DIGITS_MAX:
        rows = [log.row_at(int(text))]
    if isinstance(what, str):
        message, sign, _ = what.rpartition("#")
        rows = [*rows, *log.find(what), *(log.find(message) if sign else ())]
    for row in rows:
        header = decode_header(row.head) if row is not None else Header()
        found = header.correlation or header.id or header.decides
        if found:
            return found
    if isinstance(what, str) and next(log.conversation(what), None) is not None:
        return what
    if isinstance(what, str) and is_receipt(what):
        return correlation_of(log, log.since(what))
    if any(row is not None for row in rows):
        raise NotThere(f"position {text} is what the log says about itself: it belongs to no conversation", what=text)
    raise NotThere(f"the log has no message, position or conversation `{what}`", what=text)


def _tell(log: Log, item: _Item, header: Header, row: Row) -> None:
    """Say of a record what its row does."""
    record, names = item.record, log.reader.names.by_number
    item.handler = record.handler or ""
    if header.sent is not None and header.sent.handler and (record.position == row.position or row.input is None):
        sender = names.get(header.sent.handler)
        item.sender = sender.name if sender is not None else ""
        if header.handler is None or header.handler == header.sent.handler:
            item.waited, item.ran = header.sent.waited, header.sent.ran
    if record.body is None:
        item.says = "not kept" if record.position == row.position and is_unkept(row) else "erased"
    else:
        item.says = _says(record, names)


def _decided(header: Header, row: Row, names: Mapping[int, Name], items: Mapping[str, _Item], pending: dict[str, _Item]) -> None:
    """Say of what was asked what has come of it; it may have been asked in an earlier row."""
    own = header.decides or header.id
    item = items.get(own) if own is not None and (row.input is not None or header.decides is not None) else None
    if own is None or item is None:
        return
    item.outcome = header.outcome
    if header.outcome == "pending":
        pending[own] = item
        return
    pending.pop(own, None)
    item.waited, item.ran = header.waited, header.ran
    decider = names.get(header.handler) if header.handler is not None else None
    item.handler = decider.name if decider is not None else item.handler


def _says(record: Record, names: Mapping[int, Any]) -> str:
    """Return what an answer, a refusal or a timer says."""
    said = record.body
    if not is_data(said):
        return ""
    if record.name == BUILT_IN[REFUSAL]:
        return str(said.get("text", ""))
    if record.name == BUILT_IN[ANSWER] and "gateway" in said:
        return f"{said['gateway']} failed: {said['error']}" if said.get("error") else f"{said['gateway']}: {said.get('answer')}"
    if record.name == BUILT_IN[SCHEDULE] and "due" in said:
        name = names.get(said.get("number", 0))
        return f"{name.name if name is not None else '?'} at {moment(said['due']):%Y-%m-%d %H:%M:%S}"
    return ""


def _lines(roots: Sequence[_Item], *, fold: bool) -> Iterator[Line]:
    """Yield the lines of a tree, depth first. Without recursion: a conversation may be a long chain."""
    shapes: dict[Any, int] = {}
    for number, item in enumerate(_from_the_leaves(roots)):
        record, below = item.record, sorted({one.shape for one in item.below})
        alike = (record.kind, record.name, record.version, item.handler, item.sender, item.outcome, _alike(item), *below)
        shape = alike if fold else number
        item.shape = shapes.setdefault(shape, len(shapes))
    ahead = [(0, group) for group in reversed(_groups(roots))]
    while ahead:
        depth, group = ahead.pop()
        yield _line(depth, group)
        ahead += [(depth + 1, below) for below in reversed(_groups([below for item in group for below in item.below]))]


def _alike(item: _Item) -> str:
    """Return what must be the same of what a record says, so that two are alike: whether it stands still, and which gateway or timer it is of."""
    return item.says.partition(":")[0] if item.record.name != BUILT_IN[SCHEDULE] else item.says.rpartition(": ")[2]


def _groups(items: Sequence[_Item]) -> list[list[_Item]]:
    """Put those of one shape together, in the order of the first of each."""
    groups: dict[int, list[_Item]] = {}
    for item in sorted(items, key=lambda item: item.record.position):
        groups.setdefault(item.shape, []).append(item)
    return list(groups.values())


def _line(depth: int, group: Sequence[_Item]) -> Line:
    first, last = group[0], group[-1]
    record = first.record
    waited = [item.waited for item in group if item.waited is not None]
    ran = [item.ran for item in group if item.ran is not None]
    return Line(
        depth=depth,
        count=len(group),
        position=record.position,
        last=last.record.position,
        kind=record.kind,
        name=record.name,
        id=record.id,
        time=record.time,
        until=last.record.time,
        occurred=record.occurred,
        handler=first.handler,
        sender=first.sender,
        outcome=first.outcome,
        actor=record.actor,
        actors=len({item.record.actor for item in group}),
        waited_us=(min(waited), max(waited)) if waited else None,
        ran_us=(min(ran), max(ran)) if ran else None,
        says=first.says,
        body=record.body if len(group) == 1 else None,
    )
