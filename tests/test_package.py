"""What travels in the wheel, and that it works from any folder."""

import subprocess
import sys
import zipfile

import pytest

from tests.commands import REPOSITORY


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    subprocess.run(["git", "clone", "-q", str(REPOSITORY), str(source)], check=True)
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
