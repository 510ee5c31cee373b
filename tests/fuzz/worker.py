"""Runs the inputs of one kind, one after another: `python -m tests.fuzz.worker KIND FIRST COUNT`.

A process of its own, so that a hang or a crash of the interpreter is one input's. Prints a JSON
object a line: the seed before an input runs, and how it ended after it.
"""

import contextlib
import io
import json
import os
import resource
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

from hpo import session
from hpo.entry import Request, execute
from hpo.protocol import Event, Inspect, Inspected, Ready, Setup
from hpo.training.bench import set_up
from hpo.training.inspect import cost
from tests.fuzz.inputs import KINDS, Input

MEMORY_BYTES = 8 << 30  # an input may ask for a model of any size
SMALL = ("trial.epochs=1", "trial.evals=1")
BATCH = ("space.batch_size=4", "known=[]")


def run(given: Input, folder: Path, *, to_the_end: bool) -> dict[str, Any]:
    """The exit code of a dry run, what it prints, and whether it got as far as the runner."""
    reached: list[bool] = []

    def in_process(spec: Any, placement: Any, runs_dir: Path, asked: Any) -> Iterator[Event]:
        """What a runner does at a dry run, without a process of its own: that takes 5 seconds."""
        reached.append(True)
        if not to_the_end:
            return
        setup = Setup(study=spec, memory_limit_bytes=None, gpu=False, zero_shot=False, pack=1)
        bench, facts = set_up(setup)
        yield Ready(facts=facts)
        for command in asked:
            assert isinstance(command, Inspect)
            yield Inspected(costs=tuple(cost(bench, config) for config in command.configs))

    session.consult = in_process
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        with _environment(given.environment):
            code = execute(_request(given, folder))
    return {"code": code, "printed": out.getvalue() + err.getvalue(), "reached": bool(reached)}


def _request(given: Input, folder: Path) -> Request:
    drawn = given.data is None
    settings = ("data.samples=24",) if drawn else ()
    return Request(
        study=given.study,
        scale="mini",
        name=None,
        storage=given.storage or None,
        trials=None,
        timeout=None,
        runners="1",
        pack="1",
        data=given.data,
        model=given.model,
        seed=None,
        memory_limit=None,
        assignments=(*SMALL, *BATCH, *settings, *given.assignments),
        runs_dir=folder / "runs",
        dry_run=True,
        as_json=False,
        words=(),
    )


@contextlib.contextmanager
def _environment(added: dict[str, str]) -> Iterator[None]:
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            del os.environ[name]


def main() -> None:
    """Runs the inputs that the command line names."""
    kind, first, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    make, _, every = KINDS[kind]
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    results = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    reached = 0
    for seed in range(first, first + count):
        print(json.dumps({"seed": seed}), file=results, flush=True)
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name) / "input"
            folder.mkdir()
            os.chdir(name)
            given = make(Random(f"{kind} {seed}"), folder)
            result = run(given, Path(name), to_the_end=every > 0 and reached % every == 0)
            os.chdir("/")
        reached += result["reached"]
        print(json.dumps({"seed": seed, **result}), file=results, flush=True)


if __name__ == "__main__":
    main()
