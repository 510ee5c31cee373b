"""`python -m tests.benchmarks.packing`: trials in one forward pass against one after the other.

For steps from a few target tokens a trial to thousands: how many trials a runner chooses to take
at a time, and what that gains. It is never to be slower than one at a time. On a GPU, beside it,
what one at a time gains at most as a CUDA graph, which is not told of operations one by one.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hpo.training.lanes import COUNTS, choose_lanes
from hpo.training.tasks import Row
from hpo.training.trial.trial import Bench
from tests.benchmarks import bases
from tests.benchmarks.report import table, write
from tests.benchmarks.steps import asked, captured, losses, seconds, with_batch
from tests.training.conftest import make_bench

TOKENS = (8, 32, 128, 512, 2048, 4096)
TOLERANCE = 1e-5
NOISE = 0.97  # two measurements of one thing differ by so much


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures, prints and writes; 1 if losses differ or packing is slower."""
    options = _parser().parse_args(arguments)
    words = ("data.samples=240", *bases.settings(options))
    bench, _ = make_bench(*words, gpu=options.device == "cuda")
    rows = [measure(bench, tokens, options.repeats) for tokens in options.tokens]
    print(table([_shown(row) for row in rows]))
    if options.json:
        base = bases.chosen(options)
        found = {"benchmark": "packing", "base": base, "tolerance": TOLERANCE, "rows": rows}
        write(options.json, found)
    wrong = [r for r in rows if r["loss_difference"] > TOLERANCE or r["chosen_gain"] < NOISE]
    for row in wrong:
        print(f"{row['tokens']} tokens: gain {row['chosen_gain']:.2f}, {row['loss_difference']}")
    return int(bool(wrong))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.packing")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where to write the figures")
    parser.add_argument("--repeats", type=bases.count, default=10)
    parser.add_argument("--tokens", type=bases.count, nargs="+", default=list(TOKENS))
    bases.add_options(parser)
    return parser


def measure(bench: Bench, tokens: int, repeats: int) -> dict[str, Any]:
    """Steps of about so many target tokens a trial."""
    batches = [_rows(bench, tokens, number) for number in range(max(COUNTS))]
    sized = with_batch(bench, len(batches[0]))
    chosen = choose_lanes(sized, None)
    steps = [asked(sized, rows, number) for number, rows in enumerate(batches)]
    alone = [losses(sized, [step])[0] for step in steps]
    together = losses(sized, steps)
    ways = {"1": lambda: [losses(sized, [step]) for step in steps]} | {
        str(count): lambda count=count: _packed(sized, steps, count) for count in COUNTS[1:]
    }
    if replay := captured(sized, steps[0]):
        ways["graph"] = lambda: [replay() for _ in steps]
    taken = seconds(ways, repeats)
    gains = {count: taken["1"] / seconds_ for count, seconds_ in taken.items()}
    return {
        "tokens": tokens,
        "rows": len(batches[0]),
        "gains": gains,
        "chosen": chosen.count,
        "chosen_gain": gains[str(chosen.count)],
        "loss_difference": max(abs(a - b) for a, b in zip(alone, together, strict=True)),
    }


def _rows(bench: Bench, tokens: int, number: int) -> list[Row]:
    """Rows with about so many target tokens in all, others for every number."""
    rows: list[Row] = []
    while sum(row.targets for row in rows) < tokens:
        rows.append(bench.train[(17 * number + len(rows)) % len(bench.train)])
    return rows


def _packed(bench: Bench, steps: list[Any], count: int) -> None:
    for first in range(0, len(steps), count):
        losses(bench, steps[first : first + count])


def _shown(row: dict[str, Any]) -> dict[str, str]:
    heads = {"graph": "1, as a CUDA graph"}
    named = {heads.get(way, f"{way} at a time"): gain for way, gain in row["gains"].items()}
    return {
        "target tokens": str(row["tokens"]),
        "rows": str(row["rows"]),
        **{name: f"{gain:.2f}" for name, gain in named.items()},
        "chosen": str(row["chosen"]),
        "loss difference": f"{row['loss_difference']:.1e}",
    }


if __name__ == "__main__":
    raise SystemExit(main())
