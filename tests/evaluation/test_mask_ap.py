"""Mask AP: of both backends, as pycocotools has it on files."""

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
    """(H, W) bool: what is inside the ellipse that touches the sides of a box."""
    x0, y0, x1, y1 = box
    y, x = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    return ((2 * x - x0 - x1) / (x1 - x0)) ** 2 + ((2 * y - y0 - y1) / (y1 - y0)) ** 2 <= 1


def diamond(box):
    """A polygon, as COCO's files have it."""
    x0, y0, x1, y1 = box
    return [[(x0 + x1) / 2, y0, x1, (y0 + y1) / 2, (x0 + x1) / 2, y1, x0, (y0 + y1) / 2]]


def uncompressed(mask):
    """COCO's run lengths in numbers, which its crowds have."""
    pixels = mask.T.ravel()
    changes = np.flatnonzero(np.diff(pixels)) + 1
    lengths = np.diff(np.concatenate([[0], changes, [pixels.size]])).tolist()
    return {"size": [HEIGHT, WIDTH], "counts": [0, *lengths] if pixels[0] else lengths}


def generated(num_images=16, seed=0):
    """Polygons, run lengths, crowds; images without objects and without detections; detections whose masks and boxes
    differ, and have different sizes."""
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
        moved = boxes + generator.uniform(-6, 6, boxes.shape)
        low = generator.uniform(0, 100, (4, 2))
        others = np.concatenate([low, low + generator.uniform(12, 100, (4, 2))], axis=1)
        found = np.concatenate([boxes, moved, others])
        masks = [ellipse(box) for box in np.concatenate([moved, boxes, others])]
        labels = np.concatenate([classes, classes, generator.integers(0, 2, 4)])
        outputs[image_id] = model_output(found, generator.integers(1, 20, len(found)) / 20, labels, masks)
    return MemoryDataset(objects, CLASSES, CATEGORY_IDS, segmentations=segmentations), outputs


def evaluate(dataset, outputs, **arguments):
    evaluator = CocoEvaluator(dataset=dataset, **arguments)
    for image_id, output in outputs.items():
        evaluator.process([model_input(image_id)], [output])
    return evaluator.evaluate()


def plain_pycocotools(dataset, predictions):
    """The twelve numbers of masks, by pycocotools as its own demo uses it."""
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
    # With boxes in the file, pycocotools would take the sizes of detections from them.
    found = [{name: value for name, value in one.items() if name != "bbox"} for one in predictions]
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(found), "segm")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return [100 * value if value > -1 else math.nan for value in evaluation.stats.tolist()]


@pytest.mark.parametrize("seed", [0, 1])
def test_numbers_are_those_of_plain_pycocotools_on_the_written_file(backend, seed, tmp_path):
    dataset, outputs = generated(seed=seed)
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


def test_both_backends_agree_on_each_class_and_masks_change_nothing_about_boxes():
    pytest.importorskip("faster_coco_eval")
    dataset, outputs = generated(seed=2)
    del outputs[next(iter(outputs))]  # an image that was not processed
    slow, fast = (evaluate(dataset, outputs, backend=name) for name in ("pycocotools", "faster-coco-eval"))
    assert list(slow) == list(fast) == ["bbox", "segm"]
    for kind in slow:
        assert slow[kind] == pytest.approx(fast[kind], abs=1e-9, nan_ok=True)
    for output in outputs.values():
        output["instances"].remove("pred_masks")
    alone = evaluate(dataset, outputs, backend="pycocotools")
    assert list(alone) == ["bbox"]
    assert alone["bbox"] == pytest.approx(slow["bbox"], abs=0, nan_ok=True)


def test_sizes_of_detections_are_those_of_their_masks(backend):
    """Outside the range, a detection without a match is ignored: one with a large box and a small mask is."""
    small, large = [10, 10, 30, 30], [40, 40, 190, 190]
    dataset = MemoryDataset({5: [(small, 0)]}, segmentations={5: [diamond(small)]})
    masks = [ellipse(small), ellipse([40, 40, 60, 60])]
    output = model_output([small, large], [0.5, 0.9], [0, 0], masks)
    results = evaluate(dataset, {5: output}, backend=backend)
    assert results["bbox"]["APs"] == pytest.approx(100)
    assert results["segm"]["APs"] < 60


def test_masks_are_written_as_run_lengths_beside_boxes(tmp_path):
    mask = ellipse([20, 30, 120, 150])
    dataset = MemoryDataset({5: []}, segmentations={5: []})
    evaluate(dataset, {5: model_output([[20, 30, 120, 150]], [0.5], [1], [mask])}, output_dir=tmp_path)
    [found] = json.loads((tmp_path / "predictions.json").read_text())
    assert found["bbox"] == [20, 30, 100, 120]
    assert found["segmentation"]["size"] == [HEIGHT, WIDTH]
    assert (coco_mask.decode(found["segmentation"]) == mask).all()


@pytest.mark.parametrize("find_errors", [False, True])
def test_masks_are_kept_and_sent_as_run_lengths(backend, find_errors):
    dataset, outputs = generated(num_images=3)
    evaluator = CocoEvaluator(dataset=dataset, backend=backend, find_errors=find_errors)
    for image_id, output in outputs.items():
        evaluator.process([model_input(image_id)], [output])
    for image in evaluator._images:
        kept = image.detections.masks
        if backend == "pycocotools" and not find_errors:
            assert kept is None
        else:
            assert all(len(run_lengths) < 1000 for run_lengths in kept)


def test_a_data_set_without_masks_gives_box_ap_alone(tmp_path, caplog):
    box = [20, 30, 120, 150]
    dataset = MemoryDataset({5: [(box, 0)], 6: []})
    outputs = {5: model_output([box], [0.5], [0], [ellipse(box)]), 6: model_output(masks=np.zeros((0, 200, 300)))}
    assert list(evaluate(dataset, outputs, output_dir=tmp_path)) == ["bbox"]
    assert caplog.text.count("'memory' has none: there is no mask AP") == 1
    assert "segmentation" in json.loads((tmp_path / "predictions.json").read_text())[0]


def test_without_annotations_masks_are_written(tmp_path, caplog):
    dataset = MemoryDataset({5: []}, has_annotations=False)
    output = model_output([[20, 30, 120, 150]], [0.5], [0], [ellipse([20, 30, 120, 150])])
    assert evaluate(dataset, {5: output}, output_dir=tmp_path) == {}
    assert "segmentation" in json.loads((tmp_path / "predictions.json").read_text())[0]
    assert "mask AP" not in caplog.text


def test_boxes_alone_need_no_masks_of_the_data_set(monkeypatch):
    asked = []

    def recorded(dataset, *, with_masks):
        asked.append(with_masks)
        return build_ground_truth(dataset, with_masks=with_masks)

    monkeypatch.setattr(coco_evaluator, "build_ground_truth", recorded)
    box = [20, 30, 120, 150]
    dataset = MemoryDataset({5: [(box, 0)]}, segmentations={5: [diamond(box)]})
    assert list(evaluate(dataset, {5: model_output([box], [0.5], [0])})) == ["bbox"]
    assert asked == [False]


def test_metric_names_are_those_of_the_results():
    dataset, outputs = generated(num_images=3)
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
def test_masks_that_cannot_be_evaluated_are_refused(masks, message):
    output = model_output([[20, 30, 120, 150]], [0.5], [0])
    output["instances"].pred_masks = masks
    with pytest.raises(ValueError, match=message):
        evaluate(MemoryDataset({5: []}, segmentations={5: []}), {5: output})


def test_outputs_of_which_only_some_have_masks_are_refused():
    outputs = [model_output(), model_output(masks=np.zeros((0, HEIGHT, WIDTH)))]
    for first, second, message in ((0, 1, "image 6 .*has pred_masks, .* had none"), (1, 0, "image 6 .* no pred_masks")):
        evaluator = CocoEvaluator(dataset=MemoryDataset({5: [], 6: []}, segmentations={5: [], 6: []}))
        evaluator.process([model_input(5)], [outputs[first]])
        with pytest.raises(ValueError, match=message):
            evaluator.process([model_input(6)], [outputs[second]])
        evaluator.reset()
        evaluator.process([model_input(6)], [outputs[second]])


def test_two_processes_give_the_result_of_one(tmp_path, monkeypatch, backend):
    """Of which the main one has seen no image."""
    dataset, outputs = generated(num_images=6)
    alone = evaluate(dataset, outputs, output_dir=tmp_path / "alone", backend=backend)
    other, main = (CocoEvaluator(dataset=dataset, output_dir=tmp_path / "both", backend=backend) for _ in range(2))
    for image_id, output in outputs.items():
        other.process([model_input(image_id)], [output])
    sent = pickle.dumps(other._images)
    assert len(sent) < 100_000
    monkeypatch.setattr(distributed, "gather_objects", lambda images: [images, pickle.loads(sent)])
    together = main.evaluate()
    assert list(together) == ["bbox", "segm"]
    for kind in together:
        assert together[kind] == pytest.approx(alone[kind], nan_ok=True)
    texts = [(tmp_path / name / "predictions.json").read_text() for name in ("alone", "both")]
    assert texts[0] == texts[1]
