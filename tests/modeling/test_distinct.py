"""Decoders that exclude suppressed queries layer by layer, and losses and matches without excluded queries."""

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
    """A detector, its memory, and blocks of 5 denoising queries and of 12 matching queries that cannot see them."""
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
    model, memory, default_blocks = parts
    with torch.no_grad():
        return model.transformer.decoder(Queries(blocks or default_blocks), memory, model.heads)


def decode_in_a_loop(model, memory, blocks):
    """The boxes of each layer, and the matching queries that are active in each layer."""
    decoder, heads, queries = model.transformer.decoder, model.heads, Queries(blocks)
    query, reference = queries.content, queries.reference
    active_queries, boxes, active_per_layer = list(range(12)), [], []
    mask = queries.attn_mask.clone()
    for index, layer in enumerate(decoder.layers):
        active_per_layer.append(sorted(active_queries))
        state = DecoderState(query, reference, [], queries, memory)
        inputs = DeformableAnchorDecoder.layer_inputs(decoder, index, state)
        query = layer(query, memory.tokens, key_pos=None, key_padding_mask=None, self_attn_mask=mask, **inputs)
        boxes.append(heads.boxes(heads.bbox_embed[index](heads.norm(query)), reference))
        reference = heads.boxes(heads.bbox_embed[index](query), reference)
        scores = heads.class_embed[index](query[0, 5:]).max(-1).values
        corners = box_cxcywh_to_xyxy(reference[0, 5:])
        kept_positions = nms(corners[active_queries], scores[active_queries], decoder.iou_threshold).tolist()
        active_queries = [active_queries[position] for position in kept_positions]
        mask = queries.attn_mask.clone()
        for query_index in range(12):
            for other_index in range(12):
                mask[5 + query_index, 5 + other_index] = (
                    query_index not in active_queries and other_index not in active_queries
                )
    return boxes, active_per_layer


def test_distinct_queries_agree_with_a_loop_over_layers(parts):
    model, memory, blocks = parts
    outputs = decode(parts)
    with torch.no_grad():
        boxes, active_per_layer = decode_in_a_loop(model, memory, blocks)
    numbers = [len(active) for active in active_per_layer]
    assert numbers[0] == 12 > numbers[-1] > 1
    for output, expected, active_queries in zip(outputs, boxes, active_per_layer, strict=True):
        # The boxes of the first layer are refined with gradients, which does not change their values.
        assert_close(output.boxes, expected, rtol=1e-6, atol=1e-8)
        assert (~output.left_out[0, 5:]).nonzero().flatten().tolist() == active_queries
        assert not output.left_out[:, :5].any()


def test_excluded_queries_are_padding_of_the_predictions(parts):
    predictions = Queries(parts[2]).split(decode(parts))
    assert not predictions[""].padding.all()
    assert predictions[""].padding.any()
    assert not predictions["_dn"].padding.any()


def test_a_threshold_of_one_excludes_no_query(parts):
    model, memory, blocks = parts
    threshold, model.transformer.decoder.iou_threshold = model.transformer.decoder.iou_threshold, 1.0
    outputs = decode(parts)
    model.transformer.decoder.iou_threshold = threshold
    with torch.no_grad():
        plain = Decoder.forward(model.transformer.decoder, Queries(blocks), memory, model.heads)
    for output, plain_output in zip(outputs, plain, strict=True):
        assert not output.left_out.any()
        assert_close(output.boxes, plain_output.boxes)
        assert_close(output.logits, plain_output.logits)


def test_padding_does_not_suppress_queries(parts):
    _, _, (denoising, matching) = parts
    with_padding = replace(
        matching,
        content=torch.cat([matching.content, matching.content], dim=1),
        reference=torch.cat([matching.reference, matching.reference], dim=1),
        padding=torch.tensor([[False] * 12 + [True] * 12]),
    )
    for expected, actual in zip(
        decode(parts, [denoising, matching]), decode(parts, [denoising, with_padding]), strict=True
    ):
        assert torch.equal(expected.left_out, actual.left_out[:, :17])
        assert actual.left_out[:, 17:].all()
        assert_close(actual.boxes[:, :17], expected.boxes)


def test_several_groups_raise_an_error(parts):
    _, _, (_, matching) = parts
    with pytest.raises(ValueError, match="group.*got 2"):
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
def test_excluded_queries_are_not_matched(matcher):
    targets, predictions = random_targets([2, 3], 5), random_predictions(2, 8)
    match = matcher({"": replace(predictions, padding=PADDING)}, targets)[""]
    assert len(match.query) > 0
    assert not PADDING[match.image, match.query].any()
    # The same match as without the excluded queries.
    all_predictions = random_predictions(2, 8)
    active_of_first_image = replace(
        all_predictions, logits=all_predictions.logits[:1, 1::2], boxes=all_predictions.boxes[:1, 1::2]
    )
    expected = matcher(
        {"": active_of_first_image}, replace(targets, labels=targets.labels[:2], boxes=targets.boxes[:2], sizes=[2])
    )[""]
    is_first_image = match.image == 0
    assert sorted(
        zip(match.query[is_first_image].tolist(), match.target[is_first_image].tolist(), strict=True)
    ) == sorted(zip((2 * expected.query + 1).tolist(), expected.target.tolist(), strict=True))


def test_excluded_queries_have_no_losses_and_no_detections():
    targets, predictions = random_targets([2, 3], 5), random_predictions(2, 8)
    logits = predictions.logits.clone().requires_grad_()
    with_padding = replace(predictions, logits=logits, padding=PADDING)
    criterion = SetCriterion(
        matcher=HungarianMatcher({"bbox": BoxL1Cost()}),
        losses={"loss_class": FocalLoss(), "loss_bbox": BoxL1Loss()},
        weights={"loss_class": 1.0, "loss_bbox": 1.0},
    )
    sum(criterion({"": with_padding}, targets).values()).backward()
    assert torch.equal((logits.grad != 0).any(-1), ~PADDING)
    for detections, padding in zip(TopKPostprocessor(100)(with_padding, [(9, 9)] * 2), PADDING, strict=True):
        assert len(detections) == 5 * int((~padding).sum())
