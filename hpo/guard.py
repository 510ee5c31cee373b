"""Ends a command: from whatever happens in its work to one message and an exit code."""

import errno
import json
import os
import sys
import traceback
from collections.abc import Callable, Iterable

from hpo.errors import HpoError, MissingError
from hpo.search.database.redaction import scrubbed
from hpo.search.database.urls import given_text, variable
from hpo.utf8 import refuse_other_bytes

WRONG_INPUT = 2
BUG = 70
INTERRUPTED = 130
PERMISSION = "give this user the right to it (chmod, chown), or name another path"
SPACE = "free some space, or name a path on another disk"
LESS = "close other programs, or use fewer --runners"
REMEDIES = {
    errno.EACCES: PERMISSION,
    errno.EPERM: PERMISSION,
    errno.EROFS: "name a path on a disk that can be written",
    errno.ENOSPC: SPACE,
    errno.EDQUOT: SPACE,
    errno.EFBIG: "raise the limit on file sizes (ulimit -f)",
    errno.ENOENT: "check the path",
    errno.ENOTDIR: "a folder of this path is a file: name another path, or move that file",
    errno.EEXIST: "name another path, or move what is there",
    errno.EISDIR: "it is a folder where a file belongs: name another path, or move it",
    errno.ENAMETOOLONG: "shorten it",
    errno.ELOOP: "its symbolic links lead in a circle: correct them",
    errno.EMFILE: "raise the limit on open files (ulimit -n), or use fewer --runners",
    errno.EAGAIN: "raise the limit on processes (ulimit -u), or use fewer --runners",
    errno.ENOMEM: LESS,
}
CHECK = "check that it is whole, that this user may use it, and that its disk works"


def guarded(
    work: Callable[[], int],
    *,
    as_json: bool,
    storage: str | None,
    options: Iterable[tuple[str, str]] = (),
) -> int:
    """The exit code of some work, whatever happens in it.

    Args:
        work: returns its exit code.
        as_json: whether a message is JSON on standard output, or text on standard error.
        storage: database as the option gives it; its password is taken out of tracebacks.
        options: other texts that the user has typed, by name.
    """
    try:
        refuse_other_bytes([*options, *_surroundings(storage)])
        return work()
    except HpoError as error:
        _complain(str(error), as_json=as_json)
        return WRONG_INPUT
    except KeyboardInterrupt:  # before or after the trials; while they run, the driver handles it
        return INTERRUPTED
    except OSError as error:
        _complain(describe(error), as_json=as_json)
        return WRONG_INPUT
    except Exception:  # ours to mend; its traceback may quote what was passed around
        text = scrubbed(traceback.format_exc(), given_text(storage))
        _complain(f"this is a bug in hpo; please report it:\n{text}", as_json=as_json)
        return BUG


def _surroundings(storage: str | None) -> list[tuple[str, str]]:
    """Texts that every command depends on: the database and the working directory.

    Raises:
        MissingError: the working directory is gone.
    """
    try:
        found = [("the working directory", os.getcwd())]
    except OSError as error:
        raise MissingError(
            f"the working directory cannot be used ({error.strerror}); cd to one that is there"
        ) from error
    if storage:
        return [*found, ("--storage", storage)]
    name = variable()
    return [*found, (f"${name}", os.environ[name])] if name else found


def describe(error: OSError) -> str:
    """What the system refused, in one sentence: the thing, why, and the next step."""
    names = [str(name) for name in (error.filename, error.filename2) if name is not None]
    thing = " -> ".join(names) or "a file or a process of this command"
    why = error.strerror or str(error) or type(error).__name__
    return f"{thing}: {why}; {REMEDIES.get(error.errno or 0, CHECK)}"


def _complain(message: str, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps({"event": "error", "message": message}), flush=True)
    else:
        print("\n".join(f"error: {line}" for line in message.splitlines()), file=sys.stderr)
