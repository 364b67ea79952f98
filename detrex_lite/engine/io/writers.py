"""Writers for metrics: metrics.jsonl, metrics.csv, TensorBoard, Weights & Biases and MLflow."""

import csv
import io
import json
import logging
import math
import re
import threading
from pathlib import Path
from typing import Any, Protocol

from ...checkpoint.files import replace_text
from ...metrics_file import METRICS_FILE, read_metrics

logger = logging.getLogger(__name__)

TABLE_FILE = "metrics.csv"


class Writer(Protocol):
    """Receives the named numbers of one iteration."""

    def write(self, iteration: int, scalars: dict[str, float]) -> None: ...

    def close(self) -> None: ...


class JsonLinesWriter:
    """Writes one JSON object per line, with `iteration`. Values that are not finite become null, as JSON has no nan.

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


class CsvWriter:
    """Writes one row per iteration and one column per name, for spreadsheets; non-finite values are empty cells.

    Losses and results of evaluations come at different times, so the file is rewritten when a new name occurs.

    Args:
        path: the file; an existing table is continued.
        start_iteration: later rows are dropped, because a resumed run writes them again.
    """

    def __init__(self, path: Path, start_iteration: int):
        self._path = path
        self._names = ["iteration"]
        rows: list[dict[str, Any]] = []
        if path.exists():
            text = path.read_text(encoding="utf-8", errors="replace").replace("\0", "\ufffd")
            reader = csv.DictReader(io.StringIO(text, newline=""))
            self._names = list(reader.fieldnames or self._names)
            # A row that was cut off while it was written lacks cells; a corrupted row has no number.
            rows = [row for row in reader if None not in row.values() and None not in row]
            rows = [row for row in rows if (row.get("iteration") or "").isdecimal()]
        self._write_all([row for row in rows if int(row["iteration"]) <= start_iteration])

    def write(self, iteration: int, scalars: dict[str, float]) -> None:
        if any(name not in self._names for name in scalars):
            with self._path.open(encoding="utf-8", newline="") as file:
                rows = list(csv.DictReader(file))
            self._names += [name for name in scalars if name not in self._names]
            self._write_all(rows)
        finite = {name: value for name, value in scalars.items() if math.isfinite(value)}
        with self._path.open("a", encoding="utf-8", newline="") as file:
            csv.DictWriter(file, self._names, restval="").writerow({"iteration": iteration, **finite})

    def close(self) -> None:
        """Do nothing: the file is not open between two rows."""

    def _write_all(self, rows: list[dict[str, Any]]) -> None:
        text = io.StringIO(newline="")
        table = csv.DictWriter(text, self._names, restval="")
        table.writeheader()
        table.writerows(rows)
        replace_text(self._path, text.getvalue())


class TensorBoardWriter:
    """Writes event files for TensorBoard.

    A thread writes them. Its errors (a full disk, a removed folder) are raised by the next `write` and are not printed
    by the thread as well.

    Args:
        output_dir: the folder of the event files.
        start_iteration: later events, which a resumed run writes again, are hidden.
    """

    def __init__(self, output_dir: Path, start_iteration: int):
        from torch.utils.tensorboard import SummaryWriter

        purge_step = start_iteration + 1 if start_iteration else None
        previous = set(threading.enumerate())
        self._writer = SummaryWriter(str(output_dir), purge_step=purge_step)
        self._threads = set(threading.enumerate()) - previous
        self._excepthook = threading.excepthook
        threading.excepthook = self._print_other_threads

    def write(self, iteration: int, scalars: dict[str, float]) -> None:
        for name, value in scalars.items():
            if math.isfinite(value):
                self._writer.add_scalar(name, value, iteration)

    def close(self) -> None:
        try:
            self._writer.close()
        finally:
            if threading.excepthook == self._print_other_threads:
                threading.excepthook = self._excepthook

    def _print_other_threads(self, raised: threading.ExceptHookArgs) -> None:
        if raised.thread not in self._threads:
            self._excepthook(raised)


class WandbWriter:
    """Logs to a Weights & Biases run; a resumed training continues the same run.

    Args:
        output_dir: the folder of the run's files and its id.
        config: the resolved config, shown with the run.
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


class MlflowWriter:
    """Logs to an MLflow run; a resumed training continues the same run.

    Args:
        output_dir: the folder of the run's id.
        config: the resolved config, stored with the run as `config.yaml`.
        tracking_uri: a server or database; None uses MLFLOW_TRACKING_URI.
        experiment: the experiment's name.
        params: arguments of `mlflow.start_run`.
    """

    def __init__(
        self,
        output_dir: Path,
        config: dict[str, Any],
        *,
        tracking_uri: str | None = None,
        experiment: str | None = None,
        params: dict[str, Any] | None = None,
    ):
        import mlflow

        self._mlflow = mlflow
        id_file = output_dir / "mlflow_run_id"
        run_id = {"run_id": id_file.read_text().strip()} if id_file.exists() else {}
        if tracking_uri is not None:
            mlflow.set_tracking_uri(tracking_uri)
        if experiment is not None:
            mlflow.set_experiment(experiment)
        run = mlflow.start_run(**{**run_id, **(params or {})})
        id_file.write_text(run.info.run_id)
        mlflow.log_dict(config, "config.yaml")

    def write(self, iteration: int, scalars: dict[str, float]) -> None:
        # MLflow rejects other characters in names, but class names may contain them.
        finite = {re.sub(r"[^\w\-. /]", "_", name): value for name, value in scalars.items() if math.isfinite(value)}
        self._mlflow.log_metrics(finite, step=iteration)

    def close(self) -> None:
        self._mlflow.end_run()


def open_writers(
    output_dir: Path,
    *,
    start_iteration: int,
    config: dict[str, Any],
    wandb_params: dict[str, Any] | None = None,
    mlflow_settings: dict[str, Any] | None = None,
    table: bool = False,
) -> list[Writer]:
    """Open the writers of a run. Only the main process calls this.

    Args:
        output_dir: the run's folder.
        start_iteration: the iteration from which the run continues; 0 for a new run.
        config: the resolved config as plain values.
        wandb_params: arguments of `wandb.init`; None disables Weights & Biases.
        mlflow_settings: `tracking_uri`, `experiment` and `params` of `MlflowWriter`; None disables MLflow.
        table: also write metrics.csv.
    """
    path = output_dir / METRICS_FILE
    truncate_metrics(path, start_iteration)
    writers: list[Writer] = [JsonLinesWriter(path)]
    try:
        writers.append(TensorBoardWriter(output_dir, start_iteration))
    except ImportError:
        logger.info("No TensorBoard events: it is not installed (pip install tensorboard).")
    if table:
        writers.append(CsvWriter(output_dir / TABLE_FILE, start_iteration))
    if wandb_params is not None:
        writers.append(WandbWriter(output_dir, config, wandb_params))
    if mlflow_settings is not None:
        writers.append(MlflowWriter(output_dir, config, **mlflow_settings))
    return writers


def truncate_metrics(path: Path, iteration: int) -> None:
    """Drop the lines after `iteration`, which a resumed run writes again."""
    if not path.exists():
        return
    records = [record for record in read_metrics(path, skip_broken=True) if record["iteration"] <= iteration]
    replace_text(path, "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records))
