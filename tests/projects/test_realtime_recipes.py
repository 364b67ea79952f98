"""The learning rates, weight decays and epochs of the real-time detectors are the published ones."""

import math

import pytest
import torch

from detrex_lite.config import LazyConfig, instantiate
from detrex_lite.data import Mixup
from detrex_lite.engine.loop.optim import NORM_LAYERS

BACKBONE, BACKBONE_NORM, OTHER, BIAS, NORM = "backbone", "norm of the backbone", "other", "bias", "norm"
STEPS = {16: 7393, 32: 3697, 128: 925}  # batch size -> steps of an epoch of COCO


def settings_of(path):
    """Kind of parameter -> (learning rate, weight decay), which are equal for all parameters of the kind."""
    cfg = LazyConfig.load(f"projects/{path}.py")
    cfg.model.backbone.weights = None
    with torch.device("meta"):
        model = instantiate(cfg.model)
    kinds = {}
    for module_name, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            is_norm, in_backbone = isinstance(module, NORM_LAYERS), module_name.startswith("backbone")
            if in_backbone:
                kind = BACKBONE_NORM if is_norm else BACKBONE
            else:
                kind = NORM if is_norm else BIAS if "bias" in name else OTHER
            if parameter.requires_grad:
                kinds.setdefault(kind, []).append(parameter)
    groups = instantiate(cfg.optimizer.params, model=model)
    settings_of_parameter = {
        parameter: (group["lr"], group.get("weight_decay", cfg.optimizer.weight_decay))
        for group in groups
        for parameter in group["params"]
    }
    settings = {
        kind: {settings_of_parameter[parameter] for parameter in parameters} for kind, parameters in kinds.items()
    }
    assert {len(pairs) for pairs in settings.values()} == {1}, settings
    return {kind: pairs.pop() for kind, pairs in settings.items()}


@pytest.mark.parametrize(
    ("path", "backbone", "backbone_norm", "other", "bias", "norm"),
    [
        ("rtdetr/configs/rtdetr_r18_72ep", (1e-5, 1e-4), (1e-5, 0), (1e-4, 1e-4), (1e-4, 0), (1e-4, 0)),
        ("rtdetr/configs/rtdetr_r50_72ep", (1e-5, 1e-4), None, (1e-4, 1e-4), (1e-4, 0), (1e-4, 0)),
        ("rtdetr/configs/rtdetr_r101_72ep", (1e-6, 1e-4), None, (1e-4, 1e-4), (1e-4, 1e-4), (1e-4, 1e-4)),
        ("rtdetr/configs/rtdetrv2_r18_120ep", (1e-4, 1e-4), (1e-4, 0), (1e-4, 1e-4), (1e-4, 1e-4), (1e-4, 0)),
        ("rtdetr/configs/rtdetrv2_r34_120ep", (5e-5, 1e-4), (5e-5, 0), (1e-4, 1e-4), (1e-4, 0), (1e-4, 0)),
        ("rtdetr/configs/rtdetrv2_r101_72ep", (1e-6, 1e-4), None, (1e-4, 1e-4), (1e-4, 1e-4), (1e-4, 0)),
        ("dfine/configs/dfine_n_160ep", (4e-4, 1e-4), (4e-4, 1e-4), (8e-4, 1e-4), (8e-4, 0), (8e-4, 0)),
        ("dfine/configs/dfine_s_132ep", (1e-4, 1e-4), (1e-4, 1e-4), (2e-4, 1e-4), (2e-4, 0), (2e-4, 0)),
        ("dfine/configs/dfine_m_132ep", (2e-5, 1e-4), (2e-5, 1e-4), (2e-4, 1e-4), (2e-4, 0), (2e-4, 0)),
        ("dfine/configs/dfine_x_80ep", (2.5e-6, 1.25e-4), None, (2.5e-4, 1.25e-4), (2.5e-4, 1.25e-4), (2.5e-4, 0)),
        ("deim/configs/deim_dfine_n_160ep", (4e-4, 1e-4), (4e-4, 1e-4), (8e-4, 1e-4), (8e-4, 0), (8e-4, 0)),
        ("deim/configs/deim_dfine_s_132ep", (2e-4, 1e-4), (4e-4, 0), (4e-4, 1e-4), (4e-4, 1e-4), (4e-4, 0)),
        ("deim/configs/deim_dfine_m_102ep", (4e-5, 1e-4), (4e-4, 0), (4e-4, 1e-4), (4e-4, 1e-4), (4e-4, 0)),
        (
            "deim/configs/deim_dfine_l_58ep",
            (2.5e-5, 1.25e-4),
            (2.5e-5, 1.25e-4),
            (5e-4, 1.25e-4),
            (5e-4, 1.25e-4),
            (5e-4, 0),
        ),
        ("deim/configs/deim_rtdetrv2_r18_120ep", (2e-4, 1e-4), (2e-4, 0), (2e-4, 1e-4), (2e-4, 1e-4), (2e-4, 0)),
        ("deim/configs/deim_rtdetrv2_r34_120ep", (1e-4, 1e-4), (2e-4, 0), (2e-4, 1e-4), (2e-4, 1e-4), (2e-4, 0)),
        ("deim/configs/deim_rtdetrv2_r101_60ep", (2e-6, 1e-4), (2e-4, 0), (2e-4, 1e-4), (2e-4, 1e-4), (2e-4, 0)),
    ],
)
def test_learning_rates_and_weight_decays_are_as_published(path, backbone, backbone_norm, other, bias, norm):
    expected = {BACKBONE: backbone, BACKBONE_NORM: backbone_norm, OTHER: other, BIAS: bias, NORM: norm}
    settings = settings_of(path)
    assert settings.keys() == {kind for kind, value in expected.items() if value is not None}
    for kind, value in settings.items():
        assert value == pytest.approx(expected[kind]), kind


@pytest.mark.parametrize(
    ("path", "batch", "epochs", "strong", "sizes", "warmup_steps", "restart"),
    [
        ("rtdetr/configs/rtdetr_r18_72ep", 16, 72, (0, None), 13, 0, None),
        ("rtdetr/configs/rtdetrv2_r18_120ep", 16, 120, (0, 117), None, 2000, None),
        ("rtdetr/configs/rtdetrv2_r34_120ep", 16, 120, (0, 117), 13, 2000, None),
        ("rtdetr/configs/rtdetrv2_r50_m_84ep", 16, 84, (0, 81), 13, 2000, None),
        ("rtdetr/configs/rtdetrv2_r50_72ep", 16, 72, (0, 71), 13, 2000, None),
        ("rtdetr/configs/rtdetrv2_r18_discrete_36ep", 16, 36, (0, 33), None, 2000, None),
        ("rtdetr/configs/rtdetrv2_r34_discrete_12ep", 16, 12, (0, 10), 13, 2000, None),
        ("dfine/configs/dfine_n_160ep", 128, 160, (0, 148), None, 499, (148, 0.9999)),
        ("dfine/configs/dfine_s_132ep", 32, 132, (0, 120), 30, 499, (120, 0.9999)),
        ("dfine/configs/dfine_m_132ep", 32, 132, (0, 120), 16, 499, (120, 0.9999)),
        ("dfine/configs/dfine_l_80ep", 32, 80, (0, 72), 14, 499, (72, 0.9999)),
        ("dfine/configs/dfine_x_80ep", 32, 80, (0, 72), 13, 499, (72, 0.9998)),
        ("deim/configs/deim_dfine_n_160ep", 128, 160, (4, 148), None, 2000, (148, 0.9999)),
        ("deim/configs/deim_dfine_s_132ep", 32, 132, (4, 120), 30, 2000, (120, 0.9999)),
        ("deim/configs/deim_dfine_m_102ep", 32, 102, (4, 90), 16, 2000, (90, 0.9999)),
        ("deim/configs/deim_dfine_x_58ep", 32, 58, (4, 50), 13, 2000, (50, 0.9998)),
        ("deim/configs/deim_rtdetrv2_r18_120ep", 16, 120, (4, 117), 13, 2000, (117, 0.9999)),
        ("deim/configs/deim_rtdetrv2_r50_60ep", 16, 60, (4, 58), 13, 2000, (58, 0.9999)),
    ],
)
def test_lengths_and_epochs_of_augmentations_are_as_published(
    path, batch, epochs, strong, sizes, warmup_steps, restart
):
    cfg = LazyConfig.load(f"projects/{path}.py")
    train = cfg.dataloader.train
    assert (train.total_batch_size, cfg.train.max_epochs) == (batch, epochs)
    augmentation = instantiate(train.mapper.augmentation)
    assert augmentation.zoom_out.epochs == augmentation.iou_crop.epochs == strong
    multi_scale = None if train.multi_scale is None else instantiate(train.multi_scale)
    assert (None if multi_scale is None else len(multi_scale.sizes)) == sizes
    assert multi_scale is None or multi_scale.epochs == (0, strong[1])
    steps = epochs * STEPS[batch]
    multiplier = instantiate(cfg.lr_multiplier)
    assert multiplier((warmup_steps + 1) / steps) == 1
    assert warmup_steps == 0 or multiplier((warmup_steps - 1) / steps) < 1
    average = cfg.train.model_ema
    assert (average.enabled, average.decay) == (True, 0.9999)
    assert average.warmup == (1000 if "dfine" in path else 2000)
    assert (None if average.restart.epoch is None else (average.restart.epoch, average.restart.decay)) == restart


@pytest.mark.parametrize(
    ("path", "mosaic", "final", "end_factor"),
    [
        ("deim_dfine_n_160ep", (4, 78), 12, 1.0),
        ("deim_dfine_s_132ep", (4, 64), 12, 0.5),
        ("deim_dfine_m_102ep", (4, 49), 12, 0.5),
        ("deim_dfine_x_58ep", (4, 29), 8, 0.5),
        ("deim_rtdetrv2_r34_120ep", (4, 64), 3, 0.5),
        ("deim_rtdetrv2_r101_60ep", (4, 34), 2, 0.5),
    ],
)
def test_epochs_of_mosaics_and_of_the_cosine_of_deim(path, mosaic, final, end_factor):
    cfg = LazyConfig.load(f"projects/deim/configs/{path}.py")
    assert instantiate(cfg.dataloader.train.mapper.augmentation).mosaic.epochs == mosaic
    mixup = instantiate(cfg.dataloader.train.mixup)
    assert isinstance(mixup, Mixup)
    assert mixup.epochs == mosaic
    epochs, multiplier = cfg.train.max_epochs, instantiate(cfg.lr_multiplier)
    assert multiplier(mosaic[1] / epochs) == 1
    assert multiplier(1 - final / epochs) == pytest.approx(end_factor)
    assert math.isclose(multiplier((mosaic[1] + epochs - final) / 2 / epochs), (1 + end_factor) / 2)
