"""Preprocessed images, read when first needed and kept within a limit."""

from collections.abc import Callable

from PIL import Image
from torch import Tensor

from hpo.data import Example
from hpo.errors import DataError


class PixelCache:
    """Pixels by image; once full, further images are read every time."""

    def __init__(self, process: Callable[[Image.Image], Tensor], limit_bytes: int) -> None:
        self._process = process
        self._limit_bytes = limit_bytes
        self.held_bytes = 0
        self._pixels: dict[str, Tensor] = {}

    def get(self, example: Example) -> Tensor:
        """The example's pixels. Raises DataError if its image is missing or broken."""
        pixels = self._pixels.get(example.image_name)
        if pixels is None:
            pixels = self.read(example)
            if self.held_bytes + pixels.nbytes <= self._limit_bytes:
                self._pixels[example.image_name] = pixels
                self.held_bytes += pixels.nbytes
        return pixels

    def read(self, example: Example) -> Tensor:
        """The example's pixels from its image; nothing is kept."""
        if example.image is None:
            raise DataError(f"{example.name}: it has no image; use a data.format with images")
        return self._process(example.image())
