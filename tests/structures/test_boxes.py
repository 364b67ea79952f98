import numpy as np
import pytest
import torch

from detrex_lite.structures import Boxes

TWO_BOXES = [[0.0, 0.0, 10.0, 20.0], [5.0, 5.0, 6.0, 9.0]]


@pytest.mark.parametrize("make", [list, np.array, torch.tensor, lambda rows: np.array(rows, dtype=np.int64)])
def test_boxes_come_from_lists_arrays_and_tensors(make):
    boxes = Boxes(make(TWO_BOXES))
    assert boxes.tensor.is_floating_point()
    assert boxes.tensor.tolist() == TWO_BOXES


def test_float_dtypes_are_kept_and_integers_become_float32():
    assert Boxes(torch.tensor(TWO_BOXES, dtype=torch.float64)).tensor.dtype == torch.float64
    assert Boxes(torch.tensor(TWO_BOXES).half()).tensor.dtype == torch.float16
    assert Boxes(torch.tensor(TWO_BOXES).int()).tensor.dtype == torch.float32


@pytest.mark.parametrize("empty", [[], torch.zeros(0), torch.zeros(0, 4)])
def test_empty_inputs_have_shape_0_4(empty):
    boxes = Boxes(empty)
    assert boxes.tensor.shape == (0, 4)
    assert len(boxes) == 0
    assert boxes.area().shape == boxes.nonempty().shape == (0,)
    assert boxes.get_centers().shape == (0, 2)
    boxes.clip((5, 5))
    assert len(boxes) == 0


@pytest.mark.parametrize("shape", [(4,), (3, 5), (2, 3, 4)])
def test_wrong_shapes_raise_an_error(shape):
    with pytest.raises(ValueError, match=r"shape \(T, 4\)"):
        Boxes(torch.zeros(shape))


def test_area_and_centres():
    assert Boxes(TWO_BOXES).area().tolist() == [200.0, 4.0]
    assert Boxes(TWO_BOXES).get_centers().tolist() == [[5.0, 10.0], [5.5, 7.0]]


def test_clip_takes_height_first():
    boxes = Boxes([[-5.0, -5.0, 50.0, 50.0], [1.0, 2.0, 3.0, 4.0], [40.0, 40.0, 50.0, 60.0]])
    boxes.clip((10, 20))
    assert boxes.tensor.tolist() == [[0, 0, 20, 10], [1, 2, 3, 4], [20, 10, 20, 10]]
    assert boxes.nonempty().tolist() == [True, True, False]


def test_nonempty_compares_both_sides_with_the_threshold():
    boxes = Boxes([[0, 0, 0, 5], [0, 0, 5, 0], [3, 0, 2, 5], [0, 0, 2, 3]])
    assert boxes.nonempty().tolist() == [False, False, False, True]
    assert boxes.nonempty(threshold=2).tolist() == [False] * 4
    assert boxes.nonempty(threshold=1.9).tolist() == [False, False, False, True]


def test_scale_takes_x_first_and_keeps_the_dtype():
    boxes = Boxes(torch.tensor(TWO_BOXES, dtype=torch.float64))
    boxes.scale(2.0, 0.5)
    assert boxes.tensor.tolist() == [[0, 0, 20, 10], [10, 2.5, 12, 4.5]]
    assert boxes.tensor.dtype == torch.float64


def test_clip_and_scale_do_not_change_the_tensor_of_the_caller():
    tensor = torch.tensor([[-1.0, -1.0, 9.0, 9.0]])
    boxes = Boxes(tensor)
    boxes.clip((4, 4))
    boxes.scale(3, 3)
    assert tensor.tolist() == [[-1, -1, 9, 9]]


@pytest.mark.parametrize(
    ("item", "rows"),
    [
        (0, [0]),
        (-1, [1]),
        (slice(None), [0, 1]),
        (slice(0, 0), []),
        (torch.tensor([1, 0, 1]), [1, 0, 1]),
        (torch.tensor([False, True]), [1]),
        (torch.zeros(0, dtype=torch.long), []),
    ],
)
def test_indexing_gives_boxes(item, rows):
    picked = Boxes(TWO_BOXES)[item]
    assert isinstance(picked, Boxes)
    assert picked.tensor.tolist() == [TWO_BOXES[row] for row in rows]


def test_iteration_gives_one_tensor_per_box():
    assert [box.tolist() for box in Boxes(TWO_BOXES)] == TWO_BOXES


def test_cat_keeps_the_order_and_accepts_empty_boxes():
    joined = Boxes.cat([Boxes(TWO_BOXES), Boxes([]), Boxes(TWO_BOXES[:1])])
    assert joined.tensor.tolist() == [*TWO_BOXES, TWO_BOXES[0]]
    assert Boxes.cat([]).tensor.shape == (0, 4)


def test_to_and_clone_make_new_boxes():
    boxes = Boxes(TWO_BOXES)
    assert boxes.to(torch.float64).tensor.dtype == torch.float64
    assert boxes.tensor.dtype == torch.float32
    copy = boxes.clone()
    copy.tensor[0, 0] = 7
    assert boxes.tensor[0, 0] == 0
    assert boxes.device == torch.device("cpu")
    assert repr(boxes).startswith("Boxes(tensor(")
