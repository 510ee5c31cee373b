"""Outputs of the frozen prefix: the same losses, computed once for all trials of a host."""

import json
import os
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from hpo.data import read_examples
from hpo.errors import DataError
from hpo.files import Options, load_study
from hpo.protocol import Setup
from hpo.specs import DataSpec
from hpo.training import cache
from hpo.training.base import features
from hpo.training.base.features import Prefix, build
from hpo.training.bench import set_up
from tests.training.conftest import SMALL, Ear, attempt, make_bench

MB = 1 << 20


@pytest.fixture(scope="module")
def examples():
    drawn = read_examples(DataSpec(format="scenes", samples=20))
    return [*drawn.train, *drawn.val]


class Tower:
    """A prefix that counts what goes through it, and whose images can go missing."""

    def __init__(self):
        self.missing, self.passes = set(), 0
        self.prefix = Prefix(identity="tower", read=self.read, forward=self.forward)

    def read(self, example):
        if example.name in self.missing:
            raise DataError(f"{example.name}: the image is gone; restore it")
        return torch.full(
            (2, 3), float(len(example.name)) + zlib.crc32(example.target.encode()) % 97
        )

    def forward(self, inputs):
        self.passes += 1
        assert len(inputs) == features.SLOT
        return [one.repeat(1 + int(one[0, 0]) % 3, 1) for one in inputs]


def same(ours, theirs):
    return all(torch.equal(one, other) for one, other in zip(ours, theirs, strict=True))


def files(folder):
    return sorted(path.name for path in folder.iterdir() if path.suffix != ".lock")


def test_losses_with_and_without_it_are_equal(order):
    cached, facts = make_bench()
    plain, plain_facts = make_bench("limits.cache_gb=0")
    assert any("went through the vision_model once" in check for check in facts.checks)
    assert any("computed at every step" in check for check in plain_facts.checks)
    ours, theirs = Ear(), Ear()
    attempt(cached, order(0), ours.listener)
    attempt(plain, order(1, seed_number=0), theirs.listener)
    torch.testing.assert_close(ours.losses, theirs.losses, rtol=0, atol=1e-6)
    for mine, other in zip(ours.points, theirs.points, strict=True):
        assert mine.val_loss == pytest.approx(other.val_loss, abs=1e-6)


class SecondFails:
    """`compute` whose second pass, the first with cached outputs, fails."""

    def __init__(self, monkeypatch, error):
        self._calls, self._error, self._compute = 0, error, cache.compute
        monkeypatch.setattr(cache, "compute", self)

    def __call__(self, *arguments):
        self._calls += 1
        if self._calls == 2:
            raise self._error
        return self._compute(*arguments)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 472.00 MiB."),
        torch.AcceleratorError("CUDA error: an illegal memory access was encountered"),
        RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
    ],
)
def test_a_device_that_fails_as_outputs_are_tried_is_no_matter_of_the_model(monkeypatch, error):
    SecondFails(monkeypatch, error)
    with pytest.raises(type(error)) as caught:
        make_bench()
    assert caught.value is error


def test_blocks_that_need_more_than_outputs_are_computed_at_every_step(monkeypatch):
    SecondFails(monkeypatch, RuntimeError("shape '[2, 9]' is invalid for input of size 7"))
    _, facts = make_bench()
    assert any("needs more of it than its outputs" in check for check in facts.checks)


def test_the_towers_weights_are_let_go_of():
    cached, _ = make_bench()
    plain, _ = make_bench("limits.cache_gb=0")
    size = [sum(p.numel() for p in bench.task.model.parameters()) for bench in (cached, plain)]
    tower = sum(p.numel() for p in plain.task.model.vision_model.parameters())
    assert size[1] - size[0] == tower > 100_000


def test_an_adapter_in_the_prefix_forbids_it():
    _, facts = make_bench(r"model.adapt=.*vision_model.*\.qkv$")
    assert any("computed at every step" in check for check in facts.checks)


def test_runners_of_a_host_share_one_file(tmp_path, order):
    study = load_study("rsicap", Options(scale="mini", assignments=SMALL))
    setup = Setup(
        study=study, memory_limit_bytes=None, gpu=False, zero_shot=True, cache_dir=str(tmp_path)
    )
    (first, one), (second, two) = set_up(setup), set_up(setup)
    assert one.zero_shot == two.zero_shot
    assert len(files(tmp_path)) == 2
    name = next(name for name in files(tmp_path) if name.endswith(".safetensors"))
    assert name in Path("/proc/self/maps").read_text()
    ours, theirs = Ear(), Ear()
    attempt(first, order(0), ours.listener)
    attempt(second, order(1, seed_number=0), theirs.listener)
    assert ours.losses == theirs.losses


def test_it_is_computed_once_for_all_that_start_at_the_same_moment(tmp_path, examples):
    towers = [Tower() for _ in range(6)]
    with ThreadPoolExecutor(6) as pool:
        built = list(
            pool.map(
                lambda tower: build(tower.prefix, examples, folder=tmp_path, limit_bytes=MB),
                towers,
            )
        )
    assert sorted(tower.passes for tower in towers)[-1] == 4, "its size is found out by one pass"
    assert sorted(tower.passes for tower in towers)[:-1] == [1] * 5
    assert all(same(found.values, built[0].values) for found in built)


@pytest.mark.parametrize("damage", ["cut", "flipped", "no sum", "not json"])
def test_a_damaged_file_is_computed_again(tmp_path, examples, damage):
    tower = Tower()
    whole = build(tower.prefix, examples, folder=tmp_path, limit_bytes=MB)
    expected = [output.clone() for output in whole.values]
    path = next(tmp_path.glob("*.safetensors"))
    content = bytearray(path.read_bytes())
    if damage == "cut":
        path.write_bytes(content[:-5])
    elif damage == "flipped":
        content[-9] ^= 0xFF
        path.write_bytes(content)
    else:
        path.with_suffix(".json").write_text("{}" if damage == "no sum" else "oh")
    before = tower.passes
    again = build(tower.prefix, examples, folder=tmp_path, limit_bytes=MB)
    assert tower.passes > before + 1
    assert same(again.values, expected)
    sum_of = json.loads(path.with_suffix(".json").read_text())["sha256"]
    assert sum_of == features._checksum(path)


def test_other_content_lies_in_another_file(tmp_path, examples):
    tower = Tower()
    build(tower.prefix, examples, folder=tmp_path, limit_bytes=MB)
    changed = [replace(examples[0], content=lambda: "another picture"), *examples[1:]]
    build(tower.prefix, changed, folder=tmp_path, limit_bytes=MB)
    build(replace(tower.prefix, identity="bf16"), examples, folder=tmp_path, limit_bytes=MB)
    assert len(list(tmp_path.glob("*.safetensors"))) == 3


def test_the_limit_holds_and_the_file_unused_for_longest_goes(tmp_path, examples):
    tower = Tower()
    build(tower.prefix, examples, folder=tmp_path, limit_bytes=MB)
    (first,) = tmp_path.glob("*.safetensors")
    os.utime(first, (1, 1))
    size = first.stat().st_size
    build(tower.prefix, examples[:-1], folder=tmp_path, limit_bytes=2 * size)
    build(tower.prefix, examples[:-2], folder=tmp_path, limit_bytes=2 * size)
    left = list(tmp_path.glob("*.safetensors"))
    assert first not in left and len(left) == 2
    assert build(tower.prefix, examples, folder=tmp_path, limit_bytes=size // 4) is None


def test_images_of_other_sizes_than_the_first_are_counted_too(examples):
    tower = Tower()
    whole = build(tower.prefix, examples, folder=None, limit_bytes=MB)
    smallest = min(range(len(examples)), key=lambda i: whole.values[i].nbytes)
    ordered = [examples[smallest], *examples[:smallest], *examples[smallest + 1 :]]
    limit = whole.values[smallest].nbytes * len(examples)
    assert limit < whole.nbytes
    assert build(tower.prefix, ordered, folder=None, limit_bytes=limit) is None


def test_a_disk_that_cannot_be_written_leaves_it_in_memory(tmp_path, examples, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(features, "save_file", full)
    found = build(Tower().prefix, examples, folder=tmp_path, limit_bytes=MB)
    assert len(found.values) == len(examples)
    assert files(tmp_path) == []


def test_where_no_image_can_be_read_trials_are_left_to_say_so(tmp_path, examples):
    tower = Tower()
    tower.missing = {example.name for example in examples}
    assert build(tower.prefix, examples, folder=tmp_path, limit_bytes=MB) is None
    assert tower.passes == 0


def test_a_broken_image_is_an_error_where_it_is_used_until_it_is_mended(tmp_path, examples):
    tower, whole = Tower(), build(Tower().prefix, examples, folder=None, limit_bytes=MB)
    tower.missing = {examples[3].name, examples[5].name}
    found = build(tower.prefix, examples, folder=tmp_path, limit_bytes=MB)
    assert files(tmp_path) == [], "what is not whole is not shared"
    assert same(found.get(examples[:3]), whole.get(examples[:3]))
    with pytest.raises(DataError, match="restore it"):
        found.get(examples[2:5])
    tower.missing = {examples[5].name}
    assert same(found.get(examples[:5]), whole.get(examples[:5]))
    with pytest.raises(DataError):
        found.get(examples[5:6])
    tower.missing = set()
    assert same(found.get(examples), whole.get(examples))
