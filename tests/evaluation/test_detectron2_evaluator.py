import json
import math

import pytest
import torch

from detrex_lite.evaluation import CocoEvaluator, detectron2_coco_evaluator
from tests.detectron2 import needs_detectron2

from .datasets import MemoryDataset, model_input, model_output

THEIRS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AP-cat", "AP-dog")


def some_found(num_images=12):
    """A data set with crowds and areas that are not the boxes', and detections of which about half are right."""
    generator = torch.Generator().manual_seed(5)
    objects, outputs = {}, {}
    for image_id in range(50, 50 + num_images):
        low = torch.rand(5, 2, generator=generator) * 100
        boxes = torch.cat([low, low + 20 + torch.rand(5, 2, generator=generator) * 130], dim=1)
        classes = torch.randint(0, 2, (5,), generator=generator)
        areas = ((boxes[:, 2:] - boxes[:, :2]).prod(dim=1) * 0.7).tolist()
        rows = zip(boxes.tolist(), classes.tolist(), areas, strict=True)
        objects[image_id] = [(box, k, row == 4, area) for row, (box, k, area) in enumerate(rows)]
        moved = boxes + torch.randn(5, 4, generator=generator) * 4
        outputs[image_id] = model_output(moved, torch.rand(5, generator=generator), classes)
    return MemoryDataset(objects, category_ids=(3, 7)), outputs


def test_classes_that_detectron2_would_mix_up_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"classes of 'memory', whose category ids are 7, 3: they must increase"):
        detectron2_coco_evaluator(dataset=MemoryDataset({}), output_dir=tmp_path)


@needs_detectron2
def test_it_agrees_with_the_evaluator_of_this_package(tmp_path):
    dataset, outputs = some_found()
    results = []
    for make, folder in ((CocoEvaluator, "ours"), (detectron2_coco_evaluator, "theirs")):
        evaluator = make(dataset=dataset, output_dir=tmp_path / folder)
        evaluator.reset()
        for image_id, output in outputs.items():
            evaluator.process([model_input(image_id)], [output])
        results.append(evaluator.evaluate()["bbox"])
    ours, theirs = results
    assert list(theirs) == list(THEIRS)
    assert 5 < ours["AP"] < 95
    assert not any(math.isnan(value) for value in theirs.values())
    assert theirs == pytest.approx({name: ours[name] for name in THEIRS}, abs=1e-6)


@needs_detectron2
def test_one_data_set_may_be_evaluated_in_several_folders(tmp_path):
    dataset, _ = some_found(num_images=2)
    for folder in ("one", "two", "one"):
        detectron2_coco_evaluator(dataset=dataset, output_dir=tmp_path / folder)
    content = json.loads((tmp_path / "two" / "ground_truth.json").read_text())
    assert [image["id"] for image in content["images"]] == [50, 51]


@needs_detectron2
def test_without_annotations_the_predictions_are_written(tmp_path):
    dataset, outputs = some_found(num_images=2)
    dataset.has_annotations = False
    evaluator = detectron2_coco_evaluator(dataset=dataset, output_dir=tmp_path)
    evaluator.reset()
    for image_id, output in outputs.items():
        evaluator.process([model_input(image_id)], [output])
    assert evaluator.evaluate() == {}
    assert len(json.loads((tmp_path / "coco_instances_results.json").read_text())) == 10
