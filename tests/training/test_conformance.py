"""What every task must do, each held to the same: PEFT and transformers are the oracles."""

import pytest
import torch
from peft import PeftModel

from hpo.specs import Outcome
from hpo.training.pack import Pack
from hpo.training.trial.trial import new_adapter
from tests.training import oracle
from tests.training.conftest import Ear, attempt, attempts, make_bench
from tests.training.oracle import SUBJECTS, TOO_LARGE
from tests.training.runners import Runner

WHOLE = ("data.samples=200", "limits.predict_oom=false", "trial.max_micro_batch=500")
MIXED = (
    {"lora_dropout": 0.2, "batch_size": 4},
    {"lora_dropout": 0.1, "batch_size": 7, "lora_alpha": 32.0, "scheduler": "linear"},
    {"batch_size": 8, "lora_r": 8, "learning_rate": 1e-3},
)


@pytest.fixture(
    scope="module",
    params=[pytest.param(name, marks=pytest.mark.xdist_group(name)) for name in SUBJECTS],
)
def subject(request):
    return SUBJECTS[request.param]


@pytest.fixture(scope="module")
def bench(subject):
    return make_bench(*subject.settings, study=subject.study)[0]


def same(ours, theirs):
    """The same losses and measures, but for rounding."""
    assert len(ours.losses) == len(theirs.losses) > 0
    torch.testing.assert_close(ours.losses, theirs.losses, rtol=0, atol=1e-5)
    for mine, other in zip(ours.points, theirs.points, strict=True):
        assert mine.val_loss == pytest.approx(other.val_loss, abs=1e-5)
        assert mine.metrics == pytest.approx(other.metrics, abs=1e-5)


def test_training_losses_are_those_of_peft_at_every_step(subject, bench, order):
    trial, heard = order(batch_size=8, learning_rate=1e-3, **subject.changes), Ear()
    expected = oracle.train(subject, bench, trial, new_adapter(bench, trial))
    assert attempt(bench, trial, heard.listener).fault is None
    assert len(heard.losses) == len(expected) >= 4
    torch.testing.assert_close(heard.losses, expected, rtol=0, atol=1e-5)


def test_peft_reads_the_exported_adapter_and_finds_the_same_loss(subject, bench, order):
    trial, heard = order(learning_rate=2e-3, batch_size=8, **subject.changes), Ear()
    assert attempt(bench, trial, heard.listener).fault is None
    objective = bench.study.objective
    best = objective.best(objective.of(point) for point in heard.points)
    kept = next(point for point in heard.points if objective.of(point) == best)
    model = PeftModel.from_pretrained(subject.stock(bench), f"{trial.folder}/adapter").eval()
    assert oracle.val_loss(subject, model, bench) == pytest.approx(kept.val_loss, abs=1e-4)


def test_packed_equals_alone_whatever_is_beside_it(subject, bench, order):
    orders = [order(number, **changes) for number, changes in enumerate(MIXED)]
    alone = [heard for one in orders for heard in attempts(bench, [one])]
    again = [order(n + 10, seed_number=n, **changes) for n, changes in enumerate(MIXED)]
    for ours, theirs in zip(attempts(bench, again), alone, strict=True):
        same(ours, theirs)


def test_cached_equals_uncached(subject, order):
    settings = (*subject.settings, *subject.cached)
    cached, known = make_bench(*settings, study=subject.study)
    plain, anew = make_bench(*settings, "limits.cache_gb=0", study=subject.study)
    assert any("once for all trials" in check for check in known.checks)
    assert any("computed at every step" in check for check in anew.checks)
    ours, theirs = Ear(), Ear()
    attempt(cached, order(0, **subject.changes), ours.listener)
    attempt(plain, order(1, seed_number=0, **subject.changes), theirs.listener)
    torch.testing.assert_close(ours.losses, theirs.losses, rtol=0, atol=1e-6)
    same(ours, theirs)


@pytest.mark.parametrize("signs", [2, 5])
def test_an_interrupted_trial_goes_on_to_the_bit(subject, bench, order, signs):
    changes = {"lora_dropout": 0.1, **subject.changes}
    whole, heard = order(0, **changes), Ear()
    attempt(bench, whole, heard.listener)
    first = order(1, seed_number=0, **changes)
    assert attempt(bench, first, Ear(signs, checkpoint=True).listener).stopped
    again, rest = order(2, seed_number=0, earlier=[first.folder], **changes), Ear()
    assert attempt(bench, again, rest.listener).fault is None
    assert rest.resumed and [*rest.replayed, *rest.points] == heard.points


def test_a_nan_is_a_nan_and_harms_nobody(subject, bench, order):
    pack, ears = Pack(bench, rows=None), [Ear(), Ear()]
    pack.start(order(0, learning_rate=1e30), ears[0].listener)
    pack.start(order(1), ears[1].listener)
    ended = {}
    while pack.size:
        ended |= {finished.number: finished for finished in pack.round()}
    assert ended[0].fault.outcome == Outcome.NAN and ended[0].fault.step > 0
    assert ended[1].fault is None and ears[1].points[-1].last


@pytest.mark.slow
def test_what_does_not_fit_is_an_oom_and_the_next_trial_is_trained(subject, order):
    settings = (*subject.settings, *WHOLE)
    with Runner(*settings, study=subject.study, memory_limit=subject.memory_limit) as runner:
        large = runner.train(order(0, batch_size=TOO_LARGE, lora_r=32))
        small = runner.train(order(1))
    assert large.fault is not None and large.fault.outcome == Outcome.OOM, large
    assert small.fault is None
