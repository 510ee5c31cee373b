"""The command that scores a study, from end to end."""

import json
import shutil
import sys

import pytest

from tests.commands import SMALL, ran, run, stored

QUIZ = (*SMALL, "data.max_length=12")
BEGIN = (sys.executable, "-m", "hpo.score")
pytestmark = pytest.mark.xdist_group("scores")


def _sets(settings):
    return [word for setting in settings for word in ("--set", setting)]


def score(cwd, *options, settings=QUIZ, study="kvasir", expect=0, **extra):
    """Runs the command to its end and returns its output and errors."""
    command = [*BEGIN, "--study", study, "--scale", "mini", *_sets(settings), *options]
    return ran(cwd, command, expect=expect, **extra)


def scores_of(trial):
    """The scores among a trial's attributes."""
    return {k: v for k, v in trial.user_attrs.items() if k.startswith("score:")}


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """The folder of a study of two trials."""
    folder = tmp_path_factory.mktemp("study")
    printed = run(folder, "--trials", "2", "--runners", "1", settings=QUIZ, study="kvasir")
    (hint,) = (line.partition("#")[0] for line in printed.splitlines() if "hpo.score" in line)
    assert hint.split()[1:] == [*BEGIN[1:], "--study", "kvasir", "--scale", "mini", *_sets(QUIZ)]
    return folder


@pytest.mark.slow
def test_the_best_trials_answer_and_keep_their_scores(study):
    url = f"sqlite:///{study}/hpo.db"
    before = stored(url, "kvasir-mini")
    ranked = sorted(before, key=lambda trial: trial.value)
    (line,) = score(study, "--best", "1", "--json").splitlines()
    told = json.loads(line)
    assert (told["event"], told["number"]) == ("scored", ranked[0].number)
    assert told["value"] == ranked[0].value and set(told["scores"]) >= {"exact_match"}
    rows = [json.loads(row) for row in (study / told["answers"]).read_text().splitlines()]
    assert len(rows) == told["samples"] == 12
    assert all(set(row) == {"name", "prompt", "target", "answer"} for row in rows)
    best, other = (stored(url, "kvasir-mini")[trial.number] for trial in ranked)
    assert scores_of(best) == {f"score:{k}": v for k, v in told["scores"].items()}
    assert scores_of(other) == {}

    printed = score(study)
    after = stored(url, "kvasir-mini")
    table = [line.split() for line in printed.splitlines() if line.startswith("  ")]
    assert table[0][:4] == ["trial", "val", "loss", "exact_match"]
    assert [int(row[0]) for row in table[1:]] == [trial.number for trial in ranked]
    for row in table[1:]:
        shown = [f"{value:.4f}" for value in scores_of(after[int(row[0])]).values()]
        assert row[2:] == shown
    assert told["answers"] in printed
    for old, new in zip(before, after, strict=True):
        assert (old.state, old.value, old.params) == (new.state, new.value, new.params)
        assert old.user_attrs.items() <= new.user_attrs.items()
    assert stored(f"sqlite:///{study}/runs/kvasir-mini/study.db", None) == after


def test_captions_are_scored_by_the_library(tmp_path):
    pytest.importorskip("pycocoevalcap", reason="the extra `scores` is not installed")
    run(tmp_path, "--trials", "1")
    printed = score(tmp_path, settings=SMALL, study="rsicap")
    (trial,) = stored(f"sqlite:///{tmp_path}/hpo.db")
    names = ("bleu_1", "bleu_2", "bleu_3", "bleu_4", "cider", "rouge_l")
    assert list(scores_of(trial)) == [f"score:{name}" for name in names]
    assert "trial  val loss  bleu_1" in printed


@pytest.mark.parametrize(
    "options, words",
    [
        (("--best", "0"), ("--best 0", "above 0")),
        (("--name", "other"), ("no study other in sqlite:///hpo.db", "python -m hpo.run")),
        (("--set", "data.val_share=0.3"), ("data.val_share was 0.2, now 0.3", "--name")),
        (("--runs-dir", "elsewhere"), ("elsewhere/kvasir-mini", "--runs-dir")),
        (("--storage", "sqlite:///none.db"), ("no study kvasir-mini in sqlite:///none.db",)),
        (("--storage", "postgresql://me:S3cr3t@127.0.0.1:1/x"), ("a password", "$HPO_STORAGE")),
        (("--model", "./nowhere"), ("./nowhere: no such directory", "--model")),
    ],
)
def test_wrong_input_is_one_sentence_and_leaves_nothing(study, options, words):
    before = sorted(study.rglob("*"))
    output = score(study, *options, expect=2)
    assert output.startswith("error: ") and len(output.splitlines()) == 1, output
    for word in words:
        assert word in output
    assert "S3cr3t" not in output
    assert sorted(study.rglob("*")) == before


def test_without_an_adapter_on_this_disk_there_is_nothing_to_score(study, tmp_path):
    runs = tmp_path / "kvasir-mini"
    shutil.copytree(study / "runs" / "kvasir-mini", runs)
    for adapter in runs.glob("trial-*/adapter"):
        shutil.rmtree(adapter)
    output = score(study, "--runs-dir", str(tmp_path), expect=2)
    assert "no COMPLETE trial has its adapter" in output and "--runs-dir" in output
    (runs / "study.json").write_text('{"study": "of another database"}\n')
    output = score(study, "--runs-dir", str(tmp_path), expect=2)
    assert "holds the trials of another study" in output
