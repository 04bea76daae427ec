"""Which app and which log: from the arguments, else from `[tool.happened]` in the nearest pyproject.toml."""

import importlib
import sqlite3
import sys
import tomllib
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Any  # Any: a TOML file holds anything

import msgspec

from happened.app import App
from happened.core.errors import Invalid
from happened.core.messages import name_of
from happened.core.state import State
from happened.opening import check_postgres, is_postgres, path_in
from happened.shelf.connection import as_shown
from happened.stores.sqlite import check_version

SQLITE = "sqlite:///"
LISTED = "may-differ"
KEYS = {"app", "log", "views", LISTED}
"""What `[tool.happened]` may say."""


def log_url(given: str | None, *, there: bool = True) -> str:
    """Return the URL of a log that exists. `Invalid` if none is named or it is not there: to look at a log never makes one.

    Without `there` the log may be one that is still to be made.
    """
    url = given or _set("log")
    if url is None:
        raise Invalid('which log? give --log URL, or write `log = "sqlite:///..."` under [tool.happened] in pyproject.toml')
    if is_postgres(url):
        if there:
            check_postgres(url)
        return url
    if not url.startswith(SQLITE):
        meant = f"{SQLITE}{url}" if ":" not in url else f"{SQLITE}path or postgresql://user@host/database?schema=name"
        shown = as_shown(url)
        raise Invalid(f"`{shown}` is no log that another process can look at: write {meant}", url=shown)
    path = Path(path_in(url) or "")
    if not path.is_file():
        if there:
            raise Invalid(f"there is no log at {path}", url=url)
        return url
    check_version()
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as connection:
            tables = {name for (name,) in connection.execute("select name from sqlite_master where type = 'table'")}
    except sqlite3.Error as error:
        why = f"{error}. Also to read a log, SQLite writes beside it: this user must be allowed to" if "readonly" in str(error) else error
        raise Invalid(f"the file {path} can't be read as a log: {why}", url=url) from error
    if "log" not in tables and (there or tables):  # one without any is being made by another process
        raise Invalid(f"the file {path} is no log", url=url)
    return url


def the_app(given: str | None) -> App:
    """Import the app. `Invalid` if none is named, or the module can't be imported or has no such app."""
    return named_app(given)[1]


def without_deciders(app: App, *, views: Iterable[type[State]] = (), replicas: bool = False) -> App:
    """Return an app that reads a log as this one does, decides nothing, and has these views only, and no copies of other systems but with `replicas`."""
    commands = [name_of(command)[0] for command in app.handlers]
    only = App(
        app.name,
        records=[event for event in app.events if event not in app.called],
        views=views,
        subscriptions=app.subscriptions,
        replicas=app.replicas if replicas else {},
        ignores=[*app.ignores, *commands],
    )
    only.lifts = app.lifts  # all of them: those that lead to a command have no class here
    return only


def named_app(given: str | None) -> tuple[str, App]:
    """Import the app, and return by what name it can be imported, too."""
    folder, table = _settings()
    named = given or table.get("app")
    if named is None:
        raise Invalid('which app? give --app module:app, or write `app = "module:app"` under [tool.happened] in pyproject.toml')
    module_name, _, name = str(named).partition(":")
    if not module_name or not name:
        raise Invalid(f"`{named}` names no app: write module:app", app=named)
    if "/" in module_name or "\\" in module_name or module_name.startswith(".") or module_name.endswith(".py"):
        raise Invalid(
            f"`{named}` names a file: write the module as it is imported, such as shop.main:app, and run from its folder", app=named
        )
    for place in (Path.cwd(), folder):
        if str(place) not in sys.path:
            sys.path.insert(0, str(place))
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        raise Invalid(f"the module `{module_name}` can't be imported: {type(error).__name__}: {error}", app=named) from error
    app = getattr(module, name, None)
    if not isinstance(app, App):
        raise Invalid(f"the module `{module_name}` has no app called `{name}`", app=named)
    return str(named), app


def app_is_set() -> bool:
    """Say whether the settings name an app."""
    return "app" in _settings()[1]


def log_is_there() -> bool:
    """Say whether the settings name a log, and it is there."""
    url = _set("log")
    if url is None or not is_postgres(url):
        return url is not None and Path(url.removeprefix(SQLITE)).is_file()
    try:
        check_postgres(url)
    except Invalid:
        return False
    return True


def views_url(given: str | None) -> str | None:
    """Return the URL of where the views lie, from the arguments, else the settings; `None` where nothing is said: beside the log."""
    return given or _set("views")


def _set(key: str) -> str | None:
    """Return the URL that the settings name; a path in it is one from their folder."""
    folder, table = _settings()
    url = table.get(key)
    if not isinstance(url, str) or not url.startswith(SQLITE):
        return url
    return f"{SQLITE}{folder / url.removeprefix(SQLITE)}"


def log_folder(given: str | None) -> Path:
    """Return the folder that belongs to a log that is no file: of the settings where those name the log, else the current one."""
    return Path() if given is not None else _settings()[0]


def declared_differences() -> list[str]:
    """Return the fields that may come out otherwise, as `OrderPlaced.total`: `may-differ` in the settings."""
    return list(_settings()[1].get(LISTED, []))


def _settings() -> tuple[Path, dict[str, Any]]:
    """Return the folder of the nearest pyproject.toml and what it says about us."""
    here = Path.cwd()
    for folder in (here, *here.parents):
        path = folder / "pyproject.toml"
        if path.is_file():
            try:
                whole = tomllib.loads(path.read_text(encoding="utf-8"))
            except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
                raise Invalid(f"{path} can't be read: {error}", path=str(path)) from error
            try:
                table = msgspec.convert(whole, dict[str, Any]).get("tool", {})
                settings = msgspec.convert(msgspec.convert(table, dict[str, Any]).get("happened", {}), dict[str, Any])
                msgspec.convert({key: settings[key] for key in settings if key != LISTED}, dict[str, str])
                msgspec.convert(settings.get(LISTED, []), list[str])
            except msgspec.ValidationError as error:
                raise Invalid(
                    f"[tool.happened] in {path} holds texts, `app`, `log` and `views`, and a list of texts, `{LISTED}`: {error}",
                    path=str(path),
                ) from error
            unknown = sorted(set(settings) - KEYS)
            if unknown:
                raise Invalid(
                    f"[tool.happened] in {path} has no key `{unknown[0]}`: it holds `app`, `log`, `views` and `{LISTED}`",
                    path=str(path),
                    keys=unknown,
                )
            return folder, settings
    return here, {}
