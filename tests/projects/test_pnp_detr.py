"""PnP-DETR as a whole, and the use of its sampler in other detectors. Models are small."""

import pytest
import torch
from torch.testing import assert_close

from detrex_lite.config import get_config
from detrex_lite.projects.detr.modeling import DETR
from detrex_lite.testing import (
    SMALL,
    DetectorContract,
    build,
    build_on_meta,
    build_randomised,
    changed,
    parameter_patterns,
    require_all_gradients,
    without_dropout,
)
from tests.suites import first_always

from .overfitting import SMALL_SINGLE_LEVEL, four_images, overfitted_ap50, trained
from .published import PROJECTS

CONFIGS = PROJECTS / "pnp_detr" / "configs"
SAMPLER = {
    "_target_": "detrex_lite.modeling.single_level.PollAndPoolSampler",
    "embed_dim": 64,
    "sample_ratio": 0.4,
    "num_pooled": 5,
}


def small_config(**changes):
    cfg = get_config("projects/pnp_detr/configs/models/pnp_detr_r50.py").model
    return changed(cfg, {**SMALL, "transformer.sampler.num_pooled": 5, **changes})


class TestPnPDETR(DetectorContract):
    def config(self, **changes):
        return small_config(**changes)

    def expected_losses(self, *, aux_loss=True):
        return super().expected_losses(aux_loss=aux_loss) | {"sample_reg_loss"}


@pytest.mark.parametrize("path", first_always(sorted(CONFIGS.glob("**/*.py"))), ids=lambda path: path.stem)
def test_every_config_builds(path):
    model, _ = build_on_meta(path)
    assert type(model) is DETR
    sampler = model.transformer.sampler
    assert (sampler.sample_ratio, sampler.num_pooled, sampler.loss_weight) == (0.5, 30, 1e-4)
    assert sampler.score_pred_net[0].weight.shape == (256, 256, 1, 1)


def test_only_the_sampler_is_added_to_detr():
    pnp, detr = build(small_config()), build(small_config(**{"transformer.sampler": None}))
    added = parameter_patterns(pnp) - parameter_patterns(detr)
    assert added == {f"transformer.sampler.{part}.*" for part in ("score_pred_net.N", "k_proj", "v_proj")}


def test_the_memory_has_the_sampled_and_the_pooled_tokens(batch):
    model = build(small_config()).eval()
    images = model.preprocess(batch[:1], as_published=False)
    with torch.no_grad():
        feature, positions = model.map_and_positions(images)
        memory = model.transformer.encode(feature, positions)
    height, width = feature.tensor.shape[-2:]
    assert memory.tokens.shape == memory.pos.shape == (1, height * width // 2 + 5, 64)


@pytest.mark.parametrize("name", first_always(["dn_detr", "conditional_detr", "dab_detr"]))
def test_other_detectors_support_the_sampler(name, batch):
    cfg = get_config(f"projects/{name}/configs/models/{name}_r50.py").model
    model = build_randomised(without_dropout(changed(cfg, {**SMALL, "transformer.sampler": SAMPLER})))
    losses = model.train()(batch)
    assert "sample_reg_loss" in losses
    require_all_gradients(model, losses)
    model.double().eval()
    with torch.no_grad():
        (alone,), together = model(batch[:1]), model(batch)
    assert_close(together[0]["instances"].scores, alone["instances"].scores)


def test_a_sampler_with_another_embed_dim_raises_an_error():
    with pytest.raises(ValueError, match="embed_dim.*sampler"):
        build(small_config(**{"transformer.sampler.embed_dim": 32}))


def overfitting_config():
    sizes = {**SMALL_SINGLE_LEVEL, "transformer.sampler.num_pooled": 10}
    return without_dropout(changed(small_config(), sizes))


def test_the_loss_falls(tmp_path):
    _, inputs = four_images(tmp_path)
    _, losses = trained(overfitting_config(), inputs, 10)
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.slow
def test_four_images_are_overfitted(tmp_path):
    assert overfitted_ap50(overfitting_config(), tmp_path, 600) > 0.9
