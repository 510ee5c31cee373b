"""The processes of a chaos run, found by a mark in their environment that children inherit."""

import os
import signal
import time
from pathlib import Path

MARK = "HPO_CHAOS"
RUNNER = b"hpo.training.runner"


def marked(mark: str) -> list[int]:
    """Process ids of all that carry the mark; the dead ones have no environment any more."""
    found = [path for path in Path("/proc").iterdir() if path.name.isdigit()]
    return sorted(int(path.name) for path in found if carries(int(path.name), mark))


def carries(pid: int, mark: str) -> bool:
    """Whether a process is there and carries the mark."""
    return f"{MARK}={mark}".encode() in _read(pid, "environ").split(b"\0")


def command(pid: int) -> str:
    """What was typed to start a process."""
    return _read(pid, "cmdline").replace(b"\0", b" ").decode(errors="replace").strip()


def runner_of(driver: int) -> int | None:
    """The runner of a driver, if it has one at the moment."""
    for path in Path(f"/proc/{driver}/task").glob("*/children"):
        for child in _read(driver, f"task/{path.parent.name}/children").split():
            if RUNNER in _read(int(child), "cmdline"):
                return int(child)
    return None


def _read(pid: int, name: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except OSError:
        return b""


def send(pid: int, number: signal.Signals, mark: str) -> bool:
    """Signals a process of ours; whether it was still there."""
    if carries(pid, mark):
        os.kill(pid, number)
        return True
    return False


def kill_all(mark: str) -> None:
    """Ends every process with the mark, those too that are begun meanwhile."""
    while pids := marked(mark):
        for pid in pids:
            send(pid, signal.SIGKILL, mark)
        time.sleep(0.1)
