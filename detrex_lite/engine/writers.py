"""Where numbers go: metrics.jsonl, TensorBoard, Weights & Biases."""

import json
import logging
import math
import os
from pathlib import Path
from typing import Any, Protocol

logger = logging.getLogger(__name__)

METRICS_FILE = "metrics.jsonl"


class Writer(Protocol):
    """Takes named numbers of one iteration."""

    def write(self, iteration: int, scalars: dict[str, float]) -> None: ...

    def close(self) -> None: ...


class JsonLinesWriter:
    """One JSON object a line, with `iteration`. What is not finite becomes null: JSON has no nan.

    Args:
        path: the file, appended to.
    """

    def __init__(self, path: Path):
        self._file = path.open("a", encoding="utf-8")

    def write(self, iteration: int, scalars: dict[str, float]) -> None:
        line = {name: value if math.isfinite(value) else None for name, value in scalars.items()}
        self._file.write(json.dumps({"iteration": iteration, **line}, ensure_ascii=False) + "\n")
        self._file.flush()

    def close(self) -> None:
        self._file.close()


class TensorBoardWriter:
    """Event files for TensorBoard.

    Args:
        output_dir: the folder of the event files.
        start_iteration: events after this one, of a run that is now continued, are hidden.
    """

    def __init__(self, output_dir: Path, start_iteration: int):
        from torch.utils.tensorboard import SummaryWriter

        purge_step = start_iteration + 1 if start_iteration else None
        self._writer = SummaryWriter(str(output_dir), purge_step=purge_step)

    def write(self, iteration: int, scalars: dict[str, float]) -> None:
        for name, value in scalars.items():
            if math.isfinite(value):
                self._writer.add_scalar(name, value, iteration)

    def close(self) -> None:
        self._writer.close()


class WandbWriter:
    """A Weights & Biases run; a resumed training goes on in the same one.

    Args:
        output_dir: where the run's files and its id are kept.
        config: the resolved config, shown beside the run.
        params: arguments of `wandb.init`.
    """

    def __init__(self, output_dir: Path, config: dict[str, Any], params: dict[str, Any]):
        import wandb

        id_file = output_dir / "wandb_id"
        if id_file.exists():
            params = {"id": id_file.read_text().strip(), **params}
        self._run = wandb.init(dir=str(output_dir), config=config, resume="allow", **params)
        id_file.write_text(self._run.id)

    def write(self, iteration: int, scalars: dict[str, float]) -> None:
        self._run.log(scalars, step=iteration)

    def close(self) -> None:
        self._run.finish()


def open_writers(
    output_dir: Path, *, start_iteration: int, config: dict[str, Any], wandb_params: dict[str, Any] | None
) -> list[Writer]:
    """The writers of a run; the main process's business only.

    Args:
        output_dir: the run's folder.
        start_iteration: where the run goes on; 0 for a new one.
        config: the resolved config as plain values.
        wandb_params: arguments of `wandb.init`; None does not use it.
    """
    path = output_dir / METRICS_FILE
    truncate_metrics(path, start_iteration)
    writers: list[Writer] = [JsonLinesWriter(path)]
    try:
        writers.append(TensorBoardWriter(output_dir, start_iteration))
    except ImportError:
        logger.info("No TensorBoard events: it is not installed (pip install tensorboard).")
    if wandb_params is not None:
        writers.append(WandbWriter(output_dir, config, wandb_params))
    return writers


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics file; one that was cut off while it was written is left out."""
    records = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(record, dict) and isinstance(record.get("iteration"), int):
            records.append(record)
    return records


def truncate_metrics(path: Path, iteration: int) -> None:
    """Drop the lines after `iteration`, which a resumed run writes again."""
    if not path.exists():
        return
    kept = [record for record in read_metrics(path) if record["iteration"] <= iteration]
    temporary = path.with_name(f".{path.name}.partial")
    temporary.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in kept), encoding="utf-8")
    os.replace(temporary, path)
