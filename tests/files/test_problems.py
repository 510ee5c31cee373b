"""What is wrong in files and options: all of it at once, in sentences."""

import random
import re

import pytest

from hpo.errors import FileProblems
from hpo.files import Options, load_study
from hpo.files.toml import read_toml

STUDY = """
task = "captioning"
search_space = "space.toml"

[model]
name = "mini"

[data]
format = "scenes"

[trial]
epochs = 2

[[known]]
learning_rate = 1e-4
batch_size = 4
"""
SPACE = """
learning_rate = { type = "float", low = 1e-5, high = 1e-3, log = true }
lora_r = { type = "int", low = 4, high = 32, step = 4 }
lora_alpha = 16
scheduler = { type = "categorical", choices = ["linear", "cosine"] }
batch_size = { type = "categorical", choices = [2, 4] }
"""
NOT_FOR_PEOPLE = re.compile(
    r"Traceback|pydantic|Error\b|validation error|NoneType|<class|Input should|union|\bctx\b"
)


@pytest.fixture
def complaints(tmp_path):
    """Loads a study and a space with texts replaced, and returns what is wrong with them."""

    def load(changes=(), space_changes=(), **options):
        study, space = STUDY, SPACE
        for old, new in changes:
            assert old in study
            study = study.replace(old, new)
        for old, new in space_changes:
            assert old in space
            space = space.replace(old, new)
        (tmp_path / "study.toml").write_text(study)
        (tmp_path / "space.toml").write_text(space)
        try:
            load_study(str(tmp_path / "study.toml"), Options(**options))
        except FileProblems as error:
            for problem in error.problems:
                assert not NOT_FOR_PEOPLE.search(problem), problem
                assert "\n" not in problem
            return error.problems
        return []

    return load


def test_the_files_as_they_are_have_no_problem(complaints):
    assert complaints() == []


def names(problem, *words):
    missing = [word for word in words if word not in problem]
    assert not missing, f"{missing} not in: {problem}"


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("epochs = 2", "epoch = 2", ("trial.epoch", "unknown key", "did you mean epochs?")),
        ("[trial]", "[trail]", ("trail", "unknown key", "did you mean trial?")),
        ("epochs = 2", 'epochs = "2"', ("trial.epochs", '"2"', "valid integer")),
        ("epochs = 2", "epochs = 2.5", ("trial.epochs", "2.5", "integer")),
        ("epochs = 2", "epochs = true", ("trial.epochs", "true", "integer")),
        ("epochs = 2", "epochs = 0", ("trial.epochs", "0", "greater than 0")),
        ("epochs = 2", "epochs = 2026-01-01", ("trial.epochs", "2026-01-01", "integer")),
        ("epochs = 2", "max_grad_norm = nan", ("trial.max_grad_norm", "finite")),
        ("epochs = 2", "warmup_share = 1.0", ("trial.warmup_share", "1.0", "less than 1")),
        ('name = "mini"', "name = 3", ("model.name", "3", "string")),
        ('name = "mini"', "", ("model", "missing")),
        (
            'name = "mini"',
            'name = "mini"\nprecision = "fp32"',
            ("model.precision", "fp32", "float32", "bf16", "float16"),
        ),
        ('"scenes"', '"coco"', ("data.format", "coco", "rsicap", "scenes")),
        ('"scenes"', '"scenes"\nimage_size = 27', ("data.image_size", "27", "28")),
        ('"scenes"', '"scenes"\nstages = "easy"', ("data.stages", "easy", "array")),
        ('"scenes"', '"scenes"\nstages = [""]', ("data.stages", "at least 1")),
        ('"captioning"', '"translation"', ("task", "translation", "captioning")),
        ('task = "captioning"', "", ("task", "missing")),
        ("[trial]\nepochs = 2", "[search]\ntrials = 0", ("search.trials", "0", "greater than 0")),
        ("[trial]\nepochs = 2", "[search]\nseed = -1", ("search.seed", "-1")),
    ],
)
def test_a_wrong_setting_is_named_with_what_is_allowed(complaints, old, new, words):
    (problem,) = complaints([(old, new)])
    names(problem, "study.toml", *words)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("low = 1e-5", "lwo = 1e-5, low = 1e-5", ("learning_rate.lwo", "did you mean low?")),
        ("low = 1e-5, ", "", ("learning_rate.low", "missing")),
        ("low = 1e-5", 'low = "1e-5"', ("learning_rate.low", '"1e-5"', "number")),
        ("low = 1e-5", "low = 0.1", ("learning_rate.low", "0.1", "below", "high = 0.001")),
        ("low = 1e-5", "low = 1e-3", ("learning_rate.low", "0.001", "below")),
        ("low = 1e-5", "low = 0.0", ("learning_rate.low", "0.0", "above 0", "log")),
        ("low = 1e-5", "low = -1.0", ("learning_rate.low", "-1.0", "above 0")),
        ("high = 1e-3", "high = inf", ("learning_rate.high", "finite")),
        ("low = 4, high = 32, step = 4", "low = 32, high = 4", ("lora_r.low", "32", "high = 4")),
        ("low = 4", "low = 0", ("lora_r.low", "0", "greater than 0")),
        ("step = 4", "step = 4, log = true", ("lora_r.step", "4", "must be 1 with log = true")),
        ("step = 4", "step = 0", ("lora_r.step", "0", "greater than 0")),
        ("[2, 4]", '[2, "4"]', ("batch_size.choices", '[2, "4"]', "all of one type")),
        ("[2, 4]", "[2, true]", ("batch_size.choices", "all of one type")),
        ("[2, 4]", "[2, 2]", ("batch_size.choices", "[2, 2]", "all different")),
        ("[2, 4]", "[]", ("batch_size.choices", "at least 1")),
        ("[2, 4]", "[0, 4]", ("batch_size.choices", "0", "greater than 0")),
        ("[2, 4]", "[[2], 4]", ("batch_size.choices", "number, a string or a boolean")),
        ('"cosine"]', '"cosnie"]', ("scheduler.choices", "cosnie", "linear", "cosine", "constant")),
        ("lora_alpha = 16", "lora_alpha = 0", ("lora_alpha.value", "0", "greater than 0")),
        ("lora_alpha = 16", "lora_alpha = 16\nlora_alhpa = 1", ("lora_alhpa", "lora_alpha?")),
        ("lora_alpha = 16", "", ("lora_alpha", "missing", "search space")),
        ('"float"', '"real"', ("learning_rate.type", "real", "float, int, categorical, constant")),
        ('type = "int", ', "", ("lora_r.type", "float, int, categorical, constant")),
    ],
)
def test_a_wrong_search_space_is_named_with_what_is_allowed(complaints, old, new, words):
    (problem,) = [p for p in complaints(space_changes=[(old, new)]) if "known." not in p]
    names(problem, "space.toml", *words)


@pytest.mark.parametrize("value", ["[16]", "nan"])
def test_a_wrong_constant_is_one_problem_at_its_own_key(complaints, value):
    (problem,) = complaints(space_changes=[("lora_alpha = 16", f"lora_alpha = {value}")])
    assert re.search(r"space\.lora_alpha(\.value)?( =|:)", problem)


@pytest.mark.parametrize(
    ("new", "words"),
    [
        ("learning_rate = 1.0", ("known.0.learning_rate", "1.0", "from 1e-05 to 0.001")),
        ('learning_rate = "big"', ("known.0.learning_rate", "big")),
        ("learning_rate = true", ("known.0.learning_rate", "true")),
        ("learning_rate = [1e-4]", ("known.0.learning_rate", "must be a number")),
        ("lora_r = 6", ("known.0.lora_r", "6", "steps of 4 from 4")),
        ("lora_r = 8.0", ("known.0.lora_r", "8.0", "whole number")),
        ("lora_r = 64", ("known.0.lora_r", "64", "from 4 to 32")),
        ("lora_alpha = 32", ("known.0.lora_alpha", "32", "constant at 16")),
        ('scheduler = "constant"', ("known.0.scheduler", "constant", "linear", "cosine")),
        ("momentum = 0.9", ("known.0.momentum", "0.9", "no such parameter", "learning_rate")),
    ],
)
def test_a_known_configuration_outside_the_space_is_named(complaints, new, words):
    (problem,) = complaints([("learning_rate = 1e-4", new)])
    names(problem, "study.toml", *words)


def test_the_second_known_configuration_is_told_from_the_first(complaints):
    more = "batch_size = 4\n[[known]]\nbatch_size = 3"
    (problem,) = complaints([("batch_size = 4", more)])
    names(problem, "known.1.batch_size", "3", "[2, 4]")


def test_all_single_values_that_are_wrong_are_reported_at_once(complaints):
    problems = complaints(
        [("epochs = 2", 'epochs = "2"\nepoch = 3'), ('"scenes"', '"coco"')],
        [("low = 4", "lw = 4"), ('"float"', '"real"')],
        assignments=("search.trials=many",),
    )
    text = "\n".join(problems)
    for key in ("trial.epochs", "trial.epoch:", "data.format", "lora_r.lw", "lora_r.low"):
        assert key in text
    assert "learning_rate.type" in text
    assert "search.trials" in text
    assert len(problems) == 7


def test_everything_that_does_not_fit_together_is_reported_at_once(complaints):
    problems = complaints(
        [('"captioning"', '"translation"'), ("learning_rate = 1e-4", "momentum = 1")],
        [("low = 1e-5", "low = 1.0"), ("[2, 4]", '[2, 4, "8"]'), ("lora_alpha = 16", "")],
    )
    assert len(problems) == 5


def test_wrong_values_and_wrong_ranges_and_references_are_reported_at_once(complaints):
    problems = complaints(
        [("epochs = 2", 'epochs = "2"'), ('"captioning"', '"translation"')],
        [("low = 1e-5", "low = 1.0")],
    )
    text = "\n".join(problems)
    for key in ("trial.epochs", "task", "learning_rate.low"):
        assert key in text, f"{key} is not in: {text}"


def test_an_unknown_space_does_not_hide_what_else_is_wrong(complaints):
    problems = complaints([("epochs = 2", 'epochs = "2"'), ("space.toml", "lorra")])
    text = "\n".join(problems)
    assert "trial.epochs" in text
    assert "lorra" in text


def test_all_assignments_that_are_none_are_reported_at_once(complaints):
    problems = complaints(assignments=("trial.epochs", "=3", "trial..epochs=3"))
    assert len(problems) == 3
    for problem, given in zip(problems, ("trial.epochs", "=3", "trial..epochs=3"), strict=True):
        names(problem, f"--set {given}", "key=value")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"assignments": ("trial.epochs=x",)}, ("--set trial.epochs=x", '"x"', "integer")),
        ({"assignments": ("trial.epoch=3",)}, ("--set trial.epoch=3", "did you mean epochs?")),
        ({"assignments": ("space.lora_r.low=64",)}, ("--set space.lora_r.low=64", "below")),
        ({"assignments": ("space.lora_q=8",)}, ("--set space.lora_q=8", "lora_r")),
        ({"assignments": ("model=mini",)}, ("--set model=mini", "object")),
        ({"trials": 0}, ("--trials", "search.trials = 0", "greater than 0")),
        ({"seed": -3}, ("--seed", "search.seed = -3")),
    ],
)
def test_a_wrong_option_is_named_as_it_was_typed(complaints, options, words):
    problems = complaints([("[[known]]\nlearning_rate = 1e-4\nbatch_size = 4", "")], **options)
    assert len(problems) == 1
    names(problems[0], *words)


@pytest.mark.parametrize("line", ['mini = "small"', "mini = 3", "mini = [1]"])
def test_a_mini_that_is_no_table_is_named(complaints, line):
    (problem,) = complaints([("[model]", f"{line}\n[model]")], scale="mini")
    names(problem, "study.toml", "mini")


def test_a_mini_that_is_not_there_is_named_with_the_way_out(complaints):
    (problem,) = complaints(scale="mini")
    names(problem, "study.toml", "[mini]", "--scale full")


def test_a_wrong_value_of_the_mini_table_is_said_to_be_there(complaints):
    wrong = "[mini]\ntrial.epochs = 0\n[[known]]"
    (problem,) = complaints([("[[known]]", wrong)], scale="mini")
    names(problem, "study.toml [mini]", "trial.epochs = 0")


@pytest.mark.parametrize("line", ['name = "mine"', "space.lora_r = 3"])
def test_a_study_file_cannot_hold_what_belongs_elsewhere(complaints, line):
    (problem,) = complaints([('task = "captioning"', f'task = "captioning"\n{line}')])
    names(problem, "study.toml", line.split(" ")[0].split(".")[0])


@pytest.mark.parametrize("study", ["rsicup", "rsi-cap"])
def test_an_unknown_study_lists_those_that_there_are(study):
    with pytest.raises(FileProblems) as caught:
        load_study(study, Options())
    names(str(caught.value), study, "unknown study", "did you mean rsicap?", ".toml")


def test_a_study_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(FileProblems, match="no such file") as caught:
        load_study(str(tmp_path / "none.toml"), Options())
    names(str(caught.value), "none.toml", "studies/")


def test_an_unknown_search_space_lists_those_that_there_are(complaints):
    (problem,) = complaints([("space.toml", "lroa")])
    names(problem, "lroa", "unknown search space", "did you mean lora?", "lora-mini")


def test_a_search_space_file_that_is_not_there_is_named(complaints):
    (problem,) = complaints([('"space.toml"', '"other.toml"')])
    names(problem, "other.toml", "no such file")


@pytest.mark.parametrize("which", ["study.toml", "space.toml"])
def test_broken_toml_is_named_with_its_line(complaints, tmp_path, which):
    broken = [("scheduler", "= scheduler")] if which == "space.toml" else []
    study = [("[trial]", "[trial")] if which == "study.toml" else []
    (problem,) = complaints(study, broken)
    names(problem, which, "not valid TOML", "line")


def test_a_file_that_is_not_text_is_named(tmp_path):
    (tmp_path / "study.toml").write_bytes(b"\xff\xfe\x00task")
    with pytest.raises(FileProblems, match=r"study\.toml: cannot be read"):
        load_study(str(tmp_path / "study.toml"), Options())


MARK = b"\xef\xbb\xbf"


def test_a_byte_order_mark_and_old_line_ends_are_passed_over(tmp_path, shared):
    (tmp_path / "space.toml").write_bytes(MARK + SPACE.encode())
    (tmp_path / "study.toml").write_bytes(STUDY.encode())
    plain = load_study(str(tmp_path / "study.toml"), Options())
    for content in (MARK + STUDY.encode(), STUDY.replace("\n", "\r\n").encode()):
        (tmp_path / "study.toml").write_bytes(content)
        assert load_study(str(tmp_path / "study.toml"), Options()) == plain
    given = (shared / "field_cases" / "bom.toml").read_bytes()
    assert given.startswith(MARK)
    (tmp_path / "bom.toml").write_bytes(given)
    marked = read_toml(tmp_path / "bom.toml")
    (tmp_path / "bom.toml").write_bytes(given.removeprefix(MARK))
    assert marked and read_toml(tmp_path / "bom.toml") == marked


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (STUDY.encode("utf-16"), ("UTF-16", "save it as UTF-8")),
        (STUDY.encode("utf-16-be"), ("UTF-16", "save it as UTF-8")),
        (STUDY.encode() + b"# \0", ("not text", "save it as UTF-8")),
        (b"# first\n# caf\xe9\n", ("line 2 is not UTF-8", "xe9", "save it as UTF-8")),
        (b"a = 1\nb = " + b"9" * 5000, ("a number in line 2", "64 bits")),
        (b"[trial]\nepochs = 0x" + b"f" * 5000, ("trial.epochs has more than 64 bits",)),
        (b"[trial]\nepochs = 9223372036854775808", ("trial.epochs has more than 64 bits",)),
        (b"a = " + b"[" * 20_000, ("nested more than 16 deep",)),
        (b"a = " + b"[" * 100 + b"]" * 100, ("a.0.0 is nested more than 16 deep",)),
        (b"a." * 3000 + b"b = 1", ("nested more than 16 deep",)),
        (b"#" * (1 << 21), ("larger than 1 MiB", "name a .toml file")),
        (b"a = [}\nb = 1", ("not valid TOML", "line 1", "correct that line")),
    ],
    ids=range(12),
)
@pytest.mark.parametrize("which", ["study.toml", "space.toml"])
def test_a_file_that_cannot_be_a_study_is_named_with_the_remedy(tmp_path, which, content, words):
    (tmp_path / "study.toml").write_text(STUDY)
    (tmp_path / "space.toml").write_text(SPACE)
    (tmp_path / which).write_bytes(content)
    with pytest.raises(FileProblems) as caught:
        load_study(str(tmp_path / "study.toml"), Options())
    (problem,) = caught.value.problems
    names(problem, f"{which}: ", *words)


def test_a_clash_with_known_configurations_says_how_to_leave_them_out(complaints, tmp_path):
    (tmp_path / "other.toml").write_text(SPACE.replace("high = 1e-3", "high = 5e-5"))
    (problem,) = complaints(assignments=("search_space=other.toml",))
    names(problem, "known.0.learning_rate", "0.0001", "5e-05", "--set 'known=[]'")
    assert complaints(assignments=("search_space=other.toml", "known=[]")) == []


def test_a_long_value_is_cut_and_stays_on_one_line(complaints):
    (problem,) = complaints(assignments=(f"trial.epochs={'x' * 5000}\n\x1b[31m",))
    assert len(problem) < 600 and "\x1b" not in problem and "valid integer" in problem


FRAGMENTS = [
    *(b"\xff", b"\0", MARK, b"\xff\xfe", b"9" * 5000, b"[" * 3000, b"{a=" * 300, b"nan", b"-inf"),
    *(b"2026-01-01", b'"', b"\n[[known]]\n", b"\n[mini]\n", b"=", b"0x" + b"f" * 5000, b"1e999"),
    *(b"a." * 400, b"-1", b"true", b"[]", b"{}", b'"\\ud800"', b"\r", b"99999999999999999999"),
]
KEYS = ("trial.epochs", "known", "space", "space.lora_r", "data", "search_space", "name", "mini")


def mutated(rng, content):
    """A file with something put in, taken out, or changed."""
    place = rng.randrange(len(content))
    match rng.randrange(3):
        case 0:
            return content[:place] + rng.choice(FRAGMENTS) + content[place:]
        case 1:
            return content[:place] + content[place + rng.randrange(30) :]
    lines = content.split(b"\n")
    line = rng.randrange(len(lines))
    lines[line] = lines[line].partition(b"=")[0] + b"= " + rng.choice(FRAGMENTS)
    return b"\n".join(lines)


@pytest.mark.parametrize("seed", range(300))
def test_whatever_is_in_the_files_and_options_is_loaded_or_refused(tmp_path, seed):
    rng = random.Random(seed)
    (tmp_path / "study.toml").write_bytes(mutated(rng, STUDY.encode()))
    (tmp_path / "space.toml").write_bytes(mutated(rng, SPACE.encode()))
    text = rng.choice(FRAGMENTS).decode(errors="replace").replace("\0", "")
    assignments = (f"{rng.choice(KEYS)}={text}",) if rng.randrange(2) else ()
    trials = rng.choice([None, 3, 10**30])
    try:
        load_study(str(tmp_path / "study.toml"), Options(assignments=assignments, trials=trials))
    except FileProblems as error:
        assert all(len(problem) < 800 and "\n" not in problem for problem in error.problems)
