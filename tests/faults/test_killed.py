"""Clients are killed, stopped and started again at any moment, and so is the server: one log explains all that any of them asked and heard."""

import contextlib
from pathlib import Path

import psycopg

import happened as h
from happened.log.compacting import compact
from happened.testing.history import History
from tests.faults.model import begin
from tests.faults.rig import KILLS, Clients, chance_of, opened, whole
from tests.servers import Server, fresh, server


def test_clients_of_one_file_are_killed_at_any_moment(tmp_path: Path, history: History) -> None:
    """Three processes of two clients each work on overlapping boundaries and views; `make torture` kills 500 of them."""
    chance, url = chance_of("sqlite"), f"sqlite:///{tmp_path}/log.db"
    with opened(url) as running:
        begin(running, history.session("begin"))
    with Clients(url, history) as clients:
        for _ in range(KILLS):
            clients.start(3)
            clients.wait(chance.random() * 0.15)
            clients.kill(chance.choice(clients.running))
        clients.wait_for(KILLS)

    counted = whole(history, url)
    assert counted["write", "accepted"] > KILLS
    assert counted["write", "unknown"] > 0
    errors = [one.heard.error for one in history.operations() if one.heard is not None]
    assert [error for error in errors if error.startswith(("StoreFailed", "OutcomeUnknown"))] == []


def test_clients_of_a_server_are_killed_and_stopped_and_so_is_the_server(history: History) -> None:
    """At each tenth kill or so the server itself is killed with all its processes, and started again on the same data."""
    chance, server = chance_of("postgres"), Server()
    try:
        url = f"{server.url}&schema=faults"
        with opened(url) as running:
            begin(running, history.session("begin"))
        with Clients(url, history) as clients:
            for kill in range(max(KILLS // 10, 6)):
                clients.start(3)
                clients.wait(0.2 + chance.random() * 0.3)
                if kill % 3 == 1:
                    server.crash()
                    clients.wait(chance.random() * 0.2)
                    server.start()
                clients.pause(chance.choice(clients.running), chance.random() * 0.3)
                clients.kill(chance.choice(clients.running))
            clients.wait_for(50)

        counted = whole(history, url)
        assert counted["write", "accepted"] > 50
    finally:
        server.remove()


def test_sessions_of_a_server_are_ended_at_any_moment_while_rows_are_packed(history: History) -> None:
    """Whatever a session does, between any two statements: of a writer, a reader, a view, who listens, or who packs."""
    chance, url = chance_of("sessions"), fresh()
    with opened(url) as running:
        begin(running, history.session("begin"))
    with Clients(url, history) as clients, psycopg.connect(server().url, autocommit=True) as connection:
        clients.start(2)
        clients.wait(2)  # who is cut off while he opens the log ends
        for kill in range(KILLS * 4):
            clients.wait(chance.choice([0.0, 0.02, 0.2]))
            sessions = connection.execute(
                "select pid from pg_stat_activity where application_name = %s", (f"happened:{url.rpartition('=')[2]}",)
            ).fetchall()
            if sessions:
                how = chance.choice(["terminate", "terminate", "cancel"])
                connection.execute(f"select pg_{how}_backend(%s)".encode(), chance.choice(sessions))
            if kill % 10 == 9:
                with contextlib.suppress(h.StoreFailed, h.Overloaded), h.open_log(url) as log:
                    compact(log, keep=20, older=None, above=0)

    counted = whole(history, url)
    assert counted["write", "accepted"] > KILLS
