"""Everything that can go wrong on purpose.

    HpoError                    the user can mend it: one sentence, exit code 2
    ├── FileProblems            a study or search space file, a --set, an option; all at once
    ├── MissingError            weights, data or a device that is not there
    ├── ModelError              parts of a model that are broken or do not fit
    ├── StorageError            the database: unreachable, of another version, without a driver
    ├── FingerprintError        the stored study is not comparable with this one
    ├── DataError               captions or images that cannot be read
    └── UnpackableError         trials that cannot share a forward pass

A message names the thing, the value, what is allowed and the next step. None holds a password:
whoever puts a database URL into a message redacts it first.
"""


class HpoError(Exception):
    """A problem that the user can mend; its text is all that they need to see."""


class FileProblems(HpoError):
    """Everything that is wrong in the files and options of a study, found in one pass."""

    def __init__(self, problems: list[str]) -> None:
        self.problems = problems
        super().__init__("\n".join(problems))


class MissingError(HpoError):
    """Weights, data or a device that the study asks for and this machine lacks."""


class ModelError(HpoError):
    """A model's files are not what they seem, or its parts do not fit each other or the data."""


class StorageError(HpoError):
    """The database cannot be used as it is."""


class FingerprintError(HpoError):
    """The stored study differs in something that makes values incomparable."""


class DataError(HpoError):
    """Captions or images that are missing or broken."""


class UnpackableError(HpoError):
    """What is adapted does not tell the rows of one trial from those of another."""
