"""A runner lives for a whole night: no trial leaves anything behind in its process."""

import json
import subprocess
import sys

CHILD = """
import json, sys
from pathlib import Path
from tests.training.conftest import Ear, make_bench
from hpo.specs import TrialConfig, TrialOrder
from hpo.training.attempt import attempt

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

bench, _ = make_bench("data.samples=20", "trial.evals=1")
figures = []
for number in range(200):
    config = TrialConfig(
        learning_rate=3e-3, lora_r=(4, 8, 16, 32)[number % 4], lora_alpha=8.0, lora_dropout=0.1,
        scheduler="cosine", batch_size=(8, 16)[number % 2],
    )
    folder, before = (str(Path(sys.argv[1], f"trial-{n}")) for n in (number, number - 4))
    earlier = (before,) if number % 8 >= 4 else ()
    order = TrialOrder(
        number=number, seed_number=number % 4, config=config, folder=folder, earlier=earlier
    )
    ear = Ear(None if number % 8 >= 4 else 1, checkpoint=True)
    finished = attempt(bench, order, ear.listener)
    assert finished.fault is None and finished.clean, finished
    assert len(ear.resumed) == len(earlier)
    figures.append((resident(), finished.stats.held_memory_bytes))
print(json.dumps(figures))
"""


def mean(figures):
    return sum(figures) / len(figures)


def test_200_trials_in_one_process_leave_its_memory_as_it_was(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(tmp_path)],
        capture_output=True,
        text=True,
        env={"PATH": "/usr/bin:/bin", "MALLOC_ARENA_MAX": "1", "PYTHONPATH": ":".join(sys.path)},
    )
    assert done.returncode == 0, done.stderr
    resident, held = zip(*json.loads(done.stdout), strict=True)
    assert len(resident) == 200
    assert mean(resident[-50:]) <= 1.02 * mean(resident[:50])
    grown = (held[-1] - held[50]) - (resident[-1] - resident[50])
    assert abs(grown) < 4 << 20, "what a trial reports as held is what the process holds"
    print([round(r / 2**20, 1) for r in resident[::10]], mean(resident[-50:]) / mean(resident[:50]))
