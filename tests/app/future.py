"""Functions and classes whose annotations are text, some of which name what can't be seen from there."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import happened as h

if TYPE_CHECKING:
    from decimal import Decimal as Hidden

Sku = Annotated[str, h.Tag("sku")]


class Packed(h.Event):
    sku: Sku


class Pack(h.Command):
    sku: Sku


class Pile(h.State):
    sku: Sku
    packed: int = 0

    def evolve(self, event: Packed) -> Pile | None:
        return self.but(packed=self.packed + 1)


def decide_at_module_level(command: Pack, pile: Pile | None) -> Iterator[Packed]:
    if pile is None:
        yield Packed(command.sku)


def decider_of_a_local_command() -> Any:
    class Local(h.Command):
        sku: Sku

    def decide(command: Local) -> Iterator[Packed]:
        yield Packed(command.sku)

    return decide


def decider_of_a_local_event() -> Any:
    class LocalSold(h.Event):
        sku: Sku

    made: dict[str, type[Any]] = {"event": LocalSold}

    def decide(command: Pack) -> Iterator[LocalSold]:
        yield made["event"](command.sku)

    return decide


def state_of_a_local_event() -> Any:
    class LocalSold(h.Event):
        sku: Sku

    class Local(h.State):
        sku: Sku
        units: int = 0

        def evolve(self, event: LocalSold) -> Local:
            return self

    return Local


def event_with_a_local_part() -> Any:
    class LocalLine(h.Value):
        sku: Sku

    class LocalOrder(h.Event):
        lines: tuple[LocalLine, ...]

    return LocalOrder


def ask_for_a_hidden_answer(sku: str) -> Hidden:
    raise NotImplementedError


def state_that_matches() -> Any:
    class Seen(h.Event):
        sku: Sku

    class Local(h.State):
        sku: Sku
        units: int = 0

        def evolve(self, event: Seen) -> Local:
            match event:
                case Seen():
                    return self.but(units=1)

    return Local
