"""Files of panoptic segmentations: COCO's JSON with a PNG per image (https://cocodataset.org/#format-data).

The colour of a pixel is the id of its segment: red + 256 · green + 256² · blue; black is void.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from ..structures import masks_to_boxes

MAX_ID = 256**3 - 1


def write_segmentation(path: Path, ids: np.ndarray) -> None:
    """Write segment ids (H, W), 0 to `MAX_ID`, as a PNG; the folder is created."""
    path.parent.mkdir(parents=True, exist_ok=True)
    colours = np.stack([ids >> shift & 255 for shift in (0, 8, 16)], axis=-1).astype(np.uint8)
    Image.fromarray(colours).save(path, format="PNG", compress_level=1)


def panoptic_annotation(
    image_id: int, file_name: str, infos: Sequence[Mapping[str, Any]], ids: np.ndarray, category_ids: Sequence[int]
) -> dict[str, Any]:
    """Create the entry of an image in the `annotations` of a panoptic JSON file.

    Args:
        image_id: id of the image.
        file_name: name of its PNG.
        infos: a model's `segments_info`, with class indices as `category_id`.
        ids: (H, W) segment ids.
        category_ids: K category ids.
    """
    segments = []
    for info in infos:
        mask = torch.from_numpy(ids == info["id"])
        x0, y0, x1, y1 = (int(edge) for edge in masks_to_boxes(mask[None])[0].tolist())
        segment: dict[str, Any] = {
            "id": int(info["id"]),
            "category_id": category_ids[info["category_id"]],
            "bbox": [x0, y0, x1 - x0, y1 - y0],
            "area": int(mask.sum()),
            "iscrowd": 0,
        }
        if "score" in info:
            segment["score"] = float(info["score"])
        segments.append(segment)
    return {"image_id": image_id, "file_name": file_name, "segments_info": segments}
