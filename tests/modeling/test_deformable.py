import pytest
import torch
from torch import nn
from torch.testing import assert_close

from detrex_lite.layers import (
    FFN,
    BaseTransformerLayer,
    MultiheadAttention,
    MultiScaleDeformableAttention,
    PositionEmbeddingSine,
)
from detrex_lite.modeling import ContrastiveDenoising, DetectionHeads, ImagePreprocessor, QueryLayout, TokenLevels
from detrex_lite.modeling.deformable import (
    AnchorQueries,
    DeformableDecoder,
    DeformableEncoder,
    DeformableQueries,
    MemoryFusion,
    MultiScaleDetector,
    MultiScaleTransformer,
)
from detrex_lite.structures import ImageBatch

C, LAYERS = 8, 2
SHAPES = [(2, 4), (1, 2)]
SIZES = [[(2, 4), (1, 2)], [(1, 2), (1, 1)]]  # for each level and image


def attention():
    return MultiScaleDeformableAttention(C, num_heads=2, num_levels=2, num_points=2, dropout=0.0)


def layer_of(*order, attn):
    return BaseTransformerLayer(attn=attn, ffn=FFN(C, 16), norm=nn.LayerNorm(C), operation_order=order)


def encoder_of(*order, **arguments):
    torch.manual_seed(0)
    layer = layer_of(*(order or ("self_attn", "norm", "ffn", "norm")), attn=attention())
    return DeformableEncoder(layer=layer, **{"num_layers": LAYERS, **arguments}).double()


def decoder_of():
    attn = [MultiheadAttention(C, 2), attention()]
    layer = layer_of("self_attn", "norm", "cross_attn", "norm", "ffn", "norm", attn=attn)
    return DeformableDecoder(layer=layer, num_layers=LAYERS)


def maps_of(sizes=SIZES):
    generator = torch.Generator().manual_seed(1)
    return [
        ImageBatch.of_padded(torch.randn(len(image_sizes), C, *shape, generator=generator).double(), image_sizes)
        for shape, image_sizes in zip(SHAPES, sizes, strict=True)
    ]


def inputs_of(maps):
    levels = TokenLevels.from_maps(maps)
    tokens = torch.cat([level.tensor.flatten(2).transpose(1, 2) for level in maps], dim=1)
    pos = torch.randn(1, tokens.shape[1], C, generator=torch.Generator().manual_seed(2)).double()
    return tokens, pos, levels


# Encoder


def test_tokens_sample_around_their_own_centres():
    encoder, (tokens, pos, levels) = encoder_of(), inputs_of(maps_of())
    expected = tokens
    centres = levels.in_maps(levels.centres())
    for layer in encoder.layers:
        inputs = {"reference_points": centres, "spatial_shapes": SHAPES}
        expected = layer(expected, query_pos=pos, query_key_padding_mask=levels.padding, self_attn_inputs=inputs)
    assert_close(encoder(tokens, pos=pos, levels=levels), expected)
    all_layers = encoder.every_layer(tokens, pos=pos, levels=levels)
    assert len(all_layers) == LAYERS
    assert_close(all_layers[-1], expected)


def test_tokens_do_not_depend_on_padding():
    encoder, (tokens, pos, levels) = encoder_of(), inputs_of(maps_of())
    changed = torch.where(levels.padding[..., None], torch.full_like(tokens, 7.0), tokens)
    expected, actual = (encoder(values, pos=pos, levels=levels) for values in (tokens, changed))
    assert_close(actual[~levels.padding], expected[~levels.padding])


def test_memory_fusion_concatenates_all_layers():
    torch.manual_seed(0)
    fusion = MemoryFusion(C, LAYERS)
    encoder, (tokens, pos, levels) = encoder_of(memory_fusion=fusion.double()), inputs_of(maps_of())
    all_layers = encoder.every_layer(tokens, pos=pos, levels=levels)
    assert_close(encoder(tokens, pos=pos, levels=levels), fusion.layers(torch.cat([tokens, *all_layers], dim=-1)))
    first, second, norm = fusion.layers[0], fusion.layers[2], fusion.layers[3]
    assert (first.in_features, first.out_features, second.out_features) == (C * (LAYERS + 1), C, C)
    assert norm.normalized_shape == (C,)


def test_memory_fusion_can_be_a_single_linear_layer():
    """The fusion of Stable-DINO has no hidden layer."""
    fusion = MemoryFusion(C, LAYERS, num_fcs=1)
    assert [type(layer) for layer in fusion.layers] == [nn.Linear, nn.LayerNorm]
    assert fusion([torch.ones(1, 3, C)] * (LAYERS + 1)).shape == (1, 3, C)


def test_pre_norm_encoders_end_with_a_norm():
    encoder, (tokens, pos, levels) = encoder_of("norm", "self_attn", "norm", "ffn"), inputs_of(maps_of())
    nn.init.constant_(encoder.norm.weight, 2.0)
    first, last = encoder.every_layer(tokens, pos=pos, levels=levels)
    assert_close(last.mean(-1), torch.zeros_like(last[..., 0]))
    assert_close(last.square().mean(-1), torch.full_like(last[..., 0], 4.0), rtol=0.01, atol=0)
    assert (first.mean(-1).abs() > 1e-3).any()
    assert encoder_of().norm is None


def test_an_encoder_without_layers_returns_its_input():
    tokens, pos, levels = inputs_of(maps_of())
    encoder = DeformableEncoder(layer=[], num_layers=0)
    assert_close(encoder(tokens, pos=pos, levels=levels), tokens, rtol=0, atol=0)


# Transformer


def transformer_of(**arguments):
    return MultiScaleTransformer(
        **{"encoder": None, "decoder": decoder_of(), "embed_dim": C, "num_feature_levels": 2, **arguments}
    ).double()


def test_level_embeddings_are_added_to_the_positions():
    inputs = {}

    class Encoder(nn.Module):
        def forward(self, tokens, *, pos, levels):
            inputs.update(tokens=tokens, pos=pos, levels=levels)
            return 2 * tokens

    transformer, maps = transformer_of(encoder=Encoder()), maps_of()
    positions = [torch.randn(1, C, *shape).double() for shape in SHAPES]
    memory = transformer.encode(maps, positions)
    tokens, _, levels = inputs_of(maps)
    assert_close(inputs["tokens"], tokens)
    assert_close(memory.tokens, 2 * tokens)
    expected_pos = [
        position.flatten(2).transpose(1, 2) + embed
        for position, embed in zip(positions, transformer.level_embeds, strict=True)
    ]
    assert_close(inputs["pos"], torch.cat(expected_pos, dim=1))
    assert_close(memory.padding, levels.padding)
    assert memory.levels is inputs["levels"]
    assert memory.pos is None


def test_the_memory_is_the_tokens_without_an_encoder():
    maps = maps_of()
    transformer = transformer_of()
    memory = transformer.encode(maps, [])
    assert_close(memory.tokens, inputs_of(maps)[0], rtol=0, atol=0)
    assert transformer.level_embeds is None


def test_a_wrong_number_of_maps_raises_an_error():
    maps = maps_of()
    with pytest.raises(ValueError, match="2 feature maps.*num_feature_levels=4"):
        transformer_of(num_feature_levels=4).encode(maps, [level.tensor for level in maps])


# Detector


def heads_of(**changes):
    arguments = {"embed_dim": C, "num_classes": 3, "num_layers": LAYERS, "with_box_refine": True, "for_encoder": True}
    return DetectionHeads(**{**arguments, **changes})


def build(**changes):
    torch.manual_seed(0)
    layout = QueryLayout(5)
    arguments = {
        "backbone": nn.Identity(),
        "neck": nn.Identity(),
        "position_embedding": PositionEmbeddingSine(num_pos_feats=C // 2),
        "transformer": transformer_of(encoder=encoder_of()),
        "queries": AnchorQueries(layout=layout, embed_dim=C, as_two_stage=True),
        "heads": heads_of(),
        "num_classes": 3,
        "preprocess": ImagePreprocessor(),
        "criterion": nn.Identity(),
        "postprocessor": None,
    }
    return MultiScaleDetector(**{**arguments, **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_classes": 4}, "num_classes"),
        ({"num_queries": 6}, "num_queries"),
        ({"num_queries_one2many": 2}, "num_queries_one2many"),
        ({"embed_dim": 16}, "embed_dim"),
        ({"position_embedding": PositionEmbeddingSine(num_pos_feats=C)}, f"{2 * C} by position_embedding"),
        (
            {
                "queries": AnchorQueries(layout=QueryLayout(5), embed_dim=C, as_two_stage=True),
                "denoising": ContrastiveDenoising(num_classes=3, embed_dim=2 * C),
            },
            f"{2 * C} by denoising",
        ),
        ({"position_embedding": None}, "transformer.encoder.*alone"),
        ({"transformer": transformer_of()}, "position_embedding.*alone"),
        ({"with_box_refine": False}, "with_box_refine"),
        ({"as_two_stage": False}, "as_two_stage"),
        ({"share_heads": True}, "share_heads"),
        ({"heads": heads_of(num_layers=3)}, "number of decoder layers"),
        ({"heads": heads_of(for_encoder=False)}, "False by heads.for_encoder"),
        ({"heads": heads_of(with_box_refine=False)}, "as_two_stage=True needs with_box_refine=True"),
        (
            {
                "queries": DeformableQueries(layout=QueryLayout(5), embed_dim=C, as_two_stage=True),
                "denoising": ContrastiveDenoising(num_classes=3, embed_dim=C),
            },
            "AnchorQueries",
        ),
    ],
)
def test_contradicting_parts_raise_an_error(changes, message):
    with pytest.raises(ValueError, match=message):
        build(**changes)


def test_settings_that_agree_with_the_parts_are_optional():
    build()
    settings = {"num_queries": 5, "num_queries_one2many": 0, "embed_dim": C, "with_box_refine": True}
    build(**settings, as_two_stage=True, share_heads=False, denoising=ContrastiveDenoising(num_classes=3, embed_dim=C))
