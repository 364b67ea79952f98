"""Queries that stay distinct, layer by layer, and what does not take part any more."""

from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close
from torchvision.ops import nms

from detrex_lite.modeling import (
    BoxL1Cost,
    BoxL1Loss,
    Decoder,
    DecoderState,
    FocalLoss,
    HungarianMatcher,
    IoUAssigner,
    Queries,
    SetCriterion,
    TopKPostprocessor,
)
from detrex_lite.modeling.deformable import DeformableAnchorDecoder, DistinctQueryDecoder
from detrex_lite.structures import box_cxcywh_to_xyxy
from detrex_lite.testing import SMALL, build_randomised, changed, make_batch

from .helpers import random_predictions, random_targets


@pytest.fixture(scope="module")
def parts():
    """A detector's decoder, heads, memory and queries: 12 of matching after 5 others that they do not see."""
    from detrex_lite.config import get_config
    from detrex_lite.modeling import QueryBlock

    cfg = get_config("projects/dino/configs/models/dino_r50.py").model
    changes = {"transformer.decoder._target_": DistinctQueryDecoder, "transformer.decoder.num_layers": 4}
    model = build_randomised(changed(cfg, {**SMALL, **changes})).double().eval()
    model.transformer.decoder.iou_threshold = 0.3
    with torch.no_grad():
        images = model.preprocess(make_batch()[:1], as_published=False)
        memory = model.transformer.encode(*model.maps_and_positions(images))
    generator = torch.Generator().manual_seed(0)
    content = torch.randn(1, 17, 64, generator=generator, dtype=torch.float64)
    boxes = 0.35 + 0.3 * torch.rand(1, 17, 4, generator=generator, dtype=torch.float64)
    blocks = [
        QueryBlock("_dn*", content[:, :5], boxes[:, :5], sees=("",)),
        QueryBlock("", content[:, 5:], boxes[:, 5:]),
    ]
    return model, memory, blocks


def decode(parts, blocks=None):
    model, memory, own = parts
    with torch.no_grad():
        return model.transformer.decoder(Queries(blocks or own), memory, model.heads)


def decode_by_a_loop(model, memory, blocks):
    """Layer after layer: the outputs' boxes, and which queries take part in each layer."""
    decoder, heads, queries = model.transformer.decoder, model.heads, Queries(blocks)
    query, reference = queries.content, queries.reference
    left, boxes, taking_part = list(range(12)), [], []
    mask = queries.attn_mask.clone()
    for index, layer in enumerate(decoder.layers):
        taking_part.append(sorted(left))
        state = DecoderState(query, reference, [], queries, memory)
        inputs = DeformableAnchorDecoder.layer_inputs(decoder, index, state)
        query = layer(query, memory.tokens, key_pos=None, key_padding_mask=None, self_attn_mask=mask, **inputs)
        boxes.append(heads.boxes(heads.bbox_embed[index](heads.norm(query)), reference))
        reference = heads.boxes(heads.bbox_embed[index](query), reference)
        scores = heads.class_embed[index](query[0, 5:]).max(-1).values
        corners = box_cxcywh_to_xyxy(reference[0, 5:])
        kept = nms(corners[left], scores[left], decoder.iou_threshold).tolist()
        left = [left[position] for position in kept]
        mask = queries.attn_mask.clone()
        for one in range(12):
            for other in range(12):
                mask[5 + one, 5 + other] = one not in left and other not in left
    return boxes, taking_part


def test_it_is_the_loop_over_layers(parts):
    model, memory, blocks = parts
    outputs = decode(parts)
    with torch.no_grad():
        boxes, taking_part = decode_by_a_loop(model, memory, blocks)
    numbers = [len(one) for one in taking_part]
    assert numbers[0] == 12 > numbers[-1] > 1
    for output, expected, left in zip(outputs, boxes, taking_part, strict=True):
        # The first boxes of a layer are refined with gradients, which changes no value.
        assert_close(output.boxes, expected, rtol=1e-6, atol=1e-8)
        assert (~output.left_out[0, 5:]).nonzero().flatten().tolist() == left
        assert not output.left_out[:, :5].any()


def test_the_outputs_of_blocks_say_who_takes_part(parts):
    named = Queries(parts[2]).split(decode(parts))
    assert not named[""].padding.all()
    assert named[""].padding.any()
    assert not named["_dn"].padding.any()


def test_a_threshold_of_one_leaves_everything_as_it_is(parts):
    model, memory, blocks = parts
    threshold, model.transformer.decoder.iou_threshold = model.transformer.decoder.iou_threshold, 1.0
    outputs = decode(parts)
    model.transformer.decoder.iou_threshold = threshold
    with torch.no_grad():
        plain = Decoder.forward(model.transformer.decoder, Queries(blocks), memory, model.heads)
    for one, other in zip(outputs, plain, strict=True):
        assert not one.left_out.any()
        assert_close(one.boxes, other.boxes)
        assert_close(one.logits, other.logits)


def test_queries_that_fill_up_the_batch_suppress_none(parts):
    _, _, (denoising, matching) = parts
    more = replace(
        matching,
        content=torch.cat([matching.content, matching.content], dim=1),
        reference=torch.cat([matching.reference, matching.reference], dim=1),
        padding=torch.tensor([[False] * 12 + [True] * 12]),
    )
    for one, other in zip(decode(parts, [denoising, matching]), decode(parts, [denoising, more]), strict=True):
        assert torch.equal(one.left_out, other.left_out[:, :17])
        assert other.left_out[:, 17:].all()
        assert_close(other.boxes[:, :17], one.boxes)


def test_several_groups_are_refused(parts):
    _, _, (_, matching) = parts
    with pytest.raises(ValueError, match="group of matching queries, got 2"):
        decode(parts, [replace(matching, num_groups=2)])


PADDING = torch.zeros(2, 8, dtype=torch.bool)
PADDING[0, ::2] = PADDING[1, 1:] = True


@pytest.mark.parametrize(
    "matcher",
    [
        HungarianMatcher({"bbox": BoxL1Cost()}),
        HungarianMatcher({"bbox": BoxL1Cost()}, candidates=2),
        IoUAssigner(iou_threshold=0.1, num_samples=100, positive_fraction=1.0, of_predictions=True),
    ],
)
def test_what_takes_no_part_is_matched_with_nothing(matcher):
    targets, predicted = random_targets([2, 3], 5), random_predictions(2, 8)
    match = matcher({"": replace(predicted, padding=PADDING)}, targets)[""]
    assert len(match.query) > 0
    assert not PADDING[match.image, match.query].any()
    # As if it were not there.
    alone = random_predictions(2, 8)
    first = replace(alone, logits=alone.logits[:1, 1::2], boxes=alone.boxes[:1, 1::2])
    expected = matcher({"": first}, replace(targets, labels=targets.labels[:2], boxes=targets.boxes[:2], sizes=[2]))[""]
    of_first = match.image == 0
    assert sorted(zip(match.query[of_first].tolist(), match.target[of_first].tolist(), strict=True)) == sorted(
        zip((2 * expected.query + 1).tolist(), expected.target.tolist(), strict=True)
    )


def test_what_takes_no_part_has_no_losses_and_detects_nothing():
    targets, predicted = random_targets([2, 3], 5), random_predictions(2, 8)
    logits = predicted.logits.clone().requires_grad_()
    left_out = replace(predicted, logits=logits, padding=PADDING)
    criterion = SetCriterion(
        matcher=HungarianMatcher({"bbox": BoxL1Cost()}),
        losses={"loss_class": FocalLoss(), "loss_bbox": BoxL1Loss()},
        weights={"loss_class": 1.0, "loss_bbox": 1.0},
    )
    sum(criterion({"": left_out}, targets).values()).backward()
    assert torch.equal((logits.grad != 0).any(-1), ~PADDING)
    for found, padding in zip(TopKPostprocessor(100)(left_out, [(9, 9)] * 2), PADDING, strict=True):
        assert len(found) == 5 * int((~padding).sum())
