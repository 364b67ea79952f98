"""Draws pictures of a DETR's decoder: how a box is refined, and where a query attends."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from ..analysis.inspection import Inspection, QueryPlaces
from .charts import PALETTE
from .drawing import Colour, DrawnObject, class_label, draw_objects
from .images import to_pil

_FIRST_LAYER, _LAST_LAYER = (255, 221, 87), (214, 0, 73)
_BOX: Colour = (255, 255, 255)
_POINT_LEVELS: tuple[Colour, ...] = ((0, 184, 212), (60, 180, 75), (245, 130, 49), (240, 50, 230), (67, 99, 216))


def draw_refinement(
    image: Any, inspection: Inspection, query: int, class_names: Sequence[str] | None = None
) -> Image.Image:
    """Draw the box of one query after each decoder layer, from yellow (first layer) to red (last layer).

    Args:
        image: a PIL image, an (H, W, 3) uint8 RGB array or a (3, H, W) uint8 RGB tensor; shows the frame of the boxes,
            at any size.
        inspection: the inspection of the image.
        query: index of the query.
        class_names: names by class index.
    """
    canvas = to_pil(image)
    height, width = inspection.size
    scale = np.array([canvas.width / width, canvas.height / height] * 2)
    num_layers = len(inspection.boxes)
    objects = []
    for layer in reversed(range(num_layers)):
        x0, y0, x1, y1 = (inspection.boxes[layer, query] * scale).clip(0, [*canvas.size, *canvas.size]).tolist()
        k = int(inspection.classes[query])
        score = inspection.probabilities[layer, query, k]
        label = f"{layer + 1}: {class_label(k, class_names)} {score:.2f}" if layer in (0, num_layers - 1) else ""
        colour = _blend(layer / max(num_layers - 1, 1))
        objects.append(DrawnObject((x0, y0, x1, y1), k, label, colour=colour))
    draw_objects(canvas, objects, line_width=2)
    return canvas


def draw_attention(image: Any, inspection: Inspection, query: int, layer: int = -1) -> Image.Image:
    """Draw the cross-attention of one query in one decoder layer, with its box.

    Sampling points of deformable attention are drawn as dots, whose size shows their weight and whose colour shows
    their feature level. Attention weights of a feature map are drawn as brightness of the image.

    Args:
        image: see `draw_refinement`.
        inspection: the inspection of the image.
        query: index of the query.
        layer: index of the decoder layer; -1 is the last one.

    Raises:
        ValueError: when the attention of this layer was not recorded.
    """
    attention = inspection.attentions[layer]
    if attention is None:
        raise ValueError(f"the attention of decoder layer {layer} was not recorded")
    canvas = to_pil(image)
    if attention.points is None:
        canvas = _brightened(canvas, attention.map_of(query))
    x0, y0, x1, y1 = (
        inspection.boxes[-1, query]
        * np.array([canvas.width / inspection.size[1], canvas.height / inspection.size[0]] * 2)
    ).tolist()
    draw = ImageDraw.Draw(canvas)
    draw.rectangle((x0, y0, max(x1, x0), max(y1, y0)), outline=_BOX, width=2)
    if attention.points is not None:
        _draw_points(draw, canvas.size, attention.points[query], attention.weights[query], attention.levels)
    return canvas


def _draw_points(
    draw: ImageDraw.ImageDraw, size: tuple[int, int], points: np.ndarray, weights: np.ndarray, levels: Any
) -> None:
    """Draw sampling points, large ones first, so that small ones remain visible."""
    places, values = points.reshape(-1, 2), weights.reshape(-1)
    colours = np.tile(levels, len(weights))
    largest = max(size) / 55
    for row in np.argsort(-values, kind="stable"):
        x, y = places[row, 0] * size[0], places[row, 1] * size[1]
        radius = max(largest * float(values[row] / max(values.max(), 1e-12)) ** 0.5, 1.0)
        fill = _POINT_LEVELS[int(colours[row]) % len(_POINT_LEVELS)]
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=fill, outline=(20, 20, 20))


def _brightened(canvas: Image.Image, weights: np.ndarray) -> Image.Image:
    intensity = Image.fromarray((255 * weights / max(weights.max(), 1e-12)).astype(np.uint8))
    light = np.asarray(intensity.resize(canvas.size, Image.Resampling.BICUBIC), dtype=np.float64)[..., None] / 255
    pixels = np.asarray(canvas, dtype=np.float64)
    hot = np.array([255.0, 200.0, 0.0])
    mixed = pixels * (0.25 + 0.75 * light) * (1 - 0.35 * light) + hot * 0.35 * light
    return Image.fromarray(mixed.clip(0, 255).astype(np.uint8))


def draw_query_places(places: QueryPlaces, number: int = 12, size: int = 130, columns: int = 6) -> str:
    """Draw charts with the box positions of the queries that have the most detections, as one SVG (DETR, figure 7).

    Each dot is the centre of a box in the unit square of its image: small boxes are blue, wide boxes red and tall boxes
    green.

    Args:
        places: the result of `detrex_lite.analysis.inspection.query_places`.
        number: the largest number of queries.
        size: size of each chart in pixels.
        columns: number of charts in a row.
    """
    counts = places.detections_per_query()
    busiest = [int(query) for query in np.argsort(-counts, kind="stable")[:number] if counts[query]]
    if not busiest:
        return ""
    parts = []
    for place, query in enumerate(busiest):
        left, top = place % columns * (size + 12), place // columns * (size + 28)
        parts.append(
            f'<rect x="{left}" y="{top + 16}" width="{size}" height="{size}" fill="#f8fafc" stroke="#cbd5e1"/>'
        )
        parts.append(f'<text x="{left}" y="{top + 11}">query {query}: {int(counts[query])}</text>')
        for row in np.flatnonzero(places.query == query):
            x, y = places.centres[row].clip(0, 1) * size
            circle = (
                f'<circle cx="{left + x:.1f}" cy="{top + 16 + y:.1f}" r="2" fill="{_size_colour(places.sizes[row])}"/>'
            )
            parts.append(circle)
    width = min(len(busiest), columns) * (size + 12) - 12
    height = -(-len(busiest) // columns) * (size + 28)
    return f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="places of queries">{"".join(parts)}</svg>'


def _size_colour(sides: np.ndarray) -> str:
    width, height = sides.tolist()
    if width * height < 0.05:
        return PALETTE[0]
    return PALETTE[1] if width >= height else PALETTE[2]


def _blend(fraction: float) -> Colour:
    red, green, blue = (
        round(first + fraction * (last - first)) for first, last in zip(_FIRST_LAYER, _LAST_LAYER, strict=True)
    )
    return red, green, blue
