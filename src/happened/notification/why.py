"""Why something is so: from a record back to what came from outside, with who, when, by which handler, and what that had read.

Each step is found by an id, in the index: the length of the log does not matter, only that of the chain.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any  # Any: bodies are of any class

import msgspec

from happened.core.errors import NotThere
from happened.core.state import Fold
from happened.core.store import Row
from happened.log.log import Log
from happened.log.records import Record
from happened.log.row import Header, decode_header
from happened.notification.observed import topologies


class Read(msgspec.Struct, frozen=True):
    """A state that a decider read: the event that had changed it last stands at `position`, 0 where none had. Of many it is the latest."""

    state: str
    position: int = 0
    system: str = ""
    """Of a copy of another system's state: which system's. The position is one of its log."""


class Cause(msgspec.Struct, frozen=True):
    """One step back: a record, and how it came to be."""

    position: int
    id: str
    kind: str
    name: str
    time: datetime
    actor: str
    body: Any
    handler: str = ""
    """Who decided it."""
    reads: tuple[Read, ...] = ()
    """What that had read."""
    sender: str = ""
    """Which handler sent it."""
    waited_us: int | None = None
    ran_us: int | None = None
    """How long the one that decided or sent it had waited, and how long it ran."""
    cause: str = ""
    """The id of what caused it; it is the next step, if it is in this log."""


def causes_of(log: Log, position: int, reads: Mapping[str, Sequence[Read]], fold: Fold | None = None) -> tuple[Cause, ...]:
    """Return what stands at a position, what caused it, what caused that, and so on. `reads` says for each decider what its parameters are filled with.

    Where one record became several events, it begins with the last of them that the fold follows.
    `NotThere` for a position without a record.
    """
    row = log.row_at(position)
    records = [record for record in log.reader.records(row) if record.position == position] if row is not None else []
    if row is None or not records:
        raise NotThere(f"the log has no record at position {position}", position=position)
    followed = [record for record in records if fold is not None and fold.follows(record.body.__class__)]
    found = (followed or records[:1])[-1], row
    causes: list[Cause] = []
    passed: set[int] = set()
    while True:
        passed.add(found[0].position)
        record, row = found
        causes.append(_cause(log, record, row, reads))
        above = _found(log, record.causation) if record.causation else None
        if above is None or above[0].position in passed:  # causes that callers give may lead back to themselves
            return tuple(causes)
        found = above


def _cause(log: Log, record: Record, row: Row, reads: Mapping[str, Sequence[Read]]) -> Cause:
    header = decode_header(row.head)
    names = log.names.by_number
    sent = header.sent if record.position == row.position or row.input is None else None
    sent = sent if sent is not None and sent.handler else None  # a caller has said the cause: nothing has waited or run
    sender = names.get(sent.handler) if sent is not None else None
    decided = record.handler is not None and (sent is None or header.handler != sent.handler)
    timed = header if decided else sent
    return Cause(
        position=record.position,
        id=record.id,
        kind=record.kind,
        name=record.name,
        time=record.time,
        actor=record.actor,
        body=record.body,
        handler=record.handler or "" if decided else "",
        reads=_reads(header, _parameters(log, record.position, header, reads)) if decided and header.reads else (),
        sender=sender.name if sender is not None else "",
        waited_us=timed.waited if timed is not None else None,
        ran_us=timed.ran if timed is not None else None,
        cause=record.causation or "",
    )


class _Decider(msgspec.Struct, frozen=True):
    name: str
    fingerprint: str = ""
    reads: tuple[str, ...] = ()


class _Wiring(msgspec.Struct, frozen=True):
    """What is needed of a topology, as the log has it."""

    deciders: tuple[_Decider, ...] = ()
    replicas: Mapping[str, tuple[str, ...]] = {}


def _parameters(log: Log, position: int, header: Header, reads: Mapping[str, Sequence[Read]]) -> Sequence[Read]:
    """Return what the parameters of a row's decider were filled with: as today's code has it, unless the wiring that was in force says otherwise.

    That names each state once: where one has filled several parameters, and another today, nobody knows any more which. Then there are none.
    """
    name = log.names.by_number.get(header.handler or 0)
    if name is None:
        return ()
    today = reads.get(name.name, ())
    for _, body in reversed(topologies(log, position)):
        wiring = msgspec.json.decode(body, type=_Wiring)
        for decider in wiring.deciders:
            if (decider.name, decider.fingerprint) == (name.name, name.fingerprint):
                if decider.reads == tuple(dict.fromkeys(read.state for read in today)):
                    return today
                systems = {state: system for system, states in wiring.replicas.items() for state in states}
                then = [Read(state, system=systems.get(state, "")) for state in decider.reads]
                return then if len(then) == sum(not _is_asked_for(version) for version in header.reads) else ()
    return today


def _is_asked_for(version: Any) -> bool:
    """Say whether a decider has asked its `World` for it: then its name stands there, too. Earlier releases wrote the key between name and version."""
    return type(version) is not int and bool(version) and type(version[0]) is str


def _reads(header: Header, parameters: Sequence[Read]) -> tuple[Read, ...]:
    """Return what was read: by the order of the decider's parameters, then what it asked its `World` for, with its name."""
    found: list[Read] = []
    for place, version in enumerate(header.reads):
        parts: list[Any] = [] if type(version) is int else list(version)
        if _is_asked_for(version):
            found.append(Read(parts[0], parts[-1]))
        else:
            read = parameters[place] if place < len(parameters) else Read("?")
            found.append(msgspec.structs.replace(read, position=max(parts, default=0) if type(version) is not int else version))
    return tuple(found)


def _found(log: Log, known: str) -> tuple[Record, Row] | None:
    """Return the record with an id, and its row."""
    message, sign, _ = known.rpartition("#")
    for row in [*log.find(known), *(log.find(message) if sign and message else ())]:
        for record in log.reader.records(row):
            if record.id == known:
                return record, row
    return None
