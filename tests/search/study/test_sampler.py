"""TPE with its start-up gated on COMPLETE trials, seeded by trial number."""

import math
import random
import statistics

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import TPESampler
from optuna.trial import TrialState, create_trial

from hpo.search.study.sampler import GatedTPESampler, _seed

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


MANY_GOOD = ("good", "good", "pruned", "memory", "failed", "partial")
FEW_GOOD = ("pruned", "memory", "memory", "failed")


def mixed(draw, kinds):
    """A trial that has ended in one of the ways that TPE tells apart."""
    params = {"x": 10 ** draw.uniform(-5, 0), "n": draw.choice(range(4, 33, 4)), "kind": "a"}
    kind = draw.choice(kinds)
    if kind == "partial":
        del params["n"]
    reports = {10 * n: draw.choice((draw.random(), math.nan)) for n in range(draw.randrange(4))}
    state = {"pruned": TrialState.PRUNED, "memory": TrialState.PRUNED, "failed": TrialState.FAIL}
    state = state.get(kind, TrialState.COMPLETE)
    return create_trial(
        state=state,
        value=draw.random() if state == TrialState.COMPLETE else None,
        params=params,
        distributions={name: SPACE[name] for name in params},
        intermediate_values=reports if kind == "pruned" else {},
        constraints={"memory": draw.random() if kind == "memory" else 0.0},
    )


@pytest.mark.parametrize("kinds", [MANY_GOOD, FEW_GOOD, ("memory",)])
@pytest.mark.parametrize("direction", ["minimize", "maximize"])
def test_what_is_drawn_is_what_optunas_own_sampler_draws(direction, kinds):
    """Whatever is kept between fits, to the last bit."""
    draw = random.Random(0)
    study = optuna.create_study(sampler=sampler(startup=1), direction=direction)
    study.add_trials([mixed(draw, ["good"]), *(mixed(draw, kinds) for _ in range(60))])
    for _ in range(15):
        trial = study.ask()  # and goes on RUNNING
        seed = _seed(0, trial.number)
        stock = TPESampler(n_startup_trials=0, multivariate=True, constant_liar=True, seed=seed)
        theirs = stock.sample_relative(study, study.trials[trial.number], SPACE)
        assert suggested(trial) == theirs
        study.add_trial(mixed(draw, kinds))
