"""Replicas: copies of another system's shared states, each in its own table, with a known position and a known age.

What arrives is taken in by rules that need no order: a change that is not newer than what is stored is passed over, and what was deleted keeps its version,
so no late change brings it back. A change whose predecessor is missing makes its key suspect. Rows, position and digest are one transaction, guarded by the
owner's epoch.

A beacon is compared with the copy's own digest, at the beacon's position; where several came at once it is the last one. Equal is a proof, and takes
suspicion from every key. Where they differ, all that came since the last proof is read from the channel again, and taken in by the same rules. If that does
not help, the copy has diverged: it is seen, and a new one is built beside it, from the beginning. So is one where the origin begins a new generation; the old
one answers until the new one is proven.

While more is known to come than a page holds, pages are taken in for a while and nothing of it is looked at, so that of a key that changes often only the last
change is decoded, hashed and written.
"""

import contextlib
import struct
import threading
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from hashlib import blake2b
from typing import Any, Generic, NamedTuple, Protocol, TypeVar  # Any: msgspec decodes any class

import msgspec

from happened.core.errors import Broken, Diverged, Error, Invalid, Late, StoreFailed
from happened.core.state import Key, State, fold_of
from happened.core.tags import hints_of
from happened.core.waiting import within
from happened.log.fingerprint import fingerprint_of
from happened.log.lease import Leases
from happened.log.log import Log, place_of
from happened.log.receipt import Receipt
from happened.log.row import encode
from happened.log.worker import IDLE_SECONDS, Worker
from happened.shelf.connection import UNSTORABLE, Connection, Dialect, Place, Unstorable
from happened.shelf.dialect import SQLITE, quoted
from happened.shelf.tables import POSITION, Table
from happened.transfer.channel import BEACON, SHARE, Channel, Inflow, Origin, Page, Published
from happened.transfer.channel import Standing as ShareStanding
from happened.transfer.digest import Digest, Hashes, hashing
from happened.transfer.share import PUT, Beacon, Change
from happened.transfer.subscription import Seen, check_end, check_origin

S = TypeVar("S", bound=State)

A = TypeVar("A", bound="AsOf")

DDL = (
    """create table if not exists _replica(
    made integer primary key, name text not null, shape text not null, generation integer not null, log text not null, epoch integer not null,
    begins integer not null, position integer not null, taken integer not null, digest text not null, as_of integer not null, current_at integer not null,
    proven integer not null, equal_as_of integer not null, count integer not null, sums text not null, owner integer not null,
    ready integer not null, diverged text)""",
)

SEAL_BYTES = 8
KEY, HASHES = "_key", "_hashes"
"""Columns beside the fields: the key as it was published, and the hashes of the row."""

ROWS_IN_MEMORY_MAX = 300_000
"""Rows whose versions and hashes are kept in memory between pages; about 0.4 kB each."""
WAITING_MAX, TOGETHER_SECONDS = 50_000, 0.5
"""While more is known to come, so many keys are taken in and not looked at, for so long: of a key that changes often only the last change is."""
SIGN_US = 1_000_000
"""How often a copy that is current says so to other processes, in microseconds."""
POLL_SECONDS = 0.005
"""How often to look while something is known to be on its way."""
ANEW_SECONDS = 1.0
"""How long to wait before a copy is built anew that replaces one that could never be proven."""
FRESH_SECONDS = 1.0
"""What is younger is called fresh."""
NEVER = -1

_decode_change = msgspec.json.Decoder(Change).decode
_decode_beacon = msgspec.json.Decoder(Beacon).decode
_pack = msgspec.msgpack.Encoder().encode


class Stored(msgspec.Struct, frozen=True, gc=False):
    """What is known of a key: the version, and the hashes of its row; `None` where it is gone."""

    version: int
    hashes: Hashes | None


class Standing(msgspec.Struct, frozen=True):
    """How a copy stands, as the file says: what every process sees."""

    made: int
    generation: int
    log: str
    epoch: int
    begins: int
    """Its generation's records lie after this position of the channel."""
    position: int
    """Up to where the channel was read."""
    taken: int
    """The last record that was taken in."""
    digest: str
    """The link of the origin's chain there."""
    as_of: int
    """The origin's position that the copy is of."""
    current_at: int
    """When it was known last that there was nothing else, in microseconds since 1970."""
    proven: int
    """The channel's position at the last proof."""
    equal_as_of: int
    """The origin's position of the last proof; -1: there was none."""
    count: int
    sums: str
    owner: int
    ready: bool
    diverged: str | None


COLUMNS = ", ".join(Standing.__struct_fields__)


class Found(NamedTuple):
    """What a copy has of a key. The version is the position of the origin's event that last changed it; 0: it never was."""

    state: Any
    version: int
    position: int
    age: timedelta


class Listed(NamedTuple, Generic[S]):
    """Rows of a copy, in the order of their keys."""

    rows: list[S]
    position: int
    age: timedelta


class AsOf(Protocol):
    """What a copy answers."""

    @property
    def position(self) -> int:
        """As of which position of the origin."""
        ...


class Copy(Generic[S]):
    """One table of a replica, of one generation, and what of it is in memory."""

    def __init__(self, state: type[S], name: str, standing: Standing, dialect: Dialect = SQLITE) -> None:
        self.standing = standing
        self.table = Table(state, _tag(standing.made), name=name, beside=(KEY, HASHES), dialect=dialect)
        self._name = name
        self._gone_table = quoted(dialect.name(f"_gone_{name}_{_tag(standing.made)}"))
        self.fold = fold_of(state)
        self._fields = [field.encode_name for field in msgspec.structs.fields(state) if not field.required]
        self._hashes = hashing(self._fields)
        self._beside = struct.Struct(f"<{SEAL_BYTES}s{len(self._fields) + 1}Q")
        self._decode: Any = msgspec.json.Decoder(state).decode
        hints = hints_of(state)
        key: Any = tuple
        self._decode_key: Any = msgspec.json.Decoder(key[tuple([hints[field] for field in self.fold.key])]).decode
        self._signed_columns = [place for place, column in enumerate(self.table.columns) if column.type in (bool, float)]
        self.digest = Digest(self._fields)
        self._known: dict[bytes, Stored | None] = {}
        self._complete = False
        """A key that is not in memory is not in the table."""
        self._waiting: dict[bytes, Change] = {}
        """The newest change of each key that was taken in and not looked at yet: of many that come at once only the last of a key is."""
        self.told: tuple[Beacon, Published] | None = None
        """The last beacon that came, and was not looked at yet."""
        self._rows: dict[bytes, tuple[Any, ...] | None] = {}
        """What is to be written: rows, `None` where it goes."""
        self._gone: dict[bytes, int] = {}
        self.suspect: set[bytes] = set()
        self.passed_over = 0
        columns = ", ".join(quoted(name) for name in (POSITION, HASHES))
        where = " and ".join(f"{quoted(field)} = ?" for field in self.table.key) or "1 = 1"
        self._find = f"select {columns} from {quoted(self.table.name)} where {where}"  # noqa: S608 - names are quoted
        self._checked = False

    def create(self, connection: Connection) -> None:
        """Make the tables, empty."""
        for statement in (*dropping(self._name, self.standing.made, self.table.dialect), *self.table.ddl()):
            connection.execute(statement)
        gone = f"create table {self._gone_table}(key blob primary key, version integer not null) without rowid"
        connection.execute(self.table.dialect.ddl(gone))
        self._complete = True

    def load(self, connection: Connection) -> None:
        """Read all rows, and hold them against what is noted of them. `Broken` where a row was changed by somebody else, or one is missing."""
        columns = ", ".join(quoted(name) for name in (*(column.name for column in self.table.columns), POSITION, KEY, HASHES))
        everything = f"select {columns} from {quoted(self.table.name)}"  # noqa: S608 - names are quoted
        digest = Digest(self._fields)
        for row in connection.execute(everything):
            *values, key, packed = row
            seal, *hashes = self._beside.unpack(packed)
            if seal != self._seal(tuple(values)):
                raise Broken(f"the row {key!r} was changed by somebody else", key=repr(key))
            digest.change(None, tuple(hashes))
            if len(self._known) < ROWS_IN_MEMORY_MAX:
                self._known[key] = Stored(values[-1], tuple(hashes))
        for key, version in connection.execute(f"select key, version from {self._gone_table}"):  # noqa: S608 - quoted
            if len(self._known) < ROWS_IN_MEMORY_MAX:
                self._known.setdefault(key, Stored(version, None))  # what came again after it was deleted is there
        self._complete = len(self._known) < ROWS_IN_MEMORY_MAX
        if (digest.count, digest.kept()) != (self.standing.count, self.standing.sums):
            raise Broken(f"the table holds {digest.count} rows, and not those that are noted: {self.standing.count}", count=digest.count)
        self.digest = digest

    @property
    def dirty(self) -> bool:
        """Whether anything is to be written."""
        return bool(self._rows)

    def gone_at(self, connection: Connection, key: Key) -> int:
        """Return the version at which a key was deleted, 0 where it was not."""
        found = connection.execute(f"select version from {self._gone_table} where key = ?", (encode(key),)).fetchone()  # noqa: S608 - quoted
        return found[0] if found is not None else 0

    @property
    def waits(self) -> int:
        """How much was taken in and not looked at yet: the last change of so many keys, and a beacon."""
        return len(self._waiting) + (self.told is not None)

    def take(self, connection: Connection, change: Change) -> None:
        """Let a change have happened, in memory. Its state is looked at with `settle`, if no other one of its key comes before."""
        key = bytes(change.key)
        before = self._waiting.get(key)
        version = before.version if before is not None else self._version_of(connection, key)
        if change.version <= version:
            self.passed_over += 1
            return
        if change.previous != version:
            self.suspect.add(key)
        self._waiting[key] = change

    def reached(self, item: Published | None) -> None:
        """Note the last that was taken in, if it lies behind what was before."""
        if item is not None and item.position > self.standing.taken:
            self.standing = msgspec.structs.replace(self.standing, taken=item.position, digest=item.digest)

    def _version_of(self, connection: Connection, key: bytes) -> int:
        before = self._known[key] if key in self._known else self._looked_up(connection, key)
        return before.version if before is not None else 0

    def settle(self) -> None:
        """Make rows, and the digest, of what was taken in. `Invalid` where this class can't hold it."""
        for key, change in self._waiting.items():
            before = self._known[key]
            hashes: Hashes | None = None
            if change.op == PUT:
                body = bytes(change.fields)
                try:
                    hashes = self._hashes(key, change.version, body)
                    state: S = self._decode(body)
                    row = self.table.encode(state, change.version)
                except (msgspec.MsgspecError, Invalid) as error:
                    raise self._refused(key, error) from error
                if not self._checked:
                    self._check_key(key, state)
                self._rows[key] = (*row, key, self._beside.pack(self._seal(row), *hashes))
                self._gone.pop(key, None)
            else:
                self._rows[key] = None
                self._gone[key] = change.version
            self.digest.change(before.hashes if before is not None else None, hashes)
            self._known[key] = Stored(change.version, hashes)
        self._waiting = {}

    def write(self, connection: Connection) -> None:
        """Write what has changed, in the open transaction. `Invalid`, with its key, for what the database can't hold: a copy is whole, or it is none."""
        rows = [row for row in self._rows.values() if row is not None]
        for place, error in self.table.put(connection, rows):
            raise self._refused(rows[place][-2], error) from error
        if self._gone:
            gone = [key for key, row in self._rows.items() if row is None]
            self.table.dialect.delete_many(connection, self.table, [self.table.encode_key(self._decode_key(key)) for key in gone])
            try:
                connection.executemany(
                    f"insert into {self._gone_table}(key, version) values(?, ?) on conflict (key) do update set version = excluded.version",
                    list(self._gone.items()),
                )
            except UNSTORABLE as error:  # bytes are refused for their length alone
                raise self._refused(max(self._gone, key=len), error) from error

    def written(self) -> None:
        """Take what was written for committed, and let go of versions, if they are many."""
        self._rows, self._gone = {}, {}
        if len(self._known) > ROWS_IN_MEMORY_MAX:
            self._known = {}
            self._complete = False

    def _looked_up(self, connection: Connection, key: bytes) -> Stored | None:
        found: Stored | None = None
        if not self._complete:
            row = None
            with contextlib.suppress(Unstorable):  # a key that can't be asked for has no row
                row = connection.execute(self._find, self.table.encode_key(self._decode_key(key))).fetchone()
            if row is not None:
                found = Stored(row[0], self._beside.unpack(row[1])[1:])
            else:
                gone = connection.execute(f"select version from {self._gone_table} where key = ?", (key,)).fetchone()  # noqa: S608 - quoted
                found = Stored(gone[0], None) if gone is not None else None
        self._known[key] = found
        return found

    def _refused(self, key: bytes, error: Exception) -> Invalid:
        shown = self.table.dialect.listed(key.decode())
        return Invalid(f"`{self.fold.state.__name__}` can't hold what was published of {shown}: {error}")

    def _seal(self, row: Sequence[Any]) -> bytes:
        """Return a hash of a row as the database gives it back."""
        if self._signed_columns:
            values = list(row)
            for place in self._signed_columns:
                values[place] = values[place] if values[place] is None else values[place] + 0  # `True` is 1 there, and -0.0 is 0.0
            row = tuple(values)
        return blake2b(_pack(row)).digest()[:SEAL_BYTES]

    def _check_key(self, key: bytes, state: S) -> None:
        own = encode([getattr(state, field) for field in self.fold.key])
        if msgspec.json.decode(own) != msgspec.json.decode(key):
            raise Invalid(
                f"the key of `{self.fold.state.__name__}` is ({', '.join(self.fold.key)}), and the origin's is another: {key.decode()}: name the same "
                "fields, in the same order",
                state=self.fold.state.__name__,
            )
        self._checked = True


class Replicating(Generic[S]):
    """One replica at work."""

    def __init__(self, log: Log, leases: Leases, system: str, state: type[S], channel: Channel, file: Place) -> None:
        self.fold = fold_of(state)
        self.state = state
        self.system = system
        self.name = name_of_replica(system, state)
        self.channel = channel
        self.file = file
        self.moved = threading.Condition()
        self._log = log
        self._leases = leases
        self._shape = fingerprint_of(state).digest
        self._place = file.place or leases.owner
        """Whose copy it is: a file is shared by processes, memory is not."""
        self.worker = Worker(log, leases, _worker(self.name, self._shape, self._place), begin=self._begun, step=self._step)
        self._answering: Copy[S] | None = None
        self._inflow = Inflow(channel)
        self._copy: Copy[S] | None = None
        """What arrives is taken into this one."""
        self._noted: Standing | None = None
        """How that one stands in the file."""
        self._epoch = 0
        self._head = 0
        self._noted_at = 0
        self._settled_at = 0.0
        """When the copy was last as it is to be written, by the monotonic clock."""
        self.healed = self.rebuilt = 0
        """How often reading again has made the copy equal, and how often it was built anew since that did not help."""

    def standing(self, connection: Connection, *, ready: bool) -> Standing | None:
        """Return how the newest copy stands, or the newest that can be answered from; `None` where there is none."""
        which = "and ready = 1" if ready else ""
        found = connection.execute(
            f"select {COLUMNS} from _replica where name = ? and shape = ? {which} order by made desc limit 1",  # noqa: S608 - constants
            (self.name, self._shape),
        ).fetchone()
        return Standing(*found) if found is not None else None

    # --- the worker

    def _begun(self, epoch: int) -> None:
        self._epoch = epoch
        self._settled_at = time.monotonic()
        self._inflow = Inflow(self.channel)
        self._copy = None
        damaged: Broken | None = None
        with self.file.transaction() as connection:
            found = self.standing(connection, ready=False)
            if found is None:
                return
            if found.owner > epoch and self._leases.holder(self.worker.name) != self._leases.owner:  # else it is of a file that was copied
                raise StoreFailed(f"the replica `{self.name}` is another process's by now", replica=self.name)
            connection.execute("update _replica set owner = ? where name = ? and shape = ?", (epoch, self.name, self._shape))
            found = msgspec.structs.replace(found, owner=epoch)
            copy = Copy(self.state, self.name, found, self.file.dialect)
            try:
                copy.load(connection)
            except Broken as error:
                damaged = error
        self._noted = found
        self._copy = copy if damaged is None else self._built_anew(copy, str(damaged))
        self._check_origin(self._copy)

    def _check_origin(self, copy: Copy[S], *, deep: bool = True) -> bool:
        """Hold a copy against its origin; say whether that was adopted since, and the copy goes on from there, or another is built: it holds what is no more."""
        standing = copy.standing
        origin = self.channel.origin()
        if origin.log == standing.log and standing.epoch < origin.epoch:
            last = origin.last_known(standing.epoch)
            self._inflow = Inflow(self.channel)  # what it holds back is of what is no more
            if standing.taken > last:
                self._copy = self._built_anew(copy, f"it holds what the origin has lost after position {last}", origin)
                return True
            check_origin(self.channel, self.system, Seen(standing.log, standing.epoch, standing.taken, standing.digest))
            back = {field: min(getattr(standing, field), last) for field in ("position", "as_of", "proven", "equal_as_of")}
            copy.standing = msgspec.structs.replace(standing, epoch=origin.epoch, **back)
            self._write(copy)
            return True
        check_origin(self.channel, self.system, Seen(standing.log, standing.epoch, standing.taken, standing.digest), deep=deep)
        return False

    def _step(self) -> None:
        copy = self._copy
        if copy is None:
            self._copy = copy = self._made(self.channel.origin(), self.channel.standing(self.fold.name), 0, None)
        standing = copy.standing
        current = standing.as_of >= self._head
        known: ShareStanding | None = None
        told_by = 0
        if not current:
            known = self.channel.standing(self.fold.name)
            told_by = self.channel.head()  # all that it speaks of lies before this; a page may be of a moment ago
        page = self._inflow.read(standing.position, IDLE_SECONDS if current else POLL_SECONDS)
        self._head = page.head
        if self._check_origin(copy, deep=bool(page.items)):
            return
        check_end(self.channel, self.system, page, standing.position)
        ours = [item for item in page.items if item.name == self.fold.name and item.what in (SHARE, BEACON)]
        more = page.position < page.head and copy.waits < WAITING_MAX and time.monotonic() < self._settled_at + TOGETHER_SECONDS
        if ours or (copy.waits and not more):
            with self.file.reader() as reader:
                try:
                    copy = self._taken(reader, copy, ours, more=more)  # what fails is begun anew, from what is written
                except Invalid:
                    newest = self._of_newest()
                    if newest is None:
                        raise
                    copy = newest
            if copy is not self._copy:  # one is built anew, from further back
                self._copy = copy
                return
        if more:
            copy.standing = msgspec.structs.replace(copy.standing, position=page.position)
            return
        self._go_on(copy, page, known if page.position >= told_by else None)

    def _go_on(self, copy: Copy[S], page: Page, known: ShareStanding | None) -> None:
        """Note how far the copy is now, if that is worth it. The copy has all that `known` speaks of."""
        now = self._log.source.now_us()
        standing = copy.standing
        as_of = standing.as_of
        if known is not None and known.generation == standing.generation:
            as_of = max(as_of, known.position)
        current_at = now
        if as_of < page.head:  # it was of all that there was until the next was recorded
            following = self.channel.recorded_at(as_of + 1)
            current_at = max(standing.current_at, following[0] if following is not None else 0)
        copy.standing = msgspec.structs.replace(standing, position=page.position, as_of=as_of, current_at=current_at)
        if standing.equal_as_of != NEVER and standing.taken > standing.proven:
            return  # the page ends before the beacon of its last changes: who asks would see rows that are newer than the position they are said to be of
        self._settled_at = time.monotonic()
        noted = self._noted
        if (
            copy.dirty
            or noted is None
            or noted.as_of != as_of
            or noted.equal_as_of != standing.equal_as_of
            or now - self._noted_at > SIGN_US
        ):
            self._write(copy)
            self._noted_at = now

    def _taken(self, reader: Connection, copy: Copy[S], items: Sequence[Published], *, more: bool) -> Copy[S]:
        """Take in what arrived, in order; return the copy to go on with, which is another one where this can't be proven any more.

        It is proven by the last beacon of its generation that does not come late. Where `more` is known to come it is not yet, and what was taken in is not
        looked at, unless its generation ends.
        """
        beacons = {item.position: _decode_beacon(item.body) for item in items if item.what == BEACON}
        ends = {beacon.generation: at for at, beacon in sorted(beacons.items()) if at >= copy.standing.taken}
        if copy.told is not None and not more and copy.standing.generation not in ends and not self._proven(reader, copy, *copy.told):
            return self._built_anew(copy, _differs(copy.told[0]))
        came: Published | None = None
        for item in items:
            beacon = beacons.get(item.position)
            told = beacon if beacon is not None else _decode_change(item.body)
            if told.generation > copy.standing.generation:
                copy.reached(came)
                if more and copy.told is not None and not self._proven(reader, copy, *copy.told):
                    return self._built_anew(copy, _differs(copy.told[0]))
                copy = self._of_generation(copy, told.generation, item)
            if told.generation == copy.standing.generation:
                if isinstance(told, Change):
                    copy.take(reader, told)
                elif more:
                    copy.told = (told, item) if item.position >= copy.standing.taken else copy.told
                elif item.position == ends.get(told.generation) and not self._proven(reader, copy, told, item):
                    return self._built_anew(copy, _differs(told))
            came = item
        copy.reached(came)
        if not more:
            copy.told = None
            copy.settle()
        return copy

    def _proven(self, reader: Connection, copy: Copy[S], beacon: Beacon, item: Published) -> bool:
        """Compare a copy with a beacon at its position; where they differ, read again what came since the last proof, and compare once more."""
        if item.position < copy.standing.taken:
            return True  # it comes late, or again: what is not as of one position is not compared
        missing = [field for field in copy.digest.fields if field not in beacon.digests]
        if missing:
            raise Invalid(
                f"`{self.system}` shares no field `{missing[0]}` of `{self.fold.name}`; it shares {', '.join(sorted(filter(None, beacon.digests)))}",
                replica=self.name,
                fields=missing,
            )
        copy.settle()
        if not copy.digest.is_equal(beacon.count, beacon.digests):
            self._take_again(reader, copy, item)
            copy.settle()
            if not copy.digest.is_equal(beacon.count, beacon.digests):
                return False
            self.healed += 1
        copy.suspect.clear()
        copy.standing = msgspec.structs.replace(
            copy.standing,
            as_of=max(copy.standing.as_of, beacon.position),
            proven=item.position,
            equal_as_of=beacon.position,
        )
        return True

    def _take_again(self, reader: Connection, copy: Copy[S], until: Published) -> None:
        position = copy.standing.proven
        inflow = Inflow(self.channel)
        while position < until.position:
            page = inflow.read(position, 0)
            for item in page.items:
                if item.what == SHARE and item.name == self.fold.name and item.position <= until.position:
                    change = _decode_change(item.body)
                    if change.generation == copy.standing.generation:
                        copy.take(reader, change)
            if page.position <= position:
                return
            position = page.position

    def _of_generation(self, copy: Copy[S], generation: int, item: Published) -> Copy[S]:
        """Return the copy of a generation that begins: the first that is heard of is this one's own."""
        begins = max(copy.standing.begins, item.position - 1)
        if copy.standing.generation == 0:
            copy.standing = msgspec.structs.replace(copy.standing, generation=generation)
            return copy
        copy.standing = msgspec.structs.replace(copy.standing, position=begins)
        self._write(copy)
        origin = Origin(copy.standing.log, copy.standing.epoch)
        self._copy = made = self._made(origin, ShareStanding(generation, begins, 0), generation, None)
        return made

    def _of_newest(self) -> Copy[S] | None:
        """Return a copy of the newest generation, in the place of one that this class can't hold; `None` where there is no newer one."""
        assert self._copy is not None, "something was taken into it"
        standing, known = self._copy.standing, self.channel.standing(self.fold.name)
        if known is None or known.generation <= standing.generation:
            return None
        return self._made(Origin(standing.log, standing.epoch), known, known.generation, None)

    def _built_anew(self, copy: Copy[S], why: str, origin: Origin | None = None) -> Copy[S]:
        """Note that a copy has diverged, and return a new one of the same generation, from its beginning. The old one answers until that is proven, and as new."""
        standing = copy.standing
        if not standing.ready:
            self.worker.rest(ANEW_SECONDS)  # neither could this one be proven: not in a hurry
        self._log.engine.sample(self.worker.name, "diverged", 0, why)
        known = self.channel.standing(self.fold.name)
        if origin is not None:  # another history: the share may be in another generation there
            made = self._made(origin, known, 0, why)
        elif known is not None and known.generation > standing.generation:  # what there was of the older one may have been erased
            made = self._made(Origin(standing.log, standing.epoch), known, known.generation, why)
        else:
            made = self._made(
                Origin(standing.log, standing.epoch), ShareStanding(standing.generation, standing.begins, 0), standing.generation, why
            )
        self.rebuilt += 1  # from here on the old one is known to have diverged
        return made

    def _made(self, origin: Origin, known: ShareStanding | None, generation: int, diverged: str | None) -> Copy[S]:
        """Make an empty copy; the one that answers is told why, if it is no more to be trusted. Those that nobody answers from go."""
        with self.file.transaction() as connection:
            if diverged is not None:
                connection.execute("update _replica set diverged = ? where name = ? and shape = ?", (diverged, self.name, self._shape))
            [(latest,)] = connection.execute("select coalesce(max(made), 0) from _replica")
            begins = known.begins if known is not None else 0
            standing = Standing(
                latest + 1,
                generation,
                origin.log,
                origin.epoch,
                begins,
                begins,
                0,
                "",
                0,
                0,
                begins,
                NEVER,
                0,
                "[]",
                self._epoch,
                ready=False,
                diverged=None,
            )
            copy = Copy(self.state, self.name, standing, self.file.dialect)
            copy.standing = standing = msgspec.structs.replace(standing, sums=copy.digest.kept())
            copy.create(connection)
            marks = ", ".join("?" * (len(Standing.__struct_fields__) + 2))
            connection.execute(
                f"insert into _replica(name, shape, {COLUMNS}) values({marks})",
                (self.name, self._shape, *msgspec.structs.astuple(standing)),
            )
            self._sweep(connection, standing)
        self._noted = standing
        return copy

    def _write(self, copy: Copy[S]) -> None:
        """Write rows, digest and position in one transaction, if this process still owns the copy.

        It is answered from since it is proven, and as new as the one that is answered from until then: who has read that reads nothing older.
        """
        copy.settle()
        noted = self._noted
        assert noted is not None, "a copy is noted when it is made"
        assert noted.made == copy.standing.made, "what is noted is of this copy"
        whole = noted.ready or (copy.standing.equal_as_of != NEVER and self._is_as_new(copy.standing))
        standing = msgspec.structs.replace(copy.standing, count=copy.digest.count, sums=copy.digest.kept(), ready=whole)
        with self.file.transaction() as connection:
            copy.write(connection)
            values = msgspec.structs.asdict(standing)
            changes = ", ".join(f"{name} = ?" for name in values)
            done = connection.execute(
                f"update _replica set {changes} where made = ? and position = ? and owner = ?",  # noqa: S608 - constants
                (*values.values(), standing.made, noted.position, self._epoch),
            ).rowcount
            if done != 1:
                raise StoreFailed(f"the replica `{self.name}` is followed by another process now", replica=self.name)
            if whole and not noted.ready:
                for statement in copy.table.view_ddl():
                    connection.execute(statement)
                self._sweep(connection, standing)
        copy.written()
        copy.standing = self._noted = standing
        with self.moved:
            self.moved.notify_all()

    def _is_as_new(self, standing: Standing) -> bool:
        """Say whether a copy has come as far as the one that is answered from, or as far as that shares a history with it."""
        with self.file.reader() as reader:
            answering = self.standing(reader, ready=True)
        if answering is None or answering.log != standing.log:
            return True
        shared = answering.as_of if answering.epoch == standing.epoch else self.channel.origin().last_known(answering.epoch)
        return standing.as_of >= min(answering.as_of, shared)

    def _sweep(self, connection: Connection, standing: Standing) -> None:
        """Drop the copies that nobody needs beside this one: it, and until it can be answered from the newest that can. Other code's, when nobody runs it."""
        answering = self.standing(connection, ready=True)
        kept = {standing.made, answering.made if answering is not None else 0}
        for made, shape in connection.execute("select made, shape from _replica where name = ?", (self.name,)).fetchall():
            if shape == self._shape:
                needed = made in kept
            else:
                needed = (
                    made > standing.made or not standing.ready or self._leases.holder(_worker(self.name, shape, self._place)) is not None
                )
            if not needed:
                for statement in dropping(self.name, made, self.file.dialect):
                    connection.execute(statement)
                connection.execute("delete from _replica where made = ?", (made,))

    # --- asked by any process

    def answer(self, ask: Callable[[], A], since: Receipt | str | int | None, wait_seconds_max: float) -> A:
        """Wait as `wait` does, and have the copy answer; again, where one that is not as new has taken its place in between."""
        deadline = time.monotonic() + within(wait_seconds_max)
        while True:
            wanted = self.wait(since, max(0.0, deadline - time.monotonic()))
            found = ask()
            if found.position >= wanted:
                return found

    def wait(self, since: Receipt | str | int | None, wait_seconds_max: float) -> int:
        """Wait until the copy can be answered from, and is as of a position of the origin at least; return that. `Late` if it is not in time."""
        deadline = time.monotonic() + within(wait_seconds_max)
        while True:
            with self.file.reader() as reader:
                standing = self.standing(reader, ready=True)
            wanted = self._position(since, standing)
            if standing is not None and wanted is not None and standing.as_of >= wanted:
                return wanted
            left = deadline - time.monotonic()
            if left <= 0:
                raise self._late(standing, wanted or 0)
            with self.moved:
                self.moved.wait(min(POLL_SECONDS, left))

    def get(self, key: Key) -> Found:
        """Return what the copy has of a key, with its version, its position, and its age."""

        def look(reader: Connection) -> tuple[S | None, int, Standing]:
            standing = self.standing(reader, ready=True)
            if standing is None:
                raise self._late(None, 0)
            copy = self._answered_from(standing)
            row = reader.execute(copy.table.get, copy.table.encode_key(key)).fetchone()
            version = row[-1] if row is not None else copy.gone_at(reader, key)
            return copy.table.decode(row) if row is not None else None, version, standing

        state, version, standing = self.file.asked(look)
        return Found(state, version, standing.as_of, self._age(standing))

    def rows(self, limit: int) -> Listed[S]:
        """Return rows in the order of their keys, with position and age."""

        def look(reader: Connection) -> tuple[list[S], Standing]:
            standing = self.standing(reader, ready=True)
            if standing is None:
                raise self._late(None, 0)
            table = self._answered_from(standing).table
            order = ", ".join(table.dialect.order(quoted(name), down=False) for name in table.key)
            return [table.decode(row) for row in reader.execute(table.select(order=order, limit=True), (limit,))], standing

        found, standing = self.file.asked(look)
        return Listed(found, standing.as_of, self._age(standing))

    def statistics(self) -> dict[str, Any]:
        """Return where the copy is, how old, what is proven of it, and what keeps it from going on."""
        with self.file.reader() as reader:
            standing, newest = self.standing(reader, ready=True), self.standing(reader, ready=False)
        head, unreachable = self._reached()
        age = self._age(standing) if standing is not None else None
        shown = standing or newest
        copy = self._copy
        return {
            "replica": self.fold.name,
            "origin": self.system,
            "state": self._state(standing, age, unreachable),
            "position": standing.as_of if standing is not None else 0,
            "lag": max(0, head - standing.as_of) if head is not None and standing is not None else None,
            "age_seconds": age.total_seconds() if age is not None else None,
            "count": shown.count if shown is not None else 0,
            "generation": shown.generation if shown is not None else None,
            "equal_as_of": standing.equal_as_of if standing is not None else None,
            "diverged": standing.diverged if standing is not None else None,
            "suspect": len(copy.suspect) if copy is not None else 0,
            "passed_over": copy.passed_over if copy is not None else 0,
            "healed": self.healed,
            "rebuilt": self.rebuilt,
            "failure": self.worker.failure or unreachable,
        }

    def _answered_from(self, standing: Standing) -> Copy[S]:
        copy = self._answering
        if copy is None or copy.standing.made != standing.made:
            self._answering = copy = Copy(self.state, self.name, standing, self.file.dialect)
        return copy

    def _state(self, standing: Standing | None, age: timedelta | None, unreachable: str | None) -> str:
        if self._leads_elsewhere or (standing is not None and standing.diverged is not None):
            return "diverged"
        if unreachable is not None:
            return "disconnected"
        if age is None:
            return "bootstrapping"
        return "fresh" if age.total_seconds() <= FRESH_SECONDS else "stale"

    @property
    def _leads_elsewhere(self) -> bool:
        """Whether the channel leads to another history than the one that this is a copy of, as far as whoever follows it has seen."""
        return (self.worker.failure or "").startswith(Diverged.__name__)

    def _reached(self) -> tuple[int | None, str | None]:
        """Return the origin's head, and why it is not known."""
        try:
            return self.channel.head(), None
        except Error as error:
            return None, f"{type(error).__name__}: {error}"

    def _age(self, standing: Standing) -> timedelta:
        """Return 0 where the origin has nothing that the copy is not of; else how long it has had something, or how long nothing was heard of it: what another has is nothing of it."""
        now = self._log.source.now_us()
        since = standing.current_at
        try:
            head = self.channel.head()
            if head >= standing.taken and not self._leads_elsewhere:
                if standing.as_of >= head:
                    return timedelta(0)
                following = self.channel.recorded_at(standing.as_of + 1)
                since = following[0] if following is not None else since
        except Error:  # not reachable: it may have had something since it was heard of last
            pass
        return timedelta(microseconds=max(0, now - since))

    def _position(self, since: Receipt | str | int | None, standing: Standing | None) -> int | None:
        """Return the position of the origin that is asked for; `None` where that is of a later epoch than the copy. `Diverged` for what the origin does not have."""
        if since is None:
            return 0
        receipt = Receipt.parse(since) if isinstance(since, str) else since
        if not isinstance(receipt, Receipt):
            return place_of(receipt)
        if standing is None or (receipt.log, receipt.epoch) == (standing.log, standing.epoch):
            return receipt.position
        origin = self.channel.origin() if receipt.log == standing.log else None  # it may have been adopted since
        last = origin.last_known(receipt.epoch) if origin is not None else NEVER
        if last == NEVER:
            raise Diverged(
                f"the receipt is of another log than the one that `{self.name}` is a copy of", receipt=str(receipt), log=standing.log
            )
        if receipt.position > last:
            raise Diverged(
                f"the receipt is of epoch {receipt.epoch}, and the log of `{self.system}` was adopted since, without what it speaks of",
                receipt=str(receipt),
                position=receipt.position,
            )
        return receipt.position if receipt.epoch < standing.epoch else None

    def _late(self, standing: Standing | None, wanted: int) -> Late:
        why = self.worker.failure or self._reached()[1] or self._unshared() or "it has not come that far yet"
        what = (
            f"is at position {standing.as_of:,} of `{self.system}`, and {wanted:,} was asked for"
            if standing is not None
            else "has no copy yet"
        )
        return Late(
            f"the replica `{self.name}` {what}: {why}",
            replica=self.name,
            position=standing.as_of if standing is not None else 0,
            since=wanted,
        )

    def _unshared(self) -> str | None:
        try:
            known = self.channel.standing(self.fold.name)
        except Error as error:
            return str(error)
        return None if known is not None else f"`{self.system}` has not shared a state called `{self.fold.name}` so far"


def name_of_replica(system: str, state: type[State]) -> str:
    """Return what a replica is called: after the system that it is of."""
    return f"{system}/{fold_of(state).name}"


def _differs(beacon: Beacon) -> str:
    return f"it differs from the origin as of position {beacon.position}"


def dropping(name: str, made: int, dialect: Dialect) -> list[str]:
    """Return the statements that remove the tables of a copy."""
    return [dialect.dropping(dialect.name(f"{before}_{name}_{_tag(made)}")) for before in ("", "_gone")]


def _tag(made: int) -> str:
    """Return what the tables of a copy end with: no view's do."""
    return f"r{made:07d}"


def _worker(name: str, shape: str, place: str) -> str:
    return f"replica/{name}/{shape[:8]}/{place}"
