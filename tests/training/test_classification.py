"""Sequence classification: what is trained, weighed and scored, and when a trial ends early."""

import json
from pathlib import Path

import pytest
import torch

from hpo.errors import MissingError
from hpo.training.base.blocks import Known, Passage
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


@pytest.fixture(scope="module")
def narrow():
    """A study in which only the last layer but one and the last may have adapters."""
    return bench_of("space.last_n.high=2")


def test_blocks_before_the_first_adapted_one_are_computed_once(bench, narrow):
    assert not bench.task.prefix
    assert narrow.task.prefix == ("model.layers.0", "model.layers.1")
    assert not any(map(narrow.base.touches, narrow.task.prefix))
    blocks = narrow.task.model.get_submodule("model.layers")
    assert [sum(1 for _ in block.parameters()) > 0 for block in blocks] == [
        False,
        False,
        True,
        True,
    ]


@pytest.mark.parametrize("last_n", [1, 2])
def test_trials_of_fewer_layers_find_the_same_beside_known_blocks(bench, narrow, order, last_n):
    heard = [Ear(), Ear()]
    for number, (one, ear) in enumerate(zip((bench, narrow), heard, strict=True)):
        changed = order(number, seed_number=0, last_n=last_n, lora_dropout=0.1)
        assert attempt(one, changed, ear.listener).fault is None
    torch.testing.assert_close(heard[0].losses, heard[1].losses, rtol=0, atol=1e-6)


def test_an_adapter_of_the_last_layers_is_exported_with_their_names(narrow, order):
    trial = order(last_n=2)
    assert attempt(narrow, trial, Ear().listener).fault is None
    exported = json.loads(Path(trial.folder, "adapter", "adapter_config.json").read_text())
    assert sorted(exported["target_modules"]) == sorted(narrow.base.names)


def test_a_model_that_needs_more_than_outputs_is_computed_at_every_step(monkeypatch):
    """Blocks of some architectures hand on tuples: then nothing is taken out."""
    monkeypatch.setattr(Passage, "forward", lambda self, states, *_, **__: (states,))
    monkeypatch.setattr(Known, "forward", lambda self, *_, **__: (self._states,))
    plain, facts = make_bench(*SMALL, "space.last_n=1", study="classify")
    assert any("needs more of it" in check for check in facts.checks)
    blocks = plain.task.model.get_submodule("model.layers")
    assert all(list(block.parameters()) for block in blocks)
    assert "states" not in plain.task.collate(plain.train[:2])


def test_more_layers_than_the_study_has_room_in_are_refused(narrow, order):
    fault = attempt(narrow, order(last_n=3), Ear().listener).fault
    assert fault is not None and "the last 2 layers at most" in fault.reason


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
