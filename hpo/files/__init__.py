"""TOML files and options -> specs: strict keys, every problem at once, with file, key and value."""

from hpo.files.load import Options, load_study

__all__ = ["Options", "load_study"]
