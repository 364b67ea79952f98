import pytest
import torch
from torch.testing import assert_close

from detrex_lite.modeling import AnchorBoxes, pair_with_patterns


@pytest.mark.parametrize("centers", ["learned", "random", "fixed"])
def test_fixed_centres_get_no_gradients(centers):
    torch.manual_seed(0)
    anchors = AnchorBoxes(50, centers)
    boxes = anchors()
    assert boxes.shape == (50, 4)
    assert (boxes > 0).all()
    assert (boxes < 1).all()
    assert_close(boxes, anchors.weight.sigmoid())
    boxes.sum().backward()
    assert anchors.weight.grad[:, 2:].ne(0).all()
    assert anchors.weight.grad[:, :2].ne(0).all() == (centers != "fixed")


def test_random_centres_are_uniform_over_the_image():
    torch.manual_seed(0)
    spread = AnchorBoxes(2000, "random")()[:, :2].histc(4, 0, 1) / 4000
    assert_close(spread, torch.full((4,), 0.25), rtol=0, atol=0.03)
    learned = AnchorBoxes(2000)()[:, :2].histc(4, 0, 1) / 4000
    assert learned[1:3].sum() > 0.65


def test_anchors_are_float32_at_least():
    assert AnchorBoxes(3).to(torch.bfloat16)().dtype == torch.float32
    assert AnchorBoxes(3).double()().dtype == torch.float64


def test_each_pattern_is_paired_with_all_anchors_in_order():
    patterns, anchors = torch.tensor([[1.0], [2.0], [3.0]]), torch.tensor([[0.1] * 4, [0.2] * 4])
    contents, boxes = pair_with_patterns(patterns, anchors)
    assert contents.flatten().tolist() == [1, 1, 2, 2, 3, 3]
    assert_close(boxes[:, 0], torch.tensor([0.1, 0.2, 0.1, 0.2, 0.1, 0.2]))


def test_errors():
    with pytest.raises(ValueError, match="num_queries=0.*at least one"):
        AnchorBoxes(0)
    with pytest.raises(ValueError, match="unknown centers='fixd'.*'fixed'"):
        AnchorBoxes(3, "fixd")
