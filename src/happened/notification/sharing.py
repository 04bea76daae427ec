"""Sharing: one listener in one process, in as many parts as that holds of it.

Slices are shared among the workers that are there. Who holds a part of which others are to have some cuts it, between two commits, and gives it to them as
far as it has come; who holds parts that lie side by side and have come equally far joins them. With one worker there is one part.
"""

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple  # Any: what is counted is of any type

from happened.log.lease import Leases
from happened.log.log import Log
from happened.log.redrawing import redraw
from happened.log.slices import Part, Piece, cut, parts_in
from happened.notification.hearing import AnyHearing

PAGE_ROWS = 300
"""Rows of the log that are read at once, and whose events are run and recorded in one commit."""


class Reach(NamedTuple):
    """How far a part may go in one step."""

    position: int
    """Where it is."""
    until: int
    rows_max: int


class Sharing:
    """The parts of one listener that this process works through, each by a `Hearing` of its own."""

    def __init__(self, log: Log, leases: Leases, whole: AnyHearing) -> None:
        self.listener = whole.listener
        self.by = "" if log.reader.lifts.splits_into(self.listener.events) else self.listener.divided_by
        """The tag by whose values it is divided; empty where it is not: also where one record may be several events, which are heard together."""
        self._log = log
        self._leases = leases
        self._whole = whole
        self._hearings = {whole.lease: whole}
        self._runs = self._ran_us = 0
        """Of parts that this process does not hold any more."""

    def hearings(self) -> list[AnyHearing]:
        """Return the parts that this process holds now; it may have to claim them first."""
        names = self._leases.parts(self.listener.lease)
        for name in self._hearings.keys() - {self._whole.lease, *names}:
            gone = self._hearings.pop(name)
            self._runs += gone.runs
            self._ran_us += gone.ran_us
        for name in names:
            if name not in self._hearings:
                self._hearings[name] = self._whole.of_part(name)
        return list(self._hearings.values())

    def redraw(self) -> None:
        """Give others what they are to have, or join what has come together. Afterwards what is another's is not claimed any more, nor is what was joined."""
        mine = sorted((one for one in self._hearings.values() if one.epoch is not None), key=lambda one: one.progress.span)
        shares = self._leases.shares(self.listener.lease)
        for one in mine:
            if (one.progress.by or self.by) == self.by:
                pieces = cut(one.progress.span, shares)
                if any(piece.owner != self._leases.owner for piece in pieces):
                    self._draw([one], pieces, self.by)
                    return
        for before, after in itertools.pairwise(mine):
            [first, until], [following, last] = before.progress.span, after.progress.span
            if until + 1 == following and before.position == after.position and before.progress.by == after.progress.by:
                self._draw([before, after], [Piece(first, last, self._leases.owner)], before.progress.by or "")
                return

    def reach(self, one: AnyHearing, head: int) -> Reach:
        """Return how far a part of this process may go now.

        Where it is divided otherwise than this code divides, events of different parts may be of one row to it: who is ahead waits for who is behind, and
        those that are equally far, with others between them, take row by row.
        """
        if (one.progress.by or self.by) == self.by:
            return Reach(one.position, head, PAGE_ROWS)
        mine = {each.lease: each.position for each in self._hearings.values() if each.epoch is not None and each is not one}
        noted = {name: progress.position for name, progress in parts_in(self._log.engine, self.listener.lease) if name != one.lease}
        others = {**noted, **mine}
        if any(position < one.position or (position == one.position and name not in mine) for name, position in others.items()):
            return Reach(one.position, one.position, 1)
        further = [position for position in others.values() if position > one.position]
        return Reach(one.position, min([head, *further]), 1 if one.position in others.values() else PAGE_ROWS)

    def _draw(self, ones: Sequence[AnyHearing], pieces: Sequence[Piece], by: str) -> None:
        before = [Part(one.lease, one.progress) for one in ones]
        for one in ones:
            one.release()  # whatever comes of it: it is claimed again where it is still this process's
        redraw(self._log, self._leases, before, pieces, position=max(one.position for one in ones), by=by)

    def statistics(self, head: int) -> dict[str, Any]:
        """Return how far it has come, by whichever process, in the part that is behind the others; how often it ran in this process, and what is wrong."""
        hearings = list(self._hearings.values())
        mine = {one.lease: one for one in hearings if one.epoch is not None}
        noted = parts_in(self._log.engine, self.listener.lease)
        position = min((max(part.progress.position, mine[part.name].position if part.name in mine else 0) for part in noted), default=head)
        return {
            **self._whole.named(),
            "position": position,
            "lag": max(0, head - position),
            "mine": bool(mine),
            "slices": sum(last - first + 1 for first, last in (one.progress.span for one in mine.values())),
            "runs": self._runs + sum(one.runs for one in hearings),
            "ran_us": self._ran_us + sum(one.ran_us for one in hearings),
            "failure": next((one.trouble.error for one in hearings if one.trouble.error is not None), None),
        }
