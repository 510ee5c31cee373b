"""A checkpoint that cannot be used is never used, and never an exception."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from hpo.protocol import CHECKPOINT
from hpo.specs import Outcome
from hpo.training.trial.checkpoint import CheckpointError, restore, save
from hpo.training.trial.curve import COLUMNS, Curve
from hpo.training.trial.trial import Run, new_adapter
from tests.training.conftest import Ear, attempt, train_run


def fresh(bench, order):
    return Run(bench=bench, order=order, adapter=new_adapter(bench, order))


def nothing():
    pass


@pytest.fixture
def stopped(bench, order):
    """An order whose folder holds a checkpoint after step 5, past the first eval point."""
    trial = order(0, lora_dropout=0.1)
    attempt(bench, trial, Ear(6, checkpoint=True).listener)
    return trial


def later(order, *earlier, **changes):
    folders = [trial.folder for trial in earlier]
    values = {"seed_number": 0, "lora_dropout": 0.1} | changes
    return order(9, earlier=folders, **values)


def test_it_holds_what_the_run_held(bench, stopped, order):
    run = fresh(bench, later(order))
    train_run(run, Ear(6).listener)
    again = fresh(bench, later(order))
    restore(again, Path(stopped.folder))
    ours, theirs = again.optimizer.state[again.adapter.flat], run.optimizer.state[run.adapter.flat]
    assert ours.keys() == theirs.keys() == {"step", "exp_avg", "exp_avg_sq"}
    for held, was in [
        (again.adapter.flat, run.adapter.flat),
        (again.best_weights, run.best_weights),
        (again.adapter.generator.get_state(), run.adapter.generator.get_state()),
        *((ours[name], theirs[name]) for name in ours),
    ]:
        assert torch.equal(held, was) and held.dtype == was.dtype
    assert (again.step, again.samples_seen, again.points) == (5, 20, run.points)
    assert again.grid == run.grid == [32] and again.best == run.best
    assert not torch.equal(again.adapter.flat, fresh(bench, later(order)).adapter.flat)


def test_any_flipped_bit_and_any_missing_end_is_found(bench, stopped, order):
    path, run = Path(stopped.folder, CHECKPOINT), fresh(bench, later(order))
    whole = path.read_bytes()
    header = 8 + int.from_bytes(whole[:8], "little")
    places = [*range(0, header, 97), *range(8), *range(header, len(whole), len(whole) // 40)]
    for place in [*places, header - 1, len(whole) - 1]:
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(CheckpointError, match="damaged"):
            restore(run, Path(stopped.folder))
    for size in (0, 1, 8, 9, 72, header, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(CheckpointError, match="damaged"):
            restore(run, Path(stopped.folder))
    path.write_bytes(whole + b"\0")
    with pytest.raises(CheckpointError, match="damaged"):
        restore(run, Path(stopped.folder))
    assert (run.step, run.points, run.best_weights) == (0, [], None), "nothing was taken from any"
    path.write_bytes(whole)
    restore(run, Path(stopped.folder))
    assert run.step == 5


def sealed(path, content):
    """Writes content with a checksum that holds."""
    from hpo.training.trial.checkpoint import SUM, _sum

    content = bytearray(content)
    start = content.index(SUM) + len(SUM)
    content[start : start + 64] = _sum(content, start)
    path.write_bytes(content)


def test_what_is_whole_but_makes_no_sense_is_refused_too(bench, stopped, order):
    path, run = Path(stopped.folder, CHECKPOINT), fresh(bench, later(order))
    tensors, whole = load_file(path), path.read_bytes()
    header = json.loads(whole[8 : 8 + int.from_bytes(whole[:8], "little")])
    metadata = header["__metadata__"] | {"sha256": "0" * 64}
    short = tensors | {"exp_avg": tensors["exp_avg"][:-1].clone()}
    double = tensors | {"weights": tensors["weights"].double()}
    without = {name: tensor for name, tensor in tensors.items() if name != "best"}
    for changed in (short, double, without, tensors | {"more": torch.zeros(1)}):
        save_file(changed, path, metadata)
        sealed(path, path.read_bytes())
        with pytest.raises(CheckpointError, match="tensors are not those"):
            restore(run, path.parent)
    for position in ("", "{}", metadata["position"].replace('"step":5', '"step":"5"')):
        save_file(tensors, path, metadata | {"position": position})
        sealed(path, path.read_bytes())
        with pytest.raises(CheckpointError, match="damaged"):
            restore(run, path.parent)
    of_before = metadata["position"].replace(',"layout":2', "")  # its weights lie otherwise
    save_file(tensors, path, metadata | {"position": of_before})
    sealed(path, path.read_bytes())
    with pytest.raises(CheckpointError, match="layout differs"):
        restore(run, path.parent)
    sealed(path, b'\xff\xff\xff\xff\xff\xff\xff\xff{"sha256":"' + b"0" * 64 + b'"}')
    with pytest.raises(CheckpointError, match="damaged"):
        restore(run, path.parent)
    assert run.step == 0
    save_file(tensors, path, metadata)
    sealed(path, path.read_bytes())
    restore(run, path.parent)
    assert run.step == 5


@pytest.mark.parametrize(
    "change", [{"seed_number": 1}, {"learning_rate": 1e-3}, {"lora_r": 8}, {"scheduler": "linear"}]
)
def test_the_checkpoint_of_another_trial_is_not_taken(bench, stopped, order, ear, change):
    heard, name = ear(), "seed_number" if "seed_number" in change else "config"
    finished = attempt(bench, later(order, stopped, **change), heard.listener)
    assert heard.started_over == [
        f"the checkpoint in trial-0 belongs to another trial: its {name} differs"
    ]
    assert finished.fault is None and heard.resumed == heard.replayed == []
    assert [point.samples_seen for point in heard.points] == [16, 32]


def test_the_latest_valid_checkpoint_wins(bench, stopped, order, ear):
    gone, broken, old = order(1), order(2), order(3)
    for trial in (broken, old):
        shutil.copytree(stopped.folder, trial.folder)
    path = Path(broken.folder, CHECKPOINT)
    path.write_bytes(path.read_bytes()[:1000])
    heard = ear()
    attempt(bench, later(order, gone, broken, old), heard.listener)
    assert heard.started_over == [] and [seen for seen, _ in heard.resumed] == [20]


def test_without_any_it_starts_over_and_says_why_for_each(bench, stopped, order, ear):
    gone, broken, strange = order(1), order(2), order(3)
    Path(broken.folder).mkdir()
    Path(broken.folder, CHECKPOINT).write_bytes(b"")
    Path(strange.folder, CHECKPOINT).mkdir(parents=True)
    whole, heard = ear(), ear()
    attempt(bench, order(8, seed_number=0, lora_dropout=0.1), whole.listener)
    finished = attempt(bench, later(order, gone, broken, strange), heard.listener)
    assert heard.started_over == [
        "the checkpoint in trial-1 is not there; the checkpoint in trial-2 is damaged: its "
        "checksum does not hold; the checkpoint in trial-3 cannot be read: Is a directory"
    ]
    assert finished.stats.resumed_at_samples == 0
    assert heard.points == whole.points and heard.replayed == []


def test_a_first_attempt_neither_resumes_nor_starts_over(bench, order, ear):
    heard = ear()
    attempt(bench, order(), heard.listener)
    assert heard.resumed == heard.started_over == heard.replayed == []


@pytest.fixture
def small_disk(tmp_path):
    """A function that mounts a disk of so many KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(kib):
        words = ["mount", "-t", "tmpfs", "-o", f"size={kib}k", "tmpfs", str(folder)]
        if subprocess.run(words, capture_output=True).returncode != 0:
            pytest.skip("needs the right to mount a small tmpfs")
        return folder

    yield mount
    if os.path.ismount(folder):
        subprocess.run(["umount", str(folder)], check=True)


def on_disk(trial, folder):
    return trial.model_copy(update={"folder": str(folder / "trial-0")})


@pytest.mark.parametrize("checkpoints", [True, False])
def test_a_full_disk_has_its_outcome_and_leaves_nothing_half_written(
    bench, order, ear, small_disk, checkpoints
):
    folder = small_disk(100)  # less than a checkpoint, or than an adapter
    bench.gauge.mark_baseline()  # what other tests left in this process is not its own
    heard, trial = ear(), on_disk(order(lora_r=16, checkpoints=checkpoints), folder)
    finished = attempt(bench, trial, heard.listener)
    assert finished.fault.outcome == Outcome.DISK_FULL
    assert finished.fault.step == (4 if checkpoints else 8)
    assert str(folder) in finished.fault.reason and "--runs-dir" in finished.fault.reason
    assert heard.checkpoints == [] and finished.clean
    left = [path for path in folder.rglob("*") if path.is_file()]
    assert [path.name for path in left] == ["metrics.csv"]
    assert left[0].read_bytes().count(b"\r\n") == 1 + finished.fault.step
    assert left[0].read_bytes().endswith(b"\r\n")


def test_a_full_disk_keeps_the_checkpoint_before(bench, stopped, order, small_disk):
    size = Path(stopped.folder, CHECKPOINT).stat().st_size
    folder = small_disk(size * 3 // 2048)
    run = fresh(bench, on_disk(later(order), folder))
    restore(run, Path(stopped.folder))
    Path(run.order.folder).mkdir()
    assert abs(save(run, run.curve, nothing) - size) < 100
    run.step += 1
    with pytest.raises(OSError, match="No space left"):
        save(run, run.curve, nothing)
    assert [path.name for path in Path(run.order.folder).iterdir()] == [CHECKPOINT]
    again = fresh(bench, later(order))
    restore(again, Path(run.order.folder))
    assert again.step == 5


def test_a_curve_takes_no_half_line_from_a_full_disk(small_disk):
    folder = small_disk(8)
    (folder / "ballast").write_bytes(b"x" * 4096)
    curve, line = Curve(folder, "", nothing), dict.fromkeys(COLUMNS, 1 / 3)
    curve.write(line)
    curve.flush()
    before = (folder / "metrics.csv").read_bytes()
    for _ in range(100):
        curve.write(line)
    with pytest.raises(OSError, match="No space left"):
        curve.flush()
    assert (folder / "metrics.csv").read_bytes() == before != b""
