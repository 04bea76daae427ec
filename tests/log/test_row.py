"""Rows: whatever is sealed can be taken apart again, and the link of the chain follows from the row alone."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from happened.core.errors import Invalid
from happened.log.row import RECORD_BYTES_MAX, SALT_BYTES, Extra, Header, Written, digest_of, encode, seal, taken_apart

BODIES = st.text(max_size=9).map(encode)
EXTRAS = st.one_of(st.just(b""), st.builds(Extra, id=st.text(min_size=1, max_size=5)).map(encode))
WRITTEN = st.builds(Written, st.integers(0, 99), BODIES, EXTRAS)


@given(asked=st.one_of(st.none(), WRITTEN), records=st.lists(WRITTEN, max_size=3), salt=st.binary(min_size=1, max_size=1))
def test_a_sealed_row_holds_its_records_and_its_link(asked: Written | None, records: list[Written], salt: bytes) -> None:
    """One record or several, with or without what was asked or what a record says beside its body: all ways of sealing come to one format."""
    everything = [(True, asked)] if asked is not None else []
    everything += [(False, record) for record in records]
    before = b"b" * 32

    row = seal(before, 7, 8, Header(id="one", ran=9), asked, records, salt * SALT_BYTES * len(everything))

    assert (row.position, row.count, row.at) == (7, len(everything), 8)
    assert row.digest == digest_of(before, row)
    found = [(is_asked, record.number, bytes(record.body), bytes(record.extra)) for is_asked, record in taken_apart(row)]
    assert found == [(is_asked, record.number, record.body, record.extra) for is_asked, record in everything]


@pytest.mark.parametrize("large", [0, 1])
@pytest.mark.parametrize("more", [0, 1])
def test_a_record_that_is_too_large_is_refused(large: int, more: int) -> None:
    """What was asked or what was decided, alone or beside others."""
    bodies = [b"{}", b"{}"]
    bodies[large] = b'{"text":"' + b"x" * RECORD_BYTES_MAX + b'"}'
    asked, record = (Written(16, body) for body in bodies)

    with pytest.raises(Invalid, match="keep large things outside"):
        seal(b"", 1, 1, Header(), asked, [record] * (1 + more), bytes(SALT_BYTES * (2 + more)))
