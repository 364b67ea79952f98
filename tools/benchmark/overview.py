"""The overview of all projects: the table of projects/README.md, and a picture of which detector uses which block.

Facts that cannot be counted are in `card.py` of each project:

    CONFIG          the model that the table describes, below `configs/`
    IMAGE_SIZE      height and width in pixels for which its operations are counted; default (800, 1333)
    CHECKPOINT      the entry of `zoo.py` whose published box AP is shown; alternatively
    PUBLISHED_AP    (box AP in percent, address of its source); None if no AP was published
    COMPARED_WITH   the implementations that gave the same numbers with the same weights; () for none
"""

import ast
import io
import re
import runpy
import tokenize
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from html import escape
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig

import detrex_lite
from detrex_lite.config import locate
from detrex_lite.zoo import find_entry, load_zoo

from .analysis import analyze_config
from .building import load_model_config
from .errors import BenchmarkError

CARD = "card.py"
PICTURE = "blocks.svg"
README = "README.md"
COMMAND = "python -m detrex_lite.tools.benchmark projects"
KEYS = {"CONFIG", "IMAGE_SIZE", "CHECKPOINT", "PUBLISHED_AP", "COMPARED_WITH"}
HEADING = re.compile(r"^# (.+)$", re.MULTILINE)
PAPER = re.compile(r"\[([^\]]+)\]\((https?://[^)]+)\)")
NO_CODE = (
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENCODING,
    tokenize.ENDMARKER,
)
SHARE_OF_RARE = 1 / 4  # of the projects; a block that more projects use is not listed, as it distinguishes none


@dataclass(frozen=True)
class ProjectFacts:
    """A row of the table.

    Attributes:
        name: name of its folder.
        title: heading of its README.
        paper: Markdown link to the paper.
        config: config file of the described model, below the project's `configs/`.
        blocks: names of the classes of this package that the model's config calls.
        lines: number of lines of Python in `modeling/`, in that config and in the project's configs that it imports,
            without comments, docstrings and empty lines.
        published_ap: box AP in percent; None if no AP was published.
        source: address of the source of that AP.
        compared_with: see `COMPARED_WITH`.
        height, width: size in pixels of the image for which operations are counted.
    """

    name: str
    title: str
    paper: str
    config: str
    blocks: tuple[str, ...]
    lines: int
    published_ap: float | None
    source: str
    compared_with: tuple[str, ...]
    height: int
    width: int


@dataclass(frozen=True)
class ModelSize:
    """The number of parameters of a model, and of multiply-accumulates (`macs`) for one image."""

    parameters: int
    macs: int


@dataclass(frozen=True)
class Overview:
    """The facts about all projects, and the sizes of their models."""

    projects: tuple[ProjectFacts, ...]
    sizes: tuple[ModelSize, ...]
    folder: Path

    def as_json(self) -> dict[str, Any]:
        rows = zip(self.projects, self.sizes, strict=True)
        return {"projects": [asdict(project) | asdict(size) for project, size in rows]}

    def __str__(self) -> str:
        return f"{len(self.projects)} projects: {self.folder / README}, {self.folder / PICTURE}"


def write_overview(folder: Path | None = None) -> Overview:
    """Build the model of every project, and write README.md and the picture into their folder.

    Args:
        folder: folder of the projects; None for the shipped ones.

    Raises:
        BenchmarkError: when a card is missing or wrong.
        ConfigError: when a config is wrong.
    """
    folder = folder or detrex_lite.SHIPPED_IN / "projects"
    projects = read_projects(folder)
    sizes = []
    for project in projects:
        file = str(folder / project.name / "configs" / project.config)
        whole = analyze_config(file, height=project.height, width=project.width).whole
        sizes.append(ModelSize(whole.parameters, whole.flops // 2))
    (folder / README).write_text(readme_of(projects, sizes), encoding="utf-8")
    (folder / PICTURE).write_text(picture_of(projects), encoding="utf-8")
    return Overview(projects, tuple(sizes), folder)


def read_projects(folder: Path) -> tuple[ProjectFacts, ...]:
    """Read the facts about each project without building its model, in the order of the projects' names.

    Raises:
        BenchmarkError: when a card is missing or wrong.
        ConfigError: when a config is wrong.
    """
    names = sorted(path.parent.parent.name for path in folder.glob("*/configs/models"))
    return tuple(_read_project(folder / name) for name in names)


def _read_project(folder: Path) -> ProjectFacts:
    path = folder / CARD
    if not path.is_file():
        raise BenchmarkError(f"the project {folder.name} has no {CARD}, see {Path(__file__).name}")
    card = {key: value for key, value in runpy.run_path(str(path)).items() if key.isupper() and key[0] != "_"}
    if unknown := set(card) - KEYS:
        raise BenchmarkError(f"{path}: unknown key {', '.join(sorted(unknown))}; choices: {', '.join(sorted(KEYS))}")
    if "CONFIG" not in card or "COMPARED_WITH" not in card:
        raise BenchmarkError(f"{path} must define CONFIG and COMPARED_WITH")
    if ("CHECKPOINT" in card) == ("PUBLISHED_AP" in card):
        raise BenchmarkError(f"{path} must define either CHECKPOINT or PUBLISHED_AP")
    box_ap, source = _published(card)
    text = (folder / README).read_text(encoding="utf-8")
    title, paper = HEADING.search(text), PAPER.search(text)
    if title is None or paper is None:
        raise BenchmarkError(f"{folder / README} must begin with a heading and a link to the paper")
    config = folder / "configs" / card["CONFIG"]
    height, width = card.get("IMAGE_SIZE", (800, 1333))
    return ProjectFacts(
        name=folder.name,
        title=title[1],
        paper=paper[0],
        config=card["CONFIG"],
        blocks=tuple(sorted(set(_blocks(load_model_config(str(config)))))),
        lines=sum(
            code_lines(file.read_text(encoding="utf-8")) for file in [*folder.glob("modeling/*.py"), *_chain(config)]
        ),
        published_ap=box_ap,
        source=source,
        compared_with=tuple(card["COMPARED_WITH"]),
        height=height,
        width=width,
    )


def _published(card: dict[str, Any]) -> tuple[float | None, str]:
    if "CHECKPOINT" in card:
        entry = find_entry(load_zoo(), card["CHECKPOINT"])
        return entry.box_ap, entry.source
    return card["PUBLISHED_AP"] or (None, "")


def _blocks(node: Any) -> Iterator[str]:
    """The names of the classes of this package that a config calls."""
    if isinstance(node, DictConfig):
        target = node.get("_target_")
        if target is not None:
            target = locate(target) if isinstance(target, str) else target
            if isinstance(target, type) and target.__module__.partition(".")[0] == detrex_lite.__name__:
                yield target.__name__
    children: list[Any] = []
    if isinstance(node, DictConfig):
        children = [node[key] for key in node]
    elif isinstance(node, ListConfig):
        children = [node[index] for index in range(len(node))]
    for child in children:
        yield from _blocks(child)


def _chain(config: Path) -> set[Path]:
    """A config, and all configs of its folder that it imports."""
    files = {config}
    for node in ast.walk(ast.parse(config.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level == 1 and node.module:
            files |= _chain(config.with_name(f"{node.module}.py"))
    return files


def code_lines(source: str) -> int:
    """Lines of Python without comments, docstrings and empty lines."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    lines = {line for token in tokens if token.type not in NO_CODE for line in range(token.start[0], token.end[0] + 1)}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            lines -= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return len(lines)


def readme_of(projects: Sequence[ProjectFacts], sizes: Sequence[ModelSize]) -> str:
    """The text of projects/README.md."""
    uses = Counter(name for project in projects for name in project.blocks)
    most = max(1, int(SHARE_OF_RARE * len(projects)))
    rows = []
    for project, size in zip(projects, sizes, strict=True):
        ap = "-" if project.published_ap is None else f"[{project.published_ap:g}]({project.source})"
        cells = (
            f"[{project.title}]({project.name})",
            project.paper,
            ", ".join(f"`{name}`" for name in project.blocks if uses[name] <= most) or "-",
            str(project.lines),
            f"[{Path(project.config).stem}]({project.name}/configs/{project.config})",
            f"{size.parameters / 1e6:.1f}",
            f"{size.macs / 1e9:.1f} ({project.height}x{project.width})",
            ap,
            ", ".join(project.compared_with) or "-",
        )
        rows.append("| " + " | ".join(cells) + " |")
    head = ("project", "paper", "blocks of few", "new lines", "model", "parameters, M", "GFLOPs", "box AP", "verified")
    return "\n".join(
        [
            "# Projects",
            "",
            f"One detector in each folder. `{COMMAND}` writes this file and the picture below.",
            "",
            f"- **blocks of few**: classes that the config of the model calls and that at most {most} of the "
            f"{len(projects)} projects use.",
            "- **new lines**: Python in the project's `modeling/`, in the config of the model and in those of the "
            "project that it imports, without comments, docstrings and empty lines; all else is shared.",
            "- **GFLOPs**: multiply-accumulates of one image of the size in brackets, in 10^9, as the papers count.",
            "- **box AP**: on COCO val2017 as published there; nothing was trained for this table.",
            "- **verified**: implementations with the same detections, losses and gradients at the same weights; "
            "[how](../docs/fidelity.md).",
            "",
            "| " + " | ".join(head) + " |",
            "|" + "---|" * len(head),
            *rows,
            "",
            "## Which detector uses which block",
            "",
            f"![Blocks and the projects that use them]({PICTURE})",
            "",
        ]
    )


def picture_of(projects: Sequence[ProjectFacts]) -> str:
    """An SVG image: a row for each block, the most used first, a column for each project, and a dot for each use."""
    uses = Counter(name for project in projects for name in project.blocks)
    blocks = sorted(uses, key=lambda name: (-uses[name], name))
    cell, left, top = 16, 290, 180
    width, height = left + cell * len(projects) + 110, top + cell * len(blocks) + 20
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
            'font-family="sans-serif" font-size="12">',
            f'<rect width="{width}" height="{height}" fill="white"/>',
            *_rows(blocks, uses, cell, left, top, cell * len(projects)),
            *_columns(projects, blocks, cell, left, top),
            "</svg>",
            "",
        ]
    )


def _rows(blocks: Iterable[str], uses: Counter[str], cell: int, left: int, top: int, width: int) -> Iterator[str]:
    for row, name in enumerate(blocks):
        y = top + cell * row
        if row % 2:
            yield f'<rect x="{left}" y="{y}" width="{width}" height="{cell}" fill="#f2f2f2"/>'
        yield f'<text x="{left - 8}" y="{y + 12}" text-anchor="end">{escape(name)}</text>'
        yield f'<text x="{left + width + 8}" y="{y + 12}" fill="#777777">{uses[name]}</text>'


def _columns(projects: Sequence[ProjectFacts], blocks: Sequence[str], cell: int, left: int, top: int) -> Iterator[str]:
    for column, project in enumerate(projects):
        x = left + cell * column + cell // 2
        yield f'<text transform="translate({x + 4} {top - 8}) rotate(-60)">{escape(project.title)}</text>'
        for name in project.blocks:
            yield f'<circle cx="{x}" cy="{top + cell * blocks.index(name) + cell // 2}" r="5" fill="#1f5fa8"/>'
