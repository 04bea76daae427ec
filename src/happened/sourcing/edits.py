"""Edits of a branch: what is to be otherwise than it was, as a table of data.

Positions are those of the origin. An edit of an input says what is given; an edit of an event that was decided says what is recorded in its place, and the
command is then not decided again: everything else in its row stays as it was, and whatever comes later is decided on the edited events.
"""

from collections.abc import Collection, Iterable, Mapping
from datetime import datetime
from typing import Any  # Any: bodies and answers of any type

import msgspec

from happened.core.errors import Invalid
from happened.core.messages import Command, Event, Message, called
from happened.core.plain import NO_DATA, encoded
from happened.core.store import Row
from happened.core.world import microseconds
from happened.log.log import Log, place_of, with_zone
from happened.log.names import Name
from happened.log.row import ANSWER, BUILT_IN, decode_header, encode, taken_apart
from happened.sourcing.gateway import Answer as Recorded
from happened.sourcing.gateway import Gateway, answers_in


class Change(msgspec.Struct, frozen=True):
    """At this position there is something else: another command, another fact, another event that was decided. Its id and all else of it stay."""

    position: int
    to: Any


class Drop(msgspec.Struct, frozen=True):
    """What is at this position is left out: a command with all that it decided, a fact, or one event that was decided."""

    position: int


class Insert(msgspec.Struct, frozen=True):
    """After the command or fact at this position comes another command or fact; after 0 it comes first. A `Message` says its id, actor and times."""

    after: int
    what: Any


class Answer(msgspec.Struct, frozen=True):
    """The outside has answered otherwise at this position. An exception as value: it has failed."""

    position: int
    value: Any


class Clock(msgspec.Struct, frozen=True):
    """To the decider of the command at this position `world.now` says something else. Nothing else moves: it is recorded when it was."""

    position: int
    now: datetime


Edit = Change | Drop | Insert | Answer | Clock


class RowEdits:
    """What is otherwise in one row of the origin."""

    def __init__(self) -> None:
        self.changed: dict[int, Any] = {}
        """By the place in the row: another body, or `None` where it is left out."""
        self.answers: dict[int, Any] = {}
        self.now: int | None = None
        self.inserted: list[Any] = []
        """What comes after the row."""


class Edits:
    """The edits of a branch, checked against its origin."""

    def __init__(
        self,
        edits: Iterable[Edit],
        log: Log,
        names: Mapping[int, Name],
        until: int,
        known: Collection[type],
        gateways: Iterable[Gateway] = (),
    ) -> None:
        self._log = log
        self._names = names
        self._until = until
        self._known = known
        """Classes of events and commands of the code that the branch runs with."""
        self._gateways = {gateway.name: gateway for gateway in gateways}
        self.rows: dict[int, RowEdits] = {}
        """By the position of the row, 0 for what comes first."""
        self.sent: dict[str, Command | None] = {}
        """By the id of a command that a reaction has sent, at once or later: what it sends in its place, `None` where it sends nothing."""
        self.begins: int | None = None
        """The last position that no edit is about: the branch begins there, or before."""
        for edit in edits:
            if not isinstance(edit, Edit):  # pyright: ignore[reportUnnecessaryIsInstance]  # a checker has not seen every caller
                raise Invalid(f"{edit!r} is no edit: write Change, Drop, Insert, Answer or Clock", edit=repr(edit))
            self._add(edit)

    def _add(self, edit: Edit) -> None:
        if isinstance(edit, Insert):
            self._insert(edit)
            return
        row, ordinal = self._found(edit.position)
        header = decode_header(row.head)
        asked, raw = list(taken_apart(row))[ordinal]
        of = self._of(row, row.position - 1)
        name = self._names.get(raw.number)
        what = name.what if name is not None else BUILT_IN.get(raw.number, "")
        shown = f"position {edit.position} is {'an' if what[:1] in 'aeo' else 'a'} {what}{f' `{name.name}`' if name is not None else ''}"
        sender = self._names.get(header.sent.handler) if header.sent is not None else None
        if sender is not None and sender.what in ("reaction", "publication"):
            if not (asked and sender.what == "reaction" and header.id is not None and isinstance(edit, Change | Drop)):
                raise Invalid(
                    f"{shown} that came of what the {sender.what} `{sender.name}` has heard, and comes anew in a branch. Edit the event that it heard"
                    f"{', or change or drop the command that it has sent' if sender.what == 'reaction' else ''}, or run other code",
                    position=edit.position,
                )
            self._change(edit, of, ordinal, shown, what)
            self.sent[header.id] = of.changed[ordinal]
            return
        if isinstance(edit, Answer):
            if raw.number != ANSWER:
                raise Invalid(f"{shown}, and no answer of the outside", position=edit.position)
            self._check_answer(edit, answers_in(row).get(ordinal))
            of.answers[ordinal] = edit.value
        elif isinstance(edit, Clock):
            now = microseconds(with_zone(edit.now))
            if not asked:
                raise Invalid(f"{shown}: only the clock of a command can be set", position=edit.position)
            of.now = now
        else:
            self._change(edit, of, ordinal, shown, what)
        if (of.answers or of.now is not None) and any(ordinal or row.input is None for ordinal in of.changed):
            raise Invalid(
                f"the command of the row at {row.position} is not decided again where one of its events is edited: then no answer or clock matters",
                position=edit.position,
            )

    def _check_answer(self, edit: Answer, recorded: Recorded | None) -> None:
        """Raise `Invalid` for an answer that the gateway can't have given."""
        gateway = self._gateways.get(recorded.gateway) if recorded is not None else None
        if gateway is None or isinstance(edit.value, Exception):
            return
        try:
            gateway.decode(encoded(edit.value, encode))
        except NO_DATA as error:
            raise Invalid(
                f"position {edit.position} is an answer of the gateway `{gateway.name}`, which does not return {edit.value!r}: {error}",
                position=edit.position,
                gateway=gateway.name,
            ) from error

    def _change(self, edit: Change | Drop, of: RowEdits, ordinal: int, shown: str, what: str) -> None:
        to = edit.to if isinstance(edit, Change) else None
        if what not in ("event", "command"):
            raise Invalid(f"{shown}: only commands and events can be changed or dropped", position=edit.position)
        if isinstance(edit, Change):
            wanted = Command if what == "command" else Event
            if not isinstance(to, wanted):
                raise Invalid(f"{shown}, and {called(to)} can't take its place: give {'a command' if what == 'command' else 'an event'}")
            if type(to) not in self._known:
                raise Invalid(f"the app has no `{type(to).__name__}`: list it, or name it in the code that the branch runs with")
        if ordinal in of.changed:
            raise Invalid(f"{shown}, and two edits are about it", position=edit.position)
        of.changed[ordinal] = to

    def _insert(self, edit: Insert) -> None:
        body = edit.what.body if isinstance(edit.what, Message) else edit.what
        if not isinstance(body, Command | Event):
            raise Invalid(f"{called(body)} can't be inserted: give a command or an event")
        if type(body) not in self._known:
            raise Invalid(f"the app has no `{type(body).__name__}`: list it, or name it in the code that the branch runs with")
        row = self._found(edit.after)[0] if edit.after != 0 else None
        of = self._of(row, row.last if row is not None else 0)
        of.inserted.append(edit.what)

    def _of(self, row: Row | None, begins: int) -> RowEdits:
        self.begins = begins if self.begins is None else min(self.begins, begins)
        return self.rows.setdefault(row.position if row is not None else 0, RowEdits())

    def _found(self, position: int) -> tuple[Row, int]:
        """Return the row of a position, and the place in it."""
        row = self._log.row_at(place_of(position)) if 0 < place_of(position) <= self._until else None
        if row is None:
            raise Invalid(
                f"there is nothing at position {position}: the log ends at {self._until}" if position else "positions begin with 1",
                position=position,
            )
        return row, position - row.position
