"""A runner's process: how it dies, and what is known of that."""

import signal
import time
from pathlib import Path

import pytest

from hpo.protocol import Setup
from hpo.search.runners.process import RunnerProcess


def alive(process):
    """Waits for the first message, then says whether the pipe is still open."""
    for _ in range(600):
        events, there = process.receive()
        if events or not there:
            return events, there
        time.sleep(0.1)
    raise AssertionError("the runner says nothing")


def environment(process):
    """What a runner was given; the kernel shows it a moment after the program has begun."""
    path = Path(f"/proc/{process._process.pid}/environ")
    while not (content := path.read_text()):
        time.sleep(0.01)
    return dict(line.split("=", 1) for line in content.split("\0") if line)


@pytest.fixture
def runner(tmp_path, mini_study):
    process = RunnerProcess(gpu=None, log=tmp_path / "runner.log")
    process.send(Setup(study=mini_study, memory_limit_bytes=None, gpu=False, zero_shot=False))
    yield process
    process.kill()
    process.close()


def test_a_killed_runner_is_known_as_killed_from_outside(runner):
    (ready,), there = alive(runner)
    assert there and ready.kind == "ready" and ready.facts.adapted_layers == 40
    runner._process.send_signal(signal.SIGKILL)
    while runner.receive()[1]:
        time.sleep(0.05)
    death = runner.death()
    assert (death.how, death.by_signal, death.by_kernel) == ("SIGKILL", True, False)


def test_a_runner_that_is_told_nonsense_says_why_in_its_log(runner):
    alive(runner)
    runner._pipes.commands.write(b"this is no message\n")
    runner._pipes.commands.flush()
    while runner.receive()[1]:
        time.sleep(0.05)
    death = runner.death()
    assert not death.by_signal and not death.out_of_memory
    assert death.how == "exit status 3"
    assert "this is no message" in death.log


def test_a_runner_ignores_what_a_scheduler_sends_to_the_whole_job(runner):
    alive(runner)
    for number in (signal.SIGINT, signal.SIGTERM):
        runner._process.send_signal(number)
    time.sleep(0.5)
    assert runner.receive()[1]


def test_a_base_that_does_not_fit_is_said_in_one_sentence(tmp_path, mini_study):
    process = RunnerProcess(gpu=None, log=tmp_path / "runner.log")
    process.send(Setup(study=mini_study, memory_limit_bytes=8 << 20, gpu=False, zero_shot=False))
    (failed,), _ = alive(process)
    assert failed.kind == "setup_failed"
    assert "does not fit into the memory" in failed.message
    process.close()


def customized(tmp_path, monkeypatch, code):
    """A runner in which this code runs before any of ours."""
    (tmp_path / "sitecustomize.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return RunnerProcess(gpu=None, log=tmp_path / "runner.log")


PRINTS = """
import os, sys
print("a library says so:", repr(sys.stdin.read()))
print("\\N{SNOWMAN} too")
os.system("echo from a program")
"""


def test_what_a_library_prints_or_asks_on_import_is_no_message(tmp_path, monkeypatch, mini_study):
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    process = customized(tmp_path, monkeypatch, PRINTS)
    process.send(Setup(study=mini_study, memory_limit_bytes=None, gpu=False, zero_shot=False))
    (ready,), there = alive(process)
    assert there and ready.kind == "ready"
    process.kill()
    process.close()
    log = (tmp_path / "runner.log").read_text(encoding="utf-8")
    assert "a library says so: ''\n\N{SNOWMAN} too\n" in log and "from a program" in log


@pytest.mark.parametrize("line", [b"", b"nonsense", b'{"kind": "ready"}'])
def test_a_runner_that_sends_no_message_is_ended_and_named(tmp_path, monkeypatch, line):
    code = f"import os, sys; os.write(int(sys.orig_argv[-1]), {line!r} + b'\\n')"
    process = customized(tmp_path, monkeypatch, code)
    events, there = alive(process)
    assert (events, there) == ([], False)
    death = process.death()
    assert death.how == f"killed, as it sent what is no message: {line!r}"
    assert not death.by_signal, "it is no accident from outside, which is tried for ever"
    process.close()


@pytest.mark.parametrize("variable", ["PYTHONOPTIMIZE=2", "PYTHONWARNINGS=error"])
def test_a_runner_sets_up_whatever_python_is_told(tmp_path, monkeypatch, mini_study, variable):
    monkeypatch.setenv(*variable.split("="))
    process = RunnerProcess(gpu=None, log=tmp_path / "runner.log")
    process.send(Setup(study=mini_study, memory_limit_bytes=None, gpu=False, zero_shot=False))
    (ready,), _ = alive(process)
    assert ready.kind == "ready"
    process.kill()
    process.close()


def test_files_and_folders_of_the_working_directory_shadow_nothing(
    tmp_path, monkeypatch, mini_study
):
    for name in ("torch", "json", "queue", "hpo"):
        (tmp_path / f"{name}.py").write_text("raise ImportError('the wrong one')")
    monkeypatch.chdir(tmp_path)
    process = RunnerProcess(gpu=None, log=tmp_path / "runner.log")
    process.send(Setup(study=mini_study, memory_limit_bytes=None, gpu=False, zero_shot=False))
    (ready,), _ = alive(process)
    assert ready.kind == "ready"
    process.kill()
    process.close()


GROWING = "expandable_segments:True"


@pytest.mark.parametrize(
    "gpu, set_by_user, expected",
    [
        ("0", {}, {"PYTORCH_ALLOC_CONF": GROWING}),
        (None, {}, {}),
        ("0", {"PYTORCH_ALLOC_CONF": "backend:native"}, {"PYTORCH_ALLOC_CONF": "backend:native"}),
        ("0", {"PYTORCH_CUDA_ALLOC_CONF": ""}, {"PYTORCH_CUDA_ALLOC_CONF": ""}),
    ],
)
def test_a_gpus_memory_grows_in_segments_unless_its_user_says_how(
    tmp_path, monkeypatch, gpu, set_by_user, expected
):
    for name in ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"):
        monkeypatch.delenv(name, raising=False)
    for name, value in set_by_user.items():
        monkeypatch.setenv(name, value)
    process = RunnerProcess(gpu=gpu, log=tmp_path / "runner.log")
    given = environment(process)
    process.kill()
    process.close()
    found = {name: value for name, value in given.items() if "ALLOC_CONF" in name}
    assert found == expected


@pytest.mark.parametrize("limited", [False, True])
def test_only_a_runner_without_a_limit_keeps_freed_memory(tmp_path, monkeypatch, limited):
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "4096")
    process = RunnerProcess(gpu=None, log=tmp_path / "runner.log", limited=limited)
    given = environment(process)
    assert (given.get("GLIBC_TUNABLES") == "glibc.malloc.hugetlb=1") is not limited
    assert given["MALLOC_TRIM_THRESHOLD_"] == "4096", "what the user sets wins"
    process.kill()
    process.close()
