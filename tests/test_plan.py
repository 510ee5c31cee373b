"""What is shown of the data before anything starts: the order of stages, and doubtful labels."""

import io
import json
import os
import re

import pytest
from PIL import Image
from rich.console import Console

from hpo.errors import MissingError
from hpo.files import Options, load_study
from hpo.machine import look
from hpo.plan import make_plan
from hpo.screen.jsonl import JsonScreen
from hpo.screen.live import LiveScreen
from hpo.screen.plain import PlainScreen
from hpo.search.ledger.keeper import OWNER, hold_owner, own_folder
from tests.commands import run

SMALL = ("space.batch_size=2", "known=[]", "data.val_share=0.5")


def plan_of(study, data, tmp_path, *assignments):
    """The plan of a shipped study at its mini scale on this data."""
    spec = load_study(study, Options(scale="mini", data=str(data), assignments=assignments))
    return make_plan(
        spec,
        look(),
        runners=1,
        pack=1,
        memory_limit_bytes=None,
        storage="sqlite:///x.db",
        runs_dir=tmp_path / "runs",
        notes=("said before",),
    )


def questions(folder, stages, source=None):
    """A folder of questions, one image a row, in these stages."""
    (folder / "images").mkdir(parents=True)
    rows = [
        {"image_id": f"s{n}", "question": "What?", "answer": "It.", "stage": stage}
        for n, stage in enumerate(stages)
    ]
    content = json.dumps(rows) if source is None else source.read_text()
    for row in json.loads(content):
        Image.new("RGB", (32, 32)).save(folder / "images" / f"{row['image_id']}.png")
    (folder / "annotations.json").write_text(content)
    return folder


def shown(plan):
    """What each screen writes of a plan."""
    screens = []
    for kind in (PlainScreen, LiveScreen):
        out = io.StringIO()
        kind(Console(file=out, width=500), 3).plan(plan, None)
        screens.append(out.getvalue())
    out = io.StringIO()
    JsonScreen(out).plan(plan, None)
    return screens, json.loads(out.getvalue())


@pytest.mark.parametrize(
    ("stages", "ordered"),
    [
        (["hard", "easy", "medium"] * 8, ["easy", "medium", "hard"]),
        (["10", "1", "2"] * 8, ["1", "2", "10"]),
        ([10, 1, 2] * 8, ["1", "2", "10"]),
        (["stage 10", "stage 9"] * 8, ["stage 9", "stage 10"]),
    ],
)
def test_every_screen_shows_the_order_of_stages(tmp_path, stages, ordered):
    data = questions(tmp_path / "data", stages)
    plan = plan_of("kvasir", data, tmp_path, *SMALL)
    screens, event = shown(plan)
    for text in screens:
        (line,) = (line for line in text.splitlines() if line.startswith("  stages: "))
        assert re.findall(r"(\w[\w ]*) \(\d+ train, \d+ val\)", line) == ordered
    assert [stage["name"] for stage in event["stages"]] == ordered
    assert sum(stage["train"] + stage["val"] for stage in event["stages"]) == len(stages)


def test_the_stages_of_the_field_case_are_easy_medium_hard(tmp_path, shared):
    source = shared / "field_cases" / "stages.json"
    data = questions(tmp_path / "data", [], source)
    plan = plan_of("kvasir", data, tmp_path, *SMALL)
    assert [stage.name for stage in plan.stages] == ["easy", "medium", "hard"]
    assert plan.facts()["stages"].startswith("easy (")


def test_one_stage_or_none_is_no_line(tmp_path, shared):
    for data in (questions(tmp_path / "data", ["late"] * 8), shared / "kvasir_mini_vqa"):
        plan = plan_of("kvasir", data, tmp_path, *SMALL)
        assert "stages" not in plan.facts() and plan.as_dict()["stages"] == []


def test_rows_without_a_stage_are_counted_where_others_have_one(tmp_path):
    data = questions(tmp_path / "data", ["1", "2", None, "1", "2", ""] * 3)
    plan = plan_of("kvasir", data, tmp_path, *SMALL)
    assert "6 of 18 questions have no stage and are left out" in plan.notes


def test_labels_that_read_the_same_are_on_every_screen(tmp_path):
    rows = "".join(f"text {n},{['spam', 'Spam', 'ham'][n % 3]}\n" for n in range(30))
    (tmp_path / "data.csv").write_text(f"text,label\n{rows}")
    plan = plan_of("classify", tmp_path, tmp_path, "space.batch_size=4", "known=[]")
    screens, event = shown(plan)
    for text in [*screens, *event["notes"][1:]]:
        assert "'Spam' (10 rows) and 'spam' (10 rows)" in text
    assert event["notes"][0] == "said before"


def test_stages_of_no_known_order_are_asked_for_before_anything_starts(tmp_path):
    data = questions(tmp_path / "data", ["size", "colour"] * 8)
    output = run(tmp_path, "--data", str(data), settings=(), study="kvasir", expect=2)
    assert "'colour' (8 rows), 'size' (8 rows)" in output
    assert """--set 'data.stages=["colour", "size"]'""" in output
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


@pytest.mark.slow
def test_a_dry_run_shows_stages_and_labels(tmp_path, shared):
    data = questions(tmp_path / "data", [], shared / "field_cases" / "stages.json")
    output = run(tmp_path, "--dry-run", "--data", str(data), settings=SMALL, study="kvasir")
    assert output.index("easy (") < output.index("medium (") < output.index("hard (")
    twelve = str(shared / "field_cases" / "twelve_labels.csv")
    output = run(tmp_path, "--dry-run", "--data", twelve, settings=(), study="classify")
    assert "12 labels" in output and "nearly the same" not in output


@pytest.mark.parametrize("content", [b"\xff\xfe", b"[" * 5000, b"9" * 5000, b"{}"])
def test_a_strange_owner_of_the_runs_folder_is_one_sentence(tmp_path, content):
    (tmp_path / OWNER).write_bytes(content)
    for check in (own_folder, hold_owner):
        with pytest.raises(MissingError, match=r"--runs-dir") as caught:
            check(tmp_path, "a" * 32)
        assert "\n" not in str(caught.value)


def test_a_pipe_in_place_of_the_owner_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / OWNER)
    with pytest.raises(MissingError, match=r"--runs-dir"):
        own_folder(tmp_path, "a" * 32)
