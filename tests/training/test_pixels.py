"""Images that will be needed next are read beside what is computed."""

import threading

import pytest
import torch

from hpo.data import Example
from hpo.errors import DataError
from hpo.training.base.pixels import PixelCache
from tests.training.conftest import Ear, attempt, make_bench


class Reader:
    """Where and how often images are read."""

    def __init__(self):
        self.threads = {}
        self.read = []
        self.broken = set()

    @property
    def count(self):
        return len(self.read)

    def example(self, name):
        def image():
            if name in self.broken:
                raise DataError(f"{name}: broken")
            self.read.append(name)
            self.threads[name] = threading.current_thread()
            return float(name)

        return Example(name=name, group=name, prompt="", target="", content=str, image=image)

    def cache(self, limit_bytes, ahead_bytes=1000):
        return PixelCache(lambda value: torch.full((2,), value), limit_bytes, ahead_bytes)


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
    cache, example = reader.cache(0), reader.example("1")
    reader.broken.add("1")
    cache.expect([example])
    with pytest.raises(DataError, match="broken"):
        cache.get(example)
    cache.expect([example])
    cache._expected["1"].exception()
    reader.broken.clear()
    assert float(cache.get(example)[0]) == 1.0  # it can be read by now


def test_images_that_nobody_asks_for_do_not_pile_up():
    reader = Reader()
    cache, examples = reader.cache(0, ahead_bytes=16), [reader.example(name) for name in "12345"]
    assert float(cache.get(examples[0])[0]) == 1.0  # how large one is is known from now on
    cache.expect(examples[1:4])
    assert list(cache._expected) == ["2", "3"]
    cache.expect(examples[4:])
    assert list(cache._expected) == ["3", "5"]
    assert cache.held_bytes == 16
    assert [float(cache.get(one)[0]) for one in examples] == [1.0, 2.0, 3.0, 4.0, 5.0]
    assert cache.held_bytes == 0


def test_no_thread_is_begun_where_nothing_may_be_read_ahead():
    reader = Reader()
    cache, example = reader.cache(0, ahead_bytes=0), reader.example("1")
    cache.expect([example])
    cache.get(example)
    assert reader.threads["1"] is threading.main_thread()


def test_a_trial_reads_its_images_beside_its_steps(order, monkeypatch):
    plain, _ = make_bench("limits.cache_gb=0", "trial.eval_batch_size=2")
    plain.task._pixels._limit_bytes = 0
    plain.task._pixels._pixels.clear()
    beside, original = [], plain.task._pixels.read

    def spy(example):
        beside.append(threading.current_thread() is not threading.main_thread())
        return original(example)

    monkeypatch.setattr(plain.task._pixels, "read", spy)
    assert attempt(plain, order(batch_size=4), Ear().listener).fault is None
    # nobody knew of the first batch, and of the first of each of two evaluations, before
    assert sum(beside) == len(plain.train) - 4 + 2 * (len(plain.val) - 2)
