"""PostgreSQL: the rows of durable commands, appends and a view, beside the peer on the same server.

Each side has a server of its own with the same settings, started from the wheel that the tests use, on a socket, durable (`fsync`,
`synchronous_commit=on`). A slow disk is emulated by the server itself: `commit_delay` lets each flush wait 2 ms, whoever is part of it.
"""

import multiprocessing
import uuid
from collections.abc import Callable
from itertools import islice
from multiprocessing.connection import Connection
from time import perf_counter

import psycopg

import happened as h
from benchmarks import ledger, ours
from benchmarks import peer_eventsourcing as peer
from benchmarks import peer_postgres as there
from benchmarks.callers import alone, dealt, in_tasks
from benchmarks.ledger import Entry
from benchmarks.measure import Run, Timer, Variant
from benchmarks.plan import Build, Context, Goal, Row, every, p99_ms, ratio
from benchmarks.row_commands import ALONE, peers
from tests.servers import Server

VIEW = "eventsourcing"
BATCH = "eventsourcing, 100 events"
ONE_PROCESS = "happened, 1 process"
SETTINGS = ("shared_buffers=512MB", "max_wal_size=4GB")
SLOW = ("commit_delay=2000", "commit_siblings=0")
TWO_TAGS = 2
PER_COMMIT = 100


def _server(context: Context, *settings: str) -> Server:
    server = Server(*SETTINGS, *settings)
    context.exits.callback(server.remove)
    return server


def _url(server: Server) -> str:
    return f"{server.url}&schema=b{uuid.uuid4().hex[:12]}"


def _accounts(context: Context) -> int:
    return context.size(1_000, 50)


def _present(context: Context) -> int:
    return context.size(20_000, 500)


def _deposits(context: Context, full: int, quick: int) -> list[Entry]:
    accounts = _accounts(context)
    return [ledger.entry(ledger.scatter(number, accounts), 1, number) for number in range(context.size(full, quick))]


def _limit(*settings: str) -> Build:
    def build(context: Context) -> list[Variant]:
        server = _server(context, *settings)
        connection = context.exits.enter_context(psycopg.connect(server.url, autocommit=True))
        connection.execute("create table head(one int primary key, position bigint)")
        connection.execute("insert into head values(1, 0)")
        connection.execute("create table log(position bigint primary key, body text)")
        body = "x" * 600

        def one(_number: int) -> None:
            with connection.transaction():
                connection.execute("update head set position = position + 1")
                connection.execute("insert into log select position, %s from head", (body,))

        work = range(context.size(1_000, 20))
        return [Variant("bare: lock, insert, commit, 1 connection", "limit", lambda: alone(one, work), ALONE)]

    return build


def _peer(*crowds: int, settings: tuple[str, ...] = ()) -> Build:
    def build(context: Context) -> list[Variant]:
        server = _server(context, *settings)
        bank = there.open_bank(server, cache=True)
        context.exits.callback(bank.close)
        accounts = _accounts(context)
        there.fill(bank, ledger.entries(_present(context), accounts))
        for number in range(accounts):
            bank.account(number)
        return peers(bank, _deposits(context, 1_000, 40), crowds)

    return build


def _open(context: Context, *settings: str) -> h.Running:
    url = _url(_server(context, *settings))
    ours.fill(url, ledger.entries(_present(context), _accounts(context)))
    running = context.exits.enter_context(ours.open_bank(url))
    ours.warm(running, _accounts(context))
    return running


def _ours(callers: int, full: int, quick: int, *settings: str) -> Build:
    def build(context: Context) -> list[Variant]:
        running = _open(context, *settings)
        deposits = _deposits(context, full, quick)

        def run() -> Run:
            if callers == 1:
                return alone(lambda entry: running.dispatch(ours.command(entry)), deposits)
            return in_tasks(dealt(lambda entry: running.adispatch(ours.command(entry)), deposits, callers))

        return [Variant(_called(callers), "happened", run, ALONE)]

    return build


def _called(callers: int) -> str:
    return "happened, 1 caller" if callers == 1 else f"happened, {callers} tasks"


def _many(*builds: Build) -> Build:
    return lambda context: [variant for build in builds for variant in build(context)]


# --- appends


def _peers_batches(context: Context) -> list[Variant]:
    bank = there.open_bank(_server(context), cache=False)
    context.exits.callback(bank.close)
    encoder = peer.Encoder(bank)
    numbers = iter(range(1 << 40))
    batches = context.size(100, 3)

    def run() -> Run:
        with Timer() as timer:
            for _ in range(batches):
                bank.recorder.insert_events([encoder.stored(ledger.entry(number, 0, number)) for number in islice(numbers, PER_COMMIT)])
        return timer.run(batches * PER_COMMIT)

    return [Variant(BATCH, "eventsourcing", run)]


def _our_batches(context: Context) -> list[Variant]:
    running = context.exits.enter_context(ours.open_bank(_url(_server(context))))
    numbers = iter(range(1 << 40))
    batches = context.size(200, 3)

    def run() -> Run:
        with Timer() as timer:
            for _ in range(batches):
                ours.append_together(
                    running, [ours.fact(number, 10_000, ledger.BRANCHES, TWO_TAGS) for number in islice(numbers, PER_COMMIT)]
                )
        return timer.run(batches * PER_COMMIT)

    return [Variant("happened, 100 events", "happened", run, BATCH)]


# --- a view


def _peers_view(context: Context) -> list[Variant]:
    server = _server(context)
    bank = there.open_bank(server, cache=False)
    context.exits.callback(bank.close)
    there.fill(bank, ledger.entries(_present(context), _accounts(context)))
    events = context.size(2_000, 100)

    def run() -> Run:
        with psycopg.connect(server.url, autocommit=True) as connection:
            connection.execute("drop table if exists balance, balances_tracking, notification_tracking")
        view = there.open_view(server)
        balances = peer.Balances(view)  # type: ignore[arg-type]  # it asks for `add` and `insert_tracking`
        done = 0
        with Timer() as timer:
            while done < events:
                for notification in bank.recorder.select_notifications(done + 1, min(peer.PAGE, events - done)):
                    balances.process_event(bank.mapper.to_domain_event(notification), peer.Tracking(bank.name, notification.id))
                    done += 1
        view.datastore.close()
        return timer.run(events)

    return [Variant(VIEW, "eventsourcing", run)]


def _our_view(context: Context) -> list[Variant]:
    url = _url(_server(context))
    count, accounts = context.size(100_000, 2_000), context.size(10_000, 100)
    ours.fill(url, ledger.entries(count, accounts))
    total = ledger.total(count, accounts, 0)

    def run() -> Run:
        with ours.open_bank(url, ours.VIEWED) as running:
            view = running.view(ours.Account)
            view.rows(limit=1, since=running.log.head, wait_seconds_max=ours.CATCH_UP_SECONDS_MAX)
            with Timer() as timer:
                running.rebuild(ours.Account)
            assert sum(row.balance for row in view.rows(limit=1_000_000)) == total, "the view comes to the ledger's total"
        return timer.run(count)

    return [Variant("happened, rebuild", "happened", run, VIEW)]


# --- several processes


def _commands(url: str, start: int, accounts: int, count: int, pipe: Connection) -> None:
    with ours.open_bank(url, run=False) as running:
        ours.warm(running, accounts)
        entries = [ledger.entry(ledger.scatter(number, accounts), 1, number) for number in range(start, start + count)]
        pipe.send("ready")
        while pipe.recv():
            began = perf_counter()
            in_tasks(dealt(lambda entry: running.adispatch(ours.command(entry)), entries, 16))
            pipe.send(perf_counter() - began)


def _processes(context: Context, count: int) -> Callable[[], Run]:
    url = _url(_server(context))
    accounts = _accounts(context)
    ours.fill(url, ledger.entries(_present(context), accounts))
    each = context.size(4_000, 64) // count
    spawn = multiprocessing.get_context("spawn")
    pipes: list[Connection] = []
    for number in range(count):
        mine, theirs = spawn.Pipe()
        process = spawn.Process(target=_commands, args=(url, number * each, accounts, each, theirs), daemon=True)
        process.start()
        mine.recv()
        context.exits.callback(process.join)
        context.exits.callback(mine.send, False)
        pipes.append(mine)

    def run() -> Run:
        with Timer() as timer:
            for pipe in pipes:
                pipe.send(True)
            took = [pipe.recv() for pipe in pipes]
        return timer.run(each * count, slowest_to_quickest=max(took) / min(took))

    return run


def _one_and_four(context: Context) -> list[Variant]:
    return [
        Variant(ONE_PROCESS, "happened", _processes(context, 1)),
        Variant("happened, 4 processes", "happened", _processes(context, 4), ONE_PROCESS),
    ]


# --- a follower


def _follow(url: str, pipe: Connection) -> None:
    with h.open_log(url) as log:
        at = log.head
        pipe.send(at)
        while True:
            at = log.wait(at, 60)
            pipe.send(perf_counter())
            if pipe.poll():
                return


def _followed(context: Context) -> list[Variant]:
    url = _url(_server(context))
    running = context.exits.enter_context(ours.open_bank(url))
    spawn = multiprocessing.get_context("spawn")
    mine, theirs = spawn.Pipe()
    process = spawn.Process(target=_follow, args=(url, theirs), daemon=True)
    process.start()
    mine.recv()
    numbers = iter(range(1 << 40))
    commits = context.size(500, 10)

    def last() -> None:
        mine.send(None)
        running.record(ours.fact(next(numbers), 100, ledger.BRANCHES, TWO_TAGS))
        process.join()

    context.exits.callback(last)

    def run() -> Run:
        latencies: list[float] = []
        with Timer() as timer:
            for number in islice(numbers, commits):
                running.record(ours.fact(number, 100, ledger.BRANCHES, TWO_TAGS))
                answered = perf_counter()
                latencies.append(max(0.0, mine.recv() - answered))  # the clock is one for all processes here
        return timer.run(commits, latencies)

    return [Variant("happened, another process", "happened", run)]


ROWS = (
    Row(
        "postgres-commands",
        "PostgreSQL: durable commands, 1, 8 and 100 callers",
        (
            Goal("1 caller", "×1.5", "×2", ratio("happened, 1 caller")),
            Goal("8 tasks", "×5", "×10", ratio("happened, 8 tasks")),
            Goal("100 tasks", "×15", "×35", every(ratio("happened, 100 tasks"), p99_ms("happened, 100 tasks"))),
        ),
        {
            "limit": _limit(),
            "eventsourcing": _peer(8),
            "happened": _many(_ours(1, 1_000, 40), _ours(8, 4_000, 80), _ours(64, 16_000, 128), _ours(100, 20_000, 200)),
        },
    ),
    Row(
        "postgres-slow",
        "PostgreSQL: durable commands where a flush takes 2 ms more, 100 callers",
        (Goal("100 tasks", "×15", "×30", ratio("happened, 100 tasks")),),
        {"limit": _limit(*SLOW), "eventsourcing": _peer(settings=SLOW), "happened": _ours(100, 10_000, 200, *SLOW)},
    ),
    Row(
        "postgres-append",
        "PostgreSQL: append, 100 events per commit with 2 tags",
        (Goal("100 per commit", "×4", "×8", ratio("happened, 100 events")),),
        {"eventsourcing": _peers_batches, "happened": _our_batches},
    ),
    Row(
        "postgres-view",
        "PostgreSQL: view catch-up, exactly once, into a table there",
        (Goal("rebuild", "×40", "×60", ratio("happened, rebuild")),),
        {"eventsourcing": _peers_view, "happened": _our_view},
    ),
    Row(
        "postgres-processes",
        "PostgreSQL: four processes on one log beside one, 16 callers each",
        (Goal("4 processes", "×0.8", "×1.5", ratio("happened, 4 processes")),),
        {"happened": _one_and_four},
    ),
    Row(
        "postgres-follow",
        "PostgreSQL: from a commit's answer to its sight in another process",
        (Goal("p99", "under 10 ms", "under 2 ms", p99_ms("happened, another process")),),
        {"happened": _followed},
    ),
)
