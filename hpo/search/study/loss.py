"""What to say, and what to keep, if a study or the file it lies in is lost while it is used."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import optuna
from sqlalchemy import URL

from hpo.errors import HpoError, StorageError
from hpo.search.database.file_watch import FileLostError
from hpo.search.database.redaction import redacted, shown_path
from hpo.search.study import portable
from hpo.search.study.budget import IDENTITY


@contextmanager
def loss_explained(study: optuna.Study, url: URL, folder: Path) -> Iterator[None]:
    """Turns whatever a lost study makes of the code inside into one sentence.

    Args:
        folder: where the copy of a study goes whose file was removed.

    Raises:
        StorageError: the study was deleted, or its database's file removed or replaced.
    """
    identity = study.user_attrs.get(IDENTITY)
    try:
        yield
    except FileLostError as error:
        raise StorageError(f"{error}; {_kept(study, url, folder)}") from error
    except HpoError:
        raise
    except Exception as error:
        if _is_there(study, identity):
            raise
        raise StorageError(
            f"database {redacted(url)}: the study {study.study_name} was deleted while it ran; "
            f"the same command begins it again, with another --runs-dir than {folder.parent}, or "
            f"without its old folder {folder}"
        ) from error


def _kept(study: optuna.Study, url: URL, folder: Path) -> str:
    """Writes the copy from the file that is still open; what to do with it."""
    if problem := portable.write_copy(study, folder):
        return problem
    copy, path = folder / portable.FILE, shown_path(url.database or "")
    return (
        f"all of the study until now is in {copy}: copy it to {path}, with no -wal file next to "
        "it, and the same command continues"
    )


def _is_there(study: optuna.Study, identity: str | None) -> bool:
    """Whether the database has the study, or cannot say."""
    try:
        return study.user_attrs.get(IDENTITY) == identity
    except KeyError:
        return False
    except Exception:
        return True
