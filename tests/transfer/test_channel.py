"""The channel that is a log: every record once to who goes on from each page's position, however pages are cut."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

import happened as h
from happened.core.store import Commit
from happened.log.log import EVERYTHING_SEEN
from happened.log.row import encode
from happened.opening import channel_to
from happened.transfer import channel as channels
from happened.transfer.channel import Generation, LogChannel, Published
from tests.servers import fresh
from tests.transfer.model import Left, Moved, crm, until


@pytest.fixture(params=["memory", "sqlite", "postgres"])
def upstream(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[h.Running]:
    """Return a system that has published nothing yet."""
    url = {"memory": "memory:", "sqlite": f"sqlite:///{tmp_path}/crm.db"}.get(request.param) or fresh()
    with crm.open(url) as running:
        yield running


def published(running: h.Running) -> None:
    """Wait until all is published that there is to publish."""
    until(lambda: all(one["lag"] == 0 for one in (*running.statistics()["shares"], *running.statistics()["publications"])))


def to(running: h.Running) -> LogChannel:
    """Return a channel on the same store."""
    return LogChannel(lambda: running.log.engine, lambda _store: True, own=False)


@pytest.mark.parametrize("limit", ["PAGE_ROWS", "RECORDS_MAX", "SCANNED_MAX"])
def test_however_pages_are_cut_each_record_is_in_one(upstream: h.Running, limit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page ends with a row, which may hold many records, and the next one begins behind it."""
    for number in range(5):
        upstream.record_all([Moved(f"c-{number}", "a", "France"), Moved("c-0", "b", "nowhere"), Moved("c-1", "c", "Spain")])
        upstream.record(Left(f"c-{number}"))
        published(upstream)
    channel = to(upstream)
    whole = channel.read(0, 0)
    monkeypatch.setattr(channels, limit, 1)
    monkeypatch.setattr(channels, "PAGE_ROWS", 1)

    found: list[Published] = []
    position, ends = 0, [row.last for rows in upstream.log.engine.read() for row in rows]
    for _ in ends:
        page = channel.read(position, 0)
        assert page.position in ends
        assert all(position < one.position <= page.position for one in page.items)
        found += page.items
        position = page.position
        if position == whole.position:
            break

    assert position == whole.position == upstream.log.head
    assert found == list(whole.items)
    assert {one.what for one in found} == {"notification", "share", "beacon"}


def test_names_that_are_recorded_after_it_came_are_known(upstream: h.Running) -> None:
    """Also to who goes on from behind the row that says them: another reader of the channel has read that, or a former process."""
    channel = to(upstream)
    channel.read(0, 0)
    upstream.record(Moved("c-1", "a", "France"))
    published(upstream)
    at = upstream.log.head
    upstream.record(Moved("c-1", "b", "Spain"))
    published(upstream)

    assert {one.what for one in channel.read(at, 0).items} == {"notification", "share", "beacon"}


def test_what_was_erased_is_handed_out_no_more(upstream: h.Running) -> None:
    """What is published of others in the same row is."""
    upstream.record_all([Moved("c-1", "a", "France"), Moved("c-2", "a", "France")])
    published(upstream)
    channel = to(upstream)
    before = [one for one in channel.read(0, 0).items if b"c-1" in bytes(one.body)]

    upstream.erase(("customer", "c-1"), actor="ann", reason="they asked")

    after = channel.read(0, 0).items
    assert before
    assert not [one for one in after if b"c-1" in bytes(one.body) or bytes(one.body) == b"null"]
    assert [one for one in after if b"c-2" in bytes(one.body)]


def test_a_share_that_is_not_whole_has_published_nothing_yet(upstream: h.Running) -> None:
    """How far it is speaks of the generation before: a copy is not as of there by what it has of this one."""
    receipt = upstream.record(Moved("c-1", "a", "France"))
    channel = to(upstream)
    until(lambda: (whole := channel.standing("Card")) is not None and whole.position >= receipt.position)
    note = upstream.log.engine.notes("share/")["share/Card"]
    begun = msgspec.structs.replace(msgspec.json.decode(note, type=Generation), number=2, whole=False)
    upstream.log.engine.append(lambda _: Commit(notes={"share/Card": encode(begun).decode()}), EVERYTHING_SEEN)

    assert channel.standing("Card") == (2, begun.begins, 0)


def test_a_position_that_is_not_there_was_recorded_at_no_time(upstream: h.Running) -> None:
    """Neither the one behind the last, nor the one before the first."""
    receipt = upstream.record_all([Moved("c-1", "a", "France"), Moved("c-2", "a", "France")])
    assert receipt is not None
    published(upstream)
    channel = to(upstream)
    rows = {position: row for rows in upstream.log.engine.read() for row in rows for position in range(row.position, row.last + 1)}

    assert [channel.recorded_at(position) for position in (0, upstream.log.head + 1)] == [None, None]
    assert [channel.recorded_at(position) for position in rows] == [(row.at, row.digest[:16].hex()) for row in rows.values()]


def test_an_origin_that_is_not_there_yet_is_said_to_be_none_and_read_once_it_is(tmp_path: Path) -> None:
    """Nothing is wrong with its folder, nor with who may read it."""
    url = f"sqlite:///{tmp_path}/crm.db"
    with closing(channel_to(url)) as channel:
        with pytest.raises(h.StoreFailed, match=f"there is no log at {tmp_path}/crm.db$"):
            channel.read(0, 0)
        with crm.open(url) as running:
            published(running)

            assert channel.head() == running.log.head
