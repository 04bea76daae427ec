"""A log in PostgreSQL that is filled with another one's rows: whole, or not at all, whatever happens meanwhile."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest

import happened as h
from happened.edge.main import main
from happened.opening import migrate
from happened.stores.postgres_tables import where_in
from tests.postgres_log.proxy import HOLD_COMMIT, LOSE_ANSWER, LOSE_COMMIT, Proxy
from tests.semantics.model import Balance, Deposit, bank
from tests.servers import fresh, server

WAIT = 20


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Return an export of a log of 40 commands."""
    url = f"sqlite:///{tmp_path}/log.db"
    with bank.open(url, run=False) as running:
        for number in range(40):
            running.dispatch(Deposit("ab"[number % 2], 1), id=f"d-{number}")
    h.export_log(url, tmp_path / "log.jsonl")
    return tmp_path / "log.jsonl"


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    with Proxy(server()) as proxy:
        yield proxy


def is_there(url: str) -> bool:
    """Say whether there is a schema of that name."""
    with psycopg.connect(server().url) as connection:
        return bool(connection.execute("select 1 from pg_namespace where nspname = %s", (where_in(url).schema,)).fetchall())


def check(url: str) -> None:
    """Check that a log is whole, is found by its index, and goes on."""
    with bank.open(url) as running:
        assert running.dispatch(Deposit("a", 1), id="d-0").repeated
        assert running.view(Balance).get("a", since=running.log.head, wait_seconds_max=WAIT).amount == 20
        running.dispatch(Deposit("a", 1))
        assert running.state(Balance, "a") == Balance("a", 21, 21)
        running.log.verify()


def test_what_fails_leaves_no_schema_and_no_rows(file: Path) -> None:
    """A row that was changed, an end that is missing; tables that were there before stay, without rows, and can be filled."""
    lines = file.read_bytes().splitlines(keepends=True)
    bad = file.with_name("bad.jsonl")
    for changed in (lines[:-1], [line.replace(b"d-30", b"d-xx") for line in lines]):
        bad.write_bytes(b"".join(changed))
        url = fresh()
        with pytest.raises(h.Broken):
            h.import_log(bad, url)
        assert not is_there(url)

        with psycopg.connect(server().url) as connection:
            connection.execute(f"create schema {where_in(url).schema}".encode())
        with pytest.raises(h.Broken):
            h.import_log(bad, url)
        assert is_there(url)
        h.import_log(file, url)
        check(url)


def test_a_log_that_is_there_is_not_filled(file: Path) -> None:
    """Not by a copy either, and not a schema of something else; it stays as it is."""
    url = fresh()
    with bank.open(url, run=False) as running:
        running.dispatch(Deposit("a", 5), id="own")
    for fill in (lambda: h.import_log(file, url), lambda: h.copy_log(f"sqlite:///{file.with_name('log.db')}", url)):
        with pytest.raises(h.Invalid, match="a log already"):
            fill()
    with bank.open(url, run=False) as running:
        assert running.state(Balance, "a") == Balance("a", 5, 1)
    other = fresh()
    with psycopg.connect(server().url) as connection:
        connection.execute(f"create schema {where_in(other).schema}".encode())
        connection.execute(f"create table {where_in(other).schema}.orders(id int)".encode())
    with pytest.raises(h.Invalid, match="something else"):
        h.import_log(file, other)
    assert is_there(other)


def test_of_two_who_fill_one_schema_at_once_one_does(file: Path) -> None:
    """The other one hears so, and takes nothing away from the first."""
    for _ in range(10):
        url = fresh()

        def fill(url: str) -> str:
            try:
                return h.import_log(file, url).id
            except h.Invalid as error:
                return str(error)

        with ThreadPoolExecutor(4) as pool:
            said = list(pool.map(fill, [url] * 4))

        assert sum("already" in one for one in said) == 3
        with h.open_log(url) as log:
            assert log.identity.id in said
        check(url)


def test_an_app_that_opens_it_meanwhile_waits_or_is_the_first(file: Path) -> None:
    """Whoever says first who the log is: there is one, with all of its rows."""
    for _ in range(10):
        url = fresh()
        with ThreadPoolExecutor(2) as pool:
            filled = pool.submit(h.import_log, file, url)
            opened = pool.submit(lambda: bank.open(url, run=False))  # noqa: B023 - called in this turn only
            with opened.result() as running:
                head = running.log.head
                identity = running.log.identity
            error = filled.exception()
        if error is None:
            assert identity.origin is not None
            check(url)
        else:
            assert isinstance(error, h.Invalid)
            assert identity.origin is None
            with bank.open(url, run=False) as running:
                assert running.log.identity == identity
                assert running.log.head == head


FILL = """
import os, signal, sys
import happened as h
def stop(done, _all):
    if done > 20:
        os.kill(os.getpid(), signal.SIGKILL)
import happened.log.portable as portable
portable.ROWS_MAX = 5
h.import_log(sys.argv[1], sys.argv[2], progress=stop)
"""


def test_who_is_killed_leaves_no_rows(file: Path) -> None:
    """Only tables, which the next one fills."""
    url = fresh()
    ended = subprocess.run([sys.executable, "-c", FILL, file, url], check=False, env=os.environ)
    assert ended.returncode == -signal.SIGKILL
    h.import_log(file, url)
    check(url)


@pytest.mark.parametrize("trouble", [LOSE_ANSWER, HOLD_COMMIT, LOSE_COMMIT])
def test_an_end_whose_answer_is_lost_is_learned(file: Path, proxy: Proxy, trouble: str) -> None:
    """It is whole, also where that takes a while, or it is not there."""
    empty = fresh()
    migrate(empty)  # it commits, too
    proxy.trouble = trouble
    if trouble == LOSE_COMMIT:
        with pytest.raises(h.StoreFailed, match="holds nothing"):
            h.import_log(file, proxy.url(empty))
        assert proxy.done == [trouble]
        h.import_log(file, empty)
    else:
        h.import_log(file, proxy.url(empty))
        assert proxy.done == [trouble]
    check(empty)


def test_the_command_copies_there_and_back(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By URL, without showing a password; it says who the copy is."""
    url, password = fresh(), "s3cret"
    there = url.replace("postgres@", f"postgres:{password}@")
    assert main(["copy", "--log", f"sqlite:///{file.with_name('log.db')}", "--to", there]) == 0
    said = capsys.readouterr()
    assert "copied to postgresql://" in said.out
    assert password not in said.out + said.err
    check(url)
    assert main(["copy", "--log", there, "--to", str(file.with_name("back.db"))]) == 0
    with bank.open(f"sqlite:///{file.with_name('back.db')}", run=False) as back:
        assert back.state(Balance, "a") == Balance("a", 21, 21)
    assert main(["adopt", "--log", there, "--reason", "moved"]) == 0
    assert main(["verify", "--log", there]) == 0
