"""What a user may want to type next."""

import shlex
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import URL

from hpo.plan import Plan
from hpo.search.database.urls import FILE_VARIABLE
from hpo.search.ledger.summary import Summary

STUDY_OPTIONS = frozenset(
    ("--study", "--scale", "--name", "--storage", "--data", "--model", "--set", "--runs-dir")
)


@dataclass(frozen=True, kw_only=True)
class Command:
    """What the user typed, for the commands that are suggested next."""

    words: tuple[str, ...]
    storage_variable: str | None
    """The environment variable that names the database, if one does."""


def program(name: str) -> str:
    """What to type for a program of this environment: its name if that finds it, else its path."""
    own = Path(sys.executable).with_name(name)
    if not own.exists() or shutil.which(name) == str(own):
        return name
    return str(own.relative_to(Path.cwd())) if own.is_relative_to(Path.cwd()) else str(own)


def next_commands(plan: Plan, url: URL, command: Command, summary: Summary) -> list[str]:
    """What a user may want to type now; no password in it."""
    commands = [f"{program('optuna-dashboard')} {_shown(url, command)}"]
    begin = (program("python"), "-m", "hpo.run")
    words = shlex.join((*begin, *command.words))
    if summary.finished < summary.trials:
        commands.append(f"{words}    # goes on")
    else:
        more = _with_trials(command.words, 2 * summary.trials)
        commands.append(
            f"{shlex.join((*begin, *more))}    # goes on to {2 * summary.trials} trials"
        )
    if summary.generates and summary.best:
        score = (program("python"), "-m", "hpo.score", *_of_the_study(command.words))
        commands.append(f"{shlex.join(score)}    # lets the best answer, and scores the answers")
    return commands


def _shown(url: URL, command: Command) -> str:
    """The database as a shell takes it."""
    variable = command.storage_variable
    if variable is None:
        return shlex.quote(url.render_as_string(hide_password=True))  # typed, and without secrets
    return f'"$(cat "${variable}")"' if variable == FILE_VARIABLE else f'"${variable}"'


def _of_the_study(options: tuple[str, ...]) -> list[str]:
    """Those options that say which study is meant."""
    kept: list[str] = []
    takes_value = False
    for word in options:
        name, equals, _ = word.partition("=")
        if takes_value or name in STUDY_OPTIONS:
            takes_value = not takes_value and not equals
            kept.append(word)
    return kept


def _with_trials(options: tuple[str, ...], trials: int) -> list[str]:
    kept: list[str] = []
    skip = False
    for word in options:
        if skip or word.startswith("--trials="):
            skip = False
        elif word == "--trials":
            skip = True
        else:
            kept.append(word)
    return [*kept, "--trials", str(trials)]
