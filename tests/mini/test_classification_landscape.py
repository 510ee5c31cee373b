"""The embedded study of messages is worth searching: random trials are far from the best."""

import optuna
import pytest

from hpo.files import Options, load_study
from hpo.protocol import Setup
from hpo.search.study.sampler import GatedTPESampler
from hpo.search.study.space import distributions, suggest
from hpo.specs import TrialConfig, TrialOrder
from hpo.training.bench import set_up
from tests.training.conftest import attempts

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("classification-landscape")]
RANDOM = (1, 2)  # numbers of the trials that the shipped study draws first; 0 is the known one
GOOD = {
    "learning_rate": 1.6e-3,
    "weight_decay": 0.04,
    "lora_r": 32,
    "lora_alpha": 64.0,
    "lora_dropout": 0.1,
    "last_n": 4,
    "class_weight": 1.0,
    "batch_size": 8,
}


def drawn(study):
    """The configurations of the first random trials of the study."""
    sampler = GatedTPESampler(
        distributions(study.space),
        seed=study.search.seed,
        startup_trials=study.search.startup_trials,
    )
    stub = optuna.create_study(sampler=sampler)
    asked = [suggest(stub.ask(), study.space) for _ in range(RANDOM[-1] + 1)]
    return [(number, asked[number]) for number in RANDOM]


@pytest.fixture(scope="module")
def scores(tmp_path_factory):
    """F-beta: zero-shot, of random trials, and of a good configuration."""
    study = load_study("classify", Options(scale="mini"))
    bench, facts = set_up(Setup(study=study, memory_limit_bytes=None, gpu=False, zero_shot=True))
    folder = tmp_path_factory.mktemp("trials")

    chosen = [(0, TrialConfig.model_validate(GOOD))]
    orders = [
        TrialOrder(number=place, seed_number=number, config=config, folder=str(folder / f"{place}"))
        for place, (number, config) in enumerate([*chosen, *drawn(study)])
    ]
    heard = attempts(bench, orders)
    good, *random = (max(p.metrics["f_beta"] for p in ear.points) for ear in heard)
    return facts.zero_shot, random, good


def test_a_good_configuration_is_far_above_the_first_random_ones(scores):
    zero_shot, random, good = scores
    assert good > max(random) + 0.08
    assert good > 0.65 > 4 * zero_shot


def test_a_learning_rate_near_the_top_of_the_space_loses_half(scores):
    _, random, good = scores
    assert random[0] < 0.5 * good
