"""What Slurm tells a job about itself, and asking it to run the job again."""

import os
import re
import subprocess

REQUEUE_TIMEOUT_S = 20


def job() -> str:
    """This task of this job, the same after a requeue; empty outside Slurm."""
    number = os.environ.get("SLURM_JOB_ID", "")
    return f"{number}.{os.environ.get('SLURM_PROCID', '0')}" if number else ""


def restarts() -> int:
    """How often this job has been requeued."""
    count = os.environ.get("SLURM_RESTART_COUNT", "0")
    return int(count) if count.isdecimal() else 0


def requeue() -> bool:
    """Asks Slurm to run this job again later; whether it was asked."""
    number = os.environ.get("SLURM_JOB_ID", "")
    if not re.fullmatch(r"[0-9]+(_[0-9]+)?", number):
        return False
    try:
        subprocess.run(
            ["scontrol", "requeue", number],
            capture_output=True,
            timeout=REQUEUE_TIMEOUT_S,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return False
    return True
