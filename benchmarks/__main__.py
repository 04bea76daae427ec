"""Runs the benchmarks: `python -m benchmarks [ROW ...]`, from the root of the repository."""

import argparse
import compileall
import sys
import tempfile
import traceback
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from time import monotonic

import happened
from benchmarks import (
    limits,
    report,
    row_append,
    row_branch,
    row_bytes,
    row_chain,
    row_check,
    row_cold,
    row_commands,
    row_conditional,
    row_flow,
    row_fold,
    row_history,
    row_lag,
    row_memory,
    row_pause,
    row_postgres,
    row_reactions,
    row_read,
    row_replica,
    row_restart,
    row_shop,
    row_start,
    row_state,
    row_view,
)
from benchmarks.measure import Variant, interleave
from benchmarks.plan import Context, Options, Results, Row, Shared, Skipped, say, scratch

ROOT = Path(__file__).parent
RESULTS = ROOT / "RESULTS.md"
REAL = ROOT.parent.parent / "shared" / "data"
"""Where the tests of the examples look for real data, too."""

SIDES = ("happened", "eventsourcing", "umadb", "limit")
PRESENT = (10_000, 1_000_000, 10_000_000)
PRESENT_QUICK = (1_000, 5_000)

ROWS: dict[str, Row] = {
    row.name: row
    for part in (
        row_commands.ROWS,
        row_conditional.ROWS,
        row_postgres.ROWS,
        row_append.ROWS,
        row_chain.ROWS,
        row_state.ROWS,
        row_fold.ROWS,
        row_view.ROWS,
        row_lag.ROWS,
        row_replica.ROWS,
        row_bytes.ROWS,
        row_cold.ROWS,
        row_shop.ROWS,
        row_start.ROWS,
        row_restart.ROWS,
        row_branch.ROWS,
        row_pause.ROWS,
        row_history.ROWS,
        row_memory.ROWS,
        row_flow.ROWS,
        row_reactions.ROWS,
        row_read.ROWS,
        row_check.ROWS,
    )
    for row in part
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the rows that are asked for; returns 1 where one of them failed."""
    parser = _parser()
    given = parser.parse_args(arguments)
    if given.list:
        _list()
        return 0
    if unknown := [name for name in given.rows if name not in ROWS]:
        parser.error(f"no row {', '.join(unknown)}; there are {', '.join(ROWS)}")
    options = Options(
        directory=given.dir,
        rounds=1 if given.quick else given.rounds,
        quick=given.quick,
        data=given.data,
        history=given.history,
        present=given.present or (PRESENT_QUICK if given.quick else PRESENT),
        without=frozenset(given.without),
    )
    options.directory.mkdir(parents=True, exist_ok=True)
    if options.directory == ROOT.parent / ".bench":
        (options.directory / ".gitignore").write_text("*\n")
    # As an installer does for the peers: where no bytecode may be left, each process that a row starts would compile it.
    for code in (Path(happened.__file__).parent, ROOT):
        compileall.compile_dir(code, quiet=1)
    done: dict[str, Results] = {}
    failed = False
    with scratch(Path(tempfile.mkdtemp(dir=options.directory))) as directory:
        shared = Shared(directory / "shared")
        for name in given.rows or ROWS:
            try:
                done[name] = _run(ROWS[name], options, directory / name, shared)
            except Skipped as skipped:
                say(f"{name}: skipped: {skipped}")
            except Exception:  # noqa: BLE001  # the other rows are still worth running; the exit code tells
                failed = True
                say(f"{name}: failed\n{traceback.format_exc()}")
            else:
                print(
                    f"\n## {name}: {ROWS[name].title}\n\n{report.goals(ROWS[name], done[name])}\n\n{report.table(ROWS[name], done[name])}",
                    flush=True,
                )
                if not options.quick and not options.without:
                    report.write(RESULTS, {name: report.section(ROWS[name], done[name], options)}, list(ROWS))
    if given.json:
        given.json.write_text(report.as_json(done, options))
    return int(failed)


def _run(row: Row, options: Options, directory: Path, shared: Shared) -> Results:
    started = monotonic()
    say(f"{row.name}: {row.title}")
    with scratch(directory), ExitStack() as exits:
        context = Context(options, directory, shared, exits)
        variants: list[Variant] = [limits.probe(directory, context.size(1_000, 50))] if row.probe else []
        for side, build in row.sides.items():
            if side not in options.without:
                variants += build(context)
        results = interleave(variants, options.rounds, row.figure, say)
    say(f"{row.name}: {monotonic() - started:.0f} s")
    return {result.name: result for result in results}


def _list() -> None:
    for row in ROWS.values():
        print(f"{row.name:14s} {row.title}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "python -m benchmarks", description="Measures happened beside its peers and the raw limits, in the same run."
    )
    parser.add_argument("rows", nargs="*", metavar="ROW", help="which rows; all of them if none is named (see --list)")
    parser.add_argument("--rounds", type=int, default=5, help="how often each variant runs; the median counts (default: 5)")
    parser.add_argument("--quick", action="store_true", help="small sizes and one round: only shows that everything runs")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures of all rounds to FILE")
    parser.add_argument("--list", action="store_true", help="list the rows")
    parser.add_argument(
        "--dir", type=Path, default=ROOT.parent / ".bench", help="scratch directory, on the disk to measure (default: .bench)"
    )
    parser.add_argument(
        "--data",
        type=Path,
        metavar="FILE",
        default=REAL / "online_retail.csv.gz",
        help="lines of Online Retail for the row `shop` (default: %(default)s)",
    )
    parser.add_argument(
        "--history",
        type=Path,
        metavar="FILE",
        default=REAL / "git_pip.jsonl.gz",
        help="a git history for the row `history` (default: %(default)s)",
    )
    parser.add_argument(
        "--present", type=_numbers, metavar="N,N", help="records present in the row `growth` (default: 10000,1000000,10000000)"
    )
    parser.add_argument("--without", action="append", default=[], choices=SIDES, help="leave a side out; RESULTS.md is not written then")
    return parser


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


if __name__ == "__main__":
    sys.exit(main())
