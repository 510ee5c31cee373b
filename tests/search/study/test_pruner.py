"""The pruner decides as Optuna's does, whatever the curves."""

import math
import random

import optuna
import pytest
from optuna.trial import TrialState, create_trial

from hpo.search.study.pruner import MedianPruner

STEPS = (10, 20, 30)


@pytest.fixture(autouse=True)
def quiet():
    """Optuna says nothing about trials."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)


def curve(study, values):
    """Reports values at 10, 20, ... samples; the step at which the trial was pruned, or None."""
    trial = study.ask()
    for step, value in zip(STEPS, values, strict=True):
        trial.report(value, step)
        if trial.should_prune():
            study.tell(trial, state=TrialState.PRUNED)
            return step
    study.tell(trial, values[-1])
    return None


def pruning_study():
    pruner = MedianPruner(startup_trials=2, min_trials=2, warmup_steps=11)
    return optuna.create_study(pruner=pruner)


def test_a_trial_above_the_median_is_pruned_after_the_warm_up():
    study = pruning_study()
    assert [curve(study, (3.0, 2.0, 1.0)) for _ in range(2)] == [None, None]
    assert curve(study, (9.0, 9.0, 9.0)) == 20
    assert curve(study, (1.0, 1.0, 0.5)) is None


def test_nothing_is_pruned_before_enough_trials_are_complete():
    study = pruning_study()
    assert curve(study, (3.0, 2.0, 1.0)) is None
    assert curve(study, (9.0, 9.0, 9.0)) is None


def running(study, values):
    """A trial that goes on after these values, at 10, 20, ... samples; whether it is to stop."""
    trial = study.ask()
    for step, value in zip(STEPS, values, strict=False):
        trial.report(value, step)
    return trial.should_prune()


def test_trials_that_run_count_where_they_are_while_too_few_are_complete():
    study = pruning_study()
    assert not running(study, (1.0, 1.0))
    assert not running(study, (9.0, 9.0))  # one other has got as far, of two that there must be
    assert not running(study, (9.0,))  # the warm-up
    assert running(study, (9.0, 6.0))
    assert not running(study, (9.0, 5.0))
    assert curve(study, (5.0, 5.5, 1.0)) is None


def test_trials_that_run_do_not_count_once_enough_are_complete():
    study = pruning_study()
    assert [curve(study, (3.0, 2.0, 1.0)) for _ in range(2)] == [None, None]
    for _ in range(5):
        assert running(study, (9.0, 9.0))
    assert running(study, (9.0, 2.5))


@pytest.mark.parametrize("complete", [1, 2])
@pytest.mark.filterwarnings("ignore:All-NaN:RuntimeWarning")
def test_what_is_only_nan_is_pruned_as_by_optuna_whatever_others_have_at_its_step(complete):
    study = pruning_study()
    for _ in range(complete):
        study.add_trial(create_trial(value=1.0, intermediate_values={30: 1.0}))
    trial = create_trial(state=TrialState.RUNNING, intermediate_values={20: math.nan})
    theirs = optuna.pruners.MedianPruner(2, 11, n_min_trials=2)
    assert study.pruner.prune(study, trial) == theirs.prune(study, trial) == (complete == 2)


def test_pruned_trials_never_count():
    study = pruning_study()
    for _ in range(3):
        study.add_trial(create_trial(state=TrialState.PRUNED, intermediate_values={20: 1.0}))
    assert not running(study, (9.0, 9.0))
    assert not running(study, (9.0, 9.5))


def drawn(draw):
    """A curve of some steps, in any order, with ties and NaN; what is reported is not infinite."""
    steps = draw.sample(STEPS, draw.randint(0, len(STEPS)))
    return {s: math.nan if draw.random() < 0.05 else draw.random() for s in steps} | {
        s: float(draw.randint(0, 3)) for s in steps if draw.random() < 0.3
    }


@pytest.mark.parametrize("direction", ["minimize", "maximize"])
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.filterwarnings("ignore:All-NaN:RuntimeWarning")
def test_it_decides_as_optunas_median_pruner_on_random_curves(direction, seed):
    draw, study = random.Random(seed), optuna.create_study(direction=direction)
    settings = {"startup": draw.randint(0, 6), "warmup": draw.choice((0, 11, 20))}
    ours = MedianPruner(
        startup_trials=settings["startup"], min_trials=3, warmup_steps=settings["warmup"]
    )
    theirs = optuna.pruners.MedianPruner(settings["startup"], settings["warmup"], n_min_trials=3)
    decisions = []
    for _ in range(120):
        trial = create_trial(state=TrialState.RUNNING, intermediate_values=drawn(draw))
        decisions.append(ours.prune(study, trial))
        assert decisions[-1] == theirs.prune(study, trial)
        state = draw.choice((TrialState.COMPLETE, TrialState.COMPLETE, TrialState.PRUNED))
        value = 1.0 if state == TrialState.COMPLETE else None
        done = create_trial(state=state, value=value, intermediate_values=drawn(draw))
        study.add_trial(done)
    assert set(decisions) == {False, True}


@pytest.mark.parametrize("count", [2, 3, 40, 41])
def test_the_boundary_is_where_optuna_has_it(count):
    """To the last bit: a trial at the median goes on, one above it does not."""
    draw, study = random.Random(count), optuna.create_study()
    for _ in range(count):
        values = {10: draw.random()}
        study.add_trial(create_trial(value=1.0, intermediate_values=values))
    ours = MedianPruner(startup_trials=0, min_trials=1, warmup_steps=0)
    theirs = optuna.pruners.MedianPruner(0, 0, n_min_trials=1)
    bounds = sorted(t.intermediate_values[10] for t in study.trials)[(count - 1) // 2 :][:2]
    middle = sum(bounds) / 2 if count % 2 == 0 else bounds[0]
    decisions = []
    for ulps in range(-3, 4):
        value = middle + ulps * 2.0**-53
        trial = create_trial(state=TrialState.RUNNING, intermediate_values={10: value})
        decisions.append(ours.prune(study, trial))
        assert decisions[-1] == theirs.prune(study, trial)
    assert set(decisions) == {False, True}
