"""Databases: what `migrate` does."""

import argparse
from collections.abc import Callable, Mapping

from happened.edge.settings import log_url
from happened.edge.words import print_json
from happened.opening import migrate


def migrate_tables(asked: argparse.Namespace) -> int:
    """Make the tables of a log in PostgreSQL, or bring them up to date."""
    taken = migrate(log_url(asked.log, there=False))
    if asked.json:
        print_json({"taken": taken})
        return 0
    print(f"steps taken: {', '.join(map(str, taken))}" if taken else "nothing to do: the tables are those of this release")
    return 0


COMMANDS: Mapping[str, Callable[[argparse.Namespace], int]] = {"migrate": migrate_tables}
