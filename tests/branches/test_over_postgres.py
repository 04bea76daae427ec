"""Branches of a log in PostgreSQL, kept in files: they read it as it was, and write nothing to it."""

import json
import os
import subprocess
import sys
import threading
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any

import psycopg
import pytest

import happened as h
from happened.core.store import Commit
from happened.edge.main import main
from happened.log.compacting import compact
from happened.opening import open_engine
from happened.stores.over import Over
from happened.stores.postgres_prefix import PostgresPrefix
from happened.stores.postgres_tables import where_in
from happened.testing import Clock
from tests.branches.conftest import told
from tests.branches.desk import Balance, Paid, desk
from tests.servers import Server, fresh, server


def contents(url: str) -> dict[str, list[Any]]:
    """Return all rows of all tables of a log's schema as they lie there, with the transactions that wrote them."""
    schema = where_in(url).schema
    with psycopg.connect(server().url) as connection:
        names = connection.execute("select relname, relkind, oid from pg_class where relnamespace = %s::regnamespace", (schema,)).fetchall()
        found: dict[str, list[Any]] = {"": sorted(map(repr, names))}
        for name, kind, _ in names:
            if kind == "r":
                found[name] = connection.execute(
                    f'select ctid::text, xmin::text, entry::text from "{schema}"."{name}" as entry'.encode()
                ).fetchall()
    return found


def saved(url: str, kept: str) -> None:
    """Make a log of twenty payments, and keep a branch of it in which the third is another one."""
    with desk.open(url, run=False, views="memory:", source=Clock()) as origin:
        for number in range(20):
            origin.record(Paid(f"a{number % 3}", Decimal(number)), id=f"paid-{number}")
        third = origin.log.find("paid-2")[0].position
        with origin.branch(h.Change(third, Paid("a2", Decimal(500)))) as branch:
            branch.record(Paid("a0", Decimal(1)), id="mine")
            branch.save(kept)


READ = """
import json, sys
import happened as h
from tests.branches.desk import Balance, Draw, Paid, Total, desk
from happened.checking.ranges import readings_of
from decimal import Decimal
with desk.open(sys.argv[1]) as again:
    early = [*again.log.find("behind"), *(name for name in again.log.names.by_number.values() if name.name == "Strange")]
    receipt = again.dispatch(Draw("a2", Decimal(5)), id="drawn")
    found = {
        "a2": str(again.state(Balance, "a2").amount),
        "asked": [record.id for record in again.log.read(h.query(account="a2"))],
        "view": str(again.view(Balance).get("a2", since=receipt).amount),
        "found": [len(again.log.find(id)) for id in ("paid-4", "mine", "behind")],
        "early": early,
        "verified": again.log.verify().position == again.log.head,
        "then": str(again.at(again.log.find("paid-5")[0].last).state(Balance, "a2").amount),
        "trace": again.trace("paid-4") is not None,
        "flow": again.flow() is not None,
    }
    again.log.append([Paid("a1", Decimal(3))])
readings_of(sys.argv[1], desk)
h.copy_log(sys.argv[1], "copy.db")
h.export_log(sys.argv[1], "export.jsonl")
print(json.dumps(found))
"""


def in_another_process(folder: Path, url: str, **environment: str) -> tuple[dict[str, Any], str]:
    """Read a branch, go on with it, copy and export it."""
    for name in ("copy.db", "export.jsonl"):
        (folder / name).unlink(missing_ok=True)
    path = os.pathsep.join([*sys.path, str(Path.cwd())])
    done = subprocess.run(
        [sys.executable, "-c", READ, url],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path, **environment},
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    return json.loads(done.stdout) if done.returncode == 0 else {}, done.stderr


@pytest.mark.parametrize("filed", [True, False])
def test_a_saved_branch_reads_the_log_as_it_was_and_writes_nothing_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, filed: bool
) -> None:
    """In another process, by a role that may only select, when the log has gone on; also where the index is to be made anew, as after an erasure."""
    with psycopg.connect(server().url, autocommit=True) as connection:
        if connection.execute("select 1 from pg_roles where rolname = 'onlooker'").fetchone() is None:
            connection.execute("create role onlooker login")
    url = fresh().replace("postgres@", "@")  # whoever PGUSER says
    kept = f"sqlite:///{tmp_path}/desk.branch-x.db"
    schema = where_in(url).schema
    monkeypatch.setenv("PGUSER", "postgres")
    saved(url, kept)
    with h.open_log(url) as guest:
        guest.append([h.Loose("Strange", {"account": "a2"}, tags=(("account", "a2"),))], id="behind")
    with psycopg.connect(server().url, autocommit=True) as connection:
        if not filed:
            for table in ("tag", "used", "block", "counted"):
                connection.execute(f'delete from "{schema}".{table}'.encode())
            connection.execute(f'update "{schema}".head set filed = 0, tagged = 0'.encode())
        connection.execute(f'grant usage on schema "{schema}" to onlooker'.encode())
        connection.execute(f'grant select on all tables in schema "{schema}" to onlooker'.encode())
    before = contents(url)

    found, errors = in_another_process(tmp_path, kept, PGUSER="onlooker")

    amount = 500 + sum(range(5, 20, 3)) - 5
    assert found == {
        "a2": str(amount),
        "asked": [*(f"paid-{number}" for number in range(2, 20, 3)), "drawn#1"],
        "view": str(amount),
        "found": [1, 1, 0],
        "early": [],
        "verified": True,
        "then": str(500 + 5),
        "trace": True,
        "flow": True,
    }, errors
    assert contents(url) == before


def test_what_comes_behind_the_pin_is_not_seen(tmp_path: Path) -> None:
    """Neither by reading, nor by a tag, an id, a sum; an id that was used there meanwhile is free in the branch."""
    url, kept = fresh(), f"sqlite:///{tmp_path}/desk.branch-x.db"
    saved(url, kept)
    with desk.open(url, run=False, views="memory:") as origin, desk.open(kept, run=False, views="memory:") as branch:
        flow = branch.flow()
        for number in range(5):
            origin.record(Paid("a2", Decimal(1000)), id=f"behind-{number}")
        records = told(branch)
        assert [record.id for record in records if record.id.startswith("behind")] == []
        assert branch.log.verify().position == branch.log.head
        assert branch.state(Balance, "a2") == Balance("a2", Decimal(555))
        assert list(branch.log.read(h.query(account="a2"))) == [one for one in records if one.body.account == "a2"]
        assert branch.log.find("behind-0") == []
        assert branch.flow() == flow

        receipt = branch.record(Paid("a2", Decimal(7)), id="behind-0")
        assert not receipt.repeated
        assert branch.state(Balance, "a2", since=receipt) == Balance("a2", Decimal(562))
        assert branch.record(Paid("a1", Decimal(1)), id="paid-1").repeated


SAID = [
    ["show", "paid-2"],
    ["state", "Balance", "a2"],
    ["view", "Balance", "--order", "account"],
    ["rebuild", "Balance"],
    ["stuck"],
    ["replicas"],
    ["trace", "paid-2"],
    ["why", "Balance", "a2"],
    ["at", "18", "state", "Balance"],
    ["at", "18", "view", "Balance", "--order", "account"],
    ["diff", "17", "23"],
    ["step", "account=a2", "--all"],
    ["blame", "Balance", "a2", "amount"],
    ["bisect", "amount < 510", "Balance", "a2"],
    ["check"],
    ["check", "--decide"],
    ["check", "--fold"],
    ["compact"],
    ["branch", "list"],
]
"""What says the same of one branch as of another that is like it."""
DONE = [
    ["tail", "-n", "100"],
    ["views"],
    ["workers"],
    ["flow"],
    ["latency", "Balance"],
    ["snapshots", "--take"],
    ["snapshots"],
    ["verify"],
    ["stats", "--count"],
    ["copy", "--to", "copy.db"],
    ["export", "export.jsonl"],
    ["branch", "new", "again", "--drop", "26"],
    ["branch", "run", "again"],
    ["branch", "diff", "again"],
    ["verify", "--log", "sqlite:///desk.branch-x.branch-again.db"],
    ["branch", "drop", "again"],
    ["erase", "mine", "--actor", "me", "--reason", "asked", "--yes"],
    ["erase", "paid-1", "--actor", "me", "--reason", "asked", "--yes"],
    ["verify"],
]
"""What also says when that was, how large, or of which log."""


def test_each_command_does_with_a_branch_what_it_does_with_one_over_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """And nothing is written to the log in PostgreSQL."""
    found: list[list[tuple[list[str], int, str, object]]] = []
    database = fresh()
    for url in ("sqlite:///desk.db", database):
        folder = tmp_path / str(len(found))
        folder.mkdir()
        monkeypatch.chdir(folder)
        Path("pyproject.toml").write_text('[tool.happened]\napp = "tests.branches.desk:desk"\n')
        saved(url, "sqlite:///desk.branch-x.db")
        before = contents(database) if url == database else {}
        answers: list[tuple[list[str], int, str, object]] = []
        for command in [*SAID, *DONE]:
            more = [] if "--log" in command else ["--log", "sqlite:///desk.branch-x.db"]
            code = main([*command, *more])
            said = capsys.readouterr()
            answers.append((command, code, said.err, said.out if command in SAID else bool(said.out)))
        found.append(answers)
        if url == database:
            assert contents(database) == before

    for of_file, of_database in zip(*found, strict=True):
        assert of_file == of_database
    assert {" ".join(command): code for command, code, *_ in found[0] if code} == {
        "diff 17 23": 1,
        "bisect amount < 510 Balance a2": 1,
        "compact": 2,
        "workers": 1,
        "branch diff again": 1,
        "erase paid-1 --actor me --reason asked --yes": 2,
    }


def test_a_log_that_moves_is_found_by_its_service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The branch notes the service, and not where that led."""
    services, kept = tmp_path / "services", f"sqlite:///{tmp_path}/desk.branch-x.db"
    monkeypatch.setenv("PGSERVICEFILE", str(services))

    def lead_to(folder: Path) -> None:
        services.write_text(f"[shop]\nhost={folder}\nuser=postgres\ndbname=postgres\n")

    lead_to(server().folder)
    saved(f"postgresql://?service=shop&schema={where_in(fresh()).schema}", kept)
    lead_to(tmp_path)
    with pytest.raises(h.StoreFailed, match=r"postgresql://\?service=shop&schema=\w+ can't be reached"):
        desk.open(kept, run=False)
    (tmp_path / ".s.PGSQL.5432").symlink_to(server().folder / ".s.PGSQL.5432")
    with desk.open(kept, run=False, views="memory:") as branch:
        assert branch.state(Balance, "a2") == Balance("a2", Decimal(555))


def test_the_log_goes_on_while_branches_of_it_are_opened_and_read(tmp_path: Path) -> None:
    """Each is what it was when it was kept, whenever it is looked at."""
    url, kept = fresh(), f"sqlite:///{tmp_path}/desk.branch-x.db"
    saved(url, kept)
    with desk.open(kept, run=False, views="memory:") as branch:
        expected, found = told(branch), branch.states(Balance)
    stop = threading.Event()
    with desk.open(url, views="memory:") as origin:

        def busy() -> None:
            number = 0
            while not stop.is_set():
                number += 1
                origin.record(Paid(f"a{number % 3}", Decimal(1)), id=f"busy-{number}")

        thread = threading.Thread(target=busy)
        thread.start()
        try:
            for number in range(8):
                origin.catch_up(origin.log.wait(origin.log.head, 10))
                with desk.open(kept, run=False, views="memory:") as branch:
                    assert told(branch) == expected
                    for account in ("a0", "a1", "a2"):
                        own = [record for record in expected if getattr(record.body, "account", "") == account]
                        assert list(branch.log.read(h.query(account=account))) == own
                        assert branch.state(Balance, account) == found[account,]
                    assert branch.log.find(f"busy-{number + 1}") == []
        finally:
            stop.set()
            thread.join()


Owner = Annotated[str, h.Tag("owner")]


def by_owner() -> h.App:
    """Return the desk, by code that finds what was paid by other tags."""

    @h.named("Paid")
    class PaidTo(h.Event):
        account: Owner
        amount: Decimal

    return h.App("desk", records=[PaidTo], ignores=ALL_BUT_PAID)


ALL_BUT_PAID = ["Draw", "Warn", "Charge", "Drawn", "Warned", "Charged", "Opened"]


def test_code_that_reads_tags_otherwise_finds_what_it_should_and_changes_no_index(tmp_path: Path) -> None:
    """Whoever comes first, the branch by other code or the log."""
    url, kept = fresh(), f"sqlite:///{tmp_path}/desk.branch-x.db"
    saved(url, kept)
    before = contents(url)
    other = by_owner()
    own = [f"paid-{number}" for number in range(2, 20, 3)]
    with other.open(kept, run=False, views="memory:") as branch:
        assert [record.id for record in branch.log.read(h.query(owner="a2"))] == own
        assert contents(url) == before

    with desk.open(kept, run=False, views="memory:") as branch:
        assert [record.id for record in branch.log.read(h.query(account="a2"))] == own
        with other.open(url, run=False, views="memory:"):  # makes the index of the log anew
            changed = contents(url)
            assert changed["tag"] != before["tag"]
            assert [record.id for record in branch.log.read(h.query(account="a2"))] == own
            assert contents(url) == changed


@pytest.fixture
def gone(tmp_path: Path) -> tuple[str, str]:
    """Give the URLs of a log and of a branch of it, which is open until the schema is dropped."""
    url, kept = fresh(), f"sqlite:///{tmp_path}/desk.branch-x.db"
    saved(url, kept)
    with desk.open(kept, run=False, views="memory:") as branch:
        with psycopg.connect(server().url) as connection:
            connection.execute(f'drop schema "{where_in(url).schema}" cascade'.encode())
        with pytest.raises(h.StoreFailed, match="could not be read"):
            list(branch.log.read(h.query(account="a2")))
    return url, kept


def test_a_log_that_is_gone_is_named(gone: tuple[str, str]) -> None:
    """And nothing is made in its place."""
    url, kept = gone
    with pytest.raises(h.Invalid, match=r"desk.branch-x.db is a branch of a log that can't be opened: there is no log at postgresql://"):
        desk.open(kept, run=False)
    with psycopg.connect(server().url) as connection:
        assert connection.execute("select 1 from pg_namespace where nspname = %s", (where_in(url).schema,)).fetchall() == []


def test_another_log_in_the_schema_is_diverged(tmp_path: Path) -> None:
    """When the branch is opened, and while it is open with the next look at the index."""
    url, kept = fresh(), f"sqlite:///{tmp_path}/desk.branch-x.db"
    saved(url, kept)
    with desk.open(kept, run=False, views="memory:") as branch:
        with psycopg.connect(server().url) as connection:
            connection.execute(f'drop schema "{where_in(url).schema}" cascade'.encode())
        with desk.open(url, run=False, views="memory:") as other:
            for number in range(30):
                other.record(Paid("a2", Decimal(1)), id=f"other-{number}")
        with pytest.raises(h.Diverged, match="no longer has what it had"):
            list(branch.log.read(h.query(account="a2")))
    with pytest.raises(h.Diverged, match="no longer has what it had"):
        desk.open(kept, run=False, views="memory:")


def test_a_password_is_not_kept_and_where_it_is_missing_that_is_said(tmp_path: Path) -> None:
    """It comes from the environment, as libpq reads it."""
    own = Server("password_encryption=scram-sha-256")
    kept = f"sqlite:///{tmp_path}/desk.branch-x.db"
    try:
        with psycopg.connect(own.url, autocommit=True) as connection:
            connection.execute("create role clerk login password 'se-cret'")
            connection.execute("create schema desk authorization clerk")
            rules = own.folder / "data" / "pg_hba.conf"
            rules.write_text("local all clerk scram-sha-256\n" + rules.read_text())
            connection.execute("select pg_reload_conf()")
        saved(f"postgresql://clerk:se-cret@/postgres?host={own.folder}&schema=desk", kept)
        assert not [path for path in tmp_path.iterdir() if b"se-cret" in path.read_bytes()]

        found, errors = in_another_process(tmp_path, kept, PGPASSWORD="se-cret")
        assert found.get("verified"), errors
        for password, text in (("", "no password supplied"), ("wrong", "password authentication failed")):
            _, errors = in_another_process(tmp_path, kept, PGPASSWORD=password)
            assert f"postgresql://clerk@/postgres?host={own.folder}&schema=desk can't be reached" in errors
            assert "a branch keeps no password: give it in PGPASSWORD" in errors
            assert text in errors
            assert "desk.branch-x.db is a branch of a log" in errors
        own.stop()
        with pytest.raises(h.StoreFailed, match=r"desk\.branch-x\.db is a branch of a log that can't be opened") as raised:
            desk.open(kept, run=False)
        assert raised.value.facts["url"] == f"postgresql://clerk@/postgres?host={own.folder}&schema=desk"
        own.start()
    finally:
        own.remove()


def test_a_log_below_a_branch_can_not_be_written_through_it(tmp_path: Path) -> None:
    """Nor is a branch kept in a database: a file is to be named."""
    url, kept = fresh(), f"sqlite:///{tmp_path}/desk.branch-x.db"
    saved(url, kept)
    engine = open_engine(kept)
    assert isinstance(engine, Over)
    below = PostgresPrefix(url, engine.pin.position, engine.pin.check)
    with pytest.raises(h.Invalid, match="only read"):
        below.append(lambda _: Commit(), 0)
    below.close()
    engine.close()
    with (
        desk.open(url, run=False, views="memory:") as origin,
        origin.branch() as branch,
        pytest.raises(h.Invalid, match=r"names no new file .* whatever it is of: write sqlite:///path"),
    ):
        branch.save(fresh())


def test_a_log_of_a_release_before_cold_parts_is_read_and_so_it_is_once_it_has_one(tmp_path: Path) -> None:
    """The branch is open while a newer release takes its steps, and packs what lies below it."""
    url = fresh()
    saved(url, f"sqlite:///{tmp_path}/branch.db")
    where = where_in(url)
    with psycopg.connect(server().url, autocommit=True) as connection:  # as a release before cold parts left it
        connection.execute(where.sql("drop table @segment"))
        connection.execute(where.sql("delete from @migration where number >= 3"))

    with desk.open(f"sqlite:///{tmp_path}/branch.db", run=False, views="memory:") as branch:
        before = [(record.position, record.id) for record in branch.log.read()]
        assert len(before) > 20
        with h.open_log(url) as log:
            assert compact(log, keep=0).hot_rows == 1
        assert [(record.position, record.id) for record in branch.log.read()] == before
        assert [record.id for record in branch.log.read(h.query(account="a2"))] == [
            record.id for record in branch.log.read() if ("account", "a2") in record.tags
        ]
        assert branch.state(Balance, "a2") == Balance("a2", Decimal(500 + 5 + 8 + 11 + 14 + 17))
        assert branch.log.verify().position == branch.log.head
