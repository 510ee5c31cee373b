"""Curves that show what is wrong, sound ones, and those of real runs."""

import json
import math

import pytest
from optuna.trial import TrialState

from hpo.screen.text import summary_lines
from hpo.search.ledger.diagnosis import DIAGNOSIS, REMEDIES, Kind, diagnose
from hpo.search.ledger.summary import summarise
from hpo.specs import Outcome
from tests.search.steps import ending, point, trial, with_search

SOUND = [1.60, 1.50, 1.46, 1.44, 1.43, 1.43]
OVERFIT = [1.60, 1.50, 1.45, 1.47, 1.50, 1.55]
SWINGING = [1.60, 1.45, 1.58, 1.44, 1.57, 1.43]
SLOW = [1.74, 1.70, 1.66, 1.62, 1.58, 1.54]
DIVERGED = [1.60, 2.00, 1.86, 1.85, 1.86, 1.84]
SPIKED = [0.347, 0.359, 0.926, 0.322, 0.313, 0.311, 0.305]


def curve(losses):
    """Points of a curve, eight samples apart."""
    return [(8 * number, loss) for number, loss in enumerate(losses, 1)]


def kind(losses, best=None):
    """What is wrong with a curve."""
    found = diagnose(curve(losses), best)
    return found and found.kind


@pytest.mark.parametrize(
    ("losses", "expected"),
    [
        (SOUND, None),
        (OVERFIT, Kind.OVERFITTING),
        (SWINGING, Kind.OSCILLATING),
        (SPIKED, Kind.OSCILLATING),
        (SLOW, Kind.TOO_SLOW),
        (DIVERGED, Kind.DIVERGED),
        ([1.6, 1.5, math.nan], Kind.DIVERGED),
        ([math.inf], Kind.DIVERGED),
        ([1.59, 1.59, 1.589, 1.589], Kind.TOO_SLOW),
        ([1.45, 1.45, 1.45, 1.46, 1.47], Kind.OVERFITTING),
    ],
)
def test_a_curve_shows_what_is_wrong(losses, expected):
    assert kind(losses, best=1.40 if losses is not SPIKED else 0.24) == expected


@pytest.mark.parametrize("losses", [[], [1.5], [1.5, 9.0], [1.7, 1.5], [0.0, 0.0, 0.0]])
def test_of_a_curve_without_a_shape_nothing_is_said(losses):
    assert kind(losses, best=0.0) is None


@pytest.mark.parametrize("losses", [SOUND, SLOW, OVERFIT, SWINGING, DIVERGED])
def test_the_unit_of_the_loss_does_not_matter(losses):
    assert kind([1000 * loss for loss in losses], 1300) == kind(losses, 1.3)


@pytest.mark.parametrize(
    "losses",
    [
        [1.366, 0.775, 0.415, 0.352, 0.315, 0.288, 0.291, 0.273, 0.266, 0.264, 0.253, 0.259],
        [0.436, 0.359, 0.319, 0.306, 0.333, 0.295, 0.305, 0.271, 0.270, 0.256, 0.257, 0.257],
        [0.436, 0.311, 0.306, 0.306, 0.303, 0.304, 0.303, 0.302, 0.301, 0.299, 0.298, 0.300],
        [1.400, 1.410, 1.396, 1.408, 1.395, 1.405, 1.397, 1.404],
    ],
)
def test_chance_is_no_finding(losses):
    assert kind(losses, best=0.97 * min(losses)) is None


def test_whoever_levels_off_or_is_near_the_best_is_not_too_slow():
    assert kind(SLOW, best=None) is None
    assert kind(SLOW, best=1.50) is None
    assert kind([1.74, 1.60, 1.55, 1.545, 1.543, 1.542], best=1.30) is None


def test_a_diagnosis_is_a_sentence_with_figures_and_what_to_try():
    found = str(diagnose(curve(OVERFIT)))
    assert found == (
        "overfitting: val loss rose from 1.4500 at 24 samples to 1.5500 (+6.9%); try a lower "
        "learning rate, fewer epochs, more dropout or a lower rank"
    )
    slow = str(diagnose(curve(SLOW), 1.30))
    assert "still fell after 32 samples, from 1.6200 to 1.5400" in slow
    assert "the best trial had 1.3000" in slow and "a higher learning rate" in slow
    assert set(REMEDIES) == set(Kind)


REAL = {
    "grid_v1_large_batch_high_lr_SKIPPED": Kind.OVERFITTING,  # lr 8e-4
    "grid_v3_ultra_batch_conservative_SKIPPED": Kind.TOO_SLOW,  # four epochs
    "grid_v5_memory_optimized": Kind.DIVERGED,  # lr 8e-4 with batch 6 and rank 16
    "grid_v6_exp1_r16_a64_d05_cosine_augmented": Kind.TOO_SLOW,  # lr 1e-4, cosine
    "grid_v6_exp4_r24_a48_d05_cosine_augmented": Kind.TOO_SLOW,  # lr 1e-4, cosine
    "lora_r8_alpha16": Kind.TOO_SLOW,  # six epochs of 200 samples
}


def test_real_runs_are_diagnosed_as_whoever_ran_them_did(shared):
    """17 runs on RSICap; what is not named above is sound."""
    runs = json.loads((shared / "rsicap_runs" / "runs.json").read_text())
    found = {}
    for augmented in (False, True):  # two data sets
        curves = {
            run["run"]: {epoch["epoch"]: epoch["val_loss"] for epoch in run["epochs"]}
            for run in runs
            if run["augmented"] == augmented
        }
        for name, losses in curves.items():
            others = [other for key, other in curves.items() if key != name]
            best = min(min(other.values()) for other in others)  # of the whole study
            diagnosis = diagnose(list(losses.items()), best)
            found[name] = diagnosis and diagnosis.kind
    assert len(found) == 17
    assert {name: kind for name, kind in found.items() if kind} == REAL


@pytest.mark.parametrize(
    ("points", "expected"),
    [
        ([(1, 1.63), (2, 1.57), (3, 1.60)], Kind.OVERFITTING),  # lr 1e-3, rank 16
        ([(1, 1.74), (2, 1.61), (10, 1.50)], Kind.TOO_SLOW),  # lr 5e-6, rank 8
    ],
)
def test_runs_that_were_written_down_by_hand_too(points, expected):
    assert diagnose(points, 1.2727).kind == expected


@pytest.fixture
def ledger(sqlite_url, spec, worker):
    """A ledger of a study with room for all trials of a test."""
    return worker(with_search(spec, trials=9), sqlite_url)


def train(ledger, losses, outcome=Outcome.COMPLETE):
    """Trains a trial along a curve; its frozen self."""
    asked = ledger.ask()
    for samples, loss in curve(losses):
        ledger.report(asked, point(samples, loss), replayed=True)
    ledger.finish(asked, ending(outcome), curve=dict(curve(losses)))
    return trial(ledger, asked.number)


def test_the_diagnosis_is_an_attribute_of_the_trials_that_count(ledger):
    assert DIAGNOSIS not in train(ledger, SOUND).user_attrs
    slow = train(ledger, SLOW, Outcome.PRUNED)
    assert slow.user_attrs[DIAGNOSIS].startswith("too slow: ")
    assert "the best trial had 1.4300" in slow.user_attrs[DIAGNOSIS]
    assert train(ledger, OVERFIT).user_attrs[DIAGNOSIS] == str(diagnose(curve(OVERFIT)))
    for outcome in (Outcome.PREEMPTED, Outcome.LOST):
        handed_back = train(ledger, OVERFIT, outcome)
        assert handed_back.state == TrialState.FAIL and DIAGNOSIS not in handed_back.user_attrs


def test_a_pruned_trial_is_not_held_against_what_others_reached_later(ledger):
    train(ledger, [1.74, 1.70, 1.66, 1.3, 1.2, 1.1])
    assert DIAGNOSIS not in train(ledger, [1.75, 1.70, 1.66], Outcome.PRUNED).user_attrs


def lines(ledger):
    """The closing lines."""
    usage = ledger.leases.usage()
    found = summarise(ledger.study, ledger._spec, usage, total=9, folder="runs/x")
    return summary_lines(found, [], "done")


def test_the_closing_lines_count_diagnoses_and_name_that_of_the_best(ledger):
    train(ledger, SOUND)
    assert not any("curves:" in line or "its curve" in line for line in lines(ledger))
    for losses in (SLOW, [loss + 0.01 for loss in SLOW], DIVERGED):
        train(ledger, losses)
    shown = lines(ledger)
    counted = "curves: 2 too slow, 1 diverged; each trial's attribute `diagnosis` says what to try"
    assert counted in shown and not any("its curve" in line for line in shown)


def test_the_best_trial_may_have_a_diagnosis_itself(ledger):
    train(ledger, OVERFIT)
    assert f"  its curve: {diagnose(curve(OVERFIT))}" in lines(ledger)
