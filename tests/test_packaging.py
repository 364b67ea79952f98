"""The wheel holds everything that users run, and works away from the repository."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SHIPPED = ("projects", "configs", "tools")
NOT_SHIPPED = ("tools", "benchmark")
BUILD = "import sys; from setuptools import build_meta; print(build_meta.build_wheel(sys.argv[1]))"

pytestmark = pytest.mark.slow


def run(command: list[str], cwd: Path, **environment: str) -> str:
    done = subprocess.run(
        command, cwd=cwd, env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    pytest.importorskip("setuptools", minversion="70.1", reason="building without network needs setuptools")
    folder = tmp_path_factory.mktemp("wheel")
    # A copy, since building writes into the tree; its own files only, as a fresh clone has them.
    for part in ("detrex_lite", *SHIPPED, "tests"):
        shutil.copytree(ROOT / part, folder / "source" / part, ignore=shutil.ignore_patterns("__pycache__", "output"))
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / "source")
    run([sys.executable, "-c", BUILD, str(folder)], cwd=folder / "source")
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    target = tmp_path_factory.mktemp("installed")
    pip = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--no-index",
        "--target",
        str(target),
    ]
    run([*pip, str(wheel)], cwd=target)
    return target


@pytest.fixture
def python(installed, tmp_path):
    """Runs Python in an empty folder that knows the installed wheel and not the repository."""

    def run_python(*arguments: str) -> str:
        return run([sys.executable, *arguments], cwd=tmp_path, PYTHONPATH=str(installed))

    return run_python


def test_the_wheel_is_for_any_machine_and_holds_every_module(wheel):
    assert wheel.name.endswith("-py3-none-any.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    wanted = {f"detrex_lite/{file.relative_to(ROOT / 'detrex_lite')}" for file in ROOT.glob("detrex_lite/**/*.py")}
    for folder in SHIPPED:
        files = {file.relative_to(ROOT) for file in ROOT.glob(f"{folder}/**/*.py") if "output" not in file.parts}
        files = {file for file in files if file.parts[:2] != NOT_SHIPPED}
        assert files
        wanted |= {f"detrex_lite/{file}" for file in files}
    wanted |= {f"detrex_lite/{file.relative_to(ROOT)}" for file in ROOT.glob("projects/*/README.md")}
    wanted.add("detrex_lite/py.typed")
    assert wanted - names == set()
    assert not [name for name in names if "/".join(NOT_SHIPPED) in name]


def test_the_wheel_holds_the_licence_and_nothing_of_the_tests(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert any(name.endswith("/LICENSE") and ".dist-info/" in name for name in names)
    assert [name for name in names if "test" in Path(name).parts[0] or "/tests/" in name] == []
    assert [name for name in names if "__pycache__" in name] == []
    assert {name.split("/")[0].split("-")[0] for name in names} == {"detrex_lite"}


def test_the_installed_package_is_the_one_that_is_imported(python, installed):
    where = python("-c", "import detrex_lite; print(detrex_lite.__file__)")
    assert Path(where.strip()) == installed / "detrex_lite" / "__init__.py"


def test_projects_and_configs_work_from_any_folder(python, installed):
    code = """
import inspect
import detrex_lite.projects.detr.modeling as modeling
from detrex_lite.config import LazyConfig, get_config
model = get_config("projects/detr/configs/models/detr_r50.py").model
assert model.num_queries == 100, model.num_queries
assert "optimizer" in LazyConfig.load("projects/detr/configs/detr_r50_300ep.py")
assert get_config("common/train.py").train.device
print(inspect.getfile(modeling))
"""
    assert python("-c", code).strip().startswith(str(installed))


def test_the_tools_run_as_modules(python):
    assert "--config-file" in python("-m", "detrex_lite.tools.train_net", "--help")
    assert "max_iter" in python("-m", "detrex_lite.config", "projects/detr/configs/detr_r50_300ep.py")
