"""What stays on disk: the best adapters, what a retry may need, and no more than the quota."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from optuna.trial import TrialState, create_trial

from hpo.errors import MissingError
from hpo.search.ledger.keeper import Keeper, best, needed_checkpoints, own_folder

KIB = 1 << 10


def make_trial(number, state, value=None, **attributes):
    frozen = create_trial(state=state, value=value, user_attrs=attributes)
    frozen.number = number
    return frozen


def complete(number, value):
    return make_trial(number, TrialState.COMPLETE, value)


def failed(number, **attributes):
    return make_trial(number, TrialState.FAIL, **attributes)


def live(number, **attributes):
    return make_trial(number, TrialState.RUNNING, **attributes)


@pytest.fixture
def folder(tmp_path):
    """Makes the files of a trial, a KiB each."""

    def make(number):
        path = Keeper(tmp_path, adapters=1, quota_bytes=1).folder(number)
        (path / "adapter").mkdir(parents=True)
        names = ("checkpoint.safetensors", "x.writing", "curve.jsonl", "adapter/model.safetensors")
        for name in names:
            (path / name).write_bytes(bytes(KIB))
        return path

    return make


@pytest.fixture
def sweep(tmp_path, clock, folder):
    """Sweeps the files of these trials; what is left of each."""

    def swept(trials, *, adapters=2, quota_kib=1000):
        folders = {t.number: folder(t.number) for t in trials}
        keeper = Keeper(tmp_path, adapters=adapters, quota_bytes=quota_kib * KIB, monotonic=clock)
        swept.said = keeper.sweep(lambda: trials)
        swept.keeper = keeper
        return {
            n: {p.name for p in f.iterdir() if p.name != "adapter" or any(p.iterdir())}
            for n, f in folders.items()
        }

    return swept


def test_the_best_adapters_are_kept(sweep):
    losses = {0: 3.0, 1: 1.0, 2: 2.0, 3: 1.0}
    left = sweep([complete(n, v) for n, v in losses.items()])
    assert {n for n, files in left.items() if "adapter" in files} == {1, 3}


def test_curves_are_always_kept(sweep):
    left = sweep([complete(0, 1.0), failed(1), live(2)], adapters=1, quota_kib=0)
    assert all("curve.jsonl" in files for files in left.values())


def test_a_checkpoint_is_kept_as_long_as_a_trial_may_need_it(sweep):
    waits = make_trial(5, TrialState.WAITING, earlier=[3, 1])
    left = sweep([complete(0, 1.0), failed(1), failed(2), failed(3), live(4), waits])
    kept = {n for n, files in left.items() if "checkpoint.safetensors" in files}
    assert kept == {1, 3, 4, 5}


def test_unfinished_files_of_dead_trials_are_removed(sweep):
    left = sweep([complete(0, 1.0), failed(1), live(2)])
    assert {n for n, files in left.items() if "x.writing" in files} == {2}


def test_the_adapter_of_a_live_trial_is_left_alone(sweep):
    assert "adapter" in sweep([complete(0, 1.0), live(1)], adapters=1)[1]


def test_over_the_quota_adapters_go_from_the_worst_on(sweep):
    left = sweep([complete(n, float(n)) for n in range(4)], adapters=4, quota_kib=2)
    assert {n for n, files in left.items() if "adapter" in files} == {0, 1}
    assert sweep.keeper.has_room
    assert sweep.said == ""


def test_the_best_adapter_stays_however_small_the_quota(sweep):
    left = sweep([complete(n, float(n)) for n in range(3)], adapters=3, quota_kib=0.5)
    assert {n for n, files in left.items() if "adapter" in files} == {0}
    assert not sweep.keeper.has_room
    assert "limits.disk_gb" in sweep.said


def test_a_full_folder_is_said_once_and_has_room_again_later(sweep, tmp_path):
    trials = [live(0), live(1)]
    sweep(trials, quota_kib=3)
    keeper = sweep.keeper
    assert not keeper.has_room
    assert keeper.sweep(lambda: trials, now=True) == ""
    assert keeper.sweep(lambda: [failed(0), live(1)], now=True) == ""
    assert keeper.has_room


def test_a_sweep_has_its_time(sweep, clock):
    sweep([complete(0, 1.0)])
    calls = []

    def trials():
        calls.append(1)
        return []

    sweep.keeper.sweep(trials)
    assert calls == []
    sweep.keeper.sweep(trials, now=True)
    assert len(calls) == 1
    clock.now += 60
    sweep.keeper.sweep(trials)
    assert len(calls) == 2


def test_a_folder_that_is_not_there_is_no_error(tmp_path, clock):
    keeper = Keeper(tmp_path / "none", adapters=1, quota_bytes=1, monotonic=clock)
    assert keeper.sweep(lambda: [complete(0, 1.0), failed(1)]) == ""
    assert keeper.has_room


def test_files_of_nobody_are_left_alone(sweep, tmp_path):
    (tmp_path / "runner-host-1-0.log").write_text("last words")
    (tmp_path / "trial-notes").mkdir()
    sweep([complete(0, 1.0)])
    assert (tmp_path / "runner-host-1-0.log").exists()
    assert (tmp_path / "trial-notes").exists()


def test_the_first_of_equals_is_better():
    ranked = best([complete(0, 2.0), complete(1, 1.0), complete(2, 1.0), failed(3)])
    assert [trial.number for trial in ranked] == [1, 2, 0]


def test_only_live_trials_and_their_ancestors_need_checkpoints():
    trials = [failed(0), failed(1, earlier=[0]), live(2, earlier=[1, 0]), complete(3, 1.0)]
    assert needed_checkpoints(trials) == {0, 1, 2}


@pytest.mark.parametrize("number", ["../../etc", "1/../../x"])
def test_no_path_comes_from_the_database(tmp_path, number):
    with pytest.raises(ValueError):
        Keeper(tmp_path, adapters=1, quota_bytes=1).folder(number)


def test_a_runs_folder_is_one_study_s(tmp_path):
    folder = tmp_path / "runs" / "rsicap"
    own_folder(folder, "a" * 32)
    own_folder(folder, "a" * 32)
    with pytest.raises(MissingError, match="another study of this name"):
        own_folder(folder, "b" * 32)
    assert [path.name for path in folder.iterdir()] == ["study.json"]


def test_a_folder_that_cannot_be_tidied_is_said_and_no_error(tmp_path, clock):
    keeper = Keeper(tmp_path, adapters=1, quota_bytes=1, monotonic=clock)
    (tmp_path / "trial-00000" / "checkpoint.safetensors").mkdir(parents=True)
    assert "cannot be tidied now" in keeper.sweep(lambda: [failed(0)], now=True)


def test_a_folder_whose_first_driver_was_killed_before_it_could_write_is_taken_over(tmp_path):
    (tmp_path / "study.json").touch()
    own_folder(tmp_path, "a" * 32)
    with pytest.raises(MissingError, match="another study of this name"):
        own_folder(tmp_path, "b" * 32)
    assert [path.name for path in tmp_path.iterdir()] == ["study.json"]


@pytest.mark.parametrize(
    "content", [b"\xff\xfe", b"junk", b"[" * 100_000, b"{}", b'["study"', b"7", b"null"]
)
def test_a_record_that_is_none_is_named_with_the_ways_out(tmp_path, content):
    (tmp_path / "study.json").write_bytes(content)
    with pytest.raises(MissingError, match=r"study\.json is damaged.*remove it.*--runs-dir"):
        own_folder(tmp_path, "a" * 32)
    assert (tmp_path / "study.json").read_bytes() == content


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo])
def test_a_folder_or_a_pipe_in_the_place_of_the_record_is_named(tmp_path, make):
    make(tmp_path / "study.json")
    with pytest.raises(MissingError, match=r"study\.json is damaged"):
        own_folder(tmp_path, "a" * 32)


def test_a_file_in_the_place_of_the_runs_folder_is_named(tmp_path):
    (tmp_path / "runs").write_text("mine")
    for folder, why in ((tmp_path / "runs", "File exists"), (tmp_path / "runs/x", "Not a dir")):
        with pytest.raises(MissingError, match=f"{why}.*--runs-dir"):
            own_folder(folder, "a" * 32)


def test_drivers_that_start_at_once_share_the_folder(tmp_path):
    folder = tmp_path / "runs" / "rsicap"
    with ThreadPoolExecutor(16) as pool:
        for started in [pool.submit(own_folder, folder, "a" * 32) for _ in range(400)]:
            started.result()
    assert [path.name for path in folder.iterdir()] == ["study.json"]
