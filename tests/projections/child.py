"""A process that runs the projection: `python -m tests.projections.child LOG INTO [ORDER]`, until its standard input ends.

In the midst of an order of that name it says so, and waits for a line.
"""

import sys

import sqlalchemy as sql

from tests.projections.rig import Returned, Sold, app, ways


def main() -> None:
    """Run."""
    log, into, stops = sys.argv[1:]

    def before(event: Sold | Returned, _connection: sql.Connection) -> None:
        if event.order == stops:
            print("in it", flush=True)
            sys.stdin.readline()

    ways.before = before
    with app(into).open(log):
        print("open", flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
