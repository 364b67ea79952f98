"""Anchor DETR as a whole. Models are small; their structure is that of the configs."""

import pytest
import torch
from torch.testing import assert_close

from detrex_lite.config import LazyConfig, get_config
from detrex_lite.layers import MultiheadAttention, RowColumnDecoupledAttention, get_sine_pos_embed
from detrex_lite.modeling import Memory, Queries, QueryBlock, QueryLayout
from detrex_lite.modeling.single_level import LearnedPoints, PositionalDecoder
from detrex_lite.projects.anchor_detr.modeling import PointPositionEmbedding
from detrex_lite.testing import (
    NUM_QUERIES,
    SMALL,
    DetectorContract,
    build,
    build_on_meta,
    build_randomised,
    changed,
    has_gradient,
    parameter_patterns,
    predict,
    require_all_gradients,
)
from tests.suites import first_always

from .overfitting import SMALL_SINGLE_LEVEL, four_images, overfitted_ap50, trained
from .published import PROJECTS

CONFIGS = PROJECTS / "anchor_detr" / "configs"
P = 2


def small_config(**changes):
    cfg = get_config("projects/anchor_detr/configs/models/anchor_detr_r50.py").model
    return changed(cfg, {**SMALL, "num_patterns": P, **changes})


class TestAnchorDETR(DetectorContract):
    def config(self, **changes):
        return small_config(**changes)


@pytest.mark.parametrize("path", first_always(sorted(CONFIGS.glob("models/*.py"))), ids=lambda path: path.stem)
def test_every_config_builds(path):
    model, cfg = build_on_meta(path)
    assert {head.out_features for head in model.heads.class_embed} == {cfg.num_classes}
    assert model.queries.points.shape == (300, 2)
    assert model.queries.patterns.weight.shape == (3, 256)
    assert cfg.backbone.depth == (101 if "r101" in path.stem else 50)
    # DC5 is the default of the paper's repository, which calls the variant without dilation "C5".
    dilated = "_c5_" not in path.stem if "paper" in path.stem else "dc5" in path.stem
    assert cfg.backbone.get("dilation", False) == dilated
    assert model.postprocessor.num_detections == 100
    assert {layer.ffns[0].layers[0].out_features for layer in model.transformer.encoder.layers} == {1024}


@pytest.mark.parametrize(("name", "batch_size"), [("r50", 16), ("r50_dc5", 16), ("r50_paper", 8)])
def test_training_configs_have_the_published_schedules(name, batch_size):
    cfg = LazyConfig.load(str(CONFIGS / f"anchor_detr_{name}_50ep.py"))
    assert cfg.dataloader.train.total_batch_size == batch_size
    assert (cfg.train.max_epochs, cfg.optimizer.lr, cfg.optimizer.params.backbone_lr_factor) == (50, 1e-4, 0.1)


def test_initial_boxes_are_small_and_centred_at_the_points(batch):
    model = build(small_config()).eval()
    with torch.no_grad():
        named = predict(model, batch)
    assert set(named) == {"", "_0"}
    for predictions in named.values():
        points = model.queries.points.repeat(P, 1).clamp(1e-3, 1 - 1e-3)
        assert_close(predictions.boxes[..., :2], points.expand(len(batch), -1, -1), rtol=1e-4, atol=1e-4)
        sides = torch.full((len(batch), P * NUM_QUERIES, 2), -2.0).sigmoid()
        assert_close(predictions.boxes[..., 2:], sides)


def test_every_pattern_is_paired_with_every_point(batch):
    """Query i has pattern i // Q and point i % Q; its position depends only on the point."""
    model = build(small_config())
    (block,) = model.queries(3, training=True, positions=model.position_embedding.of_points)
    assert block.content.shape == (3, P * NUM_QUERIES, 64)
    for index in range(P * NUM_QUERIES):
        point = model.queries.points[[index % NUM_QUERIES]]
        assert_close(block.content[1, index], model.queries.patterns.weight[index // NUM_QUERIES])
        assert_close(block.reference[1, [index]], point)
        assert_close(block.position[1, [index]], model.position_embedding.of_points(point))


def test_every_layer_has_gradients_in_points_patterns_and_positions(batch):
    model = build_randomised(small_config()).train()
    for name in ("", "_0"):
        model.zero_grad()
        predict(model, batch)[name].logits.square().sum().backward()
        assert has_gradient(model.position_embedding.axis_head)
        assert has_gradient(model.position_embedding.point_head)
        assert has_gradient(model.queries.patterns)
        assert model.queries.points.grad.any()


def test_positions_agree_with_the_formula():
    """Positions are heads applied to sine embeddings of coordinates in 0..1, relative to the size of each image."""
    torch.manual_seed(0)
    embedding = PointPositionEmbedding(num_pos_feats=8).double()
    mask = torch.ones(2, 4, 5, dtype=torch.bool)
    sizes = ((4, 3), (2, 5))
    for image_mask, (height, width) in zip(mask, sizes, strict=True):
        image_mask[:height, :width] = False
    positions = embedding(mask, torch.float64)
    assert positions.shape == (2, 32, 4, 5)

    def axis(value):
        return embedding.axis_head(get_sine_pos_embed(torch.tensor([value]).double(), 16))

    for image, (height, width) in enumerate(sizes):
        for row in range(height):
            for column in range(width):
                expected = torch.cat([axis((column + 0.5) / width), axis((row + 0.5) / height)])
                assert_close(positions[image, :, row, column], expected)
        # Padding cells have the position of their column or row, because the published means include their keys.
        assert_close(positions[image, :16], positions[image, :16, :1].expand(-1, 4, -1))
        assert_close(positions[image, 16:], positions[image, 16:, :, :1].expand(-1, -1, 5))
    points = torch.rand(6, 2, dtype=torch.float64)
    point_part = embedding.point_head(get_sine_pos_embed(points, 8))
    axis_parts = [torch.stack([axis(float(value)) for value in points[:, side]]) for side in (0, 1)]
    assert_close(embedding.of_points(points), torch.cat([point_part, *axis_parts], dim=-1))


def test_attention_to_all_cells_is_configurable(batch):
    """The baseline of the paper: the same positions and points, with standard attention."""
    model = build_randomised(
        small_config(
            **{
                "position_embedding.decoupled": False,
                "transformer.encoder.layer.attn._target_": MultiheadAttention,
                "transformer.decoder._target_": PositionalDecoder,
                "transformer.decoder.layer.attn[1]._target_": MultiheadAttention,
            }
        )
    ).train()
    require_all_gradients(model, model(batch))
    model.double().eval()
    with torch.no_grad():
        (alone,), together = model(batch[:1]), model(batch)
    assert_close(together[0]["instances"].scores, alone["instances"].scores)
    mask = torch.zeros(1, 3, 4, dtype=torch.bool)
    at_cell = model.position_embedding.of_points(torch.tensor([[2.5 / 4, 1.5 / 3]]))
    assert_close(model.position_embedding(mask, torch.float64)[:, :, 1, 2], at_cell.double(), rtol=1e-5, atol=1e-5)


def test_detr_supports_row_column_decoupled_attention(batch):
    """Only the class of the attention changes; positions are the 2-d ones of DETR."""
    cfg = get_config("projects/detr/configs/models/detr_r50.py").model
    attention = RowColumnDecoupledAttention
    changes = {
        "transformer.encoder.layer.attn._target_": attention,
        "transformer.decoder.layer.attn[1]._target_": attention,
    }
    model = build_randomised(changed(cfg, {**SMALL, **changes})).double()
    require_all_gradients(model.train(), model(batch))
    model.eval()
    with torch.no_grad():
        together = model(batch)
        for record, padded in zip(batch, together, strict=True):
            (alone,) = model([record])
            assert_close(padded["instances"].scores, alone["instances"].scores)


def test_points_can_form_a_grid(batch):
    model = build_randomised(small_config(**{"num_queries": 9, "queries.points": "grid"})).train()
    expected = [[x, y] for y in (1 / 6, 0.5, 5 / 6) for x in (1 / 6, 0.5, 5 / 6)]
    assert_close(model.queries.points, torch.tensor(expected))
    require_all_gradients(model, model(batch))
    with pytest.raises(ValueError, match="num_queries=10.* 9"):
        LearnedPoints(layout=QueryLayout(10), embed_dim=8, points="grid")


def test_invalid_settings_of_queries_raise_an_error():
    with pytest.raises(ValueError, match="unknown points='girds'; did you mean 'grid'"):
        LearnedPoints(layout=QueryLayout(9), embed_dim=8, points="girds")
    with pytest.raises(ValueError, match="num_patterns=3.*groups or a one-to-many"):
        LearnedPoints(layout=QueryLayout(9, num_groups=2), embed_dim=8)
    with pytest.raises(ValueError, match="num_patterns is given as"):
        build(small_config(**{"queries.num_patterns": P + 1}))
    decoder = build(small_config()).transformer.decoder
    queries = Queries([QueryBlock("", torch.zeros(1, 3, 64), torch.zeros(1, 3, 2), torch.zeros(1, 3, 64))])
    with pytest.raises(ValueError, match="PointDecoder.*192 channels.*64"):
        decoder(queries, Memory(torch.zeros(1, 4, 64), None, None), None)


def test_groups_of_points_without_patterns(batch):
    changes = {"num_patterns": 0, "queries.layout.num_groups": 3, "queries.layout.num_queries_one2many": 4}
    model = build(small_config(**changes)).train()
    losses = model(batch)
    assert {"loss_class", "loss_class_one2many"} <= set(losses)
    require_all_gradients(model, losses)


def test_parameter_names_are_stable():
    layer = {"ffns.N.layers.N.*", "norms.N.*", "attentions.N.in_proj_weight", "attentions.N.in_proj_bias"}
    expected = {"input_proj.N.*", "queries.points", "queries.patterns.*"}
    expected |= {f"position_embedding.{head}_head.layers.N.*" for head in ("axis", "point")}
    expected |= {"heads.class_embed.N.*", "heads.bbox_embed.N.layers.N.*"}
    expected |= {
        f"transformer.{stack}.layers.N.{name}"
        for stack in ("encoder", "decoder")
        for name in layer | {"attentions.N.out_proj.*"}
    }
    assert parameter_patterns(build(small_config())) == expected


def overfitting_config():
    unsupported = ("position_embedding.temperature", "position_embedding.normalize")
    return changed(
        get_config("projects/anchor_detr/configs/models/anchor_detr_r50.py").model,
        {key: value for key, value in SMALL_SINGLE_LEVEL.items() if key not in unsupported},
    )


def test_the_loss_falls(tmp_path):
    _, inputs = four_images(tmp_path)
    _, losses = trained(overfitting_config(), inputs, 10)
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.slow
def test_four_images_are_overfitted(tmp_path):
    assert overfitted_ap50(overfitting_config(), tmp_path, 600) > 0.9
