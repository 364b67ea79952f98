"""Evaluation of published checkpoints, and the table of measured and published results."""

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
# The same images and boxes: panoptic models are evaluated on the instance annotations.
PUBLISHED_ON = ("coco_2017_val", "coco_2017_val_panoptic")
ROW_FILE, JSON_FILE, MARKDOWN_FILE = "result.json", "results.json", "results.md"


@dataclass(frozen=True, kw_only=True)
class Row:
    """The result of one entry.

    Attributes:
        name: name of the entry.
        published: its box AP on COCO val2017 in percent; None when not published.
        measured: the box AP on `data` in percent; None after a failure.
        comparable: whether `data` is the data of the published result.
        metrics: all measured metrics in percent; None for those without objects in the data set. Box metrics have plain
            names, others have their group as prefix: `segm/AP`.
        error: the reason why nothing was measured; "" otherwise.
        data: description of the data set.
        sha256: of the checkpoint.
        fingerprint: of the model's config and the data; an entry with the same fingerprint is not evaluated again.
        date: time of the measurement, in UTC.
        seconds: duration without the download.
        machine: description of the machine.
        command: command that repeats the measurement.
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
        """Measured minus published AP in percent, to two decimals; None without one of them, or on other data."""
        if self.measured is None or self.published is None or not self.comparable:
            return None
        return round(self.measured - self.published, 2)

    @property
    def deviates(self) -> bool:
        """Whether the difference is larger than rounding and other kernels explain."""
        return self.difference is not None and abs(self.difference) > TOLERANCE


def evaluate_entries(
    entries: Iterable[ZooEntry],
    output: str | Path,
    *,
    overrides: Sequence[str] = (),
    weights: str | Path | None = None,
    command: Callable[[str], str] = str,
) -> list[Row]:
    """Evaluate checkpoints one after the other; failures do not stop the others.

    An entry whose result is already in `output`, for the same file, model and data, is not evaluated again. After each
    entry `results.json` and `results.md` are rewritten with all results in `output`, so that several processes may
    share the entries.

    Args:
        entries: the entries to evaluate.
        output: the folder of results, with a folder for the log and detections of each entry.
        overrides: overrides of all configs, as on the command line, for example of the data.
        weights: a file instead of the download, for a single entry.
        command: maps the name of an entry to the command that evaluates it, for the table.

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
        # The data is loaded before the download, which would be useless without data.
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
        gc.collect()  # models have reference cycles, and a GPU should hold only one model at a time
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
    weights = OmegaConf.select(cfg, "train.model_ema", default={})  # determines whether averaged weights are used
    parts = [LazyConfig.to_yaml(node, resolve=True) for node in (cfg.model, cfg.dataloader.test, weights)]
    return hashlib.sha256("\n".join([*parts, data]).encode()).hexdigest()


def _is_same(done: Row, row: Row) -> bool:
    return not done.error and (done.sha256, done.fingerprint) == (row.sha256, row.fingerprint)


def _read_row(path: Path) -> Row | None:
    with contextlib.suppress(FileNotFoundError, ValueError, TypeError):  # a file of another version, or incomplete
        return Row(**json.loads(path.read_text(encoding="utf-8")))
    return None


def write_tables(output: Path) -> None:
    """Write `results.json` and `results.md` from all rows in the folders of `output`."""
    rows = [row for path in sorted(output.glob(f"*/{ROW_FILE}")) if (row := _read_row(path)) is not None]
    content: list[dict[str, Any]] = [
        {**dataclasses.asdict(row), "difference": row.difference, "deviates": row.deviates} for row in rows
    ]
    replace_text(output / JSON_FILE, json.dumps(content, indent=1))
    replace_text(output / MARKDOWN_FILE, format_rows(rows))


def format_rows(rows: Sequence[Row]) -> str:
    """Format the rows as a Markdown table with the commands below; differences above the tolerance are bold."""
    lines = [
        "| checkpoint | box AP, published | measured | difference | data | date (UTC) | machine | remark |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        difference = "-" if row.difference is None else f"{row.difference:+.2f}"
        remark = " ".join(row.error.split()).replace("|", "\\|")
        if not row.comparable and not row.error:
            remark = "data differs from published"
        if row.deviates:
            difference, remark = f"**{difference}**", f"differs by more than {TOLERANCE}"
        other_values = [
            f"{label} {row.metrics[name]:.2f}"
            for name, label in (("segm/AP", "mask AP"), ("panoptic_seg/PQ", "PQ"))
            if row.metrics.get(name) is not None
        ]
        remark = "; ".join(filter(None, [remark, *other_values]))
        cells = [row.name, _number(row.published, 1), _number(row.measured, 2), difference]
        cells += [row.data or "-", row.date, row.machine or "-", remark]
        lines.append("| " + " | ".join(cells) + " |")
    commands = [f"    {row.command}" for row in rows if row.command]
    written = f"Measured with detrex_lite {detrex_lite.__version__}:"
    return "\n".join([*lines, "", *([written, "", *commands] if commands else [])]) + "\n"


def _number(value: float | None, decimals: int) -> str:
    return "-" if value is None else f"{value:.{decimals}f}"
