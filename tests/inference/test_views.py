"""Tiles and test-time augmentation, on images whose objects are known."""

import itertools

import numpy as np
import pytest
import torch

from detrex_lite.inference import AugmentedPredictor, Predictor, TiledPredictor
from detrex_lite.inference.merging import ViewDetections, merge_views
from detrex_lite.inference.views import scaled_size, tile_frames

from .rectangles import RectanglePredictor, detected_rectangles, draw, random_objects
from .stand_in import CONFIG, WEIGHTS


@pytest.mark.parametrize("overlap", [0.0, 0.2, 0.5])
@pytest.mark.parametrize("size", [(640, 640), (641, 1000), (100, 2000), (3000, 4000)])
def test_tiles_cover_the_image_with_at_least_the_overlap(size, overlap):
    frames = tile_frames(size, (640, 512), overlap)
    assert all(x0 >= 0 and y0 >= 0 and x1 <= size[1] and y1 <= size[0] for x0, y0, x1, y1 in frames)
    assert {(y1 - y0, x1 - x0) for x0, y0, x1, y1 in frames} == {(min(640, size[0]), min(512, size[1]))}
    for first, last, length, side in ((0, 2, size[1], 512), (1, 3, size[0], 640)):
        spans = sorted({(frame[first], frame[last]) for frame in frames})
        assert (spans[0][0], spans[-1][1]) == (0, length)
        overlaps = [a[1] - b[0] for a, b in itertools.pairwise(spans)]
        assert all(width >= overlap * side for width in overlaps)
        # There are no more tiles than necessary.
        assert len(spans) == 1 or length > side + (len(spans) - 2) * (1 - overlap) * side - 1


@pytest.mark.parametrize("fusion", ["nms", "weighted"])
@pytest.mark.parametrize("whole_image", [True, False])
@pytest.mark.parametrize("seed", [0, 1])
def test_every_rectangle_is_detected_once_with_its_full_box(fusion, whole_image, seed):
    """Rectangles are small, cut off by tiles, or larger than a tile."""
    generator, size = np.random.default_rng(seed), (300, 420)
    objects = random_objects(generator, size, 12, 90, num_classes=1 + seed)
    objects += random_objects(generator, (40, 40), 0, 8, 1)
    predictor = TiledPredictor(RectanglePredictor(), tile=96, overlap=0.25, whole_image=whole_image, fusion=fusion)
    assert detected_rectangles(predictor(draw(size, objects))) == sorted(objects)


def test_a_rectangle_across_many_tiles_is_merged_from_its_parts():
    objects = [(10, 20, 390, 150, 0), (200, 200, 230, 210, 0)]
    predictor = TiledPredictor(RectanglePredictor(), tile=(96, 128), overlap=0.2, whole_image=False)
    assert detected_rectangles(predictor(draw((240, 400), objects))) == objects


def test_neighbouring_rectangles_at_a_tile_border_are_not_merged():
    """The tiles are 0..96 and 72..168, so each tile shows a part of both rectangles."""
    objects = [(60, 30, 84, 50, 0), (85, 30, 110, 50, 0), (70, 60, 98, 80, 1), (70, 81, 98, 95, 1)]
    predictor = TiledPredictor(RectanglePredictor(), tile=96, overlap=0.25, whole_image=False)
    assert detected_rectangles(predictor(draw((96, 168), objects))) == sorted(objects)


def test_small_rectangles_are_detected_in_tiles_and_large_rectangles_in_the_whole_image():
    """All views are resized to 96x96 pixels, so that the small rectangle is missed in the whole image."""
    objects = [(400, 400, 412, 412, 0), (0, 0, 385, 385, 1)]
    image = draw((480, 480), objects)
    plain = RectanglePredictor(resized=(96, 96), smallest=30)
    assert [rectangle[-1] for rectangle in detected_rectangles(plain(image))] == [1]
    tiled = TiledPredictor(plain, tile=96, overlap=0.25)
    assert detected_rectangles(tiled(image)) == sorted(objects)
    assert set(plain.view_sizes) == {(96, 96)}


def test_masks_of_parts_are_merged():
    objects = [(10, 20, 190, 80, 0), (100, 85, 120, 95, 1)]
    image = draw((100, 200), objects)
    for whole_image in (True, False):
        predictor = TiledPredictor(RectanglePredictor(with_masks=True), tile=96, overlap=0.25, whole_image=whole_image)
        arrays = predictor(image).to_numpy()
        for index, mask in zip(arrays["classes"].tolist(), arrays["masks"], strict=True):
            np.testing.assert_array_equal(mask, (image[..., 0] == index + 1))
        assert sorted(arrays["classes"].tolist()) == [0, 1]


def test_tiles_are_batched_and_images_without_objects_give_empty_results():
    inner = RectanglePredictor(batch_size=3)
    predictor = TiledPredictor(inner, tile=96, overlap=0.0)
    result = predictor(np.zeros((192, 192, 3), np.uint8))
    assert (len(result), result.info.highest_score, len(inner.view_sizes)) == (0, None, 5)
    small = np.zeros((50, 60, 3), np.uint8)
    predictor(small)
    assert inner.view_sizes[5:] == [(50, 60)]  # the single tile is also the whole image


def test_thresholds_apply_to_merged_objects(caplog):
    image = draw((100, 200), [(10, 20, 190, 80, 0), (100, 85, 120, 95, 1)])
    predictor = TiledPredictor(RectanglePredictor(score=0.4), tile=96)
    assert len(predictor(image, score_threshold={"class 1": 0.3})) == 1
    assert len(predictor(image)) == 0
    result = predictor(image, score_threshold=0.39)
    assert (len(result), result.info.highest_score) == (2, pytest.approx(0.4))
    assert "highest score" not in caplog.text  # the first result was not empty
    second_predictor = TiledPredictor(RectanglePredictor(score=0.4), tile=96)
    second_predictor(image)
    assert "score_threshold=0.4" in caplog.text


def test_mirrored_views_are_mirrored_back():
    objects = [(10, 20, 60, 50, 0), (100, 10, 140, 90, 1)]
    result = AugmentedPredictor(RectanglePredictor(with_masks=True), fusion="nms")(draw((100, 200), objects))
    assert detected_rectangles(result) == objects
    for index, mask in zip(result.to_numpy()["classes"].tolist(), result.to_numpy()["masks"], strict=True):
        x0, y0, x1, y1, _ = objects[index]
        assert (mask.sum(), mask[y0:y1, x0:x1].all()) == ((x1 - x0) * (y1 - y0), True)


def test_errors_of_opposite_sign_cancel_in_weighted_boxes():
    objects = [(10, 20, 60, 50, 0), (100, 10, 140, 90, 1)]
    image = draw((100, 200), objects)
    shifted = RectanglePredictor(shift=3.0)
    np.testing.assert_allclose(detected_rectangles(AugmentedPredictor(shifted)(image)), objects, atol=1e-4)
    largest_error = np.abs(
        np.array(detected_rectangles(AugmentedPredictor(shifted, fusion="nms")(image))) - objects
    ).max()
    assert largest_error == pytest.approx(3)


def test_objects_missed_by_some_views_get_lower_scores():
    """At half size, the small rectangle has too few pixels to be detected."""
    image = draw((128, 256), [(10, 20, 60, 50, 0), (100, 10, 108, 18, 1)])
    plain = RectanglePredictor(smallest=40, score=0.8)
    predictor = AugmentedPredictor(plain, flip=True, scales=(1.0, 0.5))
    result = predictor(image, score_threshold=0.1)
    assert dict(zip(result.pred_classes.tolist(), result.scores.tolist(), strict=True)) == {
        0: pytest.approx(0.8),
        1: pytest.approx(0.4),
    }
    assert set(plain.view_sizes) == {(128, 256), (64, 128)}
    assert AugmentedPredictor(plain, scales=(1.0, 0.5), fusion="nms")(image).scores.tolist() == pytest.approx([0.8] * 2)


def test_tiles_may_be_augmented():
    objects = [(10, 20, 190, 80, 0), (100, 85, 120, 95, 1)]
    inner = RectanglePredictor()
    predictor = TiledPredictor(AugmentedPredictor(inner), tile=96, overlap=0.25)
    assert detected_rectangles(predictor(draw((100, 200), objects))) == objects
    with pytest.raises(ValueError, match="TiledPredictor"):
        AugmentedPredictor(TiledPredictor(inner))


def view(frame, *rows):
    """Detections of a view; each row is x0, y0, x1, y1, score, class."""
    values = np.array(rows, np.float64).reshape(-1, 6)
    return ViewDetections(frame, values[:, :4], values[:, 4], values[:, 5].astype(int))


LEFT, RIGHT, SIZE = (0, 0, 100, 100), (80, 0, 180, 100), (100, 180)


def test_merged_boxes_use_the_sides_that_are_not_cut_off():
    parts = [view(LEFT, (40, 10, 99, 30, 0.6, 0)), view(RIGHT, (81, 12, 120, 32, 0.8, 0))]
    nms = merge_views(parts, SIZE, fusion="nms")
    assert nms.boxes.tolist() == [[40, 12, 120, 32]]
    assert nms.scores.tolist() == pytest.approx([0.8])
    weighted = merge_views(parts, SIZE, fusion="weighted")
    np.testing.assert_allclose(weighted.boxes, [[40, (0.6 * 10 + 0.8 * 12) / 1.4, 120, (0.6 * 30 + 0.8 * 32) / 1.4]])
    assert weighted.scores.tolist() == pytest.approx([0.7])


def test_different_classes_and_objects_of_one_view_are_never_merged():
    box = (85, 10, 95, 30, 0.6)
    assert len(merge_views([view(LEFT, (*box, 0)), view(RIGHT, (*box, 1))], SIZE).scores) == 2
    assert len(merge_views([view(LEFT, (*box, 0), (*box, 0)), view(RIGHT, (*box, 0))], SIZE).scores) == 2


def test_a_cut_off_part_of_a_larger_object_is_removed():
    """The right tile shows the end of a bus, and its box extends too far below the bus."""
    bus = view((0, 0, 180, 100), (20, 20, 130, 80, 0.9, 0))
    part = (80, 50, 130, 80, 0.6, 0)
    assert merge_views([bus, view(RIGHT, part)], SIZE).boxes.tolist() == [[20, 20, 130, 80]]
    whole = (85, 50, 130, 80, 0.6, 0)  # not cut off, so it is a separate object
    assert len(merge_views([bus, view(RIGHT, whole)], SIZE).scores) == 2
    other_class = (80, 50, 130, 80, 0.6, 1)
    assert len(merge_views([bus, view(RIGHT, other_class)], SIZE).scores) == 2


def test_merging_empty_views_gives_an_empty_result():
    merged = merge_views([view(LEFT), view(RIGHT)], SIZE)
    assert (merged.boxes.shape, merged.masks) == ((0, 4), None)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tile": 0}, "tile"),
        ({"tile": 640.5}, "tile"),
        ({"tile": (640, 640, 3)}, "tile"),
        ({"overlap": 1.0}, "overlap"),
        ({"overlap": "0.2"}, "overlap"),
        ({"fusion": "wbf"}, "'nms', 'weighted'.*'wbf'"),
        ({"iou_threshold": 0}, "iou_threshold"),
        ({"score_threshold": {"class 9": 0.5}}, "class 9"),
    ],
)
def test_invalid_tile_settings_raise_an_error(settings, message):
    with pytest.raises(ValueError, match=message):
        TiledPredictor(RectanglePredictor(), **settings)


@pytest.mark.parametrize("scales", [(), (0,), (1.0, 1.0), ("1",), (True,)])
def test_invalid_scales_raise_an_error(scales):
    with pytest.raises(ValueError, match="scales"):
        AugmentedPredictor(RectanglePredictor(), scales=scales)


def test_scaled_sizes_keep_multiples_of_64_and_the_aspect_ratio():
    assert scaled_size((640, 640), 1.2) == (768, 768)
    assert scaled_size((576, 576), 0.8) == (448, 448)  # remains a multiple of 64
    assert scaled_size((800, 1066), 1.5) == (1200, 1599)


@pytest.mark.parametrize("with_masks", [False, True])
def test_views_of_a_torch_model_are_merged(tmp_path, with_masks):
    """The model detects the bright rectangle in the whole image, mirrored or not, at two scales."""
    (tmp_path / "config.py").write_text(CONFIG)
    torch.save({"model": WEIGHTS}, tmp_path / "model.pth")
    overrides = ["+model.with_masks=True"] if with_masks else []
    inner = Predictor(tmp_path / "config.py", tmp_path / "model.pth", device="cpu", overrides=overrides)
    pixels = np.zeros((128, 256, 3), np.uint8)
    pixels[16:48, 40:80, 0] = 255
    plain, augmented = inner(pixels), AugmentedPredictor(inner, scales=(1.0, 1.5))(pixels)
    assert inner.model.calls == [[(3, 64, 128)]] * 3 + [[(3, 128, 192)]] * 2
    assert augmented.pred_boxes.tensor.tolist()[0] == pytest.approx(plain.pred_boxes.tensor.tolist()[0], abs=3)
    assert augmented.has("pred_masks") == with_masks
    assert augmented.info.class_names == inner.class_names
