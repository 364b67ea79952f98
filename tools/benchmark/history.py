"""A file with a line for every measurement, to see what has become faster or slower on a machine."""

import json
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from .errors import BenchmarkError

# Facts that must agree for two runs to be compared; versions of packages may differ.
_SAME_MACHINE = ("cpu", "cores", "threads", "device", "gpu")


def append_to_history(path: str | Path, command: str, report: Mapping[str, Any]) -> str:
    """Append the medians of a report, and compare them with the last ones of the same command, settings and machine.

    Args:
        path: a file of JSON lines, which is created if it does not exist.
        command: command of `detrex-lite benchmark`.
        report: the report as JSON: `machine`, `settings`, and `rows` with a `median` in seconds each.

    Returns:
        A line to print.

    Raises:
        BenchmarkError: when the file contains something else.
    """
    path = Path(path)
    entry = {
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": command,
        "settings": json.loads(json.dumps(report["settings"])),
        "machine": dict(report["machine"]),
        "medians": {_name(row): row["median"] for row in report["rows"]},
    }
    earlier_runs = [earlier for earlier in _read(path) if _key(earlier) == _key(entry)]
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(entry, ensure_ascii=False) + "\n")
    if not earlier_runs:
        return f"{path}: the first run with these settings on this machine."
    last = earlier_runs[-1]
    ratios = ", ".join(
        f"{name} {median / last['medians'][name]:.2f}x"
        for name, median in entry["medians"].items()
        if last["medians"].get(name)
    )
    return f"Medians by those of the last run on this machine ({last['time']}): {ratios}."


def _key(entry: Mapping[str, Any]) -> Any:
    return entry["command"], entry["settings"], [entry["machine"].get(name) for name in _SAME_MACHINE]


def _name(row: Mapping[str, Any]) -> str:
    """The name that distinguishes a row from the others of a report."""
    names = ("part", "config", "side", "mode", "precision", "variant", "backend", "pass")
    return " ".join(str(row[name]) for name in names if name in row)


def _read(path: Path) -> list[dict[str, Any]]:
    entries = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines() if path.exists() else [], 1):
        try:
            entry = json.loads(line)
            _key(entry), entry["medians"], entry["time"]
        except (ValueError, TypeError, KeyError) as error:
            raise BenchmarkError(
                f"{path}, line {number} is no measurement: {line[:80]!r}; name another file"
            ) from error
        entries.append(entry)
    return entries
