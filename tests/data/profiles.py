"""ICC profiles made by hand: Pillow itself makes none but sRGB and CIELAB."""

import struct

P3 = (
    (0.515102, 0.241182, -0.001050),
    (0.291965, 0.692236, 0.041885),
    (0.157153, 0.066584, 0.784073),
)
"""XYZ of the primaries of Display P3 at D50."""
D50 = (0.9642, 1.0, 0.8249)


def _xyz(values):
    return b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(value * 65536) for value in values))


def _gamma(value):
    return b"curv\0\0\0\0" + struct.pack(">IH", 1, round(value * 256)) + b"\0\0"


def _text(kind, words):
    body = words.encode() + b"\0"
    if kind == "desc":
        return b"desc\0\0\0\0" + struct.pack(">I", len(body)) + body + bytes(78)
    return b"text\0\0\0\0" + body


def _profile(space, tags):
    tags = [("desc", _text("desc", space)), ("cprt", _text("text", "none")), *tags]
    table, content, offset = b"", b"", 128 + 4 + 12 * len(tags)
    for name, body in tags:
        body += bytes(-len(body) % 4)
        table += struct.pack(">4sII", name.encode(), offset + len(content), len(body))
        content += body
    head = struct.pack(
        ">I4sI4s4s4s12s4sIIII8sI3i48s",
        offset + len(content), b"none", 0x02400000, b"mntr", space.encode(), b"XYZ ", bytes(12),
        b"acsp", 0, 0, 0, 0, bytes(8), 0, *(round(v * 65536) for v in D50), bytes(48),
    )  # fmt: skip
    return head[:128] + struct.pack(">I", len(tags)) + table + content


def display_p3():
    """Wider primaries than sRGB, gamma 2.2."""
    primaries = [(f"{name}XYZ", _xyz(xyz)) for name, xyz in zip("rgb", P3, strict=True)]
    curves = [(f"{name}TRC", _gamma(2.2)) for name in "rgb"]
    return _profile("RGB ", [("wtpt", _xyz(D50)), *primaries, *curves])


def linear_grey():
    """Grey of which 128 is half as much light as white."""
    return _profile("GRAY", [("wtpt", _xyz(D50)), ("kTRC", _gamma(1.0))])
