"""Align-DETR, a config of DINO, and the use of its matching and loss in other detectors. Models are small."""

import pytest
import torch

from detrex_lite.config import LazyConfig, get_config
from detrex_lite.modeling import HungarianMatcher, IoUAwareBCELoss
from detrex_lite.projects.dino.modeling import DINO
from detrex_lite.testing import (
    SMALL,
    DeformableContract,
    DenoisingContract,
    build,
    build_on_meta,
    changed,
    parameter_patterns,
    require_all_gradients,
)
from tests.suites import first_always

from .overfitting import four_images, overfitted_ap50, small_deformable, trained
from .published import PROJECTS

CONFIGS = PROJECTS / "align_detr" / "configs"
TWO_CANDIDATES = {
    "criterion.matcher.candidates": 2,
    "criterion.matcher.final_candidates": 1,
    "criterion.matcher.ranking.tau": 1.5,
}


def config_of(name="align_detr_r50"):
    return get_config(f"projects/align_detr/configs/models/{name}.py").model


class TestAlignDETR(DenoisingContract, DeformableContract):
    num_groups = 3  # six pairs, and at most two objects in an image
    other_suffixes = frozenset({"_enc", "_dn"})

    def config(self, **changes):
        return changed(config_of(), {**SMALL, **TWO_CANDIDATES, "denoising.num_pairs": 6, **changes})


@pytest.mark.parametrize("path", first_always(sorted(CONFIGS.glob("models/*.py"))), ids=lambda path: path.stem)
def test_every_model_builds(path):
    model, _ = build_on_meta(path)
    assert type(model) is DINO
    matcher, loss = model.criterion.matcher, model.criterion.losses["loss_class"]
    assert isinstance(loss, IoUAwareBCELoss)
    assert (loss.alpha, loss.gamma, loss.eps) == (matcher.ranking.alpha, 2.0, matcher.ranking.eps) == (0.25, 2.0, 1e-6)
    assert model.criterion.weights == {"loss_class": 1.0, "loss_bbox": 5.0, "loss_giou": 2.0}


@pytest.mark.parametrize(("epochs", "milestone"), [(12, 11), (24, 20), (36, 30)])
def test_training_configs_have_the_published_settings(epochs, milestone):
    path = CONFIGS / f"align_detr_r50_4scale_{epochs}ep.py"
    cfg = LazyConfig.load(str(path))
    matcher = cfg.model.criterion.matcher
    assert (matcher.candidates, matcher.final_candidates, matcher.ranking.tau) == (2, 1, 1.5)
    assert (cfg.train.max_epochs, cfg.lr_multiplier.epochs) == (epochs, epochs)
    assert cfg.lr_multiplier.milestones == [milestone]
    assert (cfg.optimizer.lr, cfg.optimizer.params.backbone_lr_factor) == (1e-4, 0.1)
    assert cfg.dataloader.train.total_batch_size == 16
    assert cfg.train.output_dir == f"output/{path.stem}"


def test_parameter_names_are_those_of_dino():
    dino = get_config("projects/dino/configs/models/dino_r50.py").model
    align = build(changed(config_of(), SMALL)).state_dict()
    assert list(align) == list(build(changed(dino, SMALL)).state_dict())


RANKED = {
    "criterion.losses.loss_class": {"_target_": IoUAwareBCELoss},
    "criterion.matcher.candidates": 2,
    "criterion.matcher.ranking": {"_target_": "detrex_lite.modeling.RankWeights", "tau": 1.5},
}


@pytest.mark.parametrize("project", first_always(["deformable_detr", "dab_detr", "rtdetr"]))
def test_other_detectors_support_the_loss_and_the_matching(project, batch):
    if project == "rtdetr":
        cfg = get_config("projects/rtdetr/configs/models/rtdetrv2_small.py").model
        sizes = {"num_classes": 5, "num_queries": 20, "denoising.num_pairs": 6}
    else:
        cfg, sizes = get_config(f"projects/{project}/configs/models/{project}_r50.py").model, SMALL
    rank_weights = []
    model = build(changed(cfg, {**sizes, **RANKED})).train()
    assert isinstance(model.criterion.matcher, HungarianMatcher)
    rank = model.criterion.matcher.ranking.__call__
    model.criterion.matcher.ranking = lambda *args: rank_weights.append(rank(*args)) or rank_weights[-1]
    require_all_gradients(model, model(batch))
    # One weight for the better candidates, one for the others.
    assert all(len(weight.unique()) == 2 for weight in rank_weights)
    assert parameter_patterns(model) == parameter_patterns(build(changed(cfg, sizes)))


def small(**changes):
    return small_deformable(config_of("align_detr_small"), **{"denoising.num_pairs": 10, **TWO_CANDIDATES, **changes})


def test_the_loss_falls(tmp_path):
    _, inputs = four_images(tmp_path)
    _, totals = trained(small(), inputs, 20)
    assert sum(totals[-3:]) < 0.9 * sum(totals[:3])


@pytest.mark.slow
def test_four_images_are_overfitted(tmp_path):
    torch.manual_seed(0)
    assert overfitted_ap50(small(), tmp_path, 150) > 0.9
