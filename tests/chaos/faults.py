"""The faults: each strikes, says what it did, and after that mends what it broke.

A fault is an asynchronous generator that yields once, when it has struck. What comes after is run
beside the next faults.
"""

import asyncio
import os
import signal
from collections.abc import AsyncGenerator, Callable
from pathlib import Path

from hpo.protocol import CHECKPOINT
from tests.chaos import study
from tests.chaos.driver import Driver
from tests.chaos.plan import Draw
from tests.chaos.processes import send
from tests.chaos.world import Fits, World

Striking = AsyncGenerator[str, None]
Fault = Callable[[World, Draw], Striking]
BLOCK = b"\0" * 4096


def has_measured(draw: Draw) -> Fits:
    """Drivers in a trial that has come as far as is drawn: no eval point yet, or one, or two."""
    return lambda driver: driver.trains() and driver.points >= int(draw.strength * 3)


def signal_to_runner(number: signal.Signals) -> Fault:
    """Sends a signal to a runner in mid-trial."""

    async def strike(world: World, draw: Draw) -> Striking:
        driver = await world.pick(draw, has_measured(draw))
        os.kill(_runner(driver), number)
        yield f"{number.name} to the runner of driver {driver.index} in trial {driver.trial}"

    return strike


def signal_to_driver(number: signal.Signals) -> Fault:
    """Sends a signal to a driver in mid-trial."""

    async def strike(world: World, draw: Draw) -> Striking:
        driver = await world.pick(draw, has_measured(draw))
        os.kill(driver.pid, number)
        driver.leaving = True
        yield f"{number.name} to driver {driver.index} in trial {driver.trial}"

    return strike


async def sigstop_runner(world: World, draw: Draw) -> Striking:
    """Holds a runner still for longer than its lease, and lets it go on if it still lives."""
    driver = await world.pick(draw, has_measured(draw))
    pid, seconds = _runner(driver), study.HANG_S + draw.of(2, 6)
    os.kill(pid, signal.SIGSTOP)
    try:
        yield f"runner of driver {driver.index} stopped in trial {driver.trial} for {seconds:.1f} s"
        await asyncio.sleep(seconds)
    finally:
        send(pid, signal.SIGCONT, world.mark)


async def sigstop_driver(world: World, draw: Draw) -> Striking:
    """Holds a driver still for longer than its leases."""
    driver = await world.pick(draw, has_measured(draw))
    pid, seconds = driver.pid, study.HANG_S + draw.of(2, 6)
    os.kill(pid, signal.SIGSTOP)
    driver.stopped = True
    try:
        yield f"driver {driver.index} stopped in trial {driver.trial} for {seconds:.1f} s"
        await asyncio.sleep(seconds)
    finally:
        send(pid, signal.SIGCONT, world.mark)
        driver.stopped = False


def enqueued(kind: str) -> Fault:
    """Enqueues a configuration that cannot be trained."""

    async def strike(world: World, draw: Draw) -> Striking:
        await world.pick(draw, world.calmly(Driver.trains))
        dropout = round(draw.of(0.0, 0.2), 4)
        world.open_study().enqueue_trial(study.absurd(kind, dropout))
        yield f"a configuration enqueued that ends as {kind}"

    return strike


async def database_outage(world: World, draw: Draw) -> Striking:
    """Takes the database away for some seconds."""
    await world.pick(draw, world.calmly(Driver.trains))
    seconds = draw.of(1, 8)
    with world.breaking("database"):
        await asyncio.to_thread(world.database.down)
        try:
            yield f"database gone for {seconds:.1f} s"
            await asyncio.sleep(seconds)
        finally:
            world.database.up()


async def disk_full(world: World, draw: Draw) -> Striking:
    """Fills the disk of the runs for some seconds."""
    await world.pick(draw, world.calmly(Driver.trains))
    seconds, ballast = draw.of(1, 4), world.runs / "ballast"
    with world.breaking("disk"):
        try:
            size = _fill(ballast)
            yield f"disk full for {seconds:.1f} s, {size >> 20} MiB of ballast"
            await asyncio.sleep(seconds)
        finally:
            ballast.unlink(missing_ok=True)


def _fill(ballast: Path) -> int:
    """Writes until nothing fits any more; how much that was."""
    with ballast.open("wb", buffering=0) as file:
        try:
            while file.write(BLOCK) == len(BLOCK):
                pass
        except OSError:
            pass
        return file.tell()


async def damaged_checkpoint(world: World, draw: Draw) -> Striking:
    """Damages the checkpoint of a running trial and kills its runner."""

    def has_checkpoint(driver: Driver) -> bool:
        return driver.trains() and _checkpoint(world, driver).is_file()

    driver = await world.pick(draw, has_checkpoint)
    pid = _runner(driver)
    os.kill(pid, signal.SIGSTOP)  # it must not write another one
    how = ("a byte flipped", "cut in half", "emptied", "deleted")[int(draw.strength * 4)]
    _damage(_checkpoint(world, driver), how)
    os.kill(pid, signal.SIGKILL)
    yield f"checkpoint of trial {driver.trial} {how}, and its runner killed"


def _checkpoint(world: World, driver: Driver) -> Path:
    assert driver.trial is not None
    return world.trial_folder(driver.trial) / CHECKPOINT


def _damage(path: Path, how: str) -> None:
    content = bytearray(path.read_bytes())
    match how:
        case "a byte flipped":
            content[len(content) // 2] ^= 1
        case "cut in half":
            del content[len(content) // 2 :]
        case "emptied":
            content.clear()
        case "deleted":
            return path.unlink()
    path.write_bytes(content)


async def deleted_image(world: World, draw: Draw) -> Striking:
    """Takes an image of the val set away when a fresh runner is about to read it."""
    image = world.val_image
    away, seconds = world.folder / image.name, draw.of(1, 4)
    victim = await world.pick(draw)
    os.kill(_runner(victim), signal.SIGKILL)
    await world.pick(draw, world.calmly(lambda driver: driver.trains() and driver.fresh))
    with world.breaking("image"):
        image.rename(away)
        try:
            yield f"image {image.name} gone for {seconds:.1f} s, before a fresh runner has read it"
            await asyncio.sleep(seconds)
        finally:
            away.rename(image)


def _runner(driver: Driver) -> int:
    pid = driver.runner
    assert pid is not None
    return pid


FAULTS: dict[str, Fault] = {
    "sigkill_runner": signal_to_runner(signal.SIGKILL),
    "sigsegv_runner": signal_to_runner(signal.SIGSEGV),
    "sigstop_runner": sigstop_runner,
    "sigkill_driver": signal_to_driver(signal.SIGKILL),
    "sigterm_driver": signal_to_driver(signal.SIGTERM),
    "sigint_driver": signal_to_driver(signal.SIGINT),
    "sigusr1_driver": signal_to_driver(signal.SIGUSR1),
    "sigstop_driver": sigstop_driver,
    "oom": enqueued("oom"),
    "nan": enqueued("nan"),
    "database_outage": database_outage,
    "disk_full": disk_full,
    "damaged_checkpoint": damaged_checkpoint,
    "deleted_image": deleted_image,
}


def impossible(world: World) -> dict[str, str]:
    """Kinds that cannot be had here, each with the reason."""
    left_out = {}
    if not world.database.can_fail:
        left_out["database_outage"] = "this database cannot be turned off alone"
    if not world.small_disk:
        left_out["disk_full"] = "mounting a small disk is not permitted"
    return left_out
