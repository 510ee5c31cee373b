"""The embedded study of messages is worth searching: random trials are far from the best."""

import optuna
import pytest

from hpo.files import Options, load_study
from hpo.protocol import Setup
from hpo.search.study.sampler import GatedTPESampler
from hpo.search.study.space import distributions, suggest
from hpo.specs import TrialConfig, TrialOrder
from hpo.training.bench import set_up
from tests.training.conftest import Ear, attempt

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("classification-landscape")]
RANDOM = (1, 2, 3)  # numbers of the trials that the shipped study draws first; 0 is the known one
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
    """F-beta: zero-shot, of random trials, of a good configuration, of one that learns slowly."""
    study = load_study("classify", Options(scale="mini"))
    bench, facts = set_up(Setup(study=study, memory_limit_bytes=None, gpu=False, zero_shot=True))
    folder = tmp_path_factory.mktemp("trials")

    def best(config, number=0):
        order = TrialOrder(
            number=number, seed_number=number, config=config, folder=str(folder / f"{number}")
        )
        ear = Ear()
        finished = attempt(bench, order, ear.listener)
        assert finished.fault is None
        return max(point.metrics["f_beta"] for point in ear.points)

    def good(**change):
        return best(TrialConfig.model_validate(GOOD | change))

    random = [best(config, number) for number, config in drawn(study)]
    return facts.zero_shot, random, good(), good(learning_rate=1.6e-4)


def test_a_good_configuration_is_far_above_the_first_random_ones(scores):
    zero_shot, random, good, _ = scores
    assert good > max(random) + 0.08
    assert good > 0.65 > 4 * zero_shot


def test_learning_rates_at_both_ends_of_the_space_lose_half(scores):
    _, random, good, slow = scores
    assert max(random[0], slow) < 0.5 * good, "the first random trial has a rate near the top"
