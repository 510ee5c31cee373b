"""Memory of a runner: limit, baseline, peak, and what an allocation failure looks like.

On a GPU the allocator's own figures. On the CPU a limit caps the address space, as that is what
makes an allocation fail instead of calling the kernel's killer; the figures are of resident
memory. Both count from a baseline taken before the base is loaded, so that "2 GB" means 2 GB for
base, adapter and activations, whatever the libraries take.
"""

import ctypes
import gc
import re
import resource
from contextlib import suppress
from pathlib import Path

import torch

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
FILLED = 0.9  # of a GPU: the rest is its context, and what others may have there
SLACK_SHARE = 0.05  # the same for a large base


class MemoryGauge:
    """Memory of this process on its device, counted from the moment the gauge is made."""

    def __init__(self, device: torch.device, limit_bytes: int | None) -> None:
        self._device = device
        self._limit_bytes = limit_bytes
        self._origin_bytes = 0 if device.type == "cuda" else _status("VmRSS")
        self._baseline_bytes = self._host_baseline_bytes = self._space_baseline_bytes = 0
        self.lost_bytes = 0
        """Of what `limit_bytes` caps: what trials so far have left behind."""
        if limit_bytes is not None:
            _cap(device, limit_bytes)

    @property
    def capacity_bytes(self) -> int | None:
        """What base, adapter and activations can have; None where only the host bounds them."""
        if self._limit_bytes is not None:
            return self._limit_bytes
        if self._device.type == "cuda":
            return torch.cuda.get_device_properties(self._device).total_memory
        return None

    def mark_baseline(self) -> None:
        """Remembers what is held between trials."""
        release(self._device)
        self._baseline_bytes, self._host_baseline_bytes = self.held_bytes(), _status("VmRSS")
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
            on_host = _status("VmRSS") - kept
            settled = not _exceeds(on_host, self._host_baseline_bytes, SLACK_BYTES)
            return self._has_its_space(kept) and settled
        on_host = _status("VmRSS") - kept_on_host_bytes
        on_device = self.held_bytes() - kept_on_device_bytes
        self.lost_bytes = max(0, on_device - self._baseline_bytes)
        return not (
            _exceeds(on_device, self._baseline_bytes, SLACK_BYTES)
            or _exceeds(on_host, self._host_baseline_bytes, CUDA_HOST_SLACK_BYTES)
        )

    def _has_its_space(self, kept_bytes: int) -> bool:
        """Under a limit on the CPU, a failed allocation may leave address space in pieces."""
        if self._limit_bytes is None:
            return True
        self.lost_bytes = max(0, _status("VmSize") - kept_bytes - self._space_baseline_bytes)
        return self.lost_bytes <= LOST_SPACE * self._limit_bytes

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


def _exceeds(held_bytes: int, baseline_bytes: int, slack_bytes: int) -> bool:
    return held_bytes > baseline_bytes + max(slack_bytes, SLACK_SHARE * baseline_bytes)


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
    else:
        ctypes.CDLL(None).malloc_trim(0)


def _cap(device: torch.device, limit_bytes: int) -> None:
    if device.type == "cuda":
        total = torch.cuda.get_device_properties(device).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, limit_bytes / total), device)
    else:
        space = _status("VmSize") + limit_bytes
        resource.setrlimit(resource.RLIMIT_AS, (space, space))


def _status(field: str) -> int:
    """A memory figure of this process in bytes, from /proc."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) << 10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
