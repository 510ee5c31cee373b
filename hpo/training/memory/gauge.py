"""Memory of a runner: limit, baseline, peak, and what an allocation failure looks like.

On a GPU the allocator's own figures. On the CPU a limit caps the address space, as that is what
makes an allocation fail instead of calling the kernel's killer; the figures are of resident
memory. Both count from a baseline taken before the base is loaded, so that "2 GB" means 2 GB for
base, adapter and activations, whatever the libraries take.

Whether trials leave something behind on the host is judged by anonymous memory: pages of mapped
files, such as weights and cached features, become resident as they are read, and the system
takes them back when it needs to.
"""

import ctypes
import gc
import re
import resource
from contextlib import suppress
from pathlib import Path

import torch

from hpo.units import show_size

FAILURES = (
    "can't allocate memory",
    "not enough memory",
    "bad allocation",
    "std::bad_alloc",
    "could not create a primitive",  # oneDNN's words for a failed allocation
    "out of memory",  # CUDA's runtime and driver
    "STATUS_ALLOC_FAILED",  # cuBLAS, and cuDNN before version 9
    "ALLOCATION_FAILED",  # cuDNN 9
    "CUBLAS_STATUS_NOT_INITIALIZED",  # cuBLAS's words where no memory is left for its handle
    "mha_graph.execute",  # torch's check of cuDNN's attention, which names no cause
)
REQUEST = re.compile(r"tried to allocate ([\d.]+) ?(bytes|B|KiB|MiB|GiB)?", re.IGNORECASE)
UNITS = {"": 1, "bytes": 1, "b": 1, "kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30}
SLACK_BYTES = 512 << 20  # what libraries may keep beyond the baseline, once
CUDA_HOST_SLACK_BYTES = 2 << 30  # CUDA loads kernels to the host when they are first used
LOST_SPACE = 0.1  # of a limit on address space that a process fit for more may have lost
FILLED = 0.9  # of a GPU: the rest is lost between blocks, or was taken by others since
CAPACITY_STEP = 256 << 20  # contexts differ by some MiB: equal GPUs are to have equal capacities
SLACK_SHARE = 0.05  # the same for a large base


class MemoryGauge:
    """Memory of this process on its device, counted from the moment the gauge is made."""

    def __init__(self, device: torch.device, limit_bytes: int | None) -> None:
        self._device = device
        self._limit_bytes = limit_bytes
        self._origin_bytes = 0 if device.type == "cuda" else _status("VmRSS")
        self._baseline_bytes = self._host_baseline_bytes = self._space_baseline_bytes = 0
        self._host_total_bytes = 0
        self.capacity_bytes = _capacity(device, limit_bytes)
        """What base, adapter and activations can have; None where only the host bounds them."""
        self.lost_bytes = 0
        """Of what `limit_bytes` caps: what trials so far have left behind."""
        self.excess = ""
        """What was too much when `is_clean` last said no, in a phrase; empty where it said yes."""
        if limit_bytes is not None:
            _cap(device, limit_bytes)

    def mark_baseline(self) -> None:
        """Remembers what is held between trials."""
        release(self._device)
        self._baseline_bytes, self._host_baseline_bytes = self.held_bytes(), _anonymous()
        self._host_total_bytes = _status("VmRSS")
        self._space_baseline_bytes = _status("VmSize")

    def reset_peak(self) -> None:
        """Starts a new peak."""
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
        else:
            with suppress(OSError):  # read-only in some containers: the peak is then the process's
                Path("/proc/self/clear_refs").write_text("5")

    def peak_bytes(self) -> int:
        """The peak since `reset_peak`."""
        if self._device.type == "cuda":
            return torch.cuda.max_memory_allocated(self._device)
        return max(0, _status("VmHWM") - self._origin_bytes)

    def is_clean(
        self, kept_on_host_bytes: int, kept_on_device_bytes: int = 0, *, in_use: bool = False
    ) -> bool:
        """Whether memory of device and host is back at the baseline, but for a small slack.

        Where it is not, `excess` says of what there is too much.

        Args:
            kept_on_host_bytes: what a cache keeps on purpose.
            kept_on_device_bytes: what other trials hold.
            in_use: whether their next pass needs what is free now: to give it back and to fetch
                it again takes a tenth of a CPU's time, so only what is too much goes.
        """
        kept = kept_on_host_bytes, kept_on_device_bytes
        if in_use:
            gc.collect()
            if self._is_back(*kept):
                return True
        release(self._device)
        return self._is_back(*kept)

    def _is_back(self, kept_on_host_bytes: int, kept_on_device_bytes: int) -> bool:
        if self._device.type == "cpu":
            kept = kept_on_host_bytes + kept_on_device_bytes
            self.excess = self._space_excess(kept) or self._host_excess(kept, SLACK_BYTES)
        else:
            device = self._device_excess(kept_on_device_bytes)
            self.excess = device or self._host_excess(kept_on_host_bytes, CUDA_HOST_SLACK_BYTES)
        return not self.excess

    def _host_excess(self, kept_bytes: int, slack_bytes: int) -> str:
        grown = _anonymous() - kept_bytes - self._host_baseline_bytes
        return _excess("host memory", grown, max(slack_bytes, _share(self._host_total_bytes)))

    def _device_excess(self, kept_bytes: int) -> str:
        self.lost_bytes = max(0, self.held_bytes() - kept_bytes - self._baseline_bytes)
        allowed = max(SLACK_BYTES, _share(self._baseline_bytes))
        return _excess("GPU memory", self.lost_bytes, allowed)

    def _space_excess(self, kept_bytes: int) -> str:
        """Under a limit on the CPU, a failed allocation may leave address space in pieces."""
        if self._limit_bytes is None:
            return ""
        self.lost_bytes = max(0, _status("VmSize") - kept_bytes - self._space_baseline_bytes)
        return _excess("address space", self.lost_bytes, round(LOST_SPACE * self._limit_bytes))

    def was_filled(self, requested_bytes: int) -> bool:
        """Whether this process alone had filled its memory when that much more did not fit."""
        if self._device.type == "cpu" or self.capacity_bytes is None:
            return True
        reserved = torch.cuda.max_memory_reserved(self._device) + requested_bytes
        return reserved >= FILLED * self.capacity_bytes

    def held_bytes(self) -> int:
        """What is held now: on a GPU there, else by the process beyond its origin."""
        if self._device.type == "cuda":
            return torch.cuda.memory_allocated(self._device)
        return _status("VmRSS") - self._origin_bytes


def _share(baseline_bytes: int) -> int:
    """What libraries may keep beyond a large baseline."""
    return round(SLACK_SHARE * baseline_bytes)


def _excess(what: str, grown_bytes: int, allowed_bytes: int) -> str:
    """A phrase about memory that has grown too much since before the first trial, or nothing."""
    if grown_bytes <= allowed_bytes:
        return ""
    return (
        f"{show_size(grown_bytes)} more {what} in use than before its first trial, "
        f"where {show_size(allowed_bytes)} are allowed"
    )


def _capacity(device: torch.device, limit_bytes: int | None) -> int | None:
    """What a process can have on a device now, by the limit and by what others have there."""
    if device.type != "cuda":
        return limit_bytes
    return gpu_capacity(*gpu_memory(device), limit_bytes)


def gpu_capacity(available_bytes: int, total_bytes: int, limit_bytes: int | None) -> int:
    """What a process can have of a GPU: what is free and its own, at most the limit.

    Rounded up, as nothing is to be refused that fits; trials on equal GPUs learn from each other
    only where capacities are equal.

    Args:
        available_bytes: free memory and what the process itself has.
    """
    rounded = -(-available_bytes // CAPACITY_STEP) * CAPACITY_STEP
    return min(rounded, total_bytes, limit_bytes or total_bytes)


def gpu_memory(device: torch.device) -> tuple[int, int]:
    """(bytes of a GPU's memory that other processes leave to this one, bytes in all)."""
    free, total = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device), total


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception is an allocation failure of CUDA, the CPU allocator or Python."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in FAILURES)


def requested_bytes(error: BaseException) -> int:
    """What the failed allocation asked for; 0 if it does not say."""
    found = REQUEST.search(str(error))
    return int(float(found.group(1)) * UNITS[(found.group(2) or "").lower()]) if found else 0


def release(device: torch.device) -> None:
    """Gives free memory back to the device or the system."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.empty_cache()
    ctypes.CDLL(None).malloc_trim(0)


def _cap(device: torch.device, limit_bytes: int) -> None:
    if device.type == "cuda":
        total = torch.cuda.get_device_properties(device).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, limit_bytes / total), device)
    else:
        space = _status("VmSize") + limit_bytes
        resource.setrlimit(resource.RLIMIT_AS, (space, space))


def _anonymous() -> int:
    """Resident memory of this process that is not backed by a file, in bytes."""
    return _status("RssAnon", "VmRSS")


def _status(*fields: str) -> int:
    """A memory figure of this process in bytes, from /proc: the first of these that is there."""
    lines = Path("/proc/self/status").read_text().splitlines()
    found = {name: rest.split() for name, _, rest in (line.partition(":") for line in lines)}
    for field in fields:
        if field in found:
            return int(found[field][0]) << 10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
