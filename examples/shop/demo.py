"""A year of the shop: put its lines into a log, close it, and ask a fresh process what it says. Then a few days at the counter, in `story.py`.

Everything is put in with an id of its own, made from the line's number: `line-17` for the fact, `cancel-17` for the command. So the import may be
killed at any moment and started again: what is there already is known by its id, and nothing counts twice. Two lines that are equal in all they
say count twice all the same, since nothing is known by what it says.
"""

import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from decimal import Decimal
from multiprocessing import get_context
from pathlib import Path
from typing import ParamSpec, TypeVar

import msgspec

import happened as h

from .model import Cancellations, CancelLine, CountryRevenue, CustomerRevenue, ItemRevenue, LineCredited, LineSold, MonthRevenue, shop
from .read import Line, count_lines, read_lines
from .sample import sample
from .story import play, tell

P = ParamSpec("P")
R = TypeVar("R")

Progress = Callable[[int, int | None], None]
"""Told how many lines were taken, and of how many, where that is known."""

CATCH_UP_SECONDS_MAX = 600
"""How long views may take until they have seen all of the log."""

LINES_BETWEEN_PROGRESS = 1000

LINES_BEFORE_STORY = 200
"""Lines that come before the story, so that the map of it shows all there is."""

TOP = 20
"""How many customers and items a summary names."""


class Summary(msgspec.Struct, frozen=True):
    """What the shop's log says about the year; every number is the answer of a view."""

    lines: int
    revenue: str
    cancellations_accepted: int
    cancellations_refused: int
    by_country: dict[str, str]
    by_month: dict[str, str]
    top_customers: list[tuple[str, str]]
    top_items: list[tuple[str, int]]


def demo(data: Path | None = None, log: str | None = None, *, json: bool = False, progress: Progress | None = None) -> int:
    """Run it all and print what came of it; return the exit code: 0, or 1 if the rebuilt views differ.

    Without `data` the sample is taken, without `log` one that is thrown away at the end. `BadFile` for data that can't be read,
    `Invalid` for a log that is no file: its views are deleted, to see them rebuilt.
    """
    with tempfile.TemporaryDirectory() as folder:
        url = log or f"sqlite:///{folder}/shop.db"
        if not url.startswith("sqlite:///"):
            raise h.Invalid(
                "the log is opened by several processes, one after the other, and the file of its views is deleted: "
                "it must be on disk, such as sqlite:///shop.db"
            )
        fill(url, data, progress)
        told = in_a_fresh_process(summary, url)
        delete_views(url)
        rebuilt = in_a_fresh_process(summary, url)
        story = play(Path(folder), messages(sample(LINES_BEFORE_STORY)))
        if json:
            print(msgspec.json.encode(msgspec.to_builtins(told) | msgspec.to_builtins(story)).decode())
        else:
            print("\n".join(sentences(told)))
            tell(story, Path(folder))
            print("\n".join(further(log)))
    if rebuilt != told:
        print(f"error: the views were deleted and rebuilt, and now they say {rebuilt}", file=sys.stderr)
        return 1
    return 0


# --- in: lines become facts and commands ------------------------------------------------------------------------------------


def fill(log: str, data: Path | None, progress: Progress | None = None) -> None:
    """Put all lines into the log: of the file, or of the sample."""
    total = count_lines(data) if data and progress else None
    lines = read_lines(data) if data else sample()
    with shop.open(log, run=False) as running:  # the views are left to whoever asks them: now they would only take turns with the import
        load(running, watched(lines, total, progress) if progress else lines)


def load(running: h.Running, lines: Iterable[Line]) -> None:
    """Put lines into the log in their order, hundreds in a commit. A refusal is a result here, like any other, and stops nothing."""
    for _ in running.dispatch_all(messages(lines)):
        pass  # the views count what came of it


def messages(lines: Iterable[Line]) -> Iterator[h.Message]:
    """Make of each line a fact, and of a credited one that names its customer a command too, which sees all facts before it and none after."""
    for line in lines:
        yield fact(line)
        if line.credited and line.customer:
            yield h.Message(CancelLine(line.customer, line.sku, -line.units), id=f"cancel-{line.number}")


def fact(line: Line) -> h.Message:
    """Make a fact of a line, under an id of its own."""
    number, invoice, sku, description, units, at, price, customer, country = line
    event = LineCredited if line.credited else LineSold
    return h.Message(event(number, invoice, sku, description, units, price, customer, country), id=f"line-{number}", occurred=at)


def watched(lines: Iterable[Line], total: int | None, progress: Progress) -> Iterator[Line]:
    """Pass lines on and say how many they were so far."""
    count = 0
    for count, line in enumerate(lines, start=1):
        yield line
        if count % LINES_BETWEEN_PROGRESS == 0:
            progress(count, total)
    progress(count, count)


# --- out: views are asked ---------------------------------------------------------------------------------------------------


def summary(log: str) -> Summary:
    """Ask the views, each of them as of all that is in the log."""
    with shop.open(log) as running:
        head = running.log.head
        countries = running.view(CountryRevenue).order_by("country").rows(since=head, wait_seconds_max=CATCH_UP_SECONDS_MAX)
        months = running.view(MonthRevenue).order_by("month").rows(since=head)
        customers = running.view(CustomerRevenue).order_by("-revenue", "customer").rows(limit=TOP, since=head)
        items = running.view(ItemRevenue).order_by("-units", "sku").rows(limit=TOP, since=head)
        cancellations = running.view(Cancellations).find(since=head) or Cancellations()
    return Summary(
        lines=sum(country.lines for country in countries),
        revenue=money(sum((country.revenue for country in countries), Decimal(0))),
        cancellations_accepted=cancellations.accepted,
        cancellations_refused=cancellations.refused,
        by_country={country.country: money(country.revenue) for country in countries},
        by_month={month.month: money(month.revenue) for month in months},
        top_customers=[(customer.customer, money(customer.revenue)) for customer in customers],
        top_items=[(item.sku, item.units) for item in items],
    )


def delete_views(log: str) -> None:
    """Delete the file that the views lie in, beside the log: nothing is lost but time."""
    path = Path(log.removeprefix("sqlite:///"))
    files = list(path.parent.glob(f"{path.name.removesuffix('.db')}.views.db*"))
    assert files, f"the views of {path} lie beside it"
    for file in files:
        file.unlink()


def sentences(told: Summary) -> Iterator[str]:
    """Tell a summary to people."""
    yield f"{told.lines:,} lines of invoices brought in {told.revenue}."
    yield f"{told.cancellations_accepted:,} cancellations were accepted, {told.cancellations_refused:,} refused: more than was bought."
    for title, sums in (
        ("country", told.by_country),
        ("month", told.by_month),
        (f"customer, the first {len(told.top_customers)}", dict(told.top_customers)),
    ):
        yield f"\nBy {title}:"
        yield from (f"  {name:<22}{amount:>14}" for name, amount in sums.items())
    yield "\nItems that went most:"
    yield from (f"  {sku:<22}{units:>14}" for sku, units in told.top_items)
    yield "\nAll this was asked of views in a fresh process; then they were deleted, built again from the log, and asked again."


def further(log: str | None) -> Iterator[str]:
    """Say what to do next: look into the log, or keep one to look into."""
    kept = log or "sqlite:///shop.db"
    app = f"--app {__package__}.model:shop --log {kept}"
    yield "\nThe log is kept, so look into it:\n" if log else f"\nKeep the log to look into it:\n\n  happened demo --log {kept}\n"
    yield f"  happened tail --log {kept}"
    yield f"  happened view {CountryRevenue.__name__} --order=-revenue {app}"
    yield f"  happened views {app}"
    yield f"  happened verify --log {kept}"


def money(amount: Decimal) -> str:
    """Write an amount with two decimal places, or as many more as it has."""
    whole, _, places = f"{amount:f}".partition(".")
    return f"{whole}.{places.rstrip('0'):0<2}"


def in_a_fresh_process(function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Call a function in a process that has seen nothing yet: what it answers can only come from the disk."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        return process.submit(function, *args, **kwargs).result()
