"""detectron2's COCO evaluator for data sets of this package."""

import json
from pathlib import Path
from typing import Any

from .. import distributed
from ..data.detectron2_catalog import register_detectron2_dataset
from .pycocotools_bridge import build_ground_truth


def detectron2_coco_evaluator(*, dataset: Any, output_dir: str | Path) -> Any:
    """Create detectron2's `COCOEvaluator`, with the arguments of `CocoEvaluator`, for `dataloader.evaluator`.

    The ground truth is written as COCO JSON with the areas and crowds of the data set, because detectron2 would compute
    areas from the boxes; with masks if the data set has them. Masks are then compared if the model returns any.

    Args:
        dataset: a `DetectionDataset`.
        output_dir: folder of `ground_truth.json` and the files of detectron2.

    Raises:
        ImportError: when detectron2 is not installed.
        DatasetError: when the folder was used for another data set in this process.
        ValueError: when the classes are not in the order of their category ids, which detectron2 requires.
    """
    if list(dataset.category_ids) != sorted(dataset.category_ids):
        raise ValueError(
            f"detectron2's evaluator would mix up the classes of {dataset.name!r}, whose category ids are "
            f"{', '.join(map(str, dataset.category_ids))}: they must increase; CocoEvaluator accepts any order"
        )
    with_masks = dataset.segmentations is not None
    folder = Path(output_dir).absolute()
    file = folder / "ground_truth.json"
    # Registered by the file: metadata cannot be changed, and a data set may be evaluated in several folders.
    name = register_detectron2_dataset(dataset, str(file))
    from detectron2.data import MetadataCatalog
    from detectron2.evaluation import COCOEvaluator

    if distributed.is_main_process():
        content = dict(build_ground_truth(dataset, with_masks=with_masks).dataset)
        if not dataset.has_annotations:
            del content["annotations"]  # without this key detectron2 only writes predictions
        folder.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(content), encoding="utf-8")
    distributed.barrier()
    MetadataCatalog.get(name).json_file = str(file)
    # None: the types of comparison follow from the predictions.
    return COCOEvaluator(name, tasks=None if with_masks else ("bbox",), output_dir=str(folder))
