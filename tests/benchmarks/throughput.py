"""`python -m tests.benchmarks.throughput`: trials a minute, against the ways of others.

The same configurations are trained to the end, without pruning, by ours and by every peer on two
CPU cores. Equal work is asserted. A ratio says how many times as fast ours is, in the same round.

Trials are as long as those that the goals were set with, where a fresh process took 2.4 times as
long as `hyperparameter_search`. The longer they are, the less imports and loading weigh.
"""

import argparse
import shutil
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna

from tests.benchmarks import bases
from tests.benchmarks.contenders import Contender, Round, contenders, interruptible
from tests.benchmarks.equal import loss_difference, unequal
from tests.benchmarks.report import table, write
from tests.benchmarks.work import Work, make_work

GOALS = {"search": 4.0, "fresh": 9.0}
LENGTH = ("trial.epochs=1", "trial.evals=2")


@dataclass(kw_only=True)
class Measured:
    """The turns of one way, and ours in the same rounds."""

    name: str
    contender: Contender
    note: str = ""
    rounds: list[Round] = field(default_factory=list)
    ours: list[Round] = field(default_factory=list)

    def per_minute(self, span: str) -> float:
        """Median of trials a minute; `span` is `steady_s` or `total_s`."""
        return statistics.median(60 * len(r.trials) / getattr(r, span) for r in self.rounds)

    def ratio(self, span: str) -> float:
        """Median over the rounds of how many times as fast ours was."""
        pairs = zip(self.rounds, self.ours, strict=True)
        return statistics.median(getattr(r, span) / getattr(o, span) for r, o in pairs)

    def as_dict(self) -> dict[str, Any]:
        """For machines; without figures where there are none."""
        row: dict[str, Any] = {"name": self.name, "what": self.contender.what, "note": self.note}
        if not self.rounds:
            return {**row, "measured": False}
        return {
            **row,
            "measured": True,
            "trials_per_minute": self.per_minute("steady_s"),
            "ratio": self.ratio("steady_s"),
            "trials_per_minute_end_to_end": self.per_minute("total_s"),
            "ratio_end_to_end": self.ratio("total_s"),
            "loss_difference": max(map(loss_difference, self.ours, self.rounds)),
            "steady_s": [r.steady_s for r in self.rounds],
            "total_s": [r.total_s for r in self.rounds],
        }


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures, prints and writes; 1 if a way did not do equal work."""
    options = _parser().parse_args(arguments)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    ways = _chosen(contenders(options.pack, options.runners), options.only)
    measured = [Measured(name=n, contender=c, note=c.missing) for n, c in ways.items()]
    with tempfile.TemporaryDirectory(prefix="throughput-") as folder:
        base = bases.settings(options)
        work = make_work(Path(folder), options.configs, (*LENGTH, *options.assign), base)
        try:
            for number in range(options.rounds):
                measure_round(work, measured, number)
        except UnequalError as error:
            print(error, file=sys.stderr)
            return 1
    rows = [one.as_dict() for one in measured]
    print(table([_shown(row) for row in rows]))
    print("\n".join(_notes(work, rows)))
    if options.json:
        write(options.json, _payload(options, work, rows))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.throughput")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where to write the figures")
    parser.add_argument("--rounds", type=bases.count, default=3)
    parser.add_argument("--configs", type=bases.count, default=16, help="trials a round")
    parser.add_argument("--runners", type=bases.count, default=2, help="of ours")
    parser.add_argument("--pack", default="auto", help="of ours: auto, or a number")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these ways, and ours")
    parser.add_argument(
        "--set", dest="assign", action="append", default=[], help="of the study: trial.epochs=3"
    )
    bases.add_options(parser)
    return parser


def _chosen(ways: dict[str, Contender], only: Sequence[str] | None) -> dict[str, Contender]:
    if unknown := set(only or ()) - ways.keys():
        raise SystemExit(f"--only {', '.join(sorted(unknown))}: there are {', '.join(ways)}")
    return {n: c for n, c in ways.items() if only is None or n == "ours" or n in only}


class UnequalError(Exception):
    """A way did other work than ours; its time would say nothing."""


def measure_round(work: Work, measured: list[Measured], number: int) -> None:
    """Every way once; what a way did joins its rounds.

    Ours is the first of one round and the last of the next, so that a machine which grows slower
    or faster on its way weighs on both sides of a ratio, alike in an even number of rounds.

    Raises:
        UnequalError: a way that is expected to did not do equal work.
    """
    ways = [one for one in measured if not one.note]
    turns = {one.name: _turn(work, one, number) for one in ways[:: 1 if number % 2 == 0 else -1]}
    ours = turns["ours"]
    assert ours is not None  # it is not doubtful
    for one in ways:
        done = turns[one.name]
        if done is None:
            continue
        if found := unequal(work, ours, done):
            if not one.contender.doubtful:
                raise UnequalError(f"{one.name} did not do equal work:\n" + "\n".join(found))
            one.note = f"not equal work: {found[0]}"
            continue
        one.rounds.append(done)
        one.ours.append(ours)


def _turn(work: Work, one: Measured, number: int) -> Round | None:
    """What a way did; a doubtful one that failed has done nothing, and a note says why."""
    folder = work.folder / f"{one.name}-{number}"
    folder.mkdir()
    try:
        done = one.contender.run(work, folder)
    except RuntimeError as error:
        if not one.contender.doubtful:
            raise
        one.note = f"not equal work: {str(error).strip().splitlines()[-1]}"
        return None
    finally:
        shutil.rmtree(folder)
    spans = f"steady {done.steady_s:.1f} s, end to end {done.total_s:.1f} s"
    print(f"round {number + 1}: {one.name}: {spans}", file=sys.stderr, flush=True)
    return done


def _shown(row: dict[str, Any]) -> dict[str, str]:
    heads = {
        "trials/min": "trials_per_minute",
        "ours is faster by": "ratio",
        "end to end": "trials_per_minute_end_to_end",
        "ours is faster end to end by": "ratio_end_to_end",
    }
    figures = {head: f"{row[key]:.2f}" if row["measured"] else "-" for head, key in heads.items()}
    return {"way": row["name"], "what": row["what"], **figures}


def _notes(work: Work, rows: list[dict[str, Any]]) -> list[str]:
    """Goals, and what the table does not say."""
    notes = []
    for goal, ratio in GOALS.items():
        peers = [r for r in rows if r["name"].split("-")[0] == goal and r["measured"]]
        notes += [f"{peer['what']}: {peer['ratio']:.2f}x (goal: {ratio:g}x)" for peer in peers]
    differences = [row["loss_difference"] for row in rows if row["measured"]]
    notes.append(
        f"largest difference of a val loss: {max(differences):.1e} (allowed: {work.tolerance:.0e})"
    )
    return notes + [f"{row['name']}: not measured: {row['note']}" for row in rows if row["note"]]


def _payload(options: argparse.Namespace, work: Work, rows: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "benchmark": "throughput",
        "base": bases.chosen(options),
        "rounds": options.rounds,
        "settings": [s for s in work.settings if not s.startswith("known=")],
        "configurations": work.spec.known,
        "tolerance": work.tolerance,
        "goals": GOALS,
        "rows": rows,
    }


if __name__ == "__main__":
    sys.exit(interruptible(main))
