"""Examples of a study: read or drawn, and split. Knows neither torch nor Optuna.

The driver reads them to check a study before anything starts; runners read them to train.
"""

from hpo.data.examples import Example, Examples
from hpo.data.read import read_examples

__all__ = ["Example", "Examples", "read_examples"]
