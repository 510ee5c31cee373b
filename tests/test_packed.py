"""Several trials on one runner, and the death of that runner."""

import os
import signal
from itertools import pairwise

import pytest
from optuna.trial import TrialState

from hpo.search.database.tables import USAGE
from hpo.specs import Outcome
from tests.commands import LONGER, Running, assert_exact, kill, run, stored
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
