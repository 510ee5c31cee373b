"""A runner lives for a whole night: no trial leaves anything behind in its process."""

from pathlib import Path

import pytest

from tests.training.runners import Runner

PAGE = 4096


def mean(figures):
    return sum(figures) / len(figures)


@pytest.mark.slow
def test_200_trials_in_one_runner_leave_its_memory_as_it_was(tmp_path, order):
    resident, held, resumed = [], [], 0
    with Runner("data.samples=8", "trial.epochs=1", "trial.evals=2") as runner:
        for number in range(200):
            again = number % 4 == 3
            trial = order(
                number,
                seed_number=number - again,
                earlier=[str(tmp_path / f"trial-{number - 1}")] if again else [],
                lora_r=(4, 16)[number // 4 % 2],
                lora_dropout=0.1,
                batch_size=3,
            )
            finished = runner.train(trial)
            assert finished.fault is None and finished.clean, finished
            resumed += finished.stats.resumed_at_samples > 0
            pages = Path(f"/proc/{runner.process.pid}/statm").read_text().split()[1]
            resident.append(int(pages) * PAGE)
            held.append(finished.stats.held_memory_bytes)
    assert resumed == 50
    assert mean(resident[-50:]) <= 1.02 * mean(resident[:50])
    assert mean(held[-50:]) <= 1.02 * mean(held[:50])
    assert 14 << 20 < held[-1] < resident[-1], "base and libraries are held"
