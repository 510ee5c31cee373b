"""Mutated inputs in bulk: each ends with exit code 0, 1 or 2, in time, and without a secret."""

import json
import os
import selectors
import subprocess
import sys
import time

import pytest

from tests.commands import REPOSITORY, environment
from tests.fuzz.inputs import KINDS, SECRET

HANG_S = 180
SHARES = 2  # of a kind, so that they can run at the same time
ALLOWED = (0, 1, 2)
LONGEST = 3000  # characters of all sentences; a search space may be wrong in ten places
SEEN = 4  # characters of a secret that nobody may see


def results(kind, first, count):
    """What became of each input; a hang or a crash ends with what it was."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.fuzz.worker", kind, str(first), str(count)],
        cwd=REPOSITORY,
        env=environment(HF_HUB_OFFLINE="1", OMP_NUM_THREADS="1", TRANSFORMERS_VERBOSITY="error"),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    lines = list(_lines(process))
    begun = [line["seed"] for line in lines if "code" not in line]
    ended = [line for line in lines if "code" in line]
    code = process.wait()
    hung = begun[len(ended) :]
    assert not hung, f"{kind} {hung[0]}: the worker hung or died (exit {code})"
    return ended


def _lines(process):
    os.set_blocking(process.stdout.fileno(), False)
    buffer, heard = b"", time.monotonic()
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while time.monotonic() - heard < HANG_S:
            if not selector.select(1.0):
                continue
            chunk = os.read(process.stdout.fileno(), 1 << 16)
            if not chunk:
                return
            heard = time.monotonic()
            *whole, buffer = (buffer + chunk).split(b"\n")
            yield from map(json.loads, whole)
    process.kill()


def fault(result):
    """What is wrong with how an input ended; empty for nothing."""
    printed = result["printed"]
    if result["code"] not in ALLOWED:
        return f"exit {result['code']}"
    if "Traceback" in printed:
        return "a traceback"
    if result["code"] == 2 and "error: " not in printed:
        return "no word"
    if result["code"] == 2 and len(printed) > LONGEST:
        return "a message that nobody reads to its end"
    return "a secret" if any(part in printed for part in PARTS) else ""


PARTS = [SECRET[at : at + SEEN] for at in range(len(SECRET) - SEEN + 1)]


@pytest.mark.slow
@pytest.mark.parametrize("share", range(SHARES))
@pytest.mark.parametrize("kind", sorted(KINDS))
def test_every_mutated_input_ends_well(kind, share):
    count = KINDS[kind][1] // SHARES
    ended = results(kind, share * count, count)
    assert len(ended) == count
    faults = {r["seed"]: (why, r["printed"][-2000:]) for r in ended if (why := fault(r))}
    assert not faults, f"{len(faults)} of {count}: {next(iter(faults.items()))}"
    assert {result["code"] for result in ended} >= {0, 2}  # some are right, some are refused


def test_there_are_two_thousand():
    assert sum(count for _, count, _ in KINDS.values()) == 2000
