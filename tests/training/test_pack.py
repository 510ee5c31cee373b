"""Packed equals alone, and what happens to one trial happens to nobody else."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from hpo.data import Example
from hpo.errors import DataError
from hpo.specs import Outcome
from hpo.training import pack as packing
from hpo.training.base import stack
from hpo.training.base.forward import compute
from hpo.training.memory import gauge
from hpo.training.pack import Pack
from tests.training.conftest import Ear, attempt, make_bench

MIXED = [
    {"lora_r": 2, "batch_size": 4, "learning_rate": 1e-3, "scheduler": "linear"},
    {"lora_r": 32, "batch_size": 16, "learning_rate": 3e-3, "lora_dropout": 0.2},
    {"lora_r": 8, "batch_size": 8, "learning_rate": 1e-2, "scheduler": "constant"},
    {"lora_r": 4, "batch_size": 32, "learning_rate": 2e-2, "lora_alpha": 64.0},
    {"lora_r": 16, "batch_size": 4, "learning_rate": 2e-4, "lora_dropout": 0.1},
    {"lora_r": 1, "batch_size": 3, "learning_rate": 5e-3, "lora_alpha": 1.0},
    {"lora_r": 24, "batch_size": 12, "learning_rate": 1e-4, "scheduler": "linear"},
    {"lora_r": 8, "batch_size": 5, "learning_rate": 3e-2, "lora_dropout": 0.05},
]


def run(pack, orders, ears):
    """What came out of each, in the order of `orders`; a trial starts where another has ended."""
    waiting, ended = list(zip(orders, ears, strict=True)), {}
    lanes = 4
    while len(ended) < len(orders):
        while waiting and len(orders) - len(waiting) - len(ended) < lanes:
            order, ear = waiting.pop(0)
            pack.start(order, ear.listener)
        ended |= {finished.number: finished for finished in pack.round()}
    return [ended[order.number] for order in orders]


def packed(bench, orders, **settings):
    ears = [Ear() for _ in orders]
    return run(Pack(bench, **({"rows": None} | settings)), orders, ears), ears


@pytest.mark.parametrize("rows, stacked", [(None, False), (24, False), (None, True)])
def test_packed_equals_alone(bench, order, monkeypatch, rows, stacked):
    monkeypatch.setattr(stack, "is_worth_it", lambda flat: stacked)
    orders = [order(n, **changes) for n, changes in enumerate(MIXED)]
    alone = [Ear() for _ in orders]
    for trial, ear in zip(orders, alone, strict=True):
        assert attempt(bench, trial, ear.listener).fault is None
    again = [order(n + 100, seed_number=n, **changes) for n, changes in enumerate(MIXED)]
    ended, together = packed(bench, again, rows=rows)
    assert all(f.fault is None and not f.stopped and f.clean for f in ended)
    for ours, theirs in zip(together, alone, strict=True):
        assert len(ours.losses) == len(theirs.losses) > 0
        torch.testing.assert_close(ours.losses, theirs.losses, rtol=0, atol=1e-5)
        assert [(p.samples_seen, p.step, p.last) for p in ours.points] == [
            (p.samples_seen, p.step, p.last) for p in theirs.points
        ]
        for mine, other in zip(ours.points, theirs.points, strict=True):
            assert mine.val_loss == pytest.approx(other.val_loss, abs=1e-5)
    best = [[min(p.val_loss for p in ear.points) for ear in ears] for ears in (together, alone)]
    ranking = [sorted(range(len(losses)), key=losses.__getitem__) for losses in best]
    assert ranking[0] == ranking[1]


def test_trials_really_share_forward_passes(bench, order, monkeypatch):
    together = []

    def counted(task, base, asked):
        together.append(len(asked))
        return compute(task, base, asked)

    monkeypatch.setattr(packing, "compute", counted)
    packed(bench, [order(n) for n in range(4)])
    assert set(together) == {4}


def test_a_nan_changes_no_bit_of_the_others(bench, order):
    def losses(rate):
        orders = [order(n, lora_dropout=0.1) for n in range(3)]
        orders.append(order(3, learning_rate=rate))
        ended, ears = packed(bench, orders)
        return ended, [ear.losses for ear in ears]

    (*_, sick), with_nan = losses(1e30)
    (*_, sound), without = losses(1e-3)
    assert sick.fault.outcome == Outcome.NAN and sound.fault is None
    steps = min(len(with_nan[3]), len(without[3]))
    assert 0 < steps < len(without[0])
    assert with_nan[:3] == [pytest.approx(ours, abs=1e-5) for ours in without[:3]]
    assert [ours[: steps + 1] for ours in with_nan[:3]] == [o[: steps + 1] for o in without[:3]]


def test_a_broken_image_is_the_fault_of_its_trial_alone(order):
    bench, _ = make_bench("limits.cache_gb=0")

    def gone():
        raise DataError("images/P0001_0001.png: the image is gone; restore it")

    example = Example(name="gone", group="g", prompt="p", target="t", content=str, image=gone)
    broken = replace(bench, train=[*bench.train[:-1], *bench.task.encode([example])])
    ended, _ = packed(broken, [order(0), order(1, batch_size=16)])
    assert all(f.fault.outcome == Outcome.DATA_ERROR for f in ended)
    assert all("P0001_0001" in f.fault.reason for f in ended)
    assert ended[0].stats.steps != ended[1].stats.steps, "each fell at its own batch"


def test_what_does_not_fit_together_is_done_alone_and_to_the_bit(bench, order, monkeypatch):
    def too_much(task, base, asked):
        if len(asked) > 1:
            compute(task, base, asked)  # as far as it goes: dropout has been drawn
            for one in asked:
                one.adapter.flat.grad = None
            raise torch.OutOfMemoryError("out of memory")
        return compute(task, base, asked)

    changes = {"lora_dropout": 0.2}
    alone = Ear()
    attempt(bench, order(0, **changes), alone.listener)
    monkeypatch.setattr(packing, "compute", too_much)
    ended, ears = packed(bench, [order(n, seed_number=0, **changes) for n in (10, 11)])
    assert all(f.fault is None for f in ended)
    assert ears[0].losses == ears[1].losses == alone.losses


def test_what_did_not_fit_together_is_not_tried_again(bench, order, monkeypatch):
    passes = []

    def too_much(task, base, asked):
        passes.append(sum(len(one.rows) for one in asked))
        if passes[-1] > 8 and len(asked) > 1:
            raise torch.OutOfMemoryError("out of memory")
        return compute(task, base, asked)

    monkeypatch.setattr(packing, "compute", too_much)
    ended, _ = packed(bench, [order(n) for n in range(4)])
    assert all(f.fault is None for f in ended)
    assert [rows for rows in passes if rows > 8] == [16]


def too_much(task, base, asked):
    """Computes, where the memory bears so many rows."""
    if sum(len(one.rows) for one in asked if one.learns) > 20:
        raise torch.OutOfMemoryError("out of memory")
    return compute(task, base, asked)


def test_an_oom_in_a_pack_is_the_one_that_does_not_fit_alone(bench, order, monkeypatch):
    monkeypatch.setattr(packing, "compute", too_much)
    ended, _ = packed(bench, [order(n, batch_size=size) for n, size in enumerate((8, 24, 16))])
    assert [f.fault.outcome if f.fault else None for f in ended] == [None, Outcome.OOM, None]


def test_a_trial_that_waits_to_be_alone_is_beside_nobody(bench, order, monkeypatch):
    passes = []

    def clocked(task, base, asked):
        passes.append(len(asked))
        return too_much(task, base, asked)

    monkeypatch.setattr(packing, "compute", clocked)
    monkeypatch.setattr(packing, "time", SimpleNamespace(monotonic=lambda: float(len(passes))))
    waits = order(1, batch_size=24).model_copy(update={"alone": True})
    pack = Pack(bench, rows=None)
    pack.start(order(0), Ear().listener)
    pack.round()
    pack.start(waits, Ear().listener)
    ended = []
    while pack.size:
        ended += pack.round()
    first, second = ended
    assert second.fault.outcome == Outcome.OOM and set(passes) == {1}
    assert not first.shared and not second.shared
    assert first.observation is not None and second.observation is not None
    assert first.stats.seconds == len(passes) - 1, "what it took while the other waited, too"
    assert second.stats.seconds == 1


def test_memory_is_given_back_when_a_failed_trial_or_the_last_one_ends(bench, order, monkeypatch):
    is_clean, heard = type(bench.gauge).is_clean, []

    def hear(gauge, *kept, in_use):
        heard.append(in_use)
        return is_clean(gauge, *kept, in_use=in_use)

    monkeypatch.setattr(type(bench.gauge), "is_clean", hear)
    monkeypatch.setattr(packing, "compute", too_much)
    packed(bench, [order(n, batch_size=size) for n, size in enumerate((8, 24, 16))])
    assert heard == [False, True, False]


def test_a_runner_that_keeps_too_much_says_of_what(bench, order, monkeypatch):
    monkeypatch.setattr(gauge, "SLACK_BYTES", -(1 << 40))
    monkeypatch.setattr(gauge, "SLACK_SHARE", -(1 << 10))
    ended = attempt(bench, order(), Ear().listener)
    assert ended.fault is None and ended.clean is False
    assert "more host memory in use than before its first trial" in ended.unfit_reason


def test_a_device_that_breaks_under_several_ends_the_runner(bench, order, monkeypatch):
    def broken(task, base, asked):
        raise torch.AcceleratorError("CUDA error: an illegal memory access")

    monkeypatch.setattr(packing, "compute", broken)
    pack = Pack(bench, rows=None)
    pack.start(order(0), Ear().listener)
    (ended,) = pack.round()
    assert ended.clean is False and "its GPU reported an error" in ended.unfit_reason
    for number in (1, 2):
        pack.start(order(number), Ear().listener)
    with pytest.raises(torch.AcceleratorError):
        pack.round()


def test_a_stop_ends_one_trial_and_the_others_go_on(bench, order):
    ears = [Ear(), Ear(stop_after=2), Ear()]
    ended = run(Pack(bench, rows=None), [order(n) for n in range(3)], ears)
    assert [f.stopped for f in ended] == [False, True, False]
    assert [len(ear.losses) for ear in ears] == [8, 2, 8]


@pytest.mark.parametrize("most", [1, 3, 5, 8])
def test_a_batch_in_parts_is_the_batch(bench, order, most):
    whole, parts = Ear(), Ear()
    attempt(bench, order(0, batch_size=8), whole.listener)
    divided, _ = make_bench(f"trial.max_micro_batch={most}")
    attempt(divided, order(1, seed_number=0, batch_size=8), parts.listener)
    torch.testing.assert_close(parts.losses, whole.losses, rtol=0, atol=1e-5)
    assert [p.val_loss for p in parts.points] == pytest.approx(
        [p.val_loss for p in whole.points], abs=1e-5
    )
