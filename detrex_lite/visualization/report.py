"""One page about a run: `report.html`, a file that needs neither network nor scripts.

It is made of what lies in the run's folder, so that it can be made anew at any time:
`metrics.jsonl`, `config.yaml` and `report_samples.json`.
"""

import base64
import io
import json
import math
import os
import re
from collections.abc import Iterable, Sequence
from datetime import datetime
from html import escape
from pathlib import Path
from statistics import median
from typing import Any

from ..checkpoint.files import replace_text
from ..metrics_file import METRICS_FILE, read_metrics
from .charts import PALETTE, Curve, line_chart
from .contact_sheet import SheetRow, draw_pair

Series = list[tuple[int, float]]
"""(iteration, value), in the order of the iterations."""

REPORT_FILE = "report.html"
SAMPLES_FILE = "report_samples.json"

PANEL_SIZE, SCORE_THRESHOLD = 300, 0.3
_JPEG_QUALITY = 72

# loss_class_3, loss_class_dn, loss_class_dn_3, loss_class_enc: of a layer, of denoising, of the encoder.
_LOSS_NAME = re.compile(r"(?P<base>loss_.+?)(?P<denoising>_dn)?(?:_(?P<layer>\d+|enc))?$")


def write_report(output_dir: str | Path, out_html: str | Path | None = None) -> Path:
    """Write the page about the run in a folder.

    Args:
        output_dir: the run's folder. Of `metrics.jsonl`, `config.yaml` and `report_samples.json` it shows those that
            are there.
        out_html: the file to write; None: `report.html` in the folder.

    Raises:
        FileNotFoundError: when the folder has no `metrics.jsonl`.
        ValueError: for a line of it that is not JSON (but the last one, which a killed run leaves unfinished).
    """
    output_dir = Path(os.path.expanduser(output_dir))
    series = _series(read_metrics(output_dir / METRICS_FILE))
    config = output_dir / "config.yaml"
    name = output_dir.resolve().name
    sections = [
        _facts(series),
        _section("Average precision", [*_precisions(series, "bbox"), _classes(series, "bbox/AP")]),
        _section("Average precision of masks", [*_precisions(series, "segm"), _classes(series, "segm/AP")]),
        _section("Panoptic quality", [*_panoptic(series), _classes(series, "panoptic_seg/PQ")]),
        _section("Losses", _losses(series)),
        _section("Further numbers", _further(series)),
        _section("Learning rate and gradients", _optimisation(series)),
        _section("Throughput", _throughput(series)),
        _samples(output_dir / SAMPLES_FILE),
        _config(config.read_text(encoding="utf-8")) if config.exists() else "",
    ]
    page = _PAGE.format(
        title=escape(name),
        written=f"{datetime.now():%Y-%m-%d %H:%M}",
        style=_STYLE,
        body="\n".join(filter(None, sections)),
    )
    path = Path(os.path.expanduser(out_html)) if out_html is not None else output_dir / REPORT_FILE
    replace_text(path, page)
    return path


def write_samples(
    output_dir: str | Path, rows: Iterable[SheetRow], *, class_names: Sequence[str] | None, iteration: int
) -> None:
    """Keep images with ground truth and detections for the page, drawn, small, as JPEG.

    Args:
        output_dir: the run's folder.
        rows: a few images; detections below a score of 0.3 are left out.
        class_names: names by class index.
        iteration: that the detections are of.
    """
    samples = []
    for row in rows:
        pair = draw_pair(row, class_names, SCORE_THRESHOLD, PANEL_SIZE)
        samples.append({"caption": pair.caption, "panels": [_jpeg(panel) for panel in pair.panels]})
    replace_text(Path(output_dir) / SAMPLES_FILE, json.dumps({"iteration": iteration, "samples": samples}))


def _jpeg(image: Any) -> str:
    file = io.BytesIO()
    image.save(file, format="JPEG", quality=_JPEG_QUALITY, optimize=True)
    return base64.b64encode(file.getvalue()).decode()


def _series(records: Iterable[dict[str, Any]]) -> dict[str, Series]:
    """All numbers by name; of an iteration that a resumed run has written twice the later line counts.

    null, which stands for a number that is not finite, becomes nan.
    """
    values: dict[str, dict[int, float]] = {}
    for record in records:
        for name, value in record.items():
            value = math.nan if value is None else value
            if name != "iteration" and isinstance(value, (int, float)) and not isinstance(value, bool):
                values.setdefault(name, {})[record["iteration"]] = value
    return {name: sorted(by_iteration.items()) for name, by_iteration in values.items()}


def _facts(series: dict[str, Series]) -> str:
    facts: list[tuple[str, str]] = []
    if series:
        facts.append(("iterations", f"{max(points[-1][0] for points in series.values()):,}"))
    for name, label in (("bbox/AP", "AP"), ("segm/AP", "mask AP"), ("panoptic_seg/PQ", "PQ")):
        if precision := _finite(series.get(name, [])):
            iteration, best = max(precision, key=lambda point: point[1])
            facts += [(label, f"{precision[-1][1]:.1f}"), (f"best {label}, at {iteration:,}", f"{best:.1f}")]
    if losses := _finite(series.get("total_loss", [])):
        facts.append(("total loss", f"{losses[-1][1]:.3g}"))
    if rates := _finite(series.get("images_per_second", [])):
        facts.append(("images/s, median", f"{median(value for _, value in rates):.3g}"))
    cells = "".join(f"<div><b>{escape(value)}</b>{escape(label)}</div>" for label, value in facts)
    lost = [iteration for iteration, value in series.get("total_loss", []) if not math.isfinite(value)]
    warning = (
        f'<p class="warning">The loss was not finite at {len(lost)} of the logged iterations, first at {lost[0]:,}.</p>'
        if lost
        else ""
    )
    return f'<div class="facts">{cells}</div>{warning}' if facts else "<p>Nothing has been logged yet.</p>"


def _section(title: str, parts: Iterable[str]) -> str:
    content = "".join(parts)
    return f'<h2>{title}</h2><div class="grid">{content}</div>' if content else ""


def _curves(series: dict[str, Series], names: dict[str, str]) -> list[Curve]:
    """Curves of those names that there are; `names`: name -> how the legend has it."""
    found = [(label, series[name]) for name, label in names.items() if name in series]
    return [Curve(label, points, PALETTE[number % len(PALETTE)]) for number, (label, points) in enumerate(found)]


def _precisions(series: dict[str, Series], group: str) -> Iterable[str]:
    for title, names in (
        ("AP, %", ("AP", "AP50", "AP75")),
        ("AP of small, medium and large objects, %", ("APs", "APm", "APl")),
        ("Average recall with 1, 10 and 100 detections, %", ("AR1", "AR10", "AR100")),
    ):
        yield line_chart(title, _curves(series, {f"{group}/{name}": name for name in names}), dots=True)


def _panoptic(series: dict[str, Series]) -> Iterable[str]:
    for title, suffix in (("PQ, SQ and RQ, %", ""), ("of things, %", "_th"), ("of stuff, %", "_st")):
        names = {f"panoptic_seg/{name}{suffix}": name for name in ("PQ", "SQ", "RQ")}
        yield line_chart(title, _curves(series, names), dots=True)


def _classes(series: dict[str, Series], metric: str) -> str:
    """A metric, group/name, of each class at the last evaluation, best first."""
    start = f"{metric}-"
    last = {name.removeprefix(start): points[-1][1] for name, points in series.items() if name.startswith(start)}
    rows = sorted(last.items(), key=lambda row: -row[1] if math.isfinite(row[1]) else math.inf)
    if not rows:
        return ""
    cells = "".join(
        f'<tr><td>{escape(name)}<td class="bar"><i style="width:{value:.1f}%"></i><td class="number">{value:.1f}'
        if math.isfinite(value)
        else f'<tr><td>{escape(name)}<td class="bar"><td class="number">-'
        for name, value in rows
    )
    title = f"{metric.split('/')[1]} of each class at the last evaluation, %; - has no object"
    return f'<figure><figcaption>{title}</figcaption><div class="scroll"><table>{cells}</table></div></figure>'


def _losses(series: dict[str, Series]) -> Iterable[str]:
    yield line_chart("total loss", _curves(series, {"total_loss": "total loss"}))
    groups: dict[str, dict[str, Series]] = {}
    for name, points in series.items():
        if match := _LOSS_NAME.match(name):
            title = f"{match['base']}{', denoising' if match['denoising'] else ''}"
            groups.setdefault(title, {})[match["layer"] or "last"] = points
    for title, layers in groups.items():
        numbers = sorted(int(layer) for layer in layers if layer.isdigit())
        names = [*(str(number) for number in numbers), *(name for name in ("last", "enc") if name in layers)]
        curves = [
            Curve(
                _LAYER_NAMES.get(name, f"layer {name}"), layers[name], _layer_colour(name, len(numbers)), name == "enc"
            )
            for name in names
        ]
        yield line_chart(f"{title}, by layer" if len(curves) > 1 else title, curves)


_LAYER_NAMES = {"last": "last layer", "enc": "encoder"}


def _layer_colour(name: str, number_of_layers: int) -> str:
    """The darker the later; the last one in a colour of its own."""
    if not name.isdigit():
        return {"last": PALETTE[1], "enc": "#64748b"}[name]
    return f"hsl(217 75% {78 - 40 * (int(name) + 1) / max(number_of_layers, 1):.0f}%)"


_OWN_NAMES = re.compile(
    r"total_loss|lr|time|images_per_second|grad_norm|memory_mb|.*_time|loss_.*|(bbox|segm|panoptic_seg)/.*"
)


def _further(series: dict[str, Series]) -> Iterable[str]:
    """What a model gave to `log_scalar`, and an evaluator of the user's own."""
    for name, points in series.items():
        if not _OWN_NAMES.fullmatch(name):
            yield line_chart(name, _curves({name: points}, {name: name}))


def _optimisation(series: dict[str, Series]) -> Iterable[str]:
    yield line_chart("learning rate", _curves(series, {"lr": "learning rate"}))
    yield line_chart("norm of the gradient before clipping", _curves(series, {"grad_norm": "norm"}))


def _throughput(series: dict[str, Series]) -> Iterable[str]:
    yield line_chart("images per second", _curves(series, {"images_per_second": "images per second"}))
    yield line_chart("seconds per step", _curves(series, {"time": "step", "data_time": "of that, waiting for data"}))
    yield line_chart("GPU memory at most, MiB", _curves(series, {"memory_mb": "memory"}))


def _samples(path: Path) -> str:
    if not path.exists():
        return ""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        figures = "".join(_figure(sample["caption"], sample["panels"]) for sample in content["samples"])
        title = f"Detections at iteration {int(content['iteration']):,}"
    except (KeyError, TypeError, ValueError) as error:
        reason = escape(f"{path.name} cannot be read ({type(error).__name__}: {error})")
        return f'<p class="warning">{reason}: its pictures are left out.</p>'
    note = f"<p>Left the ground truth, right detections with a score of at least {SCORE_THRESHOLD}.</p>"
    return f'<h2>{title}</h2>{note}<div class="grid samples">{figures}</div>' if figures else ""


def _figure(caption: str, panels: Sequence[str]) -> str:
    """Two pictures side by side. Files may come from elsewhere: what is no base64 is an error, not part of the page."""
    data = [base64.b64encode(base64.b64decode(panel, validate=True)).decode() for panel in panels]
    pictures = "".join(
        f'<img alt="{alt}" src="data:image/jpeg;base64,{jpeg}">'
        for alt, jpeg in zip(("ground truth", "detections"), data, strict=True)
    )
    return f"<figure>{pictures}<figcaption>{escape(caption)}</figcaption></figure>"


def _config(text: str) -> str:
    return f"<h2>Config</h2><details><summary>config.yaml</summary><pre>{escape(text)}</pre></details>"


def _finite(points: Series) -> Series:
    return [point for point in points if math.isfinite(point[1])]


_STYLE = """
:root { color-scheme: light }
body { margin: 0 auto; padding: 24px; max-width: 1160px; background: #f8fafc; color: #1e293b;
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif }
h1 { margin: 0; font-size: 24px } h2 { margin: 32px 0 10px; font-size: 17px }
header p { margin: 0 0 16px } header p, h2 + p, figcaption, .legend { color: #64748b }
h2 + p { margin: -6px 0 10px; font-size: 13px }
.facts { display: flex; flex-wrap: wrap; gap: 12px }
.facts div { padding: 10px 18px; background: #fff; border: 1px solid #e2e8f0; border-radius: 8px; font-size: 13px;
  color: #64748b }
.facts b { display: block; font-size: 22px; color: #1e293b; font-weight: 600 }
.warning { padding: 8px 14px; background: #fef2f2; border-left: 3px solid #dc2626 }
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(460px, 100%), 1fr)); gap: 14px }
figure { margin: 0; padding: 12px 14px; background: #fff; border: 1px solid #e2e8f0; border-radius: 8px }
figcaption { font-size: 13px; overflow-wrap: anywhere }
svg { display: block; width: 100%; height: auto }
svg path { fill: none; stroke-width: 1.6; stroke-linejoin: round } svg line { stroke: #e2e8f0 }
svg text { fill: #64748b; font-size: 11px }
.legend { display: flex; flex-wrap: wrap; gap: 2px 14px; font-size: 12px }
.legend i { display: inline-block; width: 18px; margin-right: 5px; vertical-align: middle }
.scroll { max-height: 240px; overflow-y: auto }
table { width: 100%; border-collapse: collapse; font-size: 13px } td { padding: 1px 6px 1px 0 }
.bar { width: 55% } .bar i { display: block; height: 9px; background: #2563eb; border-radius: 2px }
.number { text-align: right; font-variant-numeric: tabular-nums }
.samples img { width: calc(50% - 3px); vertical-align: middle } .samples img + img { margin-left: 6px }
pre { overflow-x: auto; padding: 12px 14px; background: #fff; border: 1px solid #e2e8f0; border-radius: 8px;
  font-size: 12px }
summary { cursor: pointer }
"""

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<header><h1>{title}</h1><p>written {written}</p></header>
{body}
</body>
</html>
"""
