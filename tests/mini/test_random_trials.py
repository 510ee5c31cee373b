"""The embedded studies are worth searching: a good configuration is far from random ones."""

from dataclasses import dataclass
from typing import Any

import optuna
import pytest

from hpo.files import Options, load_study
from hpo.protocol import Setup
from hpo.search.study.sampler import GatedTPESampler
from hpo.search.study.space import distributions, suggest
from hpo.specs import TrialConfig, TrialOrder
from hpo.training.bench import set_up
from tests.training.conftest import attempts

pytestmark = pytest.mark.slow
RANDOM = (1, 2)  # numbers of the trials that the shipped study draws first; 0 is the known one


@dataclass(frozen=True)
class Known:
    """A good configuration of a study, and by how much it is better."""

    config: dict[str, Any]
    than_random: float
    than_zero_shot: float


GOOD = {
    "classify": Known(
        config={
            "learning_rate": 1.6e-3,
            "weight_decay": 0.04,
            "lora_r": 32,
            "lora_alpha": 64.0,
            "lora_dropout": 0.1,
            "last_n": 4,
            "class_weight": 1.0,
            "batch_size": 8,
        },
        than_random=0.08,
        than_zero_shot=0.5,
    ),
    "kvasir": Known(
        config={
            "learning_rate": 3.9e-3,
            "lora_r": 16,
            "lora_alpha": 64.0,
            "lora_dropout": 0.02,
            "scheduler": "constant",
            "batch_size": 16,
            "stage_1": 0.2,
        },
        than_random=0.15,
        than_zero_shot=1.5,
    ),
}


def drawn(study):
    """(number, configuration) of the first random trials of the study."""
    sampler = GatedTPESampler(
        distributions(study.space),
        seed=study.search.seed,
        startup_trials=study.search.startup_trials,
    )
    stub = optuna.create_study(sampler=sampler)
    asked = [suggest(stub.ask(), study.space) for _ in range(RANDOM[-1] + 1)]
    return [(number, asked[number]) for number in RANDOM]


@pytest.mark.parametrize("name", GOOD)
def test_a_good_configuration_is_far_above_the_first_random_ones(name, tmp_path):
    study, known = load_study(name, Options(scale="mini")), GOOD[name]
    setup = Setup(study=study, memory_limit_bytes=None, gpu=False, zero_shot=True)
    bench, facts = set_up(setup)
    chosen = [(0, TrialConfig.model_validate(known.config)), *drawn(study)]
    orders = [
        TrialOrder(
            number=place, seed_number=number, config=config, folder=str(tmp_path / f"{place}")
        )
        for place, (number, config) in enumerate(chosen)
    ]
    objective = study.objective
    good, *random = (
        objective.best(objective.of(point) for point in heard.points)
        for heard in attempts(bench, orders)
    )
    assert objective.better(good, objective.best(random), by=known.than_random)
    assert objective.better(good, facts.zero_shot, by=known.than_zero_shot)
