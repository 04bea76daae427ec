"""A log of the first format, made once and kept: whatever changes, this code still reads it, and goes on from it."""

import shutil
from decimal import Decimal
from pathlib import Path

import pytest

import happened as h
from happened.log.log import Identity
from tests.log.make_first_format import Line, Order, Ordered, Received, Stock, shop

KEPT = Path(__file__).with_name("first_format.db")
DIGEST = "525ab8e64a0891b8890926ad278fbd27bd77d368eb147d95fbd40b45a83c180a"
"""Of the whole log, as it was when it was made."""

NUTS_AND_BOLTS = (Line("nut", 2), Line("bolt", 1))
BOLT = (Line("bolt", 1),)

RECORDS: list[tuple[str, str, str, object]] = [
    ("input", "Received", "delivery-1", Received("nut", 10)),
    ("input", "Received", "delivery-2", Received("bolt", 5)),
    ("input", "Order", "order-1", None),
    ("answer", "answer", "order-1#1", "6.00"),
    ("answer", "answer", "order-1#2", "5.50"),
    ("internal", "Ordered", "order-1#3", Ordered("o-1", NUTS_AND_BOLTS, Decimal("11.50"))),
    ("input", "Order", "order-2", Order("o-2", (Line("nut", 100),))),
    ("output", "refusal", "order-2#1", {"text": "not enough", "facts": {"skus": ["nut"]}}),
    ("input", "Order", "order-3", Order("o-3", BOLT)),
    ("input", "Noted", "by-hand", {"text": "\N{GREEK SMALL LETTER ALPHA}"}),
    ("input", "Received", "found", Received("nut", 1)),
    ("answer", "answer", "order-3#1", "5.50"),
    ("internal", "Ordered", "order-3#2", Ordered("o-3", BOLT, Decimal("5.50"))),
    ("input", "Received", "delivery-3", None),
    ("input", "Order", "order-4", Order("o-4", (Line("nut", 1),))),
]


@pytest.fixture
def copied(tmp_path: Path) -> str:
    """Return the URL of a copy."""
    return f"sqlite:///{shutil.copy(KEPT, tmp_path / 'log.db')}"


def test_the_first_format_is_read(copied: str) -> None:
    """Every record says what it said, by class and without one, and the chain is the same."""
    with shop.open(copied, run=False) as running:
        verified = running.log.verify()
        records = [record for record in running.log.read() if record.kind != "system"]
        read = [(record.kind, record.name, record.id, record.body) for record in records]
        by_id = {record.id: record for record in records}

        assert (verified.digest, verified.position, running.log.identity) == (DIGEST, 21, Identity("first", 1, 1, "shop"))
        assert [(*record[:3], record[3]["answer"] if record[0] == "answer" else record[3]) for record in read] == RECORDS
        assert (by_id["delivery-1"].actor, by_id["delivery-2"].correlation, by_id["order-1#3"].correlation) == ("ann", "ship-1", "cart-1")
        assert by_id["delivery-1"].occurred < by_id["delivery-1"].time
        assert (by_id["order-1#3"].causation, by_id["delivery-3"].causation) == ("order-1", "delivery-1")
        assert by_id["delivery-3"].tags == by_id["by-hand"].tags == (("sku", "nut"),)
    with h.open_log(copied) as log:
        assert log.verify().digest == DIGEST
        assert len(list(log.read(h.query(sku="nut")))) == len(list(log.read(h.query(sku="bolt")))) + 2 == 5


def test_the_first_format_is_gone_on_from(copied: str) -> None:
    """Its states are what they were, its ids are known, what waited is decided, and the chain goes on."""
    with shop.open(copied, run=False) as running:
        assert running.states(Stock) == {("nut",): Stock("nut", 9), ("bolt",): Stock("bolt", 3)}
        assert running.state(Stock, "nut") == Stock("nut", 9)
        assert running.record(Received("nut", 10), id="delivery-1").repeated
        assert running.dispatch(Order("o-9", NUTS_AND_BOLTS), id="order-1").repeated
        with pytest.raises(h.Refused, match="not enough"):
            running.dispatch(Order("o-2", (Line("nut", 100),)), id="order-2")
        with pytest.raises(h.IdReused):
            running.dispatch(Order("o-2", BOLT), id="order-2")

    with shop.open(copied) as running:
        receipt = running.dispatch(Order("o-4", (Line("nut", 1),)), id="order-4")

        assert receipt.events == (Ordered("o-4", (Line("nut", 1),), Decimal("4.50")),)
        assert running.view(Stock).get("nut", since=receipt) == running.state(Stock, "nut") == Stock("nut", 8)
        running.log.verify()
