"""Text tables, number formats and JSON files of reports."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .errors import BenchmarkError


def aligned_table(headers: Sequence[str], rows: Sequence[Sequence[str]], *, left: int = 1) -> str:
    """A text table; the first `left` columns are left-aligned, the others right-aligned."""
    lines = [headers, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(headers))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column < left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def milliseconds(seconds: float) -> str:
    """Format a time in milliseconds with four significant digits, or with all digits before the decimal point."""
    number = seconds * 1000
    return f"{number:,.0f}" if number >= 1000 else f"{number:.4g}"


def gibibytes(number: int | None) -> str:
    return "-" if number is None else f"{number / 2**30:.2f} GiB"


def require_writable(path: str | Path | None) -> None:
    """Raise BenchmarkError, before a long measurement, when the folder of a report does not exist."""
    if path is not None and not Path(path).resolve().parent.is_dir():
        raise BenchmarkError(f"cannot write {path}: there is no folder {Path(path).resolve().parent}")


def write_json(path: str | Path, report: Mapping[str, Any]) -> None:
    Path(path).write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
