import pytest
import torch
from torch import nn
from torch.testing import assert_close

from detrex_lite.layers import (
    FFN,
    BaseTransformerLayer,
    ConditionalCrossAttention,
    ConditionalSelfAttention,
    MultiheadAttention,
    PositionEmbeddingSine,
)
from detrex_lite.modeling import (
    ContrastiveDenoising,
    DetectionHeads,
    GroupDenoising,
    ImagePreprocessor,
    Queries,
    QueryLayout,
)
from detrex_lite.modeling.single_level import (
    AnchorDecoder,
    ConditionalDecoder,
    LearnedAnchors,
    LearnedQueries,
    PositionalDecoder,
    SingleLevelDetector,
    SingleLevelEncoder,
    SingleLevelTransformer,
    modulate,
)
from detrex_lite.structures import ImageBatch

CHANNELS = 8
POST_NORM = ("self_attn", "norm", "cross_attn", "norm", "ffn", "norm")


class Backbone(nn.Module):
    def forward(self, images):
        return {"fine": images[:, :, ::2, ::2], "coarse": images[:, :, ::4, ::4]}


def layer_of(*order, attn=None):
    return BaseTransformerLayer(
        attn=attn or MultiheadAttention(CHANNELS, 2),
        ffn=FFN(CHANNELS, 16),
        norm=nn.LayerNorm(CHANNELS),
        operation_order=order,
    )


def conditional_layer():
    cross = ConditionalCrossAttention(CHANNELS, 2, add_query_pos=True)
    return layer_of(*POST_NORM, attn=[ConditionalSelfAttention(CHANNELS, 2), cross])


def encoder_of(*order, **arguments):
    return SingleLevelEncoder(layer=layer_of(*order), num_layers=2, **arguments)


def build(**changes):
    torch.manual_seed(0)
    transformer = SingleLevelTransformer(
        encoder=encoder_of("self_attn", "norm", "ffn", "norm"),
        decoder=PositionalDecoder(layer=layer_of(*POST_NORM), num_layers=2),
    )
    arguments = {
        "backbone": Backbone(),
        "in_feature": "coarse",
        "in_channels": {"fine": 3, "coarse": 3},
        "position_embedding": PositionEmbeddingSine(num_pos_feats=CHANNELS // 2),
        "transformer": transformer,
        "queries": LearnedQueries(layout=QueryLayout(5), embed_dim=CHANNELS),
        "heads": DetectionHeads(embed_dim=CHANNELS, num_classes=2, num_layers=2, background=True, references=False),
        "embed_dim": CHANNELS,
        "num_classes": 2,
        "num_queries": 5,
        "preprocess": ImagePreprocessor(pixel_mean=[0.0, 0, 0], pixel_std=[1.0, 1, 1]),
        "criterion": nn.Identity(),
        "postprocessor": None,
    }
    return SingleLevelDetector(**{**arguments, **changes})


def test_in_feature_selects_the_feature_map():
    detector = build()
    images = torch.randn(1, 3, 16, 24)
    (projected,) = detector.feature_maps(images)
    assert_close(projected, detector.input_proj(images[:, :, ::4, ::4]))
    assert (projected.shape[1], detector.aux_loss) == (CHANNELS, True)
    assert_close(build(in_feature="fine").feature_maps(images)[0].shape[-2:], torch.Size([8, 12]))


def test_positions_do_not_depend_on_padding():
    detector = build().eval()
    batch = ImageBatch.from_images([torch.randn(3, 16, 24), torch.randn(3, 8, 16)])
    feature, positions = detector.map_and_positions(batch)
    assert feature.image_sizes == [(4, 6), (2, 4)]
    assert positions.shape == (2, CHANNELS, 4, 6)
    single_image = ImageBatch.from_images([batch.tensor[1, :, :8, :16]])
    feature_alone, positions_alone = detector.map_and_positions(single_image)
    assert_close(feature.tensor[1:, :, :2, :4], feature_alone.tensor)
    assert_close(positions[1:, :, :2, :4], positions_alone)


def test_contradicting_parts_raise_an_error():
    layout = QueryLayout(5)
    denoising = GroupDenoising(num_classes=2, embed_dim=CHANNELS)
    for changes, message in (
        ({"in_feature": "course"}, "no feature map 'course'.*'coarse'"),
        ({"num_classes": 3}, "num_classes"),
        ({"num_queries": 6}, "num_queries"),
        ({"num_patterns": 3}, "num_patterns"),
        ({"denoising": denoising}, "LearnedAnchors, got LearnedQueries"),
        (
            {
                "denoising": ContrastiveDenoising(num_classes=2, embed_dim=CHANNELS),
                "queries": LearnedAnchors(layout=layout, embed_dim=CHANNELS),
            },
            "ContrastiveDenoising",
        ),
        ({"position_embedding": PositionEmbeddingSine(num_pos_feats=CHANNELS)}, "by position_embedding"),
        ({"heads": DetectionHeads(embed_dim=CHANNELS, num_classes=2, num_layers=3)}, "number of decoder layers"),
    ):
        with pytest.raises(ValueError, match=message):
            build(**changes)
    assert build(num_queries=None).aux_loss


# Queries


def test_learned_queries_are_positions_with_contents_of_zero():
    queries = LearnedQueries(layout=QueryLayout(3, num_groups=2), embed_dim=CHANNELS).double()
    (block,) = queries(2, training=True)
    assert block.content.shape == (2, 6, CHANNELS)
    assert not block.content.any()
    assert block.reference is None
    assert_close(block.position, queries.embedding.weight.expand(2, -1, -1))
    assert (block.num_groups, block.repeats) == (2, 2)
    (block,) = queries(2, training=False)
    assert_close(block.position, queries.embedding.weight[:3].expand(2, -1, -1))
    assert block.num_groups == 1


def test_learned_boxes_have_the_given_contents_or_zeros():
    queries = LearnedAnchors(layout=QueryLayout(3), embed_dim=CHANNELS)
    (block,) = queries(2, training=True)
    assert_close(block.reference, queries.boxes().expand(2, -1, -1))
    assert block.content.shape == (2, 3, CHANNELS)
    assert not block.content.any()
    content = torch.randn(CHANNELS)
    (block,) = queries(2, training=True, content=content)
    assert_close(block.content, content.expand(2, 3, -1))


@pytest.mark.parametrize("normal_init", [False, True])
def test_initial_patterns_are_xavier_uniform_or_normally_distributed(normal_init):
    torch.manual_seed(0)
    patterns = LearnedAnchors(layout=QueryLayout(3), embed_dim=256, num_patterns=100, normal_init=normal_init).patterns
    expected = 1.0 if normal_init else (2 / (100 + 256)) ** 0.5
    assert_close(patterns.weight.std(), torch.tensor(expected), rtol=0.03, atol=0)
    assert (patterns.weight.abs().max() > 3 * expected) == normal_init


def test_each_pattern_is_paired_with_all_boxes():
    queries = LearnedAnchors(layout=QueryLayout(3), embed_dim=CHANNELS, num_patterns=2)
    (block,) = queries(2, training=False)
    for pattern in range(2):
        rows = slice(3 * pattern, 3 * pattern + 3)
        assert_close(block.content[:, rows], queries.patterns.weight[pattern].expand(2, 3, -1))
        assert_close(block.reference[:, rows], queries.boxes().expand(2, -1, -1))
    content = torch.randn(CHANNELS)
    (with_content,) = queries(2, training=False, content=content)
    assert_close(with_content.content, block.content + content)
    assert_close(with_content.reference, block.reference)
    with pytest.raises(ValueError, match="num_patterns=2 cannot be combined"):
        LearnedAnchors(layout=QueryLayout(3, num_groups=2), embed_dim=CHANNELS, num_patterns=2)


# Encoder and memory


def test_a_pre_norm_encoder_ends_in_a_norm():
    x, pos = torch.randn(2, 5, CHANNELS), torch.randn(1, 5, CHANNELS)
    encoder = encoder_of("norm", "self_attn", "norm", "ffn")
    assert isinstance(encoder.norm, nn.LayerNorm)
    first, second = encoder.layers
    middle = first(x, query_pos=pos)
    assert_close(encoder(x, pos=pos), encoder.norm(second(middle, query_pos=pos)))
    all_layers = encoder.every_layer(x, pos=pos)
    assert_close(all_layers[0], middle)
    assert_close(all_layers[1], encoder(x, pos=pos))
    assert encoder_of("self_attn", "norm", "ffn", "norm").norm is None
    assert_close(SingleLevelEncoder(layer=[], num_layers=0)(x, pos=pos), x)


def test_the_encoder_does_not_attend_to_padding_and_scales_positions():
    x, pos = torch.randn(2, 5, CHANNELS), torch.randn(1, 5, CHANNELS)
    encoder = encoder_of("self_attn", "norm", "ffn", "norm", position_scale=nn.Linear(CHANNELS, CHANNELS))
    padding = torch.zeros(2, 5, dtype=torch.bool)
    padding[1, 3:] = True
    expected = x
    for layer in encoder.layers:
        expected = layer(expected, query_pos=pos * encoder.query_scale(expected), query_key_padding_mask=padding)
    actual = encoder(x, pos=pos, padding=padding)
    assert_close(actual, expected)
    changed = x.clone()
    changed[1, 3:] = 7.0
    assert_close(encoder(changed, pos=pos, padding=padding)[~padding], actual[~padding])


@pytest.mark.parametrize("as_published", [False, True])
@pytest.mark.parametrize("mask_memory_padding", [False, True])
def test_padding_of_the_memory_is_masked_except_as_published(as_published, mask_memory_padding):
    transformer = build().transformer
    transformer.mask_memory_padding = mask_memory_padding
    feature = ImageBatch.of_padded(torch.randn(2, CHANNELS, 2, 3), [(2, 3), (1, 2)], as_published=as_published)
    memory = transformer.encode(feature, torch.randn(1, CHANNELS, 2, 3))
    assert memory.tokens.shape == (2, 6, CHANNELS)
    assert memory.pos.shape == (1, 6, CHANNELS)
    if as_published and not mask_memory_padding:
        assert memory.padding is None
    else:
        assert_close(memory.padding, feature.mask.flatten(1))
    unpadded = ImageBatch.of_padded(torch.randn(1, CHANNELS, 2, 3), [(2, 3)])
    assert transformer.encode(unpadded, torch.randn(1, CHANNELS, 2, 3)).padding is None


# Decoders


def test_modulation_scales_x_by_widths_and_y_by_heights():
    position, expected, sizes = torch.randn(2, 3, CHANNELS), torch.rand(2, 3, 2), 0.1 + torch.rand(2, 3, 2)
    modulated = modulate(position, expected, sizes)
    half = CHANNELS // 2
    assert_close(modulated[..., :half], position[..., :half] * (expected / sizes)[..., 1:])
    assert_close(modulated[..., half:], position[..., half:] * (expected / sizes)[..., :1])


def test_only_the_first_layer_of_conditional_decoders_adds_positions_to_contents():
    for kind in (ConditionalDecoder, AnchorDecoder):
        decoder = kind(layer=conditional_layer(), num_layers=3, embed_dim=CHANNELS)
        has_projection = [layer.attentions[1].query_pos_proj is not None for layer in decoder.layers]
        assert has_projection == [True, False, False]


def test_references_of_conditional_decoders_follow_from_positions():
    torch.manual_seed(0)
    decoder = ConditionalDecoder(layer=conditional_layer(), num_layers=2, embed_dim=CHANNELS)
    queries = Queries(LearnedQueries(layout=QueryLayout(3), embed_dim=CHANNELS)(2, training=True))
    points = decoder.first_reference(queries)
    assert_close(points, decoder.ref_point_head(queries.position).sigmoid())
    assert points.shape == (2, 3, 2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert decoder.first_reference(queries).dtype == torch.float32
    boxes = Queries(LearnedAnchors(layout=QueryLayout(3), embed_dim=CHANNELS)(2, training=True))
    with pytest.raises(ValueError, match="positions"):
        decoder.first_reference(boxes)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("kind", [PositionalDecoder, ConditionalDecoder, AnchorDecoder])
def test_decoders_decode_in_all_precisions(kind, dtype):
    torch.manual_seed(0)
    layout = QueryLayout(3, num_groups=2)
    if kind is PositionalDecoder:
        decoder = kind(layer=layer_of(*POST_NORM), num_layers=2)
    else:
        decoder = kind(layer=conditional_layer(), num_layers=2, embed_dim=CHANNELS)
    sources = {AnchorDecoder: LearnedAnchors}
    source = sources.get(kind, LearnedQueries)(layout=layout, embed_dim=CHANNELS).to(dtype)
    references = kind is not PositionalDecoder
    heads = DetectionHeads(
        embed_dim=CHANNELS, num_classes=2, num_layers=2, references=references, with_box_refine=kind is AnchorDecoder
    ).to(dtype)
    transformer = SingleLevelTransformer(encoder=encoder_of("self_attn", "norm", "ffn", "norm"), decoder=decoder)
    transformer = transformer.to(dtype)
    feature = ImageBatch.of_padded(torch.randn(2, CHANNELS, 2, 3, dtype=dtype), [(2, 3), (1, 2)], as_published=True)
    memory = transformer.encode(feature, torch.randn(1, CHANNELS, 2, 3, dtype=dtype))
    queries = Queries(source(2, training=True))
    layers = decoder(queries, memory, heads)
    assert len(layers) == 2
    for layer in layers:
        assert layer.logits.shape == (2, 6, 2)
        assert layer.logits.dtype == dtype
        assert layer.boxes.dtype == torch.promote_types(dtype, torch.float32)
        assert torch.isfinite(layer.boxes).all()
