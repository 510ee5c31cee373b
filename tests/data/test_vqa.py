"""Questions about images: every form of file, every way to name stages, broken in every way."""

import json
from collections import Counter

import pytest
from PIL import Image

from hpo.data import read_examples
from hpo.errors import DataError, MissingError
from hpo.specs import DataSpec
from tests.data.complaints import sentence

NAMES = ("a.jpg", "b.png", "c.jpeg", "d.png")
KINDS = (("presence", "Is there one?", "Yes."), ("size", "How large?", "Small."))


def annotation(name, kinds=KINDS):
    pairs = [{"question": q, "answer": a, "type": kind} for kind, q, a in kinds]
    return {"filename": name, "caption": "A thing.", "qa_pairs": pairs}


def row(image, **more):
    return {"image_id": image, "question": "How many?", "answer": "Two.", **more}


@pytest.fixture
def folder(tmp_path):
    """Four images with two questions each, in RSIEval's form."""
    root = tmp_path / "data"
    (root / "images").mkdir(parents=True)
    for index, name in enumerate(NAMES):
        Image.new("RGB", (8 + index, 6), (index * 40, 0, 0)).save(root / "images" / name)
    write(root, {"annotations": [annotation(name) for name in NAMES]})
    return root


def write(root, content, name="annotations.json"):
    (root / name).parent.mkdir(exist_ok=True)
    (root / name).write_text(json.dumps(content))


def read(root, **settings):
    return read_examples(DataSpec(format="vqa", root=str(root), **settings))


def everything(root, **settings):
    examples = read(root, **settings)
    return sorted(examples.train + examples.val, key=lambda example: example.name)


def complaint(root, kind=DataError, **settings):
    return sentence(lambda: read(root, **settings), kind)


def test_questions_of_an_evaluation_set_are_read(folder):
    examples = read(folder)
    assert (examples.total, examples.stages, examples.source) == (8, (), str(folder))
    first, second, *_ = everything(folder)
    assert (first.prompt, first.target) == ("Is there one?", "Yes.")
    assert first.image_name == second.image_name
    assert (first.image().size, first.size()) == ((8, 6), (8, 6))


@pytest.mark.parametrize("wrap", [list, lambda rows: {"annotations": rows}])
@pytest.mark.parametrize("inside", ["images", "."])
def test_a_list_of_questions_finds_its_images_with_or_without_an_ending(folder, wrap, inside):
    for path in (folder / "images").iterdir():
        path.rename(folder / inside / path.name)
    write(folder, wrap([row("a"), row("b"), row("c.jpeg"), row("d")]))
    assert [e.image().size for e in everything(folder)] == [(8, 6), (9, 6), (10, 6), (11, 6)]


def test_a_file_is_as_good_as_its_folder(folder):
    (folder / "annotations.json").rename(folder / "train.json")
    assert [e.target for e in everything(folder / "train.json")] == ["Yes.", "Small."] * 4


def test_every_example_has_a_name_of_its_own(folder):
    write(folder, [row(name) for name in NAMES] * 3)
    names = [example.name for example in everything(folder)]
    assert len(set(names)) == len(names) == 12


def test_all_questions_about_an_image_stay_on_one_side(folder):
    for share in (0.1, 0.3, 0.5, 0.9):
        examples = read(folder, val_share=share)
        train, val = ({e.image_name for e in side} for side in (examples.train, examples.val))
        assert train and val and not train & val


def test_crops_of_one_source_image_stay_on_one_side(folder):
    names = [f"P000{source}_000{crop}.png" for source in range(3) for crop in range(3)]
    for name in names:
        Image.new("RGB", (8, 8)).save(folder / "images" / name)
    write(folder, [row(name) for name in names])
    examples = read(folder, val_share=0.4)
    train, val = ({e.image_name[:12] for e in side} for side in (examples.train, examples.val))
    assert train and val and not train & val


def test_space_is_tidied_as_in_captions(folder):
    write(folder, [row(n, question=" How\n many? ", answer="Two  of\tthem. ") for n in NAMES])
    assert {(e.prompt, e.target) for e in everything(folder)} == {("How many?", "Two of them.")}


def test_at_most_so_many_rows_are_used(folder):
    examples = read(folder, samples=5)
    assert (len(examples.train) + len(examples.val), examples.total) == (5, 8)


def test_the_digest_follows_the_questions(folder):
    before = read(folder).digest
    assert read(folder).digest == before
    write(folder, [row(name) for name in NAMES])
    assert read(folder).digest != before


def test_an_image_that_changes_changes_its_content(folder):
    first, *_ = everything(folder)
    before = first.content()
    Image.new("RGB", (8, 6), (9, 9, 9)).save(folder / "images" / "a.jpg")
    assert first.content() != before


def stages(examples):
    """(stage, prompt) -> rows."""
    return Counter((e.stage, e.prompt) for e in examples.train + examples.val)


def test_rows_without_the_field_are_left_out_where_others_have_it(folder):
    rows = [row(n, stage=value) for n in NAMES for value in ("a", "b")]
    write(folder, [*rows, row("a.jpg", question="Why?")])
    assert stages(read(folder)) == {(0, "How many?"): 4, (1, "How many?"): 4}


def test_stages_by_type_come_in_the_order_of_the_study(folder):
    examples = read(folder, stages=("size", "presence"))
    assert examples.stages == ("size", "presence")
    assert stages(examples) == {(0, "How large?"): 4, (1, "Is there one?"): 4}


def test_types_are_joined_and_those_that_no_stage_names_are_left_out(folder):
    kinds = (*KINDS, ("color", "Which color?", "Red."), ("count", "How many?", "Two."))
    write(folder, {"annotations": [annotation(name, kinds) for name in NAMES]})
    examples = read(folder, stages=("count + size", "presence"))
    assert stages(examples) == {
        (0, "How many?"): 4,
        (0, "How large?"): 4,
        (1, "Is there one?"): 4,
    }
    assert examples.total == 16


def test_one_stage_alone_picks_rows_and_is_no_curriculum(folder):
    examples = read(folder, stages=("size",))
    assert examples.stages == ()
    assert stages(examples) == {(0, "How large?"): 4}


def test_stages_by_file(folder):
    for number, question in enumerate(("What?", "Why?"), start=1):
        write(folder, [row(n, question=question) for n in NAMES], f"s{number}/train.json")
    (folder / "annotations.json").unlink()
    examples = read(folder, stages=("s1/train.json", "s2/train.json"))
    assert stages(examples) == {(0, "What?"): 4, (1, "Why?"): 4}
    assert len({e.name for e in examples.train + examples.val}) == 8


@pytest.mark.parametrize(
    ("values", "ordered"), [((10, 9, 1), ("1", "9", "10")), (("b", "c", "a"), ("a", "b", "c"))]
)
def test_stages_by_the_field_of_their_rows(folder, values, ordered):
    rows = [row(name, stage=value, answer=f"{value}.") for name in NAMES for value in values]
    write(folder, rows)
    examples = read(folder)
    assert examples.stages == ordered
    assert {e.target: e.stage for e in examples.train} == {
        f"{value}.": place for place, value in enumerate(ordered)
    }


def test_values_of_the_field_may_be_joined(folder):
    write(folder, [row(name, stage=value) for name in NAMES for value in (1, 2, 3)])
    examples = read(folder, stages=("3", "1+2"))
    assert stages(examples) == {(0, "How many?"): 4, (1, "How many?"): 8}


def test_a_type_that_is_called_like_a_stage_is_not_one(folder):
    rows = [("easy", "hard"), ("hard", "easy")]
    write(folder, [row(n, stage=stage, type=kind) for n in NAMES for stage, kind in rows])
    examples = read(folder)
    assert examples.stages == ("easy", "hard")
    assert stages(examples) == {(0, "How many?"): 4, (1, "How many?"): 4}


def test_one_value_of_the_field_is_no_curriculum(folder):
    write(folder, [row(name, stage=1) for name in NAMES])
    assert read(folder).stages == ()


@pytest.mark.parametrize("stage", ["colour", "size+colour"])
def test_a_stage_that_is_empty_is_named_with_the_types_there_are(folder, stage):
    text = complaint(folder, stages=("presence", stage))
    assert f"data.stages[1] = {stage!r}" in text
    assert "'colour'" in text and "presence (4), size (4)" in text


def test_a_type_in_two_stages_is_named(folder):
    text = complaint(folder, stages=("size", "presence+size"))
    assert "data.stages[1]" in text and "'size' is in two stages" in text


def test_a_stage_with_nothing_on_one_side_is_named_with_its_counts(folder):
    rows = [annotation(name, KINDS[:1]) for name in NAMES[1:]]
    write(folder, {"annotations": [annotation("a.jpg"), *rows]})
    text = complaint(folder, stages=("presence", "size"))
    assert "data.stages[1] = 'size'" in text
    assert "0 to validate on" in text or "0 rows to train on" in text
    assert "data.val_share" in text


@pytest.mark.parametrize("root", [None, "no/such/folder", "~nobody-of-that-name/data"])
def test_a_folder_that_is_not_there_is_named_with_the_remedy(root):
    with pytest.raises(MissingError) as caught:
        read_examples(DataSpec(format="vqa", root=root))
    assert (root or "data.root") in str(caught.value)
    assert "annotations.json" in str(caught.value) and "--data PATH" in str(caught.value)


def test_a_file_of_a_stage_that_is_not_there_is_named(folder):
    assert "gone.json" in complaint(folder, MissingError, stages=("gone.json",))


@pytest.mark.parametrize("content", [b"not json", b"", b"{", b"\xff\xfe\xfa"])
def test_questions_that_are_not_json_are_named(folder, content):
    (folder / "annotations.json").write_bytes(content)
    text = complaint(folder)
    assert str(folder / "annotations.json") in text and "not valid JSON" in text


@pytest.mark.parametrize("content", [[], {}, {"annotations": {}}, {"annotations": []}, 3])
def test_a_file_without_rows_is_named_with_the_form(folder, content):
    write(folder, content)
    text = complaint(folder)
    assert "no rows" in text and "image_id" in text and "qa_pairs" in text


@pytest.mark.parametrize(
    "broken",
    [
        "text",
        None,
        {},
        row(3),
        row("a", question=" "),
        row("a", answer=None),
        row("a", answer=2),
        {"filename": "a.jpg", "qa_pairs": 3},
        {"filename": "a.jpg", "qa_pairs": ["text"]},
        {"qa_pairs": [{"question": "q", "answer": "a"}]},
        row("a", type=["size"]),
        row("a", stage=1.5),
        row("a", stage=True),
    ],
)
def test_a_row_that_lacks_something_is_named_by_its_place(folder, broken):
    write(folder, {"annotations": [row("a"), broken]})
    text = complaint(folder)
    assert "annotations[1]" in text
    assert "must" in text


def test_a_row_of_a_bare_list_is_named_by_its_place(folder):
    write(folder, [row("a"), {}])
    assert "row [1]" in complaint(folder)


@pytest.mark.parametrize("name", ["../a.jpg", "/etc/passwd", "images/a.jpg"])
def test_an_image_that_is_a_path_is_refused(folder, name):
    write(folder, [row("a"), row(name)])
    text = complaint(folder)
    assert repr(name) in text and "not a path" in text


def test_images_that_are_not_there_are_counted_and_named(folder):
    gone = [f"gone{index}" for index in range(5)]
    write(folder, [row(name) for name in ("a", *gone, *gone)])
    text = complaint(folder)
    assert "5 images of questions are missing" in text
    assert "gone0, gone1, gone2, ..." in text and "annotations.json" in text
    assert str(folder / "images") in text


def test_files_that_are_not_images_are_counted_and_named(folder):
    (folder / "images" / "a.jpg").write_text("<html>404</html>")
    (folder / "images" / "b.png").unlink()
    (folder / "images" / "b.png").mkdir()
    text = complaint(folder)
    assert "2 files are not images: a.jpg, b.png" in text


def test_an_image_that_vanishes_is_named_when_it_is_loaded(folder):
    first, *_ = everything(folder)
    (folder / "images" / "a.jpg").unlink()
    for load in (first.image, first.size):
        with pytest.raises(DataError, match=r"a\.jpg: the image is gone"):
            load()
    assert first.content() == "not there"


def test_an_image_that_breaks_is_named_when_it_is_loaded(folder):
    first, *_ = everything(folder)
    (folder / "images" / "a.jpg").write_text("no image")
    for load in (first.image, first.size):
        with pytest.raises(DataError, match=r"a\.jpg: the image cannot be read"):
            load()


def test_one_image_cannot_be_split(folder):
    write(folder, [row("a"), row("a")])
    assert "fewer than two images" in complaint(folder)


def test_real_endoscopies_are_read_in_stages(shared):
    names = ("presence+quantity", "size", "area_comp+ab_position")
    examples = read(shared / "kvasir_mini_vqa", stages=names)
    rows = examples.train + examples.val
    assert examples.stages == names
    assert len(rows) == examples.total == 284
    assert Counter(e.stage for e in rows) == {0: 120, 1: 60, 2: 104}
    assert len({e.image_name for e in rows}) == 60
    assert not {e.group for e in examples.train} & {e.group for e in examples.val}
    assert rows[0].image().size == rows[0].size()


def test_real_aerial_images_are_read(shared):
    examples = read(shared / "rsscn7", samples=50)
    assert len(examples.train) + len(examples.val) == 50
    assert examples.train[0].image().mode == "RGB"
