"""A damaged image from end to end: named by a dry run, and trained on once it is mended."""

import json

import numpy as np
import pytest
from PIL import Image

from tests.commands import assert_exact, run, stored

SETTINGS = (
    "data.format=rsicap",
    "trial.epochs=1",
    "trial.evals=1",
    "space.batch_size.choices=[4, 8]",
    "known=[{batch_size=8, lora_r=8}]",
)
OPTIONS = ("--data", "data", "--trials", "2", "--runners", "1")
SENTENCE = "P0010_0001.png: the image cannot be read: it is cut off or damaged"


@pytest.fixture
def folder(tmp_path):
    """Thirty images with captions; one to train on is cut off."""
    images = tmp_path / "data" / "images"
    images.mkdir(parents=True)
    rng, rows = np.random.default_rng(0), []
    for index in range(30):
        name = f"P{index:04d}_0001.png"
        Image.fromarray(rng.integers(0, 255, (32, 32, 3), np.uint8)).save(images / name)
        rows.append({"filename": name, "text_output": f"A scene with {index % 7} ships."})
    captions = json.dumps({"annotations": rows})
    (tmp_path / "data" / "captions.json").write_text(captions)
    damaged = images / "P0010_0001.png"
    whole = damaged.read_bytes()
    damaged.write_bytes(whole[: len(whole) // 2])
    return lambda: damaged.write_bytes(whole)


@pytest.mark.slow
def test_a_dry_run_decodes_every_image(tmp_path, folder):
    for more in ((), ("limits.cache_gb=0",)):
        output = run(tmp_path, *OPTIONS, "--dry-run", settings=SETTINGS + more, expect=2)
        assert SENTENCE in output and "verified" not in output
    folder()
    output = run(tmp_path, *OPTIONS, "--dry-run", settings=SETTINGS)
    assert "verified: 30 images decoded" in output


@pytest.mark.slow
def test_a_study_says_at_once_what_it_finds_while_it_computes_its_cache(tmp_path, folder):
    output = run(tmp_path, *OPTIONS, settings=SETTINGS, expect=2)
    assert SENTENCE in output
    assert stored(f"sqlite:///{tmp_path}/hpo.db")[0].state.name == "WAITING"
    folder()
    run(tmp_path, *OPTIONS, settings=SETTINGS)
    assert_exact(stored(f"sqlite:///{tmp_path}/hpo.db"), 2)


@pytest.mark.slow
def test_the_same_command_trains_the_known_configuration_once_the_image_is_mended(tmp_path, folder):
    settings = (*SETTINGS, "limits.cache_gb=0")
    output = run(tmp_path, *OPTIONS, settings=settings, expect=1)
    assert SENTENCE in output and "type the same command again" in output
    first, *_ = failed = stored(f"sqlite:///{tmp_path}/hpo.db")
    assert {t.user_attrs.get("outcome", "waits") for t in failed} == {"data_error", "waits"}
    folder()
    output = run(tmp_path, *OPTIONS, settings=settings)
    assert "(attempt 3)" in output
    trials = stored(f"sqlite:///{tmp_path}/hpo.db")
    assert_exact(trials, 2)
    (known,) = [t for t in trials if t.state.is_finished() and t.user_attrs.get("seed_number") == 0
                and t.user_attrs["outcome"] == "complete"]  # fmt: skip
    assert known.params == first.params and known.params["batch_size"] == 8
    assert "complete: nothing left to do" in run(tmp_path, *OPTIONS, settings=settings)
    assert len(stored(f"sqlite:///{tmp_path}/hpo.db")) == len(trials)
