"""Relation-DETR as a whole, and the use of its relations in other detectors. Models are small."""

import math

import pytest
import torch
from torch.testing import assert_close

from detrex_lite.checkpoint import convert_state_dict, load_checkpoint
from detrex_lite.config import get_config
from detrex_lite.layers import convert_to_deploy
from detrex_lite.modeling import PositionRelation
from detrex_lite.projects.dino.modeling import DINO
from detrex_lite.testing import (
    NUM_QUERIES,
    SMALL,
    SMALL_TRANSFORMER,
    DeformableContract,
    DenoisingContract,
    TwoStageContract,
    build,
    build_on_meta,
    build_randomised,
    changed,
    has_gradient,
    parameter_patterns,
    predict,
    require_all_gradients,
    without_dropout,
)
from tests.suites import first_always

from .published import PROJECTS, apply_rules

CONFIGS = PROJECTS / "relation_detr" / "configs"
ONE2MANY = 3 * NUM_QUERIES


def small_config(**changes):
    cfg = get_config("projects/relation_detr/configs/models/relation_detr_r50.py").model
    small = {**SMALL, "denoising.num_pairs": 6, "num_queries_one2many": ONE2MANY}
    return changed(cfg, {**small, **changes})


class TestRelationDETR(DenoisingContract, DeformableContract):
    num_groups = 3  # six pairs, and at most two objects in an image
    aux_suffixes = frozenset({"_0", "_dn_0", "_0_one2many"})
    other_suffixes = frozenset({"_dn", "_enc", "_one2many", "_enc_one2many"})

    def config(self, **changes):
        return small_config(**changes)


class TestTwoStages(TwoStageContract):
    def config(self, **changes):
        return small_config(**changes)

    def test_two_stages_need_refinement(self):
        with pytest.raises(ValueError, match="with_box_refine=True"):  # look_forward_twice needs it, too
            build(self.config(with_box_refine=False))


@pytest.mark.parametrize("path", first_always(sorted(CONFIGS.glob("**/*.py"))), ids=lambda path: path.stem)
def test_every_config_builds(path):
    model, _ = build_on_meta(path)
    assert model.queries.content.weight.shape == (900, 256)
    assert model.branch.content.weight.shape == (1500, 256)


def slow_relation(relation, before, after):
    """Section 3.2 of the paper, pair by pair."""
    batch, queries, _ = before.shape
    bias = torch.zeros(batch, relation.pos_proj.out_features, queries, queries, dtype=before.dtype)
    half = relation.num_pos_feats // 2
    for image in range(batch):
        for row in range(queries):
            for column in range(queries):
                x, y, width, height = before[image, row].tolist()
                after_x, after_y, after_width, after_height = after[image, column].tolist()
                eps = relation.eps
                numbers = [
                    math.log(abs(x - after_x) / (width + eps) + 1),
                    math.log(abs(y - after_y) / (height + eps) + 1),
                    math.log((width + eps) / (after_width + eps)),
                    math.log((height + eps) / (after_height + eps)),
                ]
                embedding = []
                for number in numbers:
                    for channel in range(half):
                        angle = relation.scale * number / relation.temperature ** (channel / half)
                        embedding += [math.sin(angle), math.cos(angle)]
                projected = relation.pos_proj(torch.tensor(embedding, dtype=before.dtype))
                bias[image, :, row, column] = projected.clamp(min=0)
    return bias


def test_the_bias_agrees_with_the_formula_of_the_paper():
    torch.manual_seed(0)
    relation = PositionRelation(num_heads=3, num_pos_feats=6).double()
    before, after = 0.1 + 0.8 * torch.rand(2, 2, 4, 4, dtype=torch.float64)
    assert_close(relation(before, after), slow_relation(relation, before, after))
    assert (relation(before, after) > 0).any()


RELATION = {"_target_": "detrex_lite.modeling.PositionRelation", "num_heads": 4}
# Initial boxes are used as the predictions before the first layer; initial points are not, so relations start later.
DETECTORS = {
    "deformable_detr": {"with_box_refine": True},
    "dab_deformable_detr": {},
    "dino": {"denoising.num_pairs": 6},
}


@pytest.mark.parametrize("name", DETECTORS)
def test_other_detectors_support_relations(name, batch):
    cfg = get_config(f"projects/{name}/configs/models/{name}_r50.py").model
    changes = {
        **SMALL,
        **DETECTORS[name],
        "transformer.decoder.num_layers": 3,
        "transformer.decoder.relation": RELATION,
    }
    model = build(changed(cfg, changes)).train()
    require_all_gradients(model, model(batch))
    assert has_gradient(model.transformer.decoder.relation)


def test_relations_are_computed_from_the_boxes_of_the_two_layers_before(batch):
    changes = {"denoising": None, "num_queries_one2many": 0, "transformer.decoder.num_layers": 3}
    model = build_randomised(without_dropout(small_config(**changes))).double().eval()
    relation_inputs, references = [], []
    model.transformer.decoder.relation.register_forward_pre_hook(lambda module, args: relation_inputs.append(args))
    model.transformer.decoder.register_forward_pre_hook(lambda module, args: references.append(args[0].reference))
    with torch.no_grad():
        named = predict(model, batch)
    boxes = [references[0], named["_0"].boxes, named["_1"].boxes]
    assert len(relation_inputs) == 2  # the first layer has no bias
    for (before, after), *expected in zip(relation_inputs, boxes[:2], boxes[1:], strict=True):
        assert_close([before, after], expected)


def test_relations_change_predictions_from_the_second_layer_on(batch):
    model = build_randomised(small_config()).double().eval()
    with torch.no_grad():
        biased = predict(model, batch)
        model.transformer.decoder.relation = None
        plain = predict(model, batch)
    assert_close(biased["_0"].boxes, plain["_0"].boxes, rtol=0, atol=0)
    assert (biased[""].boxes - plain[""].boxes).abs().max() > 1e-6


def predict_with_same_noise(model, batch):
    torch.manual_seed(0)
    return predict(model, batch, targets=True)


def test_the_hybrid_branch_does_not_change_the_matching_predictions(batch):
    model = build_randomised(without_dropout(small_config())).double().train()
    single = build(without_dropout(small_config(num_queries_one2many=0))).double().train()
    shared = {name: value for name, value in model.state_dict().items() if not name.startswith("branch.")}
    single.load_state_dict(shared)
    together, alone = predict_with_same_noise(model, batch), predict_with_same_noise(single, batch)
    suffixes_of_branch = {"_one2many", "_0_one2many", "_enc_one2many"}
    assert set(together) - set(alone) == suffixes_of_branch
    for suffix, expected in alone.items():
        assert_close(together[suffix].logits, expected.logits)
        assert_close(together[suffix].boxes, expected.boxes)
    assert {together[suffix].logits.shape[1] for suffix in suffixes_of_branch} == {ONE2MANY}


def test_the_hybrid_branch_has_no_relations(batch):
    model = build_randomised(without_dropout(small_config())).double().train()
    biased = predict_with_same_noise(model, batch)
    model.transformer.decoder.relation = None
    plain = predict_with_same_noise(model, batch)
    assert_close(biased["_one2many"].boxes, plain["_one2many"].boxes, rtol=0, atol=0)


OPTIONS = {
    "relation": ({"transformer.decoder.relation": None}, "transformer.decoder.relation."),
    "memory_fusion": ({"transformer.encoder.memory_fusion": None}, "transformer.encoder.memory_fusion."),
    "hybrid_branch": ({"num_queries_one2many": 0}, "branch."),
    "denoising": ({"denoising": None}, "denoising."),
}


@pytest.mark.parametrize("name", first_always(OPTIONS, 2))
def test_every_part_can_be_switched_off(name, batch):
    changes, prefix = OPTIONS[name]
    model = build(small_config(**changes)).train()
    removed = parameter_patterns(build(small_config())) - parameter_patterns(model)
    assert removed
    assert all(pattern.startswith(prefix) for pattern in removed)
    require_all_gradients(model, model(batch))


def test_without_these_parts_relation_detr_is_dino(batch):
    off = {key: value for changes, _ in OPTIONS.values() for key, value in changes.items() if key != "denoising"}
    relation = build_randomised(without_dropout(small_config(**off))).double().train()
    dino = get_config("projects/dino/configs/models/dino_r50.py").model
    settings_of_relation_detr = {
        "neck.bias": False,
        "transformer.decoder.scale_positions": True,
        "denoising.num_pairs": 6,
    }
    dino = build(without_dropout(changed(dino, {**SMALL, **settings_of_relation_detr}))).double().train()
    assert type(dino) is DINO
    dino.load_state_dict(relation.state_dict())
    actual, dino_predictions = predict_with_same_noise(relation, batch), predict_with_same_noise(dino, batch)
    assert set(actual) == set(dino_predictions)
    for suffix, expected in dino_predictions.items():
        assert_close(actual[suffix].logits, expected.logits)
        assert_close(actual[suffix].boxes, expected.boxes)


def test_checkpoints_of_the_paper_with_a_focalnet_load():
    """There, feature maps and their norms are in two modules, and the fifth level is computed from four maps."""
    cfg = get_config("projects/relation_detr/configs/models/relation_detr_focalnet_large.py").model
    narrow = {"backbone.embed_dim": 8, "backbone.depths": [1, 1, 1, 1], "num_queries_one2many": ONE2MANY}
    cfg = changed(cfg, {**SMALL_TRANSFORMER, **narrow})
    model, loaded = build(cfg), build(cfg, seed=1)
    state = convert_state_dict(model.state_dict(), "relation_detr")
    rules = ((r"^backbone\.(norm\d)", r"backbone.1.\1"), (r"^backbone\.(patch_embed|layers)", r"backbone.0.\1"))
    names = {apply_rules(name, rules) for name in model.state_dict() if name.startswith("backbone.")}
    assert names == {name for name in state if name.startswith("backbone.")}
    assert {name.split(".")[2] for name in state if name.startswith("neck.convs.")} == set("01234")
    report = load_checkpoint(loaded, state)
    assert (report.missing, report.unexpected, report.mismatched) == ([], [], [])
    for name, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value)


def test_names_of_a_swin_in_checkpoints_of_the_paper():
    pytest.importorskip("timm", reason="the package timm is not installed")
    model, _ = build_on_meta(CONFIGS / "models" / "relation_detr_swin_large.py")
    names = set(convert_state_dict(model.state_dict(), "relation_detr"))
    block = "backbone.0.features.5.17."
    assert {name.removeprefix(block) for name in names if name.startswith(block)} == {
        *(f"{part}.{kind}" for part in ("norm1", "norm2", "mlp.0", "mlp.3") for kind in ("weight", "bias")),
        *(f"attn.{part}.{kind}" for part in ("qkv", "proj") for kind in ("weight", "bias")),
        "attn.relative_position_bias_table",
    }
    assert {
        "backbone.0.features.0.0.weight",
        "backbone.0.features.0.2.bias",
        "backbone.0.features.2.reduction.weight",
        "backbone.0.features.6.norm.weight",
        "neck.convs.3.0.weight",
    } <= names
    assert not [name for name in names if name.startswith("backbone.") and not name.startswith("backbone.0.features.")]


BRANCH = {
    "num_queries_one2many": ONE2MANY,
    "queries.layout.num_queries_one2many": 0,
    "branch": {
        "_target_": "detrex_lite.modeling.deformable.HybridBranch",
        "num_queries": ONE2MANY,
        "num_classes": "${..num_classes}",
        "embed_dim": "${..embed_dim}",
    },
}


def with_branch(name, **changes):
    cfg = get_config(f"projects/{name}/configs/models/{name}_r50.py").model
    return changed(cfg, {**SMALL, **BRANCH, **changes})


def test_dino_supports_the_branch_and_removes_it_for_deployment(batch):
    model = build_randomised(with_branch("dino", **{"denoising.num_pairs": 6})).train()
    losses = model(batch)
    assert {"loss_class_one2many", "loss_bbox_0_one2many", "loss_giou_enc_one2many"} <= set(losses)
    require_all_gradients(model, losses)
    deployed = convert_to_deploy(model.eval())
    assert deployed.branch is None


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("dino", {"as_two_stage": False}, "as_two_stage=True"),
        (
            "dino",
            {"queries.layout.num_queries_one2many": ONE2MANY, "num_queries_one2many": None},
            "num_queries_one2many=.* hybrid",
        ),
        ("deformable_detr", {}, "DeformableDETR .* branch"),
    ],
)
def test_unsupported_branches_raise_an_error(name, changes, message):
    with pytest.raises(ValueError, match=message):
        build(with_branch(name, **changes))
