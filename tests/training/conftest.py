"""A bench on the embedded base, small enough to train a trial in a second."""

from pathlib import Path

import pytest
import torch

from hpo.files import Options, load_study
from hpo.protocol import Setup, Stop
from hpo.specs import TrialConfig, TrialOrder
from hpo.training.base.forward import alone
from hpo.training.bench import set_up
from hpo.training.pack import Pack
from hpo.training.trial.curve import Curve
from hpo.training.trial.evaluate import evaluate
from hpo.training.trial.loop import train
from hpo.training.trial.trial import Listener

SMALL = ("data.samples=40", "trial.epochs=1", "trial.evals=2", "known=[]")


def make_bench(*assignments, zero_shot=False, study="rsicap", gpu=False):
    study = load_study(study, Options(scale="mini", assignments=SMALL + assignments))
    setup = Setup(study=study, memory_limit_bytes=None, gpu=gpu, zero_shot=zero_shot)
    return set_up(setup)


@pytest.fixture(scope="session")
def bench():
    return make_bench()[0]


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture
def order(tmp_path):
    def make(number=0, *, seed_number=None, earlier=(), checkpoints=True, **changes):
        values = {
            "learning_rate": 3e-3,
            "lora_r": 4,
            "lora_alpha": 8.0,
            "batch_size": 4,
            "scheduler": "cosine",
        }
        config = TrialConfig.model_validate(values | changes)
        return TrialOrder(
            number=number,
            seed_number=number if seed_number is None else seed_number,
            config=config,
            folder=str(tmp_path / f"trial-{number}"),
            earlier=tuple(earlier),
            checkpoints=checkpoints,
        )

    return make


def attempt(bench, order, listener):
    """One trial as a runner trains it that has nothing else to do."""
    pack = Pack(bench, rows=None)
    pack.start(order, listener)
    while not (ended := pack.round()):
        pass
    return ended[0]


def attempts(bench, orders):
    """What was heard of several trials, trained side by side."""
    pack, ears = Pack(bench, rows=None), [Ear() for _ in orders]
    for order, ear in zip(orders, ears, strict=True):
        pack.start(order, ear.listener)
    while pack.size:
        assert all(finished.fault is None for finished in pack.round())
    return ears


def train_run(run, listener):
    """Trains a run from where it stands, its curve included."""
    curve = Curve(Path(run.order.folder), run.curve, listener.fence, run.bench.metrics)
    return alone(run.bench.task, run.bench.base, train(run, curve, listener))


def val_loss_of(bench, adapter, batch_size):
    """Val loss of the bench's validation rows."""
    work = evaluate(bench.task, bench.val, adapter, batch_size)
    return alone(bench.task, bench.base, work).val_loss


class Ear:
    """Hears what a trial says, and can ask it to stop: after a sign of life of this number.

    Signs of life are steps, evaluation batches but the last of an evaluation, and eval points.
    """

    def __init__(self, stop_after=None, *, checkpoint=False):
        self.points, self.replayed, self.losses = [], [], []
        self.signs, self._seen = 0, 0
        self.resumed, self.started_over, self.checkpoints = [], [], []
        self._stop_after, self._checkpoint = stop_after, checkpoint
        self.listener = Listener(
            progress=self._progress,
            evaluated=self._evaluated,
            resumed=lambda seen, seconds, _: self.resumed.append((seen, seconds)),
            started_over=self.started_over.append,
            checkpointed=lambda seen, size: self.checkpoints.append((seen, size)),
            stop=self._stop,
            fence=lambda: None,
        )

    def _progress(self, seen, samples, loss, rate):
        if self._seen != seen:
            self._seen = seen
            self.losses.append(loss)
        self.signs += 1

    def _evaluated(self, point, replayed):
        (self.replayed if replayed else self.points).append(point)
        self.signs += not replayed

    def _stop(self):
        if self._stop_after is not None and self.signs >= self._stop_after:
            return Stop(number=0, checkpoint=self._checkpoint)
        return None


@pytest.fixture
def ear():
    return Ear
