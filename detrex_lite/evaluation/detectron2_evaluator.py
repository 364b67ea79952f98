"""detectron2's COCO evaluator on a data set of this package."""

import json
from pathlib import Path
from typing import Any

from .. import distributed
from ..data.detectron2_catalog import register_detectron2_dataset
from .pycocotools_bridge import build_ground_truth


def detectron2_coco_evaluator(*, dataset: Any, output_dir: str | Path) -> Any:
    """detectron2's `COCOEvaluator`, with the arguments of `CocoEvaluator` and for its place, `dataloader.evaluator`.

    The ground truth is written as COCO JSON with the areas and crowds of the data set, since detectron2 would make up
    areas from the boxes; with masks where the data set has them. Then masks are compared if the model gives any.

    Args:
        dataset: a `DetectionDataset`.
        output_dir: where `ground_truth.json` and what detectron2 writes go.

    Raises:
        ImportError: when detectron2 is not installed.
        DatasetError: when the folder served another data set in this process.
        ValueError: when the classes are not in the order of their category ids, which detectron2 takes for granted.
    """
    if list(dataset.category_ids) != sorted(dataset.category_ids):
        raise ValueError(
            f"detectron2's evaluator would mix up the classes of {dataset.name!r}, whose category ids are "
            f"{', '.join(map(str, dataset.category_ids))}: they must increase; CocoEvaluator takes any"
        )
    with_masks = dataset.segmentations is not None
    folder = Path(output_dir).absolute()
    file = folder / "ground_truth.json"
    # Named by the file: metadata cannot be changed, and one data set may be evaluated in several folders.
    name = register_detectron2_dataset(dataset, str(file))
    from detectron2.data import MetadataCatalog
    from detectron2.evaluation import COCOEvaluator

    if distributed.is_main_process():
        content = dict(build_ground_truth(dataset, with_masks=with_masks).dataset)
        if not dataset.has_annotations:
            del content["annotations"]  # their absence tells detectron2 to write predictions alone
        folder.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(content), encoding="utf-8")
    distributed.barrier()
    MetadataCatalog.get(name).json_file = str(file)
    # None: what the predictions have.
    return COCOEvaluator(name, tasks=None if with_masks else ("bbox",), output_dir=str(folder))
