"""Puts the TOML files into the package, where an installed one finds them; see pyproject.toml.

A `package-dir` that maps them there would do, too, but then setuptools makes editable installs by
an import hook instead of a path, and a folder `hpo` in the working directory wins over a hook.
"""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

TABLES = ("search_spaces", "studies")


class BuildWithTables(build_py):
    """Copies the folders of TOML files next to the modules; an editable install reads ours."""

    def run(self) -> None:
        """Builds the modules, then copies."""
        super().run()
        if self.editable_mode:
            return
        for name in TABLES:
            target = Path(self.build_lib, "hpo", name)
            shutil.copytree(name, target, dirs_exist_ok=True)


setup(cmdclass={"build_py": BuildWithTables})
