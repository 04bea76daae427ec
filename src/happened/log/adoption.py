"""Adoption: a log that was restored from a copy goes on as it is, in an epoch of its own.

What was recorded after the copy was made is lost, and others may know of it: receipts, views, copies in other systems. A new epoch tells them that what they
know beyond the last position that was restored is of another history; what they know up to there is still true.
"""

import msgspec

from happened.core.errors import Invalid
from happened.core.tags import is_unicode
from happened.log.log import IDENTITY_NOTE, Identity, Log, check_envelope
from happened.log.receipt import Receipt
from happened.log.row import EPOCH_CHANGE, EpochChange, Header, Written, encode
from happened.log.writer import Batch, Draft, Job

REASON_CHARACTERS_MAX = 10_000
EPOCH_MAX = 1 << 31


class Adoption(Job):
    """The record that begins an epoch, and the note that says so."""

    def __init__(self, log: Log, *, actor: str, reason: str, epoch: int | None) -> None:
        check_envelope(None, actor, None, None)
        check_reason(reason)
        if epoch is not None and (type(epoch) is not int or not log.identity.epoch < epoch < EPOCH_MAX):
            raise Invalid(f"the log is in epoch {log.identity.epoch}, and the next one is a higher number, not {epoch!r}", epoch=str(epoch))
        super().__init__(log.source.new_id())
        self.log = log
        self.actor = actor
        self.reason = reason
        self.epoch = epoch

    def draft(self, batch: Batch) -> Draft:
        """Say which epoch begins, and behind what."""
        before = msgspec.json.decode(batch.noted(IDENTITY_NOTE) or "", type=Identity)
        epoch = self.epoch if self.epoch is not None else before.epoch + 1
        head = batch.head
        after = msgspec.structs.replace(before, epoch=epoch, ended=(*before.ended, (before.epoch, head.position)))
        change = EpochChange(epoch, head.position, head.digest.hex(), self.reason)
        self.log.identity = after
        return Draft(
            Header(id=self.id, actor=self.actor),
            None,
            [Written(EPOCH_CHANGE, encode(change))],
            (),
            (),
            (),
            {IDENTITY_NOTE: encode(after).decode()},
        )


def adopted(log: Log, *, actor: str, reason: str, epoch: int | None = None) -> Receipt:
    """Begin a new epoch of a log that nobody else has open, and return the receipt of the record that says so."""
    before = log.identity
    job = Adoption(log, actor=actor, reason=reason, epoch=epoch)
    try:
        log.writer.submit(job, 60)
    except BaseException:
        log.identity = before
        raise
    assert job.row is not None, "it was recorded just now"
    return log.receipt_of(job.row, repeated=False, events=())


def check_reason(reason: object) -> None:
    """Raise `Invalid` for what can't be recorded as a reason."""
    if type(reason) is not str or len(reason) > REASON_CHARACTERS_MAX or not is_unicode(reason):
        raise Invalid(f"`reason` is a text of up to {REASON_CHARACTERS_MAX:,} characters, not {reason!r:.100}")
