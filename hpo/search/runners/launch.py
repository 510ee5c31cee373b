"""Starts runner processes: the protocol has two pipes of its own, all else goes into the log.

Standard streams are not for messages: a library may print at any time, even before our code runs
(`sitecustomize`, `.pth` files), and a question of one would wait for an answer from the driver.
"""

import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

MODULE = "hpo.training.runner"
ROOT = Path(__file__).resolve().parents[3]  # the folder that `import hpo` finds the package in
INSTALLED = ("site-packages", "dist-packages")  # found without PYTHONPATH
FOR_ONE_PROCESS = {"PYTHONOPTIMIZE", "PYTHONWARNINGS", "PYTHONINSPECT"}
"""What a user may set for their own code; torch and transformers do not import under all of it."""


@dataclass(frozen=True, kw_only=True)
class RunnerPipes:
    """A runner process and the driver's ends of its pipes."""

    process: subprocess.Popen[bytes]
    commands: BinaryIO
    events: BinaryIO

    def close_commands(self) -> None:
        """Has the runner end: it finds that nobody is left to train for."""
        try:
            self.commands.close()
        except BrokenPipeError:  # it is dead, and what was not sent yet is lost
            pass


def launch(log: BinaryIO | int, environment: Mapping[str, str]) -> RunnerPipes:
    """Starts a runner that runs the same package as this process.

    Args:
        log: takes standard output and standard error.
        environment: of the process; what would change how Python imports is adapted.

    Raises:
        OSError: the system starts no more processes.
    """
    down, commands = os.pipe()
    events, up = os.pipe()
    try:
        process = subprocess.Popen(
            # -P: neither `torch.py` nor a folder `hpo` of the working directory is imported
            [sys.executable, "-P", "-m", MODULE, str(down), str(up)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=_for_python(environment),
            pass_fds=(down, up),
            start_new_session=True,  # Ctrl-C at the terminal must not reach it
        )
    except BaseException:
        os.close(commands)
        os.close(events)
        raise
    finally:
        os.close(down)
        os.close(up)
    return RunnerPipes(
        process=process, commands=os.fdopen(commands, "wb"), events=os.fdopen(events, "rb")
    )


def _for_python(environment: Mapping[str, str]) -> dict[str, str]:
    """An environment in which Python finds this package, and can print any character."""
    kept = {name: value for name, value in environment.items() if name not in FOR_ONE_PROCESS}
    if ROOT.name not in INSTALLED:
        paths = (str(ROOT), *filter(None, [kept.get("PYTHONPATH")]))
        kept["PYTHONPATH"] = os.pathsep.join(paths)
    return {**kept, "PYTHONIOENCODING": "utf-8:backslashreplace"}
