"""A trained trial answers: as teacher forcing and stock libraries say, and scored as they score."""

import json
import re
import string
import sys
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import InstructBlipForConditionalGeneration, InstructBlipProcessor

from hpo.data import read_examples
from hpo.mini import CAPTIONER
from hpo.training.base.forward import Forward, compute
from hpo.training.base.texts import exact_match, exact_matches, words
from hpo.training.score import generate, read_back, score
from hpo.training.trial.trial import new_adapter
from tests.training.conftest import attempt, make_bench, val_loss_of

QUIZ = ("data.samples=60", "data.max_length=12")
LIBRARY = "pycocoevalcap, the extra `scores`, is not installed"


@pytest.fixture
def trained(bench, order, ear):
    """The order of a trial that has left its adapter, and its best val loss."""
    made, listener = order(lora_r=8), ear()
    assert attempt(bench, made, listener.listener).fault is None
    return made, min(point.val_loss for point in listener.points)


def targets(bench):
    return [example.target for example in read_examples(bench.study.data).val]


def test_an_adapter_is_read_back_as_it_was_at_its_best(bench, trained):
    made, best = trained
    assert val_loss_of(bench, read_back(bench, made), 8) == best


def test_captions_are_those_of_the_stock_model_with_the_adapter_in_peft(order, ear):
    bench, _ = make_bench('model.adapt="qformer+lm"')
    made = order()
    assert attempt(bench, made, ear().listener).fault is None
    ours = generate(bench, read_back(bench, made))
    assert ours == generate(bench, read_back(bench, made)) != generate(bench, None)
    stock = InstructBlipForConditionalGeneration.from_pretrained(CAPTIONER, dtype=torch.float32)
    model = PeftModel.from_pretrained(stock, Path(made.folder) / "adapter").eval()
    processor = InstructBlipProcessor.from_pretrained(CAPTIONER)
    examples = read_examples(bench.study.data).val[:4]
    inputs = processor(
        images=[example.image() for example in examples],
        text=[example.prompt for example in examples],
        padding=True,
        return_tensors="pt",
    )
    ids = model.generate(**inputs, do_sample=False, num_beams=1, max_new_tokens=256)
    assert [text.strip() for text in processor.batch_decode(ids, True)] == ours[:4]


@pytest.mark.parametrize("study, settings", [("rsicap", ()), ("kvasir", QUIZ)])
def test_answers_depend_neither_on_cached_images_nor_on_the_batch(study, settings):
    cached, _ = make_bench(*settings, study=study)
    uncached, _ = make_bench(*settings, "limits.cache_gb=0", "trial.eval_batch_size=1", study=study)
    assert generate(cached, None) == generate(uncached, None)


def test_a_right_answer_is_one_that_teacher_forcing_finds_right(order):
    bench, _ = make_bench(*QUIZ, study="kvasir")
    adapter = new_adapter(bench, order(lora_r=16, lora_alpha=32.0))
    optimizer = torch.optim.AdamW([adapter.flat], lr=5e-3)
    for _ in range(30):
        learns = {"learns": True, "targets": sum(row.targets for row in bench.val)}
        compute(bench.task, bench.base, [Forward(rows=bench.val, adapter=adapter, **learns)])
        optimizer.step()
        optimizer.zero_grad()
    found = compute(bench.task, bench.base, [Forward(rows=bench.val, adapter=adapter)])[0]
    pairs = zip(generate(bench, adapter), targets(bench), strict=True)
    assert [answer == target for answer, target in pairs] == found.predictions.tolist()
    assert bool(found.predictions.any())


def test_scores_are_the_librarys_on_the_written_answers(bench, trained):
    pytest.importorskip("pycocoevalcap", reason=LIBRARY)
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge

    made, _ = trained
    found = score(bench, made)
    assert (found.number, found.samples, found.problem) == (made.number, len(bench.val), None)
    lines = (Path(made.folder) / "answers.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    assert [row["answer"] for row in rows] == generate(bench, read_back(bench, made))
    assert [row["target"] for row in rows] == targets(bench)
    bare = str.maketrans("", "", string.punctuation)
    wanted, generated = (
        {row["name"]: [row[key].lower().translate(bare)] for row in rows}
        for key in ("target", "answer")
    )
    bleu = Bleu(4).compute_score(wanted, generated, verbose=0)[0]
    theirs = {f"bleu_{n}": value for n, value in enumerate(bleu, 1)}
    theirs["cider"] = Cider().compute_score(wanted, generated)[0]
    theirs["rouge_l"] = Rouge().compute_score(wanted, generated)[0]
    assert found.scores == pytest.approx(theirs, rel=1e-12)


def test_training_raises_the_scores(order, ear):
    pytest.importorskip("pycocoevalcap", reason=LIBRARY)
    bench, _ = make_bench("data.samples=100", "trial.epochs=4")
    made = order(lora_r=16, lora_alpha=32.0, learning_rate=5e-3)
    assert attempt(bench, made, ear().listener).fault is None
    trained = score(bench, made).scores
    base = bench.task.scorer()(read_examples(bench.study.data).val, generate(bench, None))
    assert trained.keys() == base.keys()
    assert all(trained[name] > base[name] for name in base), (trained, base)


def test_all_captions_of_an_image_are_references(bench):
    pytest.importorskip("pycocoevalcap", reason=LIBRARY)
    one, other = read_examples(bench.study.data).val[:2]
    twice = [one, type(one)(**{**vars(one), "target": "something else altogether"}), other]
    found = bench.task.scorer()(twice, [one.target, one.target, other.target])
    assert found["bleu_4"] == pytest.approx(1.0) and found["rouge_l"] == pytest.approx(1.0)


def test_a_missing_library_is_known_before_anything_is_generated(bench, trained, monkeypatch):
    monkeypatch.setitem(sys.modules, "pycocoevalcap.bleu.bleu", None)
    found = score(bench, trained[0])
    assert "pip install pycocoevalcap" in found.problem and found.scores == {}
    assert not (Path(trained[0].folder) / "answers.jsonl").exists()


def test_what_cannot_be_read_back_is_a_sentence(bench, trained, monkeypatch):
    monkeypatch.setattr(bench.task, "scorer", lambda: lambda examples, answers: {})
    made, _ = trained
    other = made.model_copy(update={"config": made.config.model_copy(update={"lora_r": 4})})
    assert "is not the adapter of trial 0" in score(bench, other).problem
    path = Path(made.folder) / "adapter" / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:100])
    assert re.search(r"adapter_model.safetensors: cannot be read", score(bench, made).problem)


def test_a_task_that_generates_nothing_says_what_it_measures(order):
    bench, _ = make_bench(study="classify")
    found = score(bench, order())
    assert "generates no texts" in found.problem and "macro_f1" in found.problem


def test_case_spaces_and_a_final_full_stop_do_not_count():
    wanted = ["Yes.", "two ships", "Sandy", "No."]
    assert exact_match(wanted, ["yes", " Two  ships. ", "sandy ground", ""]) == 0.5
    assert exact_match(["a.", "a"], ["a..", "a!"]) == 0.0
    found = exact_matches(wanted, ["Yes", "two", "sandy", "yes"], [0, 0, 1, 1])
    assert found == {"exact_match": 0.5, "exact_match_1": 0.5, "exact_match_2": 0.5}
    assert exact_matches(["a"], ["A"], [0]) == {"exact_match": 1.0}


def test_words_are_in_lower_case_without_punctuation():
    text = "A well-known (red) Ship, 3.5 km off; it's “moored”."
    assert words(text) == "a well-known red ship 3.5 km off it's moored"
    assert words(" .,! ") == ""
