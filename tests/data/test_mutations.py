"""Data that are damaged anywhere end in examples or in one sentence, and nothing else."""

import json
import random

import pytest
from PIL import Image

from hpo.data import read_examples
from hpo.data.labels import labels
from hpo.errors import HpoError
from hpo.specs import DataSpec

PIECES = [
    *(
        b'"',
        b'""',
        b"\t",
        b",",
        b"\n",
        b"\r",
        b"\r\n",
        b"\0",
        b"\xff",
        b"\xef\xbb\xbf",
        b"\xff\xfe",
    ),
    *(b"[" * 3000, b"{", b"}", b"9" * 5000, b"NaN", b"-Infinity", b"1e999", b"\\ud83d", b"\\"),
    *("\u200b\u2028é\u0301１😀".encode(), b"\xed\xa0\xbd", b"null", b"true", b"..", b"/", b""),
]
TEXTS = [("ham", "hello, you"), ("spam", 'win "now"'), ("ham", "see you"), ("spam", "free")] * 3


def contents(suffix):
    """A good file of each form."""
    if suffix in ("csv", "tsv"):
        mark = "," if suffix == "csv" else "\t"
        rows = [f'{label}{mark}"{text.replace(chr(34), chr(34) * 2)}"' for label, text in TEXTS]
        return f"label{mark}text\n" + "\n".join(rows)
    if suffix == "jsonl":
        return "\n".join(json.dumps({"text": t, "label": label}) for label, t in TEXTS)
    names = [f"P000{n % 4}_{n}.png" for n in range(8)]
    if suffix == "rsicap":
        rows = [{"filename": name, "text_input": "?", "text_output": "x"} for name in names]
        return json.dumps({"annotations": rows}, indent=1)
    rows = [
        {"image_id": name, "question": "q", "answer": "a", "stage": n // 4}
        for n, name in enumerate(names)
    ]
    return json.dumps(rows, indent=1)


def mutated(content, rng):
    """The content with a few pieces removed, put in, doubled or moved."""
    for _ in range(rng.randint(1, 4)):
        start, end = sorted(rng.randrange(len(content) + 1) for _ in range(2))
        end = min(end, start + 30)
        piece = rng.choice([rng.choice(PIECES), content[start:end] * 2, rng.randbytes(3)])
        content = content[:start] + piece + content[end if rng.random() < 0.5 else start :]
    return content


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl", "rsicap", "vqa"])
def test_a_damaged_file_is_read_or_refused_in_one_sentence(tmp_path, suffix):
    rng = random.Random(f"mutations of {suffix}")
    (tmp_path / "images").mkdir()
    for n in range(8):
        Image.new("RGB", (4, 4)).save(tmp_path / "images" / f"P000{n % 4}_{n}.png")
    name = {"rsicap": "captions.json", "vqa": "annotations.json"}.get(suffix, f"data.{suffix}")
    format = "table" if name.startswith("data") else suffix
    spec = DataSpec(format=format, root=str(tmp_path))
    good, refused = contents(suffix).encode(), 0
    for _ in range(400):
        (tmp_path / name).write_bytes(mutated(good, rng))
        try:
            examples = read_examples(spec)
        except HpoError as error:
            refused += 1
            text = str(error)
            assert name in text or str(tmp_path) in text
            assert "\n" not in text and len(text) < 1500
            text.encode()
        else:
            assert examples.train and examples.val and labels(examples)
            " ".join((*examples.notes, *examples.stages)).encode()
    assert 100 < refused < 400
