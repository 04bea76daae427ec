"""Copies and exports: the same rows at the same positions under a new name, of a log that goes on; and nothing that reaches outside of a copy."""

import gzip
import json
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Annotated

import pytest

import happened as h
from happened.core.store import Row
from happened.log.copying import Filling
from tests.audit.people import SECRET, Call, Person, customers, filled
from tests.semantics.model import Balance, Deposit, bank
from tests.servers import fresh

WAIT = 20
No = Annotated[str, h.Tag("no")]


@pytest.fixture
def url(tmp_path: Path) -> str:
    """Return the URL of a log that is not there yet."""
    return f"sqlite:///{tmp_path}/log.db"


@pytest.fixture(params=["sqlite", "postgres"])
def origin(request: pytest.FixtureRequest, url: str) -> str:
    """Return the URL of a log that is not there yet, in each kind of store."""
    return url if request.param == "sqlite" else fresh()


def rows_of(url: str) -> list[Row]:
    """Return all rows of a log."""
    with h.open_log(url) as log:
        return [row for rows in log.engine.read() for row in rows]


def by_copy(url: str, to: Path, until: int | None) -> str:
    """Copy; return the URL of the copy."""
    h.copy_log(url, to, until=until)
    return f"sqlite:///{to}"


def by_export(url: str, to: Path, until: int | None) -> str:
    """Export and import; return the URL of the new log."""
    h.export_log(url, f"{to}.jsonl.gz", until=until)
    h.import_log(f"{to}.jsonl.gz", f"sqlite:///{to}")
    return f"sqlite:///{to}"


def by_copy_there(url: str, _to: Path, until: int | None) -> str:
    """Copy into PostgreSQL; return the URL of the copy."""
    there = fresh()
    h.copy_log(url, there, until=until)
    return there


def by_export_there(url: str, to: Path, until: int | None) -> str:
    """Export, and import into PostgreSQL; return the URL of the new log."""
    there = fresh()
    h.export_log(url, f"{to}.jsonl.gz", until=until)
    h.import_log(f"{to}.jsonl.gz", there)
    return there


WAYS = pytest.mark.parametrize("way", [by_copy, by_export, by_copy_there, by_export_there])
Way = Callable[[str, Path, int | None], str]


@WAYS
def test_a_copy_has_the_rows_of_its_origin_and_names_it(origin: str, tmp_path: Path, way: Way) -> None:
    """At the same positions with the same digests; it verifies, answers known ids, and goes on by itself."""
    with customers.open(origin, run=False) as running:
        filled(running)
        its = running.log.identity
        whole = running.log.verify()
        receipt = running.log.receipt_of(running.log.find("call-1")[0], repeated=False)
    copy = way(origin, tmp_path / "copy.db", None)

    assert rows_of(copy) == rows_of(origin)
    with customers.open(copy) as running:
        own = running.log.identity
        assert own.id != its.id
        assert own.origin is not None
        assert (own.origin.log, own.origin.position, own.origin.digest) == (its.id, whole.position, whole.digest)
        assert running.dispatch(Call("c-1", "Rosalind-Franklin 1"), id="call-1").repeated
        assert running.view(Person).get("c-1", since=running.log.head, wait_seconds_max=WAIT).calls == 3
        with pytest.raises(h.Diverged):
            running.catch_up(receipt)
        running.dispatch(Call("c-1", "more"))
        running.log.verify(noted=whole.digest)
    assert [file.name for file in tmp_path.iterdir() if "part" in file.name] == []


@WAYS
def test_a_copy_up_to_any_position_is_a_log_as_it_was_there(url: str, tmp_path: Path, way: Way) -> None:
    """Whole commands, the names of then, and states as the same rows come to; also positions inside a command, and none."""
    with customers.open(url, run=False) as running:
        filled(running)
    ends = [row.last for row in rows_of(url)]
    step = 3 if way in (by_copy, by_export) else 10  # a schema takes longer than a file
    for until in (0, *range(ends[0], ends[-1] + 1, step)):
        copy = way(url, tmp_path / f"copy-{until}.db", until)
        kept = [row for row in rows_of(url) if row.last <= until]
        assert rows_of(copy) == kept
        with customers.open(copy, run=False) as running:
            running.log.verify()
            calls = sum(1 for record in running.log.read() if record.name == "Called" and record.body.customer == "c-1")
            state = running.state(Person, "c-1")
            assert (state.calls if state is not None else 0) == calls
            running.dispatch(Call("c-1", "more"))
            running.log.verify()


@WAYS
def test_a_copy_of_a_log_that_was_adopted_and_erased_in_says_so_too(origin: str, tmp_path: Path, way: Way) -> None:
    """Its rows say in which epoch they were recorded, and what of them was erased by whom."""
    with customers.open(origin, run=False) as running:
        filled(running)
    receipt = h.adopt(origin, actor="ann", reason="restored")
    h.erase(origin, ("customer", "c-1"), actor="ann", reason="asked")
    for until in (None, receipt.position, receipt.position - 1):
        copy = way(origin, tmp_path / f"copy-{until}.db", until)
        with customers.open(copy, run=False) as running:
            verified = running.log.verify()
            assert running.log.identity.epoch == (1 if until == receipt.position - 1 else 2)
            assert (verified.erased, verified.unexplained) == (12, 0 if until is None else 12)
            assert running.state(Person, "c-1") is None


def test_what_waits_at_that_position_waits_in_the_copy(url: str, tmp_path: Path) -> None:
    """An input that was decided later, and a timer that rang later, are still to come there."""
    with bank.open(url, run=False) as running:
        kept = running.enqueue(Deposit("a", 5), id="kept")
        running.dispatch(Deposit("a", 1))
    with bank.open(url) as running:
        running.outcome(kept, wait_seconds_max=WAIT)
    h.copy_log(url, tmp_path / "copy.db", until=kept.position)

    with bank.open(f"sqlite:///{tmp_path}/copy.db") as running:
        running.settled(wait_seconds_max=WAIT)
        state = running.state(Balance, "a", since=running.log.head)
        assert state is not None
        assert state.amount == 5
        running.log.verify()


def test_a_log_that_is_written_to_meanwhile_is_copied_as_of_one_moment(url: str, tmp_path: Path) -> None:
    """Nobody waits for the copy; it ends at a whole command, and verifies, and all its notes are of that moment."""
    stop = threading.Event()
    with bank.open(url) as running:

        def write() -> None:
            number = 0
            while not stop.is_set():
                running.dispatch(Deposit("a", 1), id=f"d-{number}")
                running.enqueue(Deposit("b", 1), id=f"e-{number}")
                number += 1

        writer = threading.Thread(target=write)
        writer.start()
        try:
            running.log.wait(200, WAIT)
            for number in range(4):
                before = running.log.head
                identity = running.copy(tmp_path / f"copy-{number}.db")
                assert identity.origin is not None
                assert before <= identity.origin.position <= running.log.head
        finally:
            stop.set()
            writer.join()
    for number in range(4):
        with bank.open(f"sqlite:///{tmp_path}/copy-{number}.db") as copy:
            copy.settled(wait_seconds_max=WAIT)
            copy.log.verify()
            pending = copy.statistics()["pending"]
            assert pending == 0


@pytest.mark.parametrize("way", [by_copy, by_copy_there], ids=["file", "postgres"])
def test_what_is_erased_while_a_log_is_copied_is_not_in_the_copy(
    origin: str, tmp_path: Path, way: Way, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows that were copied before hold it still: the copy is begun anew."""
    with customers.open(origin, run=False) as running:
        filled(running)
    add = Filling.add
    erased: list[int] = []

    def add_and_erase(filling: Filling, rows: Iterable[Row]) -> None:
        add(filling, rows)
        if not erased:
            erased.append(1)
            h.erase(origin, ("customer", "c-1"), actor="ann", reason="asked")

    monkeypatch.setattr(Filling, "add", add_and_erase)
    with h.open_log(way(origin, tmp_path / "copy.db", None)) as copy:
        assert SECRET not in "".join(row.records + (row.input or "") for rows in copy.engine.read() for row in rows)
        assert copy.verify().erased == 12


def test_what_is_there_is_not_overwritten_and_what_fails_leaves_nothing(url: str, tmp_path: Path) -> None:
    """A file of that name, a damaged export, one that was cut off, a slice: an error, and no half log."""
    with customers.open(url, run=False) as running:
        filled(running)
        after = running.log.find("call-1")[0].position - 1
    h.export_log(url, tmp_path / "whole.jsonl")
    lines = (tmp_path / "whole.jsonl").read_bytes().splitlines(keepends=True)
    h.export_log(url, tmp_path / "slice.jsonl", after=after)
    h.export_log(url, tmp_path / "tagged.jsonl", tag=("customer", "c-2"))
    bad = {
        "cut off": lines[:-1],
        "a row less": [*lines[:4], *lines[5:]],
        "changed": [line.replace(b"Rosalind-Franklin", b"Somebody-Else----") for line in lines],
        "no JSON": [*lines[:3], b"{\n", *lines[3:]],
        "nothing": [],
        "something else": [b'{"a":1}\n'],
        "newer": [lines[0].replace(b'"format":1', b'"format":99'), *lines[1:]],
        "two": [*lines, *lines],
        "longer": [lines[0].replace(b'"until":', b'"until":1'), *lines[1:]],
    }
    for name, changed in bad.items():
        (tmp_path / f"{name}.jsonl").write_bytes(b"".join(changed))
    before = sorted(file.name for file in tmp_path.iterdir())

    for name in (*bad, "slice", "tagged"):
        with pytest.raises((h.Broken, h.Invalid, h.Incompatible)):
            h.import_log(tmp_path / f"{name}.jsonl", f"sqlite:///{tmp_path}/new.db")
        assert sorted(file.name for file in tmp_path.iterdir()) == before, name
    for bad_target in (lambda: h.copy_log(url, tmp_path / "whole.jsonl"), lambda: h.export_log(url, tmp_path / "whole.jsonl")):
        with pytest.raises(h.Invalid, match="already"):
            bad_target()
    with pytest.raises(h.Invalid, match="already"):
        h.import_log(tmp_path / "whole.jsonl", url)
    with pytest.raises(h.Invalid, match="ends at"):
        h.copy_log(url, tmp_path / "new.db", until=10_000)
    packed = gzip.compress(b"".join(lines))
    (tmp_path / "cut.jsonl.gz").write_bytes(packed[:-20])
    with pytest.raises(h.Broken):
        h.import_log(tmp_path / "cut.jsonl.gz", f"sqlite:///{tmp_path}/new.db")
    assert not (tmp_path / "new.db").exists()


def test_a_slice_has_what_its_rows_need_and_plain_lines_are_records(url: str, tmp_path: Path) -> None:
    """Schemas that were recorded before it, the wiring; a line for each record with `plain`."""
    with customers.open(url, run=False) as running:
        filled(running)
        records = list(running.log.read())
        after = running.log.find("call-1")[0].position - 1
    found = h.export_log(url, tmp_path / "slice.jsonl", after=after)
    first, *rest = [json.loads(line) for line in (tmp_path / "slice.jsonl").read_text().splitlines()]
    assert {schema["name"] for schema in first["schemas"]} >= {"Met", "Call", "Called", "call"}
    assert first["topology"]["app"] == "customers"
    assert [row["position"] for row in rest[:-1]] == [row.position for row in rows_of(url) if row.position > after]
    assert (len(rest) - 1, rest[-1]) == (found.lines, {"end": found.until, "rows": found.lines})

    h.export_log(url, tmp_path / "plain.jsonl", plain=True)
    plain = [json.loads(line) for line in (tmp_path / "plain.jsonl").read_text().splitlines()]
    assert [(one["position"], one["kind"], one["name"]) for one in plain] == [(one.position, one.kind, one.name) for one in records]


@pytest.mark.parametrize("customer", ["c-1", "c-2"])
def test_an_export_of_a_tag_has_all_that_carries_it(url: str, tmp_path: Path, customer: str) -> None:
    """Events, commands, and commands that were refused, of which there is no event."""
    with customers.open(url, run=False) as running:
        filled(running)
        found = [record for record in running.log.read() if ("customer", customer) in record.tags]
    h.export_log(url, tmp_path / "plain.jsonl", plain=True, tag=("customer", customer))
    h.export_log(url, tmp_path / "rows.jsonl", tag=("customer", customer))

    plain = [json.loads(line) for line in (tmp_path / "plain.jsonl").read_text().splitlines()]
    _, *rows, _ = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert [one["position"] for one in plain] == [one.position for one in found]
    assert [row["position"] for row in rows] == list(dict.fromkeys(one.row for one in found))


class Started(h.Event):
    no: No


class Rang(h.Event):
    no: No


class Start(h.Command):
    no: No


class Ring(h.Command):
    no: No


class Weather(h.Event):
    no: No


reached: list[str] = []


def weather(no: str) -> str:
    """Be outside."""
    reached.append(no)
    return "fine"


def start(command: Start) -> Iterator[Started]:
    """Begin."""
    yield Started(command.no)


def ring(command: Ring, world: h.World) -> Iterator[Rang]:
    """Ask before it is decided."""
    world.ask(weather, command.no)
    yield Rang(command.no)


def on_started(event: Started) -> Iterator[h.Later[Ring]]:
    """Ring soon."""
    yield h.Later(Ring(event.no), after=timedelta(milliseconds=1))


def told(event: Started) -> Weather:
    """Tell others."""
    return Weather(event.no)


@h.named("Weather")
class TheirWeather(h.Event):
    no: No


system = h.App(
    "system",
    deciders=[start, ring],
    gateways=[weather],
    reactions=[on_started],
    publications=[told],
    subscriptions={"met": [TheirWeather]},
)
met = h.App("met", records=[Started], publications=[told])


def test_without_outside_nothing_is_reached(tmp_path: Path) -> None:
    """Deciders, reactions, timers and publications go on; a question is `Unanswered`, and nothing comes through a channel, though it is there."""
    theirs = f"sqlite:///{tmp_path}/met.db"
    with met.open(theirs) as other, system.open(f"sqlite:///{tmp_path}/log.db", run=False, channels={"met": None}) as running:
        other.record(Started("theirs"))
        other.settled(wait_seconds_max=WAIT)
        running.dispatch(Start("1"))
        running.copy(tmp_path / "copy.db")
        reached.clear()

        with system.open(f"sqlite:///{tmp_path}/copy.db", outside=False) as copy:
            copy.dispatch(Start("2"))
            with pytest.raises(h.Unanswered, match="weather"):
                copy.dispatch(Ring("3"), id="asked")
            deadline = time.monotonic() + WAIT
            while len(copy.stuck()) < 2 and time.monotonic() < deadline:
                copy.log.wait(copy.log.head, 0.05)
            assert {held.handler for held in copy.stuck()} == {"Ring"}
            assert all("Unanswered" in held.error for held in copy.stuck())
            names = [record.name for record in copy.log.read()]
            assert names.count("Weather") == 2
            assert "met/Weather" not in names
            assert copy.log.find("asked") == []
            copy.log.verify()
        assert reached == []
        with pytest.raises(h.Invalid, match="outside"):
            system.open(f"sqlite:///{tmp_path}/copy.db", outside=False, channels={"met": theirs})
        with pytest.raises(h.Invalid, match="outside"):
            system.open(f"sqlite:///{tmp_path}/copy.db", outside=False, gateways={weather: weather})


@WAYS
def test_what_reacts_in_a_log_that_was_opened_often_goes_on_in_its_copy(url: str, tmp_path: Path, way: Way) -> None:
    """Its owners had epochs, which a copy knows nothing of: who opens it is the first there, and is heard."""
    for number in range(3):
        with met.open(url) as running:
            running.record(Started(str(number)))
            running.settled(wait_seconds_max=WAIT)
    with met.open(way(url, tmp_path / "copy.db", None)) as copy:
        copy.record(Started("here"))
        copy.settled(wait_seconds_max=WAIT)
        assert [record.body["no"] for record in copy.log.read() if record.name == "Weather"] == ["0", "1", "2", "here"]
