"""Several trials on one runner, and the death of that runner."""

import os
import signal
from itertools import pairwise

import pytest
from optuna.trial import TrialState

from hpo.search.database.tables import USAGE
from hpo.specs import Outcome
from tests.commands import LONGER, Running, assert_exact, assert_whole, kill, run, stored
from tests.test_night import rows

PACK = ("--runners", "1", "--pack", "3")
SETTINGS = (*LONGER, "pruner.startup_trials=100")


def crash(pid):
    os.kill(pid, signal.SIGSEGV)


def hang(pid):
    os.kill(pid, signal.SIGSTOP)


@pytest.mark.parametrize(
    "end, alone, outcome",
    [(crash, True, Outcome.LOST), (kill, False, Outcome.LOST), (hang, True, Outcome.HUNG)],
)
def test_nobody_is_blamed_when_a_runner_dies_under_several_trials(tmp_path, end, alone, outcome):
    impatient = (*SETTINGS, "limits.hang_seconds=5")
    running = Running(tmp_path, *PACK, "--trials", "5", settings=impatient)
    running.wait_for("trial_evaluated", count=3)
    end(running.runners()[0])
    assert running.finish() == 0
    trials = stored(f"sqlite:///{tmp_path}/hpo.db")
    assert_exact(trials, 5)
    lost = [t for t in trials if t.user_attrs["outcome"] == outcome]
    assert len(lost) == 3
    assert all("under it and 2 more" in t.user_attrs["reason"] for t in lost) == alone
    again = [t for t in trials if t.user_attrs.get("retry_of") in {one.number for one in lost}]
    assert len(again) == 3 and all(t.state == TrialState.COMPLETE for t in again)
    assert all(t.user_attrs["alone"] == alone for t in again)
    spans = sorted((t.datetime_start, t.datetime_complete) for t in again)
    ends_before = [first[1] <= second[0] for first, second in pairwise(spans)]
    assert all(ends_before) == alone


def test_as_many_at_a_time_as_are_worth_it_finish_the_exact_total(tmp_path):
    output = run(tmp_path, "--runners", "2", "--pack", "auto", "--trials", "7")
    assert "trials packed where that is faster" in output
    assert_exact(stored(f"sqlite:///{tmp_path}/hpo.db"), 7)


def test_trials_of_a_pack_share_the_time_of_their_device(tmp_path):
    running = Running(tmp_path, *PACK, "--trials", "6", settings=SETTINGS)
    assert running.finish() == 0
    url = f"sqlite:///{tmp_path}/hpo.db"
    trials = stored(url)
    began = min(t.datetime_start for t in trials)
    passed = (max(t.datetime_complete for t in trials) - began).total_seconds()
    used = sum(row.device_seconds for row in rows(url, USAGE))
    together = sum((t.datetime_complete - t.datetime_start).total_seconds() for t in trials)
    assert together > 1.5 * passed, "they were trained side by side"
    assert 0.5 * passed < sum(t.user_attrs["seconds"] for t in trials) <= passed
    assert 0.5 * passed < used <= passed


def test_a_packed_study_finds_what_one_at_a_time_finds(tmp_path):
    known = (
        "known=[" + ", ".join(f"{{learning_rate={r}, batch_size=4}}" for r in (2e-4, 5e-5)) + "]"
    )
    settings = (*SETTINGS, known, "space.lora_dropout=0.1", "space.lora_r=8", "space.lora_alpha=16")
    values = {}
    for pack in ("1", "2"):
        folder = tmp_path / pack
        folder.mkdir()
        options = ("--trials", "2", "--runners", "1", "--pack", pack, "--seed", "5")
        run(folder, *options, settings=(*settings, "space.scheduler=cosine"))
        values[pack] = [t.value for t in stored(f"sqlite:///{folder}/hpo.db")]
    assert values["1"] == pytest.approx(values["2"], abs=1e-5)


LONG = "batch_size = 4, learning_rate = 1e-4"
SHORT = "batch_size = 16, learning_rate = 2e-4"
UNEVEN = (
    "data.samples=200",
    "trial.epochs=3",
    "trial.evals=3",
    "pruner.startup_trials=100",
    f"known=[{{{LONG}}}, {{{SHORT}}}, {{{LONG}, lora_r = 4}}, {{{SHORT}, lora_r = 4}}]",
)
ROOM_FOR_ALL = ("--runners", "2", "--pack", "4", "--trials", "4")
"""Whoever is ready first gets all four, or each two of a kind: one has nothing left before."""


def moved(events):
    """Trials that went on in another runner of their driver."""
    texts = [e["text"] for e in events if e["event"] == "note"]
    return [int(t.split()[1]) for t in texts if "goes on from" in t and "in runner" in t]


def test_a_runner_that_has_none_left_takes_some_of_another_over(tmp_path):
    both = Running(tmp_path, *ROOM_FOR_ALL, settings=UNEVEN)
    assert both.finish() == 0
    url = f"sqlite:///{tmp_path}/hpo.db"
    trials = stored(url)
    assert moved(both.events)
    assert_exact(trials, 4)
    assert len(trials) == 4, "in the database nothing shows of it"
    assert_whole(tmp_path / "runs", trials)
    assert all(t.user_attrs["resumed_at_samples"] == 0 for t in trials)
    told = [e for e in both.events if e["event"] == "trial_evaluated"]
    assert len(told) == 4 * 3, "a point is said once"
    used = sum(row.device_seconds for row in rows(url, USAGE))
    assert sum(t.user_attrs["seconds"] for t in trials) == pytest.approx(used, rel=0.3)
    one = tmp_path / "one"
    one.mkdir()
    run(one, "--runners", "1", "--pack", "1", "--trials", "4", settings=UNEVEN)
    alone = [t.value for t in stored(f"sqlite:///{one}/hpo.db")]
    assert [t.value for t in trials] == pytest.approx(alone, abs=1e-5)


def test_a_trial_whose_new_runner_dies_goes_on_from_where_it_came_over(tmp_path):
    both = Running(tmp_path, *ROOM_FOR_ALL, settings=UNEVEN)
    while not moved(both.events):
        both.wait_for("note", sum(e["event"] == "note" for e in both.events) + 1)
    number = moved(both.events)[0]
    began = next(e for e in both.events if e["event"] == "trial_started" and e["number"] == number)
    kill(both.runners()[1 - began["runner"]])
    assert both.finish() == 0
    trials = stored(f"sqlite:///{tmp_path}/hpo.db")
    assert_exact(trials, 4)
    assert trials[number].user_attrs["outcome"] == Outcome.LOST
    (again,) = [t for t in trials if t.user_attrs.get("retry_of") == number]
    assert again.user_attrs["resumed_at_samples"] > 0
    assert_whole(tmp_path / "runs", trials)
