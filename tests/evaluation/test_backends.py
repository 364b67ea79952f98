import contextlib
import gc
import io
import logging
import math

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from detrex_lite.evaluation import CocoEvaluator, backends
from detrex_lite.evaluation.backends import BACKENDS, no_garbage_collection
from detrex_lite.evaluation.pycocotools_bridge import METRIC_NAMES

from .datasets import MemoryDataset, model_input, model_output

CLASSES, CATEGORY_IDS = ("cat", "dog", "<b>eel</b>", "never"), (70, 3, 12, 900)


@pytest.fixture(params=list(BACKENDS))
def backend(request):
    if request.param == "faster-coco-eval":
        pytest.importorskip("faster_coco_eval")
    return request.param


def random_boxes(rng, number, largest=120):
    low = rng.uniform(0, 150, (number, 2))
    return np.concatenate([low, low + rng.uniform(1, largest, (number, 2))], axis=1)


def random_case(num_images=40, seed=0):
    """Random objects and outputs that cover the special cases of COCO's evaluation.

    There are objects of all sizes, crowds, images without objects, without detections and without both, equal scores,
    and more detections of a class than COCO evaluates.
    """
    rng = np.random.default_rng(seed)
    objects, outputs = {}, {}
    for image_id in rng.permutation(num_images).tolist():
        number = 0 if image_id % 5 == 0 else int(rng.integers(1, 9))
        boxes, classes = random_boxes(rng, number), rng.integers(0, 3, number)
        areas = rng.uniform(0.3, 1, number) * (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
        crowds = rng.random(number) < 0.2
        objects[image_id] = [
            (box, k, crowd, area)
            for box, k, crowd, area in zip(
                boxes.tolist(), classes.tolist(), crowds.tolist(), areas.tolist(), strict=True
            )
        ]
        if image_id % 10 in (0, 3):
            outputs[image_id] = model_output()
            continue
        num_false_positives = 250 if image_id % 10 == 7 else 10
        shifted = boxes + rng.uniform(0, 4, (number, 1))
        detected = np.concatenate([boxes, shifted, random_boxes(rng, num_false_positives)])
        labels = np.concatenate([classes, classes, rng.integers(0, 2, num_false_positives)])
        scores = rng.integers(1, 20, len(detected)) / 20
        outputs[image_id] = model_output(detected, scores, labels)
    return objects, outputs


def plain_pycocotools(objects, outputs):
    """The twelve metrics, computed with pycocotools as in its demo."""
    truth, detections = [], []
    for image_id, rows in objects.items():
        for box, k, crowd, area in rows:
            x0, y0, x1, y1 = np.float32(box).astype(float).tolist()
            row = {"bbox": [x0, y0, x1 - x0, y1 - y0], "area": float(np.float32(area)), "iscrowd": int(crowd)}
            truth.append({"id": len(truth) + 1, "image_id": image_id, "category_id": CATEGORY_IDS[k], **row})
    for image_id, output in sorted(outputs.items()):
        instances = output["instances"]
        for box, score, k in zip(
            instances.pred_boxes.tensor.double().tolist(),
            instances.scores.double().tolist(),
            instances.pred_classes.tolist(),
            strict=True,
        ):
            x0, y0, x1, y1 = box
            row = {"bbox": [x0, y0, x1 - x0, y1 - y0], "score": score}
            detections.append({"image_id": image_id, "category_id": CATEGORY_IDS[k], **row})
    coco = COCO()
    coco.dataset = {
        "info": {},
        "images": [{"id": image_id, "height": 200, "width": 300} for image_id in objects],
        "annotations": truth,
        "categories": [{"id": number, "name": name} for number, name in zip(CATEGORY_IDS, CLASSES, strict=True)],
    }
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(detections), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return [100 * value if value > -1 else math.nan for value in evaluation.stats.tolist()]


def evaluate(objects, outputs, backend):
    evaluator = CocoEvaluator(dataset=MemoryDataset(objects, CLASSES, CATEGORY_IDS), backend=backend)
    for image_id, output in outputs.items():
        evaluator.process([model_input(image_id)], [output])
    return evaluator.evaluate()["bbox"]


@pytest.mark.parametrize("seed", [0, 1])
def test_metrics_agree_with_plain_pycocotools(backend, seed):
    objects, outputs = random_case(seed=seed)
    metrics = evaluate(objects, outputs, backend)
    expected = plain_pycocotools(objects, outputs)
    assert [metrics[name] for name in METRIC_NAMES] == pytest.approx(expected, abs=1e-9, nan_ok=True)
    assert 5 < metrics["AP"] < 95
    assert min(metrics[name] for name in ("APs", "APm", "APl")) > 0
    assert math.isnan(metrics["AP-never"])


def test_all_backends_agree_on_each_class_and_on_images_that_were_not_processed():
    pytest.importorskip("faster_coco_eval")
    objects, outputs = random_case(seed=2)
    for image_id in list(outputs)[:7]:
        del outputs[image_id]
    slow, fast = (evaluate(objects, outputs, name) for name in ("pycocotools", "faster-coco-eval"))
    assert list(slow) == list(fast)
    assert slow == pytest.approx(fast, abs=1e-9, nan_ok=True)


@pytest.mark.parametrize(
    ("objects", "output"),
    [
        ({5: []}, model_output()),
        ({5: []}, model_output([[1, 2, 30, 40]], [0.5], [0])),
        ({5: [([1, 2, 30, 40], 0, True, 900.0)]}, model_output([[1, 2, 30, 40]], [0.5], [0])),
        ({5: [([1, 2, 30, 40], 0, False, 900.0)]}, model_output()),
        ({5: [([1, 2, 1, 40], 0, False, 0.0)]}, model_output([[1, 2, 1, 40]], [0.5], [0])),
        # Areas exactly at the limits of small, medium and large.
        ({5: [([0, 0, 32, 32], 0, False, 1024.0), ([0, 0, 96, 96], 1, False, 9216.0)]}, model_output()),
    ],
    ids=["empty image", "no object", "only a crowd", "no detection", "no area", "size limits"],
)
def test_metrics_of_special_cases_agree_with_pycocotools(backend, objects, output):
    metrics = evaluate(objects, {5: output}, backend)
    reference = evaluate(objects, {5: output}, "pycocotools")
    assert metrics == pytest.approx(reference, abs=1e-9, nan_ok=True)
    if output["instances"].scores.numel():  # pycocotools raises an error for a file without detections
        expected = plain_pycocotools(objects, {5: output})
        assert [metrics[name] for name in METRIC_NAMES] == pytest.approx(expected, abs=1e-9, nan_ok=True)


def test_an_evaluator_gives_the_same_metrics_after_a_reset(backend):
    objects, outputs = random_case(num_images=12)
    evaluator = CocoEvaluator(dataset=MemoryDataset(objects, CLASSES, CATEGORY_IDS), backend=backend)
    results = []
    for _ in range(2):
        evaluator.reset()
        for image_id, output in outputs.items():
            evaluator.process([model_input(image_id)], [output])
        results.append(evaluator.evaluate()["bbox"])
    assert results[0] == pytest.approx(results[1], abs=0, nan_ok=True)


def test_log_names_the_backend(backend, caplog, capsys):
    objects, outputs = random_case(num_images=4)
    with caplog.at_level(logging.INFO):
        evaluate(objects, outputs, backend)
    assert f"images by {backend} in" in caplog.text
    assert "Average Precision" not in caplog.text
    assert capsys.readouterr().out == ""


def test_faster_coco_eval_is_the_default_when_installed(monkeypatch):
    for installed, expected in ((True, "faster-coco-eval"), (False, "pycocotools")):
        monkeypatch.setattr(
            backends.importlib.util, "find_spec", lambda name, is_found=installed: object() if is_found else None
        )
        assert CocoEvaluator(dataset=MemoryDataset({})).backend == expected


def test_a_backend_that_is_not_installed_raises_an_error(monkeypatch):
    monkeypatch.setattr(backends.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="'faster-coco-eval' is not installed"):
        CocoEvaluator(dataset=MemoryDataset({}), backend="faster-coco-eval")


def test_an_unknown_backend_raises_an_error():
    with pytest.raises(ValueError, match="backend='pycoco'; did you mean 'pycocotools'"):
        CocoEvaluator(dataset=MemoryDataset({}), backend="pycoco")


def test_garbage_collection_is_enabled_again_after_the_context():
    with no_garbage_collection():
        assert not gc.isenabled()
        with no_garbage_collection():
            pass
        assert not gc.isenabled()
    assert gc.isenabled()
