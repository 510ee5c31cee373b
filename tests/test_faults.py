"""The command from end to end, when something goes wrong."""

import signal
import subprocess

import optuna
import pytest
import sqlalchemy
from optuna.trial import TrialState

from tests.commands import (
    LONGER,
    REPOSITORY,
    SMALL,
    Running,
    assert_exact,
    gone,
    in_states,
    kill,
    run,
    stored,
)


def test_float16_ends_every_trial_as_nan_with_step_and_place(tmp_path):
    settings = (*SMALL, "trial.evals=1", "model.precision=float16")
    output = run(tmp_path, "--trials", "4", settings=settings)
    trials = stored(f"sqlite:///{tmp_path}/hpo.db")
    assert_exact(trials, 4)
    for trial in trials:
        assert trial.state == TrialState.PRUNED and trial.intermediate_values == {}
        assert trial.user_attrs["outcome"] == "nan"
        assert trial.user_attrs["nan_step"] == 2
        assert trial.user_attrs["nan_where"] == "query embeddings"
    assert "--set model.precision=float32 or bf16" in output


@pytest.mark.slow
def test_a_runner_that_is_replaced_for_memory_says_why(tmp_path):
    """Whatever its trial leaves behind is too much here."""
    (tmp_path / "sitecustomize.py").write_text(
        "from hpo.training.memory import gauge\n"
        "gauge.SLACK_BYTES, gauge.SLACK_SHARE = -(1 << 40), -(1 << 10)\n"
    )
    path = f"{tmp_path}:{REPOSITORY}"
    output = run(tmp_path, "--trials", "2", "--runners", "1", PYTHONPATH=path)
    assert "runner 0 is to be replaced: " in output
    assert "more host memory in use than before its first trial" in output


def test_batches_that_cannot_fit_are_pruned_as_oom_beside_complete_trials(tmp_path):
    settings = (
        "data.samples=240",
        "trial.epochs=1",
        "trial.evals=2",
        "trial.eval_batch_size=4",
        "space.batch_size.choices=[4, 190]",
        "known=[{batch_size=4}, {batch_size=190}, {batch_size=4}, {batch_size=190}]",
    )
    options = ("--memory-limit", "300MB", "--trials", "4", "--runners", "1")
    output = run(tmp_path, *options, settings=settings)
    trials = stored(f"sqlite:///{tmp_path}/hpo.db")
    assert_exact(trials, 4)
    for trial in trials:
        if trial.params["batch_size"] == 4:
            assert trial.state == TrialState.COMPLETE and trial.constraints["memory"] <= 0
        else:
            assert trial.state == TrialState.PRUNED and trial.intermediate_values == {}
            assert trial.user_attrs["outcome"] == "oom" and trial.constraints["memory"] > 0
            assert trial.user_attrs["constraint_memory"] == trial.constraints["memory"]
            assert trial.user_attrs["capacity_bytes"] == 300 << 20
    assert "2 oom" in output


def test_a_killed_runner_costs_no_trial(tmp_path):
    url = f"sqlite:///{tmp_path}/hpo.db"
    running = Running(tmp_path, "--trials", "4", "--runners", "1")
    running.wait_for("trial_evaluated")
    (runner,) = running.runners()
    kill(runner)
    assert running.finish() == 0
    trials = stored(url)
    assert_exact(trials, 4)
    (lost,) = in_states(trials, TrialState.FAIL)
    assert lost.user_attrs["outcome"] == "lost" and "SIGKILL" in lost.user_attrs["reason"]
    (retry,) = [t for t in trials if t.user_attrs.get("retry_of") == lost.number]
    assert retry.params == lost.params and retry.user_attrs["attempt"] == 2
    first = next(iter(lost.intermediate_values))
    assert retry.intermediate_values[first] == lost.intermediate_values[first]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_hands_back_and_the_same_command_goes_on(tmp_path, number):
    url = f"sqlite:///{tmp_path}/hpo.db"
    running = Running(tmp_path, "--trials", "4")
    running.wait_for("trial_evaluated", 2)
    runners = running.runners()
    running.signal(number)
    assert running.finish() == 130
    assert all(gone(runner) for runner in runners)
    trials = stored(url)
    assert in_states(trials, TrialState.RUNNING) == []
    assert in_states(trials, TrialState.WAITING) != []
    assert "goes on" in running.events[-1]["verdict"]
    run(tmp_path, "--trials", "4", settings=LONGER)
    assert_exact(stored(url), 4)


def test_a_killed_driver_takes_its_runners_along_and_the_next_one_goes_on(tmp_path):
    url = f"sqlite:///{tmp_path}/hpo.db"
    running = Running(tmp_path, "--trials", "3")
    running.wait_for("trial_evaluated")
    runners = running.runners()
    running.signal(signal.SIGKILL)
    running.process.wait()
    assert all(gone(runner) for runner in runners)
    assert in_states(stored(url), TrialState.RUNNING) != []
    run(tmp_path, "--trials", "3", settings=LONGER)
    trials = stored(url)
    assert_exact(trials, 3)
    assert {t.user_attrs["outcome"] for t in in_states(trials, TrialState.FAIL)} == {"lost"}


@pytest.mark.parametrize("server", ["postgres_url", "mysql_url"])
def test_two_processes_on_an_empty_database_finish_the_exact_total(tmp_path, server, request):
    url = shown(request.getfixturevalue(server))
    options = ("--trials", "20", "--storage", url, "--runners", "1")
    both = [Running(tmp_path, *options, settings=SMALL) for _ in range(2)]
    for running in both:
        running.wait_for("runner_ready")
    assert [running.finish() for running in both] == [0, 0]
    assert_exact(stored(url), 20)
    ended = [sum(e["event"] == "trial_started" for e in r.events) for r in both]
    assert min(ended) > 0, "both took part"


def shown(url):
    """The URL with its password, as a user types it."""
    return url.render_as_string(hide_password=False)


def everything(url):
    """All rows of all tables."""
    engine = sqlalchemy.create_engine(url)
    tables = sqlalchemy.MetaData()
    tables.reflect(engine)
    with engine.connect() as connection:
        found = [connection.execute(table.select()).all() for table in tables.sorted_tables]
    engine.dispose()
    return str(found)


def test_a_password_is_shown_and_stored_nowhere(tmp_path, postgres_url):
    secret = shown(postgres_url.set(password="S3cr3tWord"))
    none = shown(postgres_url.set(password="S3cr3tWord", database="none"))
    file = tmp_path.parent / f"{tmp_path.name}.url"
    file.write_text(f"{secret}\n")
    output = run(tmp_path, "--trials", "2", HPO_STORAGE_FILE=str(file))
    output += run(tmp_path, "--trials", "2", HPO_STORAGE=secret)
    output += run(tmp_path, "--trials", "2", "--storage", secret, expect=2)
    output += run(tmp_path, "--trials", "2", HPO_STORAGE=none, expect=2)
    assert "optuna-dashboard" in output and "S3cr3tWord" not in output
    dump = everything(postgres_url)
    assert "rsicap-mini" in dump and "S3cr3tWord" not in dump
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or b"S3cr3tWord" not in path.read_bytes()


def test_a_study_whose_trials_keep_failing_stops_itself_and_says_why(tmp_path, shared):
    data = tmp_path / "data"
    (data / "images").mkdir(parents=True)
    for name in ("captions.json",):
        (data / name).write_bytes((shared / "rsscn7" / name).read_bytes())
    for image in (shared / "rsscn7" / "images").iterdir():
        content = image.read_bytes()
        (data / "images" / image.name).write_bytes(content[: len(content) // 3])
    settings = ("data.samples=60", "trial.epochs=1")
    output = run(tmp_path, "--data", str(data), "--trials", "9", settings=settings, expect=2)
    assert "the image cannot be read" in output and ".jpg" in output


def test_a_full_disk_ends_in_a_clear_outcome(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(disk)], capture_output=True
    )
    if mounted.returncode != 0:
        pytest.skip("needs the right to mount a small tmpfs")
    try:
        output = run(tmp_path, "--trials", "6", "--runs-dir", str(disk), expect=1)
    finally:
        subprocess.run(["umount", str(disk)], check=True)
    assert "stopped itself" in output and "the disk of" in output and "free space" in output
    trials = stored(f"sqlite:///{tmp_path}/hpo.db")
    assert in_states(trials, TrialState.RUNNING) == []
    assert {t.user_attrs["outcome"] for t in in_states(trials, TrialState.FAIL)} <= {
        "disk_full",
        "preempted",
    }


def test_a_study_that_optuna_alone_has_made_is_left_alone(tmp_path):
    url = f"sqlite:///{tmp_path}/hpo.db"
    study = optuna.create_study(storage=url, study_name="rsicap-mini")
    study.tell(study.ask(), 1.0)
    assert "was not made by hpo" in run(tmp_path, "--trials", "2", expect=2)
    assert len(stored(url)) == 1
