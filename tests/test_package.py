"""What travels in the wheel, and that it works from any folder."""

import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

from tests.commands import REPOSITORY


def clone(target):
    subprocess.run(["git", "clone", "-q", str(REPOSITORY), str(target)], check=True)
    return target


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    source = clone(folder / "source")
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation",
         "--disable-pip-version-check", "-w", str(folder), str(source)],
        check=True,
    )  # fmt: skip
    return next(folder.glob("*.whl"))


def test_the_wheel_holds_every_module_study_space_and_the_base(wheel):
    held = set(zipfile.ZipFile(wheel).namelist())
    listed = subprocess.run(
        ["git", "ls-files", "hpo", "studies", "search_spaces"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    wanted = {path if path.startswith("hpo/") else f"hpo/{path}" for path in listed}
    assert wanted - held == set()
    assert "hpo/mini/answerer/model.safetensors" in held
    assert "hpo/mini/captioner/model.safetensors" in held
    assert "hpo/mini/classifier/model.safetensors" in held


def test_an_installed_package_finds_its_studies_from_any_folder(wheel, tmp_path):
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    (tmp_path / "elsewhere").mkdir()
    code = "from hpo.files import *; print(load_study('rsicap', Options(scale='mini')).name)"
    done = subprocess.run(
        [sys.executable, "-P", "-c", code],
        cwd=tmp_path / "elsewhere",
        env={"PYTHONPATH": str(tmp_path / "site"), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "rsicap-mini\n"


BUILDS = "import setuptools.build_meta as backend; backend.{}({!r})"


def build(source, kind, target):
    """What setuptools, called as pip calls it, builds of a clone."""
    code = BUILDS.format(kind, str(target))
    subprocess.run([sys.executable, "-c", code], cwd=source, check=True, capture_output=True)
    return next(path for path in target.iterdir() if path.suffix in (".whl", ".gz"))


@pytest.mark.parametrize("folder", ["the parent of the clone", "a folder with a folder hpo"])
def test_an_editable_install_is_found_next_to_a_folder_of_its_name(tmp_path, folder):
    source, environment = clone(tmp_path / "hpo"), tmp_path / "environment"
    venv.create(environment)
    site = Path(sysconfig.get_path("purelib", vars={"base": str(environment)}))
    (tmp_path / "wheels").mkdir()
    with zipfile.ZipFile(build(source, "build_editable", tmp_path / "wheels")) as archive:
        archive.extractall(site)
    (site / "libraries.pth").write_text(sysconfig.get_path("purelib"))
    where = tmp_path
    if folder != "the parent of the clone":
        where = tmp_path / "elsewhere"
        (where / "hpo" / "training").mkdir(parents=True)
    done = subprocess.run(
        [environment / "bin" / "python", "-m", "hpo.run", "--study", "rsicup"],
        cwd=where,
        env={"PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
    )
    assert "did you mean rsicap?" in done.stderr and done.returncode == 2, done.stderr


def test_a_source_distribution_holds_the_studies_and_search_spaces(tmp_path):
    (tmp_path / "built").mkdir()
    archive = build(clone(tmp_path / "source"), "build_sdist", tmp_path / "built")
    names = {name.partition("/")[2] for name in tarfile.open(archive).getnames()}
    assert {"studies/rsicap.toml", "search_spaces/lora.toml", "setup.py"} <= names
