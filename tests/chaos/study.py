"""The study of a chaos run: small trials on drawn images that lie in files."""

import json
from pathlib import Path

from hpo.files import Options, load_study
from hpo.mini.scenes import describe, picture
from hpo.specs import StudySpec

NAME = "chaos"
ALBUM = 0  # the seed of the drawings
IMAGES = 80
MEMORY_LIMIT = "180MB"
TOO_LARGE = 60  # a batch that does not fit under that limit
TOO_FAST = 1e30  # a learning rate that overflows at once
HANG_S = 6.0

STUDY = f"""
task = "captioning"
search_space = "space.toml"

[model]
name = "mini"
device = "cpu"

[data]
format = "rsicap"

[trial]
epochs = 2
evals = 4
eval_batch_size = 4

[search]
startup_trials = 4
attempts = 8

[limits]
hang_seconds = {HANG_S}
outage_seconds = 60.0
adapters = 4
"""
SPACE = f"""
learning_rate = {{ type = "categorical", choices = [3e-4, 1e-3, 3e-3, 6e-3, {TOO_FAST}] }}
lora_r = {{ type = "categorical", choices = [4, 8, 16] }}
lora_alpha = {{ type = "categorical", choices = [8.0, 16.0, 32.0] }}
lora_dropout = {{ type = "float", low = 0.0, high = 0.2 }}
scheduler = {{ type = "categorical", choices = ["linear", "cosine", "constant"] }}
batch_size = {{ type = "categorical", choices = [4, 6, 8, {TOO_LARGE}] }}
"""


def write_study(folder: Path) -> None:
    """Draws the images, and writes study and search space."""
    (folder / f"{NAME}.toml").write_text(STUDY)
    (folder / "space.toml").write_text(SPACE)
    images = folder / "data" / "images"
    images.mkdir(parents=True)
    rows = []
    for index in range(IMAGES):
        prompt, caption = describe(ALBUM, index)
        name = f"P{index:04d}_0000.png"
        picture(ALBUM, index).save(images / name)
        rows.append({"filename": name, "text_input": prompt, "text_output": caption})
    (folder / "data" / "captions.json").write_text(json.dumps({"annotations": rows}))


def options(folder: Path, *, trials: int, seed: int) -> list[str]:
    """The options of `hpo.run` that say which study."""
    return [
        *("--study", str(folder / f"{NAME}.toml"), "--scale", "full"),
        *("--data", str(folder / "data")),
        *("--trials", str(trials), "--seed", str(seed)),
    ]


def load(folder: Path, *, trials: int, seed: int) -> StudySpec:
    """The same study as its drivers see it."""
    data = str(folder / "data")
    chosen = Options(scale="full", data=data, trials=trials, seed=seed)
    return load_study(str(folder / f"{NAME}.toml"), chosen)


def absurd(kind: str, dropout: float) -> dict[str, float | str]:
    """A configuration that ends as `oom` or as `nan`."""
    return {
        "learning_rate": TOO_FAST if kind == "nan" else 1e-3,
        "lora_r": 8,
        "lora_alpha": 16.0,
        "lora_dropout": dropout,
        "scheduler": "constant",
        "batch_size": TOO_LARGE if kind == "oom" else 4,
    }
