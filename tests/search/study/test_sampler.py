"""TPE with its start-up gated on COMPLETE trials, seeded by trial number."""

import math
import statistics

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState

from hpo.search.study.sampler import GatedTPESampler, median_pruner

SPACE = {
    "x": FloatDistribution(1e-5, 1.0, log=True),
    "n": IntDistribution(4, 32, step=4),
    "kind": CategoricalDistribution(("a", "b", "c")),
}
STARTUP = 5


@pytest.fixture(autouse=True)
def quiet():
    """Optuna says nothing about trials."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)


def sampler(seed=0, startup=STARTUP, space=SPACE):
    return GatedTPESampler(space, seed=seed, startup_trials=startup)


def new_study(**settings):
    return optuna.create_study(sampler=sampler(**settings))


def suggested(trial):
    return {
        "x": trial.suggest_float("x", 1e-5, 1.0, log=True),
        "n": trial.suggest_int("n", 4, 32, step=4),
        "kind": trial.suggest_categorical("kind", ("a", "b", "c")),
    }


def search(study, trials, state=TrialState.COMPLETE):
    """Runs trials to their end; their parameters."""
    found = []
    for _ in range(trials):
        trial = study.ask()
        found.append(suggested(trial))
        value = abs(found[-1]["x"] - 0.01) if state == TrialState.COMPLETE else None
        study.tell(trial, value, state=state)
    return found


def joint_space(study):
    trial = study.ask()
    suggested(trial)
    frozen = study.trials[trial.number]
    return study.sampler.infer_relative_search_space(study, frozen)


@pytest.mark.parametrize("state", [TrialState.PRUNED, TrialState.FAIL])
def test_pruned_and_failed_trials_do_not_use_up_the_start_up(state):
    study = new_study()
    search(study, 4 * STARTUP, state)
    assert joint_space(study) == {}


def test_tpe_begins_after_so_many_complete_trials():
    study = new_study()
    search(study, STARTUP - 1)
    search(study, 3, TrialState.PRUNED)
    assert joint_space(study) == {}
    search(study, 1)
    assert joint_space(study) == SPACE


def test_without_a_start_up_tpe_begins_after_the_first_complete_trial():
    study = new_study(startup=0)
    assert joint_space(study) == {}
    search(study, 1)
    assert joint_space(study) == SPACE


def test_start_up_draws_do_not_depend_on_results_and_tpe_does():
    ours, theirs = new_study(), new_study()
    first = search(ours, STARTUP)
    again = []
    for _ in range(STARTUP):
        trial = theirs.ask()
        again.append(suggested(trial))
        theirs.tell(trial, -again[-1]["x"])
    assert again == first
    assert search(ours, 5) != search(theirs, 5)


def test_tpe_finds_better_parameters_than_the_start_up():
    first, last = [], []
    for seed in range(3):
        study, losses = new_study(seed=seed, startup=10), []
        for _ in range(40):
            trial = study.ask()
            params = suggested(trial)
            losses.append(abs(math.log10(params["x"]) + 2) + (params["kind"] != "b"))
            study.tell(trial, losses[-1])
        first += losses[:10]
        last += losses[-10:]
    assert statistics.mean(last) < 0.7 * statistics.mean(first)


def test_two_studies_alike_suggest_the_same():
    assert search(new_study(), 12) == search(new_study(), 12)


def test_another_seed_suggests_something_else():
    ours, theirs = search(new_study(seed=0), 8), search(new_study(seed=1), 8)
    assert all(a["x"] != b["x"] for a in ours for b in theirs)


@pytest.mark.parametrize("seed", [4294, 5000, 20_261_122, 2**32 - 1, 2**40])
def test_any_seed_will_do(seed):
    first = search(new_study(seed=seed), STARTUP + 2)
    assert first == search(new_study(seed=seed), STARTUP + 2)


@pytest.mark.parametrize("done", [3, 8])
def test_a_resumed_study_goes_on_instead_of_repeating_itself(tmp_path, done):
    def opened():
        return optuna.create_study(
            storage=f"sqlite:///{tmp_path}/s.db",
            study_name="s",
            load_if_exists=True,
            sampler=sampler(),
        )

    found = search(opened(), done) + search(opened(), 10 - done)
    assert found == search(new_study(), 10)
    assert len({params["x"] for params in found}) == 10


@pytest.mark.parametrize("done", [0, STARTUP])
def test_two_workers_on_one_seed_do_not_draw_the_same(tmp_path, done):
    url = f"sqlite:///{tmp_path}/s.db"
    ours = optuna.create_study(storage=url, study_name="s", sampler=sampler())
    search(ours, done)
    theirs = optuna.load_study(storage=url, study_name="s", sampler=sampler())
    drawn = [suggested(study.ask())["x"] for _ in range(4) for study in (ours, theirs)]
    assert len(set(drawn)) == 8


def test_parameters_of_one_trial_are_drawn_independently():
    space = {name: FloatDistribution(0.0, 1.0) for name in "abc"}
    trial = new_study(space=space).ask()
    assert len({trial.suggest_float(name, 0.0, 1.0) for name in "abc"}) == 3


def test_a_range_of_one_value_is_no_obstacle():
    space = {"x": FloatDistribution(0.0, 1.0), "n": IntDistribution(8, 8)}
    study = new_study(space=space, startup=1)
    for value in (2.0, 1.0, 0.5):
        trial = study.ask()
        trial.suggest_float("x", 0.0, 1.0)
        assert trial.suggest_int("n", 8, 8) == 8
        study.tell(trial, value)


def test_an_enqueued_configuration_comes_first_and_its_gaps_are_filled():
    study = new_study()
    search(study, STARTUP)
    study.enqueue_trial({"n": 12, "kind": "b"})
    (params,) = search(study, 1)
    assert (params["n"], params["kind"]) == (12, "b")
    assert 1e-5 <= params["x"] <= 1.0


def curve(study, values):
    """Reports values at 10, 20, ... samples; the step at which the trial was pruned, or None."""
    trial = study.ask()
    for step, value in zip((10, 20, 30), values, strict=True):
        trial.report(value, step)
        if trial.should_prune():
            study.tell(trial, state=TrialState.PRUNED)
            return step
    study.tell(trial, values[-1])
    return None


def pruning_study():
    pruner = median_pruner(startup_trials=2, min_trials=2, warmup_steps=11)
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
