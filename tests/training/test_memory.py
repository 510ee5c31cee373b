"""A memory limit that is real: tried in processes of their own, as a limit cannot be lifted."""

import json
import subprocess
import sys
import textwrap

import pytest
import torch

from hpo.training.memory.gauge import is_out_of_memory, requested_bytes
from hpo.training.memory.refusal import demand_of
from tests.training.conftest import attempt

CHILD = """
import json, re, sys
from tests.training.conftest import Ear, attempt, make_bench
from hpo.files import Options, load_study
from hpo.protocol import Setup
from hpo.specs import TrialConfig, TrialOrder
from hpo.training.bench import set_up

study = load_study("rsicap", Options(scale="mini", assignments=(
    "data.samples=150", "trial.epochs=1", "trial.evals=2", "trial.eval_batch_size=4",
    "limits.predict_oom=false")))
bench, _ = set_up(Setup(
        study=study, memory_limit_bytes=240 << 20, gpu=False, zero_shot=False))
for number, batch in enumerate((4, 120, 4, 120, 4)):
    config = TrialConfig(learning_rate=3e-3, lora_r=4, lora_alpha=8.0, batch_size=batch)
    folder = f"{sys.argv[1]}/{number}"
    order = TrialOrder(number=number, seed_number=0, config=config, folder=folder)
    ear = Ear()
    finished = attempt(bench, order, ear.listener)
    fault = finished.fault.model_dump(mode="json") if finished.fault else None
    points = [p.val_loss for p in ear.points]
    space = int(re.search(r"VmSize:\\s+(\\d+)", open("/proc/self/status").read())[1]) << 10
    print(json.dumps({"fault": fault, "points": points, "clean": finished.clean, "space": space}))
"""

FREED = """
import json, torch
from hpo.training.memory.gauge import MemoryGauge

gauge = MemoryGauge(torch.device("cpu"), None)
gauge.mark_baseline()
held = []
for mib in (200, 700):
    blocks = [b"x" * 100_000 for _ in range(mib * 10)]  # in the heap; the last holds its end
    del blocks[:-1]
    for in_use in (True, False):
        clean = gauge.is_clean(0, in_use=in_use)
        held.append((clean, gauge.held_bytes() >> 20))
print(json.dumps(held))
"""


def run_child(source, *words):
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(source), *words],
        capture_output=True,
        text=True,
        check=True,
        env={"PATH": "/usr/bin:/bin", "MALLOC_ARENA_MAX": "1", "PYTHONPATH": ":".join(sys.path)},
    ).stdout


def test_memory_that_is_free_stays_where_others_need_it_unless_it_is_too_much():
    kept, given_back, too_much, after = json.loads(run_child(FREED))
    assert [clean for clean, _ in (kept, given_back, too_much, after)] == [True] * 4
    assert kept[1] > 150
    assert max(given_back[1], too_much[1], after[1]) < 50


def test_an_allocation_failure_is_an_oom_and_the_next_trial_is_as_if_nothing_was(tmp_path):
    lines = run_child(CHILD, str(tmp_path)).splitlines()
    small, large, after, again, last = map(json.loads, lines)
    for failed in (large, again):
        assert failed["fault"]["outcome"] == "oom"
        assert failed["fault"]["step"] == 1, "the longest batch comes first"
        assert failed["fault"]["capacity_bytes"] == 240 << 20
        assert failed["fault"]["needed_bytes"] > 240 << 20
        assert failed["points"] == []
        lost = failed["space"] - small["space"]
        assert not failed["clean"] or lost < 60 << 20, "it does not pass as clean with less space"
    assert small["clean"]
    assert small["points"] == after["points"] == last["points"] and len(small["points"]) == 2


def test_the_footprint_grows_with_the_batch_as_the_peak_does(bench, order, ear):
    small, large = order(0, batch_size=2), order(1, batch_size=16)
    peaks = [attempt(bench, o, ear().listener).stats.peak_memory_bytes for o in (small, large)]
    estimates = [bench.memory.footprint.estimate(demand_of(bench, o)) for o in (small, large)]
    assert bench.memory.footprint.base_bytes == 4 * sum(
        p.numel() for p in bench.task.model.parameters()
    )
    grown = (peaks[1] - peaks[0]) / (estimates[1] - estimates[0])
    assert 0.4 < grown < 2.5


@pytest.mark.parametrize(
    "error, size",
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 472.00 MiB."), 472 << 20),
        (RuntimeError("can't allocate memory: you tried to allocate 64 bytes."), 64),
        (MemoryError(), 0),
        (RuntimeError("std::bad_alloc"), 0),
    ],
)  # fmt: skip
def test_allocation_failures_are_known_with_the_size_they_name(error, size):
    assert is_out_of_memory(error)
    assert requested_bytes(error) == size


def test_other_errors_are_no_allocation_failures():
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not is_out_of_memory(ValueError("can't allocate memory"))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_limit_is_real_and_leaves_nothing_behind(order, ear):
    from hpo.files import Options, load_study
    from hpo.protocol import Setup
    from hpo.training.bench import set_up
    from tests.training.conftest import SMALL

    study = load_study("rsicap", Options(scale="mini", assignments=(*SMALL, "data.samples=150")))
    setup = Setup(study=study, memory_limit_bytes=200 << 20, gpu=True, zero_shot=False)
    bench, _ = set_up(setup)
    finished = attempt(bench, order(batch_size=120), ear().listener)
    assert finished.fault.outcome == "oom" and finished.clean
    assert attempt(bench, order(1), ear().listener).fault is None
