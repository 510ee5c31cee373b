"""What Slurm tells a job, and asking it to run the job again."""

import pytest

from hpo import slurm

VARIABLES = ("SLURM_JOB_ID", "SLURM_PROCID", "SLURM_RESTART_COUNT")


@pytest.fixture(autouse=True)
def job(monkeypatch):
    """Sets what Slurm says; at first it says nothing."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)

    def say(**values):
        for name, value in values.items():
            monkeypatch.setenv(f"SLURM_{name.upper()}", value)

    return say


@pytest.fixture
def scontrol(tmp_path, monkeypatch):
    """A command of that name, which notes how it is called, and ends as it is told."""

    def make(status=0):
        calls = tmp_path / "calls"
        script = tmp_path / "scontrol"
        script.write_text(f'#!/bin/sh\necho "$@" >> {calls}\nexit {status}\n')
        script.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
        return lambda: calls.read_text().splitlines() if calls.exists() else []

    return make


def test_outside_slurm_there_is_no_job():
    assert slurm.job() == ""
    assert slurm.restarts() == 0


def test_a_task_of_a_job_is_the_same_after_a_requeue(job):
    job(job_id="77", procid="2", restart_count="0")
    before = slurm.job()
    job(restart_count="1")
    assert slurm.job() == before
    assert slurm.restarts() == 1


def test_tasks_of_one_job_are_told_apart(job):
    job(job_id="77", procid="0")
    first = slurm.job()
    job(procid="1")
    assert slurm.job() != first


def test_a_job_that_says_nothing_of_its_task_has_one(job):
    job(job_id="77")
    assert slurm.job() == "77.0"


@pytest.mark.parametrize("count", ["", "many", "-1"])
def test_a_count_that_is_none_is_zero(job, count):
    job(restart_count=count)
    assert slurm.restarts() == 0


@pytest.mark.parametrize("number", ["77", "77_3"])
def test_a_job_is_requeued_by_its_number(job, scontrol, number):
    calls = scontrol()
    job(job_id=number)
    assert slurm.requeue()
    assert calls() == [f"requeue {number}"]


@pytest.mark.parametrize("number", ["", "--help", "77; rm", "all", "77 78"])
def test_what_is_no_job_is_not_requeued(job, scontrol, number):
    calls = scontrol()
    job(job_id=number)
    assert not slurm.requeue()
    assert calls() == []


def test_a_scheduler_that_refuses_is_no_error(job, scontrol):
    calls = scontrol(status=1)
    job(job_id="77")
    assert not slurm.requeue()
    assert calls() == ["requeue 77"]


def test_a_host_without_the_command_is_no_error(job, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    job(job_id="77")
    assert not slurm.requeue()
