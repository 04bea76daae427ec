"""What this process has recorded of late, kept for who follows the log in it.

A view has it without a statement: each one lets go of the interpreter's lock, and where commands come without pause it is some milliseconds until it comes back.
"""

from bisect import bisect_left
from collections import deque
from collections.abc import Sequence
from operator import attrgetter

from happened.core.store import Head, Row

_LAST = attrgetter("last")

BYTES_MAX = 4 << 20
"""As much is kept of what rows hold, beside the latest commit."""


class Latest:
    """The rows of the latest commits of this process, as far as nothing of others lies between them. One adds at a time; any thread may look."""

    def __init__(self) -> None:
        self._commits: deque[tuple[Head, Sequence[Row], int]] = deque()
        """Where the log stood before each, its rows, and how many bytes they hold."""
        self._bytes = 0
        self._end = 0
        self._wanted = False

    def add(self, before: Head, rows: Sequence[Row]) -> None:
        """Hear of a commit. Nothing is kept until somebody has looked."""
        if not self._wanted or not rows:
            return
        if before.position != self._end:  # others have recorded something
            self.forget()
        size = sum([len(row.records) + len(row.input or "") for row in rows])
        self._commits.append((before, rows, size))
        self._bytes += size
        self._end = rows[-1].last
        while self._bytes > BYTES_MAX and len(self._commits) > 1:
            self._bytes -= self._commits.popleft()[2]

    def forget(self) -> None:
        """Keep nothing of what was there: something may have been erased."""
        self._commits.clear()
        self._bytes = 0

    def behind(self, position: int, rows_max: int) -> tuple[bytes, list[Row]] | None:
        """Return the digest of the row that ends at a position, and the rows after it, at most so many; `None` where they are to be read. Cost: what is kept."""
        self._wanted = True
        behind: list[Sequence[Row]] = []
        for before, rows, _ in reversed(list(self._commits)):
            behind.append(rows)
            if before.position > position:
                continue
            found = [row for rows in reversed(behind) for row in rows]
            start, digest = 0, before.digest
            if before.position < position:
                start = bisect_left(found, position, key=_LAST) + 1
                if found[min(start, len(found)) - 1].last != position:
                    return None
                digest = found[start - 1].digest
            return (digest, found[start : start + rows_max]) if start < len(found) else None
        return None
