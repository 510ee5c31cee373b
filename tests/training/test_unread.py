"""Training reads nothing back from the device at once: a GPU would be waited for."""

from dataclasses import replace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask

from hpo.training.base.forward import compute
from hpo.training.base.masks import leave_masks_unread, unread_mask
from hpo.training.pack import Pack
from hpo.training.trial import loop
from tests.benchmarks.steps import asked, losses
from tests.training.conftest import Ear, make_bench
from tests.training.oracle import SUBJECTS

READING = {"_local_scalar_dense", "equal", "masked_scatter_backward", "masked_select", "nonzero"}
# with deterministic algorithms, the strides of what they scatter are copied to a GPU
READING |= {"scatter", "scatter_", "scatter_add", "scatter_add_", "scatter_reduce"}
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


@pytest.fixture
def hidden_batches(bench, monkeypatch):
    """What is read as a batch is made, on the CPU, is not noted."""

    def hidden(function):
        def call(*arguments):
            with _disable_current_modes():
                return function(*arguments)

        return call

    monkeypatch.setattr(bench.task, "collate", hidden(bench.task.collate))
    monkeypatch.setattr(loop, "learning", hidden(loop.learning))


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
    return [first, replace(second, weights=torch.tensor([1.0, 2.0, 1.0, 3.0]))]


@pytest.mark.parametrize("learns", [True, False], ids=["learning", "evaluating"])
def test_nothing_of_a_pass_is_read(bench, unread, hidden_batches, learns):
    with Reads() as reads:
        compute(bench.task, bench.base, together(bench, learns=learns))
    assert reads.found == []


def test_steps_are_read_at_a_distance(bench, unread, hidden_batches, monkeypatch, order):
    monkeypatch.setitem(loop.BEHIND, bench.device.type, 3)
    pack = Pack(bench, rows=None)
    for number, rate in enumerate((0.0, 0.1)):
        pack.start(order(number, lora_dropout=rate, lora_r=2 + number), Ear().listener)
    with Reads() as reads:
        for _ in range(3):
            pack.round()
        assert reads.found == []
        pack.round()
    assert "_local_scalar_dense" in reads.found, "the first step"


def test_losses_are_the_same_without_a_look_at_masks(bench, looking):
    rows = [bench.train[:1], bench.train[:3]]  # one without padding
    wanted = [losses(bench, [asked(bench, own, 0)])[0] for own in rows]
    leave_masks_unread(torch.device("cuda"))
    found = [losses(bench, [asked(bench, own, 0)])[0] for own in rows]
    assert found == pytest.approx(wanted, rel=1e-6)


@pytest.mark.skipif(not GPU, reason="needs a CUDA GPU")
def test_a_gpu_is_not_waited_for(bench, order):
    pack = Pack(bench, rows=None)
    for number in range(2):
        pack.start(order(number, lora_dropout=0.1), Ear().listener)
    pack.round()  # libraries are set up
    torch.cuda.set_sync_debug_mode("error")
    try:
        assert pack.round() == [] and pack.size == 2, "no trial fell over it"
        compute(bench.task, bench.base, together(bench))
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_a_cpu_looks_and_leaves_out_what_hides_nothing(looking):
    leave_masks_unread(torch.device("cpu"))
    assert ALL_MASK_ATTENTION_FUNCTIONS["sdpa"] is sdpa_mask
    full = torch.ones(2, 5, dtype=torch.bool)
    assert sdpa_mask(2, 5, 5, attention_mask=full) is None
    assert unread_mask(2, 5, 5, attention_mask=full).shape == (2, 1, 5, 5)
    assert unread_mask(2, 5, 5) is None
