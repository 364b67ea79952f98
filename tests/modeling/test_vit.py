import math

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from detrex_lite.modeling import EVA02, ViTDet
from detrex_lite.modeling.backbone.vit import RelativeAttention, RotaryAttention, in_windows

SMALL = {
    "embed_dim": 16,
    "depth": 3,
    "num_heads": 2,
    "hidden_dim": 24,
    "window_size": 3,
    "global_blocks": [1],
    "image_size": 80,
    "pretrain_image_size": 64,
    "drop_path_rate": 0.0,
}
KINDS = {
    "vitdet": (ViTDet, {}),
    "eva_01": (ViTDet, {"key_bias": False}),
    "eva_02": (EVA02, {}),
}


def make(kind="vitdet", **arguments):
    torch.manual_seed(0)
    network, kind_arguments = KINDS[kind]
    network = network(**{**SMALL, **kind_arguments, **arguments})
    for parameter in network.parameters():
        if not parameter.any():  # relative positions are initially zero, which would hide their effect
            nn.init.normal_(parameter, std=0.5)
    return network


def random_images(height, width):
    return torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(0))


def random_map(height, width, channels=8):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, height, width, channels, dtype=torch.float64, generator=generator)


def randomised(module):
    torch.manual_seed(0)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.3)
    return module.double()


def attention_in_a_loop(query, key, value, logit):
    """Attention in a loop over images, heads, queries and keys; vectors are (B, h, w, heads, C)."""
    result = torch.zeros_like(value)
    batch, height, width, heads, channels = query.shape
    cells = [(row, column) for row in range(height) for column in range(width)]
    for image in range(batch):
        for head in range(heads):
            for q in cells:
                logits = [
                    query[(image, *q, head)] @ key[(image, *k, head)] / math.sqrt(channels)
                    + logit(query[(image, *q, head)], q, k)
                    for k in cells
                ]
                weights = torch.stack(logits).softmax(0)
                result[(image, *q, head)] = sum(
                    weight * value[(image, *k, head)] for weight, k in zip(weights, cells, strict=True)
                )
    return result.flatten(3)


@pytest.mark.parametrize("key_bias", [False, True])
def test_relative_positions_agree_with_a_loop_over_pairs(key_bias):
    attention = randomised(RelativeAttention(8, 2, 3, key_bias=key_bias))
    x = random_map(3, 3)
    query, key, value = (x @ attention.qkv.weight.T).chunk(3, -1)
    if key_bias:
        query, key, value = (a + b for a, b in zip((query, key, value), attention.qkv.bias.chunk(3), strict=True))
    else:
        query, value = query + attention.q_bias, value + attention.v_bias

    def logit(vector, q, k):
        row, column = q[0] - k[0] + 2, q[1] - k[1] + 2
        return vector @ attention.rel_pos_h[row] + vector @ attention.rel_pos_w[column]

    actual = attention_in_a_loop(*(part.unflatten(-1, (2, 4)) for part in (query, key, value)), logit)
    assert_close(attention(x), attention.proj(actual))


def test_relative_positions_are_interpolated_for_other_sizes():
    attention = randomised(RelativeAttention(8, 2, 4))
    resized = RelativeAttention(8, 2, 1).double()
    resized.load_state_dict({**attention.state_dict(), "rel_pos_h": torch.zeros(1, 4), "rel_pos_w": torch.zeros(1, 4)})
    for name, side in (("rel_pos_h", 2), ("rel_pos_w", 6)):
        # Distances 1 - side .. side - 1 are spread evenly over the learned distances, each at the centre of a cell.
        learned, num_distances = getattr(attention, name), 2 * side - 1
        positions = ((torch.arange(num_distances) + 0.5) * 7 / num_distances - 0.5).clamp(0, 6)
        lower, fraction = positions.floor().long(), (positions - positions.floor())[:, None]
        upper = (lower + 1).clamp(max=6)
        setattr(resized, name, nn.Parameter((1 - fraction) * learned[lower] + fraction * learned[upper]))
    x = random_map(2, 6)
    assert_close(attention(x), resized(x), rtol=1e-6, atol=1e-6)


def test_rotary_positions_agree_with_a_loop_over_pairs():
    attention = randomised(RotaryAttention(16, 2, 8))
    x = random_map(2, 3, channels=16)

    def rotate(vectors):
        """Rotate channels 0..3 of a head by the row and 4..7 by the column, at speeds 1 and 0.01 per 16 / 8 cells."""
        vectors = vectors.unflatten(-1, (2, 8)).clone()
        for row in range(2):
            for column in range(3):
                for pair, (position, speed) in enumerate([(row, 1.0), (row, 0.01), (column, 1.0), (column, 0.01)]):
                    angle = position * 2 * speed
                    first, second = (vectors[:, row, column, :, 2 * pair + n].clone() for n in (0, 1))
                    vectors[:, row, column, :, 2 * pair] = first * math.cos(angle) - second * math.sin(angle)
                    vectors[:, row, column, :, 2 * pair + 1] = second * math.cos(angle) + first * math.sin(angle)
        return vectors

    query, key = rotate(attention.q_proj(x) + attention.q_bias), rotate(attention.k_proj(x))
    value = (attention.v_proj(x) + attention.v_bias).unflatten(-1, (2, 8))
    actual = attention_in_a_loop(query, key, value, lambda *_: 0)
    assert_close(attention(x), attention.proj(actual), rtol=1e-6, atol=1e-6)  # angles are float32


@pytest.mark.parametrize(("height", "width"), [(4, 6), (5, 3), (1, 1)])
def test_maps_are_padded_before_they_are_split_into_windows(height, width):
    x = random_map(height, width)
    padded = torch.zeros(2, 6, 6, 8, dtype=torch.float64)
    padded[:, :height, :width] = x
    expected = torch.zeros_like(padded)
    for row in range(0, 6, 2):
        for column in range(0, 6, 2):
            window = padded[:, row : row + 2, column : column + 2]
            expected[:, row : row + 2, column : column + 2] = window - window.mean((1, 2), keepdim=True)
    actual = in_windows(lambda windows: windows - windows.mean((1, 2), keepdim=True), x, 2)
    assert_close(actual, expected[:, :height, :width])


@pytest.mark.parametrize("kind", KINDS)
def test_windows_limit_attention_except_in_global_blocks(kind):
    """Windowed attention keeps changes within a window; global attention spreads them over the whole map."""
    images = random_images(96, 96).double()
    changed = images.clone()
    changed[..., :16, :16] += 1
    for global_blocks, num_different in (([], 9), ([1], 36)):
        network = make(kind, global_blocks=global_blocks).double().eval()
        is_different = (network(images) - network(changed)).abs().amax((0, 1)) > 0
        assert is_different.sum() == num_different
        assert is_different[:3, :3].all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("height", "width"), [(64, 64), (47, 90), (16, 16)])
def test_maps_ignore_incomplete_patches(kind, height, width):
    network = make(kind).double().eval()
    actual = network(random_images(height, width).double())
    assert (actual.shape, actual.dtype) == ((2, 16, height // 16, width // 16), torch.float64)


@pytest.mark.parametrize("kind", KINDS)
def test_float32_agrees_with_float64(kind):
    network = make(kind).eval()
    images = random_images(64, 96)
    single = network(images).double()
    assert_close(single, network.double()(images.double()), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("activation_checkpointing", [False, True])
def test_all_weights_are_trained(kind, activation_checkpointing):
    network = make(kind, activation_checkpointing=activation_checkpointing).train()
    network(random_images(64, 64)).square().sum().backward()
    assert [
        name for name, parameter in network.named_parameters() if parameter.grad is None or not parameter.grad.any()
    ] == []


def test_absolute_positions_except_of_the_class_token_are_added_to_patches():
    network = make(depth=0, global_blocks=[]).eval()
    images = random_images(64, 64)
    patches = network.patch_embed.proj(images)
    positions = network.pos_embed[0, 1:].T.unflatten(1, (4, 4))
    assert_close(network(images), patches + positions)
    larger = random_images(64, 96)
    resized = nn.functional.interpolate(positions[None], size=(4, 6), mode="bicubic")
    assert_close(network(larger), network.patch_embed.proj(larger) + resized)


def test_a_frozen_patch_embedding_is_not_trained():
    frozen = {
        name for name, parameter in make(freeze_patch_embed=True).named_parameters() if not parameter.requires_grad
    }
    assert frozen == {"patch_embed.proj.weight", "patch_embed.proj.bias"}


@pytest.mark.parametrize(
    ("kind", "arguments", "message"),
    [
        ("vitdet", {"global_blocks": [3]}, r"global_blocks=\[3\].*0 to 2"),
        ("eva_02", {"drop_path_rate": -0.1}, "drop_path_rate=-0.1"),
        ("eva_02", {"embed_dim": 12}, "multiple of 4"),
    ],
)
def test_invalid_arguments_raise_an_error(kind, arguments, message):
    with pytest.raises(ValueError, match=message):
        make(kind, **arguments)
