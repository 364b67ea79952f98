"""Sampling of tokens, compared with the formulas of PnP-DETR written out for each image."""

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from detrex_lite.modeling.single_level import PollAndPoolSampler
from detrex_lite.structures import ImageBatch

C = 8


def sampler_of(**arguments):
    torch.manual_seed(0)
    return PollAndPoolSampler(embed_dim=C, **{"num_pooled": 3, "loss_weight": 2.0, **arguments}).double()


def maps_of(*sizes):
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(C, *size, generator=generator, dtype=torch.float64) for size in sizes]


def slow_sample(sampler, feature, pos):
    """Of one image without padding: kept tokens and pooled ones, their positions, and the scores of those kept."""
    scores = sampler.score_pred_net(feature[None]).flatten().sigmoid()
    tokens, pos = feature.flatten(1).T, pos.flatten(1).T
    order = sorted(range(len(scores)), key=lambda index: -scores[index].item())
    number = int(len(scores) * sampler.sample_ratio)
    kept, others = order[:number], order[number:]
    result = [(F.layer_norm(tokens[index], (C,)) * scores[index], pos[index]) for index in kept]
    rest = torch.stack([F.layer_norm(tokens[index], (C,)) for index in others])
    for pooled in range(sampler.num_pooled):
        share = (rest @ sampler.k_proj.weight[pooled] + sampler.k_proj.bias[pooled]).softmax(0)
        result.append((share @ sampler.v_proj(rest), share @ pos[others]))
    return *(torch.stack(part) for part in zip(*result, strict=True)), scores[order]


@pytest.mark.parametrize("ratio", [0.5, 1 / 3, 0.05])
@pytest.mark.parametrize("as_published", [True, False])
def test_what_is_kept_and_what_is_pooled(ratio, as_published):
    sampler, features = sampler_of(sample_ratio=ratio), maps_of((4, 5), (3, 7), (2, 2))
    batch = ImageBatch.from_images(features, as_published=as_published)
    if as_published:  # the neck's bias makes something of the padding
        batch.tensor = batch.tensor + 5.0 * batch.mask[:, None]
    pos = torch.randn(3, C, 4, 7, dtype=torch.float64)
    tokens, sampled_pos, padding, losses = sampler(batch, pos)
    most = int(28 * ratio)
    assert tokens.shape == sampled_pos.shape == (3, most + 3, C)
    assert not padding[:, most:].any()
    want = [slow_sample(sampler, one, pos[i, :, : one.shape[1], : one.shape[2]]) for i, one in enumerate(features)]
    for index, (want_tokens, want_pos, _) in enumerate(want):
        assert_close(tokens[index][~padding[index]], want_tokens)
        assert_close(sampled_pos[index][~padding[index]], want_pos)
    # All images count as many scores as the largest keeps: the next best ones, and padding after these.
    largest = max(len(part) - 3 for part, _, _ in want)
    total = torch.zeros((), dtype=torch.float64)
    for index, (_, _, scores) in enumerate(want):
        outside = sampler.score_pred_net(batch.tensor[index : index + 1]).flatten()[batch.mask[index].flatten()]
        total = total + torch.cat([scores, outside.sigmoid()])[:largest].sum()
    assert_close(losses["sample_reg_loss"], 2.0 * total / max(3 * largest, 1))


def test_without_padding_no_slot_is_empty_and_positions_are_shared():
    sampler, features = sampler_of(), maps_of((4, 5), (4, 5))
    pos = torch.randn(1, C, 4, 5, dtype=torch.float64)
    tokens, sampled_pos, padding, losses = sampler(ImageBatch.from_images(features), pos)
    assert padding is None
    kept = []
    for index, one in enumerate(features):
        want_tokens, want_pos, scores = slow_sample(sampler, one, pos[0])
        assert_close(tokens[index], want_tokens)
        assert_close(sampled_pos[index], want_pos)
        kept.append(scores[:10])
    assert_close(losses["sample_reg_loss"], 2.0 * torch.stack(kept).mean())


def test_scores_learn_by_the_tokens_and_by_the_loss():
    sampler, feature = sampler_of(), ImageBatch.from_images(maps_of((3, 3)))
    tokens, _, _, losses = sampler(feature, torch.zeros(1, C, 3, 3, dtype=torch.float64))
    for value in (tokens.square().sum(), losses["sample_reg_loss"]):
        (gradient,) = torch.autograd.grad(value, sampler.score_pred_net[2].weight, retain_graph=True)
        assert gradient.any()


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"sample_ratio": 1.0}, "sample_ratio=1.0"),
        ({"sample_ratio": 0.0}, "sample_ratio=0.0"),
        ({"num_pooled": 0}, "=0"),
    ],
)
def test_errors(arguments, match):
    with pytest.raises(ValueError, match=match):
        sampler_of(**arguments)
