"""`store="decisions"`: what was asked and what the outside answered is not kept; ids, decisions and refusals are."""

import os
import subprocess
import sys
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Annotated

import pytest

import happened as h
from happened.log.row import SALT_BYTES
from tests.audit.test_erase import files_with

No = Annotated[str, h.Tag("no")]
ASKED, HEARD = "as-it-was-asked", "as-it-was-answered"


class Opened(h.Event):
    no: No
    amount: Decimal


class Open(h.Command):
    no: No
    amount: Decimal
    words: frozenset[str] = frozenset()
    why: str = ""


class Account(h.State):
    no: No
    amount: Decimal = Decimal(0)

    def evolve(self, event: Opened) -> "Account":
        return self.but(amount=self.amount + event.amount)


def rating(no: str) -> str:
    """Say something that is not to be kept."""
    return f"{HEARD} {no}"


def open_account(command: Open, account: Account, world: h.World) -> Iterator[Opened]:
    """Ask, then decide."""
    world.ask(rating, command.no)
    if account.amount:
        raise h.Refused("it is open", left=str(account.amount))
    yield Opened(command.no, command.amount)


def app(store: str) -> h.App:
    """Return the app, with what it is to keep."""
    return h.App("accounts", records=[Opened], deciders=[open_account], gateways=[rating], views=[Account], store=store)


@pytest.fixture
def url(tmp_path: Path) -> str:
    """Return the URL of a log that is not there yet."""
    return f"sqlite:///{tmp_path}/log.db"


@pytest.mark.parametrize("store", ["all", "decisions"])
def test_what_was_asked_and_answered_is_kept_or_not_and_all_else_is_the_same(url: str, store: str) -> None:
    """Headers, decisions, refusals, states and the chain; the choice stands in the wiring that the log has recorded."""
    with app(store).open(url, run=False) as running:
        receipt = running.dispatch(Open("1", Decimal("1.50"), why=ASKED), id="one", actor="ann")
        with pytest.raises(h.Refused):
            running.dispatch(Open("1", Decimal(2)), id="two")
        running.record(Opened("2", Decimal(3)), id="fact")
        verified = running.log.verify()
        asked, *_ = running.log.find("one")
        records = list(running.log.reader.records(asked))
        assert (records[0].kind, records[0].name, records[0].id, records[0].actor) == ("input", "Open", "one", "ann")
        assert (records[0].body is None) == (store == "decisions")
        assert records[-1].body == receipt.events[0] == Opened("1", Decimal("1.50"))
        [wiring] = [record for record in running.log.read() if record.name == "topology"]
        assert wiring.body["store"] == store
        assert verified.erased == 0
        assert verified.kinds.get("answer", 0) == (2 if store == "all" else 0)
        assert running.states(Account) == {("1",): Account("1", Decimal("1.50")), ("2",): Account("2", Decimal(3))}
    assert bool(files_with(url, ASKED)) == (store == "all")
    assert bool(files_with(url, HEARD)) == (store == "all")


def test_a_known_id_answers_and_another_body_under_it_is_found_by_its_digest(url: str) -> None:
    """Also a refusal, and also in another process, where a set has another order."""
    words = frozenset(f"word-{number}" for number in range(20))
    with app("decisions").open(url, run=False) as running:
        first = running.dispatch(Open("1", Decimal("1.50"), words), id="one")
        with pytest.raises(h.Refused, match="it is open"):
            running.dispatch(Open("1", Decimal(2)), id="two")
    with app("decisions").open(url, run=False) as running:
        again = running.dispatch(Open("1", Decimal("1.50"), words), id="one")
        assert (again.repeated, again.position, again.events) == (True, first.position, first.events)
        with pytest.raises(h.Refused, match="it is open"):
            running.dispatch(Open("1", Decimal(2)), id="two")
        for other in (Open("1", Decimal("1.51"), words), Open("1", Decimal("1.50"), words | {"more"}), Open("2", Decimal("1.50"), words)):
            with pytest.raises(h.IdReused):
                running.dispatch(other, id="one")
    program = f"""
from tests.audit.test_what_to_store import Open, app
from decimal import Decimal
words = frozenset(f"word-{{number}}" for number in range(20))
with app("decisions").open({url!r}, run=False) as running:
    print(running.dispatch(Open("1", Decimal("1.50"), words), id="one").repeated)
"""
    for seed in "123":
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, env=environment)
        assert done.stdout == "True\n", done.stderr


def test_what_was_enqueued_is_kept_until_it_is_decided_and_stays(url: str) -> None:
    """It could not be decided else; its answers are not kept."""
    with app("decisions").open(url) as running:
        kept = running.enqueue(Open("1", Decimal(1)), id="later")
        running.outcome(kept, wait_seconds_max=20)
        verified = running.log.verify()
        assert verified.kinds.get("answer", 0) == 0
        assert [record.body for record in running.log.read() if record.name == "Open"] == [Open("1", Decimal(1))]


def test_an_erasure_takes_the_salt_so_that_what_was_asked_can_not_be_guessed(url: str) -> None:
    """The digest that is left says nothing without it, and the id stays used."""
    with app("decisions").open(url, run=False) as running:
        running.dispatch(Open("1", Decimal(1)), id="one")
        assert any(running.log.find("one")[0].salts[:SALT_BYTES])
        running.erase(("no", "1"), actor="ann", reason="asked")
        row = running.log.find("one")[0]
        assert row.salts == bytes(len(row.salts))
        assert running.dispatch(Open("1", Decimal(7)), id="one").repeated
        assert running.log.verify().unexplained == 0


def test_a_branch_says_what_it_can_not_decide_again(url: str) -> None:
    """Nothing differs, by whatever code, where nobody knows what was asked; so that is told."""

    def refusing(command: Open) -> Iterator[Opened]:
        if command.amount:
            raise h.Refused("never")
        yield Opened(command.no, command.amount)

    stricter = h.App("accounts", records=[Opened], deciders=[refusing], views=[Account], store="decisions")
    with app("decisions").open(url) as running:
        running.record(Opened("0", Decimal(0)), id="fact")
        running.dispatch(Open("1", Decimal(1)), id="one")
        running.dispatch(Open("2", Decimal(1)), id="two")
        head = running.log.head

        with running.branch(at=0, code=stricter) as branch:
            difference = branch.diff()
        with running.branch(at=head, code=stricter) as later:
            assert later.diff().not_compared == ()

    assert not difference
    assert difference.not_compared == ("what 2 commands would have come to: erased, or not kept",)
    assert str(difference).splitlines() == ["nothing differs", "not compared: what 2 commands would have come to: erased, or not kept"]


def test_another_word_is_wrong_wiring() -> None:
    """It says which there are."""
    with pytest.raises(h.Invalid, match="'all' or 'decisions'"):
        app("some")
