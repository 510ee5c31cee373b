"""The embedded tiny Llama learns real texts: spam in messages, and 77 kinds of questions."""

from collections import Counter
from itertools import product

import pytest

from hpo.files import Options, load_study
from hpo.protocol import Setup
from hpo.specs import TrialConfig, TrialOrder
from hpo.training.bench import set_up
from tests.training.conftest import attempts

CONFIG = {"learning_rate": 1e-3, "lora_r": 16, "lora_alpha": 32.0, "batch_size": 8}
SEEDS = (0, 1)


def bench_of(table, *assignments):
    options = Options(scale="mini", data=str(table), assignments=assignments)
    study = load_study("classify", options)
    return set_up(Setup(study=study, memory_limit_bytes=None, gpu=False, zero_shot=False))[0]


def trial(folder, *, number=0, seed=0, **change):
    config = TrialConfig.model_validate(CONFIG | change)
    return TrialOrder(
        number=number, seed_number=seed, config=config, folder=str(folder / f"{number}")
    )


def best(heard, metric):
    return max(point.metrics[metric] for point in heard.points)


@pytest.mark.slow
def test_spam_is_found_at_the_shipped_scale(shared, tmp_path):
    bench = bench_of(shared / "sms_spam")
    (heard,) = attempts(bench, [trial(tmp_path, class_weight=1.0)])
    assert best(heard, "f_beta") > 0.8
    assert best(heard, "accuracy") > 0.95


@pytest.mark.slow
def test_class_weights_find_more_of_the_rare_label(shared, tmp_path):
    """In one epoch, too short to learn without: judged on many texts, at its end."""
    quick = ("data.samples=1200", "data.val_share=0.5", "trial.epochs=1", "trial.evals=1")
    bench = bench_of(shared / "sms_spam", *quick)
    orders = [
        trial(tmp_path, number=number, seed=seed, class_weight=weight)
        for number, (weight, seed) in enumerate(product((0.0, 1.0), SEEDS))
    ]
    found = [best(heard, "f_beta") for heard in attempts(bench, orders)]
    plain, weighted = found[: len(SEEDS)], found[len(SEEDS) :]
    assert sum(weighted) / len(SEEDS) > sum(plain) / len(SEEDS) + 0.1


@pytest.mark.slow
def test_many_labels_are_learned_above_chance(shared, tmp_path):
    bench = bench_of(shared / "banking77")
    (heard,) = attempts(bench, [trial(tmp_path, learning_rate=2e-3)])
    assert len(bench.task.labels) == 77
    commonest = Counter(row.label for row in bench.val).most_common(1)[0][1] / len(bench.val)
    assert best(heard, "accuracy") > 3 * commonest
