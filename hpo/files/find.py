"""Where the files of studies and search spaces lie."""

import difflib
from pathlib import Path

from hpo.errors import FileProblems
from hpo.files.settings import shortened

PACKAGE = Path(__file__).resolve().parent.parent


def folders(kind: str) -> list[Path]:
    """Places of `studies` or `search_spaces`: here, in the installed package, in a checkout."""
    return [Path.cwd() / kind, PACKAGE / kind, PACKAGE.parent / kind]


def find(kind: str, name: str, *, beside: Path | None = None) -> Path:
    """The file of a name or path; a path is also looked for beside another file.

    Raises:
        FileProblems: nothing of that name; lists the names that exist.
    """
    if name.endswith(".toml") or "/" in name:
        candidates = [Path(name).expanduser()]
        if beside is not None:
            candidates.append(beside.parent / name)
        for path in candidates:
            if _exists(path):
                return path  # whatever it is: reading it says so
        given = shortened(name)
        raise FileProblems([f"{given}: no such file; give a .toml file or a name from {kind}/"])
    for folder in folders(kind):
        if _exists(folder / f"{name}.toml"):
            return folder / f"{name}.toml"
    raise FileProblems([_unknown(kind, name)])


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # the name is too long, or a folder on the way may not be looked into
        return False


def _unknown(kind: str, name: str) -> str:
    known = sorted({path.stem for folder in folders(kind) for path in folder.glob("*.toml")})
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"; did you mean {close[0]}?" if close else "."
    singular = {"studies": "study", "search_spaces": "search space"}[kind]
    there = ", ".join(known)
    return f"{shortened(name)}: unknown {singular}{hint} There are: {there}; or give a .toml file"
