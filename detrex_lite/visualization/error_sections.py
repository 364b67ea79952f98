"""The sections of a run's report about the errors of its detections.

They are made from `report_errors.json`, which may be from an untrusted source, so every text is escaped and every
number is converted.
"""

import math
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

from ..analysis import BOXES, KINDS, MASKS, MEANINGS, SHAPES
from .charts import PALETTE, Curve, line_chart
from .error_pictures import KIND_COLOURS, RIGHT_COLOUR

_MOST_CURVES = 6
_MOST_CLASSES_OF_MATRIX = 15
_MOST_CONFUSIONS = 15


def shapes_of(page: dict[str, Any]) -> list[str]:
    """Return what a page compares: "boxes", and "masks" if it has them."""
    return [BOXES, *(shapes for shapes in SHAPES if shapes != BOXES and shapes in page)]


def error_facts(page: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the (label, value) pairs at the top of a page about an evaluation without training."""
    facts = [("images", f"{int(page[BOXES]['images']):,}"), ("objects", f"{int(page[BOXES]['objects']):,}")]
    for shapes in shapes_of(page):
        kind = "mask " if shapes == MASKS else ""
        point = page[shapes]["all_classes"]
        facts += [
            (f"{kind}AP", _text(page[shapes]["AP"])),
            (f"{kind}AP50", _text(page[shapes]["AP50"])),
            (f"{kind}precision at the threshold {_text(point['threshold'], 2)}", _percent(point["precision"])),
            (f"{kind}recall there", _percent(point["recall"])),
        ]
    return facts


def error_heading(title: str, shapes: str, page: dict[str, Any]) -> str:
    """Return a heading as HTML, with the name of the shapes if the page has boxes and masks."""
    return f"<h2>{title}: {shapes}</h2>" if len(shapes_of(page)) > 1 else f"<h2>{title}</h2>"


def error_sections(shapes: str, page: dict[str, Any]) -> str:
    """Return the sections about boxes or masks as HTML, without pictures.

    Args:
        shapes: "boxes" or "masks".
        page: for these shapes the result of `detrex_lite.analysis.to_json`, and `of`, a description of the detections.

    Raises:
        KeyError, TypeError, ValueError: for invalid content.
    """
    content = page[shapes]
    sentences = "".join(f"<p>{escape(str(sentence))}</p>" for sentence in content["sentences"])
    subject = f"{int(content['objects']):,} objects in {int(content['images']):,} images, {escape(str(page['of']))}"
    links = "".join(f' · <a href="#errors-{name}">{name}</a>' for name in shapes_of(page) if name != shapes)
    return "".join(
        [
            f'<div id="errors-{shapes}">{error_heading("What is wrong", shapes, page)}</div>',
            f'<p>{subject}{links}</p><div class="plain">{sentences}</div>',
            f'<div class="grid">{_kinds(content)}{_curve_charts(content)}</div>',
            f"{error_heading('Classes', shapes, page)}{_CLASSES_NOTE}{_classes(content['classes'])}",
            f"{error_heading('Confusions', shapes, page)}{_confusions(content)}",
            f'{error_heading("Sizes, crowding and scores", shapes, page)}<div class="grid">',
            _bars("AP by the size of objects, %", content["sizes"], "objects", _SIZES_NOTE),
            _bars("AP by the number of objects in an image, %", content["crowding"], "images", ""),
            _calibration(content["calibration"]),
            "</div>",
        ]
    )


def picture_legend() -> str:
    """Return the legend of the colours in the pictures of the worst images."""
    entries = [("right", "", RIGHT_COLOUR), *((kind, MEANINGS[kind], KIND_COLOURS[kind]) for kind in KINDS)]
    return '<div class="legend">{}</div>'.format(
        "".join(
            f'<span title="{escape(meaning)}"><i style="border-top:4px '
            f'{"dashed" if kind == "missed" else "solid"} rgb{colour}"></i>{kind}</span>'
            for kind, meaning, colour in entries
        )
    )


_CLASSES_NOTE = (
    "<p>Classes from worst to best. Threshold: the score threshold with the highest F1; precision and recall are at "
    "this threshold and an IoU of 0.5. Costs most: the kind of error that costs the class most points of AP50.</p>"
)
_GAINS_NOTE = (
    "The gains of AP50 consider detections of all scores, like AP itself: an object whose only detections are below "
    "the threshold counts as missed at the threshold, but not for AP50."
)
_SIZES_NOTE = "COCO's sizes: small below 32² pixels of the original image, large above 96²."


def _kinds(content: dict[str, Any]) -> str:
    rows = []
    most = max((_value(content["kinds"][kind]["gain"]) for kind in KINDS), default=0.0)
    for kind in KINDS:
        gain, count = _value(content["kinds"][kind]["gain"]), int(content["kinds"][kind]["count"])
        width = 100 * max(gain, 0) / max(most, 1e-9)
        rows.append(
            f'<tr><td><i class="dot" style="background:rgb{KIND_COLOURS[kind]}"></i>{kind}'
            f'<small>{escape(MEANINGS[kind])}</small><td class="number">{count:,}'
            f'<td class="bar"><i style="width:{width:.1f}%"></i><td class="number">{gain:+.1f}'
        )
    return (
        '<figure class="table"><figcaption>Kinds of errors (TIDE): their number at the thresholds of the classes, and '
        "the points of AP50 that fixing each kind would gain</figcaption>"
        f'<table><tr><th>kind<th class="number">number<th><th class="number">AP50{"".join(rows)}</table>'
        f"<small>{_GAINS_NOTE}</small></figure>"
    )


def _curve_charts(content: dict[str, Any]) -> str:
    curves = content["curves"]
    recall = [_value(value) for value in curves["recall"]]

    def points(values: Sequence[Any]) -> list[tuple[float, float]]:
        return list(zip(recall, (_value(value) for value in values), strict=False))

    names = list(curves["classes"])[:_MOST_CURVES] if len(curves["classes"]) > 1 else []
    drawn = [Curve("mean of all classes" if names else "all", points(curves["mean"]), "#0f172a")]
    drawn += [
        Curve(str(name), points(curves["classes"][name]), PALETTE[number % len(PALETTE)], dashed=True)
        for number, name in enumerate(names)
    ]
    worst = f"; the {len(names)} worst classes are dashed" if len(names) < len(curves["classes"]) else ""
    return line_chart(
        f"Precision (up) against recall (to the right) of all detections at an IoU of 0.5{worst}",
        drawn,
        x_label="recall",
    )


def _classes(classes: dict[str, Any]) -> str:
    def worst_first(item: tuple[str, Any]) -> float:
        value = _value(item[1]["AP"])
        return value if math.isfinite(value) else math.inf

    rows = []
    for name, values in sorted(classes.items(), key=worst_first):
        precision = _value(values["AP"])
        gains = {kind: _value(values["gains"][kind]) for kind in KINDS}
        kind = max(gains, key=lambda kind: gains[kind] if math.isfinite(gains[kind]) else -math.inf)
        costly = f"{kind} {gains[kind]:+.1f}" if math.isfinite(gains[kind]) and gains[kind] >= 0.05 else "-"
        width = precision if math.isfinite(precision) else 0.0
        rows.append(
            f'<tr><td>{escape(str(name))}<td class="number">{int(values["objects"]):,}'
            f'<td class="bar"><i style="width:{width:.1f}%"></i><td class="number">{_text(precision)}'
            f'<td class="number">{_text(values["AP50"])}<td class="number">{_text(values["AP75"])}'
            f'<td class="number">{_text(values["threshold"], 2)}<td class="number">{_text(values["precision"])}'
            f'<td class="number">{_text(values["recall"])}<td class="number">{_text(values["F1"])}<td>{costly}'
        )
    numbers = ("AP", "AP50", "AP75", "threshold", "precision", "recall", "F1")
    columns = "".join(f'<th class="number">{title}' for title in numbers)
    head = f'<th>class<th class="number">objects<th>{columns}<th>costs most'
    return f'<figure><div class="scroll tall"><table class="classes"><tr>{head}{"".join(rows)}</table></div></figure>'


def _confusions(content: dict[str, Any]) -> str:
    cells = {
        (None if row is None else str(row), None if column is None else str(column)): int(number)
        for row, column, number in content["confusion"]
    }
    names = [str(name) for name in content["classes"]]
    wrong = sorted(
        ((pair, number) for pair, number in cells.items() if None not in pair and pair[0] != pair[1]),
        key=lambda item: -item[1],
    )
    chosen = names
    if len(names) > _MOST_CLASSES_OF_MATRIX:
        ordered = [name for pair, _ in wrong for name in pair if name is not None]
        chosen = list(dict.fromkeys([*ordered, *names]))[:_MOST_CLASSES_OF_MATRIX]
        chosen = [name for name in names if name in chosen]
    frequent = "".join(
        f'<tr><td>{escape(str(truth))}<td>{escape(str(detected))}<td class="number">{number:,}'
        for (truth, detected), number in wrong[:_MOST_CONFUSIONS]
    )
    listed = (
        '<figure class="table"><figcaption>Most frequent confusions of classes</figcaption>'
        f'<table><tr><th>is<th>detected as<th class="number">times{frequent}</table></figure>'
        if frequent and len(names) > 3
        else ""
    )
    scope = f"; the {len(chosen)} most confused of {len(names)} classes" if len(chosen) < len(names) else ""
    caption = f"Rows: class of the object. Columns: detected class, at the thresholds of the classes{scope}"
    return f'<figure class="table"><figcaption>{caption}</figcaption>{_matrix(cells, chosen)}</figure>{listed}'


def _matrix(cells: dict[tuple[str | None, str | None], int], names: Sequence[str]) -> str:
    columns: list[str | None] = [*names, None]
    head = "".join(
        f'<th class="up"><span>{escape(name) if name is not None else "not detected"}</span>' for name in columns
    )
    rows = []
    for row in columns:
        total = sum(number for (truth, _), number in cells.items() if truth == row)
        line = [f"<tr><th>{escape(row) if row is not None else 'no object'}"]
        for column in columns:
            number = cells.get((row, column), 0)
            fraction = number / total if total else 0.0
            hue = 142 if row == column else 8
            colour = f' style="background:hsl({hue} 75% {100 - 50 * fraction:.0f}%)"' if number else ""
            line.append(f"<td{colour}>{f'{number:,}' if number else ''}")
        rows.append("".join(line))
    return f'<div class="wide"><table class="matrix"><tr><th>{head}{"".join(rows)}</table></div>'


def _bars(title: str, values: dict[str, Any], counted: str, note: str) -> str:
    rows = []
    for name, value in values.items():
        if not int(value[counted]):
            continue
        precision = _value(value["AP"])
        bar = f'<i style="width:{precision:.1f}%"></i>' if math.isfinite(precision) else ""
        rows.append(
            f'<tr><td>{escape(str(name))}<td class="number">{int(value[counted]):,}<td class="bar">{bar}'
            f'<td class="number">{_text(precision)}'
        )
    small = f"<small>{note}</small>" if note else ""
    head = f'<tr><th><th class="number">{counted}<th><th class="number">AP'
    return (
        f'<figure class="table"><figcaption>{title}</figcaption><table>{head}{"".join(rows)}</table>{small}</figure>'
        if rows
        else ""
    )


def _calibration(values: dict[str, Any]) -> str:
    points = [
        (_value(score), _value(precision))
        for score, precision, count in zip(values["score"], values["precision"], values["count"], strict=True)
        if int(count)
    ]
    chart = line_chart(
        "Are scores reliable? Fraction of correct detections (up) against their score (to the right); above the dashed "
        f"line scores are too low, below it too high. Calibration error (D-ECE) {_text(values['error'])} %",
        [
            Curve("detections", points, PALETTE[0]),
            Curve("score = fraction of correct detections", [(0.0, 0.0), (1.0, 1.0)], "#94a3b8", dashed=True),
        ],
        dots=True,
        x_label="score",
    )
    return chart if points else ""


def _value(number: Any) -> float:
    return math.nan if number is None else float(number)


def _text(number: Any, digits: int = 1) -> str:
    value = _value(number)
    return f"{value:.{digits}f}" if math.isfinite(value) else "-"


def _percent(number: Any) -> str:
    text = _text(number)
    return text if text == "-" else f"{text} %"


def style_parts() -> Iterable[str]:
    """Yield the CSS of these sections."""
    yield """
.plain { padding: 10px 16px; margin-bottom: 14px; background: #fff; border: 1px solid #e2e8f0;
  border-left: 4px solid #2563eb; border-radius: 8px; font-size: 16px }
.plain p { margin: 4px 0 }
small { display: block; color: #64748b; font-size: 12px }
th { text-align: left; font-weight: 500; color: #64748b; padding: 1px 6px 1px 0; font-size: 12px }
th.number { text-align: right; padding-right: 8px } td.number { padding-right: 8px }
.dot { display: inline-block; width: 10px; height: 10px; border-radius: 50%; margin-right: 6px }
.table .bar { width: 40% } .table td { padding: 3px 8px 3px 0; vertical-align: top }
.tall { max-height: 460px } .classes .bar { width: 14% } .classes td { padding: 2px 10px 2px 0 }
.classes th { position: sticky; top: 0; background: #fff }
.wide { overflow-x: auto } figure + figure.table { margin-top: 14px } .grid figure + figure.table { margin-top: 0 }
.matrix { width: auto; margin-top: 12px }
.matrix td { min-width: 30px; height: 24px; text-align: center; vertical-align: middle;
  border: 1px solid #f1f5f9; padding: 0 4px; font-variant-numeric: tabular-nums }
.matrix .up { vertical-align: bottom; padding: 0 0 4px } .matrix .up span { writing-mode: vertical-rl;
  transform: rotate(180deg); max-height: 120px; overflow: hidden; white-space: nowrap }
"""
