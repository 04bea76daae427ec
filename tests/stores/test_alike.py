"""Whatever is done to it, a log in a file answers as a log in memory does."""

import hashlib
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import NamedTuple

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some

from happened.core.store import Bare, Row, Wanted
from happened.stores.memory import MemoryStore
from happened.stores.sqlite import SqliteStore
from happened.testing.rows import Fact, Scribe, check_whole, flat, matches, read_by, terms_of

TAGS = ("a=1", "a=2", "b=1", "b=é", "c=\U0001f989")
FLUSHING = 300
"""So many rows in a commit, twice, that a part of the index goes to the file."""


class Append(NamedTuple):
    """Append rows, by one of two handles."""

    handle: int
    facts: Sequence[Fact]
    note: str | None
    repeat: int


class Reopen(NamedTuple):
    """Close a handle, and open another."""

    handle: int


class Read(NamedTuple):
    """Read a part of the log, by one of two handles."""

    handle: int
    after: float
    until: float
    wanted: Sequence[Wanted] | None
    backwards: bool
    rows_max: int


tags = some.lists(some.sampled_from(TAGS), unique=True, max_size=3).map(tuple)
names = some.sampled_from((16, 17, 18))
handles = some.integers(0, 1)
ids = some.none() | some.sampled_from([f"id-{n}" for n in range(20)])
facts = some.builds(Fact, tags, names, some.integers(1, 4), ids, some.text(max_size=5))
appends = some.builds(
    Append, handles, some.lists(facts, max_size=3), some.none() | some.sampled_from(["x", "y", ""]), some.sampled_from([1, 1, 1, FLUSHING])
)
wishes = some.none() | some.lists(some.builds(Wanted, tags, some.lists(names, max_size=2).map(tuple)), max_size=3)
reads = some.builds(Read, handles, some.floats(0, 1), some.floats(0, 1.2), wishes, some.booleans(), some.sampled_from([1, 2, 7, 1000]))
steps = some.lists(appends | appends | reads | some.builds(Reopen, handles), max_size=14)


def opened(path: Path) -> SqliteStore:
    """Open a handle on the file."""
    store = SqliteStore(str(path))
    store.index(read_by("today"), terms_of, lambda _done, _all: None)
    return store


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(steps)
def test_a_file_answers_as_memory_does(steps: Sequence[Append | Reopen | Read]) -> None:
    """Appends by two handles, closing and opening in between: every read has the same rows, every note and id is the same, the chain holds."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as at_end:
        path = Path(folder) / "log.db"
        memory = MemoryStore()
        model = Scribe(memory)
        writers = [Scribe(at_end.enter_context(closing(opened(path)))) for _ in range(2)]

        for step in steps:
            match step:
                case Append(handle, facts, note, repeat):
                    wanted = [*facts] * repeat
                    notes = {f"note/{handle}": note}
                    assert said(writers[handle].append(*wanted, notes=notes)) == said(model.append(*wanted, notes=notes))
                    assert writers[handle].seen == model.seen
                case Reopen(handle):
                    writers[handle].store.close()
                    writers[handle].store = at_end.enter_context(closing(opened(path)))
                case Read(handle, after, until, wanted, backwards, rows_max):
                    head = model.seen
                    store = writers[handle].store
                    ends = int(after * head), int(until * head)
                    found = flat(store.read(*ends, wanted=wanted, backwards=backwards, rows_max=rows_max))
                    expected = flat(memory.read(*ends, wanted=wanted, backwards=backwards, rows_max=rows_max))
                    assert said(exactly(found, wanted)) == said(exactly(expected, wanted))
                    if not backwards:
                        bare = [one for page in store.read_bare(*ends, wanted=wanted, rows_max=rows_max, heads=True) for one in page]
                        assert bare == [bare_of(row) for row in found]

        rows = flat(memory.read())
        check_whole(rows)
        for writer in writers:
            assert said(flat(writer.store.read())) == said(rows)
            assert writer.store.notes("") == memory.notes("")
            for used in {terms_of(row).id or "" for row in rows} - {""}:
                assert set(memory.find_id(used)) <= set(writer.store.find_id(used))


def exactly(rows: Sequence[Row], wanted: Sequence[Wanted] | None) -> list[Row]:
    """Return the rows that were asked for: a store may hand out more."""
    return [row for row in rows if wanted is None or matches(row, wanted)]


def bare_of(row: Row) -> Bare:
    return row.position + (row.input is not None), row.last + 1, row.records, row.position, row.at, row.head


def said(rows: Sequence[Row]) -> str:
    """Return one digest of positions and digests: showing where thousands of rows differ would take minutes."""
    return hashlib.sha256(b"".join(b"%d %b" % (row.position, row.digest) for row in rows)).hexdigest()
