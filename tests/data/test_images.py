"""Files that are no images, or damaged, or too large: each named in one sentence."""

import random
import struct
import subprocess
import sys
import zlib

import pytest
from PIL import Image

from hpo.data import Example
from hpo.data.images import MAX_PIXELS, check_images, check_pixels, image_size, load_image
from hpo.errors import DataError
from tests.data.complaints import sentence

OTHERS = {
    "empty": b"",
    "all zero bytes": bytes(300),
    "a HEIC file": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic",
    "an SVG drawing": b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"/>',
    "a PDF document": b"%PDF-1.7\n",
    "a PostScript file (EPS)": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
    "an HTML page": b"<!DOCTYPE html>\n<HTML><body>404</body></HTML>",
    "a git-lfs pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
    "a Photoshop file (PSD)": b"8BPS\0\1" + bytes(30),
    "a DICOM file": bytes(127) + b"xDICM",
    "a NumPy array": b"\x93NUMPY\1\0",
    "a PNG with a damaged header": b"\x89PNG\r\n\x1a\nxxxx",
    "a JPEG with a damaged header": b"\xff\xd8\xff\xe0",
    "no image of a known format": b"just words",
}
ENDINGS = ("png", "jpg", "gif", "bmp", "tif", "webp", "avif", "jp2", "ppm")


def chunk(kind, content):
    check = struct.pack(">I", zlib.crc32(kind + content))
    return struct.pack(">I", len(content)) + kind + content + check


def grey_png(path, width, height, rows=0):
    """A PNG of one bit a pixel with so many black rows, and what its header claims."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(bytes((width + 7) // 8 + 1) * rows))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + pixels + chunk(b"IEND", b""))


def example(path):
    def image():
        return load_image(path)

    return Example(name=path.name, group="g", prompt="p", target="t", content=str, image=image)


@pytest.mark.parametrize(("kind", "content"), OTHERS.items())
@pytest.mark.parametrize("look", [load_image, image_size])
def test_what_is_no_image_is_named_by_what_it_is(tmp_path, kind, content, look):
    path = tmp_path / "P0001_0001.jpg"
    path.write_bytes(content)
    text = sentence(lambda: look(path), DataError)
    assert text.startswith(f"{path}: the image cannot be read: it is {kind}; ")


def test_no_program_is_run_for_a_file_that_is_one(tmp_path):
    path = tmp_path / "a.eps"
    Image.new("RGB", (8, 8)).save(path)
    assert "PostScript" in sentence(lambda: load_image(path), DataError)


@pytest.mark.parametrize("ending", ["ico", "tga", "pcx", "im"])
def test_formats_that_nobody_has_checked_are_refused_with_a_remedy(tmp_path, ending):
    path = tmp_path / f"a.{ending}"
    Image.new("RGB", (16, 16)).save(path)
    assert "save it as PNG or JPEG" in sentence(lambda: load_image(path), DataError)


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_file_that_is_cut_off_is_named_whatever_its_format(tmp_path, ending):
    path = tmp_path / f"a.{ending}"
    Image.effect_noise((64, 64), 90).convert("RGB").save(path)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    text = sentence(lambda: load_image(path), DataError)
    assert text.startswith(f"{path}: the image cannot be read: it ") and "replace it" in text


@pytest.mark.parametrize("ending", ENDINGS)
def test_whatever_is_done_to_a_file_ends_in_an_image_or_one_sentence(tmp_path, ending):
    rng, path = random.Random(ending), tmp_path / f"a.{ending}"
    Image.effect_noise((32, 32), 90).convert("RGB").save(path)
    content = path.read_bytes()
    for _ in range(40):
        mutated = bytearray(content)
        for _ in range(rng.randint(1, 8)):
            mutated[rng.randrange(len(mutated))] = rng.randrange(256)
        path.write_bytes(mutated[: rng.randint(0, len(mutated))] if rng.random() < 0.3 else mutated)
        try:
            assert load_image(path).mode == "RGB"
        except DataError as error:
            assert str(path) in str(error) and "\n" not in str(error)


def test_an_image_over_the_limit_is_named_with_its_size_the_limit_and_the_remedy(tmp_path):
    path = tmp_path / "a.png"
    grey_png(path, 20_000, 10_000)
    for look in (load_image, image_size):
        text = sentence(lambda look=look: look(path), DataError)
        assert "20000 x 10000 = 200,000,000 pixels" in text
        assert f"{MAX_PIXELS:,}" in text and "scale it down" in text
    text = sentence(lambda: check_images([path], lacking="missing", where="rows.json"), DataError)
    assert "a.png" in text and "200,000,000" in text and "rows.json" in text


def test_an_image_that_pillow_warns_of_is_read_whatever_is_done_with_warnings(tmp_path):
    path = tmp_path / "a.png"
    grey_png(path, 100_000, 1000, rows=1000)
    code = (
        "import pathlib, sys; from hpo.data.images import load_image;"
        "print(load_image(pathlib.Path(sys.argv[1])).size)"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error::RuntimeWarning", "-c", code, path],
        capture_output=True,
        text=True,
    )
    assert (done.stdout, done.stderr) == ("(100000, 1000)\n", "")


def test_headers_that_are_wrong_are_counted_and_the_first_is_explained(tmp_path):
    paths = [tmp_path / f"{name}.png" for name in "abcde"]
    for path in paths[:4]:
        path.write_bytes(b"%PDF-1.7")
    Image.new("RGB", (4, 4)).save(paths[4])
    text = sentence(lambda: check_images(paths, lacking="missing", where="rows.json"), DataError)
    assert "4 files are not images: a.png, b.png, c.png, ... (a.png: it is a PDF document)" in text
    assert "take their rows out of rows.json" in text


def test_pixels_that_cannot_be_read_are_counted_and_the_first_is_explained(tmp_path):
    paths = [tmp_path / f"{number}.png" for number in range(12)]
    for path in paths:
        Image.effect_noise((32, 32), 90).save(path)
    examples = [example(path) for path in paths]
    assert check_pixels([*examples, *examples]) == 12
    for path in (paths[3], paths[4], paths[7], paths[9]):
        path.write_bytes(path.read_bytes()[:400])
    text = sentence(lambda: check_pixels(examples), DataError)
    assert text.startswith("4 of 12 images cannot be read: 3.png, 4.png, 7.png, ...; the first: ")
    assert f"{paths[3]}: the image cannot be read" in text
    for path in (paths[4], paths[7], paths[9]):
        Image.new("L", (8, 8)).save(path)
    assert sentence(lambda: check_pixels(examples), DataError).startswith(str(paths[3]))


def test_texts_have_no_pixels_to_check():
    text = Example(name="row 1", group="g", prompt="p", target="t", content=str)
    assert check_pixels([text]) == 0
