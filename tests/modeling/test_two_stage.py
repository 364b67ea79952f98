import pytest
import torch
from torch import nn
from torch.testing import assert_close

from detrex_lite.modeling import EncoderProposals, TokenLevels, refine, take_best, token_anchors
from detrex_lite.structures import ImageBatch, inverse_sigmoid


def levels_of(*maps):
    """maps: per level (height, width) and the sizes of the images in it."""
    batches = [ImageBatch.of_padded(torch.zeros(len(sizes), 1, *shape), sizes) for shape, sizes in maps]
    return TokenLevels.from_maps(batches)


def test_anchors_lie_around_their_tokens_and_double_with_the_level():
    anchors, proposes = token_anchors(levels_of(((1, 2), [(1, 2)]), ((1, 1), [(1, 1)])))
    expected = [[0.25, 0.5, 0.05, 0.05], [0.75, 0.5, 0.05, 0.05], [0.5, 0.5, 0.1, 0.1]]
    assert_close(anchors, torch.tensor([expected]))
    assert proposes.tolist() == [[True, True, True]]


def test_padding_proposes_nothing():
    anchors, proposes = token_anchors(levels_of(((2, 2), [(2, 2), (2, 1)])))
    assert proposes.tolist() == [[True] * 4, [True, False, True, False]]
    # An image of one column has its centre there.
    assert_close(anchors[1, 0], torch.tensor([0.5, 0.25, 0.05, 0.05]))


def test_tokens_at_the_border_propose_nothing():
    # The centres of the outermost of 60 columns are 1/120 < 0.01 from the border.
    _, proposes = token_anchors(levels_of(((1, 60), [(1, 60)])))
    assert proposes.tolist() == [[False, *[True] * 58, False]]
    _, proposes = token_anchors(levels_of(((40, 1), [(40, 1)])))
    assert proposes.all()


def test_tokens_of_levels_whose_anchors_exceed_the_image_propose_nothing():
    levels = levels_of(*[((1, 1), [(1, 1)])] * 6)
    anchors, proposes = token_anchors(levels)
    assert_close(anchors[0, :, 2], torch.tensor([0.05, 0.1, 0.2, 0.4, 0.8, 1.6]))
    assert proposes.tolist() == [[True, True, True, True, True, False]]


def test_proposals_are_anchors_moved_by_the_head():
    levels = levels_of(((2, 2), [(2, 2), (2, 1)]))
    torch.manual_seed(0)
    module, class_head, box_head = EncoderProposals(8), nn.Linear(8, 3), nn.Linear(8, 4)
    memory = torch.randn(2, 4, 8)
    memory[1, 1::2] = torch.nan  # what padding holds must not matter
    found = module(memory, levels, class_head, box_head)
    anchors, proposes = token_anchors(levels)
    projected = module.enc_output_norm(module.enc_output(memory))
    assert_close(found.memory[proposes], projected[proposes])
    assert_close(found.logits, class_head(found.memory))
    moved = refine(box_head(found.memory), anchors)
    assert_close(found.box_logits.sigmoid()[proposes], moved[proposes])
    assert (found.box_logits[~proposes] == float("inf")).all()
    nothing = module.enc_output_norm(module.enc_output.bias)
    assert_close(found.memory[~proposes], nothing.expand(2, 8))


def test_infinite_boxes_have_gradients_of_zero():
    levels = levels_of(((1, 2), [(1, 2), (1, 1)]))
    torch.manual_seed(0)
    module, box_head = EncoderProposals(8), nn.Linear(8, 4)
    boxes = module(torch.randn(2, 2, 8), levels, nn.Linear(8, 3), box_head).box_logits.sigmoid()
    assert_close(boxes[1, 1], torch.ones(4))
    boxes[1, 1].sum().backward()
    assert_close(box_head.bias.grad, torch.zeros(4))


def test_refining_by_nothing_changes_nothing():
    boxes = torch.tensor([[0.2, 0.7, 0.1, 0.4]])
    assert_close(refine(torch.zeros(1, 4), boxes), boxes)
    # A point has no size: the head gives it whole.
    assert_close(refine(torch.zeros(1, 4), boxes[:, :2]), torch.tensor([[0.2, 0.7, 0.5, 0.5]]))


@pytest.mark.parametrize("coordinates", [2, 4])
def test_refining_adds_logits_and_has_an_inverse(coordinates):
    generator = torch.Generator().manual_seed(0)
    reference = 0.01 + 0.98 * torch.rand(3, 5, coordinates, generator=generator, dtype=torch.float64)
    offsets = torch.randn(3, 5, 4, generator=generator, dtype=torch.float64) / 4
    refined = refine(offsets, reference)
    assert refined.shape == (3, 5, 4)
    assert refined.dtype == torch.float64
    before = torch.logit(reference)
    if coordinates == 2:
        before = torch.cat([before, torch.zeros_like(before)], dim=-1)
    assert_close(inverse_sigmoid(refined), before + offsets)
    assert_close(refine(inverse_sigmoid(refined) - before, reference), refined)


def test_refining_is_float32_in_half_precision():
    refined = refine(torch.zeros(1, 4, dtype=torch.bfloat16), torch.tensor([[0.3, 0.6, 0.1, 0.2]]))
    assert_close(refined, torch.tensor([[0.3, 0.6, 0.1, 0.2]]))


def test_references_at_the_border_stay_finite():
    offsets = torch.zeros(1, 4, requires_grad=True)
    refined = refine(offsets, torch.tensor([[0.0, 1.0, 0.0, 1.0]]))
    refined.sum().backward()
    assert_close(refined, torch.tensor([[0.0, 1.0, 0.0, 1.0]]), rtol=0, atol=2e-3)
    assert (offsets.grad > 0).all()


TOKENS = torch.arange(8.0).view(2, 4, 1)
SCORES = torch.tensor([[0.1, 0.4, 0.3, 0.2], [0.9, 0.1, 0.2, 0.3]])


def test_the_best_tokens_come_in_the_order_of_their_scores():
    assert take_best(TOKENS, SCORES, 2)[..., 0].tolist() == [[1, 2], [4, 7]]
    assert take_best(TOKENS.expand(2, 4, 3), SCORES, 2).shape == (2, 2, 3)


def test_there_are_no_more_best_tokens_than_tokens():
    assert take_best(TOKENS, SCORES, 9)[..., 0].tolist() == [[1, 2, 3, 0], [4, 7, 6, 5]]


def test_padding_is_taken_last():
    padding = torch.tensor([[False, True, False, False], [True, True, True, False]])
    assert take_best(TOKENS, SCORES, 2, padding=padding)[0, :, 0].tolist() == [2, 3]
    best = take_best(TOKENS, SCORES, 3, padding=padding)
    assert best.shape == (2, 3, 1)
    assert best[1, 0, 0] == 7
