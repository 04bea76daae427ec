"""The difference between a log and a branch of it: what is missing, what was added, what came out otherwise, matched by cause and not by position.

Each message is told by what it is, what it says, and what caused it. Two trees of causes are laid over each other from the roots on: what came from
outside is matched by its id, what was caused by its cause, first what says the same, then what is of the same name and says something else. What lies
under something that has no counterpart has none either. Ids and clocks are no part of what a message says, but for those that its body holds.

What a share says of a state is caused by the event that last changed that, whatever else stands in one row with it. Its position is no part of it, and
where a share begins anew and says the same again, only the last is compared; with what was said before the two part, where only one begins anew. Beacons
follow from what is said, and are left out.
"""

import bisect
import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple  # Any: bodies and states of any class

import msgspec

from happened.core.errors import Error
from happened.core.messages import Command, Event, Recorded, is_data, name_of
from happened.core.state import Fold, Key
from happened.core.store import Row
from happened.log.names import Names
from happened.log.records import INPUT, INTERNAL, SHARED, SYSTEMIC, Reader, Record
from happened.log.row import ANSWER, SCHEDULE, decode_header, encode, taken_apart

SHARE = SHARED[0]
SHOWN_MAX = 20
TEXT_CHARACTERS_MAX = 160

_sorted = msgspec.json.Encoder(decimal_format="string", order="deterministic").encode


class Changed(msgspec.Struct, frozen=True):
    """A message that is there in both, and says something else: the fields that differ, each as it was and as it is."""

    before: Record
    after: Record
    fields: Mapping[str, tuple[Any, Any]]

    def __str__(self) -> str:
        """Tell it in one line."""
        said = ", ".join(f"{field} {_short(was)} -> {_short(now)}" for field, (was, now) in self.fields.items())
        return f"{self.before.position} {self.before.name}: {said}"


class First(msgspec.Struct, frozen=True):
    """Where the difference begins: the first message that has no counterpart, or another body, though what caused it is the same in both."""

    what: str
    """`missing`, `added` or `changed`."""
    before: Record | None
    after: Record | None

    def __str__(self) -> str:
        """Tell it in one line."""
        record = self.before or self.after
        assert record is not None, "something differs"
        return f"{self.what}: {_line(record)}"


class RowDifference(msgspec.Struct, frozen=True):
    """A state that came out otherwise: `None` where there is none."""

    state: str
    key: Key
    before: Any
    after: Any

    def __str__(self) -> str:
        """Tell it in one line."""
        return f"{self.state} {', '.join(map(str, self.key))}: {_short(self.before)} -> {_short(self.after)}"


class Difference(msgspec.Struct, frozen=True):
    """What differs between a log and a branch of it. False where nothing does; `print` shows it."""

    first: First | None
    missing: tuple[Record, ...]
    """What the origin has and the branch has not, in order."""
    added: tuple[Record, ...]
    """What the branch has and the origin has not."""
    changed: tuple[Changed, ...]
    rows: tuple[RowDifference, ...]
    """States that differ, of those that decide and of views."""
    not_compared: tuple[str, ...] = ()
    """Views that ask for other states, which are not compared; and shares of which something that they said is erased."""
    failed: tuple[str, ...] = ()
    """What the branch could not take, since a decider raised an error; and edits that apply to nothing."""

    def __bool__(self) -> bool:
        """Say whether anything differs."""
        return bool(self.missing or self.added or self.changed or self.rows or self.failed)

    def __str__(self) -> str:
        """Show it: of each kind so many lines, and how many more there are."""
        return "\n".join(self.lines())

    def lines(self, shown_max: int = SHOWN_MAX) -> Iterator[str]:
        """Yield it as lines; of each kind at most so many, and then how many are not shown."""
        if not self:
            yield "nothing differs"
        if self.first is not None:
            yield f"first {self.first}"
        parts: list[tuple[str, Sequence[str]]] = [
            ("failed", self.failed),
            ("missing", list(map(_line, self.missing))),
            ("added", list(map(_line, self.added))),
            ("changed", list(map(str, self.changed))),
            ("states", list(map(str, self.rows))),
        ]
        for title, found in parts:
            if found:
                yield f"{title} ({len(found):,}):"
                yield from (f"  {one}" for one in found[:shown_max])
                if len(found) > shown_max:
                    yield f"  and {len(found) - shown_max:,} more"
        if self.not_compared:
            yield f"not compared: {', '.join(self.not_compared)}"


class Side(NamedTuple):
    """One of the two logs: its rows behind the place where they part, and how they are read."""

    rows: Iterable[Row]
    reader: Reader
    names: Names
    folds: Mapping[str, Fold]
    """By name: the states that are compared."""
    state: Callable[[Fold, Key], Any]
    """Returns a state as of the end."""
    shared_before: Iterable[Row]
    """Rows up to the place where they part that hold what shares have said."""


class _Node:
    """One message."""

    __slots__ = ("base", "body", "label", "record", "version")

    def __init__(self, record: Record, label: tuple[Any, ...], body: bytes, version: int | None = None) -> None:
        self.record = record
        self.label = label
        self.body = body
        self.base = record.id.rpartition("#")[0] or record.id
        self.version = version
        """Of what a share says: the position of the event that it follows from."""
        if version is not None:
            self.base = "\x1f".join(("share", *map(str, label), str(version)))


class _Erased(NamedTuple):
    """Something that a share has said and that was erased. It followed from an event between two positions."""

    share: str
    after: int
    until: int


class _Tree:
    """What a side has, by cause."""

    def __init__(self, side: Side) -> None:
        self.erased: list[_Erased] = []
        self.nodes: list[_Node] = []
        shared: dict[str, _Node] = {}
        for node in _nodes(side, side.rows, self.erased):
            if node.version is None:
                self.nodes.append(node)
            else:
                shared[node.base] = node
        ids = {node.record.id for node in self.nodes}
        at = {node.record.position: node.record.id for node in reversed(self.nodes)}
        self.nodes += shared.values()
        self.below: dict[str, list[_Node]] = {}
        self.roots: list[_Node] = []
        for node in self.nodes:
            cause = node.record.causation if node.version is None else at.get(node.version)
            if cause in ids and cause != node.record.id:
                self.below.setdefault(cause or "", []).append(node)
            else:
                self.roots.append(node)

    def under(self, nodes: Iterable[_Node]) -> Iterator[_Node]:
        """Yield these, and all that lies under them."""
        waiting = deque(nodes)
        while waiting:
            node = waiting.popleft()
            yield node
            waiting.extend(self.below.get(node.record.id, ()))


def difference(origin: Side, branch: Side, *, failed: Sequence[str], not_compared: Sequence[str]) -> Difference:
    """Compare two logs from where they part. Memory: all records behind that place."""
    old, new = _Tree(origin), _Tree(branch)
    missing: list[_Node] = []
    added: list[_Node] = []
    changed: list[tuple[_Node, _Node]] = []
    matched: list[tuple[int, int]] = []
    begins: list[tuple[str, _Node | None, _Node | None]] = []
    at: dict[int, int] = {}
    """By positions in the branch: those of their counterparts."""
    waiting: deque[tuple[list[_Node], list[_Node], bool]] = deque()
    groups: dict[str, tuple[list[_Node], list[_Node]]] = {}
    for place, tree in ((0, old), (1, new)):
        for node in tree.roots:
            groups.setdefault(node.base, ([], []))[place].append(node)
    erased = [*old.erased, *new.erased]
    unknown = {one.share for one in erased}
    erased += _lay_over_what_was_said_before(origin, groups)
    waiting.extend((olds, news, True) for olds, news in groups.values())
    while waiting:
        olds, news, same_so_far = waiting.popleft()
        pairs, gone, come = _paired(olds, news)
        for left in (gone, come):
            hidden = [node for node in left if node.version is not None and _is_erased(node, at.get(node.version, node.version), erased)]
            unknown.update(node.label[0] for node in hidden)
            left[:] = [node for node in left if node not in hidden]
        for one, other in pairs:
            same = one.label == other.label and one.body == other.body
            if one.version is None:
                matched.append((other.record.position, one.record.position))
                at[other.record.position] = one.record.position
            if not same:
                changed.append((one, other))
                if same_so_far:
                    begins.append(("changed", one, other))
            waiting.append((old.below.get(one.record.id, []), new.below.get(other.record.id, []), same_so_far and same))
        missing += old.under(gone)
        added += new.under(come)
        if same_so_far:
            begins += [("missing", node, None) for node in gone] + [("added", None, node) for node in come]
    matched.sort()
    found = [*missing, *added, *(node for pair in changed for node in pair)]
    return Difference(
        _first(begins, matched),
        tuple(node.record for node in sorted(missing, key=_position)),
        tuple(node.record for node in sorted(added, key=_position)),
        tuple(_changed(*pair) for pair in sorted(changed, key=lambda pair: _position(pair[0]))),
        tuple(_states(origin, branch, [node.record for node in found])),
        (
            *not_compared,
            *(f"what the share `{share}` said that is erased" for share in sorted(unknown)),
            *_not_decided_again(origin, old, new),
        ),
        tuple(failed),
    )


def _nodes(side: Side, rows: Iterable[Row], erased: list[_Erased]) -> Iterator[_Node]:
    """Yield what is compared, in order; and add what shares have said that is erased."""
    came: dict[str, tuple[int, int]] = {}
    """By shares: up to where they came before, and up to where now."""
    for row in rows:
        side.reader.learn([row])
        raws = list(taken_apart(row))
        for record in side.reader.records(row):  # an upcast may make several of one
            _, raw = raws[record.position - row.position]
            name = side.names.by_number.get(raw.number)
            if record.kind == SYSTEMIC:
                continue
            label: tuple[Any, ...] = (record.kind, record.name, record.version)
            body: Any = msgspec.to_builtins(record.body)
            if name is not None and name.what in SHARED:
                until = int(record.id.partition("#")[0].rpartition("/")[2].partition(".")[0])
                before, now = came.get(name.name, (0, 0))
                came[name.name] = (before, now) if until == now else (now, until)
                if body is None:
                    begins = decode_header(row.head).sent is None
                    erased.append(_Erased(name.name, 0 if begins else came[name.name][0], until))
                elif name.what == SHARE:
                    yield _Node(record, (name.name, _sorted(body["key"])), _sorted([body["op"], body.get("fields")]), body["version"])
                continue
            if raw.number == ANSWER and is_data(body):
                label = ("answer", body["gateway"], _sorted(body["arguments"]), body.get("nth", 0))
                body = {"answer": body.get("answer"), "error": body.get("error", "")}
            elif raw.number == SCHEDULE and is_data(body):
                command = side.reader.body(body["number"], encode(body["body"]), record.position)
                label = ("later", name_of(type(command))[0] if isinstance(command, Command) else side.names.by_number[body["number"]].name)
                body = {"due": body["due"], "command": msgspec.to_builtins(command)}
            yield _Node(record, label, _sorted(body))


def _not_decided_again(origin: Side, old: _Tree, new: _Tree) -> Iterator[str]:
    """Say how many commands from outside stand in the branch as they were decided, since nobody knows any more what was asked."""
    commands = {name.name for name in origin.names.by_number.values() if name.what == "command"}
    unknown = {node.record.id for node in new.roots if node.record.body is None}
    count = sum(node.record.body is None and node.record.name in commands and node.record.id in unknown for node in old.roots)
    if count:
        yield f"what {count:,} {'commands' if count > 1 else 'command'} would have come to: erased, or not kept"


def _lay_over_what_was_said_before(origin: Side, groups: Mapping[str, tuple[list[_Node], list[_Node]]]) -> list[_Erased]:
    """Lay what a share says again on one side alone over what it said before the two part; return what of that is erased."""
    erased: list[_Erased] = []
    again = {base for base, (olds, news) in groups.items() if not (olds and news) and (olds or news)[0].version is not None}
    if again:
        found = {node.base: node for node in _nodes(origin, origin.shared_before, erased) if node.base in again}
        for base, node in found.items():
            olds, news = groups[base]
            (olds if news else news).append(node)
    return erased


def _is_erased(node: _Node, version: int, erased: Sequence[_Erased]) -> bool:
    """Say whether what a share says may have a counterpart that is erased, by the position in the origin of what it follows from."""
    return any(one.share == node.label[0] and one.after < version <= one.until for one in erased)


def _paired(olds: Sequence[_Node], news: Sequence[_Node]) -> tuple[list[tuple[_Node, _Node]], list[_Node], list[_Node]]:
    """Pair what has one cause: what is the same, then what is of one name, then inputs of one id; return the pairs, and what is left on both sides."""
    pairs: list[tuple[_Node, _Node]] = []
    ways: list[Callable[[_Node], Any]] = [
        lambda node: (node.label, node.body),
        lambda node: node.label,
        lambda node: node.record.id if node.record.kind == INPUT else node,
    ]
    for way in ways:
        there: dict[Any, deque[_Node]] = {}
        for node in news:
            there.setdefault(way(node), deque()).append(node)
        left: list[_Node] = []
        taken: set[int] = set()
        for node in olds:
            same = there.get(way(node))
            if same:
                pairs.append((node, same.popleft()))
                taken.add(id(pairs[-1][1]))
            else:
                left.append(node)
        olds, news = left, [node for node in news if id(node) not in taken]
    return pairs, list(olds), list(news)


def _first(begins: Sequence[tuple[str, _Node | None, _Node | None]], matched: Sequence[tuple[int, int]]) -> First | None:
    """Return the first of the places where the two part. What was added stands behind what stands before it in the branch."""
    farthest = [0, *itertools.accumulate((old for _, old in matched), max)]

    def place(begin: tuple[str, _Node | None, _Node | None]) -> tuple[int, int, int]:
        _, one, other = begin
        if one is not None:
            return one.record.position, 0, 0
        assert other is not None, "one of both is there"
        return farthest[bisect.bisect_left(matched, (other.record.position, 0))], 1, other.record.position

    if not begins:
        return None
    what, one, other = min(begins, key=place)
    return First(what, one.record if one is not None else None, other.record if other is not None else None)


def _changed(one: _Node, other: _Node) -> Changed:
    was: Any = msgspec.to_builtins(one.record.body)
    now: Any = msgspec.to_builtins(other.record.body)
    if one.version is not None:
        was, now = was.get("fields"), now.get("fields")
    if not is_data(was) or not is_data(now) or one.record.name != other.record.name:
        return Changed(one.record, other.record, {"": (was, now)})
    fields = {field: (was.get(field), now.get(field)) for field in [*was, *(field for field in now if field not in was)]}
    return Changed(one.record, other.record, {field: both for field, both in fields.items() if both[0] != both[1]})


def _states(origin: Side, branch: Side, records: Sequence[Record]) -> Iterator[RowDifference]:
    """Compare the states that an event reaches which differs: all others are folded of the same events."""
    events = [record for record in records if record.kind in (INPUT, INTERNAL) and isinstance(record.body, Event)]
    for name, fold in branch.folds.items():
        theirs = origin.folds.get(name)
        if theirs is None:
            continue
        keys: dict[Key, None] = {}
        for record in events:
            envelope = Recorded(record.id, record.time, record.occurred, record.actor)
            for of in (fold, theirs):
                if type(record.body) in of.readings:
                    keys.update(dict.fromkeys(key for key, _ in of.touched(record.body, envelope)))
        for key in keys:
            before, after = _state(origin, theirs, key), _state(branch, fold, key)
            if msgspec.to_builtins(before) != msgspec.to_builtins(after):
                yield RowDifference(name, key, before, after)


def _state(side: Side, fold: Fold, key: Key) -> Any:
    try:
        return side.state(fold, key)
    except Error as error:  # it stands still
        return f"{type(error).__name__}: {error}"


def _position(node: _Node) -> int:
    return node.record.position


def _line(record: Record) -> str:
    return f"{record.position} {record.name} {record.id}: {_short(record.body)}"


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= TEXT_CHARACTERS_MAX else f"{text[:TEXT_CHARACTERS_MAX]}... ({len(text):,} characters)"
