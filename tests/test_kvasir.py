"""The study of questions about images from end to end: real images, in stages."""

import json

from hpo.training.trial.evaluate import stage_metric
from tests.commands import assert_exact, run, stored

STAGES = 'data.stages=["presence+quantity", "size+area_comp", "ab_position"]'
QUICK = ("trial.epochs=1", "trial.evals=3", "data.samples=120")


def test_real_images_are_asked_about_in_stages(tmp_path, shared):
    data = shared / "kvasir_mini_vqa"
    words = ("--data", str(data), "--trials", "3", "--runners", "2")
    printed = run(tmp_path, *words, settings=(*QUICK, STAGES), study="kvasir")
    trials = stored(f"sqlite:///{tmp_path}/hpo.db", "kvasir-mini")
    assert_exact(trials, 3)
    assert "images went through the model.visual once for all trials" in printed
    best = min((trial for trial in trials if trial.value is not None), key=lambda t: t.value)
    assert {"stage_1", "stage_2"} <= best.params.keys()
    folder = tmp_path / "runs" / "kvasir-mini" / f"trial-{best.number:05d}"
    header = (folder / "metrics.csv").read_text().splitlines()[0].split(",")
    assert {"exact_match", *map(stage_metric, range(3))} <= set(header)
    adapter = json.loads((folder / "adapter" / "adapter_config.json").read_text())
    assert adapter["r"] == best.params["lora_r"]


def test_a_stage_that_no_row_is_of_is_named(tmp_path, shared):
    data = ("--data", str(shared / "kvasir_mini_vqa"))
    wrong = 'data.stages=["presence", "colour"]'
    printed = run(tmp_path, *data, settings=(*QUICK, wrong), study="kvasir", expect=2)
    assert "no row is of 'colour'" in printed and "quantity" in printed
    assert list(tmp_path.iterdir()) == []
