"""Paths: what is counted as rows are added is what the rows say."""

import shutil
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Annotated

import pytest

import happened as h
from happened.core.store import Row
from happened.core.tally import count_in, ran_in, waited_in
from happened.log.paths import Path as Way
from happened.log.paths import counts_in, counts_of, path_in
from happened.log.row import ANSWER, REFUSAL, SCHEDULE, Header, Sent, Written, encode, seal

Sku = Annotated[str, h.Tag("sku")]


class Received(h.Event):
    sku: Sku
    units: int


class Packed(h.Event):
    sku: Sku


class Sent2(h.Event):
    sku: Sku


class Ship(h.Command):
    sku: Sku
    parcels: int


def freight(parcels: int) -> int:
    if parcels == 9:
        raise ValueError("nine is too many")
    return parcels * 5


def ship(command: Ship, world: h.World) -> Iterator[Packed | Sent2]:
    if command.parcels > 2:
        try:
            world.ask(freight, command.parcels)
        except h.GatewayFailed:
            raise h.Refused("nobody carries it") from None
    for _ in range(command.parcels):
        yield Packed(command.sku)
    yield Sent2(command.sku)


shop = h.App("shop", records=[Received], deciders=[ship], gateways=[h.Gateway(freight, attempts_max=1)])


def run(url: str) -> tuple[dict[str, int], dict[str, int], dict[int, str]]:
    """Let a shop work; return what was counted as it did, what its rows say, and the names of numbers."""
    with shop.open(url, run=False) as running:
        for n in range(30):
            running.record(Received("nut", n), id=f"delivery-{n}")
        for parcels in (1, 2, 5, 9):
            try:
                running.dispatch(Ship("nut", parcels), id=f"ship-{parcels}")
            except h.Refused:
                assert parcels == 9
        running.enqueue(Ship("bolt", 1), id="later")
        running.log.append([h.Loose("Noted", {}), h.Loose("Noted", {})], id="by hand")
        counted = dict(running.log.engine.counted(0, None, counts_of))
        said: dict[str, int] = {}
        for rows in running.log.engine.read():
            for row in rows:
                for text, number in counts_of(row):
                    said[text] = said.get(text, 0) + number
        return counted, said, {number: name.name for number, name in running.log.names.by_number.items()}


@pytest.mark.parametrize("kind", ["memory:", "sqlite:///"])
def test_what_is_counted_live_is_what_the_rows_say(tmp_path: Path, kind: str) -> None:
    """Facts, commands, refusals, answers, repeats and what waits: each row is counted once, the same from its parts and from its bytes."""
    counted, said, names = run(kind if kind == "memory:" else f"{kind}{tmp_path}/shop.db")

    assert counted == said
    numbers = {name: number for number, name in names.items()}
    received, packed, sent, asked, handler, noted = (numbers[name] for name in ("Received", "Packed", "Sent2", "Ship", "ship", "Noted"))
    assert {text: count_in(number) for text, number in counted.items()} == {
        f"0:0:0:0:a:{received}": 30,
        f"0:0:{asked}:{handler}:a:{packed},{sent}": 3,
        f"0:0:{asked}:{handler}:r:": 1,
        f"0:0:{asked}:0:p:": 1,
        f"0:0:0:0:a:{noted}": 1,
        f"*{handler}:{packed}": 5,
        f"*0:{noted}": 1,
        f"?{handler}:freight": 1,
        f"!{handler}:freight": 1,
    }


def test_the_shelf_of_an_older_release_is_made_anew(tmp_path: Path) -> None:
    """A log that was written before anything was counted is counted when it is opened."""
    path = shutil.copy(Path(__file__).with_name("first_format.db"), tmp_path / "log.db")
    with closing(h.open_log(f"sqlite:///{path}")) as log:
        assert sum(count_in(number) for text, number in log.engine.counted(0, None, counts_of).items() if text[0].isdigit()) == 9


def test_a_row_that_was_sent_has_the_times_of_its_sender() -> None:
    """Where nothing decided in it the sender's, else the decider's; and the path says what was heard."""
    sent = Sent(handler=30, cause=18, waited=1000, ran=3)

    [(text, number)] = counts_in(Header(id="1", sent=sent, waited=7, ran=7, outcome="pending"), 17, [])
    [(other, decided), (of_sender, times)] = counts_in(Header(id="1", sent=sent, handler=20, waited=7, ran=7), 17, [Written(19, b"{}")])
    [(alone, own), (later, one)] = counts_in(
        Header(id="1", sent=sent, handler=30, waited=1000, ran=3), 0, [Written(SCHEDULE, b'{"number":21,"body":{"number":5}}')]
    )

    assert path_in(text) == Way(18, 30, 17, 0, "pending", ())
    assert (sum(waited_in(number)[10:]), sum(ran_in(number)[2:])) == (1, 1)
    assert path_in(other) == Way(18, 30, 17, 20, "accepted", (19,))
    assert len(waited_in(decided)) == 4
    assert (of_sender, times, number) == ("@18:30:17", number, own)
    assert (alone, later, one) == ("18:30:0:30:a:", "+30:21", 1)


@pytest.mark.parametrize("outcome", ["accepted", "refused"])
def test_bytes_and_parts_count_alike(outcome: str) -> None:
    """Also where an answer was erased, and twice, when the row is known from before."""
    records = [
        Written(ANSWER, b"null"),
        Written(ANSWER, encode({"gateway": "a:b", "arguments": [], "us": 40})),
        *([Written(REFUSAL, b"{}")] if outcome == "refused" else [Written(18, b"{}"), Written(18, b"{}")]),
    ]
    header = Header(id="1", handler=20, waited=3, ran=1 << 50, outcome=outcome)
    row: Row = seal(bytes(32), 1, 1, header, Written(17, b"{}"), records, bytes(16 * (len(records) + 1)))

    counted = counts_in(header, 17, records)

    assert dict(counts_of(row)) == dict(counted) == dict(counts_in(header, 17, records))
    assert [text for text, _ in counted if text[0] == "?"] == ["?20:", "?20:a:b"]
