"""GPUs that are there, broken, hidden or not answered for: nvidia-smi as it speaks in the field."""

import subprocess
import sys

import pytest
import torch

from hpo import gpus
from hpo.entry import StudyRequest, _load
from hpo.errors import MissingError
from hpo.gpus import find_gpus
from hpo.machine import look
from hpo.placement import place
from hpo.training.bench import cannot_use_gpu
from tests.commands import environment, ran, words

EIGHT = "\n".join(f"{index}, 81559 MiB, 580.65.06" for index in range(8))
MISMATCH = "Failed to initialize NVML: Driver/library version mismatch"
NO_DRIVER = "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver."
LOST = "Unable to determine the device handle for GPU0000:C1:00.0: Unknown Error"
MIG = "MIG-7f3c2f0e-5d0a-5f3e-9a43-1c0a5e3d2b11"


@pytest.fixture
def nvidia_smi(tmp_path, monkeypatch):
    """Puts a command on the PATH that says and does what it is to."""

    def make(says="", errors="", *, status=0, seconds=0.0, driver=True, visible=None):
        path = tmp_path / "bin" / "nvidia-smi"
        path.parent.mkdir(exist_ok=True)
        body = f"import sys, time\ntime.sleep({seconds})\nprint({says!r})\n"
        body += f"print({errors!r}, file=sys.stderr)\nsys.exit({status})\n"
        path.write_text(f"#!{sys.executable}\n{body}")
        path.chmod(0o755)
        monkeypatch.setenv("PATH", str(path.parent))
        monkeypatch.setattr(gpus, "DRIVER_FILES", (tmp_path,) if driver else ())
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        if visible is not None:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        return path

    return make


def load(machine, scale="auto"):
    options = {"name": None, "storage": None, "data": None, "model": None, "as_json": False}
    request = StudyRequest(study="rsicap", scale=scale, assignments=(), runs_dir=None, **options)
    return _load(request, machine)


def test_all_of_eight_with_their_driver(nvidia_smi):
    nvidia_smi(EIGHT)
    found = find_gpus()
    assert found.names == tuple("01234567") and found.driver_version == "580.65.06"
    assert found.problem == "" and found.expected


@pytest.mark.parametrize(
    "says, errors, status, problem",
    [
        (EIGHT.replace("3, 81559 MiB, 580.65.06", LOST), "", 15, f"nvidia-smi failed: {LOST}"),
        (EIGHT.replace("3, 81559 MiB, 580.65.06\n", ""), LOST, 15, f"nvidia-smi failed: {LOST}"),
        (
            EIGHT.replace("3, 81559 MiB", "3, [GPU is lost]"),
            "",
            0,
            "nvidia-smi reports GPU 3 as broken",
        ),
    ],
    ids=["line", "stderr", "row"],
)
def test_one_dead_card_of_eight_leaves_seven_and_is_said(nvidia_smi, says, errors, status, problem):
    nvidia_smi(says, errors, status=status)
    found = find_gpus()
    assert found.names == tuple("0124567") and found.problem == problem
    _, notes = load(look())
    assert notes == (f"not every GPU can be used: {problem}",)


@pytest.mark.parametrize("words", [MISMATCH, "No devices were found"])
def test_a_gpu_that_cannot_be_used_is_never_replaced_by_a_mini_study(nvidia_smi, words):
    nvidia_smi(errors=words, status=18)
    machine = look()
    assert machine.gpus == () and machine.gpu_problem == f"nvidia-smi failed: {words}"
    with pytest.raises(MissingError) as caught:
        load(machine)
    for part in ("a GPU is there", words, "--scale mini", "--scale full"):
        assert part in str(caught.value)
    assert load(machine, "mini")[0].name == "rsicap-mini"
    spec, notes = load(machine, "full")
    assert spec.name == "rsicap" and words in notes[0]


def test_an_nvidia_smi_that_hangs_is_ended_and_named(nvidia_smi):
    nvidia_smi(EIGHT, seconds=600)
    found = find_gpus(timeout_s=0.5)
    assert found.expected and found.names == () and "did not answer within 0.5 s" in found.problem
    assert "nvidia-smi -pm 1" in found.problem


def test_a_slow_nvidia_smi_is_waited_for():
    assert gpus.TIMEOUT_S >= 60


def test_a_container_without_nvidia_smi_on_a_gpu_host_says_so(nvidia_smi):
    nvidia_smi().unlink()
    machine = look()
    assert machine.gpu_problem.startswith("there is no nvidia-smi on the PATH (a container gets")
    with pytest.raises(MissingError, match="a GPU is there, but cannot be used: there is no"):
        load(machine)


@pytest.mark.parametrize("installed", [True, False])
def test_a_machine_without_a_gpu_trains_the_mini_study(nvidia_smi, installed):
    path = nvidia_smi(errors=NO_DRIVER, status=9, driver=False)
    if not installed:
        path.unlink()
    machine = look()
    assert (machine.gpus, machine.gpu_problem) == ((), "")
    spec, notes = load(machine)
    assert spec.name == "rsicap-mini" and "no GPU here" in notes[0]


@pytest.mark.parametrize(
    "visible, names",
    [
        ("2,5", ("2", "5")),
        ("2,9,5", ("2",)),
        ("GPU-8f2a,1", ("GPU-8f2a", "1")),
        (MIG, (MIG,)),
        ("9", ()),
    ],
)
def test_what_is_visible_is_what_cuda_would_show(nvidia_smi, visible, names):
    nvidia_smi(EIGHT, visible=visible)
    found = find_gpus()
    assert found.names == names and found.expected
    assert bool(names) or "CUDA_VISIBLE_DEVICES = 9 names none" in found.problem


@pytest.mark.parametrize("visible", ["", "-1", "NoDevFiles"])
def test_hidden_gpus_are_not_asked_for_and_not_missed(nvidia_smi, visible):
    nvidia_smi(EIGHT, seconds=600, visible=visible)
    found = find_gpus()
    assert (found.names, found.problem, found.expected) == ((), "", False)


def test_a_gpu_in_slices_is_one_of_the_others(nvidia_smi):
    nvidia_smi("0, [N/A], 580.65.06\n1, 81559 MiB, 580.65.06")
    assert find_gpus().names == ("0", "1")


def test_a_missing_gpu_says_why_where_one_is_asked_for(nvidia_smi):
    nvidia_smi(errors=MISMATCH, status=18)
    with pytest.raises(MissingError, match=r"shows no GPU \(.*version mismatch\); check"):
        place(look(), device="cuda", runners=None, memory_limit_bytes=None, weights_bytes=0)


@pytest.mark.parametrize(
    "driver, cuda, parts",
    [
        ("550.54.15", "13.0", ("driver 550.54.15", "CUDA 13.0", "needs driver 580 or later")),
        ("580.65.06", None, ("driver 580.65.06", "built with no CUDA;")),
        ("", "12.8", ("unknown version", "CUDA 12.8;")),
    ],
)
def test_a_driver_that_does_not_suit_torch_is_named_with_both_versions(driver, cuda, parts):
    said = cannot_use_gpu(driver, cuda)
    for part in (*parts, "update the driver", "--set model.device=cpu"):
        assert part in said


def command(nvidia_smi, *options, **made):
    """A command and an environment in which a GPU is listed."""
    path = nvidia_smi(**made)
    given = environment(PATH=f"{path.parent}:/usr/bin:/bin")
    del given["CUDA_VISIBLE_DEVICES"]
    return words(*options), given


@pytest.mark.skipif(torch.cuda.is_available(), reason="torch can use the GPU here")
def test_an_old_driver_ends_the_command_with_a_sentence(nvidia_smi, tmp_path):
    """torch of this test sees no GPU, as one does whose driver is too old."""
    line, given = command(nvidia_smi, says="0, 24564 MiB, 535.183.01")
    done = subprocess.run(line, cwd=tmp_path, env=given, capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert "driver 535.183.01" in done.stderr and "Traceback" not in done.stderr


def test_commands_of_tests_leave_a_listed_gpu_alone(nvidia_smi, tmp_path):
    path = nvidia_smi(says="0, 24564 MiB, 535.183.01")
    output = ran(tmp_path, words("--dry-run"), PATH=f"{path.parent}:/usr/bin:/bin")
    assert "CPU process" in output
