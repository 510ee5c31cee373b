"""Out of memory in a study of which 57% cannot fit: how many trials fail on the device.

`python -m tests.benchmarks.memory [--json FILE] [--trials 200]`: first every corner of the space is
really tried, alone in a fresh process under the limit: the truth. Then the same study is run by the
real command, with prediction and without it. It samples at random, so that what is proposed stays
57% infeasible to the last trial; `--startup 4` lets TPE take over after four COMPLETE trials. Peaks
are resident memory.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from itertools import product
from pathlib import Path
from statistics import linear_regression, median

from optuna.trial import FrozenTrial

from hpo.files import Options, load_study
from hpo.protocol import Setup
from hpo.specs import Observation, TrialConfig, TrialOrder
from hpo.training.bench import set_up
from hpo.training.memory.footprint import OPTIMIZER_BYTES
from hpo.training.memory.prediction import FIT_POINTS
from hpo.training.memory.refusal import demand_of
from tests.benchmarks.report import write
from tests.commands import FINISHED, environment, stored
from tests.training.conftest import Ear, attempt

LIMIT_MB = 200
BATCHES = (4, 8, 32, 64, 80, 96, 128)
RANKS = (4, 32)
SETTINGS = (
    "data.samples=160",
    "trial.epochs=1",
    "trial.evals=1",
    "trial.eval_batch_size=8",
    "known=[]",
    f"space.batch_size.choices={list(BATCHES)}",
    f"space.lora_r.choices={list(RANKS)}",
)
PLAIN = "limits.predict_oom=false"


def try_corner(batch_size: int, rank: int) -> dict[str, object]:
    """Trains one configuration alone in this process, under the limit."""
    study = load_study("rsicap", Options(scale="mini", assignments=(*SETTINGS, PLAIN)))
    limit = LIMIT_MB << 20
    bench, _ = set_up(Setup(study=study, memory_limit_bytes=limit, gpu=False, zero_shot=False))
    with tempfile.TemporaryDirectory() as folder:
        config = TrialConfig(
            learning_rate=1e-3,
            lora_r=rank,
            lora_alpha=8.0,
            lora_dropout=0.1,
            batch_size=batch_size,
        )
        order = TrialOrder(number=0, seed_number=0, config=config, folder=f"{folder}/trial")
        finished = attempt(bench, order, Ear().listener)
    assert finished.fault is None or finished.fault.outcome == "oom", finished.fault
    demand, footprint = demand_of(bench, order), bench.memory.footprint
    return {
        "batch_size": batch_size,
        "lora_r": rank,
        "fits": finished.fault is None,
        "floor_bytes": footprint.floor(demand, bench.memory.parameter_bytes),
        "estimate_bytes": footprint.estimate(demand),
        "peak_bytes": finished.stats.peak_memory_bytes,
    }


def truth() -> dict[tuple[int, int], dict[str, object]]:
    """What `try_corner` says of every corner of the space, each in a process of its own."""
    found = {}
    for batch_size, rank in product(BATCHES, RANKS):
        words = [sys.executable, "-m", __spec__.name, "--corner", str(batch_size), str(rank)]
        env = environment(MALLOC_ARENA_MAX="1", OMP_NUM_THREADS="1", CUDA_VISIBLE_DEVICES="")
        done = subprocess.run(words, env=env, capture_output=True, text=True, check=True)
        found[batch_size, rank] = json.loads(done.stdout.splitlines()[-1])
        print(f"batch {batch_size}, r {rank}: {_fits(found[batch_size, rank])}", flush=True)
    return found


def _fits(corner: dict[str, object]) -> str:
    return "fits" if corner["fits"] else "does not fit"


def study(folder: Path, *, trials: int, seed: int, settings: tuple[str, ...]) -> list[FrozenTrial]:
    """The trials of one study, by the command that a user types."""
    folder.mkdir()
    sets = [word for setting in (*SETTINGS, *settings) for word in ("--set", setting)]
    words = ["--study", "rsicap", "--scale", "mini", *sets, "--runners", "1", "--seed", str(seed)]
    words += ["--memory-limit", f"{LIMIT_MB}MB", "--trials", str(trials)]
    with (folder / "log").open("wb") as log:
        subprocess.run(
            [sys.executable, "-m", "hpo.run", *words],
            cwd=folder,
            env=environment(CUDA_VISIBLE_DEVICES=""),
            stdout=log,
            stderr=log,
            check=True,
        )
    ended = [t for t in stored(f"sqlite:///{folder}/hpo.db") if t.state in FINISHED]
    assert len(ended) == trials, f"{len(ended)} of {trials} trials"
    return ended


def judge(
    trials: list[FrozenTrial], corners: dict[tuple[int, int], dict[str, object]]
) -> dict[str, object]:
    """Counts of a study's ends against the truth."""
    ooms = [t for t in trials if t.user_attrs["outcome"] == "oom"]
    foreseen = [t for t in ooms if t.user_attrs.get("predicted")]
    refused = [t for t in foreseen if corners[_corner(t)]["fits"]]
    touched = len(ooms) - len(foreseen)
    assert all(t.constraints["memory"] > 0 for t in ooms)
    assert all("oom_where" in t.user_attrs for t in ooms if t not in foreseen)
    return {
        "trials": len(trials),
        "failed_on_device": touched,
        "failed_on_device_share": touched / len(trials),
        "foreseen": len(foreseen),
        "feasible_tried": sum(bool(corners[_corner(t)]["fits"]) for t in trials) - len(refused),
        "feasible_refused": len(refused),
    }


def _corner(trial: FrozenTrial) -> tuple[int, int]:
    return trial.params["batch_size"], trial.params["lora_r"]


def line_errors(trials: list[FrozenTrial]) -> list[float]:
    """|predicted - measured| / measured of each peak, by the line through the peaks before it.

    On a CPU peaks scatter, which is why there they only report, and refuse nothing.
    """
    points: list[tuple[int, int]] = []
    found: list[float] = []
    for trial in trials:
        stored = trial.user_attrs.get("memory_observation")
        if stored is None or not stored["fitted"]:
            continue
        seen = Observation.model_validate(stored)
        rest = OPTIMIZER_BYTES * seen.demand.trainable
        if len({x for x, _ in points}) >= 3 and len(points) >= FIT_POINTS:
            slope, constant = linear_regression(*zip(*points, strict=True))
            predicted = slope * seen.demand.activation_bytes + constant + rest
            found.append(abs(predicted - seen.peak_bytes) / seen.peak_bytes)
        points.append((seen.demand.activation_bytes, seen.peak_bytes - rest))
    return found


def measure(trials: int, startup: int, seed: int) -> dict[str, object]:
    """The whole benchmark."""
    corners = truth()
    fit = [c for c in corners.values() if c["fits"]]
    result: dict[str, object] = {
        "benchmark": "memory",
        "random_complete_trials": startup,
        "limit_bytes": LIMIT_MB << 20,
        "corners": list(corners.values()),
        "infeasible_share": 1 - len(fit) / len(corners),
        "floor_is_below_every_peak": all(c["floor_bytes"] <= c["peak_bytes"] for c in fit),
    }
    with tempfile.TemporaryDirectory() as folder:
        sampler = f"search.startup_trials={startup}"
        for name, settings in (("predicted", (sampler,)), ("plain", (sampler, PLAIN))):
            began = time.monotonic()
            ended = study(Path(folder) / name, trials=trials, seed=seed, settings=settings)
            seconds = time.monotonic() - began
            result[name] = {**judge(ended, corners), "seconds": round(seconds, 1)}
            show(name, result[name])
            if name == "predicted":
                errors = line_errors(ended)
                result["peaks_predicted"] = len(errors)
                result["peak_error_median"] = median(errors) if errors else None
                result["peak_error_max"] = max(errors) if errors else None
    return result


def show(name: str, row: dict[str, object]) -> None:
    """Prints one row of the table."""
    print(
        f"{name:>9}: {row['failed_on_device']} of {row['trials']} trials failed on the device "
        f"({row['failed_on_device_share']:.1%}), {row['foreseen']} foreseen, "
        f"{row['feasible_refused']} refused that fit, {row['seconds']} s",
        flush=True,
    )


def main() -> None:
    """Runs it, prints the table, and writes JSON where it is asked to."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--startup", type=int, help="random COMPLETE trials; default: all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--corner", type=int, nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.corner:
        print(json.dumps(try_corner(*options.corner)))
        return
    startup = options.trials if options.startup is None else options.startup
    result = measure(options.trials, startup, options.seed)
    print(f"{result['infeasible_share']:.0%} of the space is infeasible")
    if result["peaks_predicted"]:
        print(
            f"{result['peaks_predicted']} peaks were predicted {result['peak_error_median']:.1%} "
            f"off in the median, {result['peak_error_max']:.1%} at most"
        )
    if options.json:
        write(options.json, result)


if __name__ == "__main__":
    main()
