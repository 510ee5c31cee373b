"""The classification study from end to end: on drawn messages, on a table, on real texts."""

import csv
import json

import optuna
from safetensors.torch import load_file

from hpo.mini.messages import message
from tests.commands import assert_exact, run, stored

QUICK = ("trial.epochs=1", "trial.evals=3")


def best_of(url):
    return optuna.load_study(study_name="classify-mini", storage=url).best_trial


def test_texts_of_a_table_are_searched_for_the_largest_objective(tmp_path):
    with (tmp_path / "texts.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("id", "text", "label"))
        writer.writerows((n, *message(3, n)) for n in range(160))
    url = f"sqlite:///{tmp_path}/hpo.db"
    words = ("--data", "texts.csv", "--trials", "5", "--runners", "2")
    printed = run(tmp_path, *words, settings=QUICK, study="classify")
    trials = stored(url, "classify-mini")
    assert_exact(trials, 5)
    best = best_of(url)
    values = [trial.value for trial in trials if trial.value is not None]
    assert best.value == max(values) and 0 <= min(values) <= max(values) <= 1
    assert f"best f beta {best.value:.4f}" in printed
    assert "hpo.score" not in printed, "labels are not generated"
    assert {"last_n", "class_weight", "weight_decay"} <= best.params.keys()
    folder = tmp_path / "runs" / "classify-mini" / f"trial-{best.number:05d}"
    with (folder / "metrics.csv").open() as file:
        scores = [float(row["f_beta"]) for row in csv.DictReader(file) if row["f_beta"]]
    assert max(scores) == best.value
    adapter = load_file(folder / "adapter" / "adapter_model.safetensors")
    assert "base_model.model.score.weight" in adapter
    assert len(adapter) == 1 + 2 * 4 * best.params["last_n"]
    labels = json.loads((folder / "adapter" / "labels.json").read_text())
    assert best.user_attrs["id2label"] == labels["id2label"]
    shown = ", ".join(f"{output} {label!r}" for output, label in labels["id2label"].items())
    assert f"  its outputs are {shown} (adapter/labels.json)" in printed


def test_val_loss_may_be_the_objective_too(tmp_path):
    smallest = 'objective={metric="val_loss", direction="minimize"}'
    settings = (*QUICK, "data.samples=120", smallest)
    printed = run(tmp_path, "--trials", "2", settings=settings, study="classify")
    assert "best val loss" in printed
