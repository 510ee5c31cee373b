"""Adapters on a base that is never written to."""

import torch
from safetensors.torch import load_file

from hpo.training.base.lora import LoraBase
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
