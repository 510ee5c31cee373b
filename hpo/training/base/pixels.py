"""Preprocessed images: read in time, and kept within a limit."""

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from PIL import Image
from torch import Tensor

from hpo.data import Example
from hpo.errors import DataError

READERS = 2  # threads


class PixelCache:
    """Pixels by image; once full, further images are read every time."""

    def __init__(
        self, process: Callable[[Image.Image], Tensor], limit_bytes: int, ahead_bytes: int = 0
    ) -> None:
        """`ahead_bytes`: what images may take that are read before they are asked for."""
        self._process = process
        self._limit_bytes, self._ahead_bytes = limit_bytes, ahead_bytes
        self._kept_bytes = self._image_bytes = 0
        self._pixels: dict[str, Tensor] = {}
        self._expected: dict[str, Future[Tensor]] = {}
        self._readers = ThreadPoolExecutor(READERS, "images")  # no thread before it is needed

    @property
    def held_bytes(self) -> int:
        """Of all that is kept or was read ahead."""
        return self._kept_bytes + len(self._expected) * self._image_bytes

    def get(self, example: Example) -> Tensor:
        """The example's pixels. Raises DataError if its image is missing or broken."""
        pixels = self._pixels.get(example.image_name)
        if pixels is None:
            pixels = self._read_ahead(example)
            pixels = self.read(example) if pixels is None else pixels
            if self._kept_bytes + pixels.nbytes <= self._limit_bytes:
                self._pixels[example.image_name] = pixels
                self._kept_bytes += pixels.nbytes
        return pixels

    def expect(self, examples: Sequence[Example]) -> None:
        """Begins to read what will be asked for next, beside what the device computes now."""
        most = self._ahead_bytes // max(1, self._image_bytes)
        for example in examples[:most]:
            name = example.image_name
            if name not in self._pixels and name not in self._expected:
                self._expected[name] = self._readers.submit(self.read, example)
        while len(self._expected) > most:  # of trials that ended before they asked
            self._expected.pop(next(iter(self._expected))).cancel()

    def _read_ahead(self, example: Example) -> Tensor | None:
        """Pixels that were expected; None if they were not, or could not be read at that time."""
        expected = self._expected.pop(example.image_name, None)
        try:
            return None if expected is None else expected.result()
        except Exception:  # whatever it was, it may be over by now
            return None

    def read(self, example: Example) -> Tensor:
        """The example's pixels from its image; nothing is kept."""
        if example.image is None:
            raise DataError(f"{example.name}: it has no image; use a data.format with images")
        pixels = self._process(example.image())
        self._image_bytes = pixels.nbytes
        return pixels
