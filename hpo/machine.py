"""What this machine has: GPUs, cores, memory. Without torch, so that the driver may ask."""

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

QUERY = ("nvidia-smi", "--query-gpu=index,memory.total", "--format=csv,noheader,nounits")
QUERY_TIMEOUT_S = 10


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What runners can be placed on."""

    gpus: tuple[str, ...]
    """Names of the visible GPUs, as CUDA_VISIBLE_DEVICES takes them."""
    cores: int
    free_memory_bytes: int


def look() -> Machine:
    """This machine as it is now."""
    return Machine(gpus=_gpus(), cores=_cores(), free_memory_bytes=_free_memory())


def _gpus() -> tuple[str, ...]:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    try:
        listed = subprocess.run(
            QUERY, capture_output=True, text=True, timeout=QUERY_TIMEOUT_S, check=True
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return ()
    present = tuple(line.split(",")[0].strip() for line in listed.splitlines() if line.strip())
    if visible is None:
        return present
    shown = []
    for name in (part.strip() for part in visible.split(",")):
        if not present or not (name in present or name.startswith(("GPU-", "MIG-"))):
            break  # as CUDA does: what follows an invalid name is hidden
        shown.append(name)
    return tuple(shown)


def _cores() -> int:
    """Cores that this process may use, a container's quota included."""
    usable = len(os.sched_getaffinity(0))
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
    except (OSError, ValueError):
        return usable
    return usable if quota == "max" else max(1, min(usable, int(quota) // int(period)))


def _free_memory() -> int:
    """Memory that could be had, a container's limit included."""
    free = 0
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            free = int(line.split()[1]) << 10
    try:
        limit = int(Path("/sys/fs/cgroup/memory.max").read_text())
        used = int(Path("/sys/fs/cgroup/memory.current").read_text())
    except (OSError, ValueError):
        return free
    return min(free, limit - used)


def process_stat(pid: int) -> list[str]:
    """The state of a process of this host and all that /proc tells after it; empty if none."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return []
    return stat.rpartition(")")[2].split()  # its name, before that, may hold anything


def kernel_kills() -> int:
    """How many processes the kernel has killed for memory since boot (0 where it does not say)."""
    try:
        lines = Path("/proc/vmstat").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) for line in lines if line.startswith("oom_kill "))
