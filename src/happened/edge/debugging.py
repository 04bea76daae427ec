"""Debugging: the decider or the `evolve` of a position once more, under `pdb`, with the same states, world and answers."""

import functools
import pdb  # noqa: T100 - it is what the command is for
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import CodeType, FrameType
from typing import Any  # Any: values of any type

import msgspec

from happened.app import App
from happened.core.annotations import unwrapped
from happened.core.errors import Invalid, NotThere, Refused
from happened.core.state import Fold, Key, fold_of
from happened.core.store import Row
from happened.log.fingerprint import PACKAGE
from happened.log.log import Log
from happened.log.records import INTERNAL, OUTPUT, Reader, envelope_of
from happened.log.row import decode_header
from happened.sourcing.gateway import Answers
from happened.sourcing.memory_image import Entry, MemoryImage
from happened.sourcing.replay import Replay, Unknown, input_in


class Into(pdb.Pdb):
    """A debugger that begins in one function, wherever it is called from, and leaves with it."""

    def __init__(self, code: CodeType) -> None:
        super().__init__()
        self.prompt = "(happened) "
        self._code = code
        self._there = False
        self.was_quit = False

    def set_quit(self) -> None:
        """Leave; what is run comes to no end then."""
        self.was_quit = True
        super().set_quit()

    def user_call(self, frame: FrameType, argument_list: None) -> None:
        """Say that a function is called, where it is the project's."""
        if self._is_shown(frame):
            super().user_call(frame, argument_list)

    def user_line(self, frame: FrameType) -> None:
        """Stop at a line, where it is the project's."""
        self._there = self._there or frame.f_code is self._code
        if self._is_shown(frame):
            super().user_line(frame)

    def user_return(self, frame: FrameType, return_value: Any) -> None:
        """Say what a function returns, where it is the project's."""
        if self._is_shown(frame):
            super().user_return(frame, return_value)

    def user_exception(self, frame: FrameType, exc_info: Any) -> None:
        """Say what is raised, where it is the project's."""
        if self._is_shown(frame):
            super().user_exception(frame, exc_info)

    def _is_shown(self, frame: FrameType) -> bool:
        shown = self._there and PACKAGE not in Path(frame.f_code.co_filename).parents
        if not shown:
            self.set_step()  # on, silently, to where something is shown
        return shown


def _run(function: Any, call: Callable[[], Any], said: Callable[[Any], str]) -> str:
    """Run it, and say what it came to, where whoever debugs has not quit before."""
    debugger = Into(unwrapped(function).__code__)
    came_to = debugger.runcall(call)
    return "now: left before its end" if debugger.was_quit else said(came_to)


def _listed(events: Iterable[Any]) -> str:
    return f"now: {', '.join(map(repr, events)) or 'nothing'}"


def decider_again(app: App, log: Log, reader: Reader, row: Row) -> list[str]:
    """Run the decider of the input that a row holds or decides; return what to say at the end. `NotThere` where there is none."""
    header = decode_header(row.head)
    kept: Row | None = None
    if header.outcome == "pending" and header.id is not None:
        kept = row
        row = next((one for one in log.find(header.id) if decode_header(one.head).decides == header.id), row)
        if row is kept:
            raise NotThere(f"the input at position {kept.position} is not decided yet", position=kept.position)
    elif header.decides is not None:
        kept = next((one for one in log.find(header.decides) if decode_header(one.head).id == header.decides), None)
    given = input_in(reader, row, kept)
    replay = Replay(app.handlers, app.gateways, app.systems)
    handler = replay.handler(given)
    image = MemoryImage(log.engine, reader, app.folds, row.position - 1)

    def entry(fold: Fold, key: Key) -> Entry:
        return image.get(fold, key)

    print(f"position {row.position:,}: {handler.name} on {given.command!r}, id {given.id}")
    answers = Answers(given.answers)
    recorded = [record for record in reader.records(row) if record.kind in (INTERNAL, OUTPUT)]
    said = "recorded: " + (", ".join(f"{one.name} {msgspec.json.encode(one.body, enc_hook=str).decode()}" for one in recorded) or "nothing")
    sys.stdout.flush()
    try:
        came_to = _run(handler.function, lambda: replay.run(handler, given, entry, answers, []), _listed)
    except Unknown as unknown:
        raise unknown.error from None
    except Refused as refused:
        return [f"now refused: {refused}", said]
    return [came_to, said]


def evolve_again(app: App, log: Log, reader: Reader, row: Row, position: int, named: Sequence[str]) -> list[str]:
    """Run the `evolve` of a state, named with its key, on the event at a position; return what to say at the end."""
    name, *texts = named
    folds = {fold.name: fold for fold in [*app.folds, *map(fold_of, (*app.views, *app.shares))]}
    fold = folds.get(name)
    if fold is None or fold.joins:
        why = "has no such state" if fold is None else "can debug no state that asks for others"
        raise Invalid(f"the app {why}: `{name}`; there are {', '.join(sorted(folds))}", state=name)
    header = decode_header(row.head)
    [records] = reader.pages(app.events)([row])
    image = MemoryImage(log.engine, reader, [fold], row.position - 1)
    entries: dict[Key, Any] = {}
    for ordinal, record in enumerate(records, row.input is not None):
        if record.body is None:
            continue
        envelope = envelope_of(row, header, ordinal, record.extra)
        extra = (envelope,) if fold.wants_record else ()
        for key, message in fold.touched(record.body, envelope):
            before = entries[key] if key in entries else image.get(fold, key).state
            if row.position + ordinal == position and [str(value) for value in key] == texts:
                print(f"position {position:,}: {name}.evolve on {message!r}")
                print(f"before: {before!r}")
                sys.stdout.flush()
                return [_run(fold.evolve, functools.partial(fold.step, before, key, message, extra), "after: {!r}".format)]
            entries[key] = fold.step(before, key, message, extra)
    raise NotThere(
        f"the record at position {position} is no event that changes `{name}` of {' '.join(texts) or 'no key'}", position=position
    )
