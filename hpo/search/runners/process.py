"""One runner process: its pipes, its log, its end."""

import os
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from hpo.machine import kernel_kills, process_stat
from hpo.protocol import HUNG, OUT_OF_MEMORY, Command, Event, read_event, to_line
from hpo.search.database.urls import FILE_VARIABLE, VARIABLE
from hpo.search.runners.launch import launch

CHUNK = 1 << 16
KEPT_LOG_LINES = 40
KEPT_OF_LINE = 80  # bytes of a line that is no message
CLOSE_S = 5.0
KEPT_KERNELS = "256"  # oneDNN's, compiled for a shape each, about 1 MB; 1,024 otherwise
KEEPS_MEMORY = {  # glibc: between steps, pages are kept, and large; a step takes 6% less on a CPU
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 30),
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
}
GROWS_SEGMENTS = "expandable_segments:True"  # lengths vary, and fixed blocks leave gaps unused
ALLOCATOR_VARIABLES = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")  # the latter is older
PRIVATE = {VARIABLE, FILE_VARIABLE, "PGPASSWORD", "PGPASSFILE", "MYSQL_PWD"}


@dataclass(frozen=True, kw_only=True)
class Death:
    """How a runner died that nobody had asked to."""

    how: str
    """One phrase."""
    by_kernel: bool
    """Whether the kernel killed it for memory."""
    by_signal: bool
    """Whether something outside killed it, as opposed to a crash."""
    hung: bool
    """Whether it was killed, or ended itself, because it made no progress."""
    out_of_memory: bool
    """Whether it says so itself, by its exit status or its last words."""
    log: str
    """The last lines that it wrote."""


class RunnerProcess:
    """A child process that speaks `hpo.protocol`; reading never blocks."""

    def __init__(self, *, gpu: str | None, log: Path, limited: bool = False) -> None:
        """`limited`: whether its memory is to be limited."""
        self._log = log
        self._kernel_kills = kernel_kills()
        self._buffer = b""
        self._silent_s: float | None = None
        self._not_a_message: bytes | None = None
        log.parent.mkdir(parents=True, exist_ok=True)
        self._log_start = log.stat().st_size if log.exists() else 0
        with log.open("ab") as log_file:
            self._pipes = launch(log_file, _environment(gpu, limited=limited))
        self._process = self._pipes.process
        os.set_blocking(self.fileno(), False)

    def fileno(self) -> int:
        """The pipe to wait on."""
        return self._pipes.events.fileno()

    def send(self, command: Command) -> None:
        """Sends a command; to a dead runner it is lost, and the death shows when read."""
        try:
            self._pipes.commands.write(to_line(command))
            self._pipes.commands.flush()
        except (BrokenPipeError, ValueError):
            pass

    def receive(self) -> tuple[list[Event], bool]:
        """(complete messages that are there, whether the runner is still there)."""
        alive = True
        while True:
            try:
                chunk = os.read(self.fileno(), CHUNK)
            except BlockingIOError:
                break
            if not chunk:
                alive = False
                break
            self._buffer += chunk
        *lines, self._buffer = self._buffer.split(b"\n")
        if alive:
            self._kernel_kills = kernel_kills()
        events = self._read(lines)
        return events, alive and self._not_a_message is None

    def _read(self, lines: list[bytes]) -> list[Event]:
        """The messages; a runner that sends something else is ended, as nothing of it is sure."""
        events = []
        for line in lines:
            try:
                events.append(read_event(line))
            except ValidationError:
                self._not_a_message = line[:KEPT_OF_LINE]
                self.kill()
                break
        return events

    def death(self) -> Death:
        """How it died; call when its pipe has closed."""
        code = self._wait(CLOSE_S)
        name = signal.Signals(-code).name if code < 0 else f"exit status {code}"
        by_kernel = code == -signal.SIGKILL and kernel_kills() > self._kernel_kills
        log = self._last_words()
        return Death(
            how=self._how(name, by_kernel=by_kernel),
            by_kernel=by_kernel,
            by_signal=code in (-signal.SIGKILL, -signal.SIGTERM) and self._not_a_message is None,
            hung=self._silent_s is not None or code == HUNG,
            out_of_memory=code == OUT_OF_MEMORY or "bad_alloc" in log,
            log=log,
        )

    def _how(self, name: str, *, by_kernel: bool) -> str:
        if self._silent_s is not None:
            return f"silent for {self._silent_s:.0f} s, then killed"
        if self._not_a_message is not None:
            return f"killed, as it sent what is no message: {self._not_a_message!r}"
        return f"{name}, by the kernel, for memory" if by_kernel else name

    def kill(self) -> None:
        """Ends it at once."""
        self._process.kill()

    def kill_hung(self, silent_s: float) -> None:
        """Ends one that says nothing any more; a stopped process dies of it too."""
        self._silent_s = silent_s
        self._process.kill()

    def cpu_seconds(self) -> float:
        """Processor time that it has taken, as a sign of life of one that says nothing yet."""
        user_and_system = process_stat(self._process.pid)[11:13]
        return sum(map(int, user_and_system)) / os.sysconf("SC_CLK_TCK")

    def close(self, timeout_s: float = CLOSE_S) -> None:
        """Waits for its end, and enforces it."""
        self._pipes.close_commands()
        self._wait(timeout_s)
        self._pipes.events.close()

    def _wait(self, timeout_s: float) -> int:
        """Its exit status; enforced, but one that the kernel cannot end is left to itself."""
        try:
            return self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()
        try:
            return self._process.wait(CLOSE_S)
        except subprocess.TimeoutExpired:  # it waits for a device or a disk
            return -signal.SIGKILL

    def _last_words(self) -> str:
        with self._log.open("rb") as log:
            log.seek(self._log_start)
            lines = log.read().decode(errors="replace").splitlines()
        return "\n".join(line for line in lines[-KEPT_LOG_LINES:] if line.strip())


def _environment(gpu: str | None, *, limited: bool) -> dict[str, str]:
    """The runner's environment: its GPU, offline, quiet; no database in it."""
    kept = {} if limited else dict(KEEPS_MEMORY)
    if gpu is not None and not any(name in os.environ for name in ALLOCATOR_VARIABLES):
        kept[ALLOCATOR_VARIABLES[0]] = GROWS_SEGMENTS
    changed = {
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_VERBOSITY": "error",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "OMP_NUM_THREADS": "1",
        "MALLOC_ARENA_MAX": "1",  # arenas would eat the address space that a limit leaves
        "ONEDNN_PRIMITIVE_CACHE_CAPACITY": KEPT_KERNELS,
        "LRU_CACHE_CAPACITY": KEPT_KERNELS,  # torch's own beside it
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
        "CUDA_VISIBLE_DEVICES": gpu or "",
    }
    inherited = {k: v for k, v in os.environ.items() if k not in PRIVATE}
    return kept | inherited | changed
