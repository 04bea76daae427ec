"""Clients are killed, stopped and started again at any moment, and so is the server: one log explains all that any of them asked and heard."""

from pathlib import Path

from happened.testing.history import History
from tests.faults.model import begin
from tests.faults.rig import KILLS, Clients, chance_of, opened, whole
from tests.servers import Server


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

        counted = whole(history, url)
        assert counted["write", "accepted"] > 50
    finally:
        server.remove()
