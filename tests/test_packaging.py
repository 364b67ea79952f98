"""Wheel and source distribution contain the right files, are built without git, and work outside the repository."""

import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
import yaml

import detrex_lite

ROOT = Path(__file__).resolve().parent.parent
SHIPPED = ("projects", "configs", "tools")
NOT_SHIPPED = ("tools", "benchmark")
BUILD = "import sys; from setuptools import build_meta as build; print(build.build_{}(sys.argv[1]))"


def run(command: list[str], cwd: Path, **environment: str) -> str:
    result = subprocess.run(
        command, cwd=cwd, env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """A copy of the repository without git, as in an archive of a commit. Building writes into the tree."""
    pytest.importorskip("setuptools", minversion="70.1", reason="building without network needs setuptools")
    folder = tmp_path_factory.mktemp("source")
    for part in ("detrex_lite", *SHIPPED, "tests", "docs", ".ci", ".github"):
        shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__", "output"))
    for path in ROOT.iterdir():
        if path.is_file() and path.name != ".git":
            shutil.copy(path, folder)
    return folder


def build(kind: str, source: Path, folder: Path) -> Path:
    """Build a `wheel` or an `sdist` in a folder."""
    name = run([sys.executable, "-c", BUILD.format(kind), str(folder)], cwd=source).splitlines()[-1]
    return folder / name


@pytest.fixture(scope="module")
def wheel(source, tmp_path_factory) -> Path:
    return build("wheel", source, tmp_path_factory.mktemp("wheel"))


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
    """A function that runs Python in an empty folder with the installed wheel, without the repository."""

    def run_python(*arguments: str) -> str:
        return run([sys.executable, *arguments], cwd=tmp_path, PYTHONPATH=str(installed))

    return run_python


@pytest.mark.slow
def test_the_source_distribution_contains_the_repository_and_builds_the_same_wheel(source, wheel, tmp_path):
    packed = build("sdist", source, tmp_path)
    with tarfile.open(packed) as archive:
        archive.extractall(tmp_path, filter="data")
    unpacked = tmp_path / packed.name.removesuffix(".tar.gz")
    created_by_the_build = {"PKG-INFO", "setup.cfg", "build", "detrex_lite.egg-info"}
    for tree in (source, unpacked):
        shutil.rmtree(tree / "build", ignore_errors=True)
    assert files_of(unpacked, created_by_the_build) == files_of(source, created_by_the_build)
    rebuilt = build("wheel", unpacked, tmp_path / "rebuilt")
    assert sorted(zipfile.ZipFile(rebuilt).namelist()) == sorted(zipfile.ZipFile(wheel).namelist())


def files_of(folder: Path, without: set[str]) -> set[str]:
    files = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return {str(path) for path in files if path.parts[0] not in without and "__pycache__" not in path.parts}


def test_the_citation_names_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == detrex_lite.__version__
    assert {"cff-version", "message", "title", "authors"} <= set(citation)


def test_the_workflow_runs_the_local_checks():
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())
    commands = [step["run"] for job in workflow["jobs"].values() for step in job["steps"] if "run" in step]
    assert commands == [".ci/run", "make docs"]
    assert os.access(ROOT / ".ci/run", os.X_OK)
    oldest = workflow["jobs"]["test"]["strategy"]["matrix"]["python-version"][0]
    assert re.search(r'python_requires=">=(.+?)"', (ROOT / "setup.py").read_text())[1] == oldest


@pytest.mark.parametrize(
    "form", sorted((ROOT / ".github/ISSUE_TEMPLATE").glob("[!c]*.yml")), ids=lambda path: path.stem
)
def test_issue_forms_have_the_required_fields(form):
    content = yaml.safe_load(form.read_text())
    assert {"name", "description", "body"} <= set(content)
    fields = [field for field in content["body"] if field["type"] != "markdown"]
    assert all(field["id"] and field["attributes"]["label"] for field in fields)
    assert any(field.get("validations", {}).get("required") for field in fields)


@pytest.mark.slow
def test_the_wheel_is_pure_python_and_contains_every_module(wheel):
    assert wheel.name.endswith("-py3-none-any.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    expected = {f"detrex_lite/{file.relative_to(ROOT / 'detrex_lite')}" for file in ROOT.glob("detrex_lite/**/*.py")}
    for folder in SHIPPED:
        files = {file.relative_to(ROOT) for file in ROOT.glob(f"{folder}/**/*.py") if "output" not in file.parts}
        files = {file for file in files if file.parts[:2] != NOT_SHIPPED}
        assert files
        expected |= {f"detrex_lite/{file}" for file in files}
    expected |= {f"detrex_lite/{file.relative_to(ROOT)}" for file in ROOT.glob("projects/*/README.md")}
    expected |= {str(file.relative_to(ROOT)) for file in ROOT.glob("detrex_lite/skeleton/templates/*")}
    expected.add("detrex_lite/py.typed")
    assert expected - names == set()
    assert not [name for name in names if "/".join(NOT_SHIPPED) in name]


@pytest.mark.slow
def test_the_wheel_contains_the_licence_and_no_tests(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert any(name.endswith("/LICENSE") and ".dist-info/" in name for name in names)
    assert [name for name in names if "test" in Path(name).parts[0] or "/tests/" in name] == []
    assert [name for name in names if "__pycache__" in name] == []
    assert {name.split("/")[0].split("-")[0] for name in names} == {"detrex_lite"}


@pytest.mark.slow
def test_python_imports_the_installed_package(python, installed):
    path = python("-c", "import detrex_lite; print(detrex_lite.__file__)")
    assert Path(path.strip()) == installed / "detrex_lite" / "__init__.py"


@pytest.mark.slow
def test_the_installed_package_finds_a_new_project_in_the_current_folder(python, tmp_path):
    output = python("-m", "detrex_lite", "new", "my_detr", "--from", "detr")
    assert f"files into {tmp_path.resolve()}" in output
    config = "my_detr/configs/my_detr_small_shapes.py"
    printed = python("-m", "detrex_lite", "config", config, "--key", "model.criterion.losses.loss_centre")
    assert "_target_: my_detr.modeling.CentreLoss" in printed


@pytest.mark.slow
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


@pytest.mark.slow
def test_the_tools_run_as_modules(python):
    assert "--config-file" in python("-m", "detrex_lite.tools.train_net", "--help")
    assert "max_iter" in python("-m", "detrex_lite.config", "projects/detr/configs/detr_r50_300ep.py")
