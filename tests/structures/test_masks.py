"""Masks of every format are converted to the same tensor as by pycocotools and by a slow loop."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask

from detrex_lite.structures import as_masks, has_pixels, masks_to_boxes, run_lengths

SIZE = (12, 17)
TRIANGLE = [2.0, 1.0, 15.0, 3.5, 6.5, 11.0]
SQUARE = [4, 4, 8, 4, 8, 9, 4, 9]


def some_masks(count: int = 5, size: tuple[int, int] = SIZE) -> torch.Tensor:
    masks = torch.rand((count, *size), generator=torch.Generator().manual_seed(3)) < 0.4
    masks[-1] = False
    return masks


def uncompressed(mask: torch.Tensor) -> dict:
    """Uncompressed run lengths, counted pixel by pixel in column-major order."""
    counts, value = [0], False
    for pixel in mask.T.flatten().tolist():
        if pixel != value:
            counts.append(0)
            value = pixel
        counts[-1] += 1
    return {"size": list(mask.shape), "counts": counts}


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int64])
def test_tensors_arrays_and_bit_masks_become_bool_tensors(dtype):
    masks = some_masks()
    for source in (masks.to(dtype), masks.to(dtype).numpy(), SimpleNamespace(tensor=masks.to(dtype))):
        converted = as_masks(source, SIZE)
        assert converted.dtype == torch.bool
        assert torch.equal(converted, masks)


def test_run_lengths_round_trip_as_numbers_text_and_bytes():
    masks = some_masks()
    texts = run_lengths(masks)
    assert all(isinstance(run_length["counts"], str) and run_length["size"] == list(SIZE) for run_length in texts)
    counted = [uncompressed(mask) for mask in masks]
    for source in (texts, counted, [{**run_length, "counts": run_length["counts"].encode()} for run_length in texts]):
        assert torch.equal(as_masks(source, SIZE), masks)
    assert run_lengths(as_masks(counted, SIZE)) == texts


@pytest.mark.parametrize("density", [0.0, 0.02, 0.5, 1.0])
def test_long_runs_round_trip(density):
    masks = torch.rand((2, 300, 500), generator=torch.Generator().manual_seed(1)) < density
    assert torch.equal(as_masks(run_lengths(masks), (300, 500)), masks)


def test_polygons_are_filled_as_by_pycocotools():
    two_polygons = [TRIANGLE, SQUARE]  # polygons of one object are merged
    expected = [
        coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects([list(map(float, p)) for p in polygons], *SIZE)))
        for polygons in ([TRIANGLE], two_polygons)
    ]
    actual = as_masks([[TRIANGLE], two_polygons], SIZE)
    assert actual[1].sum() > actual[0].sum() > 0
    for mask, expected_mask in zip(actual, expected, strict=True):
        assert torch.equal(mask, torch.from_numpy(expected_mask).bool())
    assert torch.equal(as_masks(SimpleNamespace(polygons=[[np.array(TRIANGLE)], two_polygons]), SIZE), actual)


def test_a_rectangle_of_whole_pixels_is_exact_and_clipped_to_the_image():
    mask = as_masks([[[-3, 2, 6, 2, 6, 30, -3, 30]]], SIZE)[0]
    expected = torch.zeros(SIZE, dtype=torch.bool)
    expected[2:, :6] = True
    assert torch.equal(mask, expected)


def test_polygons_and_run_lengths_may_be_mixed_and_empty_inputs_give_empty_masks():
    masks = some_masks(2)
    mixed = as_masks([[SQUARE], run_lengths(masks)[0]], SIZE)
    assert mixed[0].sum() == 20
    assert torch.equal(mixed[1], masks[0])
    assert as_masks([], SIZE).shape == (0, *SIZE)
    assert as_masks(torch.zeros((0, *SIZE), dtype=torch.bool), SIZE).shape == (0, *SIZE)
    assert run_lengths(torch.zeros((0, *SIZE), dtype=torch.bool)) == []


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        ([], "empty list"),
        (None, "NoneType"),
        ("abc", "str"),
        ([1, 2, 3, 4, 5, 6], "list of numbers"),
        ([[1, 2, 3, 4]], "polygon 0 has 4 numbers"),
        ([TRIANGLE, [1, 2, 3, 4, 5, 6, 7]], "polygon 1 has 7 numbers"),
        ([["1"] * 6], "flat list of numbers"),
        ([[TRIANGLE]], "flat list of numbers"),
        ([[[1, 2], [3]]], "flat list of numbers"),
        ([[1, 2, 3, float("nan"), 5, 6]], "coordinate nan"),
        ([[1, 2, 3, 4, 5, 1e9]], r"coordinate 1e\+09"),
        ({"counts": [204]}, "no 'size'"),
        ({}, "no 'size' and no 'counts'"),
        ({"size": [17, 12], "counts": [204]}, r"the size \[17, 12\], but its image is 12 high and 17 wide"),
        ({"size": 12, "counts": [204]}, "the size 12"),
        ({"size": [12, 17], "counts": [200]}, "add up to 200"),
        ({"size": [12, 17], "counts": [210, -6]}, "one is negative"),
        ({"size": [12, 17], "counts": [0.5]}, "integers"),
        ({"size": [12, 17], "counts": []}, "integers"),
        ({"size": [12, 17], "counts": ""}, "character"),
        ({"size": [12, 17], "counts": "ab c"}, "character"),
        ({"size": [12, 17], "counts": "é"}, "character"),
        ({"size": [12, 17], "counts": "P"}, "middle of a number"),
        ({"size": [12, 17], "counts": "oooooooo1"}, "exceeds the pixels"),
        ({"size": [12, 17], "counts": "11"}, "add up to 2"),
    ],
)
def test_malformed_segmentations_raise_an_error_with_image_and_annotation(segmentation, message):
    with pytest.raises(ValueError, match=f"cat.jpg: annotation 70: .*{message}"):
        as_masks([[SQUARE], segmentation], SIZE, image="cat.jpg", ids=[69, 70])
    with pytest.raises(ValueError, match=f"cat.jpg: object 1: .*{message}"):
        as_masks([[SQUARE], segmentation], SIZE, image="cat.jpg")


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        (torch.zeros(3, 12, 16, dtype=torch.bool), r"got \(3, 12, 16\)"),
        (torch.zeros(12, 17, dtype=torch.bool), r"got \(12, 17\)"),
        (torch.zeros(3, 4), r"got \(3, 4\)"),  # boxes in place of masks
        (torch.ones(1, 12, 17), "float32 from 1 to 1"),
        (torch.full((1, 12, 17), 255, dtype=torch.uint8), "uint8 from 255 to 255"),
        ({"size": [12, 17], "counts": [204]}, "got a dict"),
        (None, "got a NoneType"),
    ],
)
def test_invalid_masks_raise_an_error(masks, message):
    with pytest.raises(ValueError, match=f"cat.jpg: .*{message}"):
        as_masks(masks, SIZE, image="cat.jpg")


def test_boxes_enclose_the_outermost_pixels():
    masks = torch.zeros((4, *SIZE), dtype=torch.bool)
    masks[0, 3, 5] = True
    masks[1, 0, 0] = masks[1, 11, 16] = True
    masks[2, 2:5, 7:9] = True
    assert masks_to_boxes(masks).tolist() == [[5, 3, 6, 4], [0, 0, 17, 12], [7, 2, 9, 5], [0, 0, 0, 0]]
    assert has_pixels(masks).tolist() == [True, True, True, False]
    assert masks_to_boxes(masks[:0]).shape == (0, 4)
    assert has_pixels(masks[:0]).shape == (0,)


def test_boxes_of_random_masks_agree_with_a_loop():
    masks = torch.rand((20, *SIZE), generator=torch.Generator().manual_seed(2)) < 0.03
    for mask, box in zip(masks, masks_to_boxes(masks).tolist(), strict=True):
        rows, columns = mask.nonzero().T.tolist()
        assert box == ([min(columns), min(rows), max(columns) + 1, max(rows) + 1] if rows else [0, 0, 0, 0])
