"""A log that is read range by range, in several processes: what is told is to the letter what one process tells."""

import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Annotated

import msgspec
import pytest

import happened as h
from happened.checking import ranges
from happened.checking.ranges import readings_of
from happened.checking.reading import Part, Readings, read_part, told
from happened.core.store import Engine
from happened.edge.main import main
from happened.log.log import PLAIN, Facts, _loose
from happened.log.names import Names
from happened.log.records import Reader
from happened.opening import open_engine

NOW = """
import os, sys, time
from pathlib import Path
from typing import Annotated, Literal
import happened as h
HERE = Path(__file__).parent
(HERE / f"{os.getpid()}.imported").touch()
print("nobody is to take this for an answer")
class Moved(h.Event):
    customer: str
    country: Literal["France"]
@h.named("Came", version=2)
class Came(h.Event):
    sku: Annotated[str, h.Tag("sku")]
    units: int
    shelf: str = ""
def doubled(old: h.Data) -> h.Data:
    return {"sku": old["sku"], "units": 100 // (old["units"] - 7)}
app = h.App("shop", records=[Moved, Came], upcasts=[h.Upcast("Came", 1, doubled), h.Retired("Gone")])
"""
"""The code of today: some of what was recorded it can't read, for several reasons."""


class Moved(h.Event):
    customer: str
    country: str
    street: str = ""


class Came(h.Event):
    sku: Annotated[str, h.Tag("sku")]
    units: int


class Gone(h.Event):
    sku: Annotated[str, h.Tag("sku")]


class Unclaimed(h.Event):
    number: int


def made(chance: random.Random, count: int) -> Iterator[list[h.Event]]:
    """Yield what is recorded together, from a seed."""
    for number in range(count):
        yield [
            chance.choice(
                (
                    Moved(f"c-{number}", chance.choice(("France", "France", "Spain"))),
                    Came(f"s-{number % 9}", chance.randrange(100)),
                    Gone(f"s-{number}"),
                    Unclaimed(number),
                )
            )
            for _ in range(chance.randrange(1, 4))
        ]


def loose(chance: random.Random, count: int) -> list[h.Loose]:
    """Return facts without a schema, some with fields that nobody knows."""
    return [
        h.Loose("Moved", {"customer": chance.choice((f"c-{n}", n)), "country": "France", chance.choice("abcdef"): 1}) for n in range(count)
    ]


def fill(url: str, seed: int, count: int = 400) -> None:
    """Write a log, without a schema in its first, its middle and its last part."""
    print("seed", seed)
    chance = random.Random(seed)
    with h.App("shop", records=[Moved, Came, Gone, Unclaimed]).open(url, run=False) as running:
        for part in range(3):
            strange = [_loose(fact, PLAIN) for fact in loose(chance, 20)]  # what `append` does not take of an app that has the class
            running.log.writer.submit(Facts(running.log, strange, None), 10)
            for events in made(chance, count // 3):
                running.log.append([h.Message(event) for event in events])
            running.record_all([Came("s", part), Moved("c", "Spain")])


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/log.db"


@pytest.fixture
def code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the name of an app that processes can import."""
    name = f"shop_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(NOW)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    return f"{name}:app"


@pytest.fixture
def three(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have three cores, and no log that is too small for them."""
    monkeypatch.setattr(ranges, "_cores", lambda: 3)
    monkeypatch.setattr(ranges, "POSITIONS_EACH", 10)


def app_of(code: str) -> h.App:
    module, _, name = code.partition(":")
    app = getattr(__import__(module), name)
    assert isinstance(app, h.App)
    return app


@contextmanager
def opened(url: str, app: h.App) -> Generator[tuple[Engine, Reader]]:
    with closing(open_engine(url)) as engine:
        reader = Reader(Names(), [*app.events, *app.handlers], app.called, app.lifts)
        reader.names.learn(engine.notes)
        yield engine, reader


def cut(url: str, app: h.App, cuts: Sequence[int]) -> Readings:
    """Read the log in parts, each as a process of its own does."""
    parts: list[Part] = []
    for after, until in pairwise(cuts):
        with opened(url, app) as (engine, reader):
            part = read_part(app, reader, engine, after, until, lambda _position: None)
            parts.append(msgspec.json.decode(msgspec.json.encode(part), type=Part))
    with opened(url, app) as (_, reader):
        return told(app, reader, parts)


@pytest.mark.parametrize("seed", range(6))
def test_it_is_the_same_wherever_the_log_is_cut(url: str, code: str, seed: int) -> None:
    """Verdicts, counts, first, last and all bad positions in order, reasons, and fields in the order in which they were met."""
    fill(url, seed)
    app = app_of(code)
    chance = random.Random(seed)
    whole = readings_of(url, app)
    assert {one.verdict for one in whole.names} >= {"fine", "impossible"}
    assert sum(len(one.troubles) for one in whole.names) >= 3

    for pieces in (1, 2, 3, 7, 40):
        inner = sorted(chance.randrange(1, whole.position) for _ in range(pieces - 1))
        assert cut(url, app, [0, *inner, whole.position]) == whole, inner
    assert cut(url, app, [0, *range(50, 60), whole.position]) == whole, "a position at a time"


@pytest.mark.parametrize("records", ["[]", "[{}", "{}]"])
def test_a_row_of_other_records_than_it_counts_stops_it(url: str, code: str, records: str) -> None:
    """It is said where that is, wherever the reading began. A text that is no list is none, either."""
    fill(url, 1)
    app = app_of(code)
    with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as file, file:
        [(position, count, text), *_] = file.execute(
            "select position, count, records from log where count > 1 and position > 100 order by position"
        )
        file.execute("update log set records = ? where position = ?", (records.replace("{}", text[1:-1]) if count else "", position))

    for after in (0, 50, position - 1):
        with opened(url, app) as (engine, reader), pytest.raises(h.Broken) as broken:
            read_part(app, reader, engine, after, position + 20, lambda _position: None)
        assert broken.value.facts["position"] == position


@pytest.mark.usefixtures("three")
def test_several_processes_tell_what_one_tells(url: str, code: str, tmp_path: Path) -> None:
    """And how far they are: never back, and to the end."""
    fill(url, 1)
    app = app_of(code)
    shown: list[tuple[int, int | None]] = []
    alone = readings_of(url, app)
    assert len(list(tmp_path.glob("*.imported"))) == 1, "who has only the object reads alone"

    assert readings_of(url, app, lambda done, whole: shown.append((done, whole)), named=code) == alone

    assert len(list(tmp_path.glob("*.imported"))) > 1
    assert shown == sorted(shown)
    assert shown[-1] == (alone.position, alone.position)


def test_a_small_log_is_read_in_one_process(url: str, code: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Starting others takes longer."""
    fill(url, 1, 10)

    assert main(["check", code, "--log", url, "--json"]) == 1

    assert json.loads(capsys.readouterr().out.splitlines()[-1])["readable"] is False
    assert len(list(tmp_path.glob("*.imported"))) == 1


@pytest.mark.usefixtures("three")
def test_the_command_reads_in_several_processes(url: str, code: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It knows by what name the app is imported."""
    fill(url, 1)

    assert main(["check", code, "--log", url, "--json"]) == 1

    names = json.loads(capsys.readouterr().out.splitlines()[-1])["names"]
    assert names == msgspec.to_builtins(readings_of(url, app_of(code)).names)
    assert len(list(tmp_path.glob("*.imported"))) > 1


@pytest.mark.usefixtures("three")
@pytest.mark.parametrize("when", ["at once", "in the middle"])
def test_what_a_process_could_not_do_is_done_here(url: str, code: str, tmp_path: Path, when: str) -> None:
    """Where it ends, at once or while it reads."""
    fill(url, 2)
    app = app_of(code)
    alone = readings_of(url, app)
    file = tmp_path / f"{code.partition(':')[0]}.py"
    ended = 'Path(HERE / f"{os.getpid()}.ended").touch() or os._exit(3)'
    elsewhere = 'if "happened.checking.ranges" in sys.orig_argv: '
    old = "    return {" if when == "in the middle" else "app = h.App("
    file.write_text(NOW.replace(old, f"{'    ' * (when != 'at once')}{elsewhere}{ended}\n{old}"))

    assert readings_of(url, app, named=code) == alone

    assert list(tmp_path.glob("*.ended"))


@pytest.mark.usefixtures("three")
def test_an_error_leaves_as_from_one_process(url: str, code: str, tmp_path: Path) -> None:
    """The first in the log, though another is met before it."""
    fill(url, 3)
    app = app_of(code)
    with closing(sqlite3.connect(tmp_path / "log.db")) as connection:
        positions = [position for (position,) in connection.execute("select position from log order by position")]
        for place in (len(positions) * 9 // 10, len(positions) // 2, len(positions) // 7):
            connection.execute("update log set records = '[[' where position = ?", (positions[place],))
        connection.commit()
    with pytest.raises(h.Broken) as alone:
        readings_of(url, app)

    with pytest.raises(h.Broken) as found:
        readings_of(url, app, named=code)

    assert (str(found.value), found.value.facts) == (str(alone.value), alone.value.facts)


@pytest.mark.usefixtures("three")
def test_a_name_that_is_not_noted_is_known_from_the_beginning(url: str, code: str, tmp_path: Path) -> None:
    """Then one process reads all: who begins in the middle does not know it."""
    fill(url, 4)
    app = app_of(code)
    with closing(sqlite3.connect(tmp_path / "log.db")) as connection:
        assert connection.execute("delete from note where key like 'name/%' and body like '%\"Moved\"%'").rowcount
        connection.commit()

    found = readings_of(url, app, named=code)

    assert found == readings_of(url, app)
    assert not any("number" in one.name for one in found.names)


def test_an_interrupt_ends_all_processes(url: str, code: str, tmp_path: Path) -> None:
    """While each of them is in the middle of an upcast that does not end."""
    fill(url, 5)
    file = tmp_path / f"{code.partition(':')[0]}.py"
    waits = '    (HERE / f"{os.getpid()}.waits").touch()\n    time.sleep(600)\n'
    file.write_text(NOW.replace("    return {", f"{waits}    return {{"))
    reading = (
        f"import signal, sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a shell lets what it starts in the background ignore it
        "from happened.checking import ranges\nranges._cores = lambda: 3\nranges.POSITIONS_EACH = 10\n"
        f"from happened.edge.main import main\nsys.exit(main(['check', {code!r}, '--log', {url!r}]))\n"
    )

    with subprocess.Popen([sys.executable, "-c", reading], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while len(waiting := list(tmp_path.glob("*.waits"))) < 3:
            assert process.poll() is None, "it reads"
        process.send_signal(signal.SIGINT)
        try:
            assert process.wait(60) != 0
        finally:
            process.kill()

    for one in waiting:
        with pytest.raises(ProcessLookupError):
            os.kill(int(one.stem), 0)
