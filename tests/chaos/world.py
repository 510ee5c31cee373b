"""Everything that a chaos run starts: a folder, a database, drivers; and the end of it all."""

import asyncio
import os
import shutil
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import RDBStorage
from sqlalchemy import NullPool

from hpo.data import read_examples
from hpo.guard import BUG
from hpo.specs import StudySpec
from tests.chaos import study
from tests.chaos.databases import Database, database
from tests.chaos.driver import Driver
from tests.chaos.plan import Draw
from tests.chaos.processes import MARK, kill_all

Fits = Callable[[Driver], bool]
REPOSITORY = Path(__file__).resolve().parents[2]
DISK_BYTES = 48 << 20
TICK_S = 0.05
AFTERMATH_S = 15.0  # how long a driver may still stumble over what was mended


class World:
    """One chaos run: its drivers, and what is broken at the moment."""

    def __init__(
        self,
        folder: Path,
        base: Database,
        *,
        drivers: int,
        runners: int,
        trials: int,
        seed: int,
        pack: int,
    ):
        self.folder, self.database = folder, base
        self.trials, self.seed = trials, seed
        self.runners, self.pack = runners, pack
        self.more = 0
        """Trials that are asked for, again and again, until the last fault has struck."""
        self.struck_all = False
        self.runs = folder / "runs"
        self.mark = uuid.uuid4().hex
        self.small_disk = False
        """Whether the runs lie on a disk that can be filled."""
        self.broken: set[str] = set()
        self.surprises: list[str] = []
        """Drivers that gave up while nothing was broken."""
        self._mended_at = 0.0
        self.drivers = [self._driver(index) for index in range(drivers)]

    @property
    def spec(self) -> StudySpec:
        """The study as its drivers see it."""
        return study.load(self.folder, trials=self.trials, seed=self.seed)

    @cached_property
    def val_image(self) -> Path:
        """An image of the val set; asked for first while all images are there."""
        return self.folder / "data" / "images" / read_examples(self.spec.data).val[0].name

    @property
    def finished(self) -> int:
        """Trials that count, as the drivers have said."""
        return max(driver.finished for driver in self.drivers)

    def trial_folder(self, number: int) -> Path:
        """Where a trial's files lie."""
        return self.runs / study.NAME / f"trial-{number:05d}"

    def open_study(self) -> optuna.Study:
        """The study, past its drivers."""
        storage = RDBStorage(self.database.storage, engine_kwargs={"poolclass": NullPool})
        return optuna.load_study(study_name=study.NAME, storage=storage)

    async def until(self, condition: Callable[[], Any]) -> Any:
        """Waits for a condition to hold; what it gives."""
        while not (found := condition()):
            await asyncio.sleep(TICK_S)
        return found

    async def pick(self, draw: Draw, fits: Fits = Driver.trains) -> Driver:
        """Waits for drivers that fit, and takes the one that is drawn."""
        fitting = await self.until(lambda: [driver for driver in self.drivers if fits(driver)])
        driver: Driver = fitting[int(draw.pick * len(fitting))]
        return driver

    def calmly(self, fits: Fits) -> Fits:
        """Fits, while nothing is broken."""
        return lambda driver: not self.broken and fits(driver)

    @contextmanager
    def breaking(self, what: str) -> Iterator[None]:
        """While entered, this is broken, and no driver is started."""
        self.broken.add(what)
        try:
            yield
        finally:
            self.broken.remove(what)
            self._mended_at = time.monotonic()

    async def keep_up(self, driver: Driver) -> None:
        """Starts a driver again and again, until it says that the study is complete."""
        while True:
            await self.until(lambda: not self.broken)
            driver.error = ""
            code = await driver.run_once()
            if code == 0 and not self._goes_on():
                return
            calm = not self.broken and time.monotonic() - self._mended_at > AFTERMATH_S
            if code == BUG or (code == 2 and calm):
                self.surprises.append(f"driver {driver.index} gave up: {driver.error}")

    def _goes_on(self) -> bool:
        """Asks for more trials where the study has ended before the plan of faults."""
        if self.struck_all or not self.more:
            return False
        if self.finished >= self.trials:
            self.trials += self.more
        return True

    def _words(self) -> list[str]:
        """The command of a driver, for as many trials as are wanted now."""
        return [
            *(sys.executable, "-m", "hpo.run", "--json"),
            *("--runners", str(self.runners), "--pack", str(self.pack)),
            *study.options(self.folder, trials=self.trials, seed=self.seed),
            *("--runs-dir", str(self.runs), "--memory-limit", study.MEMORY_LIMIT),
        ]

    def _driver(self, index: int) -> Driver:
        environment = {
            **os.environ,
            MARK: self.mark,
            "PYTHONPATH": str(REPOSITORY),
            "HPO_STORAGE": self.database.storage,
        }
        return Driver(index, self._words, environment, self.folder / f"driver-{index}.jsonl")


@contextmanager
def world(
    storage: str,
    *,
    drivers: int,
    runners: int,
    trials: int,
    seed: int,
    pack: int,
    keep: Path | None,
) -> Iterator[World]:
    """A world that is gone afterwards, whatever happened, but for what is kept of it."""
    with ExitStack() as mess:
        folder = Path(tempfile.mkdtemp(prefix="hpo-chaos-"))
        mess.callback(shutil.rmtree, folder)
        study.write_study(folder)
        base = database(storage, folder)
        mess.callback(base.close)
        base.open()
        found = World(
            folder, base, drivers=drivers, runners=runners, trials=trials, seed=seed, pack=pack
        )
        found.runs.mkdir()
        found.small_disk = _mount(found.runs)
        if found.small_disk:
            mess.callback(subprocess.run, ["umount", "--lazy", str(found.runs)], check=True)
        if keep is not None:
            mess.callback(shutil.copytree, folder, keep, dirs_exist_ok=True)
        mess.callback(kill_all, found.mark)
        yield found


def _mount(folder: Path) -> bool:
    """A small disk of its own for a folder; False where that is not permitted."""
    words = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(folder)]
    try:
        return subprocess.run(words, capture_output=True).returncode == 0
    except OSError:
        return False
