"""Shares in a branch: what each publishes there, of what the branch holds, in its turn.

A share takes its turn where it published something in the origin, and publishes all that has changed up to where it had come then; at the end it publishes
what is left, if it had published all in the origin. It publishes of one row what it did there: where it left out a change of a state that soon changed
again, it leaves that out here, too. Of what has no counterpart in the origin it leaves out nothing.

It is in the generation that it was in. Where its code or fields are others than those of that, it begins the next one where the branch begins; so does a
share that the origin has none of. One that began later in the origin begins there.
"""

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import msgspec

from happened.core.errors import Stuck
from happened.core.state import Key
from happened.core.store import Row, Wanted
from happened.log.log import ERASED_NOTE, Log
from happened.log.names import Names
from happened.log.records import SHARED
from happened.log.row import Header, decode_header, encode, taken_apart
from happened.log.slices import NOTE as PROGRESS_NOTE
from happened.log.slices import Progress
from happened.transfer.channel import SHARE_NOTE, Generation, share_worker
from happened.transfer.share import PAGE_ROWS, Beginning, Share, keys_in
from happened.transfer.share import encode as encode_key

LATEST_ROWS = 20
"""Rows looked through at once for the latest."""


class Place(NamedTuple):
    """Where a row of a share belongs, by its id and its header."""

    generation: int
    position: int
    """Up to where it had come with what it publishes there."""
    part: int | None
    """Which part of that it is; `None` for the last one."""
    begins: bool
    """It is of what there was when the generation began."""


def place_of(header: Header) -> Place:
    """Return where a row of a share belongs."""
    start, _, end = (header.id or "").rpartition("/")
    position, dot, part = end.partition(".")
    return Place(int(start.rpartition("/")[2]), int(position), int(part) if dot else None, header.sent is None)


def said(log: Log, names: Names, share: str | None, after: int, until: int, *, backwards: bool = False) -> Iterator[tuple[Row, Place, str]]:
    """Yield the rows in which a share of a log has published something, or any share, each with its place and the fingerprint of its code."""
    shares = [name for name in list(names.by_number.values()) if name.what in SHARED and share in (name.name, None)]
    of = {name.number: name.fingerprint for name in shares}
    if not of or after >= until:
        return
    rows_max = LATEST_ROWS if backwards else PAGE_ROWS
    for rows in log.engine.read(after, until, wanted=[Wanted((), list(of))], backwards=backwards, rows_max=rows_max):
        for row in rows:
            number = next((raw.number for _, raw in taken_apart(row)), 0)
            if number in of:  # the index may hand out others, too
                yield row, place_of(decode_header(row.head)), of[number]


def notes_as_of(log: Log, names: Names, notes: Mapping[str, str], share: str, position: int) -> dict[str, str]:
    """Return the notes of a share as they were at a position: its generation and how far it had come. None where it had published nothing."""
    behind = said(log, names, share, 0, position, backwards=True)
    row, place, fingerprint = next(behind, (None, Place(0, 0, None, begins=False), ""))
    if row is None:
        return {}
    generation, noted = notes.get(SHARE_NOTE + share), notes.get(PROGRESS_NOTE + share_worker(share))
    now = msgspec.json.decode(generation, type=Generation) if generation is not None else None
    progress = msgspec.json.decode(noted, type=Progress) if noted is not None else None
    known = now if now is not None and now.number == place.generation else None
    came, began = place, place.position
    if not place.begins:
        if place.part is not None:  # the rest of it is recorded later: it had come to where it published before
            came = next(before for _, before, _ in behind if before.position != place.position)
        began = progress.began if known is not None and progress is not None else _began(log, names, share, position)
    if known is not None and not known.fingerprint and int(notes.get(ERASED_NOTE, "0")) <= position:
        fingerprint = ""  # it was to begin anew
    made = Generation(place.generation, fingerprint, began, whole=not (place.begins and place.part is not None))
    return {
        SHARE_NOTE + share: encode(made).decode(),
        PROGRESS_NOTE + share_worker(share): encode(Progress(came.position, 0, began)).decode(),
    }


def _began(log: Log, names: Names, share: str, position: int) -> int:
    """Return as of where the generation began that a share is in at a position."""
    return next(place.position for _, place, _ in said(log, names, share, 0, position, backwards=True) if place.begins)


class Before(NamedTuple):
    """What a branch is of, as far as its shares ask: the log, its names, its notes, from where on the branch is another, and up to where it is given."""

    log: Log
    names: Names
    notes: Mapping[str, str]
    after: int
    until: int
    noted: int
    """Up to where records may have changed the notes."""


class Retold:
    """A share in a branch, which publishes as it is told. `reads`: the names of the events that it reads in the origin, `None` where that has none of it."""

    def __init__(
        self, share: Share, before: Before, here: Callable[[int], int], back: Mapping[int, int], *, reads: Sequence[str] | None
    ) -> None:
        self.name = share.name
        self._share = share
        self._before = before
        self._here = here
        """Where the branch stood when the origin had come to a position."""
        self._back = back
        """By positions of events of the branch: those of their counterparts."""
        self._listed = reads is not None
        self._reads = reads or ()
        self.stuck: Stuck | None = None
        """What keeps it from publishing anything else."""
        self._whole = False
        self._beginning: Beginning | None = None
        self._taken_up = False
        origin = list(said(before.log, before.names, share.name, before.after, before.until))
        self._said = {one for row, _, _ in origin for one in keys_in(row)}
        """Of which keys, in which versions, it has published something there."""
        self._anew = any(fingerprint != share.fingerprint for _, _, fingerprint in origin)
        """It has other code: it may have something to publish where all else is as it was."""
        self._said_until = max((version for _, version in self._said), default=0)

    def start(self) -> None:
        """Begin, where it does before anything is given."""
        with self._standing():
            self._start()

    def turn(self, header: Header) -> None:
        """Publish what there is to publish where it did so in the origin."""
        if self.stuck is None:
            with self._standing():
                self._turn(place_of(header), header)

    def finish(self, *, diverged: bool) -> None:
        """Publish what is left at the end, and note how far it has come."""
        if self._whole and (not self._listed or ((diverged or self._anew) and self._had_published_all())):
            self._take_up()
            with self._standing():
                self._share.say_all(self._share.head, self._passes)
        self._share.note()

    @contextmanager
    def _standing(self) -> Generator[None]:
        """Stand still from where it can't take an event, as in a log."""
        try:
            yield
        except Stuck as error:
            self.stuck = error
            self._whole = False

    def _start(self) -> None:
        share, noted = self._share, self._share.noted
        if noted is not None and noted.whole and noted.fingerprint == share.fingerprint:
            self._whole = True
        elif not self._listed or (noted is not None and noted.fingerprint not in ("", share.fingerprint)):
            self._take_up()
            share.tell_rest(share.begin((noted.number if noted is not None else 0) + 1, self._before.after))
            self._whole = self._anew = True

    def _turn(self, place: Place, header: Header) -> None:
        self._take_up()
        if self._whole:
            waited = header.sent.waited if header.sent is not None else None
            self._share.say(self._here(place.position), self._passes, waited=waited, again=place.position <= self._before.after)
        elif place.begins:
            self._begin(place)

    def _take_up(self) -> None:
        if not self._taken_up:
            self._taken_up = True
            self._share.go_on()

    def _begin(self, place: Place) -> None:
        """Publish of what there was when a generation began what was published there."""
        share, beginning = self._share, self._beginning
        if beginning is None or beginning.generation.number != place.generation:
            noted = share.noted
            if noted is not None and noted.number == place.generation:  # the branch begins in the midst of it
                beginning = share.begin_again(noted)
            else:
                beginning = share.begin(place.generation, self._here(place.position))
            self._beginning = beginning
        if place.part is None:
            share.tell_rest(beginning)
            self._whole = True
        elif beginning.left:
            share.tell_part(beginning)

    def origin_of(self, position: int) -> int | None:
        """Return where the counterpart of an event is in the origin, if it has one."""
        return position if position <= self._before.after else self._back.get(position)

    def _passes(self, key: Key, version: int) -> bool:
        """Say whether it publishes a change that is not the last of its key there."""
        counterpart = self.origin_of(version)
        unknown = counterpart is None or (not self._listed and counterpart > self._said_until)
        return unknown or (encode_key(key), counterpart) in self._said

    def _had_published_all(self) -> bool:
        """Say whether it had published all in the origin that there was."""
        before, worker = self._before, share_worker(self.name)
        noted = before.notes.get(PROGRESS_NOTE + worker)
        came = msgspec.json.decode(noted, type=Progress).position if noted is not None else 0
        if any(said(before.log, before.names, self.name, before.until, before.noted)):
            return False
        reads = before.log.numbers(self._reads)
        rows = (row for page in before.log.engine.read(min(came, before.until), before.until, wanted=[Wanted((), reads)]) for row in page)
        return not any(not asked and raw.number in reads for row in rows for asked, raw in taken_apart(row))
