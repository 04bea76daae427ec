"""Who comes is greeted: what tests of branches say with few messages. When that is decided each of them says for itself."""

from collections.abc import Iterator

import happened as h


class Came(h.Event):
    name: str


class Greet(h.Command):
    name: str


class Greeted(h.Event):
    name: str


def greet(command: Greet) -> Iterator[Greeted]:
    """Greet them."""
    yield Greeted(command.name)
