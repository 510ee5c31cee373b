"""From the words of `hpo.run` and `hpo.score` to their work."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Literal, TypeVar

from hpo.errors import FileProblems, MissingError
from hpo.files import Options, load_study
from hpo.guard import guarded
from hpo.hints import Command
from hpo.machine import Machine, look
from hpo.plan import make_plan
from hpo.scoring import score_study
from hpo.screen import choose_screen
from hpo.screen.scores import score_lines
from hpo.search.database.redaction import redacted
from hpo.search.database.storage import check_file
from hpo.search.database.urls import chosen, parse_url, variable
from hpo.search.events import Note
from hpo.session import dry_run, run_study
from hpo.specs import StudySpec
from hpo.units import parse_duration, parse_size

NUMBER = re.compile(r"[1-9][0-9]{0,3}")
R = TypeVar("R", bound="StudyRequest")


@dataclass(frozen=True, kw_only=True)
class StudyRequest:
    """The options that say which study is meant, as typed."""

    study: str
    scale: Literal["auto", "mini", "full"]
    name: str | None
    storage: str | None
    data: str | None
    model: str | None
    assignments: tuple[str, ...]
    runs_dir: Path
    as_json: bool


@dataclass(frozen=True, kw_only=True)
class Request(StudyRequest):
    """The options of `hpo.run`, as typed."""

    trials: int | None
    timeout: str | None
    runners: str
    pack: str
    seed: int | None
    memory_limit: str | None
    dry_run: bool
    words: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class ScoreRequest(StudyRequest):
    """The options of `hpo.score`, as typed."""

    best: int


def execute(request: Request) -> int:
    """Runs the command; what the user can mend becomes one message and exit code 2."""
    return _guarded(_execute, request)


def execute_score(request: ScoreRequest) -> int:
    """Scores the best trials of a study; errors and exit codes are those of `execute`."""
    return _guarded(_execute_score, request)


def _guarded(work: Callable[[R], int], request: R) -> int:
    return guarded(
        lambda: work(request),
        as_json=request.as_json,
        storage=request.storage,
        options=_texts(request),
    )


def _texts(request: StudyRequest) -> list[tuple[str, str]]:
    """The options that are texts, by name."""
    given = [
        ("--study", request.study),
        ("--name", request.name),
        ("--data", request.data),
        ("--model", request.model),
        ("--runs-dir", str(request.runs_dir)),
        *(("--set", text) for text in request.assignments),
    ]
    return [(name, text) for name, text in given if text is not None]


def _execute(request: Request) -> int:
    limits = _limits(request)
    machine = look()
    spec, notes = _load(request, machine, trials=request.trials, seed=request.seed)
    url = parse_url(chosen(request.storage))
    screen = choose_screen(as_json=request.as_json, trials=spec.search.trials)
    plan = make_plan(
        spec,
        machine,
        runners=limits.runners,
        pack=limits.pack,
        memory_limit_bytes=limits.memory_limit_bytes,
        storage=redacted(url),
        runs_dir=request.runs_dir / spec.name,
        notes=notes,
        say=lambda text: screen.show(Note(text=text)),
    )
    if request.dry_run:
        if url.get_backend_name() == "sqlite":
            check_file(url)
        return dry_run(plan, screen)
    return run_study(plan, url, screen, _command(request), timeout_s=limits.timeout_s)


def _execute_score(request: ScoreRequest) -> int:
    if request.best < 1:
        raise FileProblems([f"--best {request.best}: must be a number above 0"])
    machine = look()
    spec, notes = _load(request, machine)
    url = parse_url(chosen(request.storage))
    say: Callable[[str], None] = (lambda text: None) if request.as_json else print
    plan = make_plan(
        spec,
        machine,
        runners=1,
        pack=1,
        memory_limit_bytes=None,
        storage=redacted(url),
        runs_dir=request.runs_dir / spec.name,
        notes=notes,
        say=say,
    )
    found = score_study(plan, url, count=request.best, say=say)
    told = () if request.as_json else plan.notes
    for line in chain(told, score_lines(found, as_json=request.as_json)):
        print(line, flush=True)
    return 0


def _command(request: Request) -> Command:
    """The command to type again."""
    return Command(words=request.words, storage_variable=None if request.storage else variable())


@dataclass(frozen=True, kw_only=True)
class Limits:
    """The options that are numbers with units."""

    runners: int | None
    pack: int | None
    memory_limit_bytes: int | None
    timeout_s: float | None


def _limits(request: Request) -> Limits:
    """Parses them, naming every one that is wrong."""
    problems: list[str] = []
    memory = timeout = None
    runners = _count("--runners", request.runners, problems)
    pack = _count("--pack", request.pack, problems)
    if request.pack == "auto" and request.seed is not None:
        pack = 1  # what is to be repeated is repeated to the bit
    try:
        memory = parse_size(request.memory_limit) if request.memory_limit else None
    except ValueError as error:
        problems.append(f"--memory-limit {error}")
    try:
        timeout = parse_duration(request.timeout) if request.timeout else None
    except ValueError as error:
        problems.append(f"--timeout {error}")
    if problems:
        raise FileProblems(problems)
    return Limits(runners=runners, pack=pack, memory_limit_bytes=memory, timeout_s=timeout)


def _count(option: str, given: str, problems: list[str]) -> int | None:
    """A number from 1 to 9999, or None for `auto`."""
    if given == "auto":
        return None
    if NUMBER.fullmatch(given):
        return int(given)
    problems.append(f"{option} {given}: must be auto or a whole number from 1 to 9999")
    return None


def _load(
    request: StudyRequest, machine: Machine, *, trials: int | None = None, seed: int | None = None
) -> tuple[StudySpec, tuple[str, ...]]:
    """The study at the scale that was asked for or suits, and what to say about that."""
    scale: Literal["mini", "full"] = "full"
    notes: tuple[str, ...] = ()
    if problem := machine.gpu_problem:
        if request.scale == "auto" and not machine.gpus:
            raise MissingError(
                f"a GPU is there, but cannot be used: {problem}; mend that, or choose --scale mini "
                "(the small study on the CPU) or --scale full (the whole study on the CPU)"
            )
        notes = (f"not every GPU can be used: {problem}",)
    if request.scale == "mini" or (request.scale == "auto" and not machine.gpus):
        scale = "mini"
    options = Options(
        scale=scale,
        name=request.name,
        trials=trials,
        data=request.data,
        model=request.model,
        seed=seed,
        assignments=request.assignments,
    )
    spec = load_study(request.study, options)
    if request.scale == "auto" and scale == "mini":
        notes += (
            "no GPU here, so this is the mini scale: the study's [mini] table, with the base "
            f"{spec.model.name} (--scale full for the study as its file says)",
        )
    return spec, notes
