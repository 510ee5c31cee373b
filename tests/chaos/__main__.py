"""`python -m tests.chaos --storage URL --faults N --seed S`: a night of faults in some minutes."""

import argparse
import asyncio
import signal
import sys
import textwrap
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import optuna

from tests.chaos.audit import audit
from tests.chaos.evidence import Evidence, dump, gather, is_retry, outcome, resumption
from tests.chaos.faults import FAULTS, impossible
from tests.chaos.plan import Draw, make_plan
from tests.chaos.run import Run
from tests.chaos.world import World, world

INTERRUPTED = 130
SHOWN = 5  # of what speaks against a sentence


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs and audits; 0 if every check holds."""
    options = _parser().parse_args(arguments)
    at_a_time = options.drivers * options.runners * options.pack
    trials = options.trials or options.faults * 3 // 4 + at_a_time
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with world(
        options.storage,
        drivers=options.drivers,
        runners=options.runners,
        trials=trials,
        seed=options.seed,
        pack=options.pack,
        keep=options.keep,
    ) as ours:
        ours.more = 0 if options.trials else 2 * at_a_time
        plan = make_plan(options.seed, options.faults, _kinds(options.kinds, ours))
        _show_plan(plan, ours)
        run = Run(ours, plan)
        began = time.monotonic()
        asyncio.run(run.to_the_end())
        seen = gather(ours, injected=run.injected.total(), planned=len(plan))
        dump(seen.trials, ours.folder / "trials.jsonl")
        held = _show_audit(seen)
        _show_table(ours, seen, run.injected, time.monotonic() - began)
    return 0 if held else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument(
        "--storage",
        default="sqlite",
        help="sqlite, postgresql (a server of its own), or a URL: of a file that is not there, "
        "or of a server on which a database is made",
    )
    parser.add_argument("--faults", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="of plan and study")
    parser.add_argument("--drivers", type=int, default=3)
    parser.add_argument("--runners", type=int, default=1, help="of each driver")
    parser.add_argument("--trials", type=int, help="total of the study; else what the faults need")
    parser.add_argument("--pack", type=int, default=1, help="trials at a time on each runner")
    parser.add_argument(
        "--kinds", default=",".join(FAULTS), help="a comma between any of %(default)s"
    )
    parser.add_argument("--keep", type=Path, metavar="DIR", help="where to leave logs and files")
    return parser


def _kinds(wanted: str, ours: World) -> list[str]:
    """Those that are wanted and can be had."""
    kinds = wanted.split(",")
    if unknown := [kind for kind in kinds if kind not in FAULTS]:
        raise SystemExit(f"--kinds {', '.join(unknown)}: there are {', '.join(FAULTS)}")
    left_out = impossible(ours)
    for kind in kinds:
        if kind in left_out:
            print(f"left out: {kind}: {left_out[kind]}")
    return [kind for kind in kinds if kind not in left_out]


def _show_plan(plan: list[Draw], ours: World) -> None:
    text = f"plan of seed {ours.seed}: " + ", ".join(str(draw) for draw in plan)
    print(textwrap.fill(text, 100, subsequent_indent="  "))
    print(f"{len(ours.drivers)} drivers, {ours.trials} trials, {ours.database.url.drivername}")


def _show_audit(seen: Evidence) -> bool:
    """Prints each sentence; whether all hold."""
    found = audit(seen)
    print("\naudit")
    for sentence, against in found.items():
        print(f"  {'WRONG' if against else 'ok   '} {sentence}")
        for line in against[:SHOWN]:
            print(f"          {line}")
        if len(against) > SHOWN:
            print(f"          and {len(against) - SHOWN} more")
    return not any(found.values())


def _show_table(ours: World, seen: Evidence, injected: Counter[str], seconds: float) -> None:
    exits = sum((driver.exits for driver in ours.drivers), Counter[int]())
    rows = {
        "faults": injected,
        "outcomes": Counter(outcome(trial) for trial in seen.trials),
        "retries": Counter(resumption(trial) for trial in seen.trials if is_retry(trial)),
        "exits of drivers": Counter({str(code): count for code, count in exits.items()}),
    }
    print()
    for name, counts in rows.items():
        text = ", ".join(f"{count} {what}" for what, count in counts.most_common())
        print(textwrap.fill(f"{name}: {text}", 100, subsequent_indent="  "))
    print(f"{seconds:.0f} s")


if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        print("interrupted; nothing of it is left")
        sys.exit(INTERRUPTED)
