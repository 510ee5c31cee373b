"""The one way to the examples of a study, whatever their format."""

import importlib

from hpo.data.examples import Examples
from hpo.specs import DataSpec


def read_examples(data: DataSpec) -> Examples:
    """Reads and splits the examples: `hpo.data.<format>` knows how.

    Raises:
        MissingError: the folder or the captions are not there.
        DataError: captions or images are broken; names the first ones.
    """
    reader = importlib.import_module(f"hpo.data.{data.format}")
    examples: Examples = reader.read(data)
    return examples
