"""Channels: how what one system publishes reaches another.

A channel shows the published records of one origin, and nothing else of it: notifications, changes of shared states, and beacons. It promises little, so
that a log, a broker or a file can be one: every record after a position is handed out at least once. Order is the rule, not a promise: a page may hold a
record twice, and some that stand beyond the position up to which the page is whole. `Inflow` brings order into that.

Two origins are read here in the same way: an app that runs in this process, and another system's log by its URL, which is only read. What can't be read
now (it is not there yet, it was closed) is `StoreFailed`, and is tried again by whoever reads.
"""

import operator
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar  # Any: a part of a schema

import msgspec

from happened.core.errors import Broken, Closed, Error, StoreFailed
from happened.core.store import Row
from happened.log.log import IDENTITY_NOTE, Identity, last_known
from happened.log.names import Name, Names
from happened.log.records import PUBLISHED
from happened.log.row import FIRST_NUMBER, SCHEMA, decode_extra, decode_header, is_erased, taken_apart, taken_apart_text
from happened.log.slices import NOTE as PROGRESS_NOTE
from happened.log.slices import Progress

A = TypeVar("A")

NOTIFICATION, SHARE, BEACON = PUBLISHED

PAGE_ROWS = 500
RECORDS_MAX = 5_000
"""Published records in one page, or a few more: a row is never split."""
SCANNED_MAX = 50_000
"""Rows of a log that are looked through for one page."""
AHEAD_MAX = 100_000
"""Records that are held back until those before them have come. Beyond, they are dropped, since the channel hands them out again."""

SHARE_NOTE = "share/"
"""Before a share's name: what there is to know of it, beside its progress."""


def share_worker(name: str) -> str:
    """Return what the worker of a share is called, in the log of its app."""
    return f"{SHARE_NOTE}{name}"


class Origin(NamedTuple):
    """Whose records these are: the log, its epoch, and the epochs before with the last position of each."""

    log: str
    epoch: int
    ended: tuple[tuple[int, int], ...] = ()

    def last_known(self, epoch: int) -> int:
        """Return up to which position what was read in an epoch is still true."""
        return last_known(self.epoch, self.ended, epoch)

    def epoch_of(self, position: int) -> int:
        """Return the epoch in which a position was recorded."""
        return next((epoch for epoch, last in self.ended if position <= last), self.epoch)


class Published(msgspec.Struct, frozen=True, gc=False):
    """One published record, as it came."""

    position: int
    row: str
    """The id of the row that it stands in, and its place there: together they are its own."""
    ordinal: int
    what: str
    """`notification`, `share` or `beacon`."""
    name: str
    version: int
    body: msgspec.Raw
    at: int
    """When it was recorded, in microseconds since 1970."""
    occurred: int | None
    correlation: str | None
    depth: int
    digest: str
    """The link of the origin's chain at the record's row, as receipts have it."""
    parts: Any = None
    """Which values lie nested in it and in which version, as the origin's schema says; `None` for none, or where the channel does not know."""

    @property
    def id(self) -> str:
        """The record's id, as its origin calls it."""
        return f"{self.row}#{self.ordinal}" if self.ordinal else self.row


class Page(NamedTuple):
    """What a channel hands out: records, up to where that is all there is of them, and the origin's durable head."""

    items: Sequence[Published]
    position: int
    head: int


class Standing(NamedTuple):
    """How a share stands at its origin: its generation, after which position that begins, and up to which position of the origin it has published."""

    generation: int
    begins: int
    position: int


class Channel(Protocol):
    """What one system publishes, for one that reads it. Any method may be called from any thread, and may raise `StoreFailed`: not reachable now."""

    def origin(self) -> Origin:
        """Return whose records these are."""
        ...

    def read(self, after: int, wait_seconds_max: float) -> Page:
        """Return what was published after a position, or wait for it. Every record is handed out at least once to who goes on from each page's position.

        A page may be of a moment ago: what was published since, and the head since, are in the next one.
        """
        ...

    def head(self) -> int:
        """Return the position of the origin's last durable record, as of this call or later."""
        ...

    def recorded_at(self, position: int) -> tuple[int, str] | None:
        """Return when the record at a position was recorded, and the link of the chain there; `None` where that is not known."""
        ...

    def standing(self, share: str) -> Standing | None:
        """Return how a share stands, `None` where that is not known: then its beacons say it."""
        ...

    def close(self) -> None:
        """Give it back."""
        ...


class Readable(Protocol):
    """What a log's channel needs of a store."""

    def read(self, after: int = 0, until: int | None = None, *, rows_max: int = 1000) -> Iterator[Sequence[Row]]:
        """Yield pages of rows."""
        ...

    def notes(self, start: str) -> Mapping[str, str]:
        """Return notes."""
        ...

    def wait(self, after: int, wait_seconds_max: float) -> int:
        """Wait until something lies after this position; return the last."""
        ...

    def close(self) -> None:
        """Give it back."""
        ...


class LogChannel:
    """The channel that is a log: of an app in this process, or of another system."""

    def __init__(self, connect: Callable[[], Readable], is_there: Callable[[Readable], bool], *, own: bool) -> None:
        self._connect = connect
        self._is_there = is_there
        self._own = own
        self._lock = threading.Lock()
        self._store: Readable | None = None
        self._names = Names()
        self._others: set[str] = set()
        """How the records of a row begin that holds nothing that is published."""
        self._closed = False

    def origin(self) -> Origin:
        """Return whose log it is."""
        return self._asked(self._origin)

    def read(self, after: int, wait_seconds_max: float) -> Page:
        """Return what was published after a position; a page is always whole and in order."""
        return self._asked(lambda store: self._page(store, after, wait_seconds_max))

    def head(self) -> int:
        """Return the log's head."""
        return self._asked(lambda store: store.wait(1 << 62, 0))

    def recorded_at(self, position: int) -> tuple[int, str] | None:
        """Return what the row at a position says."""

        def look(store: Readable) -> tuple[int, str] | None:
            for rows in store.read(max(position, 1) - 1, rows_max=1):
                return (rows[0].at, _link(rows[0])) if rows[0].position <= position <= rows[0].last else None
            return None

        return self._asked(look)

    def standing(self, share: str) -> Standing | None:
        """Return what the log notes of a share."""

        def look(store: Readable) -> Standing | None:
            worker = PROGRESS_NOTE + share_worker(share)
            body = store.notes(SHARE_NOTE + share).get(SHARE_NOTE + share)
            noted = store.notes(worker).get(worker)
            if body is None or noted is None:
                return None
            generation = msgspec.json.decode(body, type=Generation)
            return Standing(
                generation.number, generation.begins, msgspec.json.decode(noted, type=Progress).position if generation.whole else 0
            )

        return self._asked(look)

    def close(self) -> None:
        """Close what was opened here."""
        with self._lock:
            self._closed = True
            self._let_go()

    def _asked(self, ask: Callable[[Readable], A]) -> A:
        try:
            return ask(self._there())
        except (StoreFailed, Broken):
            raise
        except Closed as error:
            raise StoreFailed(f"it was closed: {error}") from error
        except Error as error:
            raise StoreFailed(f"it can't be read: {error}") from error

    def _there(self) -> Readable:
        with self._lock:
            if self._closed:
                raise StoreFailed("the channel is closed")
            if self._store is not None and not self._is_there(self._store):
                self._let_go()
            if self._store is None:
                store = self._connect()
                self._names, self._others = Names(), set()
                self._names.learn(store.notes)
                self._store = store
            return self._store

    def _let_go(self) -> None:
        if self._store is not None and self._own:
            self._store.close()
        self._store = None

    def _origin(self, store: Readable) -> Origin:
        body = store.notes(IDENTITY_NOTE).get(IDENTITY_NOTE)
        if body is None:
            raise StoreFailed("it is no log yet")
        identity = msgspec.json.decode(body, type=Identity)
        return Origin(identity.id, identity.epoch, identity.ended)

    def _page(self, store: Readable, after: int, wait_seconds_max: float) -> Page:
        head = store.wait(after, wait_seconds_max)
        items: list[Published] = []
        position = after
        scanned = 0
        names = self._names
        others = self._others
        for rows in store.read(after, head, rows_max=PAGE_ROWS):
            for row in rows:
                text = row.records
                if row.input is None and (first := text[: text.find(",", 2)]) not in others:
                    name = _first(row, names, store)
                    if name is not None and name.what in PUBLISHED:
                        items += published_in(row, names)
                    elif name is not None:
                        others.add(first)
            position = rows[-1].last
            scanned += len(rows)
            if len(items) >= RECORDS_MAX or scanned >= SCANNED_MAX:
                return Page(items, position, head)
        return Page(items, max(position, head), head)


class Generation(msgspec.Struct, frozen=True):
    """One making of a share: a new one begins where its code or its fields have changed."""

    number: int
    fingerprint: str
    begins: int
    """All of its records lie after this position."""
    whole: bool = False
    """What there was when it began is published."""


def published_in(row: Row, names: Names) -> Iterator[Published]:
    """Yield the published records of a row."""
    header = decode_header(row.head)
    link = _link(row)
    correlation = header.correlation or header.id
    own = header.id or ""  # whoever publishes gives each row its id
    at, depth, head_occurred = row.at, header.depth, header.occurred
    by_number = names.by_number
    position = row.position
    known = 0
    what = called = ""
    version = 0
    parts: Any = None
    for raw in taken_apart_text(row.records, position):
        if raw.number != known:
            known = raw.number
            name = by_number.get(known)
            what, called, version = (name.what, name.name, name.version) if name is not None and name.what in PUBLISHED else ("", "", 0)
            parts = name.parts if name is not None else None
        if what and not is_erased(raw):
            extra = decode_extra(raw.extra) if raw.extra else None
            occurred = extra.occurred if extra is not None and extra.occurred is not None else head_occurred
            place = position - row.position
            yield Published(position, own, place, what, called, version, raw.body, at, occurred, correlation, depth, link, parts)
        position += 1


class Inflow:
    """What comes through a channel, in the order of the origin, each record once within what is held in memory.

    A record beyond the position up to which a page is whole is held back until those before it have come. One that comes again later, or belongs before
    what was handed on already, is handed on all the same: whoever takes it in knows what he has.
    """

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self._ahead: dict[int, Published] = {}

    def read(self, after: int, wait_seconds_max: float) -> Page:
        """Return the next page, in order."""
        page = self.channel.read(after, wait_seconds_max)
        positions = [item.position for item in page.items]
        if not self._ahead and all(map(operator.lt, [after, *positions], [*positions, page.position + 1])):
            return page  # as a log hands them out
        found = self._ahead
        self._ahead = {}
        whole: dict[int, Published] = {}
        for item in (*found.values(), *page.items):
            if item.position <= page.position:
                whole[item.position] = item
            elif len(self._ahead) < AHEAD_MAX:
                self._ahead[item.position] = item
        return Page(sorted(whole.values(), key=_position), page.position, page.head)


_position = operator.attrgetter("position")


def _link(row: Row) -> str:
    return row.digest[:16].hex()


def _first(row: Row, names: Names, store: Readable) -> Name | None:
    """Return the name of a row's first record: a row of published records holds nothing else. Names that are new are learnt on the way."""
    text = row.records
    number = int(text[2 : text.index(",", 2)]) if text != "[]" else 0
    if number == SCHEMA and text != "[]":
        for _, raw in taken_apart(row):
            if raw.number == SCHEMA:
                names.learn_record(bytes(raw.body))
        return None
    if number >= FIRST_NUMBER and number not in names.by_number:  # recorded before this channel came here, after it was opened
        names.learn(store.notes)
    return names.by_number.get(number)
