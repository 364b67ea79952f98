import pytest
import torch
from torch.testing import assert_close

from detrex_lite.modeling import DetectionHeads, Memory, TokenLevels, refine
from detrex_lite.modeling.deformable import (
    EncoderProposals,
    gather_tokens,
    highest,
    record_selected_tokens,
    select_tokens_by,
    taken_padding,
    token_anchors,
    topk_tokens,
)
from detrex_lite.structures import ImageBatch


def levels_of(*maps, as_published=False):
    """maps: per level (height, width) and the sizes of the images in it."""
    return TokenLevels.from_maps(
        [
            ImageBatch.of_padded(torch.zeros(len(sizes), 1, *shape), sizes, as_published=as_published)
            for shape, sizes in maps
        ]
    )


def heads_for_encoder(**arguments):
    torch.manual_seed(0)
    heads = DetectionHeads(
        embed_dim=8, num_classes=3, num_layers=2, with_box_refine=True, for_encoder=True, **arguments
    )
    for head in heads.bbox_embed:
        torch.nn.init.normal_(head.layers[-1].weight)
    return heads


def test_anchors_are_centred_at_their_tokens_and_double_with_each_level():
    anchors, proposes = token_anchors(levels_of(((1, 2), [(1, 2)]), ((1, 1), [(1, 1)])))
    expected = [[0.25, 0.5, 0.05, 0.05], [0.75, 0.5, 0.05, 0.05], [0.5, 0.5, 0.1, 0.1]]
    assert_close(anchors, torch.tensor([expected]))
    assert proposes.tolist() == [[True, True, True]]


def test_padding_gives_no_proposals():
    anchors, proposes = token_anchors(levels_of(((2, 2), [(2, 2), (2, 1)])))
    assert proposes.tolist() == [[True] * 4, [True, False, True, False]]
    # An image of one column has its cell centres at x = 0.5.
    assert_close(anchors[1, 0], torch.tensor([0.5, 0.25, 0.05, 0.05]))


def test_tokens_at_the_border_give_no_proposals():
    # The centres of the outermost of 60 columns are 1/120 < 0.01 from the border.
    _, proposes = token_anchors(levels_of(((1, 60), [(1, 60)])))
    assert proposes.tolist() == [[False, *[True] * 58, False]]
    _, proposes = token_anchors(levels_of(((40, 1), [(40, 1)])))
    assert proposes.all()


def test_levels_with_anchors_larger_than_the_image_give_no_proposals():
    levels = levels_of(*[((1, 1), [(1, 1)])] * 6)
    anchors, proposes = token_anchors(levels)
    assert_close(anchors[0, :, 2], torch.tensor([0.05, 0.1, 0.2, 0.4, 0.8, 1.6]))
    assert proposes.tolist() == [[True, True, True, True, True, False]]


def test_proposals_are_anchors_refined_by_the_head():
    levels = levels_of(((2, 2), [(2, 2), (2, 1)]))
    heads, module = heads_for_encoder(), EncoderProposals(8)
    tokens = torch.randn(2, 4, 8)
    tokens[1, 1::2] = torch.nan  # the contents of padding must not matter
    proposals = module(Memory(tokens, None, levels.padding, levels))
    anchors, proposes = token_anchors(levels)
    assert_close(proposals.anchors, anchors)
    assert_close(proposals.proposes, proposes)
    projected = module.enc_output_norm(module.enc_output(tokens))
    assert_close(proposals.tokens[proposes], projected[proposes])
    projected_zero = module.enc_output_norm(module.enc_output.bias)
    assert_close(proposals.tokens[~proposes], projected_zero.expand(2, 8))
    output = heads.propose(*proposals)
    assert_close(output.logits, heads.class_embed[-1](proposals.tokens))
    refined = refine(heads.bbox_embed[-1](proposals.tokens), anchors)
    assert_close(output.boxes[proposes], refined[proposes])
    assert_close(output.boxes[~proposes], torch.ones(2, 4), rtol=0, atol=0)


def test_boxes_of_tokens_without_proposals_have_zero_gradients():
    levels = levels_of(((1, 2), [(1, 2), (1, 1)]))
    heads, module = heads_for_encoder(), EncoderProposals(8)
    boxes = heads.propose(*module(Memory(torch.randn(2, 2, 8), None, levels.padding, levels))).boxes
    assert_close(boxes[1, 1], torch.ones(4))
    boxes[1, 1].sum().backward()
    assert_close(heads.bbox_embed[-1].layers[-1].bias.grad, torch.zeros(4))


def test_proposals_without_levels_raise_an_error():
    with pytest.raises(ValueError, match="feature levels"):
        EncoderProposals(8)(Memory(torch.zeros(1, 2, 8), None, None))


TOKENS = torch.arange(8.0).view(2, 4, 1)
SCORES = torch.tensor([[0.1, 0.4, 0.3, 0.2], [0.9, 0.1, 0.2, 0.3]])
WHOLE = levels_of(((2, 2), [(2, 2), (2, 2)]))


def test_the_best_tokens_are_sorted_by_their_scores():
    best = topk_tokens(SCORES, 2, WHOLE)
    assert best.tolist() == [[1, 2], [0, 3]]
    assert gather_tokens(TOKENS, best)[..., 0].tolist() == [[1, 2], [4, 7]]
    assert gather_tokens(TOKENS.expand(2, 4, 3), best).shape == (2, 2, 3)


def test_the_number_of_best_tokens_is_limited_by_the_number_of_tokens():
    assert gather_tokens(TOKENS, topk_tokens(SCORES, 9, WHOLE))[..., 0].tolist() == [[1, 2, 3, 0], [4, 7, 6, 5]]


def test_padding_is_selected_last_except_as_published():
    sizes = [(2, 2), (1, 1)]  # only the first token of the second image is not padding
    scores = torch.tensor([[0.1, 0.4, 0.3, 0.2], [0.1, 0.9, 0.2, 0.3]])
    best = topk_tokens(scores, 3, levels_of(((2, 2), sizes)))
    assert best[0].tolist() == [1, 2, 3]
    assert best.shape == (2, 3)
    assert best[1, 0] == 0
    published = topk_tokens(scores, 3, levels_of(((2, 2), sizes), as_published=True))
    assert published.tolist() == [[1, 2, 3], [1, 3, 2]]


def test_taken_padding_marks_selected_padding():
    levels = levels_of(((2, 2), [(2, 2), (1, 2)]))
    assert taken_padding(topk_tokens(SCORES, 2, levels), levels) is None
    best = topk_tokens(SCORES, 3, levels)
    assert taken_padding(best, levels).tolist() == [[False] * 3, [False, False, True]]
    for levels_without_padding in (WHOLE, levels_of(((2, 2), [(2, 2), (1, 2)]), as_published=True)):
        assert taken_padding(topk_tokens(SCORES, 3, levels_without_padding), levels_without_padding) is None


def test_selected_tokens_are_recorded_and_the_selection_can_be_replaced():
    with record_selected_tokens() as selected:
        expected = [topk_tokens(SCORES, number, WHOLE) for number in (2, 9)]
    assert [indices.tolist() for indices in selected] == [indices.tolist() for indices in expected]
    assert expected[0].tolist() == [[1, 2], [0, 3]]
    with select_tokens_by(lambda scores, number: highest(-scores, number)):
        assert topk_tokens(SCORES, 2, WHOLE).tolist() == [[0, 3], [1, 2]]
    assert topk_tokens(SCORES, 2, WHOLE).tolist() == [[1, 2], [0, 3]]
    assert len(selected) == 2


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_proposals_have_the_precision_of_the_model_and_boxes_at_least_float32(dtype):
    levels = levels_of(((2, 2), [(2, 2), (2, 1)]))
    heads, module = heads_for_encoder().to(dtype), EncoderProposals(8).to(dtype)
    output = heads.propose(*module(Memory(torch.randn(2, 4, 8, dtype=dtype), None, levels.padding, levels)))
    assert output.logits.dtype == dtype
    assert output.boxes.dtype == torch.promote_types(dtype, torch.float32)
    assert torch.isfinite(output.boxes).all()
