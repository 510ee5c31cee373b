"""Preprocessed images: read in time, and kept within a limit."""

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from PIL import Image
from torch import Tensor

from hpo.data import Example
from hpo.errors import DataError

READERS = 2  # threads
EXPECTED = 256  # images at most that are read before they are asked for


class PixelCache:
    """Pixels by image; once full, further images are read every time."""

    def __init__(self, process: Callable[[Image.Image], Tensor], limit_bytes: int) -> None:
        self._process = process
        self._limit_bytes = limit_bytes
        self.held_bytes = 0
        self._pixels: dict[str, Tensor] = {}
        self._expected: dict[str, Future[Tensor]] = {}
        self._readers = ThreadPoolExecutor(READERS, "images")  # no thread before it is needed

    def get(self, example: Example) -> Tensor:
        """The example's pixels. Raises DataError if its image is missing or broken."""
        pixels = self._pixels.get(example.image_name)
        if pixels is None:
            expected = self._expected.pop(example.image_name, None)
            pixels = self.read(example) if expected is None else expected.result()
            if self.held_bytes + pixels.nbytes <= self._limit_bytes:
                self._pixels[example.image_name] = pixels
                self.held_bytes += pixels.nbytes
        return pixels

    def expect(self, examples: Sequence[Example]) -> None:
        """Begins to read what will be asked for next, beside what the device computes now."""
        for example in examples:
            name = example.image_name
            if name not in self._pixels and name not in self._expected:
                self._expected[name] = self._readers.submit(self.read, example)
        while len(self._expected) > EXPECTED:  # of trials that ended before they asked
            self._expected.pop(next(iter(self._expected))).cancel()

    def read(self, example: Example) -> Tensor:
        """The example's pixels from its image; nothing is kept."""
        if example.image is None:
            raise DataError(f"{example.name}: it has no image; use a data.format with images")
        return self._process(example.image())
