"""Together: several commands that are recorded all or none."""

from collections.abc import Sequence

from happened.core.errors import Invalid
from happened.log.writer import Batch, Job
from happened.sourcing.handling import Decision, Known


class Together(Job):
    """Decisions of one batch, of which either all are recorded or none."""

    def __init__(self, decisions: Sequence[Decision]) -> None:
        super().__init__(decisions[0].id)
        self.decisions = decisions

    def draft(self, batch: Batch) -> None:
        """Add one row after the other to the batch; if one can't be, take all of them back."""
        self.decisions[0].handling.declare(batch)  # names are given before the mark, so that going back to it takes none away
        mark = batch.mark()
        try:
            for decision in self.decisions:
                decision.taken_at = self.taken_at
                draft = decision.draft(batch)
                if decision.needs_outside:
                    raise Invalid(
                        f"`{decision.handler.name}` asks the outside, which can't be done together: dispatch it by itself", id=decision.id
                    )
                refusal = decision.refusal() or decision.refused_before()
                if refusal is not None:
                    raise refusal.withdrawn()
                if draft is not None:
                    decision.row = decision.added(batch, draft)
                elif not isinstance(decision.result, Known):
                    raise AssertionError("a decision is drafted, known, or raises")
        except BaseException:
            batch.back_to(mark)
            raise
