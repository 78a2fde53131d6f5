"""The wheel: it holds everything, spills nothing into site-packages, and runs away from the checkout."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.xdist_group("wheel")  # built once
ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PACKAGES = PROJECT["tool"]["setuptools"]["package-dir"]
WHERE = """
import importlib.util, pathlib, deadheat
from deadheat import accelerators, measure, pipelines, presets
for module in (deadheat, accelerators, measure, pipelines, presets):
    print(module.__file__)
print(importlib.util.find_spec("deadheat.app").origin)
print(*pathlib.Path(deadheat.__file__).parent.glob("assets/pocket-dit/model_index.json"))
"""


def lines(path: Path) -> list[str]:
    """The requirements in a file."""
    stripped = (line.split("#")[0].strip() for line in path.read_text().splitlines())
    return [line for line in stripped if line]


def names(requirements: list[str]) -> set[str]:
    return {re.split(r"[\s<>=!~;\[]", requirement)[0] for requirement in requirements}


def test_a_space_installs_what_the_project_needs():
    assert lines(ROOT / "requirements.txt") == PROJECT["project"]["dependencies"]


def test_the_tested_versions_cover_every_dependency():
    extras = PROJECT["project"]["optional-dependencies"]
    needed = names([*PROJECT["project"]["dependencies"], *extras["test"], *extras["dev"]])
    pinned = names([*lines(ROOT / "constraints" / "tested.txt"), *lines(ROOT / "constraints" / "cpu.txt")])
    assert needed <= pinned


def test_every_folder_is_mapped():
    assert set(PACKAGES) == set(PROJECT["tool"]["setuptools"]["packages"])
    assert all((ROOT / folder).is_dir() for folder in PACKAGES.values())


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built from a copy, so that no build folder of the checkout gets in and none is left there."""
    copy = tmp_path_factory.mktemp("checkout")
    for folder in PACKAGES.values():
        shutil.copytree(ROOT / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for path in ROOT.glob("*.*"):
        if path.suffix in {".py", ".toml", ".md", ".txt"}:
            shutil.copy(path, copy)
    shutil.copy(ROOT / "LICENSE", copy)
    build = "from setuptools import build_meta; build_meta.build_wheel('dist')"
    subprocess.run([sys.executable, "-c", build], cwd=copy, check=True, capture_output=True, text=True)
    (built,) = (copy / "dist").glob("*.whl")
    return built


def test_the_wheel_holds_everything(wheel: Path):
    held = set(zipfile.ZipFile(wheel).namelist())
    for package, folder in PACKAGES.items():
        for pattern in ("*.py", "*.toml", "*.json", "*.safetensors", "py.typed"):
            for path in (ROOT / folder).rglob(pattern):
                assert f"{package.replace('.', '/')}/{path.relative_to(ROOT / folder).as_posix()}" in held
    assert "deadheat/app.py" in held
    assert {name.split("/")[0] for name in held} == {"deadheat", f"deadheat-{PROJECT['project']['version']}.dist-info"}


def test_the_wheel_runs_elsewhere(wheel: Path, tmp_path: Path):
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    command = [sys.executable, "-c", WHERE]
    ran = subprocess.run(
        command,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path / "site")},
        check=False,
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr
    found = ran.stdout.split()
    assert len(found) == 7
    assert all(path.startswith(str(tmp_path / "site")) for path in found)
