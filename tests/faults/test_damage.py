"""A damaged file: cut short at every page, or with a bit flipped. It is said clearly, found by `verify`, or makes no difference; there is no wrong answer.

`HAPPENED_FLIPS` says how many flips are tried.
"""

import os
import random
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any  # Any: what a column holds

import pytest

import happened as h
from happened.core.state import fold_of
from happened.log.compacting import compact
from happened.opening import drop_index
from happened.stores import runs, segments
from tests.semantics.model import Balance, Deposit, Take, bank

FLIPS = int(os.environ.get("HAPPENED_FLIPS", "60"))
SEED = int(os.environ.get("HAPPENED_SEED", str(random.SystemRandom().randrange(1_000_000))))


@pytest.fixture(params=["hot", "cold"])
def log(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a small log, with an index and perhaps a packed part."""
    monkeypatch.setattr(runs, "FLUSH_RECORDS", 32)
    monkeypatch.setattr(segments, "ROWS_MAX", 16)
    path = tmp_path / "log.db"
    with bank.open(f"sqlite:///{path}", run=False) as running:
        for n in range(40):
            running.dispatch(Deposit(f"a{n % 5}", n), id=f"{n}")
            running.dispatch(Take(f"s{n}", "me"), id=f"s{n}")
        running.snapshots.take(fold_of(Balance), running.log.head)
        if request.param == "cold":
            compact(running.log, keep=10)
    return path


def answers(path: Path) -> tuple[object, ...]:
    """Ask a log for all there is in it, after it has verified."""
    with bank.open(f"sqlite:///{path}", run=False) as running:
        running.log.verify()
        balances = {key[0]: (one.amount, one.changes) for key, one in running.states(Balance).items()}
        return running.log.head, balances


def after(path: Path, damaged: bytes) -> tuple[object, ...] | str:
    """Ask a damaged log; its own errors are texts."""
    for beside in path.parent.glob("damaged*"):
        beside.unlink()
    place = path.with_name("damaged.db")
    place.write_bytes(damaged)
    shutil.copyfile(path.with_name("log.snapshots.db"), path.with_name("damaged.snapshots.db"))
    try:
        return answers(place)
    except h.Error as error:
        return f"{type(error).__name__}: {error}"


def let_be_null(log: Path, table: str) -> None:
    """Let the columns of a table hold null, as the bits of a damaged row may say."""
    with closing(sqlite3.connect(log)) as file, file:
        file.execute("pragma writable_schema=on")
        file.execute("update sqlite_master set sql = replace(sql, 'not null', '') where name = ?", (table,))


def test_a_log_that_is_cut_short_anywhere_is_said_to_be_damaged(log: Path) -> None:
    whole, told = log.read_bytes(), answers(log)
    for length in range(4096, len(whole), 4096):
        found = after(log, whole[:length])
        assert isinstance(found, str) or found == told, f"cut after {length} bytes: {found}"


def test_a_flipped_bit_is_said_found_or_makes_no_difference(log: Path) -> None:
    whole, told = log.read_bytes(), answers(log)
    chance = random.Random(SEED)
    said = 0
    for number in range(FLIPS):
        damaged = bytearray(whole)
        bit = chance.randrange(len(whole) * 8)
        damaged[bit // 8] ^= 1 << bit % 8
        found = after(log, bytes(damaged))
        assert isinstance(found, str) or found == told, f"HAPPENED_SEED={SEED}: flip {number}, of bit {bit}: {found}"
        said += isinstance(found, str)
    print(f"{FLIPS} flips, {said} said, HAPPENED_SEED={SEED}")


PLACES = {
    "run": ("part", "kind", "last", "level", "entries"),
    "covered": ("last",),
    "block": ("block", "names"),
    "recent": ("last", "after", "tags", "ids"),
    "checked": ("sum",),
}
"""What the index is made of."""


def looked_up(path: Path) -> tuple[object, ...]:
    """Ask a log for all that is found by its index."""
    with bank.open(f"sqlite:///{path}", run=False) as running:
        states = [running.state(Balance, account=f"a{n}") for n in range(5)]
        found = [len(running.log.find(one)) for one in ("0", "39", "s7", "none")]
        named = [record.position for record in running.log.read(h.query(["Deposited"]))]
        return running.log.head, [(state.amount, state.changes) for state in states if state is not None], found, named


def flipped(value: Any, chance: random.Random) -> Any:
    """Return a value with one bit flipped."""
    match value:
        case int():
            return value ^ 1 << chance.randrange(16)
        case str():
            text = bytearray(value.encode())
            text[chance.randrange(len(text))] ^= 1 << chance.randrange(7)
            return text.decode()
        case _:
            body = bytearray(value)
            body[chance.randrange(len(body))] ^= 1 << chance.randrange(8)
            return bytes(body)


def test_a_flipped_bit_of_the_index_is_said_or_makes_no_difference(log: Path) -> None:
    """Else a row would be hidden from who decides by it. `verify` finds what nobody has asked for, and the index can be made anew."""
    log.with_name("log.snapshots.db").unlink()
    told, whole = looked_up(log), log.read_bytes()
    chance = random.Random(SEED)
    said = 0
    for number in range(FLIPS // 2):
        table = chance.choice(list(PLACES))
        log.write_bytes(whole)
        with closing(sqlite3.connect(log)) as file:
            column = chance.choice(PLACES[table])
            key = {"run": "part, kind, last", "covered": "part", "block": "block", "recent": "last", "checked": "part"}[table]
            rows = file.execute(f"select {key}, {column} from {table}").fetchall()
            if not rows:
                continue
            *of, value = chance.choice(rows)
            where = " and ".join(f"{name} = ?" for name in key.split(", "))
            try:
                file.execute(f"update {table} set {column} = ? where {where}", (flipped(value, chance), *of))
            except sqlite3.IntegrityError:  # another row has that key
                continue
            file.commit()
        what = f"HAPPENED_SEED={SEED}: flip {number}, in {column} of {table}"
        try:
            found: object = looked_up(log)
        except h.Broken as error:
            found = str(error)
        if isinstance(found, str):
            said += 1
            assert "happened rebuild --index" in found or "Restore a copy" in found, what
        else:
            assert found == told, what
        if number % 10 == 0:
            drop_index(f"sqlite:///{log}")
            assert looked_up(log) == told, what
            with h.open_log(f"sqlite:///{log}") as opened:
                opened.verify()
    assert said
    print(f"{FLIPS // 2} flips in the index, {said} said, HAPPENED_SEED={SEED}")


def test_no_flipped_bit_of_a_list_of_names_makes_another_one(log: Path) -> None:
    """Where the names end and their checksum begins, too: a name that is lost there would hide all that was recorded under it."""
    with closing(sqlite3.connect(log)) as file:
        [(block, text)] = file.execute("select block, names from block")
    names = runs._names_in(block, text)
    for place in range(len(text)):
        for bit in range(7):
            damaged = text[:place] + chr(ord(text[place]) ^ 1 << bit) + text[place + 1 :]
            try:
                found = runs._names_in(block, damaged)
            except ValueError:
                continue
            assert found == names, damaged


@pytest.mark.parametrize(
    "change", ["delete from run", "update run set entries = substr(entries, 2)", "update block set names = names || '1'"]
)
def test_an_index_that_is_not_what_was_written_is_found_by_verify(log: Path, change: str) -> None:
    """The rows are as they were."""
    with closing(sqlite3.connect(log)) as file, file:
        file.execute(change)
    with pytest.raises(h.Broken, match=r"the index in .* is damaged"), h.open_log(f"sqlite:///{log}") as opened:
        opened.verify()
    drop_index(f"sqlite:///{log}")
    answers(log)


def test_an_index_is_not_dropped_of_what_is_open_or_no_log(log: Path, tmp_path: Path) -> None:
    with bank.open(f"sqlite:///{log}", run=False), pytest.raises(h.Invalid, match="is open"):
        drop_index(f"sqlite:///{log}")
    with pytest.raises(h.Invalid, match="there is no log"):
        drop_index(f"sqlite:///{tmp_path}/none.db")
    with closing(sqlite3.connect(tmp_path / "other.db")) as file, file:
        file.execute("create table customer(id)")
    with pytest.raises(h.Invalid, match="is no log"):
        drop_index(f"sqlite:///{tmp_path}/other.db")


def test_a_text_that_became_bytes_is_found(log: Path) -> None:
    """Its digest is the same: what is hashed are bytes."""
    with closing(sqlite3.connect(log)) as file, file:
        [(position,)] = file.execute("select max(position) from log")
        file.execute("update log set records = cast(records as blob) where position = ?", (position,))
    with h.open_log(f"sqlite:///{log}") as opened, pytest.raises(h.Broken, match="of other types"):
        opened.verify()


@pytest.mark.parametrize(
    ("change", "says"), [("last = last + 1000", "the segment there holds"), ("first = first + 1", "no segment begins before it")]
)
def test_a_cold_part_that_says_another_place_than_it_holds_is_found(log: Path, change: str, says: str) -> None:
    """Who reads does not go on for ever at its end."""
    with closing(sqlite3.connect(log)) as file, file:
        cold = (
            file.execute("select 1 from sqlite_master where name = 'segment'").fetchone()
            and file.execute("select count(*) from segment").fetchone()[0]
        )
        file.execute(f"update segment set {change} where first = (select {'max' if 'last' in change else 'min'}(first) from segment)")
    if not cold:
        return
    with pytest.raises(h.Broken, match=says), h.open_log(f"sqlite:///{log}") as opened:
        opened.verify()


def test_a_number_of_the_newest_row_that_is_none_is_found(log: Path) -> None:
    """It is met as soon as the log is opened."""
    let_be_null(log, "log")
    with closing(sqlite3.connect(log)) as file, file:
        file.execute("update log set count = null where position = (select max(position) from log)")

    with pytest.raises(h.Broken, match="is damaged"):
        h.open_log(f"sqlite:///{log}")


@pytest.mark.parametrize("which", ["min", "max"])
def test_a_row_that_has_become_empty_is_found(log: Path, which: str) -> None:
    """Its position alone is left: it is met at an end of a page, where it is looked at first."""
    let_be_null(log, "log")
    with closing(sqlite3.connect(log)) as file, file:
        empty = "count = null, at = null, head = null, input = null, records = null, salts = null, digest = null"
        file.execute(
            f"update log set {empty} where position = (select {which}(position) from log where position < (select max(position) from log))"
        )

    with h.open_log(f"sqlite:///{log}") as opened, pytest.raises(h.Broken, match=r"is damaged|of other types"):
        opened.verify()


def test_a_row_that_lies_where_another_is_to_be_is_found(log: Path) -> None:
    """A row's position is its place in a tree, so SQLite does not see a flipped bit of it, and who goes by it would find the same rows for ever."""
    with closing(sqlite3.connect(log)) as file, file:
        [(position, text)] = file.execute("select position, head from log order by position desc limit 1 offset 1")
        file.execute("delete from checked")
        file.execute("delete from run")
        file.execute("delete from shelf")  # the index is made anew, so every row is met
    damaged = bytearray(log.read_bytes())
    place = damaged.rindex(bytes([0x80 | position >> 7, position & 0x7F]), 0, damaged.index(text.encode()))
    damaged[place] ^= 2  # 256 more
    found = after(log, bytes(damaged))
    assert isinstance(found, str)
    assert "lies where another is to be" in found


@pytest.mark.parametrize("change", ["replace(body, char(9), char(13))", "cast(body as blob)"])
def test_an_index_that_says_nothing_readable_of_itself_is_found(log: Path, change: str) -> None:
    """Opening and closing say so; nothing else is raised."""
    with closing(sqlite3.connect(log)) as file, file:
        changed = file.execute(f"update shelf set body = {change} where key = 'reading'").rowcount
    assert changed == 1
    with pytest.raises(h.Broken, match="damaged"):
        bank.open(f"sqlite:///{log}", run=False)


def test_newest_rows_that_are_gone_are_missed(log: Path) -> None:
    """The chain does not tell, but the index has them."""
    with closing(sqlite3.connect(log)) as file, file:
        file.execute("delete from log where position = (select max(position) from log)")
    with pytest.raises(h.Broken, match="its index knows of position"):
        h.open_log(f"sqlite:///{log}")


def test_a_cold_part_that_ends_nowhere_is_found(log: Path) -> None:
    """What lies in it is not passed over."""
    let_be_null(log, "segment")
    with closing(sqlite3.connect(log)) as file, file:
        if not file.execute("update segment set last = null").rowcount:
            return
    with pytest.raises(h.Broken, match="which is no position"), h.open_log(f"sqlite:///{log}") as opened:
        opened.verify()


def test_a_note_that_is_no_text_is_found(log: Path) -> None:
    """Whoever reads it says so."""
    with closing(sqlite3.connect(log)) as file, file:
        assert file.execute("update note set body = cast(body as blob) where key like 'name/%'").rowcount
    with pytest.raises(h.Broken, match="is no text"):
        h.open_log(f"sqlite:///{log}")


def test_a_row_of_less_than_no_records_is_found(log: Path) -> None:
    """Who files it in the index does not go on for ever."""
    with closing(sqlite3.connect(log)) as file, file:
        file.execute("delete from recent")
        file.execute("update covered set last = 0")
        file.execute("update log set count = -1 where position = (select max(position) from log)")
    with pytest.raises(h.Broken, match="that none can have"):
        bank.open(f"sqlite:///{log}", run=False)


def test_a_list_of_names_that_is_none_is_found(log: Path) -> None:
    """A column's type in a row may be damaged, too."""
    let_be_null(log, "block")
    with closing(sqlite3.connect(log)) as file, file:
        assert file.execute("update block set names = null").rowcount
    with pytest.raises(h.Broken, match="damaged"):
        bank.open(f"sqlite:///{log}", run=False)
