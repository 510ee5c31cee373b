"""What this machine has: GPUs, cores, memory. Without torch, so that the driver may ask."""

import os
from dataclasses import dataclass
from pathlib import Path

from hpo.gpus import find_gpus


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What runners can be placed on."""

    gpus: tuple[str, ...]
    """Names of the visible GPUs, as CUDA_VISIBLE_DEVICES takes them."""
    cores: int
    free_memory_bytes: int
    gpu_problem: str = ""
    """Why GPUs that should be there cannot be used, all or some, in one phrase."""


def look() -> Machine:
    """This machine as it is now."""
    gpus = find_gpus()
    return Machine(
        gpus=gpus.names,
        cores=_cores(),
        free_memory_bytes=_free_memory(),
        gpu_problem=gpus.problem if gpus.expected else "",
    )


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
