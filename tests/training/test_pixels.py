"""Images that will be needed next are read beside what is computed."""

import threading

import pytest
import torch

from hpo.data import Example
from hpo.errors import DataError
from hpo.training.base import pixels
from hpo.training.base.pixels import PixelCache
from tests.training.conftest import Ear, attempt, make_bench


class Reader:
    """Where and how often images are read."""

    def __init__(self):
        self.threads = {}
        self.count = 0

    def example(self, name, *, broken=False):
        def image():
            if broken:
                raise DataError(f"{name}: broken")
            self.count += 1
            self.threads[name] = threading.current_thread()
            return float(name)

        return Example(name=name, group=name, prompt="", target="", content=str, image=image)

    def cache(self, limit_bytes):
        return PixelCache(lambda value: torch.full((2,), value), limit_bytes)


@pytest.mark.parametrize("limit_bytes", [0, 1000])
def test_an_expected_image_is_read_once_and_elsewhere(limit_bytes):
    reader = Reader()
    cache, examples = reader.cache(limit_bytes), [reader.example(name) for name in "123"]
    cache.expect(examples[:2])
    cache.expect(examples[:2])
    assert [float(cache.get(one)[0]) for one in examples] == [1.0, 2.0, 3.0]
    main = threading.main_thread()
    assert [reader.threads[name] is main for name in "123"] == [False, False, True]
    assert reader.count == 3
    cache.expect(examples)
    assert [float(cache.get(one)[1]) for one in examples] == [1.0, 2.0, 3.0]
    assert reader.count == (3 if limit_bytes else 6)


def test_a_broken_image_is_told_of_when_it_is_asked_for():
    reader = Reader()
    cache, example = reader.cache(1000), reader.example("1", broken=True)
    cache.expect([example])
    with pytest.raises(DataError, match="broken"):
        cache.get(example)


def test_images_that_nobody_asks_for_do_not_pile_up(monkeypatch):
    monkeypatch.setattr(pixels, "EXPECTED", 2)
    reader = Reader()
    cache, examples = reader.cache(0), [reader.example(name) for name in "1234"]
    cache.expect(examples)
    assert len(cache._expected) == 2
    assert [float(cache.get(one)[0]) for one in examples] == [1.0, 2.0, 3.0, 4.0]


def test_a_trial_reads_its_images_beside_its_steps(order, monkeypatch):
    plain, _ = make_bench("limits.cache_gb=0")
    plain.task._pixels._limit_bytes = 0
    plain.task._pixels._pixels.clear()
    beside, original = [], plain.task._pixels.read

    def spy(example):
        beside.append(threading.current_thread() is not threading.main_thread())
        return original(example)

    monkeypatch.setattr(plain.task._pixels, "read", spy)
    assert attempt(plain, order(batch_size=4), Ear().listener).fault is None
    assert sum(beside) == len(plain.train) - 4  # nobody knew of the first batch before
