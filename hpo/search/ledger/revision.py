"""The git revision of the code that runs, for the record of every trial."""

import subprocess
from functools import cache
from pathlib import Path


@cache
def revision() -> str:
    """Commit of the checkout that holds this package, `+` if it has changes; or `unknown`."""
    folder = Path(__file__).parent
    commit = _git(folder, "rev-parse", "--short=12", "HEAD")
    if not commit:
        return "unknown"
    return f"{commit}+" if _git(folder, "status", "--porcelain", "--", str(folder)) else commit


def _git(folder: Path, *words: str) -> str:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *words], capture_output=True, text=True, timeout=5
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
