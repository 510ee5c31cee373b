"""Images of a data folder: found, checked by their headers, decoded late, for all tasks alike.

Pixels are what `hpo.data.rendering` makes of them.
"""

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from hpo.data.examples import Example
from hpo.data.formats import FORMATS, kind_of
from hpo.data.rendering import RenderingError, render, shown_size
from hpo.digests import file_digest
from hpo.errors import DataError

SHOWN = 3  # names in a message
SOURCE = re.compile(r"^P\d+")
DECODERS = 8  # threads; the largest images take half a gigabyte each
MAX_PIXELS = 178_956_970  # where Pillow, too, refuses an image as a decompression bomb
Image.MAX_IMAGE_PIXELS = None  # it would warn from half of that on, and warnings may be errors


class ImageError(DataError):
    """An image that cannot be opened or shown."""

    def __init__(self, path: Path, why: str, remedy: str = "replace it") -> None:
        self.why = why
        super().__init__(f"{path}: the image cannot be read: {why}; {remedy}")


def source_of(name: str) -> str:
    """What an image was cut from: several crops come from one source image (`P0378_0001`)."""
    source = SOURCE.match(name)
    return source.group() if source else Path(name).stem


def check_images(paths: Iterable[Path], *, lacking: str, where: str) -> None:
    """Reads every image's header.

    Args:
        paths: of the images, all in one folder.
        lacking: what it is for one not to be there, for messages.
        where: the file that these rows lie in.

    Raises:
        DataError: images are missing or cannot be opened; names the first ones.
    """
    wanted = sorted(set(paths))
    folders = {path.parent for path in wanted}
    present = {path for folder in folders if folder.is_dir() for path in folder.iterdir()}
    missing = [path for path in wanted if path not in present]
    if missing:
        raise DataError(
            f"{missing[0].parent}: {len(missing)} {lacking}: "
            f"{_few([path.name for path in missing])}; "
            f"add the images or take their rows out of {where}"
        )
    broken = {path: problem for path in wanted if (problem := _header_problem(path))}
    if broken:
        first, problem = next(iter(broken.items()))
        raise DataError(
            f"{first.parent}: {len(broken)} files are not images: "
            f"{_few([path.name for path in broken])} ({first.name}: {problem}); replace them by "
            f"{', '.join(FORMATS)} of at most {MAX_PIXELS:,} pixels, or take their rows out of "
            f"{where}"
        )


def check_pixels(examples: Iterable[Example]) -> int:
    """Decodes every image of the examples once, several at a time; how many there are.

    Raises:
        DataError: images cannot be read; names the first ones and says how many there are.
    """
    unique = {one.image_name: one for one in examples if one.image is not None}
    with ThreadPoolExecutor(min(DECODERS, os.cpu_count() or 1)) as pool:
        problems = dict(zip(unique, pool.map(_pixel_problem, unique.values()), strict=True))
    raise_problems({name: why for name, why in problems.items() if why}, len(unique))
    return len(unique)


def raise_problems(problems: Mapping[str, str], total: int) -> None:
    """Raises one DataError for the images that cannot be read, if there are any.

    Args:
        problems: a sentence about each, by the image's name.
        total: of images.
    """
    if not problems:
        return
    first = next(iter(problems.values()))
    if len(problems) == 1:
        raise DataError(first)
    raise DataError(
        f"{len(problems)} of {total} images cannot be read: {_few(list(problems))}; "
        f"the first: {first}"
    )


def _few(names: list[str]) -> str:
    return ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")


def _header_problem(path: Path) -> str:
    """Why a file cannot be opened as an image; empty if it can."""
    try:
        with _opened(path):
            return ""
    except ImageError as error:
        return error.why
    except DataError as error:
        return str(error)


def _pixel_problem(example: Example) -> str:
    """Why an example's image cannot be decoded; empty if it can."""
    assert example.image is not None
    try:
        example.image()
        return ""
    except DataError as error:
        return str(error)
    except MemoryError:
        return f"{example.name}: its image does not fit into the memory; scale it down"


def load_image(path: Path) -> Image.Image:
    """The image in RGB, as a viewer shows it.

    Raises:
        DataError: it is missing, damaged, too large, or nothing that can be shown.
    """
    with _opened(path) as image:
        return render(image)


def image_size(path: Path) -> tuple[int, int]:
    """(width, height) in pixels that `load_image` gives, of the header alone.

    Raises:
        DataError: the image is missing or cannot be opened.
    """
    with _opened(path) as image:
        return shown_size(image)


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """An image of which the header is read; what goes wrong inside becomes a DataError."""
    try:
        with Image.open(path, formats=FORMATS) as image:
            _check_pixel_count(path, image.size)
            yield image
    except (DataError, MemoryError):
        raise
    except FileNotFoundError as error:
        raise DataError(f"{path}: the image is gone; restore it") from error
    except UnidentifiedImageError as error:
        kind, remedy = kind_of(path)
        raise ImageError(path, f"it is {kind}", remedy) from error
    except RenderingError as error:
        raise ImageError(path, *error.args) from error
    except Exception as error:  # decoders raise nearly anything where data are damaged
        raise ImageError(path, _reason(error)) from error


def _reason(error: Exception) -> str:
    """What a decoder's exception says about the file."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = next(iter(str(error).splitlines()), "") or type(error).__name__
    return f"it is cut off or damaged ({text})"


def _check_pixel_count(path: Path, size: tuple[int, int]) -> None:
    width, height = size
    if width * height > MAX_PIXELS:
        raise ImageError(
            path,
            f"it has {width} x {height} = {width * height:,} pixels, and at most {MAX_PIXELS:,} "
            "are decoded",
            "scale it down",
        )


def image_digest(path: Path) -> str:
    """SHA-256 of the file, which changes when the file does."""
    try:
        return file_digest(path)
    except OSError:
        return "not there"
