"""How many runners, and where."""

import pytest

from hpo.errors import MissingError
from hpo.files import Options, load_study
from hpo.machine import Machine, kernel_kills, look
from hpo.placement import place
from hpo.plan import make_plan

GIB = 1 << 30


def put(gpus=(), cores=2, free=64 * GIB, **wanted):
    machine = Machine(gpus=gpus, cores=cores, free_memory_bytes=free)
    defaults = {"device": "auto", "runners": None, "memory_limit_bytes": None, "weights_bytes": 0}
    return place(machine, **(defaults | wanted))


def test_auto_is_one_runner_for_each_gpu():
    assert put(gpus=("0", "1", "GPU-7")).gpus == ("0", "1", "GPU-7")


def test_without_a_gpu_auto_is_one_runner_for_each_core():
    assert put(cores=6).gpus == (None,) * 6


def test_memory_bounds_the_number_of_runners():
    assert 0 < len(put(cores=64, free=8 * GIB).gpus) < 16
    assert len(put(cores=64, free=8 * GIB, memory_limit_bytes=2 * GIB).gpus) == 3
    assert len(put(cores=64, free=80 * GIB, weights_bytes=8 * GIB).gpus) == 4


def test_cpu_is_taken_when_asked_for_though_there_is_a_gpu():
    assert put(gpus=("0",), cores=2, device="cpu").gpus == (None, None)


def test_the_first_gpus_are_taken_when_fewer_runners_are_asked_for():
    assert put(gpus=("3", "5"), runners=1).gpus == ("3",)


@pytest.mark.parametrize("runners", [1, 3])
def test_as_many_runners_as_are_asked_for(runners):
    assert put(cores=2, runners=runners).gpus == (None,) * runners


def test_the_memory_limit_is_handed_on():
    assert put(memory_limit_bytes=GIB).memory_limit_bytes == GIB
    assert put(gpus=("0",), memory_limit_bytes=GIB).memory_limit_bytes == GIB


def test_only_first_keeps_one_runner():
    first = put(gpus=("2", "3"), memory_limit_bytes=GIB).only_first()
    assert first.gpus == ("2",)
    assert first.memory_limit_bytes == GIB


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        ({"device": "cuda"}, ("model.device = cuda", "no GPU", "--set model.device=auto")),
        ({"gpus": ("0",), "runners": 2}, ("--runners 2", "shows 1")),
        ({"free": GIB // 4}, ("memory", "256.0 MiB", "--scale mini")),
    ],
)
def test_what_is_not_there_is_said_with_a_remedy(wanted, words):
    with pytest.raises(MissingError) as caught:
        put(**wanted)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    "gpus, settings, said",
    [
        (("0",), (), True),
        (("0",), ("model.tf32=true",), False),
        (("0",), ("model.precision=bf16",), False),
        ((), (), False),
    ],
)
def test_slow_products_of_a_gpu_are_said_with_what_is_faster(tmp_path, gpus, settings, said):
    spec = load_study("rsicap", Options(scale="mini", assignments=settings))
    plan = make_plan(
        spec,
        Machine(gpus=gpus, cores=2, free_memory_bytes=64 * GIB),
        runners=None,
        pack=1,
        memory_limit_bytes=None,
        storage="",
        runs_dir=tmp_path,
        notes=("first",),
    )
    assert plan.notes[0] == "first"
    assert any("--set model.tf32=true" in note for note in plan.notes) is said


def test_this_machine_has_cores_and_memory():
    machine = look()
    assert machine.cores >= 1
    assert machine.free_memory_bytes > 0
    assert kernel_kills() >= 0


def test_no_gpu_is_visible_where_none_may_be(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert look().gpus == ()
