"""Heads of classifiers: whose labels they have, what is new of them, and what goes with them."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForSequenceClassification,
    BartConfig,
    BertModel,
    ConvBertConfig,
    RobertaForMaskedLM,
)

from hpo.errors import MissingError
from hpo.files import Options, load_study
from hpo.protocol import CHECKPOINT, Setup
from hpo.training.base.classifier import known
from hpo.training.bench import set_up
from hpo.training.trial.checkpoint import CheckpointError, restore
from hpo.training.trial.trial import Run, new_adapter
from tests.training.conftest import Ear, attempt
from tests.training.families import (
    VOCABULARY,
    WORDS,
    configs,
    write_model,
    write_table,
    write_tokenizer,
)
from tests.training.test_checkpoint import sealed
from tests.training.test_families import LEARNING, QUICK, best_of, found_by, stock_of

ACCURACY = 'objective={metric="accuracy", direction="maximize"}'
TWELVE = {name: str(number) for name, number in zip(WORDS, (2, 10, 9), strict=True)}


def set_up_in(folder, *settings):
    """(bench, facts) of the model and the table in a folder, zero-shot included."""
    own = (f"model.name={folder}/model", f"data.root={folder}/texts.csv", "model.adapt=attention")
    options = Options(scale="mini", assignments=(*QUICK, *own, ACCURACY, *settings))
    study = load_study("classify", options)
    return set_up(Setup(study=study, memory_limit_bytes=None, gpu=False, zero_shot=True))


def label_by(model, path, names):
    """Writes texts with what a model with two labels answers, in equal shares."""
    write_table(path)
    texts = [line.split(",")[0] for line in path.read_text().splitlines()[1:]]
    ids = {word: place for place, word in enumerate(VOCABULARY)}
    model.eval()
    with torch.no_grad():
        rows = [torch.tensor([[ids[word] for word in text.split()]]) for text in texts]
        margins = torch.cat([model(input_ids=row).logits.diff() for row in rows]).flatten()
        model.classifier.bias[1] -= margins.median()
        answers = (margins > margins.median()).long().tolist()
    lines = [f"{text},{names[answer]}" for text, answer in zip(texts, answers, strict=True)]
    path.write_text("\n".join(["text,label", *lines]) + "\n")


def fine_tuned(folder, labels, *, says=None):
    """A BERT with two labels, and texts labelled as it answers, in the words of `says`."""
    model = write_model(folder / "model", configs()["bert"], labels=labels)
    label_by(model, folder / "texts.csv", says or labels)
    model.save_pretrained(folder / "model")
    return model


def head_line(facts):
    return next(check for check in facts.checks if check.startswith("head: "))


def test_the_labels_of_a_fine_tuned_checkpoint_keep_their_order(tmp_path):
    """By the order of texts, ham would be 0, and every answer the wrong one."""
    model = fine_tuned(tmp_path, ("spam", "ham"))
    bench, facts = set_up_in(tmp_path)
    assert facts.zero_shot == 1.0
    assert facts.labels == ("spam", "ham")
    assert torch.equal(bench.base.head_tensors()[0], model.classifier.weight)
    assert not any("reads padding" in check for check in facts.checks)
    assert "of the checkpoint" in head_line(facts) and "0 'spam', 1 'ham'" in head_line(facts)


@pytest.mark.parametrize(
    ("labels", "says", "words"),
    [
        (("LABEL_0", "LABEL_1"), ("0", "1"), "taken for those numbers"),
        (("Spam", "Ham"), ("spam", "ham"), "but for case and blanks"),
    ],
)
def test_labels_spelt_otherwise_keep_their_order_and_it_is_said(tmp_path, labels, says, words):
    fine_tuned(tmp_path, labels, says=says)
    _, facts = set_up_in(tmp_path)
    assert facts.zero_shot == 1.0 and facts.labels == says
    assert words in head_line(facts)


def test_other_labels_get_a_new_head_from_the_seed_and_it_is_said(tmp_path):
    model = fine_tuned(tmp_path, ("positive", "negative"), says=("spam", "ham"))
    bench, facts = set_up_in(tmp_path)
    again, _ = set_up_in(tmp_path)
    other, _ = set_up_in(tmp_path, "search.seed=5")
    first = bench.base.head_tensors()[0]
    assert not torch.equal(first, model.classifier.weight)
    assert torch.equal(first, again.base.head_tensors()[0])
    assert not torch.equal(first, other.base.head_tensors()[0])
    assert facts.labels == ("ham", "spam")
    assert "head: new, as the checkpoint's is for 0 'positive', 1 'negative'" in head_line(facts)


def test_names_that_nobody_gave_are_no_labels(tmp_path):
    model = fine_tuned(tmp_path, ("LABEL_0", "LABEL_1"), says=("spam", "ham"))
    bench, facts = set_up_in(tmp_path)
    assert not torch.equal(bench.base.head_tensors()[0], model.classifier.weight)
    assert "which is which is unknown" in head_line(facts)


def test_a_head_of_another_size_is_replaced(tmp_path):
    write_model(tmp_path / "model", configs()["roberta"], labels=("a", "b"))
    write_table(tmp_path / "texts.csv")
    bench, facts = set_up_in(tmp_path)
    assert facts.labels == ("home", "win", "work")
    assert bench.task.heads == ("classifier.out_proj",), "its first layer has been trained before"
    assert "head: new, as the checkpoint's has 2 outputs, 0 'a', 1 'b'" in head_line(facts)


@pytest.mark.parametrize(
    ("own", "labels", "order"),
    [
        ({0: "b", 1: "a"}, ("a", "b"), ("b", "a")),
        ({0: 1, 1: 0}, ("0", "1"), ("1", "0")),
        ({0: " B  b ", 1: "A"}, ("a", "b b"), ("b b", "a")),
        ({0: "a", 1: "A"}, ("a", "A"), ("a", "A")),
        ({0: "x", 1: "X"}, ("x", "y"), None),
        ({0: "LABEL_0", 1: "LABEL_1"}, ("0", "1"), ("0", "1")),
        ({0: "LABEL_0", 1: "LABEL_1"}, ("1", "2"), None),
        ({0: "LABEL_1", 1: "LABEL_0"}, ("LABEL_0", "LABEL_1"), ("LABEL_1", "LABEL_0")),
        ({0: "a", 2: "b"}, ("a", "b"), None),
        ({0: "a", 1: "b", 2: "c"}, ("a", "b"), None),
    ],
)
def test_which_label_is_which(own, labels, order):
    assert known(own, labels)[0] == order


@pytest.mark.parametrize("name", ["bert", "deberta-v2"])
def test_a_backbone_without_a_pooler_trains_one_and_peft_reads_it(tmp_path, order, name):
    config = configs()[name]
    kind = {"add_pooling_layer": False} if name == "bert" else {}
    model = write_model(tmp_path / "model", config)
    if kind:
        torch.manual_seed(0)
        BertModel(config, **kind).save_pretrained(tmp_path / "model")
    assert not [key for key in model.state_dict() if "pooler" in key and not kind]
    write_table(tmp_path / "texts.csv")
    bench, _ = set_up_in(tmp_path)
    pooler = "bert.pooler.dense" if name == "bert" else "pooler.dense"
    assert bench.task.heads == (pooler, "classifier")
    trial, heard = order(**LEARNING), Ear()
    assert attempt(bench, trial, heard.listener).fault is None
    adapter = Path(trial.folder, "adapter")
    trained = load_file(adapter / "adapter_model.safetensors")[f"base_model.model.{pooler}.weight"]
    assert not torch.allclose(trained, bench.base.head_tensors()[0], atol=1e-4)
    val_loss, _ = found_by(stock_of(tmp_path, adapter), bench.val)
    assert val_loss == pytest.approx(best_of(bench, heard.points).val_loss, abs=1e-4)


def test_a_module_whose_name_ends_like_the_head_does_not_break_the_export(tmp_path, order):
    """PEFT takes `pre_classifier` for `classifier`, though only the latter is trained."""
    write_model(tmp_path / "model", configs()["distilbert"], labels=tuple(WORDS))
    write_table(tmp_path / "texts.csv")
    bench, facts = set_up_in(tmp_path)
    assert bench.task.heads == ("classifier",) and facts.labels == tuple(WORDS)
    trial, heard = order(**LEARNING), Ear()
    assert attempt(bench, trial, heard.listener).fault is None
    found = found_by(stock_of(tmp_path, Path(trial.folder, "adapter")), bench.val)
    kept = best_of(bench, heard.points)
    assert found == (pytest.approx(kept.val_loss, abs=1e-4), kept.metrics["accuracy"])


def test_labels_go_with_the_adapter(tmp_path, order):
    write_model(tmp_path / "model", configs()["gpt2"], labels=("10", "2", "9"))
    write_table(tmp_path / "texts.csv", TWELVE)
    bench, _ = set_up_in(tmp_path)
    trial = order(**LEARNING)
    assert attempt(bench, trial, Ear().listener).fault is None
    written = json.loads(Path(trial.folder, "adapter", "labels.json").read_text())
    assert written == {
        "id2label": {"0": "10", "1": "2", "2": "9"},
        "label2id": {"10": 0, "2": 1, "9": 2},
    }


def test_a_masked_language_model_lends_its_backbone(tmp_path):
    torch.manual_seed(0)
    RobertaForMaskedLM(configs()["roberta"]).save_pretrained(tmp_path / "model")
    write_tokenizer(tmp_path / "model")
    write_table(tmp_path / "texts.csv")
    bench, _ = set_up_in(tmp_path)
    assert bench.task.heads == ("classifier.dense", "classifier.out_proj")


def test_a_backbone_of_another_shape_than_its_configuration_is_refused(tmp_path):
    write_model(tmp_path / "model", configs()["bert"])
    write_table(tmp_path / "texts.csv")
    path = tmp_path / "model" / "model.safetensors"
    tensors = load_file(path)
    name = next(key for key in tensors if key.endswith("word_embeddings.weight"))
    save_file(tensors | {name: tensors[name][:-1].clone()}, path, {"format": "pt"})
    with pytest.raises(MissingError, match=r"word_embeddings.weight is \(28, 32\) .* \(29, 32\)"):
        set_up_in(tmp_path)


def test_a_tokenizer_without_padding_and_end_is_refused(tmp_path):
    write_model(tmp_path / "model", configs()["gpt2"])
    write_table(tmp_path / "texts.csv")
    for file in ("tokenizer_config.json", "special_tokens_map.json"):
        path = tmp_path / "model" / file
        if path.exists():
            content = json.loads(path.read_text())
            kept = {k: v for k, v in content.items() if k not in ("pad_token", "eos_token")}
            path.write_text(json.dumps(kept))
    with pytest.raises(MissingError, match="neither a padding nor an end token"):
        set_up_in(tmp_path)


def test_a_model_that_needs_more_than_the_text_is_refused_in_a_sentence(tmp_path):
    """BART's head reads the end token, which this tokenizer does not write."""
    config = BartConfig(
        vocab_size=len(VOCABULARY),
        d_model=32,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=48,
        decoder_ffn_dim=48,
        pad_token_id=0,
        bos_token_id=2,
        eos_token_id=3,
        decoder_start_token_id=2,
        forced_eos_token_id=3,
    )
    write_model(tmp_path / "model", config)
    write_table(tmp_path / "texts.csv")
    with pytest.raises(MissingError, match=r"cannot classify .* \(Each example must contain"):
        set_up_in(tmp_path)


def test_a_model_that_reads_padding_is_named(tmp_path):
    sizes = {"vocab_size": len(VOCABULARY), "hidden_size": 32, "num_attention_heads": 2}
    config = ConvBertConfig(
        **sizes, embedding_size=32, intermediate_size=48, num_hidden_layers=1, pad_token_id=0
    )
    write_model(tmp_path / "model", config)
    write_table(tmp_path / "texts.csv")
    _, facts = set_up_in(tmp_path)
    assert any(check.startswith("this model reads padding") for check in facts.checks)


def test_the_end_token_pads_where_nothing_else_does(tmp_path, order):
    write_model(tmp_path / "model", configs()["llama"], pad=False)
    write_table(tmp_path / "texts.csv")
    bench, _ = set_up_in(tmp_path)
    trial, heard = order(**LEARNING), Ear()
    assert attempt(bench, trial, heard.listener).fault is None
    model = stock_of(tmp_path, Path(trial.folder, "adapter"))
    model.config.pad_token_id = bench.task.model.config.pad_token_id
    val_loss, _ = found_by(model, bench.val)
    assert val_loss == pytest.approx(best_of(bench, heard.points).val_loss, abs=1e-4)


@pytest.fixture
def stopped(tmp_path, order):
    """(bench, order) of a trial with a checkpoint."""
    write_model(tmp_path / "model", configs()["gpt2"])
    write_table(tmp_path / "texts.csv")
    bench, _ = set_up_in(tmp_path)
    trial = order(**LEARNING)
    attempt(bench, trial, Ear(6, checkpoint=True).listener)
    return bench, trial


def test_a_checkpoint_with_another_order_of_labels_is_not_continued(stopped, order, monkeypatch):
    bench, trial = stopped
    monkeypatch.setattr(bench.task, "label_names", bench.task.label_names[::-1])
    again = order(9, seed_number=0, **LEARNING)
    run = Run(bench=bench, order=again, adapter=new_adapter(bench, again))
    with pytest.raises(CheckpointError, match="labels differs"):
        restore(run, Path(trial.folder))
    ear = Ear()
    resumed = again.model_copy(update={"earlier": (trial.folder,)})
    assert attempt(bench, resumed, ear.listener).fault is None
    assert ear.started_over and "labels" in ear.started_over[0]


def test_a_checkpoint_of_before_has_its_labels_in_the_order_of_texts(stopped, order, monkeypatch):
    bench, trial = stopped
    path = Path(trial.folder, CHECKPOINT)
    whole = path.read_bytes()
    header = json.loads(whole[8 : 8 + int.from_bytes(whole[:8], "little")])
    position = json.loads(header["__metadata__"]["position"])
    del position["identity"]["labels"]
    metadata = {"position": json.dumps(position, separators=(",", ":")), "sha256": "0" * 64}
    save_file(load_file(path), path, metadata)
    sealed(path, path.read_bytes())
    again = order(9, seed_number=0, **LEARNING)
    run = Run(bench=bench, order=again, adapter=new_adapter(bench, again))
    monkeypatch.setattr(bench.task, "label_names", ("work", "home", "win"))
    with pytest.raises(CheckpointError, match="labels differs"):
        restore(run, Path(trial.folder))
    monkeypatch.setattr(bench.task, "label_names", ("home", "win", "work"))
    restore(run, Path(trial.folder))
    assert run.step > 0


def test_a_model_without_a_linear_head_names_what_is_there(tmp_path, monkeypatch):
    write_model(tmp_path / "model", configs()["bert"])
    write_table(tmp_path / "texts.csv")
    kind = AutoModelForSequenceClassification
    real = kind.from_pretrained

    def without_head(*arguments, **options):
        model, info = real(*arguments, **options)
        model.classifier = torch.nn.Identity()
        return model, info

    monkeypatch.setattr(kind, "from_pretrained", without_head)
    with pytest.raises(MissingError, match="no Linear with 3 outputs as its head"):
        set_up_in(tmp_path)
