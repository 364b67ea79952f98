"""New projects have the right files, train and pass the checks."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import detrex_lite
from detrex_lite.config import LazyConfig, validate
from detrex_lite.data import generate_shapes
from detrex_lite.skeleton import SkeletonError, read_source, source_names, write_project
from detrex_lite.skeleton.layout import files_of, layout_in_repository
from detrex_lite.testing import build, changed, make_batch

ROOT = Path(__file__).resolve().parents[2]
QUICK = [
    "train.max_iter=2",
    "train.eval_period=2",
    "train.checkpointer.period=2",
    "dataloader.train.total_batch_size=2",
]
RUFF = [sys.executable, "-m", "ruff"]


def run(command, cwd, *, path=(), mypy_path=""):
    """Run a command that must succeed, with folders at the start of PYTHONPATH; returns its output."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, path)), "MYPYPATH": str(mypy_path)}
    result = subprocess.run(
        list(map(str, command)), cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, (result.stdout + result.stderr)[-4000:]
    return result.stdout


@pytest.fixture
def restored_imports(monkeypatch):
    """Restore `sys.path` and the imported modules after the test."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        del sys.modules[name]


def test_a_new_package_is_complete_and_trains(tmp_path, monkeypatch, restored_imports):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")  # configs find their package from any folder
    project = write_project("my_detr", "detr", tmp_path / "research")
    assert project.folder == tmp_path / "research/my_detr"
    assert set(project.files) == {file for file in project.folder.rglob("*") if file.is_file()}
    assert "--trust my_detr" in (project.folder / "README.md").read_text()
    cfg = LazyConfig.load(project.folder / "configs/my_detr_small_shapes.py")
    validate(cfg)
    assert cfg.model.num_classes == 3
    assert cfg.model.embed_dim == 128  # the value of the small DETR
    assert cfg.train.trusted == ["my_detr"]
    small = {"num_classes": 5, "num_queries": 7, "embed_dim": 32, "position_embedding.num_pos_feats": 16}
    model = build(changed(cfg.model, small)).train()
    assert type(model).__module__ == "my_detr.modeling.my_detr"
    losses = model(make_batch())
    assert losses["loss_centre"] > 0
    assert losses["loss_centre_0"] > 0
    cfg.model.criterion.weights.loss_centre = 0.0
    with torch.no_grad():
        (detections, *_) = model.eval()(make_batch())
    assert len(detections["instances"]) > 0


def test_a_project_of_the_repository_refers_to_existing_configs():
    files = files_of(layout_in_repository("my_detr", ROOT), read_source("dab_detr"))
    assert "projects/my_detr/card.py" in files
    assert "tests/projects/test_my_detr.py" in files
    model = files["projects/my_detr/configs/models/my_detr_small.py"]
    # The model is made small here, since the source has no small config.
    assert 'get_config("projects/dab_detr/configs/models/dab_detr_r50.py")' in model
    assert 'get_config("common/small_single_level.py").small' in model
    assert "from detrex_lite.projects.my_detr.modeling import CentreLoss, MyDETR" in model
    leaf = files["projects/my_detr/configs/my_detr_small_shapes.py"]
    assert "detrex-lite train projects/my_detr/configs/my_detr_small_shapes.py" in leaf
    assert "trusted" not in leaf


def test_read_source_describes_a_project():
    dino, detr = read_source("dino"), read_source("detr")
    assert (dino.title, dino.class_name, dino.multi_scale) == ("DINO", "DINO", True)
    assert (dino.test_changes["denoising.num_pairs"], dino.num_groups) == (6, 3)
    assert (detr.multi_scale, detr.num_groups, detr.shrink) == (False, None, None)
    assert read_source("dn_detr").num_groups == 5
    assert read_source("rtdetr").class_module == "detrex_lite.projects.dino.modeling"
    assert len(source_names()) > 20


@pytest.mark.parametrize(
    ("name", "source", "message"),
    [
        ("My-DETR", "dino", "'My-DETR' cannot be .*'my_detr' is valid"),
        ("class", "dino", "'class' cannot be the name"),
        ("a" * 26, "dino", "2 to 25"),
        ("dino", "detr", "project 'dino' already"),
        ("centre_loss", "detr", "'centre_loss' .*CentreLoss"),
        ("json", "detr", r"a module 'json' already \(.*json"),
        ("there", "detr", "there exists already"),
        ("my_detr", "dion", "no project 'dion'; did you mean 'dino'"),
        ("my_detr", "DINO", "no project 'DINO'; did you mean 'dino'"),
        ("my_detr", "faster_rcnn", "no project 'faster_rcnn'; choices: align_detr"),
        ("my_detr", "deim", "'deim' has no model that trains .*choices: align_detr"),
        ("my_detr", "../detr", r"no project '\.\./detr'"),
    ],
)
def test_invalid_names_and_sources_raise(name, source, message, tmp_path):
    (tmp_path / "there").mkdir()
    with pytest.raises(SkeletonError, match=message):
        write_project(name, source, tmp_path)
    assert list(tmp_path.iterdir()) == [tmp_path / "there"]


def test_writing_into_a_file_raises(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(SkeletonError, match="file is not a folder"):
        write_project("my_detr", "detr", tmp_path / "file")


def test_the_default_folder_is_the_working_folder_or_the_repository(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert write_project("my_detr", "detr").folder == tmp_path / "my_detr"
    root = tmp_path / "clone"
    (root / "tests/projects").mkdir(parents=True)
    for folder in ("docs", "projects"):
        (root / folder).mkdir()
    for path in ("configs", "projects/detr", "projects/dino"):
        (root / path).symlink_to(ROOT / path)
    monkeypatch.setattr(detrex_lite, "SHIPPED_IN", root)
    monkeypatch.chdir(root / "docs")
    assert write_project("my_detr", "detr").folder == root / "projects/my_detr"
    assert (root / "tests/projects/test_my_detr.py").is_file()
    assert write_project("my_other", "detr", tmp_path).folder == tmp_path / "my_other"


@pytest.mark.slow
@pytest.mark.parametrize("source", ["detr", "dino", "rtdetr"])
def test_a_new_package_trains_on_shapes_passes_its_tests_and_predicts(source, tmp_path):
    write_project("my_detr", source, tmp_path)
    generate_shapes(tmp_path / "output/shapes", num_train=4, num_val=2, image_size=64)
    program = [sys.executable, "-m", "detrex_lite"]
    config = "my_detr/configs/my_detr_small_shapes.py"
    run([*program, "train", "--config-file", config, *QUICK], tmp_path, path=[ROOT])
    output = tmp_path / "output/my_detr_small_shapes"
    predict = ["--config-file", output / "config.yaml", "--weights", output / "model_final.pth", "--trust", "my_detr"]
    run([*program, "predict", *predict, tmp_path / "output/shapes/images/val"], tmp_path, path=[ROOT])
    tests = [sys.executable, "-m", "pytest", "-q", "-W", "error::pytest.PytestUnknownMarkWarning", "-m", "not slow"]
    run([*tests, "-p", "no:cacheprovider", "my_detr"], tmp_path, path=[ROOT])
    run([*RUFF, "check", "--isolated", "--no-cache", "--line-length=120", "--select=E,F,I,RUF,UP", "."], tmp_path)
    run([*RUFF, "format", "--isolated", "--no-cache", "--line-length=120", "--check", "."], tmp_path)
    package = tmp_path / "types/detrex_lite"  # the layout of an installed package, in which type checkers find projects
    package.mkdir(parents=True)
    for part in [*(ROOT / "detrex_lite").iterdir(), *(ROOT / name for name in ("projects", "configs", "tools"))]:
        (package / part.name).symlink_to(part)
    mypy = [sys.executable, "-m", "mypy", "--cache-dir", tmp_path / "cache", "--ignore-missing-imports"]
    run([*mypy, "--follow-imports=silent", "-p", "my_detr"], tmp_path, mypy_path=package.parent)


@pytest.mark.slow
@pytest.mark.parametrize("source", ["detr", "dino", "rtdetr"])
def test_a_new_project_of_a_clone_passes_the_checks_of_the_repository(source, tmp_path):
    clone = tmp_path / "clone"
    for part in ("detrex_lite", "projects", "configs", "tools", "tests", "docs", ".ci"):
        shutil.copytree(ROOT / part, clone / part, ignore=shutil.ignore_patterns("__pycache__", "output"))
    shutil.copy(ROOT / "pyproject.toml", clone)
    shutil.copy(ROOT / "CONTRIBUTING.md", clone)
    run([sys.executable, "-m", "detrex_lite", "new", "my_detr", "--from", source], clone, path=[clone])
    print_description = "from detrex_lite.tools.benchmark.overview import *; print(read_projects(Path('projects')))"
    assert "title='MyDETR'" in run([sys.executable, "-c", print_description], clone, path=[clone])
    tests = ["test_my_detr.py", "test_configs.py", "test_readmes.py"]
    pytest_command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "my_detr or every_project"]
    run([*pytest_command, *(clone / "tests/projects" / name for name in tests)], clone, path=[clone])
    for check in (["check"], ["format", "--check"]):
        run([*RUFF, *check, "--no-cache", clone / "projects", clone / "tests/projects"], clone)
