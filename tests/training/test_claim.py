"""Two commands on one GPU learn of each other."""

import os
import subprocess
import sys

from hpo.training.claim import claim, shared_gpu

HOLDER = """
import sys
from pathlib import Path
from hpo.training.claim import claim
print(claim(sys.argv[1], Path(sys.argv[2])), flush=True)
sys.stdin.read()
"""


def holder(folder):
    """A process that has claimed a GPU, and what it was told."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, "GPU-1", str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    return process, process.stdout.readline().strip()


def test_the_second_process_is_told_of_the_first_until_that_ends(tmp_path):
    first, told = holder(tmp_path)
    try:
        assert told == "None"
        assert claim("GPU-1", tmp_path) == str(first.pid)
        assert claim("GPU-2", tmp_path) is None, "another GPU"
    finally:
        first.kill()
        first.communicate()
    second, told = holder(tmp_path)
    second.communicate("")
    assert told == "None", "a killed process keeps nothing"


def test_where_there_can_be_no_file_nobody_has_the_gpu(tmp_path):
    assert claim("GPU-1", tmp_path / "nowhere") is None
    (tmp_path / "target").touch()
    (tmp_path / f"hpo-{os.getuid()}-gpu-GPU-3.lock").symlink_to(tmp_path / "target")
    assert claim("GPU-3", tmp_path) is None
    assert (tmp_path / "target").read_text() == "", "another file is never written to"


def test_what_is_left_of_a_shared_gpu_is_said():
    assert shared_gpu("4711", 3 << 30, 24 << 30) == (
        "another hpo command is on this GPU, too (process 4711): 3.0 GiB of 24.0 GiB are left "
        "for this one"
    )
