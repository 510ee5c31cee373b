"""PEFT as the oracle: the same losses step by step, and an export that it reads."""

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from transformers import InstructBlipForConditionalGeneration

from hpo.mini import CAPTIONER
from hpo.training.base.lora import LoraBase
from hpo.training.tasks.captioning import QFORMER
from hpo.training.trial.schedule import factor
from hpo.training.trial.trial import Run, course, new_adapter
from tests.training.conftest import attempt, make_bench, train_run, val_loss_of


def stock_model():
    model = InstructBlipForConditionalGeneration.from_pretrained(
        CAPTIONER, dtype=torch.float32, local_files_only=True
    )
    return model.eval()


@pytest.fixture(scope="module")
def plain():
    """A bench whose batches hold pixels, as the stock model wants them."""
    return make_bench("limits.cache_gb=0")[0]


def peft_losses(bench, order, adapter):
    """The losses of a plain `get_peft_model` and stock forward loop, from the same start."""
    config, spec = order.config, bench.study.trial
    model = get_peft_model(
        stock_model(),
        LoraConfig(r=config.lora_r, lora_alpha=config.lora_alpha, target_modules=QFORMER),
    )
    weights = adapter.tensors(adapter.flat.detach().clone())
    for index, name in enumerate(bench.base.names):
        layer = model.base_model.model.get_submodule(name)
        layer.lora_A["default"].weight.data.copy_(weights[2 * index])
        layer.lora_B["default"].weight.data.copy_(weights[2 * index + 1])
    trainable = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trainable, lr=0.0, weight_decay=spec.weight_decay)
    batches = list(course(bench, order).batches())
    warmup, losses = round(spec.warmup_share * len(batches)), []
    for step, batch in enumerate(batches):
        loss = model(**bench.task.collate([bench.train[i] for i in batch])).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trainable, spec.max_grad_norm)
        rate = config.learning_rate * factor(config.scheduler, step, len(batches), warmup)
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
        losses.append(loss.item())
    return losses


def test_training_loss_equals_that_of_peft_at_every_step(bench, plain, order, ear):
    heard, trial = ear(), order()
    run = Run(bench=bench, order=trial, adapter=new_adapter(bench, trial))
    expected = peft_losses(plain, trial, run.adapter)
    train_run(run, heard.listener)
    assert len(heard.losses) == len(expected) == 8
    assert expected[-1] < expected[0]
    torch.testing.assert_close(heard.losses, expected, rtol=0, atol=1e-5)


def test_peft_reads_the_exported_adapter_and_finds_the_same_val_loss(bench, plain, order, ear):
    heard, trial = ear(), order()
    attempt(bench, trial, heard.listener)
    best = min(point.val_loss for point in heard.points)
    model = PeftModel.from_pretrained(stock_model(), f"{trial.folder}/adapter")
    total, tokens = 0.0, 0
    with torch.no_grad():
        for row in plain.val:
            batch = plain.task.collate([row])
            count = int((batch["labels"] != -100).sum())
            total += model(**batch).loss.item() * count
            tokens += count
    assert abs(total / tokens - best) < 1e-4


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
    model = stock_model()
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
