"""A branch begins with the snapshots of its origin, as far as it shares it: what they hold is not folded again, and never anything else is."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Self
from unittest.mock import ANY

import pytest

import happened as h
from happened.core.state import fold_of
from happened.shelf.snapshots import SnapshotsFile
from happened.stores.over import Over
from tests.servers import fresh

Key = Annotated[str, h.Tag("shelf")]


@h.named("Filled", version=2)
class Filled(h.Event):
    shelf: Key
    count: int


class Fill(h.Command):
    shelf: Key
    count: int


class Shelf(h.State):
    shelf: Key
    count: int = 0
    changes: int = 0

    def evolve(self, event: Filled) -> Self:
        return self.but(count=self.count + event.count, changes=self.changes + 1)


def fill(command: Fill, shelf: Shelf) -> Iterator[Filled]:
    """As much as there is room for."""
    yield Filled(command.shelf, min(command.count, 100 - shelf.count))


store = h.App("store", records=[Filled], deciders=[fill])
FOLD = fold_of(Shelf)
SHELVES = [f"s{number}" for number in range(20)]


@pytest.fixture(params=["sqlite", "postgres"])
def running(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[h.Running]:
    """Yield a log of 600 commands with two snapshots, the second 120 commands before its end."""
    url = f"sqlite:///{tmp_path / 'store.db'}" if request.param == "sqlite" else fresh()
    with store.open(url, run=False) as running:
        for number in range(600):
            running.dispatch(Fill(SHELVES[number % 20], 1 + number % 3))
            if number in (239, 479):
                running.snapshots.take(FOLD, running.log.head)
        yield running


def begun(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Have noted after which positions branches read what they fold from now on."""
    seen: list[int] = []
    read_bare = Over.read_bare

    def noting(self: Over, after: int = 0, *args: Any, **named: Any) -> Any:
        seen.append(after)
        return read_bare(self, after, *args, **named)

    monkeypatch.setattr(Over, "read_bare", noting)
    return seen


def check_begun(seen: list[int], expected: int, *, deep: int = 1) -> None:
    """Check that states were folded on from a position, and one from before it: by that the snapshot is proven. Each branch that is `deep` reads it."""
    assert expected in seen
    assert len([after for after in seen if after < expected]) <= deep
    seen.clear()


def positions(branch: h.Running) -> list[int]:
    """Return as of when the snapshots are that may be used."""
    return [one.position for one in branch.snapshots.listed([FOLD]) if not one.wrong]


def test_states_begin_with_the_last_one_that_is_shared(running: h.Running, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = positions(running)
    seen = begun(monkeypatch)

    for at, expected in ((running.log.head, second), (second, second), (second - 2, first), (first - 2, 0)):
        with running.branch(at=at) as branch:
            assert branch.state(Shelf, "s7") == running.state(Shelf, "s7")
            assert branch.state(Shelf, "s8") == running.state(Shelf, "s8")
            check_begun(seen, expected)
            assert branch.states(Shelf) == running.states(Shelf)
            assert branch.at(branch.begins).state(Shelf, "s9") == running.at(at).state(Shelf, "s9")
            assert not branch.diff()
            seen.clear()


def test_edits_before_a_snapshot_leave_it_to_the_origin(running: h.Running) -> None:
    first, second = positions(running)
    dropped = next(record for record in running.log.read(after=first) if record.kind == "input" and record.body.shelf == "s7")

    with running.branch(h.Drop(dropped.position)) as branch:
        assert positions(branch) == [first]
        assert [one.state(Shelf, "s7", since=one.log.head) for one in (branch, running)] == [Shelf("s7", ANY, 29), Shelf("s7", ANY, 30)]
        assert branch.state(Shelf, "s8") == running.state(Shelf, "s8")
        assert branch.snapshots.take(FOLD, branch.log.head).position == branch.log.head
        assert branch.snapshots.drop() == 1
        assert positions(branch) == [first]
    assert positions(running) == [first, second]


def test_what_other_code_makes_of_the_same_events_is_folded_anew(running: h.Running) -> None:
    """Another class of the state; or the same one, where what is recorded is read otherwise."""

    @h.named("Shelf")
    class Doubled(h.State):
        shelf: Key
        count: int = 0

        def evolve(self, event: Filled) -> Self:
            return self.but(count=self.count + 2 * event.count)

    @h.named("fill")
    def refill(command: Fill, shelf: Doubled) -> Iterator[Filled]:
        yield Filled(command.shelf, min(command.count, 200 - shelf.count))

    other = h.App("store", records=[Filled], deciders=[refill])
    lifting = h.App("store", records=[Filled], deciders=[fill], upcasts=[h.Upcast("Filled", 1, lambda data: {**data, "count": 0})])
    expected = running.state(Shelf, "s7")
    assert expected is not None

    with running.branch(at=running.log.head, code=other) as branch:
        assert {one.wrong for one in branch.snapshots.listed([fold_of(Doubled)])} == {"it was made by other code"}
        assert branch.state(Doubled, "s7") == Doubled("s7", 2 * expected.count)
    with running.branch(at=running.log.head, code=lifting) as branch:
        assert {one.wrong for one in branch.snapshots.listed([FOLD])} == {"it was made by other code"}
        assert branch.state(Shelf, "s7") == expected


def test_after_an_erasure_in_the_origin_they_are_not_there(running: h.Running) -> None:
    """Those of before hold what was erased, also where they could not be deleted; those that are taken after it are used by a branch that is made then."""
    head, file = running.log.head, running.snapshots.file
    before = [(kept, list(file.chunks(kept))) for kept in file.listed()]
    with running.branch(at=head) as branch:
        assert len(positions(branch)) == 2
        running.erase(("shelf", "s7"), actor="ann", reason="they asked")
        for kept, chunks in before:
            file.put(kept, [chunk for chunk in chunks if chunk is not None])

        assert branch.snapshots.listed([FOLD]) == []
        assert branch.state(Shelf, "s7") is None
    with running.branch(at=head) as branch:
        assert branch.snapshots.listed([FOLD]) == []
        assert branch.state(Shelf, "s7") is None
    running.snapshots.take(FOLD, running.log.head)
    with running.branch(at=running.log.head) as branch:
        assert positions(branch) == positions(running) == [running.log.head]
        assert branch.state(Shelf, "s8") == running.state(Shelf, "s8")


def test_what_is_erased_while_it_is_read_is_not_used(running: h.Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """A chunk was read, and something is erased in the origin before a state of it is taken."""
    chunk, file = SnapshotsFile.chunk, running.snapshots.file
    with running.branch(at=running.log.head) as branch:

        def erased_meanwhile(self: SnapshotsFile, id: int, n: int) -> bytes | None:
            found = chunk(self, id, n)
            if self is file and running.state(Shelf, "s7") is not None:
                running.erase(("shelf", "s7"), actor="ann", reason="they asked")
            return found

        monkeypatch.setattr(type(file), "chunk", erased_meanwhile)
        [_, last] = branch.snapshots.file.listed()

        assert branch.snapshots.file.chunk(last.id, 0) is None


def test_one_that_was_dropped_is_not_taken_for_one_that_was_taken_since(running: h.Running) -> None:
    """Neither by a branch nor by another process that has begun with it."""
    first, _ = positions(running)
    running.snapshots.drop()
    running.snapshots.take(FOLD, first)
    with running.branch(at=running.log.head) as branch, store.open(running.url, run=False) as other:
        for one in (branch, other):
            assert one.state(Shelf, "s7") == running.state(Shelf, "s7")
            assert positions(one) == [first]
        running.snapshots.drop()
        running.snapshots.take(FOLD, running.log.head)

        for one in (branch, other):
            assert one.state(Shelf, "s8") == running.state(Shelf, "s8")


def test_a_branch_outlives_its_origin(running: h.Running) -> None:
    """States are folded from zero then."""
    expected = running.state(Shelf, "s8")
    with running.branch(at=running.log.head) as branch:
        assert branch.state(Shelf, "s7") == running.state(Shelf, "s7")
        last = branch.snapshots.file.listed()[-1]
        running.snapshots.close()

        assert branch.snapshots.file.chunk(last.id, 0) is None
        assert branch.state(Shelf, "s8") == expected
        assert branch.at(branch.begins).state(Shelf, "s8") == expected


def test_a_branch_of_a_branch_begins_with_those_of_both(running: h.Running, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = positions(running)
    with running.branch(at=running.log.head) as branch:
        own = branch.snapshots.take(FOLD, branch.log.head).position
        seen = begun(monkeypatch)
        with branch.branch(at=branch.log.head) as further:
            assert positions(further) == [first, second, own]
            for expected, until in ((own, own), (second, own - 2), (first, second - 2)):
                seen.clear()
                with further.branch(at=until) as last:
                    assert last.state(Shelf, "s3") == running.state(Shelf, "s3")
                    check_begun(seen, expected, deep=3)
