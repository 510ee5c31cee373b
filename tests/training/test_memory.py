"""A memory limit that is real: tried in processes of their own, as a limit cannot be lifted."""

import json
import subprocess
import sys
import textwrap

import pytest
import torch

from hpo.specs import Outcome
from hpo.training.memory.gauge import gpu_capacity, is_out_of_memory, requested_bytes
from hpo.training.memory.refusal import demand_of
from hpo.training.runner import no_room_on_gpu
from hpo.training.trial.faults import classify
from tests.training.conftest import attempt

GIB = 1 << 30
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


MAPPED = """
import json, sys, torch
from pathlib import Path
from safetensors import safe_open
from safetensors.torch import save_file
from hpo.training.memory import gauge as module

module.SLACK_BYTES = 40 << 20
path = Path(sys.argv[1], "features.safetensors")
save_file({"values": torch.zeros(200, 1 << 17)}, path)  # 100 MiB
with safe_open(path, framework="pt") as file:
    values = file.get_tensor("values")
gauge = module.MemoryGauge(torch.device("cpu"), None)
gauge.mark_baseline()
before = gauge.held_bytes()
values.sum()
found = [(gauge.is_clean(0), gauge.excess, gauge.held_bytes() - before >> 20)]
copy = values.clone()
found.append((gauge.is_clean(0), gauge.excess, gauge.held_bytes() - before >> 20))
del copy
found.append((gauge.is_clean(0), gauge.excess, gauge.held_bytes() - before >> 20))
print(json.dumps(found))
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


def test_pages_of_a_mapped_file_are_no_leak_and_a_leak_is_named(tmp_path):
    """A runner would be replaced, and so would the one that follows it."""
    mapped, leak, freed = json.loads(run_child(MAPPED, str(tmp_path)))
    assert mapped[:2] == [True, ""] and mapped[2] >= 95, "they are resident"
    assert leak[0] is False and leak[1] == (
        f"{leak[1].split(' more')[0]} more host memory in use than before its first trial, "
        "where 40.0 MiB are allowed"
    )
    assert 95 <= float(leak[1].split()[0]) <= 110
    assert freed[:2] == [True, ""]


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
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`"), 0),
        (RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate`"), 0),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), 0),
        (RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"), 0),
        (RuntimeError("Expected mha_graph.execute(handle, ...).is_good() to be true"), 0),
    ],
)
def test_allocation_failures_are_known_with_the_size_they_name(error, size):
    assert is_out_of_memory(error)
    assert requested_bytes(error) == size


def test_an_allocation_failure_without_a_size_claims_none(bench, order):
    error = RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate`")
    fault = classify(bench, order(), None, error)
    assert fault.outcome == Outcome.OOM
    assert fault.reason == (
        "out of memory at step 0, set-up: what it asked for did not fit into the memory"
    )


@pytest.mark.parametrize(
    "available, limit, capacity",
    [
        (GIB * 23, None, GIB * 23),
        (GIB * 23 - 5000, None, GIB * 23),  # contexts differ a little
        (GIB * 3, None, GIB * 3),  # others have the rest
        (GIB * 24 - 1, None, GIB * 24 - (100 << 20)),
        (GIB * 20, GIB * 8, GIB * 8),
        (GIB * 4, GIB * 8, GIB * 4),
    ],
)
def test_the_capacity_of_a_gpu_is_what_others_leave_of_it(available, limit, capacity):
    assert gpu_capacity(available, GIB * 24 - (100 << 20), limit) == capacity


@pytest.mark.parametrize("limit, remedy", [(None, False), (GIB, True), (8 * GIB, False)])
def test_a_base_that_does_not_fit_onto_a_gpu_is_told_from_one_that_others_fill(limit, remedy):
    said = no_room_on_gpu(3 * GIB, 24 * GIB, limit)
    assert "(3.0 GiB of 24.0 GiB are left by other programs)" in said and "nvidia-smi" in said
    assert ("raise --memory-limit (now 1.0 GiB)" in said) is remedy
    assert "left by" not in no_room_on_gpu(0, 0, None)


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
