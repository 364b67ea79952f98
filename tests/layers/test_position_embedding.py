import math

import pytest
import torch
from torch.testing import assert_close

from detrex_lite.layers import PositionEmbeddingLearned, PositionEmbeddingSine, get_sine_pos_embed


def test_sine_embeddings_follow_the_formula():
    x, feats, temperature = 0.3, 6, 20.0
    actual = get_sine_pos_embed(torch.tensor([[x]], dtype=torch.float64), feats, temperature)[0]
    expected = []
    for pair in range(feats // 2):
        angle = 2 * math.pi * x / temperature ** (2 * pair / feats)
        expected += [math.sin(angle), math.cos(angle)]
    assert_close(actual, torch.tensor(expected, dtype=torch.float64))


def test_y_comes_first_unless_exchange_xy_is_false():
    x, y, w = (get_sine_pos_embed(torch.tensor([value]), 4) for value in (0.1, 0.7, 0.4))
    point = torch.tensor([0.1, 0.7, 0.4])
    assert_close(get_sine_pos_embed(point, 4), torch.cat([y, x, w]))
    assert_close(get_sine_pos_embed(point, 4, exchange_xy=False), torch.cat([x, y, w]))


def test_positions_of_feature_maps_do_not_count_padding():
    mask = torch.zeros(2, 3, 5, dtype=torch.bool)
    mask[1, 2:], mask[1, :, 4:] = True, True  # the second image has 2 x 4 cells
    embedding = PositionEmbeddingSine(8, normalize=True)
    actual = embedding(mask, dtype=torch.float64)
    assert actual.shape == (2, 16, 3, 5)
    unpadded = embedding(torch.zeros(1, 2, 4, dtype=torch.bool), dtype=torch.float64)
    assert_close(actual[1:, :, :2, :4], unpadded)
    y, x = 2 / (3 + 1e-6), 5 / (5 + 1e-6)  # the last column of the second row of the first image
    assert_close(
        actual[0, :, 1, 4],
        get_sine_pos_embed(torch.tensor([x, y], dtype=torch.float64), 8),
        rtol=1e-9,
        atol=1e-9,
    )


def test_positions_without_normalisation_are_counts_and_offsets_are_added():
    mask = torch.zeros(1, 2, 2, dtype=torch.bool)
    counts = PositionEmbeddingSine(2)(mask)
    assert_close(counts[0, :, 0, 1], torch.tensor([math.sin(1), math.cos(1), math.sin(2), math.cos(2)]))
    centred = PositionEmbeddingSine(2, normalize=True, offset=-0.5)(mask)
    assert_close(centred[0, 0, 0, 0].item(), math.sin(0.25 * 2 * math.pi), rtol=1e-5, atol=1e-5)


def test_half_precision_embeddings_are_computed_in_float32():
    mask = torch.zeros(1, 40, 60, dtype=torch.bool)
    embedding = PositionEmbeddingSine(64, normalize=True)
    assert_close(embedding(mask, dtype=torch.bfloat16), embedding(mask).bfloat16(), rtol=0, atol=0)


def test_learned_embeddings_concatenate_columns_and_rows():
    embedding = PositionEmbeddingLearned(4, row_num_embed=3, col_num_embed=6)
    actual = embedding(torch.zeros(2, 3, 5, dtype=torch.bool))
    assert actual.shape == (2, 8, 3, 5)
    assert_close(actual[1, :4, 2, 4], embedding.col_embed.weight[4])
    assert_close(actual[0, 4:, 2, 4], embedding.row_embed.weight[2])
    with pytest.raises(ValueError, match="4x5 cells.*row_num_embed=3.*col_num_embed=6"):
        embedding(torch.zeros(1, 4, 5, dtype=torch.bool))
