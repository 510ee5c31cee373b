"""Images of a task: thin ones, damaged ones, and what is remembered of how they were opened."""

import json

import numpy as np
import pytest
from PIL import Image

from hpo.data import rendering
from hpo.errors import DataError
from hpo.files import Options, load_study
from hpo.protocol import Lanes, Setup
from hpo.training.base.pretrained import identity_of
from hpo.training.bench import set_up
from hpo.training.tasks import captioning, vqa
from hpo.training.tasks.vqa import MOST_RATIO, fitted
from tests.training.conftest import make_bench

SETTINGS = ("data.format=vqa", "trial.epochs=1", "trial.evals=1")


@pytest.mark.parametrize("size", [(900, 5), (5, 900), (1000, 5), (5000, 25), (200, 1), (1, 200)])
@pytest.mark.parametrize("longest", [None, 28, 100, 448])
def test_rounding_makes_no_image_thinner_than_the_model_takes(size, longest):
    found = fitted(size, longest)
    assert max(found) <= MOST_RATIO * min(found) and max(found) <= (longest or max(size))


def test_other_images_are_scaled_as_before():
    assert fitted((1000, 501), 100) == (100, 50)
    assert fitted((333, 1000), 100) == (33, 100)
    assert fitted((60, 40), 100) == fitted((60, 40), None) == (60, 40)


def folder(root, sizes):
    """A folder of questions about images of these sizes."""
    (root / "images").mkdir()
    rows = []
    for index, (width, height) in enumerate(sizes):
        pixels = np.random.default_rng(index).integers(0, 255, (height, width, 3), np.uint8)
        Image.fromarray(pixels).save(root / "images" / f"a{index}.png")
        rows.append({"image_id": f"a{index}.png", "question": "How many?", "answer": "two"})
    (root / "annotations.json").write_text(json.dumps(rows))
    return f"data.root={root}"


def test_thin_images_are_answered_about(tmp_path):
    root = folder(tmp_path, [(900, 5), (1, 200), (3, 3), (1, 1), (64, 48), (48, 64)])
    bench, facts = make_bench(*SETTINGS, root, "data.image_size=448", study="kvasir")
    assert any("6 images went through" in check for check in facts.checks)
    grids = {row.example.picture: row.grid for row in [*bench.train, *bench.val]}
    assert len(grids) == 6 and all(min(grid) >= 1 for grid in grids.values())


def test_an_image_too_thin_for_the_model_is_named_with_its_size_and_the_limit(tmp_path):
    root = folder(tmp_path, [(5000, 1), (64, 48), (48, 64)])
    with pytest.raises(DataError) as caught:
        make_bench(*SETTINGS, root, study="kvasir")
    text = str(caught.value)
    assert "images/a0.png" in text and "5000 x 1 pixels" in text and "200 times" in text
    assert "crop it" in text


def damaged(root, *numbers):
    for number in numbers:
        path = root / "images" / f"a{number}.png"
        path.write_bytes(path.read_bytes()[:600])


def test_a_fresh_runner_says_which_images_it_cannot_read(tmp_path):
    root = folder(tmp_path, [(64, 48)] * 20)
    damaged(tmp_path, 4, 7, 9)
    with pytest.raises(DataError) as caught:
        make_bench(*SETTINGS, root, study="kvasir")
    assert str(caught.value).startswith("3 of 20 images cannot be read: images/a")
    assert "the image cannot be read: it is cut off or damaged" in str(caught.value)


def test_where_no_image_can_be_read_a_fresh_runner_says_so(tmp_path):
    root = folder(tmp_path, [(64, 48)] * 20)
    damaged(tmp_path, *range(20))
    with pytest.raises(DataError, match="the image cannot be read: it is cut off or damaged"):
        make_bench(*SETTINGS, root, study="kvasir")


def test_a_runner_of_a_study_under_way_leaves_it_to_the_trials(tmp_path):
    root = folder(tmp_path, [(64, 48)] * 20)
    damaged(tmp_path, 4)
    assignments = (*SETTINGS, root, "known=[]", "data.val_share=0.05")
    study = load_study("kvasir", Options(scale="mini", assignments=assignments))
    first = next(row for row in range(20) if row != 4)
    setup = {"study": study, "memory_limit_bytes": None, "gpu": False, "zero_shot": False}
    bench, _ = set_up(Setup(**setup, lanes=Lanes()))
    broken = [row for row in bench.train if row.example.picture.endswith("a4.png")]
    with pytest.raises(DataError, match="cut off"):
        bench.task.collate(broken)
    (tmp_path / "images" / "a4.png").write_bytes(
        (tmp_path / "images" / f"a{first}.png").read_bytes()
    )
    assert bench.task.collate(broken)["features"].isfinite().all()


@pytest.mark.parametrize(("task", "study"), [(vqa, "kvasir"), (captioning, "rsicap")])
def test_outputs_of_images_that_were_opened_otherwise_are_not_taken(monkeypatch, task, study):
    bench, _ = make_bench("limits.cache_gb=0", study=study)
    before = bench.task.frozen_prefix().identity
    assert bench.task.frozen_prefix().identity == before
    assert rendering.RENDERING in before and task.identity_of is identity_of
    monkeypatch.setattr(task, "RENDERING", "another")
    assert bench.task.frozen_prefix().identity != before
