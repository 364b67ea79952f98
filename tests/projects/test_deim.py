"""DEIM as a whole, on D-FINE and on RT-DETRv2."""

import pytest
import torch
from torch import nn

from detrex_lite.checkpoint import convert_state_dict, load_checkpoint
from detrex_lite.config import LazyConfig, get_config, instantiate
from detrex_lite.modeling import MatchabilityAwareLoss
from detrex_lite.testing import (
    NUM_CLASSES,
    NUM_QUERIES,
    DeformableContract,
    DenoisingContract,
    build,
    build_on_meta,
    changed,
    loss_names,
)
from tests.suites import first_always

from .published import PROJECTS

CONFIGS = PROJECTS / "deim" / "configs"
# The number of parameters of the authors' models, without two constants of D-FINE. All are trained.
PARAMETERS = {
    "deim_dfine_n": 3_782_691,
    "deim_dfine_s": 10_321_875,
    "deim_dfine_m": 19_590_062,
    "deim_dfine_l": 31_289_846,
    "deim_dfine_x": 62_715_478,
    "deim_rtdetrv2_r18": 20_183_440,
    "deim_rtdetrv2_r34": 31_440_644,
    "deim_rtdetrv2_r50_m": 33_198_864,
    "deim_rtdetrv2_r50": 42_943_596,
    "deim_rtdetrv2_r101": 76_660_716,
}


def small_config(small, changes, **overrides):
    """The model of `<small>_small.py` with DEIM's `changes`."""
    project = "dfine" if small == "dfine" else "rtdetr"
    cfg = get_config(f"projects/{project}/configs/models/{small}_small.py").model
    cfg.merge_with(get_config("common/deim.py")[changes])
    tiny = {
        "num_classes": NUM_CLASSES,
        "num_queries": NUM_QUERIES,
        "embed_dim": 32,
        "neck.hidden_dim": 32,
        "transformer.decoder.num_layers": 2,
        "denoising.num_pairs": 6,
    }
    return changed(cfg, {**tiny, **overrides})


class TestOnDFINE(DenoisingContract, DeformableContract):
    num_groups = 3

    def config(self, **changes):
        return small_config("dfine", "deim_dfine", **changes)

    def expected_losses(self, *, aux_loss=True):
        layers = {"", "_dn", *({"_0", "_dn_0"} if aux_loss else ())}
        return loss_names({*layers, "_enc", "_pre", "_dn_pre"}) | loss_names(layers, ("fgl", "ddf"))


@pytest.mark.slow
class TestOnRTDETRv2(DenoisingContract, DeformableContract):
    num_groups = 3
    other_suffixes = frozenset({"_enc", "_dn"})

    def config(self, **changes):
        return small_config("rtdetrv2", "deim_rtdetrv2", **changes)


@pytest.mark.parametrize("variant", first_always(PARAMETERS))
def test_models_have_the_parameters_of_the_authors(variant):
    model, _ = build_on_meta(CONFIGS / "models" / f"{variant}.py")
    trained = [parameter.numel() for parameter in model.parameters() if parameter.requires_grad]
    assert sum(map(torch.Tensor.numel, model.parameters())) == sum(trained) == PARAMETERS[variant]
    assert isinstance(model.criterion.losses["loss_class"], MatchabilityAwareLoss)
    assert (model.criterion.union is None) == ("rtdetr" in variant)


@pytest.mark.parametrize("variant", ["deim_dfine_s", "deim_rtdetrv2_r18"])
def test_activations_are_silu_except_in_backbone_and_encoder(variant):
    model, _ = build_on_meta(CONFIGS / "models" / f"{variant}.py")
    for part in (model.transformer, model.heads):
        assert not [module for module in part.modules() if isinstance(module, nn.ReLU)]
    assert [module for module in model.heads.modules() if isinstance(module, nn.SiLU)]
    assert isinstance(model.neck.encoders[0].layers[0].ffns[0].activations[0], nn.GELU)


@pytest.mark.parametrize("path", first_always(sorted(CONFIGS.glob("deim_*ep.py"))), ids=lambda path: path.stem)
def test_training_configs_build(path):
    """Mosaics end when the learning rate starts to decrease, strong augmentation when it has reached its minimum."""
    model, _ = build_on_meta(path)
    cfg = LazyConfig.load(str(path))
    cfg.optimizer.params.model = model
    groups = instantiate(cfg.optimizer).param_groups
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))
    epochs, (_, strong_end), (_, mosaic_end) = (
        cfg.train.max_epochs,
        cfg.dataloader.strong_epochs,
        cfg.dataloader.mosaic_epochs,
    )
    assert cfg.lr_multiplier.epochs == epochs
    assert epochs - cfg.lr_multiplier.final_epochs == strong_end == cfg.train.model_ema.restart.epoch
    multiplier = instantiate(cfg.lr_multiplier)
    assert multiplier(mosaic_end / epochs) == 1
    assert multiplier(1 - 1e-9) == (1.0 if "dfine_n" in path.stem else 0.5)
    assert f"_{epochs}ep" in path.stem
    assert cfg.train.output_dir == f"output/{path.stem}"


@pytest.mark.parametrize(
    ("small", "changes", "names"), [("dfine", "deim_dfine", "dfine"), ("rtdetrv2", "deim_rtdetrv2", "rtdetrv2")]
)
def test_weights_have_the_published_names_of_the_trained_detector(small, changes, names):
    cfg = small_config(small, changes)
    published = convert_state_dict(build(cfg).state_dict(), names)
    report = load_checkpoint(build(cfg, seed=1), {"ema": {"module": published}})
    report.require_complete("published")
    assert (report.key_map, report.unexpected) == (names, [])
