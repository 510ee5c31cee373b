"""The command from end to end, through what a night may bring: hangs, outages, other hosts."""

import os
import signal
import stat
import time
from pathlib import Path

import pytest
import sqlalchemy
from optuna.trial import TrialState

from hpo.search.database.tables import LEASES, USAGE
from hpo.search.database.urls import parse_url
from hpo.specs import Outcome
from tests.chaos.databases import POSTGRES, PostgresCluster
from tests.commands import (
    LONGER,
    SMALL,
    Running,
    assert_exact,
    assert_whole,
    curve,
    gone,
    in_states,
    kill,
    run,
    stored,
)

IMPATIENT = (*LONGER, "limits.hang_seconds=5")


@pytest.fixture
def cluster():
    """A PostgreSQL server of its own, which a test may kill."""
    if not POSTGRES.is_dir() or os.geteuid() != 0:
        if os.environ.get("HPO_REQUIRE_DATABASES"):
            pytest.fail("needs PostgreSQL's cluster commands, as root")
        pytest.skip("needs PostgreSQL's cluster commands, as root")
    own = PostgresCluster()
    own.open()
    yield own
    own.close()


def rows(url, table):
    """The rows of one of our tables."""
    engine = sqlalchemy.create_engine(parse_url(str(url)))
    with engine.connect() as connection:
        found = connection.execute(table.select()).all()
    engine.dispose()
    return found


def test_training_goes_on_while_the_database_is_killed_and_started_again(tmp_path, cluster):
    running = Running(tmp_path, "--trials", "6", "--storage", cluster.storage)
    running.wait_for("trial_evaluated", 2)
    cluster.down()
    time.sleep(6)  # long enough for trials to end meanwhile
    cluster.up()
    assert running.finish() == 0
    trials = stored(str(cluster.url))
    assert_exact(trials, 6)
    assert in_states(trials, TrialState.FAIL) == [], "no trial was lost"
    assert_whole(tmp_path / "runs", trials)
    notes = [e["text"] for e in running.events if e["event"] == "note"]
    assert any("training goes on" in text for text in notes)
    assert any("the database is back after" in text for text in notes)


def test_patience_with_a_database_ends_with_checkpoints_and_the_next_command_goes_on(
    tmp_path, cluster
):
    impatient = (*LONGER, "limits.outage_seconds=3")
    options = ("--trials", "3", "--storage", cluster.storage, "--runners", "1")
    running = Running(tmp_path, *options, settings=impatient)
    running.wait_for("trial_evaluated", 2)
    cluster.down()
    assert running.finish() == 2
    assert "the same command continues" in running.events[-1]["message"]
    cluster.up()
    output = run(tmp_path, *options, settings=impatient)
    trials = stored(str(cluster.url))
    assert_exact(trials, 3)
    assert "goes on from" in output
    assert_whole(tmp_path / "runs", trials)


def test_a_stopped_runner_is_replaced_and_its_trial_goes_on(tmp_path):
    running = Running(tmp_path, "--trials", "3", "--runners", "1", settings=IMPATIENT)
    running.wait_for("trial_evaluated", 2)
    (runner,) = running.runners()
    os.kill(runner, signal.SIGSTOP)
    assert running.finish() == 0
    assert gone(runner), "it was killed: there is nothing that SIGCONT could wake"
    trials = stored(f"sqlite:///{tmp_path}/hpo.db")
    assert_exact(trials, 3)
    (hung,) = in_states(trials, TrialState.FAIL)
    assert hung.user_attrs["outcome"] == "hung"
    assert any("goes on from" in e.get("text", "") for e in running.events)
    assert_whole(tmp_path / "runs", trials)


def test_a_stopped_driver_loses_its_trial_and_writes_nothing_when_it_wakes(tmp_path, postgres_url):
    url = str(postgres_url)
    options = ("--trials", "4", "--storage", url, "--runners", "1")
    stopped = Running(tmp_path, *options, settings=IMPATIENT)
    stopped.wait_for("trial_evaluated")
    (runner,) = stopped.runners()
    for process in (stopped.process.pid, runner):
        os.kill(process, signal.SIGSTOP)
    other = Running(tmp_path, *options, settings=IMPATIENT)
    assert other.finish() == 0
    before = stored(url), rows(url, LEASES), rows(url, USAGE), files(tmp_path / "runs")
    assert_exact(before[0], 4)
    assert before[1] == []
    for process in (runner, stopped.process.pid):
        os.kill(process, signal.SIGCONT)
    assert stopped.finish() == 0
    assert gone(runner)
    assert (stored(url), rows(url, LEASES), rows(url, USAGE), files(tmp_path / "runs")) == before


def files(folder):
    """What lies in the folders of trials, with sizes and times."""
    found = (path for path in folder.rglob("*") if "trial-" in str(path) and path.is_file())
    return {path: (path.stat().st_size, path.stat().st_mtime_ns) for path in found}


def test_after_an_interrupt_a_trial_goes_on_from_its_last_step(tmp_path):
    options = ("--trials", "2", "--runners", "1")
    running = Running(tmp_path, *options)
    running.wait_for("trial_evaluated")
    running.signal(signal.SIGUSR1)
    assert running.finish() == 130
    output = run(tmp_path, *options, settings=LONGER)
    trials = stored(f"sqlite:///{tmp_path}/hpo.db")
    assert_exact(trials, 2)
    (handed,) = in_states(trials, TrialState.FAIL)
    (retry,) = [t for t in trials if t.user_attrs.get("retry_of") == handed.number]
    steps = len(curve(tmp_path / "runs" / "rsicap-mini", handed.number))
    assert retry.user_attrs["resumed_at_samples"] == handed.user_attrs["steps"] * 8
    assert handed.user_attrs["steps"] == steps and "goes on from" in output
    assert_whole(tmp_path / "runs", trials)


def test_usr1_in_a_slurm_job_asks_slurm_to_run_it_again_and_term_does_not(tmp_path):
    asked = tmp_path / "asked"
    stub = tmp_path / "bin" / "scontrol"
    stub.parent.mkdir()
    stub.write_text(f'#!/bin/sh\necho "$@" >> {asked}\n')
    stub.chmod(stub.stat().st_mode | stat.S_IEXEC)
    job = {"SLURM_JOB_ID": "4711", "PATH": f"{stub.parent}:{os.environ['PATH']}"}
    for number in (signal.SIGTERM, signal.SIGUSR1):
        running = Running(tmp_path, "--trials", "9", "--runners", "1", **job)
        running.wait_for("trial_progress")
        assert not asked.exists()
        running.signal(number)
        assert running.finish() == 130
    assert asked.read_text() == "requeue 4711\n"


def test_device_hours_end_a_study_and_more_of_them_go_on(tmp_path):
    output = run(tmp_path, "--trials", "9", settings=(*LONGER, "limits.device_hours=0.0005"))
    url = f"sqlite:///{tmp_path}/hpo.db"
    assert "limits.device_hours = 0.0005" in output and "of device time" in output
    trials = stored(url)
    assert in_states(trials, TrialState.RUNNING) == []
    seconds = sum(row.device_seconds for row in rows(url, USAGE))
    assert seconds >= 1.8
    assert sum(row.trials for row in rows(url, USAGE)) == len(
        [t for t in trials if t.state.is_finished()]
    )
    total = len(in_states(trials, TrialState.COMPLETE, TrialState.PRUNED)) + 2
    run(tmp_path, "--trials", str(total), settings=(*LONGER, "limits.device_hours=1"))
    assert_exact(stored(url), total)
    assert rows(url, LEASES) == []


def test_the_clock_on_the_wall_ends_a_study(tmp_path):
    output = run(tmp_path, "--trials", "9", settings=(*LONGER, "limits.hours=0.002"))
    assert "limits.hours = 0.002" in output
    again = run(tmp_path, "--trials", "9", settings=(*LONGER, "limits.hours=0.002"))
    assert "limits.hours = 0.002" in again and "starts" not in again


def test_sqlite_is_refused_to_a_second_host(tmp_path):
    run(tmp_path, "--trials", "1")
    url = f"sqlite:///{tmp_path}/hpo.db"
    lease = {
        "trial_id": 99, "study_id": 1, "worker": "elsewhere:1:a", "place": "another-boot pid:[1]",
        "pid": 1, "process_started": 1, "job": "", "restarts": 0, "lease_s": 120.0,
        "expires_at": time.time() + 100, "renewals": 0, "samples_seen": 0, "checkpoint_at": 0,
        "device_seconds": 0.0,
    }  # fmt: skip
    engine = sqlalchemy.create_engine(url)
    with engine.begin() as connection:
        connection.execute(LEASES.insert().values(lease))
    engine.dispose()
    output = run(tmp_path, "--trials", "2", expect=2)
    assert "host elsewhere works on it too" in output and "PostgreSQL" in output


@pytest.mark.parametrize("kind", ["adapters", "checkpoints"])
def test_only_the_best_adapters_and_no_checkpoints_stay_on_disk(tmp_path, kind):
    run(tmp_path, "--trials", "4", settings=(*SMALL, "limits.adapters=2"))
    runs = tmp_path / "runs" / "rsicap-mini"
    if kind == "checkpoints":
        assert list(runs.glob("trial-*/checkpoint*")) == []
        return
    complete = in_states(stored(f"sqlite:///{tmp_path}/hpo.db"), TrialState.COMPLETE)
    best = sorted(complete, key=lambda trial: trial.value)[:2]
    kept = {path.parent.name for path in runs.glob("trial-*/adapter")}
    assert kept == {f"trial-{trial.number:05d}" for trial in best}


def test_a_crashing_runner_is_tried_again_only_so_often(tmp_path):
    options = ("--trials", "2", "--runners", "1", "--set", "search.attempts=2")
    running = Running(tmp_path, *options)
    for attempt in (1, 2):
        running.wait_for("trial_started", attempt)
        os.kill(running.runners()[0], signal.SIGSEGV)
    assert running.finish() == 0
    trials = stored(f"sqlite:///{tmp_path}/hpo.db")
    assert_exact(trials, 2)
    crashed = [t for t in trials if t.user_attrs["outcome"] == Outcome.CRASHED]
    assert len(crashed) == 2 and crashed[1].user_attrs["retry_of"] == crashed[0].number
    assert not any(t.user_attrs.get("retry_of") == crashed[1].number for t in trials)


def test_drivers_with_crashing_runners_finish_the_exact_total(tmp_path, database_url):
    url = database_url.render_as_string(hide_password=False)
    count = 8 if url.startswith("postgresql") else 4  # they start for longer than they train
    options = ("--trials", str(3 * count), "--storage", url, "--runners", "1")
    drivers = [Running(tmp_path, *options, settings=SMALL) for _ in range(count)]
    for number, driver in enumerate(drivers):
        driver.wait_for("trial_started")
        if number % 3 == 2:
            kill(driver.runners()[0])
    assert [driver.finish() for driver in drivers] == [0] * count
    trials = stored(url)
    assert_exact(trials, 3 * count)
    assert rows(url, LEASES) == []
    assert_whole(tmp_path / "runs", trials)


def test_another_study_of_the_same_name_leaves_the_first_one_s_files_alone(tmp_path):
    run(tmp_path, "--trials", "1")
    before = files(tmp_path / "runs")
    output = run(tmp_path, "--trials", "1", "--storage", f"sqlite:///{tmp_path}/b.db", expect=2)
    assert "another study of this name" in output and "--runs-dir" in output
    assert files(tmp_path / "runs") == before and before


def test_a_password_in_storage_is_refused(tmp_path):
    output = run(tmp_path, "--storage", "postgresql://u:S3cret@127.0.0.1/x", expect=2)
    assert "$HPO_STORAGE" in output and "S3cret" not in output
    assert list(Path(tmp_path).iterdir()) == []
