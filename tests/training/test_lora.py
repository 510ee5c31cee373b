"""Adapters on a base that is never written to."""

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from hpo.training.base.lora import LoraBase
from hpo.training.base.lowrank import Part, adapted
from hpo.training.tasks.captioning import QFORMER
from hpo.training.trial.trial import new_adapter
from tests.training.conftest import attempt, val_loss_of
from tests.training.oracle import stock_captioner


def test_export_holds_two_tensors_for_every_adapted_layer(bench, order, ear):
    trial = order(lora_r=8)
    attempt(bench, trial, ear().listener)
    weights = load_file(f"{trial.folder}/adapter/adapter_model.safetensors")
    assert len(weights) == 2 * len(bench.base.layers)
    assert sum(t.numel() for t in weights.values()) == bench.base.trainable(8)


def test_a_fresh_adapter_changes_nothing(bench, order):
    adapter = new_adapter(bench, order())
    assert val_loss_of(bench, adapter, 8) == val_loss_of(bench, None, 8)


def test_unwrap_gives_the_model_back_as_it_was():
    model = stock_captioner(None)
    before = {name: id(module) for name, module in model.named_modules()}
    base = LoraBase(model, QFORMER)
    assert {name: id(module) for name, module in model.named_modules()} != before
    base.unwrap()
    assert {name: id(module) for name, module in model.named_modules()} == before


def test_dropout_comes_from_the_trial_alone(bench, order, ear):
    def losses(number, disturb):
        heard = ear()
        torch.manual_seed(disturb)
        attempt(bench, order(number, lora_dropout=0.3), heard.listener)
        return heard.losses

    assert losses(5, disturb=1) == losses(5, disturb=2)
    assert losses(5, disturb=1) != losses(6, disturb=1)


@pytest.mark.parametrize("rows", [2, 30])
def test_a_part_adds_the_same_whether_it_learns_or_only_answers(rows):
    """Of many rows it is merged into the weights, where nothing is learnt."""
    drawn = torch.Generator().manual_seed(0)
    base = nn.Linear(6, 10).requires_grad_(False)
    a, b = torch.randn(3, 6, generator=drawn), torch.randn(3, 10, generator=drawn)
    part = Part(a=a, b=b, scale=0.7, keep=None, gradients=[], place=0)
    x = torch.randn(rows, 6, generator=drawn)
    learning = adapted(base, x, [rows], [part])
    assert learning.requires_grad
    with torch.no_grad():
        answering = adapted(base, x, [rows], [part])
    wanted = base(x) + 0.7 * x @ a.T @ b
    torch.testing.assert_close(learning, wanted, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(answering, wanted, rtol=1e-5, atol=1e-5)


def test_rows_without_a_part_stay_as_the_base_has_them():
    base = nn.Linear(6, 10).requires_grad_(False)
    part = Part(
        a=torch.ones(3, 6), b=torch.ones(3, 10), scale=1.0, keep=None, gradients=[], place=0
    )
    x = torch.randn(7, 6, generator=torch.Generator().manual_seed(0))
    found = adapted(base, x, [4, 3], [None, part])
    assert torch.equal(found[:4], base(x)[:4])
    assert (found[4:] != base(x)[4:]).all()
