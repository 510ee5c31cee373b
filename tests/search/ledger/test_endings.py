"""What is written down of every kind of death, fault and end."""

import pytest

from hpo.protocol import Finished
from hpo.search.ledger.endings import Ending, of_death, of_finished
from hpo.search.runners.process import Death
from hpo.specs import Fault, Outcome, TrialStats

GIB = 1 << 30
STATS = TrialStats(seconds=2.5, samples_per_s=12.8, peak_memory_bytes=GIB, steps=4)
OOM = Fault(
    outcome=Outcome.OOM,
    reason="out of memory",
    where="backward",
    needed_bytes=4 * GIB,
    capacity_bytes=2 * GIB,
)
NOTHING = {"by_kernel": False, "by_signal": False, "hung": False, "out_of_memory": False}
KERNEL = {"by_kernel": True, "by_signal": True}


def death(**known):
    return Death(how="SIGKILL", log="the last words", **(NOTHING | known))


@pytest.mark.parametrize(
    ("known", "before", "outcome"),
    [
        ({}, False, Outcome.CRASHED),
        ({"by_signal": True}, False, Outcome.LOST),
        ({"by_signal": True}, True, Outcome.LOST),
        ({"hung": True, "by_signal": True}, False, Outcome.HUNG),
        ({"hung": True}, False, Outcome.HUNG),
        (KERNEL, False, Outcome.KILLED),
        (KERNEL, True, Outcome.OOM),
        ({"out_of_memory": True}, False, Outcome.OOM),
        ({"out_of_memory": True} | KERNEL, False, Outcome.OOM),
    ],
)
def test_a_death_is_told_apart_by_its_cause(known, before, outcome):
    ending = of_death(death(**known), killed_before=before)
    assert ending.outcome == outcome
    assert "SIGKILL" in ending.reason


@pytest.mark.parametrize(
    ("known", "alone"),
    [
        ({}, True),
        ({"by_signal": True}, False),
        ({"hung": True, "by_signal": True}, True),
        (KERNEL, True),
        ({"out_of_memory": True}, True),
    ],
)
def test_a_death_under_several_trials_blames_none_of_them(known, alone):
    for before in (False, True):
        ending = of_death(death(**known), killed_before=before, beside=2)
        hung = Outcome.HUNG if known.get("hung") else Outcome.LOST
        assert (ending.outcome, ending.retry_alone) == (hung, alone)


def test_an_oom_beside_others_is_tried_again_alone():
    fault = Fault(outcome=Outcome.OOM, reason="out of memory at step 3")
    beside = of_finished(
        finished(fault=fault, shared=True), None, best=("val loss", 1.0), capacity_bytes=None
    )
    assert (beside.outcome, beside.retry_alone) == (Outcome.PREEMPTED, True)
    alone = of_finished(finished(fault=fault), None, best=("val loss", 1.0), capacity_bytes=None)
    assert (alone.outcome, alone.retry_alone) == (Outcome.OOM, False)


def test_a_crash_keeps_the_last_words():
    crashed = of_death(death(), killed_before=False)
    assert crashed.attributes()["traceback"] == "the last words"
    lost = of_death(death(by_signal=True), killed_before=False)
    assert "traceback" not in lost.attributes()


def test_a_process_out_of_memory_is_not_feasible():
    ending = of_death(death(out_of_memory=True), killed_before=False)
    assert ending.violation() > 0
    assert ending.attributes()["oom_where"] == "the whole process"


def finished(**more):
    return Finished(number=0, stats=STATS, **more)


def test_a_trial_at_its_end_is_complete_with_its_best_val_loss():
    ending = of_finished(finished(), None, best=("val loss", 1.5), capacity_bytes=2 * GIB)
    assert (ending.outcome, ending.value) == (Outcome.COMPLETE, 1.5)
    assert ending.violation() == -1.0
    assert ending.attributes() == {
        "outcome": "complete",
        "reason": "best val loss 1.5000",
        **STATS.model_dump(),
    }


@pytest.mark.parametrize(
    "outcome", [Outcome.OOM, Outcome.NAN, Outcome.DATA_ERROR, Outcome.DISK_FULL]
)
def test_a_fault_is_what_the_runner_says(outcome):
    fault = Fault(outcome=outcome, reason="because", step=2, where="here", traceback="File x")
    ending = of_finished(finished(fault=fault), None, best=("val loss", 1.5), capacity_bytes=None)
    assert (ending.outcome, ending.reason, ending.value) == (outcome, "because", None)
    found = ending.attributes()
    assert (found[f"{outcome}_step"], found[f"{outcome}_where"]) == (2, "here")
    assert found["traceback"] == "File x"


def test_what_the_driver_had_decided_stands():
    decided = Ending(outcome=Outcome.PRUNED, reason="above the median", details={"pruner": "m"})
    for event in (finished(stopped=True), finished(fault=OOM), finished()):
        ending = of_finished(event, decided, best=("val loss", 1.5), capacity_bytes=None)
        assert (ending.outcome, ending.value) == (Outcome.PRUNED, None)
        assert ending.attributes()["pruner"] == "m"
        assert ending.attributes()["seconds"] == 2.5


@pytest.mark.parametrize(
    "fault",
    [
        None,
        OOM.model_copy(update={"needed_bytes": None}),
        OOM.model_copy(update={"capacity_bytes": None}),
        OOM.model_copy(update={"needed_bytes": GIB}),
        OOM.model_copy(update={"needed_bytes": 2 * GIB + 1}),
    ],
)
def test_an_out_of_memory_is_never_feasible(fault):
    assert Ending(outcome=Outcome.OOM, reason="", fault=fault).violation() > 0


def test_more_memory_missing_is_a_larger_violation():
    faults = [OOM.model_copy(update={"needed_bytes": n * GIB}) for n in (3, 5, 9)]
    found = [Ending(outcome=Outcome.OOM, reason="", fault=f).violation() for f in faults]
    assert found == sorted(set(found))
    assert len(found) == 3


@pytest.mark.parametrize("capacity", [None, GIB // 2, GIB, 8 * GIB])
@pytest.mark.parametrize("outcome", [Outcome.COMPLETE, Outcome.PRUNED, Outcome.NAN])
def test_a_trial_that_fits_is_feasible(outcome, capacity):
    ending = Ending(outcome=outcome, reason="", stats=STATS, capacity_bytes=capacity)
    assert ending.violation() <= 0
