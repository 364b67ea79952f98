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


def sample_by_formula(sampler, feature, pos):
    """The kept and pooled tokens of an image without padding, their positions, and all scores in descending order."""
    scores = sampler.score_pred_net(feature[None]).flatten().sigmoid()
    tokens, pos = feature.flatten(1).T, pos.flatten(1).T
    order = sorted(range(len(scores)), key=lambda index: -scores[index].item())
    number = int(len(scores) * sampler.sample_ratio)
    kept, dropped = order[:number], order[number:]
    result = [(F.layer_norm(tokens[index], (C,)) * scores[index], pos[index]) for index in kept]
    dropped_tokens = torch.stack([F.layer_norm(tokens[index], (C,)) for index in dropped])
    for pooled in range(sampler.num_pooled):
        weights = (dropped_tokens @ sampler.k_proj.weight[pooled] + sampler.k_proj.bias[pooled]).softmax(0)
        result.append((weights @ sampler.v_proj(dropped_tokens), weights @ pos[dropped]))
    return *(torch.stack(part) for part in zip(*result, strict=True)), scores[order]


@pytest.mark.parametrize("ratio", [0.5, 1 / 3, 0.05])
@pytest.mark.parametrize("as_published", [True, False])
def test_kept_and_pooled_tokens_follow_the_formulas(ratio, as_published):
    sampler, features = sampler_of(sample_ratio=ratio), maps_of((4, 5), (3, 7), (2, 2))
    batch = ImageBatch.from_images(features, as_published=as_published)
    if as_published:  # the bias of the neck gives padding non-zero features
        batch.tensor = batch.tensor + 5.0 * batch.mask[:, None]
    pos = torch.randn(3, C, 4, 7, dtype=torch.float64)
    tokens, sampled_pos, padding, losses = sampler(batch, pos)
    max_kept = int(28 * ratio)
    assert tokens.shape == sampled_pos.shape == (3, max_kept + 3, C)
    assert not padding[:, max_kept:].any()
    expected = [
        sample_by_formula(sampler, feature, pos[i, :, : feature.shape[1], : feature.shape[2]])
        for i, feature in enumerate(features)
    ]
    for index, (expected_tokens, expected_pos, _) in enumerate(expected):
        assert_close(tokens[index][~padding[index]], expected_tokens)
        assert_close(sampled_pos[index][~padding[index]], expected_pos)
    # Each image counts as many scores as the largest image keeps: its best scores, and then padding.
    largest = max(len(image_tokens) - 3 for image_tokens, _, _ in expected)
    total = torch.zeros((), dtype=torch.float64)
    for index, (_, _, scores) in enumerate(expected):
        padding_scores = sampler.score_pred_net(batch.tensor[index : index + 1]).flatten()[batch.mask[index].flatten()]
        total = total + torch.cat([scores, padding_scores.sigmoid()])[:largest].sum()
    assert_close(losses["sample_reg_loss"], 2.0 * total / max(3 * largest, 1))


def test_images_of_the_same_size_have_no_padding_and_share_positions():
    sampler, features = sampler_of(), maps_of((4, 5), (4, 5))
    pos = torch.randn(1, C, 4, 5, dtype=torch.float64)
    tokens, sampled_pos, padding, losses = sampler(ImageBatch.from_images(features), pos)
    assert padding is None
    kept = []
    for index, feature in enumerate(features):
        expected_tokens, expected_pos, scores = sample_by_formula(sampler, feature, pos[0])
        assert_close(tokens[index], expected_tokens)
        assert_close(sampled_pos[index], expected_pos)
        kept.append(scores[:10])
    assert_close(losses["sample_reg_loss"], 2.0 * torch.stack(kept).mean())


def test_scores_get_gradients_from_tokens_and_from_the_loss():
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
