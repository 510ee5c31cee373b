"""The README says what is there: every option, every outcome, every file."""

import re
import subprocess
import sys

import pytest

from hpo.search.ledger.outcomes import CONSEQUENCES
from hpo.specs import Outcome
from tests.commands import REPOSITORY, environment

README = (REPOSITORY / "README.md").read_text()


def tree():
    """Path -> description of the README's file tree."""
    block = next(part for part in README.split("```")[1::2] if "specs.py" in part)
    found, folders = {}, []
    for line in block.splitlines():
        depth = (len(line) - len(line.lstrip())) // 2
        name, _, what = line.strip().partition(" ")
        folders = [*folders[:depth], name]
        found["".join(folders)] = what.strip()
    return found


def test_the_two_commands_open_the_readme():
    first = README.split("```")[1]
    assert [line.split("#")[0].strip() for line in first.strip().splitlines()] == [
        "make run",
        "make test",
    ]


@pytest.fixture(scope="module")
def shown():
    """What --help prints."""
    return subprocess.run(
        [sys.executable, "-m", "hpo.run", "--help"],
        capture_output=True,
        text=True,
        check=True,
        cwd=REPOSITORY,
        env=environment(),
    ).stdout


def test_every_option_is_documented(shown):
    options = set(re.findall(r"--[a-z][a-z-]+", shown)) - {"--help"}
    assert len(options) > 12
    for option in options:
        assert f"`{option}`" in README, option


def test_help_has_examples(shown):
    assert "Examples:" in shown and "--dry-run" in shown


def test_every_outcome_is_in_the_table_with_its_state():
    rows = dict(re.findall(r"^\| `(\w+)` \| (\w+) \|", README, re.MULTILINE))
    assert rows == {str(o): CONSEQUENCES[o].state.name for o in Outcome}


def test_every_test_that_the_readme_names_is_there():
    named = set(re.findall(r"`(test_\w+)`", README))
    there = {path.stem for path in (REPOSITORY / "tests").rglob("test_*.py")}
    assert len(named) > 10 and named <= there, named - there


def test_the_file_tree_names_every_file_with_a_line():
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "hpo"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    wanted = {f for f in listed if f.endswith(".py") and not f.endswith("__init__.py")}
    described = tree()
    assert wanted - described.keys() == set()
    files = {path for path in described if path.endswith(".py")}
    assert files - wanted == set(), "the tree names files that are gone"
    assert all(described[path] for path in wanted)
