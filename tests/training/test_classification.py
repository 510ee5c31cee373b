"""Sequence classification: PEFT and torch as oracles; packs, retries, ends and scores as ever."""

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch.nn import functional
from transformers import AutoModelForSequenceClassification

from hpo.errors import MissingError
from hpo.mini import CLASSIFIER
from hpo.specs import Outcome
from hpo.training.base.forward import Forward, compute
from hpo.training.base.scores import f_beta, scores
from hpo.training.pack import Pack
from hpo.training.trial.schedule import factor
from hpo.training.trial.trial import Run, course, new_adapter
from tests.training.conftest import Ear, attempt, make_bench, train_run

SMALL = ("data.samples=100", "trial.epochs=2", "trial.evals=4", "trial.patience=9")


def bench_of(*assignments):
    return make_bench(*SMALL, *assignments, study="classify")[0]


@pytest.fixture(scope="module")
def bench():
    return bench_of()


def stock_model(bench):
    """Backbone and the head that the bench drew."""
    model = AutoModelForSequenceClassification.from_pretrained(
        CLASSIFIER, num_labels=len(bench.task.labels), dtype=torch.float32, local_files_only=True
    )
    model.config.pad_token_id = bench.task.model.config.pad_token_id
    model.score.weight.data.copy_(bench.base.head_tensors()[0])
    return model.eval()


def peft_losses(bench, order, adapter):
    """Weighted losses of plain PEFT with a trainable head, from the same start."""
    config, spec = order.config, bench.study.trial
    model = get_peft_model(
        stock_model(bench),
        LoraConfig(
            r=config.lora_r,
            lora_alpha=config.lora_alpha,
            target_modules=[bench.base.names[layer] for layer in adapter.layers],
            modules_to_save=["score"],
        ),
    )
    weights = adapter.tensors(adapter.flat.detach().clone())
    for place, layer in enumerate(adapter.layers):
        module = model.base_model.model.get_submodule(bench.base.names[layer])
        module.lora_A["default"].weight.data.copy_(weights[2 * place])
        module.lora_B["default"].weight.data.copy_(weights[2 * place + 1])
    trainable = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trainable, lr=0.0, weight_decay=config.weight_decay)
    rows, batches = bench.train, list(course(bench, order).batches())
    counts = torch.bincount(torch.tensor([row.label for row in rows])).float()
    by_label = (counts.mean() / counts) ** config.class_weight
    warmup, losses = round(spec.warmup_share * len(batches)), []
    for step, batch in enumerate(batches):
        inputs = bench.task.collate([rows[i] for i in batch])
        labels = inputs.pop("labels")
        loss = functional.cross_entropy(model(**inputs).logits, labels, weight=by_label)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trainable, spec.max_grad_norm)
        rate = config.learning_rate * factor(config.scheduler, step, len(batches), warmup)
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("last_n", [None, 2])
def test_training_loss_equals_that_of_peft_at_every_step(bench, order, last_n):
    heard = Ear()
    trial = order(
        last_n=last_n, class_weight=0.7, weight_decay=0.1, batch_size=8, learning_rate=1e-3
    )
    run = Run(bench=bench, order=trial, adapter=new_adapter(bench, trial))
    expected = peft_losses(bench, trial, run.adapter)
    train_run(run, heard.listener)
    assert len(heard.losses) == len(expected) > 10
    torch.testing.assert_close(heard.losses, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("last_n", [None, 1])
def test_peft_reads_the_exported_adapter_and_answers_the_same(bench, order, last_n):
    heard, trial = Ear(), order(last_n=last_n, learning_rate=2e-3, batch_size=8)
    assert attempt(bench, trial, heard.listener).fault is None
    best = max(heard.points, key=lambda point: point.metrics["f_beta"])
    model = PeftModel.from_pretrained(stock_model(bench), f"{trial.folder}/adapter").eval()
    batch = bench.task.collate(bench.val)
    labels = batch.pop("labels")
    with torch.no_grad():
        logits = model(**batch).logits
    assert abs(functional.cross_entropy(logits, labels).item() - best.val_loss) < 1e-4
    right = (logits.argmax(1) == labels).double().mean()
    assert float(right) == pytest.approx(best.metrics["accuracy"])


def test_packed_equals_alone_whatever_is_padded_beside_it(bench, order):
    mixed = [
        {"lora_dropout": 0.2, "batch_size": 4},
        {"lora_dropout": 0.1, "batch_size": 7, "last_n": 1},
        {"class_weight": 1.0, "batch_size": 8, "lora_r": 8},
    ]
    alone = [Ear() for _ in mixed]
    for number, (changes, heard) in enumerate(zip(mixed, alone, strict=True)):
        attempt(bench, order(number, **changes), heard.listener)
    together, pack = [Ear() for _ in mixed], Pack(bench, rows=None)
    for number, (changes, heard) in enumerate(zip(mixed, together, strict=True)):
        pack.start(order(number + 10, seed_number=number, **changes), heard.listener)
    while pack.size:
        assert all(finished.fault is None for finished in pack.round())
    for ours, theirs in zip(together, alone, strict=True):
        torch.testing.assert_close(ours.losses, theirs.losses, rtol=0, atol=1e-5)
        for mine, other in zip(ours.points, theirs.points, strict=True):
            assert mine.val_loss == pytest.approx(other.val_loss, abs=1e-5)
            assert mine.metrics == pytest.approx(other.metrics, abs=1e-5)


def test_an_interrupted_trial_goes_on_to_the_bit(bench, order):
    whole, heard = order(0, lora_dropout=0.1), Ear()
    attempt(bench, whole, heard.listener)
    first = order(1, seed_number=0, lora_dropout=0.1)
    assert attempt(bench, first, Ear(20, checkpoint=True).listener).stopped
    again, rest = order(2, seed_number=0, lora_dropout=0.1, earlier=[first.folder]), Ear()
    assert attempt(bench, again, rest.listener).fault is None
    assert rest.resumed and [*rest.replayed, *rest.points] == heard.points


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


def test_a_nan_ends_as_nan_and_harms_nobody(bench, order):
    pack, ears = Pack(bench, rows=None), [Ear(), Ear()]
    pack.start(order(0, learning_rate=1e30), ears[0].listener)
    pack.start(order(1), ears[1].listener)
    ended = {}
    while pack.size:
        ended |= {finished.number: finished for finished in pack.round()}
    assert ended[0].fault.outcome == Outcome.NAN
    assert ended[1].fault is None and len(ears[1].points) == 4


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
