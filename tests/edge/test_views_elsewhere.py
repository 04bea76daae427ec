"""Commands on an app whose views lie elsewhere than beside its log: by `--views`, or as the settings say. And a channel to a log in PostgreSQL."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any  # Any: what a command printed as JSON

import pytest

from tests.commands import run
from tests.edge.test_cli import MODEL
from tests.servers import fresh

BILLING = """
import happened as h
from model import Sku

class Stock(h.State):
    sku: Sku
    units: int = 0

billing = h.App("billing", replicas={"store": [Stock]})
"""


def project(folder: Path, log: str, views: str = "") -> Path:
    """Make a project, and fill its log."""
    (folder / "model.py").write_text(
        MODEL.replace("views=[", "shares=[Stock], views=[").replace("sqlite:///shop.db", log), encoding="utf-8"
    )
    (folder / "billing.py").write_text(BILLING, encoding="utf-8")
    settings = f'[tool.happened]\napp = "model:app"\nlog = "{log}"\n'
    (folder / "pyproject.toml").write_text(settings + (f'views = "{views}"\n' if views else ""), encoding="utf-8")
    subprocess.run([sys.executable, "-c", "import model; model.fill()"], cwd=folder, check=True)
    for beside in folder.glob("*.views.db*"):
        beside.unlink()
    return folder


def told(folder: Path, *arguments: str) -> tuple[int, Any]:
    """Run a command with `--json`."""
    code, output, _ = run(folder, *arguments, "--json")
    return code, json.loads(output)


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_views_lie_where_the_settings_or_the_arguments_say(tmp_path: Path, kind: str) -> None:
    """Each command that keeps, shows or checks them goes there, and none of them beside the log."""
    views = "sqlite:///elsewhere.db" if kind == "sqlite" else fresh()
    folder = project(tmp_path, "sqlite:///shop.db", views)
    given = ("--views", views, "--log", "sqlite:///shop.db", "--app", "model:app")

    assert told(folder, "view", "Stock", "A") == (0, {"sku": "A", "units": 3})
    assert told(folder, "view", "Fragile", "C")[0] == 0
    head = told(folder, "stats")[1]["head"]
    assert [one["position"] for one in told(folder, "views")[1]] == [head] * 2
    assert [one["position"] for one in told(folder, "views", *given)[1]] == [head] * 2
    assert len(told(folder, "stuck")[1]["views"]) == len(told(folder, "stuck", *given)[1]["views"]) == 1
    assert told(folder, "why", "Stock", "A")[0] == 0
    assert told(folder, "rebuild", "Stock")[1]["generation"] == 2
    assert [one["rows"] for one in told(folder, "check", "--fold")[1]["fold"]["views"]] == [3, 2]  # one stands still
    assert [one["rows"] for one in told(folder, "check", "--fold", *given)[1]["fold"]["views"]] == [3, 2]  # one stands still
    assert not list(folder.glob("shop.views.db"))


def test_run_keeps_views_where_it_is_told(tmp_path: Path) -> None:
    """And has its copies of others there, too; the other system's log may lie in PostgreSQL."""
    url = fresh()
    folder = project(tmp_path, url)
    with subprocess.Popen(
        [sys.executable, "-m", "happened", "run", "model:app", "--log", url, "--views", "sqlite:///of-store.db"],
        cwd=folder,
        stdout=subprocess.PIPE,
    ) as store:
        assert store.stdout is not None
        store.stdout.readline()
        of = ("--log", "sqlite:///billing.db", "--views", "sqlite:///of-billing.db", "--app", "billing:billing")
        command = [sys.executable, "-m", "happened", "run", "--channel", f"store={url}", "--every", "0.05", "--json", *of]
        with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE) as billing:
            assert billing.stdout is not None
            for line in billing.stdout:
                if any(one["position"] for one in json.loads(line).get("replicas", [])):
                    break
            found = told(folder, "replica", "Stock", *of)
            listed = told(folder, "replicas", "--channel", f"store={url}", *of)
            billing.terminate()
            billing.communicate()
        store.terminate()
        store.communicate()
    assert found[0] == listed[0] == 0
    assert {"sku": "A", "units": 3} in found[1]["rows"]
    assert {path.name for path in folder.glob("*.db")} >= {"of-store.db", "of-billing.db", "billing.db"}
    assert not list(folder.glob("*.views.db"))


def test_what_is_no_channel_is_said_without_its_password(tmp_path: Path) -> None:
    """Only a log's URL is one."""
    code, _, errors = run(tmp_path, "run", "model:app", "--channel", "crm=mysql://me:secret@there/crm")

    assert code == 2
    assert "write it as crm=sqlite:///crm.db" in errors
    assert "secret" not in errors


def test_flow_looks_at_a_log_in_postgresql_that_the_settings_name(tmp_path: Path) -> None:
    """Where there is none yet the map is the declared one."""
    folder = project(tmp_path, fresh())
    seen, declared = run(folder, "flow"), run(folder, "flow", "--declared")
    settings = (folder / "pyproject.toml").read_text(encoding="utf-8")
    (folder / "pyproject.toml").write_text(settings.replace("schema=", "schema=none_"), encoding="utf-8")

    assert seen != declared
    assert run(folder, "flow") == declared
