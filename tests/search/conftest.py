"""Studies, ledgers and workers for the tests of the Optuna side."""

import time

import pytest

from hpo.search.database.leases import Leases
from hpo.search.ledger.ledger import Ledger
from hpo.search.opening import open_study
from hpo.search.study.fingerprint import fingerprint

SAMPLES = 32  # that a trial of the small study sees


class Clock:
    """A clock that stands still until it is set forward."""

    def __init__(self):
        self.now = time.time()

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    """A clock that stands still until it is set forward."""
    return Clock()


@pytest.fixture
def spec(mini_study):
    """A small study of six trials without known configurations."""
    search = mini_study.search.model_copy(update={"trials": 6, "startup_trials": 2})
    return mini_study.model_copy(update={"search": search, "known": ()})


@pytest.fixture
def worker(clock):
    """Opens a study as a worker of that name; all share one clock, unless given another."""
    opened = []

    def open_ledger(spec, url, name="here:1", clock=clock):
        prints = fingerprint(spec, data_digest="d", weights_digest="w")
        study, leases = open_study(spec, url, prints, samples=SAMPLES)
        opened.append(leases._engine)
        storage, lease_s = study._storage._backend, spec.limits.hang_seconds
        leases = Leases(storage, study, lease_s=lease_s, clock=clock, monotonic=clock)
        leases.worker = name
        return Ledger(study, spec, leases)

    yield open_ledger
    for engine in opened:
        engine.dispose()
