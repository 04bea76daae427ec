"""Several: many facts, each in a row and under an id of its own, in one job.

What nearly every fact comes to is kept short, since imports bring millions: known ids are looked for in one go, and no fact waits by itself.
"""

from collections.abc import Callable, Sequence
from typing import Any  # Any: events of any class

import msgspec

from happened.core.store import Row, Terms
from happened.log.log import PLAIN, Log, Recording, check_same
from happened.log.paths import counts_in
from happened.log.row import SALT_BYTES, Header, Written, encode, sealed_fact
from happened.log.typed import Typed
from happened.log.writer import Batch, Job, found_by


class Alone(msgspec.Struct, gc=False):
    """A fact that gets a row of its own, and what has become of it: its row, or the one that it has had before, or an error."""

    typed: Typed
    body: bytes
    event: Any
    terms: Sequence[str]
    header: Header
    given: bool
    """The id is the caller's, so it may be known."""
    row: Row | None = None
    known: Row | None = None
    error: BaseException | None = None

    @property
    def facts(self) -> Sequence[tuple[str, Sequence[str]]]:
        """What a condition is compared with, as a draft says it."""
        return ((self.typed.wish.name, self.terms),)

    @property
    def events(self) -> Sequence[tuple[int, Any, Any]]:
        """The fact, as a draft says it."""
        return ((0, self.event, None),)


class Several(Job):
    """Facts that are recorded in their order. Trouble of one is none of another's; what goes wrong with the commit is everybody's."""

    def __init__(self, log: Log, facts: Sequence[Alone], declare: Callable[[Batch], None]) -> None:
        super().__init__(facts[0].header.id or "")
        self.log = log
        self.facts = facts
        self.declare = declare

    def draft(self, batch: Batch) -> None:
        """Add a row for each to the batch, but for those whose id is known."""
        self.declare(batch)
        used = batch.used([fact.header.id for fact in self.facts if fact.given and fact.header.id is not None])
        numbers = {typed: typed.number(batch) for typed in {fact.typed for fact in self.facts}}  # before the head is looked at
        plain = Header(id=self.facts[0].header.id)  # of facts without a cause nothing that is counted differs but their names
        said = {typed: ((number,), counts_in(plain, 0, [Written(number, b"")])) for typed, number in numbers.items()}
        position, digest, at = batch.head.position, batch.head.digest, batch.at
        salts = batch.salt(len(self.facts))
        terms: list[Terms] = []
        recorded: list[tuple[Row, Alone]] = []
        for place, fact in enumerate(self.facts):
            header, typed = fact.header, fact.typed
            try:
                if fact.given and (header.id in used or header.id in batch.ids) and self._is_known(fact, batch):
                    continue
                if header.causation is not None:
                    header = fact.header = msgspec.structs.replace(header, sent=batch.heard(header.causation))
                number = numbers[typed]
                salt = salts[place * SALT_BYTES : (place + 1) * SALT_BYTES]
                row = sealed_fact(digest, position + 1, at, encode(header), number, fact.body, salt)
            except Exception as error:  # noqa: BLE001 - it is the answer to this fact, and no other's trouble
                fact.error = error
                continue
            position, digest = row.position, row.digest
            fact.row = batch.ids[header.id or ""] = row
            recorded.append((row, fact))
            names, counts = said[typed]
            if header.sent is not None:
                counts = counts_in(header, 0, [Written(number, b"")])
            terms.append(Terms(found_by(header, fact.terms), header.id, names, counts))
        batch.add_facts(recorded, terms)

    def _is_known(self, fact: Alone, batch: Batch) -> bool:
        id = fact.header.id or ""  # noqa: A001 - as everywhere
        fact.known = batch.row_with(id)
        if fact.known is not None:
            check_same(self.log, id, fact.known, [Recording(fact.typed, fact.typed.wish, fact.body, fact.event, fact.terms, PLAIN)])
        return fact.known is not None
