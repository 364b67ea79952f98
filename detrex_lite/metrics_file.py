"""The file `metrics.jsonl` of a run, with the numbers of its steps and evaluations."""

import json
from pathlib import Path
from typing import Any

METRICS_FILE = "metrics.jsonl"


def read_metrics(path: str | Path, *, skip_broken: bool = False) -> list[dict[str, Any]]:
    """Read the lines of a metrics file, each a dict with `iteration`; null stands for a number that is not finite.

    The last line is skipped if it is broken, because a run that is killed may leave it incomplete.

    Args:
        path: the file.
        skip_broken: skip all broken lines.

    Raises:
        ValueError: for a broken line before the last one.
        FileNotFoundError: when there is no such file.
    """
    lines = Path(path).read_bytes().splitlines()
    records = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):  # not JSON, or not UTF-8
            record = None
        if isinstance(record, dict) and isinstance(record.get("iteration"), int):
            records.append(record)
        elif not skip_broken and number < len(lines):
            raise ValueError(f"{path}, line {number}: expected a JSON object with 'iteration', got {line[:80]!r}")
    return records
