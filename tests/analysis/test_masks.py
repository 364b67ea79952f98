"""The analysis of masks: where it differs from that of boxes, AP against pycocotools, files and the report."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from detrex_lite.analysis import (
    Masks,
    analyse,
    explain,
    make_detections,
    make_objects,
    objects_of,
    overlapping_pairs,
    to_json,
)
from detrex_lite.data import generate_shapes, load_shapes, record_masks, record_run_lengths
from detrex_lite.evaluation import CocoEvaluator
from detrex_lite.structures import Boxes, Instances, run_lengths
from detrex_lite.visualization import draw_errors, write_error_page, write_report
from detrex_lite.visualization.error_pictures import KIND_COLOURS, RIGHT_COLOUR

from ..evaluation.datasets import MemoryDataset, model_input
from ..evaluation.test_mask_ap import diamond, ellipse, random_case

NAMES = ("cat", "dog", "cow")
SIDE, THICKNESS = 20, 6
HEIGHT, WIDTH = 80, 240
NUM_IMAGES, PER_IMAGE = 4, 6


def encoded(masks):
    return run_lengths(torch.as_tensor(np.asarray(masks)).reshape(-1, HEIGHT, WIDTH))


def corner_shape(box, *, mirrored=False):
    """(H, W) bool, an L or its mirror image, which have the same box and an IoU of 0.42."""
    x0, y0, x1, y1 = (int(side) for side in box)
    mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
    mask[y1 - THICKNESS : y1, x0:x1] = True
    left = x1 - THICKNESS if mirrored else x0
    mask[y0:y1, left : left + THICKNESS] = True
    return mask


def grid():
    """Image, box and class of L shapes that lie 40 pixels apart; classes take turns."""
    image = np.repeat(np.arange(NUM_IMAGES), PER_IMAGE)
    corners = np.stack([40 * np.tile(np.arange(PER_IMAGE), NUM_IMAGES), np.full(len(image), 10)], axis=1)
    return image, np.concatenate([corners, corners + SIDE], axis=1), np.arange(len(image)) % len(NAMES)


def perfect():
    """The columns of detections without an error: image, box, class, score, mask."""
    image, boxes, classes = grid()
    return [
        {"image": i, "boxes": box, "classes": k, "scores": 0.9, "masks": corner_shape(box)}
        for i, box, k in zip(image.tolist(), boxes, classes.tolist(), strict=True)
    ]


def analysed(rows, *, masks=True):
    """The analysis of detections by masks, or by boxes."""
    image, boxes, classes = grid()
    shapes = encoded([corner_shape(box) for box in boxes])
    sizes = {"num_images": NUM_IMAGES, "num_classes": len(NAMES)}
    objects = make_objects(image, boxes, classes, **sizes, masks=shapes if masks else None)
    columns = {name: [row[name] for row in rows] for name in ("image", "boxes", "classes", "scores")}
    found = encoded([row["masks"] for row in rows]) if masks else None
    return analyse(objects, make_detections(**columns, masks=found), NAMES)


def counts(analysis):
    of_classes = analysis.errors.counts(analysis.detections, analysis.objects)
    return {kind: int(number.sum()) for kind, number in of_classes.items() if number.sum()}


def with_changes(change, rows=(0, 5, 13)):
    return [{**row, **change(row)} if number in rows else row for number, row in enumerate(perfect())]


def mirrored(row):
    return {"masks": corner_shape(row["boxes"], mirrored=True)}


def of_next_class(row):
    return {"classes": (row["classes"] + 1) % len(NAMES)}


def test_perfect_masks_have_no_errors():
    analysis = analysed(perfect())
    assert analysis.shapes == "masks"
    assert counts(analysis) == {}
    assert analysis.class_precisions == pytest.approx([1, 1, 1])
    assert (analysis.confusion == np.diag([8, 8, 8, 0])).all()
    assert analysis.worst_images(3) == []


ELSEWHERE = {"boxes": np.array([0, 50, 20, 70]), "masks": corner_shape([0, 50, 20, 70])}


@pytest.mark.parametrize(
    ("rows", "of_masks", "of_boxes"),
    [
        (with_changes(mirrored), {"localisation": 3}, {}),
        (with_changes(of_next_class), {"classification": 3}, {"classification": 3}),
        (
            with_changes(lambda row: mirrored(row) | of_next_class(row)),
            {"both": 3, "missed": 3},
            {"classification": 3},
        ),
        ([*perfect(), *({**perfect()[row], "scores": 0.95} for row in (0, 5, 13))], {"duplicate": 3}, {"duplicate": 3}),
        (
            [*perfect(), *({**perfect()[row], **ELSEWHERE, "scores": 0.95} for row in (0, 6, 12))],
            {"background": 3},
            {"background": 3},
        ),
        (perfect()[3:], {"missed": 3}, {"missed": 3}),
        # The box is right, but the mask is on the object beside it, which is of another class.
        (
            with_changes(lambda row: {"masks": corner_shape(row["boxes"] + [40, 0, 40, 0])}, rows=(0,)),
            {"classification": 1, "missed": 1},
            {},
        ),
    ],
)
def test_errors_of_masks_and_of_boxes_differ(rows, of_masks, of_boxes):
    by_masks, by_boxes = analysed(rows), analysed(rows, masks=False)
    assert by_boxes.shapes == "boxes"
    assert counts(by_masks) == of_masks
    assert counts(by_boxes) == of_boxes
    for analysis, found in ((by_masks, of_masks), (by_boxes, of_boxes)):
        if len(found) == 1:  # fixing the only kind of errors repairs everything
            assert analysis.precisions[0].mean() < 1
            assert analysis.precisions[0].mean() + analysis.gain(*found) == pytest.approx(1)


def test_what_follows_the_matching_is_about_masks():
    """Right boxes whose masks are wrong where scores are low: thresholds, curves, confusions, calibration, images."""
    low = set(range(12, 24))  # the objects of the last two images
    rows = with_changes(lambda row: mirrored(row) | {"scores": 0.3}, rows=low)
    by_masks, by_boxes = analysed(rows), analysed(rows, masks=False)
    assert [point.threshold for point in by_masks.points] == [0.9] * 3
    assert [point.threshold for point in by_boxes.points] == [0.3] * 3
    assert [point.recall for point in by_masks.points] == [0.5] * 3
    assert by_masks.curves[0].precision.tolist() == [1, 0.5]
    assert by_masks.confusion[:3, 3].tolist() == [4, 4, 4]  # not detected, at the threshold
    assert by_masks.calibration.error == pytest.approx((0.1 + 0.3) / 2)
    assert by_boxes.calibration.error == pytest.approx((0.1 + 0.7) / 2)
    assert sorted(by_masks.worst_images(4)) == [2, 3]
    assert by_boxes.worst_images(4) == []
    assert by_masks.crowding["5 to 9"] == (4, pytest.approx(51 / 101))
    assert "masks that overlap their object too little" in explain(by_masks)[1]


def test_sizes_of_detections_are_those_of_masks():
    """A large box around a small mask: the detection of nothing counts for the size of its mask."""
    mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
    mask[70, ::2] = True
    wrong = {"image": 0, "boxes": [0, 0, WIDTH, HEIGHT], "classes": 0, "scores": 0.99, "masks": mask}
    by_masks, by_boxes = (analysed([*perfect(), wrong], masks=masks) for masks in (True, False))
    assert by_masks.sizes["small"][1] < 1
    assert by_boxes.sizes["small"] == (24, pytest.approx(1))


def test_crowds_are_regions_of_their_masks():
    crowd = np.zeros((HEIGHT, WIDTH), dtype=bool)
    crowd[:, :40] = True
    crowd[:, 200:] = True
    boxes = [[100, 0, 120, 20], [0, 0, WIDTH, HEIGHT]]
    objects = make_objects(
        [0, 0],
        boxes,
        [0, 0],
        num_images=1,
        num_classes=1,
        iscrowd=[False, True],
        masks=encoded([corner_shape(boxes[0]), crowd]),
    )
    found = [boxes[0], [0, 0, 20, 20], [210, 0, 230, 20], [60, 0, 80, 20]]
    masks = encoded([corner_shape(box) for box in found])
    analysis = analyse(objects, make_detections([0] * 4, found, [0] * 4, [0.9, 0.8, 0.7, 0.95], masks), NAMES[:1])
    assert analysis.detections.scores.tolist() == [0.95, 0.9, 0.8, 0.7]
    assert analysis.matching.ignored.tolist() == [False, False, True, True]
    assert counts(analysis) == {"background": 1}
    assert analysis.objects.areas.tolist() == [corner_shape(boxes[0]).sum(), crowd.sum()]


@pytest.mark.parametrize("seed", [0, 1])
def test_average_precision_is_that_of_pycocotools(seed):
    """With polygons, run lengths, crowds, equal scores, and images in another order than that of their ids."""
    dataset, outputs = random_case(num_images=24, seed=seed)
    evaluator = CocoEvaluator(dataset=dataset, backend="pycocotools")
    for image_id, output in outputs.items():
        evaluator.process([model_input(image_id)], [output])
    results = evaluator.evaluate()
    assert list(evaluator.analyses) == ["boxes", "masks"]
    for group, shapes in (("bbox", "boxes"), ("segm", "masks")):
        analysis, metrics = evaluator.analyses[shapes], results[group]
        assert analysis.shapes == shapes
        of_classes = [metrics[f"AP-{name}"] for name in dataset.class_names]
        assert 100 * analysis.class_precisions == pytest.approx(of_classes, abs=1e-9, nan_ok=True)
        assert 100 * np.nanmean(analysis.precisions[[0, 5]], axis=1) == pytest.approx(
            [metrics["AP50"], metrics["AP75"]], abs=1e-9
        )
        sizes = [100 * value for _, value in analysis.sizes.values()]
        assert sizes == pytest.approx([metrics[name] for name in ("APs", "APm", "APl")], abs=1e-9, nan_ok=True)
    assert results["segm"]["AP"] != pytest.approx(results["bbox"]["AP"], abs=1)


def test_run_lengths_of_records():
    box = [20, 30, 120, 150]
    [run_length] = run_lengths(torch.from_numpy(ellipse(box))[None])
    dataset = MemoryDataset(
        {5: [(box, 0), (box, 1, True, 7)], 6: []}, segmentations={5: [diamond(box), run_length], 6: []}
    )
    record = {**dataset[0], "annotation_ids": torch.tensor([1, 2])}
    assert record_run_lengths(record) == run_lengths(record_masks(record))
    objects = objects_of(dataset, masks=True)
    assert (objects.masks.pixels(1) == ellipse(box)).all()
    assert objects.areas.tolist() == [100 * 120, 7]  # as annotated
    assert objects_of(dataset).masks is None
    assert len(objects_of(MemoryDataset({6: []}, segmentations={6: []}), masks=True).masks) == 0


def test_masks_are_kept_as_run_lengths():
    shapes = [corner_shape(box) for box in grid()[1]]
    masks = Masks.from_run_lengths(encoded(shapes * 20))
    assert len(masks) == 480
    assert masks.areas.tolist() == [shape.sum() for shape in shapes] * 20
    assert max(map(len, masks.counts)) < 200
    chosen = masks[np.array([30, 3])]
    assert (chosen.pixels(0) == shapes[6]).all()
    assert (chosen.pixels(1) == shapes[3]).all()
    numbers = [0, 5, HEIGHT * WIDTH - 5]
    assert Masks.from_run_lengths([{"size": [HEIGHT, WIDTH], "counts": numbers}]).areas.tolist() == [5]


def test_no_masks_at_all():
    objects = make_objects([], [], [], num_images=2, num_classes=3, masks=[])
    analysis = analyse(objects, make_detections([], [], [], [], masks=[]), NAMES)
    assert analysis.shapes == "masks"
    assert to_json(analysis)["AP"] is None


FULL = {"size": [2, 3], "counts": [0, 6]}


def objects_with(masks, image=(0, 1)):
    boxes = [[0, 0, 3, 2]] * len(image)
    return make_objects(image, boxes, [0] * len(image), num_images=2, num_classes=1, masks=masks)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: objects_with([FULL]), "2 images and 1 rows"),
        (lambda: objects_of(MemoryDataset({1: [([0, 0, 9, 9], 0)]}), masks=True), "masks=True"),
        (lambda: objects_with([FULL, {"size": [2, 3], "counts": [0, 7]}]), "mask 1: .* add up to 7"),
        (lambda: objects_with([FULL, {"counts": [0, 6]}]), "mask 1: .*'size'"),
        (lambda: objects_with([FULL, [[0, 0, 1, 0, 1, 1]]]), "mask 1: .*'size'"),
        (
            lambda: overlapping_pairs(objects_with([FULL, FULL]), make_detections([0], [[0, 0, 3, 2]], [0], [0.5])),
            "objects have masks, but the detections have none",
        ),
        (
            lambda: overlapping_pairs(
                objects_with(None), make_detections([0], [[0, 0, 3, 2]], [0], [0.5], masks=[FULL])
            ),
            "detections have masks, but the objects have none",
        ),
        (
            lambda: overlapping_pairs(
                objects_with([FULL, {"size": [3, 2], "counts": [0, 6]}]),
                make_detections([1], [[0, 0, 3, 2]], [0], [0.5], masks=[FULL]),
            ),
            "image 1 .* 3 x 2 and 2 x 3",
        ),
        (
            lambda: overlapping_pairs(
                objects_with([FULL, {"size": [1, 6], "counts": [0, 6]}], image=(0, 0)),
                make_detections([0], [[0, 0, 3, 2]], [0], [0.5], masks=[FULL]),
            ),
            "image 0 .* 2 x 3 and 1 x 6",
        ),
    ],
)
def test_wrong_masks_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
    """An evaluator and its folder. All boxes are right; in every second image masks are only their upper third."""
    folder = tmp_path_factory.mktemp("masks")
    generate_shapes(folder / "shapes", num_train=1, num_val=6, empty_share=0.0)
    dataset = load_shapes(folder / "shapes", split="val", masks=True)
    evaluator = CocoEvaluator(dataset=dataset, output_dir=folder / "evaluation")
    for number, record in enumerate(dataset):
        masks = record_masks(record)
        if number % 2:
            for mask, (_, y0, _, y1) in zip(masks, record["boxes"].tolist(), strict=True):
                mask[int(y0 + (y1 - y0) / 3) :] = False
        instances = Instances((record["height"], record["width"]))
        instances.pred_boxes, instances.pred_classes = Boxes(record["boxes"]), record["classes"].long()
        instances.scores, instances.pred_masks = torch.full((len(masks),), 0.9), masks
        evaluator.process([record], [{"instances": instances}])
    evaluator.evaluate()
    return evaluator, folder


def test_errors_of_boxes_and_masks_are_in_one_file(evaluated):
    evaluator, folder = evaluated
    content = json.loads((folder / "evaluation" / "errors.json").read_text())
    assert list(content) == ["boxes", "masks"]
    assert content["boxes"]["AP50"] == 100
    assert content["boxes"]["worst_images"] == []
    assert content["masks"]["AP50"] < 100
    assert content["masks"]["kinds"]["localisation"]["count"] > 0
    file_names = {record["file_name"] for number, record in enumerate(evaluator.dataset) if number % 2}
    assert {image["file_name"] for image in content["masks"]["worst_images"]} == file_names


def test_a_model_without_masks_has_errors_of_boxes_alone(evaluated):
    dataset = evaluated[0].dataset
    evaluator = CocoEvaluator(dataset=dataset)
    instances = Instances((dataset[0]["height"], dataset[0]["width"]))
    instances.pred_boxes, instances.pred_classes = Boxes(torch.zeros(0, 4)), torch.zeros(0, dtype=torch.int64)
    instances.scores = torch.zeros(0)
    evaluator.process([dataset[0]], [{"instances": instances}])
    evaluator.evaluate()
    assert list(evaluator.analyses) == ["boxes"]


def test_the_page_has_sections_for_boxes_and_for_masks(evaluated, tmp_path):
    evaluator, _ = evaluated
    dataset = evaluator.dataset

    def images_of(analysis):
        for position in analysis.worst_images(8):
            yield position, str(position), Image.new("RGB", (dataset[position]["width"], dataset[position]["height"]))

    write_error_page(tmp_path, evaluator.analyses, images_of, "detected by model_best.pth")
    page = write_report(tmp_path).read_text()
    for title in ("What is wrong", "Classes", "Confusions", "Sizes, crowding and scores"):
        for shapes in ("boxes", "masks"):
            assert f">{title}: {shapes}</h2>" in page
    assert page.count(">Worst images: ") == 1  # no image has a wrong box
    assert page.count("data:image/jpeg;base64,") == 2 * 3
    assert page.count("mask AP") >= 2
    assert page.index('id="errors-boxes"') < page.index('id="errors-masks"')
    [position, *_] = evaluator.analyses["masks"].worst_images(1)
    for shapes, kind in (("boxes", RIGHT_COLOUR), ("masks", KIND_COLOURS["localisation"])):
        black = Image.new("RGB", (dataset[position]["width"], dataset[position]["height"]))
        picture = draw_errors(black, evaluator.analyses[shapes], position, 2 * black.width).panels[1]
        pixels = np.asarray(picture).reshape(-1, 3)
        assert (pixels == kind).all(axis=1).any()  # lines
        tinted = (np.abs(pixels - 0.45 * np.array(kind)) <= 1).all(axis=1).sum()
        assert (tinted > 20) == (shapes == "masks")
