"""The embedded study is worth searching: the hyperparameters matter, in the order they should."""

import pytest

from hpo.files import Options, load_study
from hpo.protocol import Setup
from hpo.specs import TrialConfig, TrialOrder
from hpo.training.bench import set_up
from tests.training.conftest import Ear, attempt

pytestmark = pytest.mark.xdist_group("landscape")


@pytest.fixture(scope="module")
def losses(tmp_path_factory):
    """(zero-shot, best val loss by change of the default configuration), at the shipped scale."""
    study = load_study("rsicap", Options(scale="mini"))
    bench, facts = set_up(Setup(study=study, memory_limit_bytes=None, gpu=False, zero_shot=True))
    folder = tmp_path_factory.mktemp("trials")

    def best(**change):
        values = {
            "learning_rate": 1e-3,
            "lora_r": 8,
            "lora_alpha": 16.0,
            "batch_size": 8,
            "scheduler": "cosine",
        }
        config = TrialConfig.model_validate(values | change)
        order = TrialOrder(number=0, seed_number=0, config=config, folder=str(folder))
        ear = Ear()
        finished = attempt(bench, order, ear.listener)
        assert finished.fault is None
        return min(point.val_loss for point in ear.points)

    return facts.zero_shot, {
        "default": best(),
        "lr 2e-5": best(learning_rate=2e-5),
        "lr 2e-4": best(learning_rate=2e-4),
        "lr 3e-3": best(learning_rate=3e-3),
        "lr 1e-1": best(learning_rate=1e-1),
        "r 2": best(lora_r=2, lora_alpha=4.0),
        "r 32": best(lora_r=32, lora_alpha=64.0),
        "alpha 4": best(lora_alpha=4.0),
        "alpha 64": best(lora_alpha=64.0),
        "batch 32": best(batch_size=32),
    }


def test_learning_rate_has_an_optimum_inside_the_space(losses):
    _, by = losses
    assert by["lr 3e-3"] < by["default"] < by["lr 2e-4"] < by["lr 2e-5"]
    assert by["lr 1e-1"] > by["lr 3e-3"] + 0.03


def test_rank_alpha_and_batch_size_matter(losses):
    _, by = losses
    assert by["r 32"] < by["default"] < by["r 2"]
    assert by["alpha 64"] < by["default"] < by["alpha 4"]
    assert by["default"] < by["batch 32"]


def test_the_best_is_far_below_zero_shot(losses):
    zero_shot, by = losses
    assert min(by.values()) < 0.6 * zero_shot
    assert by["lr 2e-5"] > 0.9 * zero_shot, "a bad learning rate is as bad as none"
