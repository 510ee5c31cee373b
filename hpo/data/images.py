"""Images of a data folder: found, checked by their headers, read late."""

import re
from collections.abc import Iterable
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from hpo.digests import file_digest
from hpo.errors import DataError

SHOWN = 3  # names in a message
SOURCE = re.compile(r"^P\d+")


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
        DataError: images are missing or broken; names the first ones.
    """
    wanted = sorted(set(paths))
    folders = {path.parent for path in wanted}
    present = {path for folder in folders if folder.is_dir() for path in folder.iterdir()}
    missing = [path for path in wanted if path not in present]
    if missing:
        raise DataError(
            f"{missing[0].parent}: {len(missing)} {lacking}: {_few(missing)}; "
            f"add the images or take their rows out of {where}"
        )
    broken = [path for path in wanted if not is_image(path)]
    if broken:
        raise DataError(
            f"{broken[0].parent}: {len(broken)} files are not images: {_few(broken)}; replace "
            f"them or take their rows out of {where}"
        )


def _few(paths: list[Path]) -> str:
    return ", ".join(path.name for path in paths[:SHOWN]) + (", ..." if len(paths) > SHOWN else "")


def is_image(path: Path) -> bool:
    """Whether the file begins as an image does."""
    try:
        with Image.open(path):
            return True
    except (UnidentifiedImageError, OSError, Image.DecompressionBombError):
        return False


def load_image(path: Path) -> Image.Image:
    """The image in RGB.

    Raises:
        DataError: it is missing or broken.
    """
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except FileNotFoundError as error:
        raise _gone(path) from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise _unreadable(path, error) from error


def image_size(path: Path) -> tuple[int, int]:
    """(width, height) in pixels, of the header alone.

    Raises:
        DataError: the image is missing or broken.
    """
    try:
        with Image.open(path) as image:
            return image.size
    except FileNotFoundError as error:
        raise _gone(path) from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise _unreadable(path, error) from error


def image_digest(path: Path) -> str:
    """SHA-256 of the file, which changes when the file does."""
    try:
        return file_digest(path)
    except OSError:
        return "not there"


def _gone(path: Path) -> DataError:
    return DataError(f"{path}: the image is gone; restore it")


def _unreadable(path: Path, error: Exception) -> DataError:
    return DataError(f"{path}: the image cannot be read: {error}; replace it")
