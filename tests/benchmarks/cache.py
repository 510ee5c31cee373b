"""`python -m tests.benchmarks.cache`: what it saves to compute the frozen prefix once.

A step with the outputs of the vision tower, or of a classifier's blocks before the first adapted
one, at hand against one that computes them, beside what the count of floating-point operations
allows.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from hpo.training.trial.trial import Bench
from tests.benchmarks import bases
from tests.benchmarks.report import table, write
from tests.benchmarks.steps import asked, losses, seconds
from tests.training.conftest import make_bench

GOAL = 0.9
TOLERANCE = 1e-6
STUDIES = {"rsicap": ("data.samples=160",), "classify": ("data.samples=160", "space.last_n=2")}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures, prints and writes; 1 if the losses differ."""
    options = _parser().parse_args(arguments)
    rows = []
    for study, words in _studies(options).items():
        gpu = options.device == "cuda"
        cached = make_bench(*words, study=study, gpu=gpu)[0]
        plain = make_bench(*words, "limits.cache_gb=0", study=study, gpu=gpu)[0]
        rows += [
            measure(cached, plain, batch, learns=learns, repeats=options.repeats)
            for learns in (True, False)
            for batch in options.batches
        ]
    print(table([_shown(row) for row in rows]))
    print(f"goal: {GOAL:.0%} of what the operations allow, losses within {TOLERANCE:g}")
    if options.json:
        base = bases.chosen(options)
        write(options.json, {"benchmark": "cache", "base": base, "goal": GOAL, "rows": rows})
    return int(any(row["loss_difference"] > TOLERANCE for row in rows))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.cache")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where to write the figures")
    parser.add_argument("--repeats", type=bases.count, default=30)
    parser.add_argument("--batches", type=bases.count, nargs="+", default=[4, 8, 16, 32])
    bases.add_options(parser)
    return parser


def _studies(options: argparse.Namespace) -> dict[str, list[str]]:
    """Studies and their settings; a base with random weights is of the first."""
    chosen = list(STUDIES) if options.model == "mini" else ["rsicap"]
    model = bases.settings(options)
    more = model[1:] if options.model == "mini" else model  # each has an embedded one of its own
    return {study: [*STUDIES[study], *more] for study in chosen}


def measure(
    cached: Bench, plain: Bench, batch: int, *, learns: bool, repeats: int
) -> dict[str, Any]:
    """A step of so many rows in both ways."""
    ways = {
        name: (bench, [asked(bench, bench.train[:batch], 0, learns=learns)])
        for name, bench in (("cached", cached), ("plain", plain))
    }
    found = {name: losses(bench, steps)[0] for name, (bench, steps) in ways.items()}
    flops = {name: _flops(bench, steps) for name, (bench, steps) in ways.items()}
    taken = seconds({name: lambda way=way: losses(*way) for name, way in ways.items()}, repeats)
    gain, allowed = taken["plain"] / taken["cached"], flops["plain"] / flops["cached"]
    return {
        "study": cached.study.name,
        "what": "training step" if learns else "evaluation",
        "batch": batch,
        "cached_ms": 1e3 * taken["cached"],
        "plain_ms": 1e3 * taken["plain"],
        "gain": gain,
        "allowed": allowed,
        "reached": gain / allowed,
        "loss_difference": abs(found["cached"] - found["plain"]),
    }


def _flops(bench: Bench, steps: Any) -> int:
    formulas = {torch.ops.mkldnn._linear_pointwise: _one_dnn_flops}
    with FlopCounterMode(display=False, custom_mapping=formulas) as counter:
        losses(bench, steps)
    return counter.get_total_flops()


def _one_dnn_flops(x: Sequence[int], weight: Sequence[int], *_: Any, **__: Any) -> int:
    """Of (N, in) by (out, in), which the counter does not know by itself."""
    return 2 * x[0] * x[1] * weight[0]


def _shown(row: dict[str, Any]) -> dict[str, str]:
    return {
        "study": row["study"],
        "what": row["what"],
        "batch": str(row["batch"]),
        "with cache": f"{row['cached_ms']:.1f} ms",
        "without": f"{row['plain_ms']:.1f} ms",
        "gain": f"{row['gain']:.2f}",
        "allowed by operations": f"{row['allowed']:.2f}",
        "reached": f"{row['reached']:.0%}",
        "loss difference": f"{row['loss_difference']:.1e}",
    }


if __name__ == "__main__":
    raise SystemExit(main())
