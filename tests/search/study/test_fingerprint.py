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
