"""Every family of models, tiny and random: trained, covered, packed, cached, and read by PEFT."""

import json
import re

import pytest
import torch
from peft import PeftModel
from torch import nn
from torch.nn import functional
from transformers import AutoModelForSequenceClassification

from hpo.errors import UnpackableError
from hpo.training.base.forward import Forward, compute
from hpo.training.tasks.classification import TARGETS
from hpo.training.trial.trial import new_adapter
from tests.training.conftest import Ear, attempt, attempts, make_bench
from tests.training.families import (
    BLOCKS,
    FAMILIES,
    configs,
    write_model,
    write_table,
)

QUICK = (
    "trial.epochs=4",
    "data.samples=120",
    "trial.evals=2",
    "known=[]",
    "data.format=table",
    "data.max_length=32",
)
LEARNING = {"learning_rate": 1e-2, "lora_r": 8, "lora_alpha": 16.0, "batch_size": 8}
UNPACKABLE = ("deberta-v2",)  # its positions are projected once for all rows of a batch
USUAL = (
    "bert",
    "roberta",
    "xlm-roberta",
    "electra",
    "llama",
    "mistral",
    "qwen2",
    "qwen3",
    "gemma2",
)
"""Families of which the expressions always matched every Linear."""
ATTENTION = {
    "distilbert": ["k_lin", "out_lin", "q_lin", "v_lin"],
    "deberta-v2": [
        "dense",
        "key_proj",
        "pos_key_proj",
        "pos_query_proj",
        "query_proj",
        "value_proj",
    ],
    "albert": ["dense", "key", "query", "value"],
    "mpnet": ["k", "o", "q", "v"],
    "modernbert": ["Wo", "Wqkv"],
    "gpt2": ["c_attn", "c_proj"],
    "gpt-neox": ["dense", "query_key_value"],
    "bloom": ["dense", "query_key_value"],
    "falcon": ["dense", "query_key_value"],
    "opt": ["k_proj", "out_proj", "q_proj", "v_proj"],
    "phi3": ["o_proj", "qkv_proj"],
}


def bench_of(folder, *settings):
    """A bench on the model and the table in a folder."""
    own = (f"model.name={folder}/model", f"data.root={folder}/texts.csv")
    return make_bench(*QUICK, *own, *settings, study="classify")[0]


def write(folder, config, *, labels=None, **options):
    """A model and a table in a folder."""
    write_model(folder / "model", config, **options)
    write_table(folder / "texts.csv", labels)
    return folder


@pytest.fixture(
    scope="module",
    params=[pytest.param(name, marks=pytest.mark.xdist_group(name)) for name in FAMILIES],
)
def family(request):
    return request.param


@pytest.fixture(scope="module")
def folder(family, tmp_path_factory):
    return write(tmp_path_factory.mktemp(family), configs()[family])


@pytest.fixture(scope="module")
def bench(folder):
    return bench_of(folder, "model.adapt=attention+mlp")


def stock_of(folder, adapter):
    """The model as a user loads it for an adapter: by the labels that came with it."""
    labels = json.loads((adapter / "labels.json").read_text())
    names = {int(number): name for number, name in labels["id2label"].items()}
    model = AutoModelForSequenceClassification.from_pretrained(
        folder / "model", id2label=names, label2id=labels["label2id"]
    )
    model.config.pad_token_id = 0
    return PeftModel.from_pretrained(model, str(adapter)).eval()


@torch.no_grad()
def found_by(model, rows):
    """(val loss, accuracy) of a model on rows, one by one, labels read by `id2label`."""
    logits = torch.cat([model(input_ids=torch.tensor([row.ids])).logits for row in rows])
    truth = torch.tensor([row.label for row in rows])
    names = [model.config.id2label[number] for number in logits.argmax(1).tolist()]
    right = [name == row.example.target for name, row in zip(names, rows, strict=True)]
    return float(functional.cross_entropy(logits, truth)), sum(right) / len(rows)


def best_of(bench, points):
    objective = bench.study.objective
    best = objective.best(map(objective.of, points))
    return next(point for point in points if objective.of(point) == best)


@pytest.mark.slow
def test_a_family_learns_and_peft_finds_what_was_recorded(bench, folder, order, tmp_path):
    trial, heard = order(**LEARNING), Ear()
    assert attempt(bench, trial, heard.listener).fault is None
    last = heard.points[-1]
    assert last.metrics["accuracy"] > 0.6 and last.val_loss < 1.0, heard.points
    kept = best_of(bench, heard.points)
    val_loss, accuracy = found_by(stock_of(folder, tmp_path / "trial-0" / "adapter"), bench.val)
    assert val_loss == pytest.approx(kept.val_loss, abs=1e-4)
    assert accuracy == kept.metrics["accuracy"]


def test_named_targets_cover_every_block(bench, family):
    model = bench.task.model
    linears = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    within = [name.removesuffix(".base") for name in linears if re.search(r"\.\d+\.", name)]
    assert sorted(bench.base.names) == sorted(within)
    counts = {}
    for name in bench.base.names:
        block = re.search(r"\.(\d+)\.", name).group(1)
        counts[block] = counts.get(block, 0) + 1
    assert len(counts) == (1 if family == "albert" else BLOCKS)
    assert len(set(counts.values())) == 1


def test_attention_alone_is_query_key_value_and_output(folder, family):
    bench = bench_of(folder, "model.adapt=attention")
    if family in USUAL:
        assert bench.task.target_pattern == TARGETS["attention"]
        assert len(bench.base.names) == 4 * BLOCKS
    else:
        ends = {name.rpartition(".")[2] for name in bench.base.names}
        assert sorted(ends) == ATTENTION[family]


def test_usual_names_give_the_layers_and_seeds_of_before(bench, family):
    """Adapters are drawn layer by layer: another order would be another trial."""
    if family in USUAL:
        assert bench.task.target_pattern == TARGETS["attention+mlp"]


@pytest.mark.slow
def test_trials_side_by_side_find_what_they_find_alone(bench, family, order):
    if family in UNPACKABLE:
        orders = [order(number) for number in range(2)]
        asked = [
            Forward(rows=bench.train[:2], adapter=new_adapter(bench, one), learns=True, targets=2)
            for one in orders
        ]
        with pytest.raises(UnpackableError, match="use --pack 1"):
            compute(bench.task, bench.base, asked)
        return
    changes = [{"batch_size": 8}, {"lora_dropout": 0.2, "batch_size": 5, "learning_rate": 1e-3}]
    orders = [order(number, **change) for number, change in enumerate(changes)]
    alone = [heard for one in orders for heard in attempts(bench, [one])]
    again = [order(n + 10, seed_number=n, **change) for n, change in enumerate(changes)]
    for ours, theirs in zip(attempts(bench, again), alone, strict=True):
        torch.testing.assert_close(ours.losses, theirs.losses, rtol=0, atol=1e-4)


@pytest.mark.slow
def test_known_blocks_change_no_loss(bench, folder, order):
    """Where the first block's outputs are computed once, or where that is found not to do."""
    narrow = bench_of(folder, "model.adapt=attention+mlp", "space.last_n=1")
    heard = [Ear(), Ear()]
    for number, (one, ear) in enumerate(zip((bench, narrow), heard, strict=True)):
        trial = order(number, seed_number=0, last_n=1, **LEARNING)
        assert attempt(one, trial, ear.listener).fault is None
    torch.testing.assert_close(heard[0].losses, heard[1].losses, rtol=0, atol=1e-4)
