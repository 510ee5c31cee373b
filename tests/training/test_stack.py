"""Stacked adapters compute what each computes alone, in fewer operations."""

from dataclasses import replace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from hpo.training.base import stack
from hpo.training.base.forward import Forward, compute
from hpo.training.base.stack import Stack, shares
from hpo.training.memory.probe import LiveBytes
from hpo.training.trial.trial import new_adapter
from tests.benchmarks.steps import Collated
from tests.training.conftest import make_bench
from tests.training.oracle import SUBJECTS

NO_WORK = {"alias", "as_strided", "detach", "empty", "expand", "permute", "select", "slice"}
NO_WORK |= {"split", "split_with_sizes", "squeeze", "t", "transpose", "unbind", "unsqueeze", "view"}
EVEN = [(8, 0.3, 16.0), (8, 0.2, 8.0), (8, 0.1, 1.0)]
UNEVEN = [(4, 0.0, 4.0), (7, 0.0, 16.0), (5, 0.0, 32.0)]


class Operations(TorchDispatchMode):
    """Names what a device is told to do."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if (name := function.overloadpacket.__name__) not in NO_WORK:
            self.names.append(name)
        return function(*args, **(kwargs or {}))


@pytest.fixture(
    scope="module",
    params=[pytest.param(name, marks=pytest.mark.xdist_group(name)) for name in SUBJECTS],
)
def bench(request):
    subject = SUBJECTS[request.param]
    return make_bench(*subject.settings, study=subject.study)[0]


@pytest.fixture
def make(bench, order):
    """What trials ask for, each with 3 rows but the second, which has 2."""

    def trial(number, rank, dropout, alpha):
        made = order(number, lora_r=rank, lora_dropout=dropout, lora_alpha=alpha)
        adapter = new_adapter(bench, made)
        drawn = torch.Generator().manual_seed(number)
        with torch.no_grad():  # a fresh adapter changes nothing: B is zero
            adapter.flat += 0.02 * torch.randn(adapter.flat.shape, generator=drawn)
        rows = bench.train[3 * number : 3 * number + 3]
        return Forward(rows=rows, adapter=adapter, learns=True, targets=7.0)

    def trials(kinds):
        found = [trial(number, *kind) for number, kind in enumerate(kinds)]
        found[1] = replace(found[1], weights=torch.tensor([1.0, 3.0, 0.5]))
        few = trial(len(kinds), 4, 0.1, 8.0)
        return [*found[:1], replace(few, rows=few.rows[:2]), *found[1:]]

    return trials


def passed(bench, asked, *, times=2):
    """Losses and gradients, the latter of so many passes added up."""
    for _ in range(times):
        losses = [found.rows for found in compute(bench.task, bench.base, asked)]
    return losses, [one.adapter.flat.grad for one in asked]


@pytest.mark.parametrize("kinds", [EVEN, UNEVEN], ids=["even", "uneven"])
def test_losses_and_gradients_are_those_of_each(bench, make, monkeypatch, kinds):
    wanted = passed(bench, make(kinds))
    monkeypatch.setattr(stack, "is_worth_it", lambda flat: True)
    asked = make(kinds)
    found, counts = shares([one.adapter for one in asked], [3, 2, 3, 3])
    assert [type(one) for one in found[2:]] == [Stack] and counts == [3, 2, 6]
    for ours, theirs in zip(passed(bench, asked), wanted, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kinds", [EVEN, UNEVEN], ids=["even", "uneven"])
def test_weights_and_gradients_are_copied_without_indices(bench, make, kinds):
    adapters = [one.adapter for one in make(kinds) if len(one.rows) == 3]
    with Operations() as seen, LiveBytes([a.flat for a in adapters]) as live:
        stacked = Stack(adapters)
    assert not [name for name in seen.names if "index" in name or name in ("arange", "cat")]
    assert live.peak < 1.1 * len(adapters) * max(a.flat.nbytes for a in adapters)
    stacked.begin()
    for gradient, weight in zip(stacked._gradients, stacked._weights, strict=True):
        gradient.copy_(weight)
    heads = [torch.full_like(w, 2.0) for w in stacked.head_weights]
    with Operations() as seen:
        stacked.learn(heads)
    assert not [name for name in seen.names if "index" in name or name in ("arange", "cat")]
    for adapter in adapters:
        low_rank = sum(matrix.numel() for matrix in adapter.low_rank)
        assert torch.equal(adapter.flat.grad[:low_rank], adapter.flat.detach()[:low_rank])
        assert bool((adapter.flat.grad[low_rank:] == 2.0).all())


@pytest.mark.parametrize("kinds", [EVEN, UNEVEN], ids=["even", "uneven"])
def test_a_nan_changes_no_bit_of_the_others(bench, make, monkeypatch, kinds):
    monkeypatch.setattr(stack, "is_worth_it", lambda flat: True)
    wanted = passed(bench, make(kinds))
    asked = make(kinds)
    asked[2].adapter.flat.data[::7] = float("nan")
    for ours, theirs in zip(passed(bench, asked), wanted, strict=True):
        assert not ours[2].isfinite().all()
        assert all(torch.equal(ours[place], theirs[place]) for place in (0, 1, 3))


def test_what_would_cost_memory_is_not_stacked(bench, make, monkeypatch):
    monkeypatch.setattr(stack, "is_worth_it", lambda flat: True)
    for kinds in (
        [(8, 0.1, 1.0), (8, 0.0, 1.0), (8, 0.1, 1.0)],
        [(7, 0.1, 1.0), (8, 0.1, 1.0)] * 2,
    ):
        adapters = [one.adapter for one in make(kinds) if len(one.rows) == 3]
        assert shares(adapters, [3] * len(adapters)) == (adapters, [3] * len(adapters))


def test_many_trials_cost_few_more_operations_than_one(bench, make, monkeypatch):
    def operations(asked):
        task = Collated(bench.task, [row for one in asked for row in one.rows])
        compute(task, bench.base, asked)  # libraries are set up
        with Operations() as seen:
            compute(task, bench.base, asked)
        return len(seen.names)

    kinds = [(8, 0.0, 16.0), (12, 0.0, 4.0)] * 4
    one = [trial for trial in make(kinds) if len(trial.rows) == 3]
    apart = operations(one)
    monkeypatch.setattr(stack, "is_worth_it", lambda flat: True)
    alone, together = operations(one[:1]), operations(one)
    assert together < 1.3 * alone
    assert apart > 1.8 * together
