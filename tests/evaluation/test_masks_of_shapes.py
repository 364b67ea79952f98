"""Data configs with masks, from loader to metrics, evaluated with a detector that returns the annotations."""

import json

import pytest
import torch
from torch import nn

from detrex_lite.config import get_config, instantiate
from detrex_lite.data import generate_shapes, load_coco, record_masks
from detrex_lite.evaluation import format_table, run_evaluation
from detrex_lite.structures import Boxes, Instances, masks_to_boxes


class AnnotationDetector(nn.Module):
    """Returns the annotated objects, without the part in the lowest `missing` rows of each image."""

    def __init__(self, dataset, missing):
        super().__init__()
        self.records = {record["image_id"]: record for record in dataset}
        self.is_panoptic = not dataset.is_thing.all()
        self.missing = missing

    def forward(self, batched_inputs):
        return [self.detect(self.records[record["image_id"]]) for record in batched_inputs]

    def detect(self, record):
        masks, classes = record_masks(record), record["classes"]
        masks[:, record["height"] - self.missing :] = False
        is_visible = masks.flatten(1).any(1)
        masks, classes = masks[is_visible], classes[is_visible]
        instances = Instances((record["height"], record["width"]), pred_boxes=Boxes(masks_to_boxes(masks)))
        instances.set("scores", torch.full((len(masks),), 0.9))
        instances.set("pred_classes", classes)
        instances.set("pred_masks", masks)
        output = {"instances": instances}
        if self.is_panoptic:
            ids = torch.arange(1, len(masks) + 1, dtype=torch.int32)
            infos = [
                {"id": segment_id, "category_id": k}
                for segment_id, k in zip(ids.tolist(), classes.tolist(), strict=True)
            ]
            output["panoptic_seg"] = ((masks * ids[:, None, None]).sum(0, dtype=torch.int32), infos)
        return output


@pytest.mark.parametrize("kind", ["masks", "panoptic"])
def test_annotated_masks_score_100_and_partial_masks_score_less(tmp_path, kind):
    generate_shapes(tmp_path / "shapes", num_train=1, num_val=8, seed=3)
    config = get_config(f"common/data/shapes_{kind}.py")
    config.dataset.root = str(tmp_path / "shapes")
    config.dataloader.test.num_workers = 0
    config.train = {"output_dir": str(tmp_path / "run")}
    loader, evaluator = instantiate(config.dataloader.test), instantiate(config.dataloader.evaluator)
    dataset = instantiate(config.dataloader.test.dataset)

    results = run_evaluation(AnnotationDetector(dataset, 0), loader, evaluator)
    scores = {"bbox": "AP", "segm": "AP", **({"panoptic_seg": "PQ"} if kind == "panoptic" else {})}
    assert list(results) == list(scores)
    for group, name in scores.items():
        assert results[group][name] == pytest.approx(100), group
    assert "Masks:" in format_table(results)
    assert {f"{group}/{name}" for group in results for name in results[group]} == set(evaluator.metric_names)

    predictions = json.loads((tmp_path / "run" / "evaluation" / "predictions.json").read_text())
    truth = load_coco(tmp_path / "shapes/annotations/val.json", tmp_path, masks=True)
    assert len(predictions) == truth.num_boxes

    partial_results = run_evaluation(AnnotationDetector(dataset, 30), loader, evaluator)
    for group, name in scores.items():
        assert 5 < partial_results[group][name] < 95, group
