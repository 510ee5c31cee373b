"""What stays on disk of a study's trials: curves, the best adapters, and what a retry may need."""

import json
import shutil
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

from optuna.trial import FrozenTrial, TrialState

from hpo.errors import MissingError
from hpo.protocol import ADAPTER, CHECKPOINT
from hpo.specs import VAL_LOSS, Objective
from hpo.units import show_size

OWNER = "study.json"
UNFINISHED = "*.writing"
BETWEEN_OPEN_AND_WRITE_S = 1.0
EVERY_S = 10.0  # a sweep lists the folders of all trials


def own_folder(runs_dir: Path, identity: str) -> None:
    """Makes the runs folder this study's, or holds that it is.

    Raises:
        MissingError: it is that of another study of this name, in another database, or nothing can
            be written there.
    """
    content = json.dumps({"study": identity}) + "\n"
    try:
        written = _claim(runs_dir, content)
    except OSError as error:
        raise MissingError(
            f"{runs_dir} cannot keep the files of trials ({error.filename}: {error.strerror}); "
            "mend that, or give another folder by --runs-dir"
        ) from error
    if written != content:
        raise MissingError(_other(runs_dir) if _is_record(written) else _junk(runs_dir))


def _claim(runs_dir: Path, content: str) -> str:
    """Makes the folder and its record, if they are not there; the record that is there then."""
    runs_dir.mkdir(parents=True, exist_ok=True)
    path = runs_dir / OWNER
    with suppress(FileExistsError), path.open("x") as file:
        file.write(content)
    if not path.is_file():  # a pipe would be waited for
        return OWNER
    written = _wait_for_content(path)
    if not written:  # whoever made it was killed before it could write
        path.write_text(content)
        return content
    return written


def _is_record(written: str) -> bool:
    try:
        return set(json.loads(written)) == {"study"}
    except (TypeError, ValueError, RecursionError):
        return False


def hold_owner(runs_dir: Path, identity: str) -> None:
    """Holds that the runs folder is this study's; nothing is made or changed.

    Raises:
        MissingError: it is not there, or another study's.
    """
    try:
        written = json.loads((runs_dir / OWNER).read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise MissingError(
            f"{runs_dir} holds no trials of a study; give the --runs-dir that it was run with"
        ) from error
    if written != {"study": identity}:
        raise MissingError(_other(runs_dir))


def _other(runs_dir: Path) -> str:
    return (
        f"{runs_dir} holds the trials of another study of this name, which lies in another "
        "database or was deleted there; use --name NAME, another --runs-dir, or remove it"
    )


def _junk(runs_dir: Path) -> str:
    return (
        f"{runs_dir / OWNER} is damaged, or no file of hpo: remove it if the trials in that folder "
        "are those of this study, else give another folder by --runs-dir"
    )


def trial_folder(runs_dir: Path, number: int) -> Path:
    """The folder of a trial; numbers, not paths, are what the database holds."""
    return runs_dir / f"trial-{int(number):05d}"


def _wait_for_content(path: Path) -> str:
    """The text of a file that another process may be about to write, in one piece."""
    until = time.monotonic() + BETWEEN_OPEN_AND_WRITE_S
    while not (text := path.read_text(errors="replace")) and time.monotonic() < until:
        time.sleep(0.01)
    return text


class Keeper:
    """Removes what nobody needs from the runs folder, and says when it is full."""

    def __init__(
        self,
        runs_dir: Path,
        *,
        adapters: int,
        quota_bytes: float,
        objective: Objective = VAL_LOSS,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._runs_dir = runs_dir
        self._adapters = adapters
        self._quota_bytes = quota_bytes
        self._objective = objective
        self._monotonic = monotonic
        self._next = 0.0
        self._swept: set[int] = set()
        """Ended trials that nothing is left of to remove: none of them will be needed again."""
        self.has_room = True
        """Whether more checkpoints may be written."""

    def folder(self, number: int) -> Path:
        """The folder of a trial."""
        return trial_folder(self._runs_dir, number)

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
        left = [trial for trial in trials() if trial.number not in self._swept]
        ranked = [trial.number for trial in best(left, self._objective)[: self._adapters]]
        needed = needed_checkpoints(left)
        try:
            for trial in left:
                if trial.state.is_finished():
                    self._sweep_trial(trial.number, checkpoint=trial.number in needed, best=ranked)
            kept = [self.folder(t.number) for t in left if t.number not in self._swept]
            return self._hold_quota(ranked, kept)
        except OSError as error:  # another's file, or a disk that is away: it is no trial's fault
            return f"{self._runs_dir} cannot be tidied now: {error.strerror}"

    def _sweep_trial(self, number: int, *, checkpoint: bool, best: list[int]) -> None:
        """Removes what is left of an ended trial, but for what is needed or among the best."""
        folder = self.folder(number)
        for path in folder.glob(UNFINISHED):
            path.unlink(missing_ok=True)
        if not checkpoint:
            (folder / CHECKPOINT).unlink(missing_ok=True)
        if not checkpoint and number not in best:
            self._remove_adapter(number)  # a retry takes adapters of epochs along
            self._swept.add(number)

    def _remove_adapter(self, number: int) -> None:
        shutil.rmtree(self.folder(number) / ADAPTER, ignore_errors=True)

    def _hold_quota(self, ranked: list[int], kept: list[Path]) -> str:
        """Over the quota, adapters go from the worst on; the best one stays.

        Args:
            kept: folders of trials that something is left of.
        """
        used = _used_bytes(kept)
        while used > self._quota_bytes and len(ranked) > 1:
            self._remove_adapter(ranked.pop())
            used = _used_bytes(kept)
        had_room, self.has_room = self.has_room, used <= self._quota_bytes
        if had_room and not self.has_room:
            return (
                f"{self._runs_dir} holds {show_size(used)}, more than limits.disk_gb allows "
                f"({show_size(self._quota_bytes)}): no more checkpoints at eval points"
            )
        return ""


def needed_checkpoints(trials: Iterable[FrozenTrial]) -> set[int]:
    """Numbers of the trials whose checkpoints may be needed: of live ones and their ancestors."""
    needed: set[int] = set()
    for trial in trials:
        if not trial.state.is_finished():
            needed |= {trial.number, *(int(n) for n in trial.user_attrs.get("earlier", ()))}
    return needed


def best(trials: Iterable[FrozenTrial], objective: Objective = VAL_LOSS) -> list[FrozenTrial]:
    """The COMPLETE trials, best first."""
    sign = 1.0 if objective.direction == "minimize" else -1.0
    complete = [t for t in trials if t.state == TrialState.COMPLETE and t.value is not None]
    return sorted(complete, key=lambda trial: (sign * (trial.value or 0.0), trial.number))


def _used_bytes(folders: list[Path]) -> int:
    """Of checkpoints and adapters."""
    patterns = (CHECKPOINT, f"{ADAPTER}/*", f"{ADAPTER}/*/*")
    return sum(_size(path) for f in folders for pattern in patterns for path in f.glob(pattern))


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:  # gone meanwhile
        return 0
