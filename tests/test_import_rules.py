"""Imports flow one way, optional packages stay optional, and importing the package stays cheap."""

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# A part of the package may import parts of its own level and of those above it in this list, without cycles. A dotted
# name is a folder of a part that has a separate level: the modules that accelerate blocks extend them.
LEVELS = (
    {
        "errors",
        "coco_classes",
        "devices",
        "distributed",
        "foreign_names",
        "metrics_file",
        "phases",
        "photographs",
        "results",
        "scalars",
        "structures",
        "ops",
    },
    {"cli", "layers"},
    {"ops.cpu"},
    {"modeling", "data", "analysis", "evaluation", "checkpoint", "visualization", "config"},
    {"inference"},
    {"engine", "zoo", "skeleton"},
    {"env"},
    {"commands"},
    {"projects", "configs"},
    {"testing"},
    {"tools"},
)
LEVEL = {part: level for level, parts in enumerate(LEVELS) for part in parts}

# The packages that setup.py requires, by their import names; PyYAML comes with omegaconf.
REQUIRED = {
    "torch",
    "torchvision",
    "numpy",
    "scipy",
    "pycocotools",
    "fvcore",
    "omegaconf",
    "yaml",
    "PIL",
    "tqdm",
    "safetensors",
    "filelock",
    "tensorboard",
    "matplotlib",
}
# Modules that need an optional package, and are imported inside functions only.
ON_DEMAND = {f"detrex_lite.ops.deformable_attention.{name}" for name in ("triton_kernels", "triton_ops")}
ON_DEMAND.add("detrex_lite.engine.detectron2_engine")
# The modules for detectron2; no others import it.
WITH_DETECTRON2 = {
    "detrex_lite.engine.arguments",
    "detrex_lite.engine.detectron2_engine",
    "detrex_lite.data.detectron2_catalog",
    "detrex_lite.evaluation.detectron2_evaluator",
}
# Additional packages of a part that no other part imports: other repositories import it in their tests.
REQUIRED_BY = {"testing": {"pytest"}}
HEAVY = {"torchvision", "matplotlib", "scipy", "pycocotools", "tensorboard"}


def imported_names(source: str, module: str, is_package: bool, at_import_only: bool = False) -> Iterator[str]:
    """Dotted names that a module imports; with `at_import_only`, without the imports inside functions."""
    package = module.split(".") if is_package else module.split(".")[:-1]
    pending: list[ast.AST] = [ast.parse(source)]
    while pending:
        node = pending.pop()
        if at_import_only and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        pending += ast.iter_child_nodes(node)
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            stem = [*base, *(node.module.split(".") if node.module else [])]
            # A name imported from the package itself, or from `projects`, may be a module.
            yield from (".".join([*stem, alias.name]) for alias in node.names)


def modules() -> dict[str, Path]:
    """Dotted name -> file of all modules in the wheel."""
    files = {_dotted(file.relative_to(ROOT)): file for file in ROOT.glob("detrex_lite/**/*.py")}
    for folder in ("projects", "configs", "tools"):
        for file in ROOT.glob(f"{folder}/**/*.py"):
            files["detrex_lite." + _dotted(file.relative_to(ROOT))] = file
    return files


def _dotted(path: Path) -> str:
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def names_of(module: str, file: Path, at_import_only: bool = False) -> set[str]:
    return set(imported_names(file.read_text(), module, file.name == "__init__.py", at_import_only))


def part_of(name: str) -> str | None:
    """The part of the package that a dotted name lies in; None outside the package and at its top."""
    pieces = name.split(".")
    if pieces[0] != "detrex_lite":
        return None
    candidates = (".".join(pieces[1:length]) for length in (3, 2))  # first a folder with a separate level
    return next((part for part in candidates if part in LEVEL), None)


def dependencies() -> dict[str, set[str]]:
    """Part of the package -> the other parts that it imports."""
    result: dict[str, set[str]] = {part: set() for part in LEVEL}
    for module, file in modules().items():
        part = part_of(module)
        if part is not None:
            result[part] |= {name for name in map(part_of, names_of(module, file)) if name is not None and name != part}
    return result


def project_of(name: str) -> str | None:
    pieces = name.split(".")
    return pieces[2] if pieces[:2] == ["detrex_lite", "projects"] and len(pieces) > 2 else None


def test_every_part_of_the_package_has_a_level():
    parts = {module.split(".")[1] for module in modules() if "." in module}
    assert parts - {"__main__"} <= set(LEVEL), "add the new part to LEVELS"


def test_parts_do_not_import_from_later_levels():
    wrong = {
        f"{part} imports {imported}"
        for part, imports in dependencies().items()
        for imported in imports
        if LEVEL[imported] > LEVEL[part]
    }
    assert not wrong


def test_parts_of_one_level_have_no_import_cycles():
    open_parts = dependencies()
    while True:
        free = {part for part, imports in open_parts.items() if not imports & set(open_parts)}
        if not free:
            break
        open_parts = {part: imports for part, imports in open_parts.items() if part not in free}
    assert not open_parts


def test_config_imports_only_errors_foreign_names_and_cli():
    """`cli` is for `python -m detrex_lite.config`."""
    assert dependencies()["config"] <= {"errors", "foreign_names", "cli"}


def test_the_command_line_imports_only_errors():
    """Help and errors about arguments must not have to import torch."""
    assert dependencies()["cli"] == {"errors"}


def test_a_project_imports_at_most_one_other_project():
    imports: dict[str, set[str]] = {}
    for module, file in modules().items():
        project = project_of(module)
        if project is not None:
            imported = {project_of(name) for name in names_of(module, file)} - {project, None}
            imports.setdefault(project, set()).update(name for name in imported if (ROOT / "projects" / name).is_dir())
    assert imports
    assert {importer: names for importer, names in imports.items() if len(names) > 1} == {}


@pytest.mark.parametrize("part", sorted(LEVEL))
def test_optional_packages_are_imported_inside_functions_only(part):
    allowed = {*REQUIRED, *REQUIRED_BY.get(part, ()), *sys.stdlib_module_names, "detrex_lite"}
    wrong = {
        f"{module} imports {name}"
        for module, file in modules().items()
        if part_of(module) == part and module not in ON_DEMAND
        for name in names_of(module, file, at_import_only=True)
        if name.split(".")[0] not in allowed
    }
    assert not wrong


def test_no_part_imports_testing():
    """`testing` needs pytest, which is not a requirement of the package."""
    assert [part for part, imports in dependencies().items() if "testing" in imports] == []


def test_modules_for_optional_packages_are_imported_inside_functions_only():
    assert set(modules()) >= ON_DEMAND
    for module, file in modules().items():
        if module not in ON_DEMAND:
            names = names_of(module, file, at_import_only=True)
            assert not [name for name in names if name.startswith(tuple(ON_DEMAND))], module


def test_only_the_modules_for_detectron2_import_detectron2():
    users = {
        module
        for module, file in modules().items()
        if any(name.split(".")[0] == "detectron2" for name in names_of(module, file))
    }
    assert users == WITH_DETECTRON2


@pytest.mark.parametrize("name", ["projects.detr.modeling", "configs.common.train", "tools.train_net"])
def test_folders_next_to_the_package_are_importable_under_one_name_only(name, monkeypatch):
    monkeypatch.syspath_prepend(ROOT)  # as for a program that is started in the clone
    with pytest.raises(ImportError, match=f"not {name.split('.')[0]} but detrex_lite.{name.split('.')[0]}: "):
        import_module(name)
    assert Path(import_module(f"detrex_lite.{name}").__file__).is_relative_to(ROOT)


@pytest.mark.parametrize("name", ["tests", "setup", "detrex_lite"])
def test_other_parts_of_the_checkout_are_not_in_the_package(name):
    with pytest.raises(ModuleNotFoundError, match=f"No module named 'detrex_lite.{name}'"):
        import_module(f"detrex_lite.{name}")


def test_imported_names_resolves_relative_and_nested_imports():
    source = """
import triton.language
from ..layers import FFN
from . import boxes
from ... import projects
from ...projects import dino
def late():
    from ...engine.loop.trainer import Trainer
try:
    import wandb
except ImportError:
    class Later:
        import onnx
"""
    all_names = set(imported_names(source, "detrex_lite.structures.deep.instances", is_package=False))
    assert all_names == {
        "triton.language",
        "detrex_lite.structures.layers.FFN",
        "detrex_lite.structures.deep.boxes",
        "detrex_lite.projects",
        "detrex_lite.projects.dino",
        "detrex_lite.engine.loop.trainer.Trainer",
        "wandb",
        "onnx",
    }
    names_at_import = set(imported_names(source, "detrex_lite.structures.deep.instances", False, at_import_only=True))
    assert all_names - names_at_import == {"detrex_lite.engine.loop.trainer.Trainer"}
    assert set(imported_names("from . import a", "detrex_lite.layers", is_package=True)) == {"detrex_lite.layers.a"}
    assert part_of("detrex_lite.engine.loop.trainer.Trainer") == "engine"
    assert part_of("detrex_lite.__version__") is None
    assert part_of("detrex_lite.ops.deformable_attention") == "ops"
    assert part_of("detrex_lite.ops.cpu.linear") == "ops.cpu"
    assert project_of("detrex_lite.projects.dino.modeling") == "dino"


def _in_fresh_process(code: str) -> dict:
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return json.loads(result.stdout)


IMPORT_AND_REPORT = """
import json, sys, time
import torch
before, start = set(sys.modules), time.process_time()
import {names}
seconds = time.process_time() - start
new = {{name.split(".")[0] for name in set(sys.modules) - before}}
print(json.dumps(dict(seconds=seconds, new=sorted(new))))
"""


def test_importing_the_package_is_cheap():
    report = _in_fresh_process(IMPORT_AND_REPORT.format(names="detrex_lite"))
    assert not HEAVY & set(report["new"])
    assert report["seconds"] < 1  # on a processor, beyond the import of torch


def test_parts_that_scripts_import_first_load_no_heavy_packages():
    names = "detrex_lite.structures, detrex_lite.config, detrex_lite.checkpoint, detrex_lite.layers"
    assert not HEAVY & set(_in_fresh_process(IMPORT_AND_REPORT.format(names=names))["new"])


WITHOUT_TIMM = """
import json, sys
hidden = {hidden}
if hidden:
    sys.modules["timm"] = None  # as if it were not installed
import detrex_lite, detrex_lite.engine, detrex_lite.modeling, detrex_lite.projects.dino.modeling
from detrex_lite.config import LazyConfig, instantiate, validate
cfg = LazyConfig.load("projects/dino/configs/dino_swin_tiny_224_4scale_12ep.py")
validate(cfg)
imported, error = "timm" in sys.modules and not hidden, None
if hidden:
    try:
        instantiate(cfg.model)
    except ValueError as failure:
        error = str(failure)
print(json.dumps(dict(imported=imported, error=error)))
"""


def test_loading_a_config_of_a_timm_backbone_does_not_import_timm():
    assert _in_fresh_process(WITHOUT_TIMM.format(hidden=False)) == {"imported": False, "error": None}


def test_without_timm_only_building_its_backbones_fails():
    error = _in_fresh_process(WITHOUT_TIMM.format(hidden=True))["error"]
    assert "timm, which is not installed: pip install -U timm" in error


IMPORT_ALL_WITHOUT_DETECTRON2 = """
import importlib, json, sys
sys.modules["detectron2"] = None  # as if it were not installed
for name in {names}:
    importlib.import_module(name)
print(json.dumps(sorted(name for name in sys.modules if name.startswith("detectron2."))))
"""


def test_all_modules_but_the_detectron2_engine_import_without_detectron2():
    names = sorted(name for name in modules() if part_of(name) not in (None, "tools") and name not in ON_DEMAND)
    names = [name for name in names if ".configs." not in name and not name.endswith("__main__")]
    assert "detrex_lite.data.detectron2_catalog" in names
    assert _in_fresh_process(IMPORT_ALL_WITHOUT_DETECTRON2.format(names=names)) == []
