"""The embedded tiny Llama learns real texts: spam in messages, and 77 kinds of questions."""

from collections import Counter

import pytest

from hpo.files import Options, load_study
from hpo.protocol import Setup
from hpo.specs import TrialConfig, TrialOrder
from hpo.training.bench import set_up
from tests.training.conftest import Ear, attempt

CONFIG = {"learning_rate": 1e-3, "lora_r": 16, "lora_alpha": 32.0, "batch_size": 8}
SEEDS = (0, 1, 2)


def bench_of(table, *assignments):
    options = Options(scale="mini", data=str(table), assignments=assignments)
    study = load_study("classify", options)
    return set_up(Setup(study=study, memory_limit_bytes=None, gpu=False, zero_shot=False))[0]


def points(bench, folder, *, seed=0, **change):
    """The eval points of one trial."""
    config = TrialConfig.model_validate(CONFIG | change)
    order = TrialOrder(number=0, seed_number=seed, config=config, folder=str(folder))
    ear = Ear()
    assert attempt(bench, order, ear.listener).fault is None
    return ear.points


def best(found, metric):
    return max(point.metrics[metric] for point in found)


@pytest.mark.slow
def test_spam_is_found_at_the_shipped_scale(shared, tmp_path):
    bench = bench_of(shared / "sms_spam")
    found = points(bench, tmp_path, class_weight=1.0)
    assert best(found, "f_beta") > 0.8
    assert best(found, "accuracy") > 0.95


@pytest.mark.slow
def test_class_weights_find_more_of_the_rare_label(shared, tmp_path):
    """In one epoch, too short to learn without: judged on many texts, at its end."""
    quick = ("data.samples=1500", "data.val_share=0.6", "trial.epochs=1", "trial.evals=1")
    bench = bench_of(shared / "sms_spam", *quick)
    plain, weighted = (
        [best(points(bench, tmp_path, seed=s, class_weight=w), "f_beta") for s in SEEDS]
        for w in (0.0, 1.0)
    )
    assert sum(weighted) / len(SEEDS) > sum(plain) / len(SEEDS) + 0.1


@pytest.mark.slow
def test_many_labels_are_learned_above_chance(shared, tmp_path):
    bench = bench_of(shared / "banking77")
    found = points(bench, tmp_path, learning_rate=2e-3)
    assert len(bench.task.labels) == 77
    commonest = Counter(row.label for row in bench.val).most_common(1)[0][1] / len(bench.val)
    assert best(found, "accuracy") > 3 * commonest
