"""Two systems for the row `replica`: one has cards that move, the other keeps a copy of some of their fields."""

from collections.abc import Iterable
from typing import Annotated

import happened as h

CardNo = Annotated[str, h.Tag("card")]


class Moved(h.Event):
    card: CardNo
    street: str
    country: str
    visits: int


class Card(h.State):
    card: CardNo
    street: str = ""
    country: str = ""
    visits: int = 0

    def evolve(self, event: Moved) -> "Card":
        return self.but(street=event.street, country=event.country, visits=event.visits)


@h.named("Card")
class Copied(h.State):
    card: CardNo
    country: str = ""
    visits: int = 0


ORIGIN = h.App("origin", records=[Moved], shares=[Card])
COPYING = h.App("copying", replicas={"origin": [Copied]})


def moves(count: int, cards: int) -> Iterable[Moved]:
    return (Moved(f"card-{number % cards:05d}", f"{number} Long Street", "France", number) for number in range(count))
