"""The files of a new project, inside this repository and as a package outside it."""

from dataclasses import dataclass
from pathlib import Path
from string import Template

from .source import Source

EXAMPLE = "CentreLoss"  # the class of the example part in the templates
_TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class Layout:
    """The paths of a project's files, and the names by which they refer to each other.

    Attributes:
        name: name of the project.
        start: the folder in which commands are run; the paths below are relative to it.
        folder: folder of the project.
        package: dotted name of its package.
        test: file of its tests.
        next_steps: commands, each with its purpose, in the order in which they are needed.
        in_repository: whether the project is one of the repository's `projects/`.
    """

    name: str
    start: Path
    folder: str
    package: str
    test: str
    next_steps: tuple[tuple[str, str], ...]
    in_repository: bool


def layout_in_repository(name: str, root: Path) -> Layout:
    """The layout of a project in the clone `root`."""
    config, test = f"projects/{name}/configs/{name}_small_shapes.py", f"tests/projects/test_{name}.py"
    return Layout(
        name=name,
        start=root,
        folder=f"projects/{name}",
        package=f"detrex_lite.projects.{name}",
        test=test,
        next_steps=(
            (f"detrex-lite train {config}", "trains it on generated shapes"),
            (f"python -m pytest {test}", "runs its tests"),
            ("detrex-lite benchmark projects", "adds it to the table of projects/README.md"),
        ),
        in_repository=True,
    )


def layout_of_package(name: str, parent: Path) -> Layout:
    """The layout of a user's package in the folder `parent`."""
    run = f"output/{name}_small_shapes"
    predict = f"detrex-lite predict --config-file {run}/config.yaml --weights {run}/model_final.pth"
    train = f"detrex-lite train {name}/configs/{name}_small_shapes.py"
    return Layout(
        name=name,
        start=parent,
        folder=name,
        package=name,
        test=f"{name}/tests/test_{name}.py",
        next_steps=(
            (train, "trains it on generated shapes"),
            (f'python -m pytest -m "not slow" {name}', "runs its tests"),
            (f"{predict} --trust {name} output/shapes/images/val", "shows what the trained model detects"),
        ),
        in_repository=False,
    )


def files_of(layout: Layout, source: Source) -> dict[str, str]:
    """The files of a project: path relative to `layout.start` -> text."""
    values = _common_values(layout, source)
    values |= _values_in_repository(layout, source) if layout.in_repository else _values_of_package(layout, source)
    folder, name = layout.folder, layout.name
    files = {
        f"{folder}/__init__.py": "" if layout.in_repository else _filled("package", values),
        f"{folder}/README.md": _filled("readme", values),
        f"{folder}/modeling/__init__.py": _filled("modeling_init", values),
        f"{folder}/modeling/{name}.py": _filled("modeling", values),
        f"{folder}/configs/models/{name}_small.py": _filled("model_config", values),
        f"{folder}/configs/{name}_small_shapes.py": _filled("training_config", values),
        layout.test: _filled("test", values),
    }
    if layout.in_repository:
        return files | {f"{folder}/card.py": _filled("card", values)}
    # With these files, configs and tests find the package from any folder, and pytest knows the marker `slow`.
    more_files = {f"{folder}/configs/__init__.py": "", f"{folder}/tests/__init__.py": ""}
    return files | more_files | {f"{folder}/tests/conftest.py": _filled("conftest", values)}


def class_name_of(name: str) -> str:
    """The class name of a project's detector: MyDETR for "my_detr"."""
    return "".join("DETR" if word == "detr" else word[:1].upper() + word[1:] for word in name.split("_"))


def _filled(template: str, values: dict[str, str]) -> str:
    text = Template((_TEMPLATES / f"{template}.template").read_text(encoding="utf-8")).substitute(values)
    return text.rstrip("\n") + "\n"


def _common_values(layout: Layout, source: Source) -> dict[str, str]:
    exports = _exports(layout)
    return {
        "name": layout.name,
        "class_name": class_name_of(layout.name),
        "exports": ", ".join(exports),
        "quoted_exports": ", ".join(f'"{name}"' for name in exports),
        "source_title": source.title,
        "source_class": source.class_name,
        "source_model": source.model,
        "source_training": source.training,
        "shrink": f'model.merge_with(get_config("{source.shrink}").small)\n' if source.shrink else "",
        "train_command": layout.next_steps[0][0],
        "commands": "\n".join(f"# {purpose}\n{command}" for command, purpose in layout.next_steps),
        "test_file": layout.test,
        **_test_values(source),
    }


def _values_in_repository(layout: Layout, source: Source) -> dict[str, str]:
    return {
        "config_imports": f"from detrex_lite.config import get_config\n{_import_of_package(layout)}",
        "modeling_imports": f"from torch import Tensor\n\n{_imports_of_modeling(source)}",
        "test_imports": (
            "from types import SimpleNamespace\n\nimport torch\nfrom torch.testing import assert_close\n\n"
            f"from detrex_lite.config import get_config\nfrom {layout.package}.modeling import {EXAMPLE}\n"
            f"{_imports_of_testing(source)}"
        ),
        "load_model": f'get_config("{layout.folder}/configs/models/{layout.name}_small.py").model',
        "trusted": "",
        "source_link": f"[{source.title}](../{source.name})",
        "test_link": f"../../{layout.test}",
        "where_to_start": "the repository's root",
        "guide": "[docs/new_detector.md](../../docs/new_detector.md)",
        "checklist": "Before it is proposed, [CONTRIBUTING.md](../../CONTRIBUTING.md) says what a project needs.",
    }


def _values_of_package(layout: Layout, source: Source) -> dict[str, str]:
    name = layout.name
    return {
        "config_imports": f"from detrex_lite.config import get_config\n\n{_import_of_package(layout)}",
        # In the order of linters that treat detrex_lite as an installed package.
        "modeling_imports": f"{_imports_of_modeling(source)}from torch import Tensor\n",
        "test_imports": (
            "from pathlib import Path\nfrom types import SimpleNamespace\n\n"
            f"import torch\nfrom detrex_lite.config import LazyConfig, get_config\n{_imports_of_testing(source)}"
            f"from torch.testing import assert_close\n\nfrom {name}.modeling import {EXAMPLE}\n"
        ),
        "load_model": f'LazyConfig.load(Path(__file__).parents[1] / "configs/models/{name}_small.py").model',
        "trusted": f'train.trusted = ["{name}"]  # configs and overrides may call its classes by name\n',
        "source_link": source.title,
        "test_link": f"tests/test_{name}.py",
        "where_to_start": f"the folder that holds `{name}`",
        "guide": "The page docs/new_detector.md of detrex_lite",
        "checklist": (
            f"A saved `config.yaml` names classes of this package, so a command that reads one needs `--trust {name}`, "
            f'or in Python `detrex_lite.config.trust("{name}")`.'
        ),
    }


def _exports(layout: Layout) -> list[str]:
    """The names that `modeling` exports, in the linter's order, which puts constants first."""
    return sorted((EXAMPLE, class_name_of(layout.name)), key=lambda name: (not name.isupper(), name.lower()))


def _import_of_package(layout: Layout) -> str:
    return f"from {layout.package}.modeling import {', '.join(_exports(layout))}\n"


def _imports_of_modeling(source: Source) -> str:
    return f"from detrex_lite.modeling import Comparison\nfrom {source.class_module} import {source.class_name}\n"


def _imports_of_testing(source: Source) -> str:
    imported = ["NUM_CLASSES", "NUM_QUERIES", *sorted(_contracts(source)), "build", "changed", "make_batch"]
    return "from detrex_lite.testing import (\n" + "".join(f"    {name},\n" for name in imported) + ")\n"


def _contracts(source: Source) -> list[str]:
    """The contract tests of `detrex_lite.testing` that apply to the source's detector."""
    contracts = ["DenoisingContract"] if source.num_groups is not None else []
    contracts += ["DeformableContract"] if source.multi_scale else []
    return contracts or ["DetectorContract"]


def _test_values(source: Source) -> dict[str, str]:
    """Template values for tests: the contracts, and the sizes of a small model."""
    attributes = ""
    if source.num_groups is not None:
        attributes = (
            f"    num_groups = {source.num_groups}  # of denoising queries, for images of at most two objects\n\n"
        )
    return {
        "contracts": ", ".join(_contracts(source)),
        "attributes": attributes,
        "small": "".join(f'    "{key}": {value},\n' for key, value in source.test_changes.items()),
        "load_source": f'get_config("{source.model}").model',
        "shrink_source": f'        source.merge_with(get_config("{source.shrink}").small)\n' if source.shrink else "",
    }
