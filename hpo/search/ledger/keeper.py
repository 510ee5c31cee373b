"""What stays on disk of a study's trials: curves, the best adapters, and what a retry may need."""

import json
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterable
from pathlib import Path

from optuna.trial import FrozenTrial, TrialState

from hpo.errors import MissingError
from hpo.units import show_size

OWNER = "study.json"
CHECKPOINT = "checkpoint.safetensors"
UNFINISHED = "*.writing"
ADAPTER = "adapter"
EVERY_S = 10.0  # a sweep lists the folders of all trials


def own_folder(runs_dir: Path, identity: str) -> None:
    """Makes the runs folder this study's, or holds that it is.

    Raises:
        MissingError: it is that of another study of this name, in another database.
    """
    runs_dir.mkdir(parents=True, exist_ok=True)
    path = runs_dir / OWNER
    scratch = runs_dir / f"{OWNER}.{uuid.uuid4().hex}"  # of this call alone
    scratch.write_text(json.dumps({"study": identity}) + "\n")
    try:
        os.link(scratch, path)  # fails if another process was faster
    except FileExistsError:
        if json.loads(path.read_text()).get("study") != identity:
            raise MissingError(
                f"{runs_dir} holds the trials of another study of this name, which lies in another "
                "database or was deleted there; use --name NAME, another --runs-dir, or remove it"
            ) from None
    except OSError:  # a file system without hard links
        os.replace(scratch, path)
    finally:
        scratch.unlink(missing_ok=True)


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
        self._swept: set[int] = set()
        """Ended trials that nothing is left of to remove."""
        self.has_room = True
        """Whether more checkpoints may be written."""

    def folder(self, number: int) -> Path:
        """The folder of a trial; numbers, not paths, are what the database holds."""
        return self._runs_dir / f"trial-{int(number):05d}"

    def sweep(self, trials: Callable[[], list[FrozenTrial]], *, now: bool = False) -> str:
        """Removes what is not needed; what there is to say of it, or nothing.

        Args:
            trials: reads the study's trials.
            now: whether not to wait for the next time that is due.
        """
        if not now and self._monotonic() < self._next:
            return ""
        self._next = self._monotonic() + EVERY_S
        if now:
            self._swept.clear()
        found = trials()
        ranked = best(found)[: self._adapters]
        needed = needed_checkpoints(found)
        try:
            for trial in found:
                if trial.state.is_finished() and trial.number not in self._swept:
                    self._sweep_trial(trial.number, checkpoint=trial.number in needed, best=ranked)
            return self._hold_quota(ranked)
        except OSError as error:  # another's file, or a disk that is away: it is no trial's fault
            return f"{self._runs_dir} cannot be tidied now: {error.strerror}"

    def _sweep_trial(self, number: int, *, checkpoint: bool, best: list[int]) -> None:
        """Removes what is left of an ended trial, but for what is needed or among the best."""
        folder = self.folder(number)
        for path in folder.glob(UNFINISHED):
            path.unlink(missing_ok=True)
        if not checkpoint:
            (folder / CHECKPOINT).unlink(missing_ok=True)
        if number not in best:
            self._remove_adapter(number)
        if not checkpoint and number not in best:
            self._swept.add(number)

    def _remove_adapter(self, number: int) -> None:
        shutil.rmtree(self.folder(number) / ADAPTER, ignore_errors=True)

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
