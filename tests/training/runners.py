"""A runner process as a driver sees it: commands down one pipe, events up the other."""

import os
import subprocess
import sys

from hpo.files import Options, load_study
from hpo.protocol import Finished, Ready, Run, Setup, Stop, read_event, to_line
from hpo.search.runners.launch import launch

ENVIRONMENT = {
    "PATH": "/usr/bin:/bin",
    "PYTHONPATH": ":".join(sys.path),
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
    "MALLOC_ARENA_MAX": "1",
    "CUDA_VISIBLE_DEVICES": "",
}


class Runner:
    """A runner that is ready for trials of the mini study with these settings."""

    def __init__(self, *settings, study="rsicap", memory_limit=None, **others):
        self.pipes = launch(subprocess.DEVNULL, ENVIRONMENT)
        self.process = self.pipes.process
        self.events = []
        loaded = load_study(study, Options(scale="mini", assignments=settings))
        usual = {"memory_limit_bytes": memory_limit, "gpu": False, "zero_shot": False}
        self.send(Setup(study=loaded, **usual, **others))
        self.ready = self.wait_for(Ready)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        self.pipes.close_commands()
        self.pipes.events.close()

    def send(self, command):
        self.pipes.commands.write(to_line(command))
        self.pipes.commands.flush()

    def signal(self, number):
        os.kill(self.process.pid, number)

    def start(self, order):
        self.send(Run(order=order))

    def stop(self, order):
        self.send(Stop(number=order.number, checkpoint=True))

    def wait_for(self, kind):
        """The next event of this kind; all on the way are kept in `events`."""
        for line in self.pipes.events:
            self.events.append(read_event(line))
            if isinstance(self.events[-1], kind):
                return self.events[-1]
        raise AssertionError(f"ended with {self.process.wait()} without {kind.__name__}")

    def train(self, order):
        """Runs a trial to its end."""
        self.start(order)
        return self.wait_for(Finished)

    def of(self, kind):
        """The events of this kind so far."""
        return [event for event in self.events if isinstance(event, kind)]
