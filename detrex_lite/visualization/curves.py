"""Training curves from the `metrics.jsonl` that the engine writes."""

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

Series = list[tuple[int, float]]
"""(iteration, value), in the order of the iterations."""

_AVERAGE_PRECISIONS = ("bbox/AP", "bbox/AP50", "bbox/AP75")
# loss_bbox_3, loss_class_enc, loss_giou_dn_0: the same losses at other outputs of the model.
_OTHER_OUTPUT = re.compile(r"_(\d+|enc|dn)$")


def plot_curves(metrics_jsonl: str | Path, out_png: str | Path) -> Path:
    """Plot losses, learning rate and average precision over the iterations.

    Of the losses, the total and those at the model's last output are shown; what the file lacks has no panel.
    A resumed run may have written an iteration twice: the later line counts.

    Args:
        metrics_jsonl: one JSON object a line with `iteration` and numbers.
        out_png: the picture to write; its folder is made.

    Raises:
        ValueError: for a line that is not JSON (but the last one, which a killed run leaves unfinished), or
            when there is nothing to plot.
        FileNotFoundError: when there is no such file.
    """
    series = read_metrics(metrics_jsonl)
    components = [name for name in series if name.startswith("loss_") and not _OTHER_OUTPUT.search(name)]
    wanted: list[tuple[Callable[[Any, dict[str, Series]], None], list[str]]] = [
        (_draw_total, ["total_loss"]),
        (_draw_components, components),
        (_draw_learning_rate, ["lr"]),
        (_draw_precision, list(_AVERAGE_PRECISIONS)),
    ]
    found = [(draw, {name: series[name] for name in names if name in series}) for draw, names in wanted]
    panels = [(draw, present) for draw, present in found if present]
    if not panels:
        raise ValueError(f"{metrics_jsonl} has neither losses nor a learning rate nor AP: nothing to plot")

    # The figure's own interface instead of pyplot's, which keeps every figure in a global list.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = min(2, len(panels))
    rows = math.ceil(len(panels) / columns)
    last_iteration = max(points[-1][0] for _, present in panels for points in present.values())
    figure = Figure(figsize=(5.6 * columns, 3.6 * rows), layout="constrained", dpi=120)
    FigureCanvasAgg(figure)
    for position, (draw, present) in enumerate(panels, 1):
        axes = figure.add_subplot(rows, columns, position)
        draw(axes, present)
        axes.set_xlabel("iteration")
        axes.set_xlim(0, 1.02 * last_iteration)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    out_png = Path(out_png)
    out_png.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out_png, format="png")
    return out_png


def read_metrics(metrics_jsonl: str | Path, *, gaps: bool = False) -> dict[str, Series]:
    """All numbers of a `metrics.jsonl` by name. The errors are those of `plot_curves`.

    Args:
        metrics_jsonl: the file.
        gaps: null, which stands for a number that is not finite, becomes nan; otherwise it is left out.
    """
    lines = Path(metrics_jsonl).read_text(encoding="utf-8").splitlines()
    values: dict[str, dict[int, float]] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
            iteration = int(entry.pop("iteration"))
        except (ValueError, TypeError, AttributeError, KeyError) as error:
            if number == len(lines):
                break
            raise ValueError(
                f"{metrics_jsonl}, line {number}: expected a JSON object with 'iteration', got {line[:80]!r}"
            ) from error
        for name, value in entry.items():
            if value is None and gaps:
                value = math.nan
            if isinstance(value, (int, float)) and not isinstance(value, bool):
                values.setdefault(name, {})[iteration] = value
    return {name: sorted(by_iteration.items()) for name, by_iteration in values.items()}


def _draw_total(axes: Any, series: dict[str, Series]) -> None:
    iterations, losses = zip(*series["total_loss"], strict=True)
    axes.plot(iterations, losses, color="tab:blue", alpha=0.3, linewidth=1)
    axes.plot(iterations, _smooth(losses), color="tab:blue")
    axes.set_title("total loss")


def _draw_components(axes: Any, series: dict[str, Series]) -> None:
    for name, points in series.items():
        iterations, losses = zip(*points, strict=True)
        axes.plot(iterations, _smooth(losses), label=name.removeprefix("loss_"))
    axes.legend(frameon=False)
    axes.set_title("losses of the last layer, weighted")


def _draw_learning_rate(axes: Any, series: dict[str, Series]) -> None:
    axes.plot(*zip(*series["lr"], strict=True), color="tab:orange")
    axes.ticklabel_format(axis="y", style="sci", scilimits=(-2, 3))
    axes.set_title("learning rate")


def _draw_precision(axes: Any, series: dict[str, Series]) -> None:
    for name, points in series.items():
        iterations, values = zip(*points, strict=True)
        axes.plot(
            iterations,
            values,
            marker="o",
            markersize=3,
            clip_on=False,
            label=f"{name[5:]} (last {values[-1]:.1f})",
        )
    axes.set_ylim(0, 100)
    axes.legend(frameon=False, loc="upper left")
    axes.set_title("average precision, %")


def _smooth(values: tuple[float, ...]) -> list[float]:
    """The running mean over about a thirtieth of the points; what is not finite is left out of the means."""
    reach = len(values) // 60
    means = []
    for i in range(len(values)):
        near = [v for v in values[max(0, i - reach) : i + reach + 1] if math.isfinite(v)]
        means.append(sum(near) / len(near) if near else math.nan)
    return means
