"""Pixels as a viewer shows them, whatever the file stores."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageOps

from hpo.data.images import image_size, load_image
from hpo.errors import DataError
from tests.data.profiles import display_p3, linear_grey

RAMP = np.arange(65536, dtype=np.uint16).reshape(256, 256)
GREY = np.arange(256, dtype=np.uint8).reshape(16, 16)
CLEAR_RED = np.array([[[255, 0, 0, 255], [255, 0, 0, 128], [255, 0, 0, 0]]], np.uint8)
ON_WHITE = [(255, 0, 0), (255, 127, 127), (255, 255, 255)]


def saved(folder, values, name, **options):
    """What is loaded of an image that was saved."""
    image = values if isinstance(values, Image.Image) else Image.fromarray(values)
    image.save(folder / name, **options)
    return load_image(folder / name)


def row(image):
    return [image.getpixel((x, 0)) for x in range(image.width)]


def levels(image):
    pixels = np.asarray(image)
    assert image.mode == "RGB" and (pixels == pixels[..., :1]).all()
    return pixels[..., 0]


def complaint(folder, values, name, **options):
    with pytest.raises(DataError) as caught:
        saved(folder, values, name, **options)
    text = str(caught.value)
    assert str(folder / name) in text and "\n" not in text
    return text


def quarters():
    image = Image.new("RGB", (48, 32), "white")
    for box, colour in (((0, 0, 24, 16), "red"), ((24, 0, 48, 16), "lime"), ((0, 16, 24, 32), 0)):
        image.paste(colour, box)
    return image


@pytest.mark.parametrize("ending", ["jpg", "png", "tif", "webp", "avif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_image_is_upright_and_its_size_is_that_of_its_header(tmp_path, orientation, ending):
    exif = Image.Exif()
    exif[0x0112] = orientation
    shown = saved(tmp_path, quarters(), f"a.{ending}", exif=exif)
    with Image.open(tmp_path / f"a.{ending}") as image:
        expected = ImageOps.exif_transpose(image).convert("RGB")
    assert shown.size == image_size(tmp_path / f"a.{ending}") == expected.size
    assert shown.size == ((32, 48) if orientation >= 5 else (48, 32))
    assert shown.tobytes() == expected.tobytes()


def test_the_corner_that_is_first_in_the_file_is_where_the_camera_says(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # the first row is the right edge
    shown = saved(tmp_path, quarters(), "a.png", exif=exif)
    assert shown.getpixel((31, 0)) == (255, 0, 0) and shown.getpixel((31, 47)) == (0, 255, 0)


def chunk(kind, content):
    check = struct.pack(">I", zlib.crc32(kind + content))
    return struct.pack(">I", len(content)) + kind + content + check


def test_an_orientation_after_the_pixels_of_a_png_counts(tmp_path):
    path = tmp_path / "a.png"
    quarters().save(path)
    exif = Image.Exif()
    exif[0x0112] = 8
    plain, end = path.read_bytes()[:-12], path.read_bytes()[-12:]
    path.write_bytes(plain + chunk(b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0")) + end)
    assert load_image(path).size == image_size(path) == (32, 48)


@pytest.mark.parametrize("exif", [b"Exif\0\0", b"Exif\0\0MM\0*\0\0\xff\xff", b"junk", b"\xff" * 99])
@pytest.mark.parametrize("ending", ["jpg", "png", "webp"])
def test_damaged_exif_counts_for_nothing(tmp_path, exif, ending):
    assert saved(tmp_path, quarters(), f"a.{ending}", exif=exif).size == (48, 32)
    assert image_size(tmp_path / f"a.{ending}") == (48, 32)


@pytest.mark.parametrize("value", [0, 9, 400])
def test_an_orientation_that_means_nothing_counts_for_nothing(tmp_path, value):
    exif = Image.Exif()
    exif[0x0112] = value
    assert saved(tmp_path, quarters(), "a.jpg", exif=exif).size == (48, 32)


@pytest.mark.parametrize(
    ("name", "order", "options"),
    [
        ("a.png", "<u2", {}),
        ("a.tif", "<u2", {}),
        ("a.tif", ">u2", {}),
        ("a.tif", "<u2", {"compression": "tiff_lzw"}),
        ("a.pgm", "<u2", {}),
        ("a.jp2", "<u2", {"irreversible": False}),
    ],
)
def test_sixteen_bits_keep_all_levels_that_eight_have(tmp_path, name, order, options):
    shown = levels(saved(tmp_path, RAMP.astype(order), name, **options))
    assert (shown == np.rint(RAMP / 257)).all()


def test_sixteen_bits_of_which_white_is_zero_are_turned_round(tmp_path):
    shown = levels(saved(tmp_path, RAMP, "a.tif", tiffinfo={262: 0}))
    assert (shown == 255 - np.rint(RAMP / 257)).all()


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
@pytest.mark.parametrize("highest", [1, 255, 2047, 4095])
def test_twelve_bits_in_sixteen_are_refused_as_nobody_says_so(tmp_path, name, highest):
    text = complaint(tmp_path, np.minimum(RAMP, highest), name)
    assert f"its highest is {highest} of 65535" in text and "8 bits" in text


def test_twelve_bits_with_a_mark_for_missing_data_are_refused(tmp_path):
    values = RAMP // 16
    values[0, 0] = 65535
    assert "its highest is 4095 of 65535, but for white" in complaint(tmp_path, values, "a.png")


def test_a_mask_in_sixteen_bits_is_black_and_white(tmp_path):
    shown = levels(saved(tmp_path, RAMP // 32768 * 65535, "a.png"))
    assert (shown == RAMP // 32768 * 255).all()


def test_black_in_sixteen_bits_is_black(tmp_path):
    assert not levels(saved(tmp_path, RAMP * 0, "a.png")).any()


def tiff(path, pixels, width, *, bits, photometric, extra=None):
    """A TIFF of one row, of kinds that Pillow reads and does not write."""
    count = len(bits)
    entries = [(256, width, 1), (257, 1, 1), (259, 1, 1), (262, photometric, 1), (273, 8, 1)]
    entries += [(277, count, 1), (278, 1, 1), (279, len(pixels), 1)]
    entries += [] if extra is None else [(338, extra, 1)]
    packed = struct.pack(f"<{count}H", *bits)
    pixels += bytes(-len(pixels) % 4)
    place = bits[0] if count == 1 else int.from_bytes(packed + bytes(2), "little")
    if len(packed) > 4:
        place, pixels = 8 + len(pixels), pixels + packed
    entries.append((258, place, count))
    table = b"".join(
        struct.pack("<HHII", tag, 3, number, value) for tag, value, number in sorted(entries)
    )
    head = b"II*\0" + struct.pack("<I", 8 + len(pixels))
    path.write_bytes(head + pixels + struct.pack("<H", len(entries)) + table + bytes(4))
    return load_image(path)


def test_a_tiff_of_twelve_bits_has_their_range(tmp_path):
    pixels = bytes([0x00, 0x05, 0x55, 0xAA, 0xAF, 0xFF])
    shown = tiff(tmp_path / "a.tif", pixels, 4, bits=[12], photometric=1)
    assert levels(shown).tolist() == [[0, 85, 170, 255]]


@pytest.mark.parametrize("name", ["a.tif", "a.pfm"])
def test_float_is_scaled_by_its_own_range(tmp_path, name):
    values = RAMP.astype(np.float32) / 65535 * 7 - 3
    assert (levels(saved(tmp_path, values, name)) == np.rint(RAMP / 257)).all()


@pytest.mark.parametrize("values", [RAMP.astype(np.int32) - 30_000, RAMP.astype(np.int32) * 30_000])
def test_integers_without_a_white_are_scaled_by_their_own_range(tmp_path, values):
    assert (levels(saved(tmp_path, values, "a.tif")) == np.rint(RAMP / 257)).all()


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_float_that_is_not_finite_is_refused(tmp_path, wrong):
    values = np.array([[0.0, wrong, 1.0]], np.float32)
    assert "NaN or infinite" in complaint(tmp_path, values, "a.tif")


@pytest.mark.parametrize("mark", [-9999, -3.4e38, 1e20])
def test_float_with_a_mark_for_missing_data_is_refused(tmp_path, mark):
    values = RAMP.astype(np.float32) / 65535
    values[0, :5] = mark
    assert f"its value {mark:g} is far from all others" in complaint(tmp_path, values, "a.tif")


def test_a_mask_of_float_is_black_and_white(tmp_path):
    shown = levels(saved(tmp_path, (RAMP > 9).astype(np.float32), "a.tif"))
    assert (shown == (RAMP > 9) * 255).all()


def test_float_without_a_range_is_refused(tmp_path):
    assert "all its values are 0.5" in complaint(tmp_path, np.full((2, 2), 0.5, "f4"), "a.tif")


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.webp", "a.jp2"])
def test_transparency_is_white_and_never_a_hidden_colour(tmp_path, name):
    options = {"lossless": True, "exact": True} if name == "a.webp" else {}
    assert row(saved(tmp_path, CLEAR_RED, name, **options)) == ON_WHITE


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_transparent_grey_is_over_white(tmp_path, name):
    image = Image.new("LA", (3, 1), (100, 255))
    image.putalpha(Image.fromarray(np.array([[255, 128, 0]], np.uint8)))
    assert row(saved(tmp_path, image, name)) == [(v, v, v) for v in (100, 177, 255)]


def test_alpha_that_colours_were_multiplied_by_is_taken_out(tmp_path):
    path = tmp_path / "a.tif"
    pixels = bytes([255, 0, 0, 255, 128, 0, 0, 128, 0, 0, 0, 0])
    shown = tiff(path, pixels, 3, bits=[8] * 4, photometric=2, extra=1)
    assert row(shown) == ON_WHITE
    shown = tiff(path, bytes([100, 255, 50, 128, 0, 0]), 3, bits=[8] * 2, photometric=1, extra=1)
    assert levels(shown).tolist() == [[100, 177, 255]]


def test_sixteen_bits_a_colour_keep_their_levels(tmp_path):
    pixels = struct.pack("<6H", 65535, 32768, 0, 100, 256, 25700)
    shown = tiff(tmp_path / "a.tif", pixels, 2, bits=[16] * 3, photometric=2)
    assert row(shown) == [(255, 128, 0), (0, 1, 100)]
    with pytest.raises(DataError, match="highest is 15 of 255"):
        pixels = struct.pack("<3H", 4095, 2000, 0)
        tiff(tmp_path / "a.tif", pixels, 1, bits=[16] * 3, photometric=2)


def palette():
    image = Image.new("P", (4, 1))
    image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255, 9, 9, 9])
    image.putdata([0, 1, 2, 3])
    return image


@pytest.mark.parametrize("name", ["a.png", "a.gif"])
def test_a_palette_keeps_its_colours_and_what_is_clear_is_white(tmp_path, name):
    red, blue, dark = (255, 0, 0), (0, 0, 255), (9, 9, 9)
    assert row(saved(tmp_path, palette(), name)) == [red, (0, 255, 0), blue, dark]
    clear = saved(tmp_path, palette(), name, transparency=1)
    assert row(clear) == [red, (255, 255, 255), blue, dark]


def test_each_colour_of_a_palette_has_its_own_alpha(tmp_path):
    shown = saved(tmp_path, palette(), "a.png", transparency=bytes([0, 128, 255, 255]))
    assert row(shown) == [(255, 255, 255), (127, 255, 127), (0, 0, 255), (9, 9, 9)]


@pytest.mark.parametrize(
    ("values", "key", "options"),
    [
        (np.array([[0, 7, 255]], np.uint8), 7, {}),
        (np.array([[0, 4096, 65535]], np.uint16), 4096, {}),
        (np.array([[0, 85, 255]], np.uint8), 1, {"bits": 2}),
        (np.array([[0, 85, 255]], np.uint8), 5, {"bits": 4}),
    ],
)
def test_one_grey_that_is_transparent_is_white(tmp_path, values, key, options):
    shown = saved(tmp_path, values, "a.png", transparency=key, **options)
    assert levels(shown).tolist() == [[0, 255, 255]]


def test_one_colour_that_is_transparent_is_white(tmp_path):
    pixels = np.array([[[1, 2, 3], [4, 5, 6]]], np.uint8)
    assert row(saved(tmp_path, pixels, "a.png", transparency=(4, 5, 6))) == [(1, 2, 3), (255,) * 3]


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.bmp", "a.gif", "a.pbm"])
def test_one_bit_is_black_and_white(tmp_path, name):
    image = Image.fromarray(np.array([[0, 255, 0]], np.uint8)).convert("1")
    assert row(saved(tmp_path, image, name)) == [(0,) * 3, (255,) * 3, (0,) * 3]


@pytest.mark.parametrize("name", ["a.tif", "a.jpg"])
def test_inks_are_colours(tmp_path, name):
    image = Image.new("CMYK", (16, 16), (0, 255, 255, 0))  # magenta and yellow
    red, green, blue = saved(tmp_path, image, name).getpixel((8, 8))
    assert red > 250 and max(green, blue) < 6


@pytest.mark.parametrize("mode", ["YCbCr", "LAB"])
def test_other_colour_spaces_are_converted(tmp_path, mode):
    image = Image.new("RGB", (8, 8), (200, 100, 50))
    if mode == "LAB":
        spaces = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
        image = ImageCms.profileToProfile(image, *spaces, outputMode="LAB")
    else:
        image = image.convert(mode)
    found = saved(tmp_path, image, "a.tif").getpixel((0, 0))
    assert np.abs(np.array(found) - (200, 100, 50)).max() <= 3


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.tif", "a.webp"])
def test_a_wide_gamut_is_converted_to_srgb(tmp_path, name):
    options = {"quality": 100} if name in ("a.jpg", "a.webp") else {}
    image = Image.new("RGB", (16, 16), (100, 200, 100))
    shown = saved(tmp_path, image, name, icc_profile=display_p3(), **options)
    red, green, blue = shown.getpixel((8, 8))
    assert red < 70 and 198 <= green <= 206 and 85 <= blue <= 98  # by the published matrices


def test_grey_of_another_gamma_is_converted(tmp_path):
    shown = saved(tmp_path, GREY, "a.png", icc_profile=linear_grey())
    assert shown.getpixel((0, 8))[0] == pytest.approx(188, abs=2)  # half of the light
    assert shown.getpixel((15, 15)) == (255, 255, 255)


def test_transparency_and_profile_go_together(tmp_path):
    image = Image.new("LA", (3, 1), (128, 255))
    image.putalpha(Image.fromarray(np.array([[255, 128, 0]], np.uint8)))
    shown = levels(saved(tmp_path, image, "a.png", icc_profile=linear_grey()))
    assert np.abs(shown - np.array([[188, 221, 255]])).max() <= 2


@pytest.mark.parametrize("name", ["a.png", "a.jpg"])
def test_the_srgb_profile_changes_nothing(tmp_path, name):
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    image = Image.effect_noise((32, 32), 90).convert("RGB")
    assert saved(tmp_path, image, f"1{name}", icc_profile=srgb).tobytes() == (
        saved(tmp_path, image, f"2{name}").tobytes()
    )


@pytest.mark.parametrize("profile", [b"junk", b"\0" * 200, linear_grey(), display_p3()[:150]])
def test_a_profile_that_is_damaged_or_of_other_colours_counts_for_nothing(tmp_path, profile):
    image = Image.new("RGB", (4, 4), (10, 200, 30))
    assert saved(tmp_path, image, "a.png", icc_profile=profile).getpixel((0, 0)) == (10, 200, 30)


@pytest.mark.parametrize("name", ["a.gif", "a.png", "a.webp", "a.tif"])
def test_of_several_frames_the_first_is_shown(tmp_path, name):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "lime", "blue")]
    options = {"lossless": True} if name == "a.webp" else {}
    shown = saved(tmp_path, frames[0], name, save_all=True, append_images=frames[1:], **options)
    assert shown.getpixel((4, 4)) == (255, 0, 0)


def test_of_several_pictures_of_a_camera_the_first_is_shown(tmp_path):
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=frames[1:])
    red, _, blue = load_image(tmp_path / "a.jpg").getpixel((8, 8))
    assert red > 250 and blue < 5


FIELD = {
    "P9001_exif6.jpg": ((32, 64), None),
    "P9002_16bit.png": ((64, 64), 64),
    "P9012_16bit.tif": ((64, 64), 64),
    "P9011_float.tif": ((64, 64), 64),
    "P9003_rgba.png": ((64, 64), None),
    "P9004_palette.png": ((64, 64), None),
    "P9005_la.png": ((64, 64), None),
    "P9006_cmyk.jpg": ((64, 64), None),
}


@pytest.mark.parametrize(("name", "expected"), FIELD.items())
def test_the_images_of_public_reports_are_shown_rightly(shared, name, expected):
    path, (size, count) = shared / "field_cases" / "images" / name, expected
    shown = load_image(path)
    assert shown.size == image_size(path) == size
    if count:
        assert len(np.unique(levels(shown))) == count and levels(shown).max() == 255
    with Image.open(path) as image:
        if image.has_transparency_data:
            clear = np.asarray(image.convert("RGBA"))[..., 3] == 0
            assert clear.any() and (np.asarray(shown)[clear] == 255).all()
