"""The seam of the log: what a store must do, and nothing of what the bytes mean.

A store keeps rows under positions. A row is one command: what was asked and what came of it, a header, and a link of the hash chain. The store knows
no type, version or upcast; all that lives once, above all stores, so that no adapter can get it wrong.

`append(decide)` is the heart: the store takes its lock, hands `decide` every row that the caller has not seen, stores what it returns, and syncs.
Whoever decides under that lock, after reading all there is, can't be overtaken; so dense positions, the boundary and idempotent ids need nothing else.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable  # Any: a row's columns, three or six

import msgspec


class Row(msgspec.Struct, frozen=True, gc=False):
    """One command as it is kept. `position` is its first record's; the others follow without a gap.

    `at` is the recorded time in microseconds since 1970 and never falls; `head`, `input` and `records` are JSON texts; `salts` has 16 bytes for each
    record; `digest` is the chain's link, over the row before and all of this one.
    """

    position: int
    count: int
    at: int
    head: str
    input: str | None
    records: str
    salts: bytes
    digest: bytes

    @property
    def last(self) -> int:
        """The position of the last record."""
        return self.position + self.count - 1


Bare = tuple[Any, ...]
"""What a fold needs of a row: the position of the first of `records`, the position after the last, `records`; with heads also its own position, `at`, `head`.

With inputs: the position after the last, `records`, and `input`, which comes before them.
"""


class Head(msgspec.Struct, frozen=True, gc=False):
    """Where a log stands: the position of its last record, when that was recorded, and the last row's digest."""

    position: int
    at: int
    digest: bytes


START = Head(0, 0, bytes(32))
"""Where an empty log stands."""


class Terms(msgspec.Struct, frozen=True, gc=False):
    """What a row is found by: (tag, value) terms, the id that it uses up, and the numbers of the names of its events; and what is counted of it."""

    tags: Sequence[str]
    id: str | None
    names: Sequence[int]
    counts: Sequence[tuple[str, int]] = ()
    """Numbers, not negative, of any length, that are added up under texts."""


class Wanted(NamedTuple):
    """One item of what is looked for: rows with all of `terms` and any of `names`. A store may hand out more rows than that, never fewer."""

    terms: Sequence[str] = ()
    names: Sequence[int] = ()


class Unseen(NamedTuple):
    """What `decide` is given under the lock: the rows that the caller has not seen, where the log stands, and the notes."""

    rows: Sequence[Row]
    head: Head
    notes: Callable[[str], Mapping[str, str]]
    """Returns the notes whose key starts with a text."""


class Commit(NamedTuple):
    """What `decide` returns: rows to add with what each is found by, and notes to set, or to delete with `None`. Nothing at all: nothing is written."""

    rows: Sequence[Row] = ()
    terms: Sequence[Terms] = ()
    notes: Mapping[str, str | None] = {}
    instead: Sequence[Row] = ()
    """Rows that take the place of those at their positions: the same rows, of which bodies were erased. What was derived from those is made anew."""
    unread: bool = False
    """They hold names of which `index` has not said yet how they are read: their tags are not in the index before it has."""


class Parts(msgspec.Struct, frozen=True):
    """How much of a log is packed, and what it takes."""

    cold: int
    """The last position of the cold part; 0 where there is none."""
    cold_rows: int
    cold_bytes: int
    segments: int
    hot_rows: int
    free_bytes: int
    """What is free in the file or table, and is used again by what is recorded. In PostgreSQL it is an estimate, and 0 where that is little."""
    gives_back: bool
    """Whether packing gives free pages back to the file system."""
    bytes: int
    """What the log takes in all, with its index and what is free."""


class Store(Protocol):
    """Keeps one log. Every method may be called from any thread; one `append` runs at a time, readers never wait for it."""

    sync_seconds: float
    """What a commit takes of late. An event loop commits by itself only while that is short."""

    def append(self, decide: Callable[[Unseen], Commit], seen: int, *, wait_seconds_max: float = 10.0) -> Head:
        """Take the lock, hand over what lies after position `seen`, store what comes back, sync; return where the log stands then.

        What `decide` raises is passed on, and nothing is stored. `Overloaded` if the lock can't be had in time: not stored. `OutcomeUnknown` if it
        could not be learned whether the commit took place. Notes are stored in the same commit.
        """
        ...

    def read(
        self,
        after: int = 0,
        until: int | None = None,
        *,
        wanted: Sequence[Wanted] | None = None,
        backwards: bool = False,
        rows_max: int = 1000,
    ) -> Iterator[Sequence[Row]]:
        """Yield pages of whole rows that lie after one position and up to another, in order; `wanted` narrows them by the index.

        A page is never split inside a row, and no transaction outlives a page. Memory: one page.
        """
        ...

    def read_bare(
        self,
        after: int = 0,
        until: int | None = None,
        *,
        wanted: Sequence[Wanted] | None = None,
        rows_max: int = 1000,
        heads: bool = False,
        inputs: bool = False,
    ) -> Iterator[Sequence[Bare]]:
        """Yield what `read` does, as far as a fold needs it. What a row says of itself comes only with `heads`, and costs half as much again.

        With `inputs`, and without heads, what was asked comes as well.
        """
        ...

    def notes(self, start: str, before: str | None = None) -> Mapping[str, str]:
        """Return the durable notes whose key starts with a text, and sorts before another if one is given; without taking the lock."""
        ...

    def wait(self, after: int, wait_seconds_max: float) -> int:
        """Wait until something lies after this position, or the time is over; return the last position. Wakes for commits of any process.

        Where it waits, that may be the last position of a moment ago: those who wait share one look. It is of before no commit of this process that was
        answered before the call. Without waiting (0 s) it is as of this call, or later.
        """
        ...

    def scrub(self, progress: Callable[[int, int], None]) -> bool:
        """Take all bytes out of what is kept that no row, note or index has any more, and make anew what was derived. Say whether it could be done.

        Called after rows were replaced. It can't be done while another process reads; calling it again, also from another process, does the rest.
        """
        ...

    def close(self) -> None:
        """Give everything back. Calling it twice is fine."""
        ...


LOG_WORK = "log/"
"""What the names begin with under which samples count the work that is no handler's: a decider may be called `index`, too."""


class Shelved(Protocol):
    """What a store also keeps that can be rebuilt: the index that `read(wanted=...)` uses, sums of what rows count, and samples of executions."""

    def index(
        self, reading: Mapping[int, str], terms_of: Callable[[Row], Terms], progress: Callable[[int, int], None], *, guest: bool = False
    ) -> bool:
        """Say how rows are read today: a fingerprint for each name, and the function that finds a row's terms. Rebuilds what differs.

        A guest rebuilds nothing, and from then on writes nothing of the index: others read it in their own way. To him all rows that have any tag
        asked for are looked at. Returns whether terms are looked up in the index.
        """
        ...

    def found_by(self, reading: Mapping[int, str], terms_of: Callable[[Row], Terms], /) -> bool:
        """Say whether terms are looked up by this reading, where a log lies over this one. Nothing is rebuilt."""
        ...

    def find_id(self, id: str) -> Sequence[int]:
        """Return the positions of the rows that may use this id; the caller verifies. Sees all that `append` handed over or stored."""
        ...

    def find_ids(self, ids: Sequence[str]) -> frozenset[str]:
        """Return those of these ids that some row may use. One by one it takes thrice as long."""
        ...

    def counted(self, after: int, until: int | None, counts_of: Callable[[Row], Sequence[tuple[str, int]]]) -> Mapping[str, int]:
        """Return what was counted of the rows that lie after one position and up to another, added up under each text; no text has 0.

        Never a scan of all rows: a store keeps sums of stretches, and counts what lies at both ends with `counts_of`, which tells of a row what its
        `Terms` do.
        """
        ...

    def sample(self, handler: str, outcome: str, ran_us: int, what: str) -> None:
        """Count an execution that committed nothing, and keep what is said of the latest few of each handler and outcome.

        A decider is counted under its own name, another handler under `KIND/NAME`, and what the log does by itself under `LOG_WORK` and what that is.
        """
        ...

    def samples(self) -> Sequence[tuple[str, str, int, int, str]]:
        """Return (handler, outcome, how many, microseconds in all, what was said of the latest) for all that was sampled."""
        ...


@runtime_checkable
class Packs(Protocol):
    """What a store also does that can pack rows away. A row's bytes, and the order in which it is read, stay what they are; where it lies is not seen."""

    def compact(
        self, until: int, progress: Callable[[int, int], None], *, notes: Mapping[str, str] | None = None, rewrite: bool = False
    ) -> None:
        """Pack the rows that end at or before a position, the newest never; with the first that are packed notes are set.

        It goes on in steps, each of them safe against a kill, beside all who read and write; `rewrite` once stops them. `Broken` for rows that the chain
        does not bind; `Overloaded` where the lock could not be had: what was packed is packed.
        """
        ...

    def unpack(self, after: int, progress: Callable[[int, int], None], *, notes: Sequence[str] = ()) -> None:
        """Undo it for rows after a position, in steps, and for some before it; with the last that are put back notes are deleted."""
        ...

    def parts(self) -> Parts:
        """Return how much is packed. It goes through all rows that are not."""
        ...

    def cold_until(self) -> int:
        """Return the last position of the cold part; 0 where there is none."""
        ...


@runtime_checkable
class Ahead(Protocol):
    """What a store also does that can see under its lock whether anybody came between: then who decided before it need not decide again."""

    def append_ahead(self, decide: Callable[[Unseen], Commit], seen: int) -> Head | None:
        """Do what `append` does, with one message: decide first, then take the lock, and store what was decided if the log stands where it stood.

        `None` where it does not, where it is likely not to, where the lock is taken, and for what takes more than rows: then nothing was stored, and
        `append` is to be asked. All else is as there; `decide` must be such that it can be called again.
        """
        ...


@runtime_checkable
class Inspects(Protocol):
    """What a store also does whose index lies in a file that nobody else looks after."""

    def inspect(self) -> None:
        """Read all of the index. `Broken` where something of it is not as it was written."""
        ...


class Engine(Store, Shelved, Protocol):
    """A store with its shelf: what the log is opened on."""
