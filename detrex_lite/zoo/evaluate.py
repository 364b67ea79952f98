"""Evaluating published checkpoints, and the table of what was measured beside what was published."""

import contextlib
import dataclasses
import gc
import hashlib
import json
import logging
import math
import platform
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

import detrex_lite

from ..checkpoint.files import replace_text
from ..config import LazyConfig, instantiate
from ..engine import evaluate as evaluate_config
from ..engine.io.summary import describe_device
from .cache import Checkpoint, obtain
from .entry import ZooEntry

logger = logging.getLogger(__name__)

TOLERANCE = 0.1  # box AP in percent; published numbers have one decimal
# The same images and boxes: those of a panoptic model are evaluated by the annotations of instances.
PUBLISHED_ON = ("coco_2017_val", "coco_2017_val_panoptic")
ROW_FILE, JSON_FILE, MARKDOWN_FILE = "result.json", "results.json", "results.md"


@dataclass(frozen=True, kw_only=True)
class Row:
    """What became of one entry.

    Attributes:
        name: of the entry.
        published: its box AP on COCO val2017 in percent; None when not published.
        measured: the box AP of `data` in percent; None after a failure.
        comparable: whether `data` is what the published number is of.
        metrics: all that was measured, in percent; None for what the data set has no objects of. Numbers of boxes have
            their names alone, others that of their group before it: `segm/AP`.
        error: why nothing was measured; "" otherwise.
        data: the data set.
        sha256: of the checkpoint.
        fingerprint: of the model's config and the data: what a repetition would have to differ in.
        date: when it was measured, in UTC.
        seconds: how long it took, without the download.
        machine: on what.
        command: how to do it again.
    """

    name: str
    published: float | None
    measured: float | None = None
    comparable: bool = True
    metrics: dict[str, float | None] = field(default_factory=dict)
    error: str = ""
    data: str = ""
    sha256: str = ""
    fingerprint: str = ""
    date: str = ""
    seconds: float = 0.0
    machine: str = ""
    command: str = ""

    @property
    def difference(self) -> float | None:
        """Measured less published, in percent, to two decimals; None without one of them, or on other data."""
        if self.measured is None or self.published is None or not self.comparable:
            return None
        return round(self.measured - self.published, 2)

    @property
    def deviates(self) -> bool:
        """Whether the two differ by more than rounding and other kernels explain."""
        return self.difference is not None and abs(self.difference) > TOLERANCE


def evaluate_entries(
    entries: Iterable[ZooEntry],
    output: str | Path,
    *,
    overrides: Sequence[str] = (),
    weights: str | Path | None = None,
    command: Callable[[str], str] = str,
) -> list[Row]:
    """Evaluate checkpoints one after the other; what fails does not stop the others.

    An entry whose result is in `output` already, of the same file, model and data, is not evaluated again. After each
    entry `results.json` and `results.md` are written anew, with all results that `output` holds: several processes may
    share the entries among them.

    Args:
        entries: which.
        output: the folder of results; each entry gets a folder in it, with its log and its detections.
        overrides: of all configs, as on the command line; other data, say.
        weights: a file in place of the download, for one entry.
        command: what a user types to evaluate the entry of a name, for the table.

    Returns:
        A row for each entry.
    """
    output = Path(output)
    rows = []
    for entry in entries:
        row = _evaluate(entry, output / entry.name, list(overrides), weights, command(entry.name))
        replace_text(output / entry.name / ROW_FILE, json.dumps(dataclasses.asdict(row), indent=1))
        rows.append(row)
        write_tables(output)
    return rows


def _evaluate(entry: ZooEntry, folder: Path, overrides: list[str], weights: str | Path | None, command: str) -> Row:
    start = time.perf_counter()
    now = datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M")
    row = Row(name=entry.name, published=entry.box_ap, date=now, command=command)
    try:
        cfg = entry.load_config([f"train.output_dir={folder}", *overrides])
        # Before the download, which is for nothing without data.
        dataset = instantiate(cfg.dataloader.test.dataset)
        row = dataclasses.replace(
            row,
            comparable=dataset.name in PUBLISHED_ON,
            data=f"{dataset.name}: {len(dataset)} images, {dataset.num_boxes} boxes",
            machine=_machine(torch.device(cfg.train.device)),
        )
        checkpoint = Checkpoint.of(weights) if weights else obtain(entry)
        row = dataclasses.replace(row, sha256=checkpoint.sha256, fingerprint=_fingerprint(cfg, row.data))
        done = _read_row(folder / ROW_FILE)
        if done is not None and _is_same(done, row):
            logger.info("%s: evaluated before, %s.", entry.name, done.date)
            return dataclasses.replace(done, published=entry.box_ap)
        cfg.train.init_checkpoint = str(checkpoint.path)
        start = time.perf_counter()
        results = evaluate_config(cfg)
        gc.collect()  # models have cycles, and a GPU should hold one at a time
        if not results.get("bbox"):
            raise ValueError(f"the data set {dataset.name!r} has no annotations to compare with")
    except Exception as error:
        logger.debug("%s", entry.name, exc_info=True)
        kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
        return dataclasses.replace(row, error=f"{kind}{error}")
    metrics = dict(results["bbox"])
    for group, further in results.items():
        metrics |= {f"{group}/{name}": value for name, value in further.items() if group != "bbox"}
    finite = {name: None if math.isnan(value) else value for name, value in metrics.items()}
    return dataclasses.replace(
        row, measured=finite["AP"], metrics=finite, seconds=round(time.perf_counter() - start, 1)
    )


def _machine(device: torch.device) -> str:
    return f"{describe_device(device)}, {platform.machine()}, torch {torch.__version__}"


def _fingerprint(cfg: DictConfig, data: str) -> str:
    weights = OmegaConf.select(cfg, "train.model_ema", default={})  # says whether their average is taken
    parts = [LazyConfig.to_yaml(node, resolve=True) for node in (cfg.model, cfg.dataloader.test, weights)]
    return hashlib.sha256("\n".join([*parts, data]).encode()).hexdigest()


def _is_same(done: Row, row: Row) -> bool:
    return not done.error and (done.sha256, done.fingerprint) == (row.sha256, row.fingerprint)


def _read_row(path: Path) -> Row | None:
    with contextlib.suppress(FileNotFoundError, ValueError, TypeError):  # another version's, or half a file
        return Row(**json.loads(path.read_text(encoding="utf-8")))
    return None


def write_tables(output: Path) -> None:
    """Write `results.json` and `results.md` of all rows in the folders of `output`."""
    rows = [row for path in sorted(output.glob(f"*/{ROW_FILE}")) if (row := _read_row(path)) is not None]
    content: list[dict[str, Any]] = [
        {**dataclasses.asdict(row), "difference": row.difference, "deviates": row.deviates} for row in rows
    ]
    replace_text(output / JSON_FILE, json.dumps(content, indent=1))
    replace_text(output / MARKDOWN_FILE, format_rows(rows))


def format_rows(rows: Sequence[Row]) -> str:
    """The rows as a Markdown table, and the commands below it; differences above the tolerance are bold."""
    lines = [
        "| checkpoint | box AP, published | measured | difference | data | date (UTC) | machine | remark |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        difference = "-" if row.difference is None else f"{row.difference:+.2f}"
        remark = " ".join(row.error.split()).replace("|", "\\|")
        if not row.comparable and not row.error:
            remark = "other data than published"
        if row.deviates:
            difference, remark = f"**{difference}**", f"differs by more than {TOLERANCE}"
        further = [
            f"{label} {row.metrics[name]:.2f}"
            for name, label in (("segm/AP", "mask AP"), ("panoptic_seg/PQ", "PQ"))
            if row.metrics.get(name) is not None
        ]
        remark = "; ".join(filter(None, [remark, *further]))
        cells = [row.name, _number(row.published, 1), _number(row.measured, 2), difference]
        cells += [row.data or "-", row.date, row.machine or "-", remark]
        lines.append("| " + " | ".join(cells) + " |")
    commands = [f"    {row.command}" for row in rows if row.command]
    written = f"Measured with detrex_lite {detrex_lite.__version__}:"
    return "\n".join([*lines, "", *([written, "", *commands] if commands else [])]) + "\n"


def _number(value: float | None, decimals: int) -> str:
    return "-" if value is None else f"{value:.{decimals}f}"
