"""`python -m tests.benchmarks.study`: how long a search takes to a val loss.

Ours and `hyperparameter_search`, each with its own sampler and pruner as they come, search the same
space on two CPU cores, trial by trial with the same rows, batches and evaluations. What is compared
is the time to the same val loss: the worse of the two bests. Every round has another seed, as luck
has a share in it.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna

from tests.benchmarks import bases
from tests.benchmarks.contenders import (
    CORES,
    Trained,
    interruptible,
    merge,
    run_ours,
    run_search,
    trained,
)
from tests.benchmarks.report import table, write
from tests.benchmarks.work import Work, make_search

GOAL = 10.0


@dataclass(frozen=True, kw_only=True)
class Ended:
    """A trial that ended."""

    state: str
    at_s: float
    """Since the start of the first process."""
    steps: int
    """To its end, were it not pruned."""
    did: Trained


@dataclass(frozen=True, kw_only=True)
class Search:
    """What a search found, and when."""

    trials: dict[int, Ended]
    total_s: float
    """From the start of the first process to the end of the last."""

    @property
    def best(self) -> float:
        """Best val loss of a COMPLETE trial."""
        return min(min(t.did.losses) for t in self.trials.values() if t.state == "COMPLETE")

    def reached_s(self, val_loss: float) -> float:
        """From the start of the first process to the end of a COMPLETE trial that is as good."""
        complete = [t for t in self.trials.values() if t.state == "COMPLETE"]
        return min(t.at_s for t in complete if min(t.did.losses) <= val_loss)

    def as_dict(self) -> dict[str, Any]:
        """For machines."""
        return {
            "total_s": self.total_s,
            "best": self.best,
            "pruned": sum(t.state == "PRUNED" for t in self.trials.values()),
            "trained": sum(t.did.steps / t.steps for t in self.trials.values()) / len(self.trials),
        }


def ours(work: Work, folder: Path) -> Search:
    """`hpo.run` with two runners."""
    began = time.time()
    frozen, val = run_ours(work, folder, ("--runners", str(CORES)))
    return Search(
        trials={
            t.number: Ended(
                state=t.state.name,
                at_s=t.datetime_complete.timestamp() - began,
                steps=work.steps(t.number, t.params),
                did=trained(t, val),
            )
            for t in frozen
            if t.datetime_complete
        },
        total_s=time.time() - began,
    )


def search(work: Work, folder: Path) -> Search:
    """`hyperparameter_search` on both cores."""
    began = time.time()
    (part,) = run_search(work, folder, processes=1, threads=CORES, n_jobs=1)
    did = merge([part["trials"]])
    return Search(
        trials={
            int(number): Ended(
                state=end["state"],
                at_s=end["at"] - began,
                steps=work.steps(int(number), end["params"]),
                did=did[int(number)],
            )
            for number, end in part["ends"].items()
        },
        total_s=time.time() - began,
    )


WAYS: Mapping[str, Callable[[Work, Path], Search]] = {"ours": ours, "search": search}


def unequal(work: Work, found: Search) -> list[str]:
    """What is not as the work asks for; empty where it is."""
    wrong = {n: trial for n, trial in found.trials.items() if not _is_whole(work, trial)}
    faults = [f"trial {number} is not what was asked for: {one}" for number, one in wrong.items()]
    count = work.spec.search.trials
    if sorted(found.trials) != list(range(count)):
        faults.append(f"it ended trials {sorted(found.trials)}, not 0 to {count - 1}")
    return faults


def _is_whole(work: Work, trial: Ended) -> bool:
    """A pruned one may have gone on towards the next evaluation while that was decided."""
    evals, between = len(trial.did.losses), trial.steps / work.evals
    if trial.did.rows != evals * len(work.job["val"]):
        return False
    if trial.state == "COMPLETE":
        return evals == work.evals and trial.did.steps == trial.steps
    return trial.state == "PRUNED" and 0 <= trial.did.steps - evals * between <= between


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures, prints and writes; 1 if a way did not do equal work."""
    options = _parser().parse_args(arguments)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    base = bases.settings(options)
    rounds = []
    for seed in range(options.rounds):
        with tempfile.TemporaryDirectory(prefix="study-") as folder:
            extra = (*options.assign, f"search.seed={seed}")
            row, faults = measure(make_search(Path(folder), options.trials, extra, base))
        if faults:
            print("\n".join(faults), file=sys.stderr)
            return 1
        rounds.append({"seed": seed, **row})
        print(f"seed {seed}: {row}", file=sys.stderr, flush=True)
    print(table([_shown(row) for row in rounds]))
    ratios = {f"ratio_{what}": _median(rounds, what) for what in ("same", "total")}
    print(f"median: {ratios['ratio_same']:.2f}x to the same val loss (goal: {GOAL:g}x)")
    if options.json:
        chosen = {"base": bases.chosen(options), "trials": options.trials, "set": options.assign}
        write(options.json, {"benchmark": "study", **chosen, **ratios, "rows": rounds})
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.study")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where to write the figures")
    parser.add_argument("--rounds", type=bases.count, default=5, help="each of another seed")
    parser.add_argument("--trials", type=bases.count, default=32, help="of a study")
    parser.add_argument(
        "--set", dest="assign", action="append", default=[], help="of the study: trial.epochs=1"
    )
    bases.add_options(parser)
    return parser


def measure(work: Work) -> tuple[dict[str, Any], list[str]]:
    """Each way once: how long it took to the val loss that both found, and what is unequal."""
    found = {}
    for name, way in WAYS.items():
        folder = work.folder / name
        folder.mkdir()
        found[name] = way(work, folder)
    faults = [f"{name}: {fault}" for name, one in found.items() for fault in unequal(work, one)]
    if faults:
        return {}, faults
    same = max(one.best for one in found.values())
    rows = {n: {**one.as_dict(), "same_s": one.reached_s(same)} for n, one in found.items()}
    return {"val_loss": same, **rows}, []


def _median(rounds: Sequence[Mapping[str, Any]], what: str) -> float:
    return statistics.median(r["search"][f"{what}_s"] / r["ours"][f"{what}_s"] for r in rounds)


def _shown(row: Mapping[str, Any]) -> dict[str, str]:
    ours, search = row["ours"], row["search"]
    return {
        "seed": str(row["seed"]),
        "val loss of both": f"{row['val_loss']:.3f}",
        "best, ours and theirs": f"{ours['best']:.3f}, {search['best']:.3f}",
        "trained of all steps": f"{ours['trained']:.0%}, {search['trained']:.0%}",
        "seconds to it": f"{ours['same_s']:.0f}, {search['same_s']:.0f}",
        "ours is faster by": f"{search['same_s'] / ours['same_s']:.2f}",
        "seconds in all": f"{ours['total_s']:.0f}, {search['total_s']:.0f}",
        "in all by": f"{search['total_s'] / ours['total_s']:.2f}",
    }


if __name__ == "__main__":
    sys.exit(interruptible(main))
