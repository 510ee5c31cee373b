"""A bench on the embedded base, small enough to train a trial in a second."""

import pytest
import torch

from hpo.files import Options, load_study
from hpo.protocol import Setup
from hpo.specs import TrialConfig, TrialOrder
from hpo.training.bench import set_up
from hpo.training.loop import Listener

SMALL = ("data.samples=40", "trial.epochs=1", "trial.evals=2", "known=[]")


def make_bench(*assignments, zero_shot=False):
    study = load_study("rsicap", Options(scale="mini", assignments=SMALL + assignments))
    setup = Setup(study=study, memory_limit_bytes=None, gpu=False, zero_shot=zero_shot)
    return set_up(setup)


@pytest.fixture(scope="session")
def bench():
    return make_bench()[0]


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture
def order(tmp_path):
    def make(number=0, **changes):
        values = {
            "learning_rate": 3e-3,
            "lora_r": 4,
            "lora_alpha": 8.0,
            "batch_size": 4,
            "scheduler": "cosine",
        }
        config = TrialConfig.model_validate(values | changes)
        folder = str(tmp_path / f"trial-{number}")
        return TrialOrder(number=number, seed_number=number, config=config, folder=folder)

    return make


class Ear:
    """Hears what a trial says, and can ask it to stop."""

    def __init__(self, stop_after=None):
        self.points, self.losses, self.stop_after = [], [], stop_after
        self.listener = Listener(
            progress=lambda seen, samples, loss, rate: self.losses.append(loss),
            evaluated=self.points.append,
            stopping=lambda: stop_after is not None and len(self.losses) >= stop_after,
        )


@pytest.fixture
def ear():
    return Ear
