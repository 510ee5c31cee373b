"""A pass reads nothing back from the device: a GPU would be waited for."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask

from hpo.training.base.forward import compute
from hpo.training.base.masks import leave_masks_unread, unread_mask
from tests.benchmarks.steps import asked, losses
from tests.training.conftest import make_bench
from tests.training.oracle import SUBJECTS

READING = {"_local_scalar_dense", "equal", "masked_scatter_backward", "masked_select", "nonzero"}
GPU = torch.cuda.is_available()


class Reads(TorchDispatchMode):
    """Notes operations that a GPU must be done with before Python goes on."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        if name in READING:
            self.found.append(name)
        return function(*args, **(kwargs or {}))


@pytest.fixture
def looking():
    """Masks as a CPU gets them; afterwards they are what they were."""
    before = ALL_MASK_ATTENTION_FUNCTIONS["sdpa"]
    ALL_MASK_ATTENTION_FUNCTIONS.register("sdpa", sdpa_mask)
    yield
    ALL_MASK_ATTENTION_FUNCTIONS.register("sdpa", before)


@pytest.fixture
def unread(looking):
    """Masks as a GPU gets them."""
    leave_masks_unread(torch.device("cuda"))


@pytest.fixture(
    scope="module",
    params=[pytest.param(name, marks=pytest.mark.xdist_group(name)) for name in SUBJECTS],
)
def bench(request):
    subject = SUBJECTS[request.param]
    return make_bench(*subject.settings, study=subject.study, gpu=GPU)[0]


def together(bench, *, learns=True):
    """Two trials, one of whose rows weigh more."""
    first, second = (asked(bench, bench.train[4 * i : 4 * i + 4], i, learns=learns) for i in (0, 1))
    return [first, type(second)(**vars(second) | {"weights": torch.tensor([1.0, 2.0, 1.0, 3.0])})]


@pytest.mark.parametrize("learns", [True, False], ids=["learning", "evaluating"])
def test_nothing_of_a_pass_is_read(bench, unread, monkeypatch, learns):
    trials = together(bench, learns=learns)
    batch = bench.task.collate([row for one in trials for row in one.rows])
    monkeypatch.setattr(bench.task, "collate", lambda rows: batch)
    with Reads() as reads:
        compute(bench.task, bench.base, trials)
    assert reads.found == []


def test_losses_are_the_same_without_a_look_at_masks(bench, looking):
    rows = [bench.train[:1], bench.train[:3]]  # one without padding
    wanted = [losses(bench, [asked(bench, own, 0)])[0] for own in rows]
    leave_masks_unread(torch.device("cuda"))
    found = [losses(bench, [asked(bench, own, 0)])[0] for own in rows]
    assert found == pytest.approx(wanted, abs=1e-6)


@pytest.mark.skipif(not GPU, reason="needs a CUDA GPU")
def test_a_gpu_is_not_waited_for(bench):
    trials = together(bench)
    compute(bench.task, bench.base, trials)  # libraries are set up
    torch.cuda.set_sync_debug_mode("error")
    try:
        compute(bench.task, bench.base, trials)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_a_cpu_looks_and_leaves_out_what_hides_nothing(looking):
    leave_masks_unread(torch.device("cpu"))
    assert ALL_MASK_ATTENTION_FUNCTIONS["sdpa"] is sdpa_mask
    full = torch.ones(2, 5, dtype=torch.bool)
    assert sdpa_mask(2, 5, 5, attention_mask=full) is None
    assert unread_mask(2, 5, 5, attention_mask=full).shape == (2, 1, 5, 5)
    assert unread_mask(2, 5, 5) is None
