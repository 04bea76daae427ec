"""Rows: what a command leaves beside its records, and which log it is."""

import time
from collections.abc import Iterator

import pytest

import happened as h
from happened.log.row import Header, decode_header
from tests.semantics.model import Balance, Deposit, Deposited, Take, Transfer, bank, deposit, take, transfer


def header(running: h.Running, id: str) -> Header:
    """Return the header of the row that used an id."""
    [row] = running.log.find(id)
    return decode_header(row.head)


def test_two_logs_of_one_app_each_know_their_deciders(tmp_path: object) -> None:
    """One app is open on two logs that gave their numbers in another order: every record names the decider that it came from."""
    urls = [f"sqlite:///{tmp_path}/{number}.db" for number in range(2)]
    with h.App("bank", deciders=[take, transfer, deposit]).open(urls[1], run=False) as other_way_round:
        other_way_round.dispatch(Take("0", "me"))

    with bank.open(urls[0], run=False) as first, bank.open(urls[1], run=False) as second:
        for running in (first, second, first, second):
            running.dispatch(Deposit("a", 5))
            running.dispatch(Transfer("a", "b", 1))
            running.dispatch(Take(str(running.log.head), "me"))

        numbers = [{name.name: name.number for name in running.log.names.by_number.values()} for running in (first, second)]
        assert numbers[0]["take"] != numbers[1]["take"]
        for running in (first, second):
            by = {(record.name, record.handler) for record in running.log.read() if record.kind == "internal"}
            assert by == {("Deposited", "deposit"), ("Deposited", "transfer"), ("Withdrawn", "transfer"), ("Taken", "take")}


def test_how_long_a_command_waited_and_ran_is_kept(url: str) -> None:
    """Commands of `dispatch_all` waited since they were given, those of `dispatch_together` too; a slow decider is seen."""

    def slowly(command: Deposit) -> Iterator[Deposited]:
        time.sleep(0.01 if command.account == "slow" else 0)
        yield Deposited(command.account, command.amount)

    with h.App("slow", deciders=[slowly]).open(url, run=False) as running:
        list(running.dispatch_all([h.Message(Deposit("slow", 1), id="first"), h.Message(Deposit("a", 1), id="second")]))
        running.dispatch_together([h.Message(Deposit("a", 1), id="together")])
        running.dispatch(Deposit("a", 1), id="alone")

        kept = {name: header(running, name) for name in ("first", "second", "together", "alone")}
        assert all(0 <= one.waited < 60_000_000 for one in kept.values())
        assert kept["second"].waited >= 10_000
        assert 10_000 <= kept["first"].ran < 60_000_000
        assert kept["alone"].ran < 10_000


def outside(account: str) -> int:
    """Stand for the outside."""
    raise NotImplementedError


def test_what_was_read_and_which_round_it_was_is_kept(url: str) -> None:
    """The row says the version of each state that the decider read, in its order, and in which round of questions it was decided."""

    def transfer_asking(command: Transfer, source: Balance, target: Balance, world: h.World) -> Iterator[Deposited]:
        yield Deposited(command.target, world.ask(outside, command.source) + source.amount + target.amount)

    def answer(account: str) -> int:
        return len(account)

    app = h.App("asking", deciders=[transfer_asking, deposit], gateways=[outside])
    with app.open(url, run=False, gateways={outside: answer}) as running:
        first, second = running.dispatch(Deposit("a", 1)), running.dispatch(Deposit("b", 1))
        running.dispatch(Deposit("c", 1), id="no state")
        running.dispatch(Transfer("a", "b", 1), id="x")

        assert (header(running, "x").reads, header(running, "x").attempt) == ((first.position, second.position), 2)
        assert (header(running, "no state").reads, header(running, "no state").attempt) == ((), 1)


def test_the_topology_is_recorded_once_and_again_when_it_changes(url: str) -> None:
    """The wiring is a system record before the first command; a reopen adds none, another decider does, and so does the way back."""
    smaller = h.App("bank", records=[Deposited], deciders=[deposit], ignores=["Transfer", "Take", "Withdrawn", "Taken", "transfer", "take"])
    recorded: list[int] = []
    for app in (bank, bank, smaller, smaller, bank):
        with app.open(url, run=False) as running:
            running.dispatch(Deposit("a", 1))
            running.dispatch(Deposit("a", 1))
            found = [record for record in running.log.read() if record.name == "topology"]
            recorded.append(len(found))
            assert {record.kind for record in found} == {"system"}
            running.log.verify()

    assert recorded == [1, 1, 2, 2, 3]


def test_a_log_of_another_app_is_diverged_and_left_as_it_is(url: str) -> None:
    """The name of the app is kept with the log: whoever opens it under another name is told both, and nothing is changed."""
    with bank.open(url, run=False) as running:
        running.dispatch(Deposit("a", 1))
        before = running.log.verify()

    with pytest.raises(h.Diverged, match=r"bank.*shop") as diverged:
        h.App("shop", records=[Deposited], deciders=[deposit, transfer, take]).open(url, run=False)

    assert diverged.value.facts == {"log": "bank", "app": "shop"}
    with bank.open(url, run=False) as running:
        assert running.log.verify() == before
