"""Runs: whatever is added, written, merged and read anew, the index finds what a plain dict holds."""

import sqlite3
from collections import defaultdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from happened.core.store import Row, Terms
from happened.stores import runs
from happened.stores.runs import IDS, TAGS, Runs
from tests.databases import in_memory

WORDS = [f"account\x1f{number}" for number in range(6)]
ROW = st.tuples(st.just("add"), st.lists(st.sampled_from(WORDS), max_size=3, unique=True), st.booleans(), st.integers(1, 3))
LOOK = st.tuples(st.just("find"), st.lists(st.sampled_from(WORDS), min_size=1, max_size=1), st.just(False), st.just(0))
CHANGES = [
    *("flush next", "flush all", "flush and roll back", "reopen", "let another flush"),
    *("let the one behind take in", "let the one behind flush", "let the one behind flush all"),
]
CHANGE = st.tuples(st.sampled_from(CHANGES), st.just([""]), st.just(False), st.just(0))


def emptied() -> sqlite3.Connection:
    """Return a connection to a shelf that has nothing yet."""
    connection = in_memory()
    for statement in runs.DDL:
        connection.execute(statement)
    return connection


def add(index: Runs, position: int, last: int, tags: list[str], id: str | None) -> None:
    """Let an index take in one row."""
    row = Row(position, last + 1 - position, 0, "", None, "", b"", b"")
    index.add([row], [Terms(tags, id, [])])


class Indexed:
    """An index beside the rows that it is of, and the dict that it must equal."""

    def __init__(self) -> None:
        self.connection = emptied()
        self.runs = Runs()
        self.behind = Runs()
        """That of another process, which takes in what there is now and then: who records nothing has no need to."""
        self.rows: list[tuple[int, int, list[str], str | None]] = []
        self.expected: dict[tuple[int, str], list[int]] = defaultdict(list)

    def add(self, tags: list[str], *, with_id: bool, count: int) -> None:
        """Add a row to both."""
        position = self.rows[-1][1] + 1 if self.rows else 1
        id = WORDS[position % len(WORDS)] if with_id else None  # noqa: A001 - that is what it is
        self.rows.append((position, position + count - 1, tags, id))
        add(self.runs, *self.rows[-1])
        for tag in tags:
            self.expected[TAGS, tag].append(position)
        if id is not None:
            self.expected[IDS, id].append(position)

    def reopened(self) -> Runs:
        """Return an index that was loaded anew, and has found in the rows what was in memory only."""
        found = self.loaded()
        self.take_in(found)
        return found

    def take_in(self, index: Runs) -> None:
        """Let an index take in the rows that it has not seen."""
        for row in self.rows:
            if row[0] > index.indexed:
                add(index, *row)

    def inspect(self) -> None:
        """Hold all that is written against its sums."""
        for part in range(runs.PARTS):
            self.loaded().inspect(self.connection, part)

    def loaded(self) -> Runs:
        """Return an index that was loaded anew."""
        found = Runs()
        found.load(self.connection)
        return found

    def flush(self, index: Runs, how: str) -> None:
        """Write a part, or all, in a transaction, and lose nothing with the process."""
        if how == "flush and roll back":
            self.connection.execute("begin")
            index.flush_next(self.connection)
            self.connection.execute("rollback")
        else:
            self.write(index, whole=how == "flush all")
            assert self.loaded().indexed == index.indexed  # what was in memory only need not be found in the rows

    def write(self, index: Runs, *, whole: bool = False) -> None:
        """Write a part, or all, in a transaction."""
        self.connection.execute("begin")
        flushed = index.flush_all(self.connection) if whole else index.flush_next(self.connection)
        self.connection.execute("commit")
        index.applied(flushed)

    def check(self, word: str) -> None:
        """Find a word as a tag and as an id, in all that there is and in a part of it."""
        for kind in (TAGS, IDS):
            expected = self.expected[kind, word]
            assert self.runs.find(self.connection, kind, word) == expected
            for first, last in (
                ((expected[len(expected) // 2], expected[-1]), (0, expected[-1] - 1), (expected[0], expected[0])) if expected else ()
            ):
                found = self.runs.find(self.connection, kind, word, first, last)
                assert found == [position for position in expected if first <= position <= last]


def test_who_is_behind_does_not_write_that_less_is_covered(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that only notes something need not have taken in what another one has recorded, and written to the index."""
    monkeypatch.setattr(runs, "PARTS", 1)
    monkeypatch.setattr(runs, "PART_SHIFT", 32)
    index = Indexed()
    index.add(WORDS[:1], with_id=True, count=1)
    index.write(index.runs)
    behind, third = index.reopened(), index.reopened()
    assert third.find(index.connection, TAGS, WORDS[0]) == [1]
    index.add(WORDS[:1], with_id=True, count=1)
    index.write(index.runs)
    index.write(behind)
    index.inspect()
    index.add(WORDS[:1], with_id=True, count=1)
    index.take_in(third)
    index.write(third)
    index.inspect()
    for one in (index.runs, third, index.reopened()):
        index.runs = one
        index.check(WORDS[0])


def test_very_much_at_once_is_not_written_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """As after the index was dropped: then all of it is found again in the rows, until each part has it in a run."""
    monkeypatch.setattr(runs, "RECENT_RECORDS_MAX", 10)
    index = Indexed()
    for _ in range(11):
        index.add(WORDS[:1], with_id=True, count=1)
    index.write(index.runs)
    assert index.connection.execute("select count(*) from recent").fetchone() == (0,)
    assert index.loaded().indexed == 0
    index.runs = index.reopened()
    for n in range(runs.PARTS):
        index.add(WORDS[1:2], with_id=True, count=1)
        index.write(index.runs)
        assert index.loaded().indexed == (0 if n < runs.PARTS - 1 else index.runs.indexed)
        index.check(WORDS[n % 2])
    index.runs = index.reopened()
    for word in WORDS:
        index.check(word)


@settings(max_examples=50, deadline=None)
@given(steps=st.lists(ROW, min_size=1, max_size=60), written=st.integers(0, 80), first=st.integers(0, 130), length=st.integers(0, 130))
def test_what_begins_between_two_positions_is_found_and_nothing_else(
    steps: list[tuple[str, list[str], bool, int]], written: int, first: int, length: int
) -> None:
    """In runs and in what is not written yet."""
    index = Indexed()
    for n, (_, words, with_id, count) in enumerate(steps):
        if n == written:
            index.flush(index.runs, "flush all")
        index.add(words, with_id=with_id, count=count)
    for word in WORDS:
        expected = [position for position in index.expected[TAGS, word] if first <= position <= first + length]
        assert index.runs.find(index.connection, TAGS, word, first, first + length) == expected


@pytest.mark.parametrize(("parts", "shift"), [(64, 26), (1, 32)])
def test_the_index_equals_a_dict_in_any_order_of_steps(parts: int, shift: int) -> None:
    """Add, find, flush a part or all, fail in mid-flush, reopen, let another process flush: nothing is lost, doubled or out of order."""

    @settings(max_examples=150, deadline=None)
    @given(steps=st.lists(st.one_of(ROW, ROW, LOOK, CHANGE), max_size=60))
    def holds(steps: list[tuple[str, list[str], bool, int]]) -> None:
        index = Indexed()
        for what, words, with_id, count in steps:
            match what:
                case "add":
                    index.add(words, with_id=with_id, count=count)
                case "find":
                    index.check(words[0])
                case "reopen":
                    index.runs = index.reopened()
                case "let another flush":
                    index.flush(index.reopened(), "flush all")
                case "let the one behind take in":
                    index.take_in(index.behind)
                case "let the one behind flush" | "let the one behind flush all":
                    index.write(index.behind, whole=what.endswith("all"))
                case _:
                    index.flush(index.runs, what)
        for one in (index.runs, index.reopened(), index.behind):
            index.runs = one
            index.take_in(one)
            for word in WORDS:
                index.check(word)
        index.inspect()

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(runs, "PARTS", parts)
        patched.setattr(runs, "PART_SHIFT", shift)
        patched.setattr(runs, "MERGE_RUNS", 2)
        holds()


def test_parts_are_merged_at_different_times() -> None:
    """A merge of large runs takes tens of milliseconds: if all parts had theirs in turn, a few hundred commits one after the other would be slow."""
    index = Indexed()
    words = {runs.part_of(word)[1]: word for word in map(str, range(2_000))}
    assert len(words) == runs.PARTS
    merged: list[int] = []
    highest = before = 0
    for _ in range(600):
        for word in words.values():
            index.add([word], with_id=False, count=1)
        index.write(index.runs, whole=True)
        [(highest, large)] = index.connection.execute("select max(level), sum(level > 1) from run")
        merged.append(max(0, large - before))
        before = large
    assert highest > 2
    assert 0 < max(merged) <= runs.PARTS // 8
    index.runs = index.loaded()
    index.inspect()
    for word in words.values():
        index.expected[IDS, word] = []
        index.check(word)
