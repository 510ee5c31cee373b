"""What trials show of the memory is stored, and told to runners on devices like theirs."""

import pytest

from hpo.protocol import Finished
from hpo.search.ledger.endings import Ending, of_finished
from hpo.specs import Demand, Fault, Observation, Outcome, TrialStats
from tests.search.steps import finish, run, trial

SEEN = Observation(
    demand=Demand(activation_bytes=600, trainable=64),
    base_bytes=10,
    capacity_bytes=1000,
    fitted=False,
)
FORESEEN = Fault(
    outcome=Outcome.OOM,
    reason="foreseen and not tried",
    needed_bytes=2000,
    capacity_bytes=1000,
    predicted=True,
)


@pytest.fixture
def ledger(sqlite_url, spec, worker):
    """A ledger on a SQLite file."""
    return worker(spec, sqlite_url)


def on(device, ledger, seen):
    """A trial that ended on this device, and what it showed; its number."""
    asked = ledger.ask()
    stored = Ending(outcome=Outcome.OOM, reason="because", observation=seen)
    ledger.finish(asked, stored, environment={"device": device})
    return asked.number


def test_observations_of_the_same_device_are_told_once(ledger):
    fits = SEEN.model_copy(update={"fitted": True, "peak_bytes": 900})
    first, _ = on("H200", ledger, SEEN), on("A40", ledger, SEEN)
    finish(ledger, ledger.ask())
    last = on("H200", ledger, fits)
    assert ledger.observations("H200", besides=()) == {first: SEEN, last: fits}
    assert ledger.observations("H200", besides={first}) == {last: fits}
    assert ledger.observations("CPU", besides=()) == {}


def test_a_runner_says_what_a_trial_has_shown(ledger):
    said = Finished(number=0, stats=TrialStats(), observation=SEEN)
    asked = ledger.ask()
    ending = of_finished(said, None, best=("val loss", 1.5), capacity_bytes=1000)
    ledger.finish(asked, ending, environment={"device": "H200"})
    assert ledger.observations("H200", besides=()) == {0: SEEN}


def test_a_foreseen_oom_is_an_oom_that_says_so(ledger):
    ended = run(ledger, Outcome.OOM, fault=FORESEEN)
    assert ended.user_attrs["predicted"] is True and ended.user_attrs["outcome"] == "oom"
    assert ended.constraints == {"memory": 1.0} and ended.user_attrs["constraint_memory"] == 1.0
    assert "oom_step" not in ended.user_attrs
    tried = FORESEEN.model_copy(update={"predicted": False, "step": 1})
    assert "predicted" not in run(ledger, Outcome.OOM, fault=tried).user_attrs
    assert trial(ledger, 1).user_attrs["oom_step"] == 1
