"""The enrolment's command line: `python -m examples.enrolment --help`.

Each line of the file goes into the log in its order: a registration and its end as a command, which is decided on, a submission as a fact. What came of
a command is a receipt or a refusal, and a refusal carries its reason as data; the counts are made of these.
"""

import argparse
import json
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import happened as h

from .model import AssessmentSubmitted, LimitsSet, Presentation, Register, Submissions, Unregister, enrolment
from .read import BadFile, Row, read_rows, sample

CATCH_UP_SECONDS_MAX = 600
"""How long views may take until they have seen all of the log."""

ROUND_ROWS = 5000
"""Enough that a commit's costs don't count, few enough to hold."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the arguments say; return the exit code: 0 done, 2 asked for what can't be done."""
    asked = the_parser().parse_args(arguments)
    rows = read_rows(asked.data) if asked.data else sample()
    try:
        with tempfile.TemporaryDirectory() as folder:
            log = asked.log or f"sqlite:///{folder}/enrolment.db"
            with enrolment.open(log, run=False) as running:  # no view is needed to decide
                counts = enrol(running, rows, asked.capacity, asked.max_open)
            if asked.json:
                print(json.dumps(counts))
            else:
                with enrolment.open(log) as running:
                    tell(running, counts)
    except h.IdReused:
        print("error: this log was begun with other limits, and its decisions stand; take another log", file=sys.stderr)
        return 2
    except (BadFile, h.Error) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def the_parser() -> argparse.ArgumentParser:
    """Say what can be asked for."""
    parser = argparse.ArgumentParser(
        prog="python -m examples.enrolment",
        description="Decide who is admitted to which presentation of a course, in the order in which they asked.",
        epilog="Exit codes: 0 done; 2 bad arguments, file or log.",
    )
    parser.add_argument(
        "--data",
        type=Path,
        metavar="FILE",
        help="registrations as lines of JSON, also compressed by gzip; without it a small sample is made",
    )
    parser.add_argument("--capacity", type=number, default=1500, metavar="N", help="places in each presentation (default: %(default)s)")
    parser.add_argument(
        "--max-open", type=number, default=1, metavar="M", help="registrations a student may hold open (default: %(default)s)"
    )
    parser.add_argument(
        "--log", metavar="URL", help="where the log is kept, such as sqlite:///school.db; without it, it is thrown away at the end"
    )
    parser.add_argument("--json", action="store_true", help="print the counts as JSON")
    return parser


def number(text: str) -> int:
    """Read a number that is not less than nothing."""
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{value} is less than 0")
    return value


def enrol(running: h.Running, rows: Iterable[Row], capacity: int, max_open: int) -> dict[str, int]:
    """Set the limits, put all rows into the log, and count what came of the registrations.

    Known ids are answered as they were the first time, so this may be broken off and done again. `IdReused` for a log with other limits.
    """
    running.record(LimitsSet(capacity, max_open), id="limits")
    counts = Counter(accepted=0, refused_full=0, refused_student=0)
    for facts, commands in rounds(rows):
        running.record_all(facts)
        for command, result in zip(commands, running.dispatch_all(commands), strict=True):
            if isinstance(result, h.Refused):
                counts[f"refused_{result.facts['reason']}"] += 1
            elif isinstance(command.body, Register):
                counts["accepted"] += 1
    return dict(counts)


def rounds(rows: Iterable[Row]) -> Iterator[tuple[list[h.Message], list[h.Message]]]:
    """Cut rows into rounds, of each of which one may record all facts first and decide on its commands then.

    Submissions change no decision. But whether a student was registered when handing in is looked at, so a submission must not come before a
    registration, or its end, that stands before it: there the round ends.
    """
    facts: list[h.Message] = []
    commands: list[h.Message] = []
    waiting: set[tuple[str, int]] = set()
    for row in rows:
        about = (row.course, row.student)
        if len(facts) + len(commands) == ROUND_ROWS or (about in waiting and row.type == "AssessmentSubmitted"):
            yield facts, commands
            facts, commands, waiting = [], [], set()
        if row.type == "AssessmentSubmitted":
            facts.append(message(row))
        else:
            commands.append(message(row))
            waiting.add(about)
    yield facts, commands


def message(row: Row) -> h.Message:
    """Make a row a command or a fact, under an id made from its number."""
    student = str(row.student)
    match row.type:
        case "StudentRegistered":
            body: h.Command | h.Event = Register(row.course, student)
        case "StudentUnregistered":
            body = Unregister(row.course, student)
        case "AssessmentSubmitted":
            body = AssessmentSubmitted(row.course, student, str(row.assessment))
    return h.Message(body, id=f"row-{row.seq}", occurred=row.at)


def tell(running: h.Running, counts: dict[str, int]) -> None:
    """Print the counts and what the views say, for people."""
    print(f"{counts['accepted']:,} registrations were accepted.")
    print(f"{counts['refused_full']:,} were refused since the presentation was full.")
    print(f"{counts['refused_student']:,} were refused since the student held as many as allowed.")
    head = running.log.head
    presentations = running.view(Presentation).order_by("presentation").rows(since=head, wait_seconds_max=CATCH_UP_SECONDS_MAX)
    submissions = {row.presentation: row for row in running.view(Submissions).rows(since=head)}
    print("\npresentation    still open   submitted   by students not registered then")
    for row in presentations:
        handed_in = submissions.get(row.presentation, Submissions(row.presentation))
        print(f"{row.presentation:<14}{row.open:>12,}{handed_in.count:>12,}{handed_in.unregistered:>12,}")


if __name__ == "__main__":
    sys.exit(main())
