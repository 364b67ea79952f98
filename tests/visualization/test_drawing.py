import numpy as np
import pytest
import torch
from PIL import Image

from detrex_lite.structures import Boxes, Instances
from detrex_lite.visualization import class_colour, class_label, draw_detections, draw_segments
from detrex_lite.visualization.images import fit_text, load_font

GREY = (128, 128, 128)


def predictions(size, boxes, scores, classes):
    return Instances(
        size,
        pred_boxes=Boxes(torch.tensor(boxes, dtype=torch.float32)),
        scores=torch.tensor(scores),
        pred_classes=torch.tensor(classes),
    )


def grey(width, height):
    return Image.new("RGB", (width, height), GREY)


def count(image, colour):
    return int((np.asarray(image) == np.array(colour)).all(axis=-1).sum())


def test_box_is_drawn_at_its_coordinates_in_the_colour_of_its_class():
    drawn = np.asarray(
        draw_detections(grey(200, 100), predictions((100, 200), [[40, 30, 160, 80]], [0.9], [1]), ["a", "b"])
    )
    colour = np.array(class_colour(1))
    for y, x in ((79, 100), (50, 40), (50, 159), (79, 40)):
        assert (drawn[y, x] == colour).all(), (y, x)
    for y, x in ((90, 100), (50, 100), (50, 38), (50, 161)):
        assert (drawn[y, x] == np.array(GREY)).all(), (y, x)


def test_drawing_does_not_change_the_input_image():
    pixels = np.full((100, 200, 3), 128, dtype=np.uint8)
    pixels[:50] = (200, 10, 60)
    instances = predictions((100, 200), [[40, 30, 160, 80]], [0.9], [0])
    tensor = torch.from_numpy(pixels).permute(2, 0, 1).contiguous()
    images = [pixels, Image.fromarray(pixels), tensor]
    drawn = [np.asarray(draw_detections(image, instances)) for image in images]
    for image_with_boxes in drawn:
        assert (image_with_boxes == drawn[0]).all()
    assert not (drawn[0] == pixels).all()
    for image in images:
        after_drawing = image.permute(1, 2, 0).numpy() if isinstance(image, torch.Tensor) else np.asarray(image)
        assert (after_drawing[:50] == (200, 10, 60)).all()
        assert (after_drawing[50:] == 128).all()


def test_detections_below_the_score_threshold_are_not_drawn():
    boxes = [[10, 20, 60, 60], [80, 20, 130, 60], [140, 20, 190, 60]]
    instances = predictions((100, 200), boxes, [0.5, 0.49, 0.9], [0, 1, 2])
    drawn = draw_detections(grey(200, 100), instances, score_threshold=0.5)
    assert count(drawn, class_colour(0)) > 50
    assert count(drawn, class_colour(1)) == 0
    assert count(drawn, class_colour(2)) > 50


def test_ground_truth_is_drawn_without_scores():
    instances = Instances((100, 200), gt_boxes=Boxes(torch.tensor([[10.0, 20, 60, 60]])), gt_classes=torch.tensor([4]))
    assert count(draw_detections(grey(200, 100), instances), class_colour(4)) > 50


def test_an_image_without_objects_is_not_changed():
    drawn = draw_detections(grey(60, 40), predictions((40, 60), [], [], []))
    assert count(drawn, GREY) == 60 * 40


@pytest.mark.parametrize("size", [(96, 96), (640, 480), (20, 12)])
@pytest.mark.parametrize("corner", ["top left", "bottom right", "everything"])
def test_labels_stay_inside_and_are_legible(size, corner):
    """Text at the border of an image has as many bright pixels as text in the middle, so none of it is cut off."""
    width, height = size

    def text_pixels(box):
        instances = predictions((height, width), [box], [0.9], [0])
        drawn = draw_detections(grey(width, height), instances, ["owl"])
        assert drawn.size == size
        return int((np.asarray(drawn) > 200).all(axis=-1).sum())

    box = {
        "top left": [0, 0, width / 4, height / 4],
        "bottom right": [width * 3 / 4, height * 3 / 4, width, height],
        "everything": [0, 0, width, height],
    }[corner]
    in_the_middle = text_pixels([width * 3 / 8, height * 3 / 8, width * 5 / 8, height * 5 / 8])
    assert text_pixels(box) == in_the_middle
    assert in_the_middle > 20 or width < 50


def test_text_and_lines_scale_with_the_image():
    def drawn_fraction(width, height):
        instances = predictions((height, width), [[width / 4, height / 4, width / 2, height / 2]], [0.9], [0])
        return count(draw_detections(grey(width, height), instances), class_colour(0)) / (width * height)

    assert drawn_fraction(2400, 1800) == pytest.approx(drawn_fraction(800, 600), rel=0.35)


def test_labels_of_overlapping_boxes_do_not_cover_each_other():
    """The labels of two identical boxes are both completely visible."""

    def label_pixels(boxes, classes):
        drawn = draw_detections(
            grey(400, 300), predictions((300, 400), boxes, [0.9] * len(boxes), classes), ["owl", "owl"]
        )
        return count(drawn, (255, 255, 255))

    box = [100, 100, 250, 200]
    # Class 0 (red) and class 4 (purple) both have white text.
    assert label_pixels([box, box], [0, 0]) == 2 * label_pixels([box], [0])


def test_boxes_outside_the_image_or_without_area_raise_no_error():
    boxes = [[-50, -50, -10, -10], [30, 30, 30, 30], [500, 10, 900, 20], [40, 60, 20, 10]]
    draw_detections(grey(100, 80), predictions((80, 100), boxes, [0.9] * 4, [0, 1, 2, 3]))


def test_class_colours_are_constant_and_distinct():
    colours = [class_colour(k) for k in range(100)]
    assert colours == [class_colour(k) for k in range(100)]
    assert len(set(colours)) == 100
    assert all(0 <= channel <= 255 for colour in colours for channel in colour)


def test_classes_without_a_name_are_labelled_by_index():
    assert class_label(1, ["cat", "dog"]) == "dog"
    assert class_label(2, ["cat", "dog"]) == "class 2"
    assert class_label(2, None) == "class 2"


def test_text_that_is_too_wide_is_truncated():
    font = load_font(12)
    assert fit_text("traffic light", font, 500) == "traffic light"
    truncated = fit_text("traffic light", font, 50)
    assert truncated.startswith("traf")
    assert truncated.endswith("…")
    assert font.getlength(truncated) <= 50
    assert fit_text("traffic light", font, 1) == ""


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((3, 10, 20), np.uint8), r"\(H, W, 3\) uint8 array in RGB, got shape \(3, 10, 20\)"),
        (np.zeros((10, 20, 3), np.float32), r"\(H, W, 3\) uint8 array in RGB, got .* float32"),
        (
            torch.zeros(10, 20, 3, dtype=torch.uint8),
            r"\(3, H, W\) uint8 tensor in RGB, got shape \(10, 20, 3\)",
        ),
        ("photo.jpg", "cannot draw into a str"),
    ],
)
def test_unsupported_images_raise_an_error(image, message):
    with pytest.raises(ValueError, match=message):
        draw_detections(image, predictions((10, 20), [], [], []))


def test_boxes_for_another_image_size_raise_an_error():
    with pytest.raises(ValueError, match=r"20 x 10 pixels .* 40 x 30"):
        draw_detections(grey(40, 30), predictions((10, 20), [], [], []))


def test_objects_without_boxes_raise_an_error():
    with pytest.raises(ValueError, match="without pred_boxes or gt_boxes"):
        draw_detections(grey(20, 10), Instances((10, 20)))


def masked(box=(40, 30, 160, 80), mask=None, **fields):
    instances = predictions((100, 200), [list(box)], [0.9], [1])
    instances.pred_masks = torch.zeros(1, 100, 200, dtype=torch.bool)
    if mask is None:
        mask = (slice(40, 70), slice(60, 140))
    instances.pred_masks[0][mask] = True
    for name, value in fields.items():
        instances.set(name, value)
    return instances


def test_masks_are_tinted_and_outlined_and_do_not_change_the_box():
    without = np.asarray(draw_detections(grey(200, 100), predictions((100, 200), [[40, 30, 160, 80]], [0.9], [1])))
    drawn = np.asarray(draw_detections(grey(200, 100), masked()))
    changed = (drawn != without).any(axis=-1)
    expected = np.zeros((100, 200), dtype=bool)
    expected[40:70, 60:140] = True
    assert (changed == expected).all()
    colour = np.array(class_colour(1))
    for y, x in ((40, 60), (69, 139), (40, 100), (55, 60)):
        assert (drawn[y, x] == colour).all(), (y, x)
    inside = drawn[50:60, 70:130].reshape(-1, 3)
    assert (inside == inside[0]).all()
    low, high = np.minimum(colour, 128), np.maximum(colour, 128)
    assert (low <= inside[0]).all()
    assert (inside[0] <= high).all()


def test_empty_masks_are_not_drawn():
    empty = np.asarray(draw_detections(grey(200, 100), masked(mask=(slice(0), slice(0)))))
    without = draw_detections(grey(200, 100), predictions((100, 200), [[40, 30, 160, 80]], [0.9], [1]))
    assert (empty == np.asarray(without)).all()
    no_objects = masked()[torch.zeros(1, dtype=torch.bool)]
    assert count(draw_detections(grey(200, 100), no_objects), GREY) == 200 * 100


def test_masks_with_low_scores_are_not_drawn():
    two_objects = Instances.cat([masked(), masked(mask=(slice(0, 100), slice(0, 200)))])
    two_objects.scores = torch.tensor([0.9, 0.4])
    assert (
        np.asarray(draw_detections(grey(200, 100), two_objects))
        == np.asarray(draw_detections(grey(200, 100), masked()))
    ).all()


@pytest.mark.parametrize("form", ["tensor", "polygons"])
def test_masks_of_the_ground_truth_are_drawn_from_tensors_and_polygons(form):
    masks = masked().pred_masks if form == "tensor" else [[[60.0, 40, 140, 40, 140, 70, 60, 70]]]
    truth = Instances(
        (100, 200),
        gt_boxes=Boxes(torch.tensor([[40.0, 30, 160, 80]])),
        gt_classes=torch.tensor([1]),
        gt_masks=masks,
    )
    drawn = np.asarray(draw_detections(grey(200, 100), truth))
    tinted = (drawn != GREY).any(axis=-1)[35:75, 50:150]
    assert tinted.sum() == pytest.approx(30 * 80, abs=1)


def test_masks_for_another_image_size_raise_an_error():
    with pytest.raises(ValueError, match=r"masks must be \(n, 100, 200\).* got \(1, 50, 50\)"):
        draw_detections(grey(200, 100), masked(pred_masks=torch.zeros(1, 50, 50, dtype=torch.bool)))


def segments():
    ids = torch.zeros(100, 200, dtype=torch.int32)
    ids[:60, :100] = 7
    ids[60:, :] = 9
    return ids, [{"id": 7, "category_id": 2, "score": 0.5}, {"id": 9, "category_id": 3}]


def test_segments_are_tinted_in_their_class_colours_and_void_is_not():
    drawn = np.asarray(draw_segments(grey(200, 100), segments(), ["", "", "owl", "sea"]))
    assert (drawn[:60, 100:] == GREY).all()
    for y, x, k in ((0, 0, 2), (59, 99, 2), (60, 0, 3), (99, 199, 3)):
        assert (drawn[y, x] == class_colour(k)).all()
    # Names are drawn in the middle of their segments.
    assert (drawn[20:40, 30:70] == np.array(class_colour(2))).all(axis=-1).sum() > 50
    assert (drawn[70:90, 80:120] == np.array(class_colour(3))).all(axis=-1).sum() > 50


def test_label_of_a_segment_with_a_hole_is_outside_the_hole():
    ids = torch.ones(100, 200, dtype=torch.int32)
    ids[20:80, 20:180] = 0
    drawn = np.asarray(draw_segments(grey(200, 100), (ids, [{"id": 1, "category_id": 0}]), ["owl"]))
    assert (drawn[40:60, 60:140] == GREY).all()


def test_segments_for_another_image_size_raise_an_error():
    with pytest.raises(ValueError, match="segments .* 200 x 100 pixels .* 40 x 30"):
        draw_segments(grey(40, 30), segments())
