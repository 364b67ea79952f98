"""LW-DETR as a whole. Models are small; their structure is that of the configs."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from detrex_lite.config import get_config
from detrex_lite.modeling import DetectionHeads, IoUAwareBCELoss, ReparamHeads
from detrex_lite.modeling.deformable import GroupedAnchorQueries
from detrex_lite.testing import (
    NUM_CLASSES,
    NUM_QUERIES,
    DeformableContract,
    build,
    build_on_meta,
    build_randomised,
    changed,
    make_input,
    predict,
    require_all_gradients,
    without_dropout,
)
from detrex_lite.testing import SMALL as SMALL_RESNET
from tests.suites import first_always

from .published import PROJECTS

NUM_GROUPS = 3
SMALL = {
    "num_classes": NUM_CLASSES,
    "num_queries": NUM_QUERIES,
    "embed_dim": 64,
    "backbone.embed_dim": 32,
    "backbone.depth": 4,
    "backbone.num_heads": 4,
    "backbone.num_windows": 2,
    "backbone.patch_size": 8,
    "backbone.pretrain_image_size": 32,
    "backbone.global_blocks": [1, 3],
    "backbone.out_blocks": [1, 3],
    "neck.num_blocks": 1,
    "queries.layout.num_groups": NUM_GROUPS,
    "transformer.decoder.num_layers": 2,
    "transformer.decoder.layer.attn[0].num_heads": 4,
    "transformer.decoder.layer.attn[1].num_heads": 4,
    "transformer.decoder.layer.ffn.feedforward_dim": 96,
}
# The large models have two levels and stochastic depth.
TWO_LEVELS = {"neck.scales": [2.0, 0.5], "transformer.num_feature_levels": 2, "backbone.drop_path_rate": 0.1}


def small_config(**changes):
    cfg = get_config("projects/lwdetr/configs/models/lwdetr_tiny.py").model
    return changed(cfg, {**SMALL, **changes})


class TestLWDETR(DeformableContract):
    other_suffixes = frozenset({"_enc"})

    def config(self, **changes):
        return small_config(**changes)


@pytest.mark.slow
class TestTwoLevels(DeformableContract):
    other_suffixes = frozenset({"_enc"})

    def config(self, **changes):
        return small_config(**TWO_LEVELS, **changes)


# The number of parameters of the published models with 91 classes, counted in the code of their repository.
PARAMETERS = {
    "tiny": 12_052_002,
    "small": 14_557_378,
    "medium": 28_237_378,
    "large": 46_823_650,
    "xlarge": 118_033_378,
}


@pytest.mark.parametrize("size", first_always(PARAMETERS, 2))
def test_models_have_the_parameters_of_the_published_models(size):
    model, cfg = build_on_meta(PROJECTS / "lwdetr" / "configs" / "models" / f"lwdetr_{size}.py")
    rows = sum(cfg.embed_dim + 1 for name, _ in model.named_parameters() if "class_embed" in name and "bias" in name)
    assert sum(parameter.numel() for parameter in model.parameters()) + 11 * rows == PARAMETERS[size]


def test_evaluation_uses_the_first_group():
    model = build_randomised(without_dropout(small_config())).double().train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    batch = [make_input(64, 64, [[4.0, 8, 40, 50]], [1], seed=seed) for seed in range(2)]
    with torch.no_grad():
        training, evaluation = predict(model, batch, targets=True), predict(model, batch)
    assert training[""].num_groups == training["_enc"].num_groups == NUM_GROUPS
    for name in ("", "_0"):
        assert training[name].logits.shape[1] == NUM_GROUPS * NUM_QUERIES
        assert_close(training[name].logits[:, :NUM_QUERIES], evaluation[name].logits)
        assert_close(training[name].boxes[:, :NUM_QUERIES], evaluation[name].boxes)


def test_a_model_with_91_classes_trains(batch):
    model = build(small_config(num_classes=91)).train()
    require_all_gradients(model, model(batch))
    assert predict(model.eval(), batch)[""].logits.shape[-1] == 91


# The options in the READMEs of LW-DETR and its parts.
OPTIONS = {
    "no groups": {"queries.layout.num_groups": 1},
    "refinement from layer to layer": {"heads.lite_refinement": False},
    "separate heads for each layer": {"share_heads": False},
    "looking forward twice": {"heads.lite_refinement": False, "heads.look_forward_twice": True},
    "boxes in logit space": {"heads._target_": DetectionHeads},
    "positions scaled by contents": {"transformer.decoder.scale_positions": True},
    "layer norms in the projector": {"neck.norm": "LN"},
    "relations": {
        "transformer.decoder.relation": {"_target_": "detrex_lite.modeling.PositionRelation", "num_heads": 4},
    },
    "denoising": {
        "denoising": get_config("projects/dino/configs/models/dino_r50.py").model.denoising,
        "denoising.num_pairs": 6,
    },
}


@pytest.fixture
def batch():
    return [make_input(64, 96, [[4.0, 8, 40, 50], [50, 10, 90, 60]], [1, 4], seed=1), make_input(80, 56, [], [])]


@pytest.mark.parametrize("name", first_always(OPTIONS, 2))
def test_options_of_the_readme_train_and_detect(name, batch):
    model = build_randomised(small_config(**OPTIONS[name])).train()
    require_all_gradients(model, model(batch))
    model.eval()
    with torch.no_grad():
        assert all(image["instances"].scores.isfinite().all() for image in model(batch))


# Conversely: other detectors with parts of LW-DETR.
GROUPS = {
    "queries._target_": GroupedAnchorQueries,
    "queries.layout.num_groups": NUM_GROUPS,
    "heads.encoder_groups": NUM_GROUPS,
}
LOSS = {"criterion.losses.loss_class": {"_target_": IoUAwareBCELoss, "alpha": 0.25, "gamma": 2.0}}
PARTS = {
    "boxes without a sigmoid": {"heads._target_": ReparamHeads},
    "without a sigmoid, looking forward once": {"heads._target_": ReparamHeads, "heads.look_forward_twice": False},
    "first references": {"heads.look_forward_twice": False, "heads.lite_refinement": True},
    "loss": LOSS,
    "groups": GROUPS,
    "all": {"heads._target_": ReparamHeads, **LOSS, **GROUPS},
}


def dino(**changes):
    cfg = get_config("projects/dino/configs/models/dino_r50.py").model
    if GroupedAnchorQueries in changes.values():
        for key in ("as_two_stage", "mixed_selection", "indicator", "normal_init"):
            del cfg.queries[key]
    return changed(cfg, {**SMALL_RESNET, "denoising.num_pairs": 6, **changes})


@pytest.mark.parametrize("name", PARTS)
def test_dino_supports_every_part(name, batch):
    model = build_randomised(dino(**PARTS[name])).train()
    losses = model(batch)
    require_all_gradients(model, losses)
    assert {"loss_class_dn_0", "loss_class_enc"} <= set(losses)
    model.double().eval()
    with torch.no_grad():
        together = model(batch)
        for record, padded in zip(batch, together, strict=True):
            (alone,) = model([record])
            assert_close(padded["instances"].scores, alone["instances"].scores)


def test_dino_supports_a_windowed_vit(batch):
    mini = small_config()
    model = build(dino(backbone=mini.backbone, **{"neck.in_channels": {"block1": 32, "block3": 32}})).train()
    require_all_gradients(model, model(batch))


def test_rtdetr_supports_groups_with_separate_proposals(batch):
    cfg = get_config("projects/rtdetr/configs/models/rtdetrv2_small.py").model
    cfg.queries = small_config().queries
    changes = {"num_classes": NUM_CLASSES, "num_queries": NUM_QUERIES, "heads.encoder_groups": NUM_GROUPS}
    model = build_randomised(changed(cfg, {**changes, "denoising": None})).train()
    require_all_gradients(model, model(batch))
    assert predict(model, batch, targets=True)[""].logits.shape[1] == NUM_GROUPS * NUM_QUERIES


def test_contradictory_numbers_of_groups_raise_an_error():
    with pytest.raises(ValueError, match="groups.*3 by queries, 2 by heads"):
        build(small_config(**{"heads.encoder_groups": 2}))
    with pytest.raises(ValueError, match="groups.*1 by queries, 3 by heads"):
        build(dino(**{"heads.encoder_groups": 3}))
