"""Deformable DETR as a whole. Models are small; their structure is that of the configs."""

import pytest
import torch
from torch.testing import assert_close

from detrex_lite.config import get_config
from detrex_lite.testing import (
    NUM_CLASSES,
    NUM_QUERIES,
    SMALL,
    DeformableContract,
    TwoStageContract,
    build,
    build_on_meta,
    build_randomised,
    changed,
    has_gradient,
    make_input,
    parameter_patterns,
    predict,
    without_dropout,
)
from tests.suites import first_always

from .published import PROJECTS

CONFIGS = PROJECTS / "deformable_detr" / "configs"

ONE_STAGE = {"with_box_refine": False, "as_two_stage": False}
REFINE = {"with_box_refine": True, "as_two_stage": False}
TWO_STAGE = {"with_box_refine": True, "as_two_stage": True}
VARIANTS = {"one_stage": ONE_STAGE, "refine": REFINE, "two_stage": TWO_STAGE}


def small_config(**changes):
    cfg = get_config("projects/deformable_detr/configs/models/deformable_detr_r50.py").model
    return changed(cfg, {**SMALL, **changes})


@pytest.mark.parametrize("variant", [ONE_STAGE, TWO_STAGE], ids=["one_stage", "two_stage"])
class TestDeformableDETR(DeformableContract):
    def config(self, **changes):
        return small_config(**self.variant, **changes)


class TestTwoStages(TwoStageContract):
    def config(self, **changes):
        return small_config(**{**TWO_STAGE, **changes})


def relative_to_configs(path):
    return path.relative_to(CONFIGS).as_posix()


@pytest.mark.parametrize("path", first_always(sorted(CONFIGS.glob("**/*.py"))), ids=relative_to_configs)
def test_every_config_builds(path):
    model, cfg = build_on_meta(path)
    assert model.num_classes == cfg.num_classes
    assert len(model.heads.class_embed) == cfg.transformer.decoder.num_layers + cfg.as_two_stage
    assert {head.out_features for head in model.heads.class_embed} == {cfg.num_classes}
    assert len(model.neck.convs) + len(model.neck.extra_convs) == cfg.transformer.num_feature_levels


def test_every_variant_has_a_config():
    models = {path.stem for path in CONFIGS.glob("models/*.py")}
    single_scale = "deformable_detr_r50_single_scale"
    assert {"deformable_detr_r50", single_scale, f"{single_scale}_dc5"} <= models


def test_refined_boxes_have_no_gradients_in_box_heads_of_earlier_layers(batch):
    model = build_randomised(small_config(**REFINE)).train()
    predict(model, batch)[""].boxes.square().sum().backward()
    assert [has_gradient(head) for head in model.heads.bbox_embed] == [False, True]


@pytest.mark.parametrize("variant", [ONE_STAGE, REFINE], ids=["one_stage", "refine"])
def test_boxes_of_the_first_layer_have_gradients_in_the_reference_points(batch, variant):
    model = build_randomised(small_config(**variant)).train()
    predict(model, batch)["_0"].boxes.square().sum().backward()
    assert has_gradient(model.queries.reference_points)


def test_heads_are_shared_without_refinement_by_default():
    for variant, shared_by_default in ((ONE_STAGE, True), (REFINE, False)):
        for share_heads in (None, True, False):
            heads = build(small_config(**variant, share_heads=share_heads)).heads
            expected = shared_by_default if share_heads is None else share_heads
            assert (heads.class_embed[0] is heads.class_embed[1]) == expected
            assert (heads.bbox_embed[0] is heads.bbox_embed[1]) == expected


def test_without_refinement_all_layers_have_the_same_reference_points(batch):
    """The box heads of a new model predict no offsets, so its boxes are the references."""
    model = build(small_config(**ONE_STAGE)).eval()
    with torch.no_grad():
        named = predict(model, batch)
        points = model.queries.reference_points(model.queries.embedding.weight[:, :64]).sigmoid()
    for predictions in named.values():
        assert_close(predictions.boxes[..., :2], points.expand(len(batch), -1, -1))
        assert_close(predictions.boxes[..., 2:], torch.tensor(-2.0).sigmoid().expand(len(batch), NUM_QUERIES, 2))


def test_every_token_gives_a_proposal():
    model = build_randomised(small_config(**TWO_STAGE)).train()
    named = predict(model, [make_input(32, 32, [], [])], targets=True)
    assert named["_enc"].logits.shape == (1, 16 + 4 + 1 + 1, NUM_CLASSES)
    assert named[""].logits.shape == (1, NUM_QUERIES, NUM_CLASSES)


def test_losses_of_proposals_do_not_depend_on_the_classes_of_objects(batch):
    model = build_randomised(without_dropout(small_config(**TWO_STAGE))).double().train()
    losses = model(batch)
    for record in batch:
        record["instances"].gt_classes.zero_()
    losses_of_class_0 = model(batch)
    for kind in ("class", "bbox", "giou"):
        assert_close(losses_of_class_0[f"loss_{kind}_enc"], losses[f"loss_{kind}_enc"], rtol=1e-12, atol=0)
    assert abs(losses_of_class_0["loss_class"] - losses["loss_class"]) > 1e-3


def test_proposals_are_predicted_with_targets_only(batch):
    model = build(small_config(**TWO_STAGE))
    with torch.no_grad():
        for mode in (True, False):
            model.train(mode)
            assert set(predict(model, batch)) == {"", "_0"}
            assert set(predict(model, batch, targets=True)) == {"", "_0", "_enc"}


@pytest.mark.parametrize("variant", VARIANTS)
def test_parameter_names_are_stable(variant):
    model = build(small_config(**VARIANTS[variant]))
    deformable = {
        f"attentions.N.{part}.*" for part in ("sampling_offsets", "attention_weights", "value_proj", "output_proj")
    }
    layer = {"ffns.N.layers.N.*", "norms.N.*", *deformable}
    attention = {"attentions.N.in_proj_weight", "attentions.N.in_proj_bias", "attentions.N.out_proj.*"}
    common = {"neck.convs.N.N.*", "neck.extra_convs.N.N.*", "heads.class_embed.N.*", "heads.bbox_embed.N.layers.N.*"}
    common |= {"transformer.level_embeds"}
    common |= {f"transformer.encoder.layers.N.{name}" for name in layer}
    common |= {f"transformer.decoder.layers.N.{name}" for name in layer | attention}
    two_stage_names = {f"queries.proposals.enc_output{end}.*" for end in ("", "_norm")}
    two_stage_names |= {f"queries.pos_trans{end}.*" for end in ("", "_norm")}
    one_stage_names = {"queries.embedding.*", "queries.reference_points.*"}
    assert parameter_patterns(model) == common | (two_stage_names if variant == "two_stage" else one_stage_names)
