"""Stable-DINO, a config of DINO, and the use of its parts in other detectors. Models are small."""

import pytest
import torch

from detrex_lite.checkpoint import convert_state_dict, load_checkpoint
from detrex_lite.config import LazyConfig, get_config
from detrex_lite.modeling import PositionModulatedCost, PositionSupervisedLoss
from detrex_lite.projects.dino.modeling import DINO
from detrex_lite.testing import (
    SMALL,
    DeformableContract,
    DenoisingContract,
    build,
    build_on_meta,
    changed,
    has_gradient,
    parameter_patterns,
    require_all_gradients,
)
from tests.suites import first_always

from .overfitting import four_images, overfitted_ap50, small_deformable, trained
from .published import PROJECTS

CONFIGS = PROJECTS / "stable_dino" / "configs"


def config_of(name="stable_dino_r50"):
    return get_config(f"projects/stable_dino/configs/models/{name}.py").model


def small_config(**changes):
    return changed(config_of(), {**SMALL, "denoising.num_pairs": 6, **changes})


class TestStableDINO(DenoisingContract, DeformableContract):
    num_groups = 3  # six pairs, and at most two objects in an image
    other_suffixes = frozenset({"_enc", "_dn"})

    def config(self, **changes):
        return small_config(**changes)


@pytest.mark.parametrize("path", first_always(sorted(CONFIGS.glob("models/*.py"))), ids=lambda path: path.stem)
def test_every_model_builds(path):
    if "swin" in path.stem:
        pytest.importorskip("timm", reason="the package timm is not installed")
    model, cfg = build_on_meta(path)
    assert type(model) is DINO
    criterion = model.criterion
    loss, cost = criterion.losses["loss_class"], criterion.matcher.costs["label"]
    assert isinstance(loss, PositionSupervisedLoss)
    assert (loss.alpha, loss.gamma, loss.power, loss.eps) == (0.25, 2.0, 2.0, 1e-6)
    assert isinstance(cost, PositionModulatedCost)
    assert (cost.weight, cost.alpha, cost.gamma, cost.beta, cost.by_object) == (2.0, 0.25, 2.0, 0.5, False)
    assert criterion.weights == {"loss_class": 6.0, "loss_class_dn": 1.0, "loss_bbox": 5.0, "loss_giou": 2.0}
    linear, _ = model.transformer.encoder.memory_fusion.layers
    width = cfg.embed_dim
    assert linear.weight.shape == (width, width * (cfg.transformer.encoder.num_layers + 1))
    assert len(model.neck.convs) + len(model.neck.extra_convs) == cfg.transformer.num_feature_levels


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*ep.py")), ids=lambda path: path.stem)
def test_training_configs_have_the_published_settings(path):
    cfg = LazyConfig.load(str(path))
    epochs = 12 if path.stem.endswith("12ep") else 24
    assert (cfg.train.max_epochs, cfg.lr_multiplier.epochs) == (epochs, epochs)
    assert cfg.lr_multiplier.milestones == [{12: 11, 24: 20}[epochs]]
    assert (cfg.optimizer.lr, cfg.optimizer.params.backbone_lr_factor) == (1e-4, 0.1)
    assert cfg.dataloader.train.total_batch_size == 16
    assert cfg.train.output_dir == f"output/{path.stem}"
    assert cfg.model.backbone.weights == ("ms_in22k" if "swin" in path.stem else "IMAGENET1K_V1")


# option -> (change of the config, prefix of the parameters that it removes)
OPTIONS = {
    "fusion": ({"transformer.encoder.memory_fusion": None}, "transformer.encoder.memory_fusion."),
    "loss": ({"criterion.losses.loss_class": {"_target_": "detrex_lite.modeling.FocalLoss"}}, None),
    "cost": ({"criterion.matcher.costs.label": {"_target_": "detrex_lite.modeling.FocalCost"}}, None),
}


@pytest.mark.parametrize("name", first_always(OPTIONS))
def test_every_part_can_be_switched_off(name, batch):
    changes, prefix = OPTIONS[name]
    model = build(small_config(**changes)).train()
    removed = parameter_patterns(build(small_config())) - parameter_patterns(model)
    assert bool(removed) == (prefix is not None)
    assert all(pattern.startswith(prefix) for pattern in removed)
    require_all_gradients(model, model(batch))


PARTS = {
    "criterion.losses.loss_class": {"_target_": PositionSupervisedLoss},
    "criterion.matcher.costs.label": {"_target_": PositionModulatedCost},
}
FUSION = {
    "transformer.encoder.memory_fusion": {
        "_target_": "detrex_lite.modeling.deformable.MemoryFusion",
        "embed_dim": 64,
        "num_layers": 2,
        "num_fcs": 1,
    }
}


@pytest.mark.parametrize("project", first_always(["deformable_detr", "dab_detr", "rtdetr"]))
def test_other_detectors_support_the_parts_of_stable_dino(project, batch):
    if project == "rtdetr":  # the encoder is in the neck and has a single layer, so there is nothing to fuse
        cfg = get_config("projects/rtdetr/configs/models/rtdetrv2_small.py").model
        sizes = {"num_classes": 5, "num_queries": 20, "denoising.num_pairs": 6}
    else:
        cfg, sizes = get_config(f"projects/{project}/configs/models/{project}_r50.py").model, SMALL
    fusion = FUSION if project == "deformable_detr" else {}
    model = build(changed(cfg, {**sizes, **PARTS, **fusion})).train()
    require_all_gradients(model, model(batch))
    assert not fusion or has_gradient(model.transformer.encoder.memory_fusion)


def test_checkpoints_have_the_names_of_the_repository_of_the_paper():
    model = build(small_config())
    stored = convert_state_dict(model.state_dict(), "detrex")
    names = {name for name in stored if ".fusion_layer." in name}
    assert names == {
        f"transformer.encoder.fusion_layer.{index}.{kind}" for index in (0, 1) for kind in ("weight", "bias")
    }
    report = load_checkpoint(build(small_config(), seed=1), stored)
    assert (report.key_map, report.missing, report.unexpected, report.mismatched) == ("detrex", [], [], [])


def small(**changes):
    return small_deformable(config_of("stable_dino_small"), **{"denoising.num_pairs": 10, **changes})


def test_the_loss_falls(tmp_path):
    _, inputs = four_images(tmp_path)
    _, totals = trained(small(), inputs, 20)
    assert sum(totals[-3:]) < 0.9 * sum(totals[:3])


@pytest.mark.slow
def test_four_images_are_overfitted(tmp_path):
    torch.manual_seed(0)
    assert overfitted_ap50(small(), tmp_path, 150) > 0.9
