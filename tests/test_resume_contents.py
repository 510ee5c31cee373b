"""The same command after files have changed: refused, or continued with a word on it."""

import json
import shutil
import subprocess

import optuna
import pytest
from PIL import Image

from hpo.mini import CAPTIONER
from tests.commands import environment, run, words

SMALL = ("trial.epochs=1", "trial.evals=2")
NAME = "rsicap-mini"


@pytest.fixture
def inputs(tmp_path):
    """Options with a model folder and a data folder of their own."""
    model, data = tmp_path / "base", tmp_path / "data"
    shutil.copytree(CAPTIONER, model)
    (data / "images").mkdir(parents=True)
    rows = []
    for number in range(40):
        name = f"P{number:04d}_0001.png"
        Image.new("RGB", (32, 32), (6 * number, 0, 0)).save(data / "images" / name)
        rows.append({"filename": name, "text_output": f"{number} red things."})
    (data / "captions.json").write_text(json.dumps({"annotations": rows}))
    return ("--model", str(model), "--data", str(data), "--trials", "1", "--runners", "1")


def change_middle(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def edit_image(path):
    Image.new("RGB", (32, 32), (0, 255, 0)).save(path)


def edit_tokenizer(path):
    path.write_text(path.read_text() + "\n")


@pytest.mark.slow
def test_files_that_change_after_a_trial_are_refused_until_they_are_restored(tmp_path, inputs):
    run(tmp_path, *inputs, settings=SMALL)
    changes = {
        "base/model.safetensors": (change_middle, "model files model.safetensors was"),
        "base/tokenizer.json": (edit_tokenizer, "processor files tokenizer.json was"),
        "data/images/P0007_0001.png": (edit_image, "images was sha256"),
    }
    for name, (change, sentence) in changes.items():
        content = (tmp_path / name).read_bytes()
        change(tmp_path / name)
        refused = run(tmp_path, *inputs, settings=SMALL, expect=2)
        assert sentence in refused and ", now " in refused and len(refused.splitlines()) == 1
        (tmp_path / name).write_bytes(content)
    assert "nothing left to do" in run(tmp_path, *inputs, settings=SMALL)


@pytest.mark.slow
def test_a_study_of_an_earlier_version_goes_on_with_exactly_one_line(tmp_path, inputs):
    run(tmp_path, *inputs, settings=SMALL)
    study = optuna.load_study(study_name=NAME, storage=f"sqlite:///{tmp_path}/hpo.db")
    stored = study.user_attrs["fingerprint"]
    new = {"model files", "processor files", "images"}
    assert new <= stored.keys()
    former = {key: value for key, value in stored.items() if key not in new}
    study.set_user_attr("fingerprint", former)
    counts = []
    for _ in range(2):
        output = run(tmp_path, *inputs, settings=SMALL)
        assert "nothing left to do" in output
        counts.append(sum("could not be checked" in line for line in output.splitlines()))
    assert counts == [1, 0]
    study = optuna.load_study(study_name=NAME, storage=f"sqlite:///{tmp_path}/hpo.db")
    assert study.user_attrs["fingerprint"] == stored


@pytest.mark.slow
def test_an_image_that_is_mended_before_any_trial_has_ended_may_be_another(tmp_path, inputs):
    image = tmp_path / "data" / "images" / "P0007_0001.png"
    whole = image.read_bytes()
    image.write_bytes(whole[:60])
    command = words(*inputs, settings=SMALL)
    failed = subprocess.run(
        command, cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=400
    )
    assert failed.returncode in (1, 2) and "P0007_0001.png" in failed.stdout + failed.stderr
    image.write_bytes(whole)
    output = run(tmp_path, *inputs, settings=SMALL)
    assert "study rsicap-mini is complete" in output and "1 complete" in output
