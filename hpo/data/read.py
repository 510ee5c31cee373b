"""The one way to the examples of a study, whatever their format."""

import importlib

from hpo.data.examples import Examples
from hpo.errors import DataError
from hpo.specs import DataSpec
from hpo.units import show_name


def read_examples(data: DataSpec) -> Examples:
    """Reads and splits the examples: `hpo.data.<format>` knows how.

    Raises:
        MissingError: the folder or the captions are not there.
        DataError: captions or images are broken or not readable; names the first ones.
    """
    reader = importlib.import_module(f"hpo.data.{data.format}")
    try:
        examples: Examples = reader.read(data)
    except OSError as error:
        name = show_name(str(error.filename or data.root))
        raise DataError(
            f"data {name}: cannot be read: {error.strerror}; give a path that exists and that this "
            "user may read, with --data PATH"
        ) from error
    return examples
