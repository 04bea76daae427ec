"""An app against a dict: whatever is sent to it by two handles, by any way, and whatever is taken away meanwhile of what can be rebuilt, it answers as a dict would.

`HAPPENED_STEPS` says how many steps are taken by all machines together.
"""

import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple  # Any: what a refusal says

import pytest
from hypothesis import strategies as some
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from psycopg import sql

import happened as h
from happened.core.state import fold_of
from happened.core.store import Packs
from happened.log.compacting import compact, unpack
from happened.stores import runs, segments
from happened.stores.postgres_tables import where_in
from tests.faults.machine import Counting, portions, run
from tests.semantics.model import Balance, Deposit, Deposited, Seat, Take, Transfer, bank
from tests.servers import fresh

ACCOUNTS = ("a", "b", "c", "é")
SEATS = ("s1", "s2", "s3")
IDS = tuple(f"id-{n}" for n in range(15))

handles = some.integers(0, 1)
accounts = some.sampled_from(ACCOUNTS)
amounts = some.integers(0, 20)
commands = (
    some.builds(Deposit, accounts, amounts)
    | some.builds(Transfer, accounts, accounts, amounts)
    | some.builds(Take, some.sampled_from(SEATS), accounts)
)
known = some.none() | some.sampled_from(IDS)
sent = some.builds(h.Message, commands, id=known)
parts = some.floats(0, 1)
states = some.sampled_from([Balance, Seat])


class Told(NamedTuple):
    """What was said of an id first: of which command, and at which position, or why it was refused."""

    command: h.Command | h.Event
    position: int | None
    refused: str = ""


class Model:
    """What is to be known."""

    def __init__(self) -> None:
        self.balances: dict[str, Balance] = {}
        self.seats: dict[str, Seat] = {}

    def copy(self) -> "Model":
        """Return another one that says the same."""
        other = Model()
        other.balances, other.seats = dict(self.balances), dict(self.seats)
        return other

    def of(self, state: type[h.State]) -> dict[tuple[Any, ...], h.State]:
        """Return all states of a class by key."""
        return {(key,): one for key, one in (self.balances if state is Balance else self.seats).items()}

    def amount(self, account: str) -> int:
        """Return what is in an account."""
        return self.balances[account].amount if account in self.balances else 0

    def change(self, account: str, by: int) -> None:
        """Change what is in an account."""
        before = self.balances.get(account, Balance(account))
        self.balances[account] = Balance(account, before.amount + by, before.changes + 1)

    def decide(self, command: h.Command | h.Event) -> str:
        """Do what a command wants, or say why not."""
        match command:
            case Deposit() | Deposited():
                self.change(command.account, command.amount)
            case Transfer():
                if command.amount > self.amount(command.source):
                    return f"only {self.amount(command.source)} in {command.source}"
                self.change(command.source, -command.amount)
                self.change(command.target, command.amount)
            case Take():
                if command.seat in self.seats and self.seats[command.seat].who:
                    return f"{command.seat} is taken"
                self.seats[command.seat] = Seat(command.seat, command.who)
            case _:
                raise AssertionError(f"{command!r} is none of the app's")
        return ""


class Apps(RuleBasedStateMachine):
    """Two handles of one log, of which the first runs what runs in the background, and what is to be known."""

    def __init__(self, url_in: Callable[[Path], str], counting: Counting) -> None:
        super().__init__()
        self.counting = counting
        self.folder = Path(tempfile.mkdtemp(prefix="happened-machine-"))
        self.url = url_in(self.folder)
        self.model = Model()
        self.told: dict[str, Told] = {}
        self.past: list[tuple[int, Model]] = []
        self.running: list[h.Running] = []

    @initialize()
    def begin(self) -> None:
        """Open both handles."""
        self.running = [bank.open(self.url), bank.open(self.url, run=False)]

    def teardown(self) -> None:
        """Hold all there is against the model, with nothing in memory and all views as they lie."""
        try:
            if self.running:
                self.restart()
                for state in (Balance, Seat):
                    self.ask(0, state)
                self.running[1].log.verify()
        finally:
            for running in self.running:
                running.close()
            shutil.rmtree(self.folder)

    # --- what is to be said

    def say(self, given: h.Message, tell: Callable[[], h.Receipt]) -> None:
        """Send something, and hold what is said of it against the model."""
        before = self.told.get(given.id or "")
        if before is not None and before.command != given.body:
            with pytest.raises(h.IdReused):
                tell()
            return
        if before is not None and before.refused:
            with pytest.raises(h.Refused, match=before.refused):
                tell()
            return
        if before is not None:
            receipt = tell()
            assert receipt.repeated
            assert receipt.position == before.position
            return
        refused = self.model.decide(given.body)
        if refused:
            with pytest.raises(h.Refused, match=refused):
                tell()
            self.note(given, None, refused)
        else:
            receipt = tell()
            assert not receipt.repeated
            self.note(given, receipt.position)

    def note(self, given: h.Message, position: int | None, refused: str = "") -> None:
        """Keep what was said of an id."""
        if given.id is not None:
            self.told[given.id] = Told(given.body, position, refused)

    # --- what is done

    @rule(handle=handles, given=sent)
    def dispatch(self, handle: int, given: h.Message) -> None:
        """Dispatch one command, perhaps with an id that is known."""
        self.counting.steps += 1
        self.say(given, lambda: self.running[handle].dispatch(given.body, id=given.id))  # type: ignore[arg-type]  # it is a command

    @rule(handle=handles, event=some.builds(Deposited, accounts, amounts), id=known)
    def record(self, handle: int, event: Deposited, id: str | None) -> None:
        """Record a fact."""
        self.counting.steps += 1
        known_id = id and f"fact-{id}"
        self.say(h.Message(event, known_id), lambda: self.running[handle].record(event, id=known_id))

    @rule(handle=handles, given=some.lists(sent, min_size=1, max_size=4, unique_by=lambda one: one.id or object()))
    def dispatch_all(self, handle: int, given: Sequence[h.Message]) -> None:
        """Dispatch several, each by itself: what is refused does not stop the rest."""
        self.counting.steps += 1
        fresh = [one for one in given if one.id not in self.told]
        said = list(self.running[handle].dispatch_all(fresh))
        assert len(said) == len(fresh)
        for one, told in zip(fresh, said, strict=True):
            refused = self.model.decide(one.body)
            assert isinstance(told, h.Refused) == bool(refused)
            assert isinstance(told, h.Receipt) or refused in str(told)
            self.note(one, told.position if isinstance(told, h.Receipt) else None, refused)

    @rule(handle=handles, given=some.lists(commands, min_size=1, max_size=3))
    def dispatch_together(self, handle: int, given: Sequence[h.Command]) -> None:
        """Dispatch several: all, or none if one is refused."""
        self.counting.steps += 1
        model = self.model.copy()
        refused = ""
        for command in given:
            refused = refused or model.decide(command)
        if refused:
            with pytest.raises(h.Refused, match=refused):
                self.running[handle].dispatch_together(given)
        else:
            assert len(self.running[handle].dispatch_together(given)) == len(given)
            self.model = model

    @rule(handle=handles, given=some.lists(sent, min_size=1, max_size=4, unique_by=lambda one: one.id or object()), stops=some.booleans())
    def enqueue(self, handle: int, given: Sequence[h.Message], stops: bool) -> None:
        """Have several kept, and decided by whoever runs: in their order, also where nobody runs before they are all kept."""
        self.counting.steps += 1
        fresh = [one for one in given if one.id not in self.told]
        if stops:
            self.running[0].close()
            handle = 1
        kept = [self.running[handle].enqueue(one.body, id=one.id) for one in fresh]  # type: ignore[arg-type]  # it is a command
        if stops:
            self.running[0] = bank.open(self.url)
        for one, receipt in zip(fresh, kept, strict=True):
            refused = self.model.decide(one.body)
            if refused:
                with pytest.raises(h.Refused, match=refused):
                    self.running[1 - handle].outcome(receipt)
            else:
                self.running[1 - handle].outcome(receipt)
            self.note(one, receipt.position, refused)

    @rule(handle=handles, given=sent)
    def enqueue_known(self, handle: int, given: h.Message) -> None:
        """Enqueue a command whose id is known: it is kept once, and another one under that id is not."""
        self.counting.steps += 1
        before = self.told.get(given.id or "")
        if before is None:
            return
        if before.command != given.body:
            with pytest.raises(h.IdReused):
                self.running[handle].enqueue(given.body, id=given.id)  # type: ignore[arg-type]  # it is a command
        else:
            assert self.running[handle].enqueue(given.body, id=given.id).repeated  # type: ignore[arg-type]  # it is a command

    @rule()
    def restart(self) -> None:
        """Close both handles, and open both."""
        self.counting.steps += 1
        for running in self.running:
            running.close()
        self.running = [bank.open(self.url), bank.open(self.url, run=False)]

    @rule(views=some.booleans(), snapshots=some.booleans())
    def forget(self, views: bool, snapshots: bool) -> None:
        """Take away what can be rebuilt, while nobody runs."""
        self.counting.steps += 1
        for running in self.running:
            running.close()
        if self.url.startswith("postgresql"):
            forget_tables(self.url, views=views, snapshots=snapshots)
        else:
            for kind in ["views"] * views + ["snapshots"] * snapshots:
                for file in self.folder.glob(f"log.{kind}.db*"):
                    file.unlink()
        self.running = [bank.open(self.url), bank.open(self.url, run=False)]

    @rule(state=states)
    def rebuild(self, state: type[h.State]) -> None:
        """Build a view anew."""
        self.counting.steps += 1
        self.running[0].rebuild(state)

    @rule(handle=handles, state=states)
    def snap(self, handle: int, state: type[h.State]) -> None:
        """Take a snapshot of all states."""
        self.counting.steps += 1
        log = self.running[handle].log
        if log.head:
            self.running[handle].snapshots.take(fold_of(state), log.head)

    @precondition(lambda self: self.running and isinstance(self.running[0].log.engine, Packs))
    @rule(handle=handles, keep=some.integers(0, 30), undo=some.booleans())
    def pack(self, handle: int, keep: int, undo: bool) -> None:
        """Pack all but the last records away, or put some back."""
        self.counting.steps += 1
        log = self.running[handle].log
        if undo:
            unpack(log, after=max(0, log.head - keep))
        else:
            compact(log, keep=keep)

    # --- what is asked

    @rule(handle=handles, state=states)
    def ask(self, handle: int, state: type[h.State]) -> None:
        """Ask views and states for all there is, as of now."""
        self.counting.steps += 1
        running, expected = self.running[handle], self.model.of(state)
        head = running.log.head
        rows = running.view(state).rows(since=head)
        assert {tuple(getattr(row, name) for name in fold_of(state).key): row for row in rows} == expected
        assert len(rows) == len(expected)
        running.catch_up(head)
        assert running.states(state) == expected
        for key in [*expected, ("never",)]:
            assert running.state(state, *key, since=head) == expected.get(key)
            assert running.view(state).find(*key, since=head) == expected.get(key)

    @rule(handle=handles, least=amounts)
    def ask_where(self, handle: int, least: int) -> None:
        """Ask a view for some rows."""
        self.counting.steps += 1
        running = self.running[handle]
        rows = running.view(Balance).where("amount >= ?", least).order_by("account").rows(since=running.log.head)
        assert [*rows] == [one for _, one in sorted(self.model.balances.items()) if one.amount >= least]

    @rule(handle=handles, command=commands)
    def would(self, handle: int, command: h.Command) -> None:
        """Ask what would come of a command: nothing is recorded."""
        self.counting.steps += 1
        running = self.running[handle]
        running.catch_up()
        before = running.log.head
        refused = self.model.copy().decide(command)
        if refused:
            with pytest.raises(h.Refused, match=refused):
                running.would(command)
        else:
            assert running.would(command)
        assert running.log.head == before

    @rule()
    def remember(self) -> None:
        """Keep what is known now, to be asked for later."""
        self.counting.steps += 1
        self.past.append((self.running[0].log.head, self.model.copy()))

    @precondition(lambda self: self.past)
    @rule(handle=handles, which=parts, state=states)
    def look_back(self, handle: int, which: float, state: type[h.State]) -> None:
        """Ask what was known then."""
        self.counting.steps += 1
        position, model = self.past[int(which * (len(self.past) - 1))]
        past, expected = self.running[handle].at(position), model.of(state)
        for key in [*self.model.of(state), ("never",)]:
            assert past.state(state, *key) == expected.get(key)


def forget_tables(url: str, *, views: bool, snapshots: bool) -> None:
    """Drop the tables of views and of snapshots in a schema, and leave the log's own."""
    where = where_in(url)
    with where.connect() as connection:
        connection.autocommit = True
        tables = connection.execute(
            "select tablename from pg_tables where schemaname = %s and tablename like '\\_%%'", [where.schema]
        ).fetchall()
        for (table,) in tables:
            if snapshots if table in ("_snapshot", "_chunk") else views:
                connection.execute(sql.SQL("drop table {} cascade").format(sql.Identifier(where.schema, table)))


def in_a_file(folder: Path) -> str:
    """Return the URL of a file."""
    return f"sqlite:///{folder}/log.db"


def in_postgres(_folder: Path) -> str:
    """Return the URL of a schema."""
    return fresh()


@pytest.mark.parametrize(
    ("url_in", "share", "portion"),
    [
        pytest.param(url_in, share, portion, id=f"{url_in.__name__}-{portion}")
        for url_in, share in [(in_a_file, 0.1), (in_postgres, 0.02)]
        for portion in portions(share)
    ],
)
def test_an_app_answers_as_a_dict_does(url_in: Callable[[Path], str], share: float, portion: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Any order of commands, facts, known ids, restarts, packing, and of views and snapshots that are built anew or taken away."""
    monkeypatch.setattr(runs, "FLUSH_RECORDS", 32)
    monkeypatch.setattr(segments, "ROWS_MAX", 8)

    def made(counting: Counting) -> type[RuleBasedStateMachine]:
        class Machine(Apps):
            def __init__(self) -> None:
                super().__init__(url_in, counting)

        Machine.__name__ = Machine.__qualname__ = f"Apps {url_in.__name__}"
        return Machine

    run(made, share, portion)
