"""The command from end to end, when nothing goes wrong."""

import csv
import json
from pathlib import Path

import optuna
from optuna.trial import TrialState

from tests.commands import SMALL, assert_exact, in_states, run, stored

RECORD = {
    "outcome",
    "reason",
    "seconds",
    "samples_per_s",
    "peak_memory_bytes",
    "trainable_parameters",
    "device",
    "host",
    "versions",
    "git_revision",
}


def test_a_study_from_nothing_to_complete_and_further(tmp_path):
    url = f"sqlite:///{tmp_path}/hpo.db"
    first = run(tmp_path, "--trials", "7")
    assert "this is the mini scale" not in first, "it was asked for"
    assert "study rsicap-mini is complete" in first and "best configurations:" in first
    assert "zero-shot" in first and "optuna-dashboard sqlite:///hpo.db" in first
    trials = stored(url)
    assert_exact(trials, 7)
    assert trials[0].params["lora_r"] == 24, "the known configuration comes first"
    for trial in trials:
        assert RECORD <= trial.user_attrs.keys()
        assert trial.constraints["memory"] <= 0
        assert set(trial.params) == set(trials[0].params)
    best = optuna.load_study(study_name="rsicap-mini", storage=url).best_trial
    folder = tmp_path / "runs" / "rsicap-mini" / f"trial-{best.number:05d}"
    assert (folder / "adapter" / "adapter_model.safetensors").is_file()
    with (folder / "metrics.csv").open() as file:
        losses = [row["val_loss"] for row in csv.DictReader(file) if row["val_loss"]]
    assert min(map(float, losses)) == best.value
    assert f"{best.value:.4f}" in first
    assert "the study as one SQLite file: runs/rsicap-mini/study.db" in first
    copy = f"sqlite:///{tmp_path}/runs/rsicap-mini/study.db"
    assert stored(copy, None) == trials

    log = tmp_path / "runs" / "rsicap-mini" / "study.db-wal"
    log.touch()
    again = run(tmp_path, "--trials", "7")
    log.unlink()
    assert "is complete: nothing left to do" in again and "starts" not in again
    assert "study.db was not written: it is in use" in again and "one SQLite file" not in again
    assert len(stored(url)) == len(trials)

    run(tmp_path, "--trials", "9")
    assert_exact(stored(url), 9)
    assert stored(copy, None) == stored(url)


def test_no_gpu_means_mini_and_says_so(tmp_path):
    output = run(tmp_path, "--scale", "auto", "--trials", "1", CUDA_VISIBLE_DEVICES="")
    assert "no GPU here, so this is the mini scale" in output
    assert_exact(stored(f"sqlite:///{tmp_path}/hpo.db"), 1)


def test_other_settings_on_the_same_study_are_refused_with_the_differences(tmp_path):
    run(tmp_path, "--trials", "1")
    refused = run(tmp_path, "--trials", "2", settings=(*SMALL, "trial.weight_decay=0.1"), expect=2)
    assert "trial.weight_decay was 0.0, now 0.1" in refused and "--name" in refused
    other = (*SMALL, "trial.weight_decay=0.1")
    run(tmp_path, "--trials", "1", "--name", "other", settings=other)
    assert_exact(stored(f"sqlite:///{tmp_path}/hpo.db", "other"), 1)


def test_two_runs_with_one_seed_are_the_same_to_the_bit(tmp_path):
    found = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        options = ("--runners", "1", "--seed", "0", "--trials", "10")
        settings = (*SMALL, "search.startup_trials=3")
        run(tmp_path / name, *options, settings=settings)
        trials = stored(f"sqlite:///{tmp_path}/{name}/hpo.db")
        found.append([(t.params, t.intermediate_values, t.state) for t in trials])
    assert found[0] == found[1]
    assert len(found[0]) == 10


def test_real_images_train_below_zero_shot(tmp_path, shared):
    options = ("--data", str(shared / "rsscn7"), "--trials", "3", "--storage", "sqlite:///rs.db")
    settings = ("data.samples=80", "trial.epochs=1", "trial.evals=2")
    output = run(tmp_path, *options, settings=settings)
    assert "64 train and 16 val samples of 798" in output
    study = optuna.load_study(study_name="rsicap-mini", storage=f"sqlite:///{tmp_path}/rs.db")
    assert study.best_value < study.user_attrs["zero_shot"]


def test_json_is_one_event_a_line_and_ends_with_the_summary(tmp_path):
    output = run(tmp_path, "--json", "--trials", "2")
    events = [json.loads(line) for line in output.splitlines()]
    kinds = [event["event"] for event in events]
    assert kinds[0] == "plan" and kinds[-1] == "summary"
    assert kinds.count("trial_started") == kinds.count("trial_ended") == 2
    assert {"runner_ready", "trial_evaluated"} <= set(kinds)
    assert events[-1]["finished"] == 2 and events[-1]["counts"] == {"complete": 2}


def test_a_dry_run_shows_the_cost_and_stores_nothing(tmp_path):
    output = run(tmp_path, "--dry-run")
    assert "learning_rate: float from 2e-05 to 0.02, logarithmic" in output
    assert "trainable parameters" in output and "LoRA tensors, all in the qformer" in output
    assert "nothing was trained" in output
    assert not (tmp_path / "hpo.db").exists()


def test_the_time_limit_of_a_trial_prunes_it(tmp_path):
    settings = ("data.samples=400", "trial.epochs=20", "trial.max_seconds=1.5", "known=[]")
    run(tmp_path, "--trials", "1", settings=settings)
    (trial,) = stored(f"sqlite:///{tmp_path}/hpo.db")
    assert trial.state == TrialState.PRUNED and trial.user_attrs["outcome"] == "timeout"


def test_the_timeout_of_a_study_hands_back_and_the_same_command_goes_on(tmp_path):
    settings = ("data.samples=400", "trial.epochs=20")
    output = run(tmp_path, "--trials", "1", "--timeout", "9s", settings=settings)
    assert "the time is up" in output
    trials = stored(f"sqlite:///{tmp_path}/hpo.db")
    assert in_states(trials, TrialState.RUNNING) == []


def test_the_median_prunes_and_says_what_it_lost_to(tmp_path):
    space = tmp_path / "rates.toml"
    lines = ["lora_r = 4", "lora_alpha = 8.0", "batch_size = 4", "[learning_rate]"]
    lines += ['type = "categorical"', "choices = [1e-7, 5e-3]"]
    space.write_text("\n".join(lines))
    known = "known=[{learning_rate=5e-3}, {learning_rate=5e-3}, {learning_rate=1e-7}]"
    settings = (
        *SMALL,
        f'search_space="{space}"',
        known,
        "pruner.startup_trials=2",
        "pruner.min_trials=2",
    )
    run(tmp_path, "--trials", "3", "--runners", "1", settings=settings)
    trials = stored(f"sqlite:///{tmp_path}/hpo.db")
    assert [t.state for t in trials[:2]] == [TrialState.COMPLETE] * 2
    pruned = trials[2]
    assert pruned.state == TrialState.PRUNED
    attributes = pruned.user_attrs
    assert attributes["outcome"] == "pruned" and attributes["pruner"] == "median"
    assert attributes["pruned_value"] > attributes["pruned_median"]
    assert attributes["pruned_at_samples"] in pruned.intermediate_values
    assert Path(tmp_path / "runs/rsicap-mini/trial-00002/metrics.csv").is_file()
