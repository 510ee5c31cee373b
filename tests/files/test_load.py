"""From a study's name and options to its spec."""

import pytest

from hpo.files import Options, load_study
from hpo.files.find import PACKAGE
from hpo.search.study.space import distributions
from hpo.specs import ConstantParam

STUDIES = sorted(path.stem for path in (PACKAGE.parent / "studies").glob("*.toml"))
SPACES = sorted(path.stem for path in (PACKAGE.parent / "search_spaces").glob("*.toml"))

# learning rate, r, alpha, dropout, batch size of every configuration in the notes
SEEDS = [
    (5e-6, 4, 8, 0.1, 2),
    (5e-6, 8, 16, 0.1, 8),
    (1e-3, 16, 32, 0.05, 4),
    (2e-4, 16, 32, 0.05, 4),
    (2e-4, 16, 32, 0.05, 8),
    (2e-4, 16, 32, 0.05, 16),
    (1e-4, 24, 64, 0.10, 8),
    (2e-4, 32, 64, 0.05, 8),
    (2e-4, 32, 48, 0.05, 8),
    (1e-5, 8, 16, 0.1, 4),
    (2e-4, 16, 32, 0.05, 12),
    (2e-4, 16, 32, 0.05, 24),
    (2e-4, 16, 32, 0.05, 6),
]
STUDY = """
task = "captioning"
search_space = "space.toml"
model.name = "mini"
data.format = "scenes"
"""
SPACE = """
learning_rate = 1e-4
lora_r = 8
lora_alpha = 16
batch_size = { type = "categorical", choices = [2, 4] }
"""


@pytest.fixture
def study_file(tmp_path):
    """A study and a search space that are right, in a folder of their own."""
    (tmp_path / "space.toml").write_text(SPACE)
    path = tmp_path / "mine.toml"
    path.write_text(STUDY)
    return path


@pytest.mark.parametrize("scale", ["mini", "full"])
@pytest.mark.parametrize("name", STUDIES)
def test_every_shipped_study_loads_at_both_scales(name, scale):
    study = load_study(name, Options(scale=scale))
    assert study.name == (name if scale == "full" else f"{name}-mini")
    assert study.known
    assert len(distributions(study.space)) >= 5


@pytest.mark.parametrize("space", SPACES)
def test_every_shipped_search_space_loads(study_file, space):
    text = STUDY.replace("space.toml", space)
    study_file.write_text(text)
    assert load_study(str(study_file), Options()).search_space == space


def test_the_studies_and_spaces_of_the_job_are_there():
    assert "rsicap" in STUDIES
    assert {"lora", "lora-mini"} <= set(SPACES)


@pytest.mark.parametrize("seed", SEEDS, ids=str)
@pytest.mark.parametrize("scheduler", ["linear", "cosine", "constant"])
def test_the_search_space_holds_every_configuration_of_the_notes(seed, scheduler):
    space = distributions(load_study("rsicap", Options()).space)
    names = ("learning_rate", "lora_r", "lora_alpha", "lora_dropout", "batch_size")
    for name, value in {**dict(zip(names, seed, strict=True)), "scheduler": scheduler}.items():
        assert space[name]._contains(space[name].to_internal_repr(value)), name


def test_known_configurations_of_the_mini_scale_are_its_own():
    full, mini = (load_study("rsicap", Options(scale=s)) for s in ("full", "mini"))
    assert full.known[0]["learning_rate"] == 1e-4
    assert mini.known[0]["learning_rate"] == 2e-3
    assert (full.search.trials, mini.search.trials) == (50, 24)


def test_what_mini_does_not_change_stays_as_the_file_says():
    full, mini = (load_study("rsicap", Options(scale=s)) for s in ("full", "mini"))
    assert mini.trial.max_grad_norm == full.trial.max_grad_norm
    assert mini.data.val_share == full.data.val_share
    assert mini.model.name == "mini"


def test_a_study_is_found_by_name_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load_study("rsicap", Options()).name == "rsicap"


def test_a_study_of_the_folder_comes_before_the_shipped_one(tmp_path, study_file, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "studies").mkdir()
    (tmp_path / "studies" / "rsicap.toml").write_text(
        STUDY.replace("space.toml", str(tmp_path / "space.toml"))
    )
    assert load_study("rsicap", Options()).model.name == "mini"


def test_a_space_is_found_beside_its_study(study_file):
    assert load_study(str(study_file), Options()).space["lora_r"] == ConstantParam(
        type="constant", value=8
    )


def test_a_study_file_gives_the_name(study_file):
    assert load_study(str(study_file), Options()).name == "mine"
    assert load_study(str(study_file), Options(name="other")).name == "other"


def test_options_win_over_the_file_and_the_scale():
    options = Options(
        scale="mini", trials=3, seed=7, data="/some/where", model="me/base", name="night"
    )
    study = load_study("rsicap", options)
    assert (study.search.trials, study.search.seed) == (3, 7)
    assert (study.model.name, study.name) == ("me/base", "night")
    assert (study.data.format, study.data.root) == ("rsicap", "/some/where")


@pytest.mark.parametrize(
    ("stages", "kept"), [("", ()), ('data.stages = ["seen+size", "count"]', ("seen+size", "count"))]
)
def test_files_bring_the_stages_of_files_and_drawn_data_their_own(study_file, stages, kept):
    mini = '[mini]\ndata.format = "quiz"\ndata.stages = ["easy", "hard"]\n'
    study_file.write_text(f"{STUDY.replace('scenes', 'vqa')}{stages}\n{mini}")
    drawn = load_study(str(study_file), Options(scale="mini"))
    ours = load_study(str(study_file), Options(scale="mini", data="/some/where"))
    assert (drawn.data.format, drawn.data.stages) == ("quiz", ("easy", "hard"))
    assert (ours.data.format, ours.data.stages) == ("vqa", kept)


@pytest.mark.parametrize(
    ("assignment", "table", "key", "value"),
    [
        ("trial.epochs=3", "trial", "epochs", 3),
        ("trial.max_grad_norm=0.5", "trial", "max_grad_norm", 0.5),
        ("model.precision=bf16", "model", "precision", "bf16"),
        ('model.precision="float16"', "model", "precision", "float16"),
        ("trial.max_seconds = 1e3", "trial", "max_seconds", 1000.0),
        ("model.name=./my=base", "model", "name", "./my=base"),
    ],
)
def test_set_overrides_one_value(assignment, table, key, value):
    study = load_study("rsicap", Options(scale="mini", assignments=(assignment,)))
    assert getattr(getattr(study, table), key) == value


def test_the_last_of_two_assignments_wins():
    options = Options(assignments=("trial.epochs=3", "trial.epochs=4"))
    assert load_study("rsicap", options).trial.epochs == 4


def test_set_wins_over_the_other_options():
    options = Options(trials=9, assignments=("search.trials=5",))
    assert load_study("rsicap", options).search.trials == 5


def test_set_gives_the_name_too():
    assert load_study("rsicap", Options(assignments=("name=night",))).name == "night"


def test_set_changes_the_search_space():
    assignments = (
        "space.lora_r=8",
        "space.lora_dropout.high=0.1",
        "space.batch_size.choices=[2, 8]",
        'space.lora_alpha={type = "int", low = 8, high = 64, step = 8}',
    )
    known = Options(assignments=("known=[]", *assignments))
    space = load_study("rsicap", known).space
    assert space["lora_r"].value == 8
    assert (space["lora_dropout"].low, space["lora_dropout"].high) == (0.0, 0.1)
    assert space["batch_size"].choices == (2, 8)
    assert space["lora_alpha"].step == 8


def test_set_takes_another_search_space():
    options = Options(assignments=("search_space=lora-mini", "known=[]"))
    assert load_study("rsicap", options).space["learning_rate"].high == 2e-2


def test_a_bare_value_in_a_space_is_a_constant_and_is_not_sampled(study_file):
    study = load_study(str(study_file), Options())
    assert isinstance(study.space["learning_rate"], ConstantParam)
    assert list(distributions(study.space)) == ["batch_size"]


def test_a_constant_may_be_spelled_out(study_file):
    text = SPACE.replace("lora_r = 8", 'lora_r = { type = "constant", value = 8 }')
    (study_file.parent / "space.toml").write_text(text)
    assert load_study(str(study_file), Options()).space["lora_r"].value == 8
