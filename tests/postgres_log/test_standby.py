"""Where a URL names several servers, or a place where now one answers and now another: a standby lacks what was recorded last, and takes nothing."""

from collections.abc import Iterator

import pytest

import happened as h
from tests.semantics.model import Balance, Deposit, bank
from tests.servers import Server


@pytest.fixture(scope="module")
def primary() -> Iterator[Server]:
    server = Server("fsync=off")
    yield server
    server.remove()


@pytest.fixture(scope="module")
def standby(primary: Server) -> Iterator[Server]:
    """Return a server that has the first command, and will never have more."""
    with bank.open(f"{primary.url}&schema=bank", run=False) as running:
        running.dispatch(Deposit("a", 1), id="first")
    server = Server("fsync=off", standby_of=primary)
    yield server
    server.remove()


def test_what_a_standby_lacks_is_not_decided_on(primary: Server, standby: Server) -> None:
    """For a moment only the standby answers: nothing is read there, and once the primary is back an id still counts once."""
    both = f"postgresql://postgres@/postgres?host={primary.folder},{standby.folder}&schema=bank"
    with bank.open(both, run=False) as running:
        receipt = running.dispatch(Deposit("a", 1), id="second")
        primary.stop()
        with pytest.raises(h.StoreFailed, match="standby"):
            list(running.log.read())
        primary.start()

        assert running.dispatch(Deposit("a", 1), id="third").position > receipt.position
        again = running.dispatch(Deposit("a", 1), id="second")
        assert (again.position, again.repeated) == (receipt.position, True)
        assert running.state(Balance, "a") == Balance("a", 3, 3)
        assert [record.id for record in running.log.read() if record.kind == "input"] == ["first", "second", "third"]
        running.log.verify()


def test_a_log_that_was_opened_on_a_standby_is_read_there(standby: Server) -> None:
    with h.open_log(f"{standby.url}&schema=bank") as log:
        assert [record.id for record in log.read() if record.kind == "input"] == ["first"]
        log.verify()
        with pytest.raises(h.StoreFailed):
            log.append(h.Loose("Noted", {}))
