"""How many runners, where, and with what share of the machine."""

from dataclasses import dataclass, replace
from typing import Literal

from hpo.errors import MissingError
from hpo.machine import Machine
from hpo.units import show_size

LIBRARIES_BYTES = 600 << 20  # what a runner's libraries take
WORKING_BYTES = 600 << 20  # activations and rows of a small trial, and compiled kernels
PER_CORE = 4  # runners that a user may ask for whatever the memory: the need is an estimate
IN_MEMORY = 2  # weights stored in half precision, held in float32


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Where runners go: one for each entry."""

    gpus: tuple[str | None, ...]
    """A GPU by name, or None for a runner on the CPU."""
    memory_limit_bytes: int | None
    pack: int | None = 1
    """Trials that each takes at a time; None for as many as it measures to be worth it."""

    def only_first(self) -> "Placement":
        """The same with one runner."""
        return replace(self, gpus=self.gpus[:1])


def place(
    machine: Machine,
    *,
    device: Literal["auto", "cuda", "cpu"],
    runners: int | None,
    memory_limit_bytes: int | None,
    weights_bytes: int,
    pack: int | None = 1,
) -> Placement:
    """One runner a GPU; without one, as many single-threaded ones as cores and memory bear.

    Args:
        runners: how many, or None for as many as fit.
        weights_bytes: size of the model's files.
        pack: trials that each takes at a time, or None for as many as are worth it.

    Raises:
        MissingError: there is no GPU, not so many, or not the memory.
    """
    if device == "cuda" and not machine.gpus:
        why = f" ({machine.gpu_problem})" if machine.gpu_problem else ""
        raise MissingError(
            f"model.device = cuda: this machine shows no GPU{why}; check nvidia-smi and "
            "CUDA_VISIBLE_DEVICES, or use --set model.device=auto"
        )
    if machine.gpus and device != "cpu":
        if runners is not None and runners > len(machine.gpus):
            raise MissingError(
                f"--runners {runners}: this machine shows {len(machine.gpus)} GPUs; "
                "ask for that many at most"
            )
        gpus = machine.gpus[: runners or len(machine.gpus)]
        return Placement(gpus=gpus, memory_limit_bytes=memory_limit_bytes, pack=pack)
    need = LIBRARIES_BYTES + (memory_limit_bytes or IN_MEMORY * weights_bytes + WORKING_BYTES)
    fitting = machine.free_memory_bytes // need
    if fitting < 1:
        raise MissingError(
            f"a runner needs about {show_size(need)} of memory, and "
            f"{show_size(machine.free_memory_bytes)} are free; close other programs, use a "
            "smaller model by --model, or --scale mini"
        )
    most = max(fitting, PER_CORE * machine.cores)
    if runners is not None and runners > most:
        raise MissingError(
            f"--runners {runners}: this machine has {machine.cores} cores, and "
            f"{show_size(machine.free_memory_bytes)} of memory free, of which a runner needs about "
            f"{show_size(need)}; ask for {most} at most"
        )
    count = runners or min(machine.cores, fitting)
    return Placement(gpus=(None,) * count, memory_limit_bytes=memory_limit_bytes, pack=pack)
