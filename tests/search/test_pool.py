"""Real runners, and what they are told when they start."""

import pytest

from hpo.errors import HpoError
from hpo.placement import Placement
from hpo.protocol import Setup
from hpo.search.runners.pool import Pool
from hpo.search.runners.process import RunnerProcess


@pytest.fixture
def setups(monkeypatch):
    """What runners were told to set up, in order."""
    heard, send = [], RunnerProcess.send

    def overheard(process, command):
        heard.append(command)
        send(process, command)

    monkeypatch.setattr(RunnerProcess, "send", overheard)
    return lambda: [command for command in heard if isinstance(command, Setup)]


def test_whoever_replaces_a_runner_is_told_what_it_measured(spec, tmp_path, setups):
    placement = Placement(gpus=(None,), memory_limit_bytes=None, pack=None)
    pool = Pool(spec, placement, tmp_path, zero_shot_known=True)
    pool.start()
    try:
        (slot,) = pool.slots
        while slot.facts is None:
            pool.poll(1.0)
        measured = slot.facts.lanes
        assert pool.replace(slot)
        assert [setup.lanes for setup in setups()] == [None, measured]
    finally:
        pool.close()


def test_a_runner_that_finds_other_files_than_its_driver_fails_to_set_up(spec, tmp_path):
    contents = {"data": "scenes album of another hand"}
    placement = Placement(gpus=(None,), memory_limit_bytes=None, pack=1)
    pool = Pool(spec, placement, tmp_path, zero_shot_known=True, contents=contents)
    pool.start()
    try:
        with pytest.raises(HpoError, match="data and model files and processor files: changed"):
            while True:
                pool.poll(1.0)
    finally:
        pool.close()
