"""The global view on a long log: any stretch of the flow map, a large conversation, a reason, and what counting costs those who record.

The log has 300 message types, 180 handlers and 48 views (of `tests/notification/made.py`), commands from outside and what reactions sent on, one
conversation of 10,000 records, and an account at its very end that a view shows. What counting costs is measured on the same work with and without it.
"""

import random
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack, closing
from itertools import count, islice
from pathlib import Path
from time import perf_counter

import happened as h
from benchmarks import ledger, ours
from benchmarks.measure import Run, Timer, Variant
from benchmarks.plan import Context, Goal, Results, Row, every, p99_ms, ratio
from happened.core.store import Row as LogRow
from happened.core.store import Terms
from happened.log import writer
from happened.log.log import Log
from happened.notification.drawing import drawn
from happened.notification.flow import observed_flow
from happened.notification.story import story_of
from happened.notification.why import causes_of
from happened.stores.counts import Counts
from tests.notification.made import Many, Step, many, record, traffic

MAP, WHOLE, TRACE, WHY, SCAN = (
    "any stretch of the map",
    "declared against observed",
    "trace of a large conversation",
    "why",
    "reading it once",
)
ON, OFF = "100 facts a commit, counted", "100 facts a commit, not counted"
COMMANDS_ON, COMMANDS_OFF = "commands, counted", "commands, not counted"
CHAIN = 20
"""Steps of the reason that is asked for."""


def _system() -> Many:
    """Return the system, with one more reaction: a chain leads back to its own command."""
    system = many()
    system.topology["reactions"].append({"name": "back", "events": ["Happened000"], "sends": ["Do000"]})
    return system


def _make(commands: int, large: int) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        system = _system()
        with closing(h.open_log(f"sqlite:///{path}", create=True)) as log:
            steps = traffic(system, commands)
            topology = system.topology
            while some := list(islice(steps, 1_000)):
                record(log, some, topology or None)
                topology = {}
            record(log, [Step("large", "command:Do000", "decider:decide_000", ("event:Happened000",) * (large // 4))])
            for start in range(0, large // 4, 1_000):
                record(
                    log,
                    [
                        Step(
                            f"large/{n}",
                            "command:Do000",
                            "decider:decide_000",
                            ("event:Happened000", "event:Happened120"),
                            "reaction:back",
                            "event:Happened000",
                            "large",
                            f"large#{n + 1}",
                            depth=1,
                        )
                        for n in range(start, min(start + 1_000, large // 4))
                    ],
                )
            record(log, [_link(n) for n in range(CHAIN)])

    return make


def _link(n: int) -> Step:
    cause = {"sender": "reaction:back", "cause": "event:Happened000", "correlation": "chain0", "causation": f"chain{n - 1}#1"} if n else {}
    return Step(f"chain{n}", "command:Do000", "decider:decide_000", ("event:Happened000",), depth=n, **cause)


def _timed(ask: Callable[[], object], times: int) -> Callable[[], Run]:
    def run() -> Run:
        latencies: list[float] = []
        with Timer() as timer:
            for _ in range(times):
                start = perf_counter()
                ask()
                latencies.append(perf_counter() - start)
        return timer.run(times, latencies)

    return run


def _asked(context: Context) -> list[Variant]:
    commands, large = context.size(1_000_000, 3_000), context.size(10_000, 400)
    path = context.shared.path(f"flow-{commands}.db", _make(commands, large))
    log = context.exits.enter_context(closing(h.open_log(f"sqlite:///{path}")))
    system = _system()
    chance = random.Random(1)
    head = log.head

    def any_stretch() -> object:
        after, until = sorted((chance.randrange(head), chance.randrange(head)))
        return observed_flow(log, system.topology, system.modules, after=after, until=until)

    def whole() -> object:
        flow = observed_flow(log, system.topology, system.modules)
        assert not flow.undeclared, "the system does as it says"
        return drawn(flow)

    def trace() -> object:
        story = story_of(log, "large")
        assert sum(line.count for line in story.lines) == story.records >= large, "nothing is hidden"
        return story

    def why() -> object:
        causes = causes_of(log, head, {})
        assert len(causes) == 2 * CHAIN, "back to the outside"
        return causes

    return [
        Variant(MAP, "happened", _timed(any_stretch, context.size(400, 5))),
        Variant(WHOLE, "happened", _timed(whole, context.size(20, 2))),
        Variant(TRACE, "happened", _timed(trace, context.size(5, 1))),
        Variant(WHY, "happened", _timed(why, context.size(200, 5))),
    ]


def _scan(context: Context) -> list[Variant]:
    commands, large = context.size(1_000_000, 3_000), context.size(10_000, 400)
    path = context.shared.path(f"flow-{commands}.db", _make(commands, large))
    log = context.exits.enter_context(closing(h.open_log(f"sqlite:///{path}")))
    return [Variant(SCAN, "limit", _timed(lambda: _read(log), 1))]


def _read(log: Log) -> int:
    rows: list[Sequence[LogRow]] = []
    for page in log.engine.read():
        rows[:] = [page]
    return len(rows)


def _facts(context: Context) -> list[Variant]:
    commits = context.size(100, 5)
    return [
        Variant(OFF, "limit", _recording(context, commits, counted=False)),
        Variant(ON, "happened", _recording(context, commits, counted=True), OFF),
    ]


def _recording(context: Context, commits: int, *, counted: bool) -> Callable[[], Run]:
    running = context.exits.enter_context(ours.open_bank(context.fresh("bank.db")))
    numbers = count()

    def run() -> Run:
        batches = [[ours.fact(next(numbers), 1_000, 5_000, 2) for _ in range(100)] for _ in range(commits)]
        with ExitStack() as switched, Timer() as timer:
            _switch(switched, counted=counted)
            for batch in batches:
                ours.append(running, batch)
        return timer.run(commits * 100)

    return run


def _commands(context: Context) -> list[Variant]:
    size = context.size(20_000, 500)

    def variant(name: str, base: str | None, *, counted: bool) -> Variant:
        running = context.exits.enter_context(ours.open_bank(context.fresh("bank.db")))
        numbers = count()

        def run() -> Run:
            commands = [ours.command(ledger.entry(ledger.scatter(next(numbers), 1_000), 1, 1)) for _ in range(size)]
            with ExitStack() as switched, Timer() as timer:
                _switch(switched, counted=counted)
                for _ in running.dispatch_all(commands):
                    pass
            return timer.run(size)

        return Variant(name, "happened" if counted else "limit", run, base)

    return [variant(COMMANDS_OFF, None, counted=False), variant(COMMANDS_ON, COMMANDS_OFF, counted=True)]


def _switch(switched: ExitStack, *, counted: bool) -> None:
    """Let nothing be counted until the end of the block, where that is asked for."""
    if counted:
        return
    count_in, add = writer.counts_in, Counts.add

    def passed_over(counts: Counts, rows: Iterable[LogRow], _terms: Iterable[Terms]) -> None:
        for row in rows:
            counts.counted = row.last

    def put_back() -> None:
        writer.counts_in, Counts.add = count_in, add

    writer.counts_in, Counts.add = lambda *_: (), passed_over
    switched.callback(put_back)


def _cost(name: str) -> Callable[[Results], str]:
    return lambda results: f"{1 - (results[name].ratio or 0):+.1%}"


ROWS = (
    Row(
        "flow",
        "The flow map, a conversation and a reason on a log of 1,000,000 commands and 300 message types",
        (
            Goal("any stretch of the map", "p99 under 50 ms", "", p99_ms(MAP)),
            Goal("declared against observed, drawn", "p99 under 1,000 ms", "", p99_ms(WHOLE)),
            Goal("trace of a conversation of 10,000 records", "p99 under 1,000 ms", "", p99_ms(TRACE)),
            Goal("why, back over 20 commands", "p99 under 20 ms", "", p99_ms(WHY)),
        ),
        {"limit": _scan, "happened": _asked},
        probe=False,
    ),
    Row(
        "flow-cost",
        "What counting the flow costs who records",
        (
            Goal("100 facts a commit", "at most 10 %", "", every(ratio(ON), _cost(ON))),
            Goal("commands", "at most 10 %", "", every(ratio(COMMANDS_ON), _cost(COMMANDS_ON))),
        ),
        {"happened": lambda context: [*_facts(context), *_commands(context)]},
    ),
)
