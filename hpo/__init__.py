"""Hyperparameter search for LoRA fine-tuning: Optuna on one side, torch on the other."""

import os
import sys

__version__ = "0.1.0"


def _leave_working_directory() -> None:
    """Keeps `json.py` or `optuna.py` of the working directory from shadowing a library.

    `python -m` puts that folder first on the path. It is taken off again while the module of a
    command is looked for, which is when argv says `-m`, unless this package itself lies there.
    """
    if sys.argv[:1] != ["-m"] or sys.flags.safe_path:
        return
    if sys.path[:1] != [os.path.dirname(os.path.dirname(os.path.abspath(__file__)))]:
        del sys.path[:1]


_leave_working_directory()
