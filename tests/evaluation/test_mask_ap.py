"""Mask AP of both backends agrees with pycocotools on files."""

import contextlib
import io
import json
import math
import pickle

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from detrex_lite import distributed
from detrex_lite.evaluation import CocoEvaluator, coco_evaluator
from detrex_lite.evaluation.backends import BACKENDS
from detrex_lite.evaluation.pycocotools_bridge import METRIC_NAMES, build_ground_truth

from .datasets import MemoryDataset, model_input, model_output

CLASSES, CATEGORY_IDS = ("cat", "dog", "never"), (70, 3, 900)
HEIGHT, WIDTH = 200, 300


@pytest.fixture(params=list(BACKENDS))
def backend(request):
    if request.param == "faster-coco-eval":
        pytest.importorskip("faster_coco_eval")
    return request.param


def ellipse(box):
    """(H, W) bool mask of the ellipse that touches the sides of a box."""
    x0, y0, x1, y1 = box
    y, x = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    return ((2 * x - x0 - x1) / (x1 - x0)) ** 2 + ((2 * y - y0 - y1) / (y1 - y0)) ** 2 <= 1


def diamond(box):
    """A diamond in a box, as a polygon in the format of COCO files."""
    x0, y0, x1, y1 = box
    return [[(x0 + x1) / 2, y0, x1, (y0 + y1) / 2, (x0 + x1) / 2, y1, x0, (y0 + y1) / 2]]


def uncompressed(mask):
    """Uncompressed run lengths, the format of crowds in COCO files."""
    pixels = mask.T.ravel()
    changes = np.flatnonzero(np.diff(pixels)) + 1
    lengths = np.diff(np.concatenate([[0], changes, [pixels.size]])).tolist()
    return {"size": [HEIGHT, WIDTH], "counts": [0, *lengths] if pixels[0] else lengths}


def random_case(num_images=16, seed=0):
    """Random objects and outputs with polygons, run lengths and crowds.

    Some images have no objects or no detections. The masks and boxes of a detection differ, also in size.
    """
    generator = np.random.default_rng(seed)
    objects, segmentations, outputs = {}, {}, {}
    for image_id in generator.permutation(num_images).tolist():
        number = 0 if image_id % 5 == 0 else int(generator.integers(1, 6))
        low = generator.uniform(0, 100, (number, 2))
        boxes = np.concatenate([low, low + generator.uniform(12, 100, (number, 2))], axis=1)
        classes, crowds = generator.integers(0, 2, number), generator.random(number) < 0.2
        objects[image_id], segmentations[image_id] = [], []
        for box, k, crowd in zip(boxes, classes.tolist(), crowds.tolist(), strict=True):
            mask = ellipse(box)
            shape = uncompressed(mask) if crowd else diamond(box.tolist()) if k else uncompressed(mask)
            segmentations[image_id].append(shape)
            objects[image_id].append((box.tolist(), k, crowd, float(mask.sum())))
        if image_id % 10 in (0, 3):
            outputs[image_id] = model_output(masks=np.zeros((0, HEIGHT, WIDTH)))
            continue
        shifted = boxes + generator.uniform(-6, 6, boxes.shape)
        low = generator.uniform(0, 100, (4, 2))
        false_positives = np.concatenate([low, low + generator.uniform(12, 100, (4, 2))], axis=1)
        detected_boxes = np.concatenate([boxes, shifted, false_positives])
        masks = [ellipse(box) for box in np.concatenate([shifted, boxes, false_positives])]
        labels = np.concatenate([classes, classes, generator.integers(0, 2, 4)])
        outputs[image_id] = model_output(
            detected_boxes, generator.integers(1, 20, len(detected_boxes)) / 20, labels, masks
        )
    return MemoryDataset(objects, CLASSES, CATEGORY_IDS, segmentations=segmentations), outputs


def evaluate(dataset, outputs, **arguments):
    evaluator = CocoEvaluator(dataset=dataset, **arguments)
    for image_id, output in outputs.items():
        evaluator.process([model_input(image_id)], [output])
    return evaluator.evaluate()


def plain_pycocotools(dataset, predictions):
    """The twelve metrics of masks, computed with pycocotools as in its demo."""
    truth = []
    for image_id, rows in dataset.objects.items():
        for (box, k, crowd, area), segmentation in zip(rows, dataset.segmentations[image_id], strict=True):
            x0, y0, x1, y1 = box
            row = {"bbox": [x0, y0, x1 - x0, y1 - y0], "area": float(np.float32(area)), "iscrowd": int(crowd)}
            row |= {"segmentation": segmentation, "image_id": image_id, "category_id": CATEGORY_IDS[k]}
            truth.append({"id": len(truth) + 1, **row})
    coco = COCO()
    coco.dataset = {
        "info": {},
        "images": [{"id": image_id, "height": HEIGHT, "width": WIDTH} for image_id in dataset.objects],
        "annotations": truth,
        "categories": [{"id": number, "name": name} for number, name in zip(CATEGORY_IDS, CLASSES, strict=True)],
    }
    # Boxes are removed, because pycocotools would take the sizes of detections from them.
    mask_predictions = [
        {name: value for name, value in prediction.items() if name != "bbox"} for prediction in predictions
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(mask_predictions), "segm")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return [100 * value if value > -1 else math.nan for value in evaluation.stats.tolist()]


@pytest.mark.parametrize("seed", [0, 1])
def test_metrics_agree_with_plain_pycocotools_on_the_written_file(backend, seed, tmp_path):
    dataset, outputs = random_case(seed=seed)
    results = evaluate(dataset, outputs, backend=backend, output_dir=tmp_path)
    predictions = json.loads((tmp_path / "predictions.json").read_text())
    expected = plain_pycocotools(dataset, predictions)
    metrics = results["segm"]
    assert [metrics[name] for name in METRIC_NAMES] == pytest.approx(expected, abs=1e-9, nan_ok=True)
    assert 5 < metrics["AP"] < 95
    assert metrics["AP"] != results["bbox"]["AP"]
    assert math.isnan(metrics["AP-never"])
    written = json.loads((tmp_path / "metrics.json").read_text())
    assert written["segm"]["AP"] == metrics["AP"]
    assert written["segm"]["AP-never"] is None


def test_backends_agree_on_each_class_and_masks_do_not_change_box_metrics():
    pytest.importorskip("faster_coco_eval")
    dataset, outputs = random_case(seed=2)
    del outputs[next(iter(outputs))]  # an image that was not processed
    slow, fast = (evaluate(dataset, outputs, backend=name) for name in ("pycocotools", "faster-coco-eval"))
    assert list(slow) == list(fast) == ["bbox", "segm"]
    for kind in slow:
        assert slow[kind] == pytest.approx(fast[kind], abs=1e-9, nan_ok=True)
    for output in outputs.values():
        output["instances"].remove("pred_masks")
    boxes_only = evaluate(dataset, outputs, backend="pycocotools")
    assert list(boxes_only) == ["bbox"]
    assert boxes_only["bbox"] == pytest.approx(slow["bbox"], abs=0, nan_ok=True)


def test_sizes_of_detections_are_the_areas_of_their_masks(backend):
    """COCO ignores unmatched detections outside a size range; here the box is outside, the mask is not."""
    small, large = [10, 10, 30, 30], [40, 40, 190, 190]
    dataset = MemoryDataset({5: [(small, 0)]}, segmentations={5: [diamond(small)]})
    masks = [ellipse(small), ellipse([40, 40, 60, 60])]
    output = model_output([small, large], [0.5, 0.9], [0, 0], masks)
    results = evaluate(dataset, {5: output}, backend=backend)
    assert results["bbox"]["APs"] == pytest.approx(100)
    assert results["segm"]["APs"] < 60


def test_masks_are_written_as_run_lengths_next_to_boxes(tmp_path):
    mask = ellipse([20, 30, 120, 150])
    dataset = MemoryDataset({5: []}, segmentations={5: []})
    evaluate(dataset, {5: model_output([[20, 30, 120, 150]], [0.5], [1], [mask])}, output_dir=tmp_path)
    [prediction] = json.loads((tmp_path / "predictions.json").read_text())
    assert prediction["bbox"] == [20, 30, 100, 120]
    assert prediction["segmentation"]["size"] == [HEIGHT, WIDTH]
    assert (coco_mask.decode(prediction["segmentation"]) == mask).all()


@pytest.mark.parametrize("find_errors", [False, True])
def test_masks_are_stored_as_run_lengths(backend, find_errors):
    dataset, outputs = random_case(num_images=3)
    evaluator = CocoEvaluator(dataset=dataset, backend=backend, find_errors=find_errors)
    for image_id, output in outputs.items():
        evaluator.process([model_input(image_id)], [output])
    for image in evaluator._images:
        stored = image.detections.masks
        if backend == "pycocotools" and not find_errors:
            assert stored is None
        else:
            assert all(len(run_length) < 1000 for run_length in stored)


def test_a_data_set_without_masks_gives_only_box_ap(tmp_path, caplog):
    box = [20, 30, 120, 150]
    dataset = MemoryDataset({5: [(box, 0)], 6: []})
    outputs = {5: model_output([box], [0.5], [0], [ellipse(box)]), 6: model_output(masks=np.zeros((0, 200, 300)))}
    assert list(evaluate(dataset, outputs, output_dir=tmp_path)) == ["bbox"]
    assert caplog.text.count("'memory' has none: there is no mask AP") == 1
    assert "segmentation" in json.loads((tmp_path / "predictions.json").read_text())[0]


def test_masks_are_written_without_annotations(tmp_path, caplog):
    dataset = MemoryDataset({5: []}, has_annotations=False)
    output = model_output([[20, 30, 120, 150]], [0.5], [0], [ellipse([20, 30, 120, 150])])
    assert evaluate(dataset, {5: output}, output_dir=tmp_path) == {}
    assert "segmentation" in json.loads((tmp_path / "predictions.json").read_text())[0]
    assert "mask AP" not in caplog.text


def test_masks_of_the_data_set_are_not_read_for_outputs_without_masks(monkeypatch):
    requested = []

    def record_request(dataset, *, with_masks):
        requested.append(with_masks)
        return build_ground_truth(dataset, with_masks=with_masks)

    monkeypatch.setattr(coco_evaluator, "build_ground_truth", record_request)
    box = [20, 30, 120, 150]
    dataset = MemoryDataset({5: [(box, 0)]}, segmentations={5: [diamond(box)]})
    assert list(evaluate(dataset, {5: model_output([box], [0.5], [0])})) == ["bbox"]
    assert requested == [False]


def test_metric_names_agree_with_the_results():
    dataset, outputs = random_case(num_images=3)
    results = evaluate(dataset, outputs)
    names = [f"{group}/{name}" for group, metrics in results.items() for name in metrics]
    assert list(CocoEvaluator(dataset=dataset).metric_names) == names
    dataset.segmentations = None
    assert not [name for name in CocoEvaluator(dataset=dataset).metric_names if "segm" in name]


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        (torch.zeros(1, 200, 301, dtype=torch.bool), r"image 5 \(5.jpg\): .*\(n, 200, 300\).* got .*\(1, 200, 301\)"),
        (torch.zeros(1, 200, 300), r"image 5 .* must be bool .* got torch.float32"),
        (torch.zeros(1, 1, 200, 300, dtype=torch.bool), r"image 5 .*\(1, 1, 200, 300\)"),
    ],
)
def test_invalid_masks_raise_an_error(masks, message):
    output = model_output([[20, 30, 120, 150]], [0.5], [0])
    output["instances"].pred_masks = masks
    with pytest.raises(ValueError, match=message):
        evaluate(MemoryDataset({5: []}, segmentations={5: []}), {5: output})


def test_outputs_with_and_without_masks_raise_an_error():
    outputs = [model_output(), model_output(masks=np.zeros((0, HEIGHT, WIDTH)))]
    for first, second, message in ((0, 1, "image 6 .*has pred_masks"), (1, 0, "image 6 .* no pred_masks")):
        evaluator = CocoEvaluator(dataset=MemoryDataset({5: [], 6: []}, segmentations={5: [], 6: []}))
        evaluator.process([model_input(5)], [outputs[first]])
        with pytest.raises(ValueError, match=message):
            evaluator.process([model_input(6)], [outputs[second]])
        evaluator.reset()
        evaluator.process([model_input(6)], [outputs[second]])


def test_two_processes_give_the_result_of_a_single_process(tmp_path, monkeypatch, backend):
    """The main process has no images in this test."""
    dataset, outputs = random_case(num_images=6)
    expected = evaluate(dataset, outputs, output_dir=tmp_path / "alone", backend=backend)
    second_process, main_process = (
        CocoEvaluator(dataset=dataset, output_dir=tmp_path / "both", backend=backend) for _ in range(2)
    )
    for image_id, output in outputs.items():
        second_process.process([model_input(image_id)], [output])
    message = pickle.dumps(second_process._images)
    assert len(message) < 100_000
    monkeypatch.setattr(distributed, "gather_objects", lambda images: [images, pickle.loads(message)])
    actual = main_process.evaluate()
    assert list(actual) == ["bbox", "segm"]
    for kind in actual:
        assert actual[kind] == pytest.approx(expected[kind], nan_ok=True)
    texts = [(tmp_path / name / "predictions.json").read_text() for name in ("alone", "both")]
    assert texts[0] == texts[1]
