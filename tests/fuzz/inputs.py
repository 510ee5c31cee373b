"""The kinds of inputs that are mutated: each writes one into a folder, and says what to type."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from PIL import Image

from hpo.mini import ANSWERER, CAPTIONER, CLASSIFIER
from tests.fuzz.mutations import ODD_BYTES, json_bytes, mutated_bytes, mutated_json

SECRET = "xq7Zk9LmW2vB"
BASES = (("classify", CLASSIFIER), ("rsicap", CAPTIONER), ("kvasir", ANSWERER))
WORDS = ("the river is high", "call me back", "no more rain", "prizes to win", "meet at noon")


@dataclass(frozen=True, kw_only=True)
class Input:
    """What to type, and the environment to type it in."""

    study: str
    data: str | None = None
    model: str | None = None
    assignments: tuple[str, ...] = ()
    storage: str = "sqlite:///hpo.db"
    environment: dict[str, str] = field(default_factory=dict)


def table(rng: Random, folder: Path) -> Input:
    """A table of texts and labels, as CSV, TSV or JSON lines."""
    labels = rng.choice((("ham", "spam"), ("0", "1"), ("1.0", "2.0"), ("Ham", "ham"), ("a b", "c")))
    rows = [(f"{rng.choice(WORDS)} {n}", labels[n % 2]) for n in range(24)]
    ending = rng.choice((".csv", ".tsv", ".jsonl"))
    if ending == ".jsonl":
        lines = [json.dumps({"text": text, "label": label}) for text, label in rows]
        at = rng.randrange(len(lines))
        lines[at] = json.dumps(mutated_json(rng, json.loads(lines[at])))
    else:
        between = "," if ending == ".csv" else "\t"
        lines = [between.join(pair) for pair in (("text", "label"), *rows)]
    path = folder / f"data{ending}"
    content = "\n".join(lines).encode()
    path.write_bytes(content if rng.random() < 0.1 else mutated_bytes(rng, content))
    return Input(study="classify", data=str(path))


def captions(rng: Random, folder: Path) -> Input:
    """A folder as RSICap's."""
    names = [f"P000{n}_0001.png" for n in range(1, 7)]
    _pictures(folder / "images", names)
    rows = [{"filename": n, "text_input": "Describe.", "text_output": f"a {n}"} for n in names]
    (folder / "captions.json").write_bytes(json_bytes(rng, {"annotations": rows}))
    return Input(study="rsicap", data=str(folder))


def questions(rng: Random, folder: Path) -> Input:
    """A folder as Kvasir-VQA's or RSIEval's."""
    names = [f"P000{n}_0001.png" for n in range(1, 7)]
    _pictures(folder / "images", names)
    asked = {"question": "Is there a river?", "answer": "yes"}
    stage = rng.choice((("1", "2"), ("easy", "hard"), (1, 2), ("x", "y"), (None, None)))
    rows = [{"image_id": n, **asked, "stage": stage[i % 2]} for i, n in enumerate(names * 2)]
    pairs = [{"filename": n, "qa_pairs": [{**asked, "type": "a"}]} for n in names]
    whole = rng.choice((rows, {"annotations": pairs}))
    (folder / "annotations.json").write_bytes(json_bytes(rng, whole))
    return Input(study="kvasir", data=str(folder))


def image(rng: Random, folder: Path) -> Input:
    """A folder with pictures of all modes and formats, some of them mutated."""
    names = [f"P000{n}_0001.png" for n in range(1, 7)]
    _pictures(folder / "images", names)
    for name in rng.sample(names, 2):
        mode = rng.choice(("1", "L", "LA", "P", "RGB", "RGBA", "I;16", "I", "F", "CMYK", "YCbCr"))
        size = rng.choice(((32, 32), (1, 1), (1, 300), (3000, 2), (64, 32)))
        kinds = [kind for kind in ("PNG", "JPEG", "TIFF", "GIF", "BMP", "WEBP")]
        path = folder / "images" / name
        picture = Image.new(mode, size)
        while kinds:
            kind = kinds.pop(rng.randrange(len(kinds)))
            try:
                picture.save(path, kind)
                break
            except (OSError, KeyError, ValueError):  # that format has no such mode
                continue
        if rng.random() < 0.7:
            path.write_bytes(mutated_bytes(rng, path.read_bytes()))
    study = rng.choice(("rsicap", "kvasir"))
    if study == "rsicap":
        rows = {"annotations": [{"filename": n, "text_output": f"a {n}"} for n in names]}
        (folder / "captions.json").write_text(json.dumps(rows))
    else:
        asked = [{"image_id": n, "question": "Which?", "answer": "river"} for n in names]
        (folder / "annotations.json").write_text(json.dumps(asked))
    return Input(study=study, data=str(folder))


def url(rng: Random, folder: Path) -> Input:
    """A database URL with a password in it, in the environment or in a file."""
    password = rng.choice((SECRET, f"p@{SECRET}", f"{SECRET}/x", f"#{SECRET}", f":{SECRET}?a=b"))
    scheme = rng.choice(("postgresql", "mysql", "mariadb", "postgres", "POSTGRESQL", "sqlite", ""))
    driver = rng.choice(("", "", "+psycopg", "+pymysql", "+nothing", "+"))
    host = rng.choice(("127.0.0.1", "[::1]", "localhost:1", "127.0.0.1:x", "", "a b"))
    query = rng.choice(("", f"?password={SECRET}", f"?sslpassword={SECRET}", "?ssl=true", "?=&%"))
    between = rng.choice(("://", "://", "://", ":/", ":", " :// "))
    given = f"{scheme}{driver}{between}me:{password}@{host}/hpo{query}"
    if rng.random() < 0.5:
        at = rng.choice([n for n in range(len(given) + 1) if not _inside(given, n)])
        odd = rng.choice(ODD_BYTES[:17]).decode(errors="replace").replace("\x00", "%00")
        given = given[:at] + odd + given[at:]
    if rng.random() < 0.3:
        (folder / "url").write_text(given)
        return Input(
            study="classify", storage="", environment={"HPO_STORAGE_FILE": f"{folder}/url"}
        )
    if rng.random() < 0.3:
        return Input(study="classify", storage=given)
    return Input(study="classify", storage="", environment={"HPO_STORAGE": given})


def toml(rng: Random, folder: Path) -> Input:
    """A study file or a search space, mutated; or a mutated --set."""
    source = Path(__file__).resolve().parents[2]
    kind = rng.choice(("studies", "search_spaces", "set"))
    study = rng.choice(("classify", "kvasir", "rsicap"))
    if kind == "set":
        given = rng.choice(
            ("trial.epochs=3", "known=[]", 'data.stages=["a", "b"]', "model.adapt=a")
        )
        text = mutated_bytes(rng, given.encode()).decode(errors="replace")
        return Input(study=study, assignments=(text,))
    if kind == "studies":
        content = (source / "studies" / f"{study}.toml").read_bytes()
        (folder / "study.toml").write_bytes(mutated_bytes(rng, content))
        return Input(study=str(folder / "study.toml"))
    name = rng.choice(sorted((source / "search_spaces").glob("*.toml")))
    (folder / "space.toml").write_bytes(mutated_bytes(rng, name.read_bytes()))
    return Input(study=study, assignments=(f'search_space="{folder}/space.toml"',))


def model(rng: Random, folder: Path) -> Input:
    """A model folder with files mutated, removed, exchanged or added."""
    study, base = rng.choice(
        (("classify", CLASSIFIER), ("rsicap", CAPTIONER), ("kvasir", ANSWERER))
    )
    shutil.copytree(base, folder / "model")
    files = sorted(path for path in (folder / "model").rglob("*") if path.is_file())
    for path in rng.sample(files, rng.choice((1, 1, 2))):
        _damage(rng, path)
    return Input(study=study, model=str(folder / "model"))


def _damage(rng: Random, path: Path) -> None:
    other = rng.choice(BASES)[1] / path.name
    match rng.randrange(6):
        case 0:
            path.unlink()
        case 1 if other.is_file():
            shutil.copy(other, path)
        case 2:
            path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
        case 3:
            adapter = {"peft_type": "LORA", "base_model_name_or_path": "x", "r": 4}
            (path.parent / "adapter_config.json").write_text(json.dumps(adapter))
        case _ if path.suffix == ".json" and path.stat().st_size < 100_000:
            path.write_bytes(json_bytes(rng, json.loads(path.read_text())))
        case _:
            path.write_bytes(mutated_bytes(rng, path.read_bytes()))


def _pictures(folder: Path, names: list[str]) -> None:
    folder.mkdir(parents=True)
    for number, name in enumerate(names):
        Image.new("RGB", (32, 32), (number * 40, 90, 200)).save(folder / name)


def _inside(given: str, at: int) -> bool:
    """Whether the place cuts the secret, so that its tail would look like other text."""
    start = given.find(SECRET)
    while start != -1:
        if start < at < start + len(SECRET):
            return True
        start = given.find(SECRET, start + 1)
    return False


KINDS: dict[str, tuple[Callable[[Random, Path], Input], int, int]] = {
    "table": (table, 500, 8),
    "captions": (captions, 200, 8),
    "questions": (questions, 200, 8),
    "image": (image, 300, 8),
    "url": (url, 300, 0),
    "toml": (toml, 300, 0),
    "model": (model, 200, 1),
}
"""By name: what makes an input; how many; of how many that pass the driver's checks one goes on to
the runner's: base and data loaded, and the cost of a trial counted (0: none)."""
