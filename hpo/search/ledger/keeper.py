"""What stays on disk of a study's trials: curves, the best adapters, and what a retry may need."""

import shutil
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from optuna.trial import FrozenTrial, TrialState

from hpo.units import show_size

CHECKPOINT = "checkpoint.safetensors"
UNFINISHED = "*.writing"
ADAPTER = "adapter"
EVERY_S = 10.0  # a sweep lists the folders of all trials


def trial_folder(runs_dir: Path, number: int) -> Path:
    """The folder of a trial; numbers, not paths, are what the database holds."""
    return runs_dir / f"trial-{int(number):05d}"


class Keeper:
    """Removes what nobody needs from the runs folder, and says when it is full."""

    def __init__(
        self,
        runs_dir: Path,
        *,
        adapters: int,
        quota_bytes: float,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._runs_dir = runs_dir
        self._adapters = adapters
        self._quota_bytes = quota_bytes
        self._monotonic = monotonic
        self._next = 0.0
        self.has_room = True
        """Whether more checkpoints may be written."""

    def sweep(self, trials: Callable[[], list[FrozenTrial]], *, now: bool = False) -> str:
        """Removes what is not needed; what there is to say of it, or nothing.

        Args:
            trials: reads the study's trials.
            now: whether not to wait for the next time that is due.
        """
        if not now and self._monotonic() < self._next:
            return ""
        self._next = self._monotonic() + EVERY_S
        found = trials()
        ranked = best(found)
        self._remove_checkpoints(found)
        self._remove_adapters(found, keep=set(ranked[: self._adapters]))
        return self._hold_quota(ranked[: self._adapters])

    def _remove_checkpoints(self, trials: list[FrozenTrial]) -> None:
        needed = needed_checkpoints(trials)
        for trial in trials:
            folder = trial_folder(self._runs_dir, trial.number)
            if trial.number not in needed:
                (folder / CHECKPOINT).unlink(missing_ok=True)
            if trial.state.is_finished():
                for path in folder.glob(UNFINISHED):
                    path.unlink(missing_ok=True)

    def _remove_adapters(self, trials: list[FrozenTrial], keep: set[int]) -> None:
        for trial in trials:
            if trial.state.is_finished() and trial.number not in keep:
                self._remove_adapter(trial.number)

    def _remove_adapter(self, number: int) -> None:
        shutil.rmtree(trial_folder(self._runs_dir, number) / ADAPTER, ignore_errors=True)

    def _hold_quota(self, ranked: list[int]) -> str:
        """Over the quota, adapters go from the worst on; the best one stays."""
        used = self._used_bytes()
        while used > self._quota_bytes and len(ranked) > 1:
            self._remove_adapter(ranked.pop())
            used = self._used_bytes()
        had_room, self.has_room = self.has_room, used <= self._quota_bytes
        if had_room and not self.has_room:
            return (
                f"{self._runs_dir} holds {show_size(used)}, more than limits.disk_gb allows "
                f"({show_size(self._quota_bytes)}): no more checkpoints at eval points"
            )
        return ""

    def _used_bytes(self) -> int:
        patterns = (f"trial-*/{CHECKPOINT}", f"trial-*/{ADAPTER}/*")
        return sum(_size(path) for pattern in patterns for path in self._runs_dir.glob(pattern))


def needed_checkpoints(trials: Iterable[FrozenTrial]) -> set[int]:
    """Numbers of the trials whose checkpoints may be needed: of live ones and their ancestors."""
    needed: set[int] = set()
    for trial in trials:
        if not trial.state.is_finished():
            needed |= {trial.number, *(int(n) for n in trial.user_attrs.get("earlier", ()))}
    return needed


def best(trials: Iterable[FrozenTrial]) -> list[int]:
    """Numbers of the COMPLETE trials, best first."""
    complete = [t for t in trials if t.state == TrialState.COMPLETE and t.value is not None]
    return [t.number for t in sorted(complete, key=lambda t: (t.value, t.number))]


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:  # gone meanwhile
        return 0
