"""Writes the report of a run: `report.html`, one file that needs neither network nor scripts.

It is made from files in the run's folder, so that it can be regenerated at any time: `metrics.jsonl`, `config.yaml`,
`report_samples.json`, `report_errors.json` and `report_decoder.json`.
"""

import base64
import json
import math
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from html import escape
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from ..analysis import Analysis, to_json
from ..analysis.inspection import Inspection, kept_share, refinement
from ..checkpoint.files import replace_text
from ..metrics_file import METRICS_FILE, read_metrics
from .charts import PALETTE, Curve, line_chart
from .contact_sheet import SheetRow, draw_pair
from .error_pictures import draw_errors
from .error_sections import error_facts, error_heading, error_sections, picture_legend, shapes_of, style_parts
from .images import fit_size, jpeg_base64, to_pil
from .query_pictures import draw_attention, draw_refinement

Series = list[tuple[int, float]]
"""(iteration, value), in the order of the iterations."""

REPORT_FILE = "report.html"
SAMPLES_FILE = "report_samples.json"
ERROR_PAGE_FILE = "report_errors.json"
DECODER_PAGE_FILE = "report_decoder.json"

PANEL_SIZE, ERROR_PANEL_SIZE = 300, 420
NUM_DECODER_PICTURES = 3
FEWEST_BOXES, MOST_BOXES = 3, 20
FEWEST_EVALUATIONS = 4  # for a sentence about how AP developed
_JPEG_QUALITY = 72

# loss_class_3: loss of a decoder layer; loss_class_dn, loss_class_dn_3: of denoising; loss_class_enc: of the encoder.
_LOSS_NAME = re.compile(r"(?P<base>loss_.+?)(?P<denoising>_dn)?(?:_(?P<layer>\d+|enc))?$")


def write_report(output_dir: str | Path, out_html: str | Path | None = None) -> Path:
    """Write the report of the run in a folder.

    Args:
        output_dir: the run's folder. The report shows `metrics.jsonl`, `config.yaml`, `report_samples.json`,
            `report_errors.json` and `report_decoder.json`, if they exist.
        out_html: the file to write; None writes `report.html` in the folder.

    Raises:
        FileNotFoundError: when the folder has neither `metrics.jsonl` nor `report_errors.json`.
        ValueError: for a line of `metrics.jsonl` that is not JSON, except for the last line, which is incomplete after
            a run was killed.
    """
    output_dir = Path(os.path.expanduser(output_dir))
    error_file = output_dir / ERROR_PAGE_FILE
    with_errors = error_file.exists()
    has_log = (output_dir / METRICS_FILE).exists() or not with_errors
    series = _series(read_metrics(output_dir / METRICS_FILE)) if has_log else {}
    config = output_dir / "config.yaml"
    name = output_dir.resolve().name
    sections = [
        _facts(series) if has_log else "",
        _errors(error_file, with_facts=not has_log) if with_errors else "",
        _section("Average precision", [*_precisions(series, "bbox"), _classes(series, "bbox/AP")]),
        _section("Average precision of masks", [*_precisions(series, "segm"), _classes(series, "segm/AP")]),
        _section("Panoptic quality", [*_panoptic(series), _classes(series, "panoptic_seg/PQ")]),
        _section("Losses", _losses(series)),
        _section("Further numbers", _further(series)),
        _section("Learning rate and gradients", _optimisation(series)),
        _section("Throughput", _throughput(series)),
        _samples(output_dir / SAMPLES_FILE),
        _decoder_section(output_dir / DECODER_PAGE_FILE),
        _config(config.read_text(encoding="utf-8")) if config.exists() else "",
    ]
    page = _PAGE.format(
        title=escape(name),
        written=f"{datetime.now():%Y-%m-%d %H:%M}",
        style=_STYLE + "".join(style_parts()) if with_errors else _STYLE,
        body="\n".join(filter(None, sections)),
    )
    path = Path(os.path.expanduser(out_html)) if out_html is not None else output_dir / REPORT_FILE
    replace_text(path, page)
    return path


def write_samples(
    output_dir: str | Path, rows: Iterable[SheetRow], *, class_names: Sequence[str] | None, iteration: int | None
) -> None:
    """Save pictures of images with ground truth and detections for the report, as small JPEG images.

    Args:
        output_dir: the run's folder.
        rows: a few images. In each, the detections with the highest scores are drawn, without a threshold: as many as
            the image has objects, at least `FEWEST_BOXES` and at most `MOST_BOXES`.
        class_names: names by class index.
        iteration: the iteration of the detections; None when it is unknown.
    """
    samples = []
    for row in rows:
        best = row if isinstance(row.detections, tuple) else row._replace(detections=_best(row))
        pair = draw_pair(best, class_names, 0.0, PANEL_SIZE)
        caption = pair.caption
        if not isinstance(best.detections, tuple) and len(best.detections):
            scores = sorted(best.detections.scores.tolist())
            span = f"score {scores[-1]:.2f}" if len(scores) == 1 else f"scores {scores[-1]:.2f} to {scores[0]:.2f}"
            caption = f"{caption}, {span}"
        samples.append({"caption": caption, "panels": _jpegs(pair.panels)})
    replace_text(Path(output_dir) / SAMPLES_FILE, json.dumps({"iteration": iteration, "samples": samples}))


def _best(row: SheetRow) -> Any:
    """Return the detections with the highest scores."""
    objects = 0 if isinstance(row.ground_truth, tuple) else len(row.ground_truth)
    number = min(max(objects, FEWEST_BOXES), MOST_BOXES)
    order = row.detections.scores.argsort(descending=True, stable=True)
    return row.detections[order[:number]]


def write_error_page(
    output_dir: str | Path,
    analyses: Mapping[str, Analysis],
    images_of: Callable[[Analysis], Iterable[tuple[int, str, Any]]],
    of: str,
) -> None:
    """Save the errors of detections, and pictures of the worst images, for the report.

    Args:
        output_dir: the run's folder.
        analyses: the analysis of the "boxes" of the detections, and possibly that of their "masks".
        images_of: returns (position in the data set, name, picture) of some of the `worst_images` of an analysis; the
            pictures have the annotated size.
        of: a description of the detections, such as "detected at iteration 1,000".
    """
    content: dict[str, Any] = {"of": of}
    for shapes, analysis in analyses.items():
        pictures = []
        for position, name, image in images_of(analysis):
            picture = draw_errors(image, analysis, position, ERROR_PANEL_SIZE, name)
            pictures.append({"caption": picture.caption, "panels": _jpegs(picture.panels)})
        content[shapes] = {**to_json(analysis), "pictures": pictures}
    replace_text(Path(output_dir) / ERROR_PAGE_FILE, json.dumps(content, ensure_ascii=False, allow_nan=False))


def write_decoder_page(
    output_dir: str | Path,
    images: Sequence[tuple[str, Any, Inspection]],
    matches: np.ndarray,
    class_names: Sequence[str] | None,
    of: str,
) -> None:
    """Save the inspection of a decoder on a few images, for the report.

    Args:
        output_dir: the run's folder.
        images: (name, picture, inspection) of each image; pictures of the first images are drawn.
        matches: (L, T) the query of each object of these images in each layer, -1 for none.
        class_names: names by class index.
        of: a description of the detections.
    """
    inspections = [inspection for _, _, inspection in images]
    overlaps, probabilities = refinement(inspections)
    pictures = []
    for name, image, inspection in images[:NUM_DECODER_PICTURES]:
        picture = to_pil(image)
        _, size = fit_size(picture.size, ERROR_PANEL_SIZE)
        picture = picture.resize(size)
        [query] = inspection.best_queries(1)
        panels = [draw_refinement(picture, inspection, query, class_names)]
        attention = inspection.attentions[-1] if inspection.attentions else None
        panels.append(picture if attention is None else draw_attention(picture, inspection, query))
        caption = f"{name} · query {query}, score {inspection.scores[query]:.2f}"
        pictures.append({"caption": caption, "panels": _jpegs(panels)})
    content = {
        "of": of,
        "overlaps": overlaps.round(4).tolist(),
        "probabilities": probabilities.round(4).tolist(),
        "kept": [None if math.isnan(value) else round(float(value), 4) for value in kept_share(matches, matches[-1])],
        "pictures": pictures,
    }
    replace_text(Path(output_dir) / DECODER_PAGE_FILE, json.dumps(content, ensure_ascii=False, allow_nan=False))


def _decoder_section(path: Path) -> str:
    if not path.exists():
        return ""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        figures = "".join(
            _figure(picture["caption"], picture["panels"], ("refinement", "attention"))
            for picture in content["pictures"]
        )
        names = {
            "overlaps": "IoU of a box with that of the last layer",
            "probabilities": "probability of the class that the last layer predicts",
            "kept": "fraction of objects that are matched to the same query as in the last layer",
        }
        curves = [
            Curve(
                label,
                [
                    (number, math.nan if value is None else float(value))
                    for number, value in enumerate(content[name], 1)
                ],
                PALETTE[index],
            )
            for index, (name, label) in enumerate(names.items())
        ]
        description = escape(str(content["of"]))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        reason = escape(f"{path.name} cannot be read ({type(error).__name__}: {error})")
        return f'<p class="warning">{reason}: the section about the decoder is left out.</p>'
    note = (
        f"<p>A few images, {description}. Left: the best query's box after each decoder layer, from yellow (first) to "
        "red (last). Right: its attention in the last layer. Dots are the sampling points of deformable attention; "
        "their size shows the weight and their colour the feature level. For other attention, the image is bright "
        "where weights are high.</p>"
    )
    chart = line_chart("Layer by layer (first to last)", curves, dots=True, x_label="layer")
    return f'<h2>Inside the decoder</h2>{note}<div class="grid">{chart}</div><div class="samples worst">{figures}</div>'


def _jpegs(panels: Iterable[Any]) -> list[str]:
    return [jpeg_base64(panel, _JPEG_QUALITY) for panel in panels]


def _series(records: Iterable[dict[str, Any]]) -> dict[str, Series]:
    """Return all numbers by name. If a resumed run has written an iteration twice, the later line is used.

    null, which represents a number that is not finite, becomes nan.
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
    lost = [iteration for iteration, value in series.get("total_loss", []) if not math.isfinite(value)]
    warning = (
        f'<p class="warning">The loss was not finite at {len(lost)} of the logged iterations, first at {lost[0]:,}.</p>'
        if lost
        else ""
    )
    trend = "".join(f'<div class="plain"><p>{escape(text)}</p></div>' for text in _trend(series))
    return f"{_boxes(facts)}{warning}{trend}" if facts else "<p>Nothing has been logged yet.</p>"


def _trend(series: dict[str, Series]) -> list[str]:
    """Sentences about how the main metric developed; empty when there is nothing to learn from it."""
    names = [name for name in ("segm/AP", "bbox/AP", "panoptic_seg/PQ") if name in series]
    points = _finite(series[names[0]]) if names else []
    if len(points) < FEWEST_EVALUATIONS:
        return []
    label = names[0].rpartition("/")[2]
    last, final = points[-1]
    iteration, best = max(points, key=lambda point: point[1])
    if best <= 0:
        return []
    if iteration == last:
        return [f"{label} was highest at the last evaluation: a longer training would probably reach more."]
    if iteration <= 0.6 * last and final < 0.99 * best:
        return [
            f"{label} was highest at iteration {iteration:,} of {last:,} and has not been exceeded since: the detector "
            "has probably been fitted to details of the training images. More images or stronger augmentation may "
            "help; a longer training will not. model_best.pth has the weights with the highest value."
        ]
    return []


def _boxes(facts: Iterable[tuple[str, str]]) -> str:
    """Return HTML with (label, value) pairs as boxes in a row."""
    cells = "".join(f"<div><b>{escape(value)}</b>{escape(label)}</div>" for label, value in facts)
    return f'<div class="facts">{cells}</div>'


def _errors(path: Path, *, with_facts: bool) -> str:
    """Return the sections about the errors of the last evaluation."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        facts = _boxes(error_facts(content)) if with_facts else ""
        return facts + "".join(_errors_of(shapes, content) for shapes in shapes_of(content))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        reason = escape(f"{path.name} cannot be read ({type(error).__name__}: {error})")
        return f'<p class="warning">{reason}: the section about errors is left out.</p>'


def _errors_of(shapes: str, page: dict[str, Any]) -> str:
    """Return the sections about boxes or about masks."""
    pictures = page[shapes]["pictures"]
    figures = "".join(_figure(picture["caption"], picture["panels"]) for picture in pictures)
    sections = error_sections(shapes, page)
    if not figures:
        return sections
    note = (
        "<p>The images whose errors cost most AP50. Left: annotations. Right: detections at the thresholds of the "
        "classes. The colour shows the kind of error; correct detections have no label.</p>"
    )
    title = error_heading("Worst images", shapes, page)
    return f'{sections}{title}{note}{picture_legend()}<div class="samples worst">{figures}</div>'


def _section(title: str, parts: Iterable[str]) -> str:
    content = "".join(parts)
    return f'<h2>{title}</h2><div class="grid">{content}</div>' if content else ""


def _curves(series: dict[str, Series], names: dict[str, str]) -> list[Curve]:
    """Return the curves of the names that exist in the series; `names` is name -> label in the legend."""
    labelled = [(label, series[name]) for name, label in names.items() if name in series]
    return [Curve(label, points, PALETTE[number % len(PALETTE)]) for number, (label, points) in enumerate(labelled)]


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
    """Return a table of a metric (group/name) of each class at the last evaluation, in descending order."""
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
    title = f"{metric.split('/')[1]} of each class at the last evaluation, %; - means no objects"
    return f'<figure><figcaption>{title}</figcaption><div class="scroll"><table>{cells}</table></div></figure>'


def _losses(series: dict[str, Series]) -> Iterable[str]:
    yield line_chart("total loss", _curves(series, {"total_loss": "total loss"}))
    ratios = denoising_ratios(series)
    yield line_chart(
        "denoising loss over matching loss, last layer: below 1 if matching is the harder task",
        _curves(ratios, {name: name for name in ratios}),
    )
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


def denoising_ratios(series: dict[str, Series]) -> dict[str, Series]:
    """Return the ratio of denoising to matching losses in the last layer (DN-DETR, Li et al., CVPR 2022).

    Both compare the same heads with the same objects, but denoising queries are assigned to their objects in advance.
    The difference is the cost of finding and assigning objects.

    Args:
        series: losses by name, as in `metrics.jsonl`.

    Returns:
        Name of a loss, such as "loss_bbox" -> (iteration, ratio), for iterations in which both are logged and finite.
    """
    ratios: dict[str, Series] = {}
    for name, points in series.items():
        match = _LOSS_NAME.match(name)
        if match is None or match["denoising"] or match["layer"] or f"{name}_dn" not in series:
            continue
        matching = dict(_finite(points))
        values = [
            (iteration, value / matching[iteration])
            for iteration, value in _finite(series[f"{name}_dn"])
            if matching.get(iteration, 0.0) > 0
        ]
        if values:
            ratios[name] = values
    return ratios


_LAYER_NAMES = {"last": "last layer", "enc": "encoder"}


def _layer_colour(name: str, number_of_layers: int) -> str:
    """Return the colour of a layer: later layers are darker, and the last layer has a separate colour."""
    if not name.isdigit():
        return {"last": PALETTE[1], "enc": "#64748b"}[name]
    return f"hsl(217 75% {78 - 40 * (int(name) + 1) / max(number_of_layers, 1):.0f}%)"


_KNOWN_NAMES = re.compile(
    r"total_loss|lr|time|images_per_second|grad_norm|memory_mb|.*_time|loss_.*|(bbox|segm|panoptic_seg)/.*"
)


def _further(series: dict[str, Series]) -> Iterable[str]:
    """Yield charts of the values that models pass to `log_scalar`, and of the metrics of users' evaluators."""
    for name, points in series.items():
        if not _KNOWN_NAMES.fullmatch(name):
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
        iteration = content["iteration"]
        title = "Detections" if iteration is None else f"Detections at iteration {int(iteration):,}"
    except (KeyError, TypeError, ValueError) as error:
        reason = escape(f"{path.name} cannot be read ({type(error).__name__}: {error})")
        return f'<p class="warning">{reason}: its pictures are left out.</p>'
    note = (
        "<p>Left: ground truth. Right: the detections with the highest scores, without a threshold: as many as there "
        f"are objects, but at least {FEWEST_BOXES} and at most {MOST_BOXES}.</p>"
    )
    return f'<h2>{title}</h2>{note}<div class="grid samples">{figures}</div>' if figures else ""


def _figure(caption: str, panels: Sequence[str], alternatives: tuple[str, str] = ("ground truth", "detections")) -> str:
    """Return two pictures in a row. Data that is not base64 raises an error, because files may not be trusted."""
    data = [base64.b64encode(base64.b64decode(panel, validate=True)).decode() for panel in panels]
    pictures = "".join(
        f'<img alt="{alt}" src="data:image/jpeg;base64,{jpeg}">' for alt, jpeg in zip(alternatives, data, strict=True)
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
.worst figure { margin-bottom: 12px } .grid + .worst { margin-top: 12px } .legend + .samples { margin-top: 8px }
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
