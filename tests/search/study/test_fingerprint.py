"""What may change between two runs of a study, and what may not."""

import pytest

from hpo.errors import FingerprintError
from hpo.files import Options, load_study
from hpo.search.study.fingerprint import fingerprint, hold

BASE = ("known=[]", "trial.epochs=4", "trial.evals=10", "data.samples=400")


def prints(*assignments, data="data 1", weights="weights 1", **options):
    assignments = (*BASE, *assignments)
    study = load_study("rsicap", Options(scale="mini", assignments=assignments, **options))
    return fingerprint(study, data_digest=data, weights_digest=weights)


def check(stored, ours):
    hold(stored, ours, name="night", where="sqlite:///hpo.db")


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"trials": 99, "seed": 5, "name": "other"},
        {"model": "/elsewhere/base"},
    ],
)
def test_totals_seeds_names_and_paths_may_change(change):
    check(prints(), prints(**change))


@pytest.mark.parametrize(
    "assignment",
    [
        "model.device=cpu",
        "trial.max_seconds=60",
        "trial.keep_epochs=1",
        "data.root=x",
        "pruner.min_trials=9",
    ],
)
def test_settings_that_leave_values_comparable_may_change(assignment):
    check(prints(), prints(assignment))


def test_a_study_from_before_there_were_stages_goes_on():
    stored = {k: v for k, v in prints().items() if k not in ("data.stages", "data.image_size")}
    check(stored, prints())


@pytest.mark.parametrize(
    ("assignment", "words"),
    [
        ("trial.epochs=9", ("trial.epochs", "was 4", "now 9")),
        ("trial.evals=5", ("trial.evals", "was 10", "now 5")),
        ("trial.weight_decay=0.5", ("trial.weight_decay", "was 0.0", "now 0.5")),
        ("model.precision=bf16", ("model.precision", "was float32", "now bf16")),
        ("model.revision=abc", ("model.revision", "was not set", "now abc")),
        ("data.val_share=0.5", ("data.val_share", "was 0.2", "now 0.5")),
        ('data.stages=["a", "b"]', ("data.stages", "was not set", "now ['a', 'b']")),
        ("data.samples=50", ("data.samples", "was 400", "now 50")),
        ("space.lora_dropout.high=0.3", ("space.lora_dropout", "high 0.2", "high 0.3")),
    ],
)
def test_settings_that_make_values_incomparable_are_named(assignment, words):
    with pytest.raises(FingerprintError) as caught:
        check(prints(), prints(assignment))
    for word in (*words, "study night", "sqlite:///hpo.db", "--name", "--storage"):
        assert word in str(caught.value)


@pytest.mark.parametrize(("part", "key"), [("data", "data"), ("weights", "model weights")])
def test_other_data_and_other_weights_are_named(part, key):
    with pytest.raises(FingerprintError, match=f"{key} was {part} 1, now {part} 2"):
        check(prints(), prints(**{part: f"{part} 2"}))


def test_all_differences_are_named_at_once():
    with pytest.raises(FingerprintError) as caught:
        check(prints(), prints("trial.epochs=9", "trial.evals=5", weights="weights 2"))
    for key in ("trial.epochs", "trial.evals", "model weights"):
        assert key in str(caught.value)


WHOLE = {
    "model files": {"config.json": "c1", "model.safetensors": "m1"},
    "processor files": {"tokenizer.json": "t1"},
    "images": "sha256 i1",
}


def with_whole(*assignments, **changes):
    study = load_study("rsicap", Options(scale="mini", assignments=(*BASE, *assignments)))
    whole = {key: value for key, value in (WHOLE | changes).items() if value is not None}
    return fingerprint(study, data_digest="data 1", weights_digest="weights 1", whole=whole)


def note(stored, ours, **former):
    return hold(stored, ours, name="night", where="sqlite:///hpo.db", former=former)


def refused(stored, ours, **former):
    with pytest.raises(FingerprintError) as caught:
        note(stored, ours, **former)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_same_contents_are_no_difference_and_need_no_word():
    assert note(with_whole(), with_whole()) == ""


def test_the_file_that_differs_is_named_with_both_digests():
    other = with_whole(**{"model files": {"config.json": "c1", "model.safetensors": "m2"}})
    text = refused(with_whole(), other)
    assert "model files model.safetensors was m1, now m2;" in text
    assert "config.json" not in text and "processor" not in text


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("processor files", {}, "processor files tokenizer.json was t1, now not set"),
        ("images", "sha256 i2", "images was sha256 i1, now sha256 i2"),
        ("images", None, "images was sha256 i1, now not set"),
        ("stages", ["a", "b"], "stages was not set, now ['a', 'b']"),
        ("labels", ["a", "b"], "labels was not set, now ['a', 'b']"),
    ],
)
def test_other_contents_are_refused(key, value, words):
    assert words in refused(with_whole(), with_whole(**{key: value}))


def test_a_study_of_before_goes_on_with_one_sentence_on_what_it_did_not_store():
    text = note(prints(), with_whole())
    assert "\n" not in text
    assert text.startswith("study night was made before model files, processor files and images")
    assert "could not be checked" in text and "labels" not in text
    assert "rotated, transparent and 16-bit images, and names of special tokens" in text


def test_a_study_of_before_is_still_refused_for_what_it_did_store():
    assert "weights 2" in refused(prints(weights="weights 2"), with_whole())


def test_labels_of_a_study_of_before_that_had_another_order_are_named():
    ours = with_whole(labels=["0", "2", "10"])
    assert "['0', '10', '2']" in note(prints(), ours, labels=["0", "10", "2"])
    assert "labels" not in note(prints(), ours, labels=["0", "2", "10"])


FORMER, ORDER = ["easy", "hard", "medium"], ["easy", "medium", "hard"]
GIVEN = 'data.stages=["easy", "hard", "medium"]'


def test_stages_of_a_study_of_before_that_had_another_order_are_refused_with_the_way_to_keep_it():
    text = refused(prints(), with_whole(stages=ORDER), stages=FORMER)
    assert f"--set '{GIVEN}'" in text
    assert "was ['easy', 'hard', 'medium'], now ['easy', 'medium', 'hard']" in text


def test_a_study_of_before_goes_on_where_its_order_of_stages_is_given():
    ours = with_whole(GIVEN, stages=FORMER)
    assert "could not be checked" in note(prints(), ours, stages=FORMER)
    assert note(ours, ours, stages=FORMER) == ""


def test_a_study_of_before_with_stages_in_the_order_of_today_goes_on():
    numbers = ["1", "2", "10"]
    assert "could not be" in note(prints(), with_whole(stages=numbers), stages=numbers)
    given = 'data.stages=["b", "a"]'
    ours = with_whole(given, stages=["b", "a"])
    assert "could not be" in note(prints(given), ours, stages=["a", "b"])
    drawn = with_whole(stages=ORDER)
    assert "could not be" in note(prints(), drawn), "drawn stages had this order from the start"


def test_a_study_of_before_with_other_stages_given_now_is_refused():
    ours = with_whole('data.stages=["easy", "hard"]', stages=["easy", "hard"])
    text = refused(prints(), ours, stages=FORMER)
    assert f"--set '{GIVEN}'" in text
    other = with_whole('data.stages=["a", "b"]', stages=["a", "b"])
    assert "data.stages was ['b', 'a']" in refused(
        prints('data.stages=["b", "a"]'), other, stages=["a", "b"]
    )
