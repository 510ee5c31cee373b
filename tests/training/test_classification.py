"""Sequence classification: what is trained, weighed and scored, and when a trial ends early."""

import pytest
import torch

from hpo.errors import MissingError
from hpo.training.base.forward import Forward, compute
from hpo.training.base.scores import f_beta, scores
from hpo.training.trial.trial import course, new_adapter
from tests.training.conftest import Ear, attempt, make_bench

SMALL = ("data.samples=100", "trial.epochs=2", "trial.evals=4", "trial.patience=9")


def bench_of(*assignments):
    return make_bench(*SMALL, *assignments, study="classify")[0]


@pytest.fixture(scope="module")
def bench():
    return bench_of()


def test_only_adapter_and_head_are_trained(bench):
    everything = bench.base.trainable(8)
    head = sum(tensor.numel() for tensor in bench.base.head_tensors())
    blocks = bench.task.model.config.num_hidden_layers
    shapes = bench.base.shapes()
    assert everything == head + 8 * sum(i + o for i, o in shapes)
    assert bench.base.trainable(8, 1) == head + (everything - head) // blocks
    assert all(".layers.3." in bench.base.names[layer] for layer in bench.base.covered(1))
    assert len(bench.base.covered(1)) == 4


def test_a_trial_that_gets_no_better_ends_early(order):
    impatient = bench_of("trial.patience=1", "trial.evals=8", "trial.min_improvement=0.5")
    heard = Ear()
    finished = attempt(impatient, order(), heard.listener)
    assert finished.fault is None and not finished.stopped and finished.stats.stopped_early
    assert len(heard.points) == 2
    assert [point.last for point in heard.points] == [False, True]
    assert finished.stats.steps < course(impatient, order()).steps


def test_rows_weigh_as_torch_weighs_labels(bench, order):
    config = order(class_weight=1.0).config
    rows = bench.train[:9]
    weights = bench.task.weights(rows, config)
    adapter = new_adapter(bench, order())
    asked = Forward(rows=rows, adapter=adapter, weights=weights, targets=float(weights.sum()))
    plain = Forward(rows=rows, adapter=adapter)
    weighted = compute(bench.task, bench.base, [asked])[0].rows
    unweighted = compute(bench.task, bench.base, [plain])[0].rows
    torch.testing.assert_close(weighted, unweighted * weights)
    assert bench.task.weights(rows, order().config) is None
    counts = torch.bincount(torch.tensor([row.label for row in bench.train])).float()
    torch.testing.assert_close(weights, (counts.mean() / counts)[[row.label for row in rows]])


def test_scores_of_a_case_done_by_hand():
    truth, answers = torch.tensor([0, 0, 0, 1, 1, 2]), torch.tensor([0, 0, 1, 1, 0, 0])
    found = scores(truth, answers, 3)
    assert found.accuracy == pytest.approx(3 / 6)
    assert f_beta(found, beta=1.0, label=0) == pytest.approx(2 * 2 / (3 + 4))
    assert f_beta(found, beta=3.0, label=1) == pytest.approx(10 * 1 / (9 * 2 + 2))
    by_label = [4 / 7, 2 / 4, 0.0]
    assert f_beta(found, beta=1.0) == pytest.approx(sum(by_label) / 3)


def test_an_objective_that_the_task_does_not_measure_is_refused():
    with pytest.raises(MissingError, match="does not measure it; use val_loss"):
        make_bench('objective={metric="accuracy", direction="maximize"}')


def test_an_expression_that_finds_nothing_is_refused():
    with pytest.raises(MissingError, match=r"no Linear of this model matches \^nothing"):
        bench_of("model.adapt=^nothing")
