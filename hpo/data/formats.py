"""Image formats that are decoded, and the names of files that are something else.

Only raster formats with one meaning are in the list: Pillow alone would also run Ghostscript on
an EPS file, or take nearly any bytes for a TGA.
"""

from pathlib import Path

FORMATS = ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "AVIF", "JPEG2000", "PPM")
"""By Pillow's names. JPEG includes MPO, of which the first picture counts."""
REMEDY = "save it as PNG or JPEG"
HEAD_BYTES = 512

SIGNATURES: tuple[tuple[bytes, str, str], ...] = (
    (b"version https://git-lfs", "a git-lfs pointer", "fetch the file itself with git lfs pull"),
    (b"%PDF", "a PDF document", REMEDY),
    (b"%!PS", "a PostScript file (EPS)", REMEDY),
    (b"\xc5\xd0\xd3\xc6", "a PostScript file (EPS)", REMEDY),
    (b"8BPS", "a Photoshop file (PSD)", REMEDY),
    (b"\x00\x00\x01\x00", "an icon (ICO)", REMEDY),
    (b"\xff\x0a", "a JPEG XL file", REMEDY),
    (b"\x00\x00\x00\x0cJXL ", "a JPEG XL file", REMEDY),
    (b"PK\x03\x04", "a ZIP archive", "unpack it"),
    (b"\x1f\x8b", "a gzip file", "unpack it"),
    (b"\x93NUMPY", "a NumPy array", REMEDY),
    (b"\x89HDF", "an HDF5 file", REMEDY),
    (b"SIMPLE  =", "a FITS file", REMEDY),
    (b"\x89PNG", "a PNG with a damaged header", "replace it"),
    (b"\xff\xd8", "a JPEG with a damaged header", "replace it"),
    (b"II*\x00", "a TIFF of a layout that is not read", "save it as PNG or as plain TIFF"),
    (b"MM\x00*", "a TIFF of a layout that is not read", "save it as PNG or as plain TIFF"),
    (b"GIF8", "a GIF with a damaged header", "replace it"),
    (b"BM", "a BMP of a layout that is not read", REMEDY),
)
"""(first bytes, what the file is, what to do)"""
MARKUP = ((b"<svg", "an SVG drawing", REMEDY), (b"<html", "an HTML page", "download it again"))
HEIF_BRANDS = (b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1")


def kind_of(path: Path) -> tuple[str, str]:
    """(what a file is that no decoder takes, what to do), by its first bytes.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
    if not head.strip(b"\x00"):
        return ("empty" if not head else "all zero bytes"), "replace it"
    if head[4:8] == b"ftyp" and head[8:12] in HEIF_BRANDS:
        return "a HEIC file", REMEDY
    if head[128:132] == b"DICM":
        return "a DICOM file", REMEDY
    for start, kind, remedy in SIGNATURES:
        if head.startswith(start):
            return kind, remedy
    for tag, kind, remedy in MARKUP:
        if tag in head.lower():
            return kind, remedy
    return "no image of a known format", f"{REMEDY}, or replace it"
