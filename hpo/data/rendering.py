"""Decoded images as a viewer shows them: upright, in 8-bit sRGB, transparency over white.

Pillow's own `convert("RGB")` clips 16-bit and float values, drops alpha so that hidden colours
appear, and leaves EXIF orientation and colour profiles alone.

Values without a white of their own (float, 32-bit and signed integers) are scaled by the range of
the image. Sixteen bits are scaled by their full range, as the formats define it.
"""

import struct
import warnings
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags, Image, ImageCms

RENDERING = "viewer 1"
"""Version of what is made of a file's pixels; whatever is computed from them depends on it."""
TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
SIDEWAYS = (5, 6, 7, 8)
GREY = ("1", "L", "LA")
WHITE_16 = 65535
WHITE_12 = 4095
DARK = 16  # of 256 levels: 12 bits or fewer stored in 16 reach no further
LOW_BITS = {"L;2": 85, "L;4": 17}  # raw modes, and what their values are multiplied by
TOLERANCE = 2  # levels by which sRGB profiles of different makers differ
PHOTOMETRIC, SAMPLE_FORMAT = 262, 339  # TIFF tags

warnings.filterwarnings("ignore", module=r"PIL\.")  # of metadata: damaged pixels are errors


class RenderingError(ValueError):
    """The pixels have no meaning that can be shown: why, and what to do."""

    def __init__(self, why: str, remedy: str = "save it with 8 bits a channel, as PNG") -> None:
        super().__init__(why, remedy)


def orientation_of(image: Image.Image) -> int:
    """The EXIF orientation that is still to be applied, 1 for none; decodes no pixels."""
    if image.format == "TIFF":
        return 1  # Pillow applies it when it decodes, and says the size after that
    try:
        if image.format == "PNG" and "exif" not in image.info:
            image.info["exif"] = _exif_chunk(Path(str(getattr(image, "filename", ""))))
        value = Image.Image.getexif(image).get(ExifTags.Base.Orientation, 1)
        return value if value in TRANSPOSE else 1
    except Exception:  # metadata may be anything, and the image is fine without
        return 1


def shown_size(image: Image.Image) -> tuple[int, int]:
    """(width, height) of the image once it is upright; decodes no pixels."""
    width, height = image.size
    return (height, width) if orientation_of(image) in SIDEWAYS else (width, height)


def _exif_chunk(path: Path) -> bytes | None:
    """EXIF of a PNG, which may follow the pixels: Pillow would decode them to find it."""
    with path.open("rb") as file:
        file.seek(8)
        while len(head := file.read(8)) == 8:
            length, kind = struct.unpack(">I4s", head)
            if kind == b"eXIf":
                return file.read(length)
            file.seek(length + 4, 1)
    return None


def render(image: Image.Image) -> Image.Image:
    """The first frame of an opened image in RGB, as a viewer shows it.

    Raises:
        RenderingError: its values or its mode have no meaning that can be shown.
        OSError, SyntaxError, ValueError: its data are damaged; other exceptions of decoders, too.
    """
    orientation, raw_mode = orientation_of(image), _raw_mode(image)  # forgotten by `load`
    image.load()
    colours, alpha = _parts(image, raw_mode)
    if raw_mode.startswith("RGB") and ";16" in raw_mode:
        _check_brightness(max(high for _, high in _extrema(colours)), 255)
    shown = _srgb(colours, image.info.get("icc_profile"))
    if alpha is not None:
        white = Image.new("RGB", shown.size, "white")
        white.paste(shown, mask=alpha)
        shown = white
    return shown.transpose(TRANSPOSE[orientation]) if orientation in TRANSPOSE else shown


def _raw_mode(image: Image.Image) -> str:
    """How the file stores a pixel, by Pillow's names, such as `RGB;16B`; empty where unknown."""
    tiles = getattr(image, "tile", ())
    args: Any = tiles[0].args if tiles else ""
    first = args[0] if isinstance(args, tuple) and args else args
    return first if isinstance(first, str) else ""


def _parts(image: Image.Image, raw_mode: str) -> tuple[Image.Image, Image.Image | None]:
    """(colours in L, RGB, CMYK or LAB; alpha in L, or None where all is opaque)."""
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        return _levels(image, raw_mode), _key_alpha(image)
    if image.mode == "La":
        image = image.convert("LA")
    if not image.has_transparency_data:
        return (image if image.mode in ("L", "RGB", "CMYK", "LAB") else _plain(image)), None
    key = image.info.get("transparency")
    if raw_mode in LOW_BITS and isinstance(key, int):
        image.info["transparency"] = key * LOW_BITS[raw_mode]
    if ";16" in raw_mode and isinstance(key, tuple):
        raise RenderingError("one colour of 16 bits a channel is transparent")
    whole = image.convert("RGBA")
    return whole.convert("L" if image.mode in GREY else "RGB"), whole.getchannel("A")


def _plain(image: Image.Image) -> Image.Image:
    """An opaque image of another mode in L or RGB."""
    return image.convert("L" if image.mode in GREY else "RGB")


def _levels(image: Image.Image, raw_mode: str) -> Image.Image:
    """One channel of more than 8 bits in L."""
    values = np.asarray(image)
    tags: Any = getattr(image, "tag_v2", {})
    if image.mode == "I" and tags and tags.get(SAMPLE_FORMAT, (1,))[0] == 1:
        values = values.view(np.uint32)  # Pillow reads unsigned 32 bits as signed ones
    if image.mode == "F" or (image.mode == "I" and image.format != "PPM"):
        levels = _own_range(values)
    else:
        levels = _full_range(values, WHITE_12 if "12" in raw_mode else WHITE_16)
    if tags.get(PHOTOMETRIC) == 0:
        levels = 255 - levels  # white is zero, which Pillow regards up to 8 bits only
    return Image.fromarray(levels)


def _full_range(values: Any, white: int) -> Any:
    """Values from 0 to `white` as 0 to 255."""
    if white == WHITE_16:
        below = values[values < white]  # white itself may mark missing data
        but = ", but for white" if below.size < values.size else ""
        if below.any():
            _check_brightness(int(below.max()), white, but=but)
    table = np.rint(np.arange(white + 1) * (255 / white)).astype(np.uint8)
    return table[np.clip(values, 0, white)]


def _check_brightness(highest: int, white: int, *, but: str = "") -> None:
    """Refuses 16 bits of which only the lower ones are used: nobody says where white is."""
    if highest < (white + 1) // DARK:
        raise RenderingError(
            f"it has 16 bits a value, but its highest is {highest} of {white}{but}: almost black",
            "scale its values to the full range, or save it with 8 bits a channel",
        )


def _own_range(values: Any) -> Any:
    """Values as 0 to 255, from their lowest to their highest."""
    low, high = float(values.min()), float(values.max())
    if not np.isfinite([low, high]).all():
        raise RenderingError("it has values that are NaN or infinite", "replace them by numbers")
    if low == high:
        raise RenderingError(f"all its values are {low:g}, and nothing says how bright that is")
    _check_lone_end(values, low, high)
    share = (values.astype(np.float64) - low) / (high - low)
    return np.rint(share * 255).astype(np.uint8)


def _check_lone_end(values: Any, low: float, high: float) -> None:
    """Refuses a lowest or highest value far from all others: -9999 and the like mark missing data.

    Scaled with it, all others would have nearly the same level.
    """
    inner = values[(values != low) & (values != high)]
    if not inner.size:  # two values, as of a mask
        return
    steps = {low: float(inner.min()) - low, high: high - float(inner.max())}
    end = max(steps, key=steps.__getitem__)
    if steps[end] > (high - low) * (1 - 1 / DARK):
        raise RenderingError(
            f"its value {end:g} is far from all others ({inner.min():g} to {inner.max():g}), as if "
            "it marked missing data",
            "replace that value by one in the range of the others",
        )


def _key_alpha(image: Image.Image) -> Image.Image | None:
    """Alpha of an image in which one grey value of 16 bits is transparent."""
    key = image.info.get("transparency")
    if not isinstance(key, int):
        return None
    opaque = np.asarray(image) != key
    return Image.fromarray(opaque.astype(np.uint8) * 255)


def _extrema(image: Image.Image) -> tuple[tuple[int, int], ...]:
    """(lowest, highest) of each channel."""
    return tuple(channel.getextrema() for channel in image.split())  # type: ignore[misc]


def _srgb(image: Image.Image, profile: object) -> Image.Image:
    """Colours in sRGB; a profile that is damaged or of other colours counts for nothing."""
    transform = None
    if isinstance(profile, bytes) and profile:
        transform = _transform(profile, image.mode)
    if transform is None and image.mode == "LAB":
        transform = _transform(b"", "LAB")
        if transform is None:
            raise RenderingError("its colours are CIELAB, which this Pillow cannot convert")
    if transform is None:
        return image.convert("RGB")
    shown = ImageCms.applyTransform(image, transform)
    assert shown is not None
    return shown


@lru_cache(maxsize=32)
def _transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """From a colour profile to sRGB; None where there is nothing to convert, or no way to.

    Args:
        profile: ICC; empty for CIELAB.
    """
    try:
        source = BytesIO(profile) if profile else ImageCms.createProfile("LAB")
        transform = ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, "RGB")
        return None if _is_identity(transform, mode) else transform
    except (ImageCms.PyCMSError, ImportError, OSError, TypeError, ValueError):
        return None


def _is_identity(transform: ImageCms.ImageCmsTransform, mode: str) -> bool:
    """Whether some colours come out as they went in: most profiles are sRGB by another name."""
    if mode not in ("L", "RGB"):
        return False
    steps = np.array([0, 64, 128, 192, 255], np.uint8)
    grid = np.stack(np.meshgrid(steps, steps, steps), -1).reshape(5, 25, 3)
    probe = Image.fromarray(grid if mode == "RGB" else grid[..., 0].copy())
    shown = ImageCms.applyTransform(probe, transform)
    assert shown is not None
    differences = np.asarray(shown, np.int16) - np.asarray(probe.convert("RGB"), np.int16)
    return int(np.abs(differences).max()) <= TOLERANCE
