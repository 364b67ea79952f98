import json
import math

import pytest
import torch

from detrex_lite.evaluation import CocoEvaluator, detectron2_coco_evaluator
from tests.detectron2 import needs_detectron2

from .datasets import MemoryDataset, model_input, model_output

DETECTRON2_METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AP-cat", "AP-dog")


def random_case(num_images=12):
    """A data set with crowds and areas that differ from the boxes', and detections of which about half are correct."""
    generator = torch.Generator().manual_seed(5)
    objects, outputs = {}, {}
    for image_id in range(50, 50 + num_images):
        low = torch.rand(5, 2, generator=generator) * 100
        boxes = torch.cat([low, low + 20 + torch.rand(5, 2, generator=generator) * 130], dim=1)
        classes = torch.randint(0, 2, (5,), generator=generator)
        areas = ((boxes[:, 2:] - boxes[:, :2]).prod(dim=1) * 0.7).tolist()
        rows = zip(boxes.tolist(), classes.tolist(), areas, strict=True)
        objects[image_id] = [(box, class_index, row == 4, area) for row, (box, class_index, area) in enumerate(rows)]
        noisy_boxes = boxes + torch.randn(5, 4, generator=generator) * 4
        outputs[image_id] = model_output(noisy_boxes, torch.rand(5, generator=generator), classes)
    return MemoryDataset(objects, category_ids=(3, 7)), outputs


def test_category_ids_that_do_not_increase_raise_an_error(tmp_path):
    with pytest.raises(ValueError, match=r"'memory', .* 7, 3: they must increase"):
        detectron2_coco_evaluator(dataset=MemoryDataset({}), output_dir=tmp_path)


@needs_detectron2
def test_detectron2_evaluator_agrees_with_coco_evaluator(tmp_path):
    dataset, outputs = random_case()
    results = []
    for make_evaluator, folder in ((CocoEvaluator, "detrex_lite"), (detectron2_coco_evaluator, "detectron2")):
        evaluator = make_evaluator(dataset=dataset, output_dir=tmp_path / folder)
        evaluator.reset()
        for image_id, output in outputs.items():
            evaluator.process([model_input(image_id)], [output])
        results.append(evaluator.evaluate()["bbox"])
    actual, expected = results
    assert list(expected) == list(DETECTRON2_METRICS)
    assert 5 < actual["AP"] < 95
    assert not any(math.isnan(value) for value in expected.values())
    assert expected == pytest.approx({name: actual[name] for name in DETECTRON2_METRICS}, abs=1e-6)


@needs_detectron2
def test_a_data_set_may_be_evaluated_in_several_folders(tmp_path):
    dataset, _ = random_case(num_images=2)
    for folder in ("first", "second", "first"):
        detectron2_coco_evaluator(dataset=dataset, output_dir=tmp_path / folder)
    content = json.loads((tmp_path / "second" / "ground_truth.json").read_text())
    assert [image["id"] for image in content["images"]] == [50, 51]


@needs_detectron2
def test_without_annotations_only_predictions_are_written(tmp_path):
    dataset, outputs = random_case(num_images=2)
    dataset.has_annotations = False
    evaluator = detectron2_coco_evaluator(dataset=dataset, output_dir=tmp_path)
    evaluator.reset()
    for image_id, output in outputs.items():
        evaluator.process([model_input(image_id)], [output])
    assert evaluator.evaluate() == {}
    assert len(json.loads((tmp_path / "coco_instances_results.json").read_text())) == 10
