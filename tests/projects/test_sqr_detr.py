"""Selective query recollection in DAB-DETR and in other detectors. Models are small."""

import pytest
import torch
from torch.testing import assert_close

from detrex_lite.config import get_config
from detrex_lite.testing import (
    SMALL,
    DeformableContract,
    DenoisingContract,
    DetectorContract,
    build,
    build_on_meta,
    build_randomised,
    changed,
    parameter_patterns,
    predict,
    require_all_gradients,
    without_dropout,
)
from tests.suites import first_always

from .overfitting import SMALL_SINGLE_LEVEL, four_images, overfitted_ap50, small_deformable, trained
from .published import PROJECTS

CONFIGS = PROJECTS / "sqr_detr" / "configs"
RECOLLECTION = "transformer.decoder.recollection"


def config_of(name="sqr_dab_detr_r50"):
    return get_config(f"projects/sqr_detr/configs/models/{name}.py").model


def dino_config(**changes):
    return changed(config_of("sqr_dino_r50"), {**SMALL, "denoising.num_pairs": 6, **changes})


class TestSQRDABDETR(DetectorContract):
    aux_suffixes = frozenset({"_0", "_1"})  # the set of the first layer; the second layer has two sets

    def config(self, **changes):
        return changed(config_of(), {**SMALL, **changes})


@pytest.mark.slow
class TestSQRDINO(DenoisingContract, DeformableContract):
    num_groups = 3  # six pairs, and at most two objects in an image
    aux_suffixes = frozenset({"_0", "_1", "_dn_0", "_dn_1"})
    other_suffixes = frozenset({"_dn", "_enc"})

    def config(self, **changes):
        return dino_config(**changes)


@pytest.mark.parametrize("path", first_always(sorted(CONFIGS.glob("**/*.py"))), ids=lambda path: path.stem)
def test_every_config_builds(path):
    model, _ = build_on_meta(path)
    assert model.transformer.decoder.recollection == [[0], [0, 1], [1, 2], [2, 3], [3, 4], [4, 5]]


def test_six_layers_have_32_supervised_sets(batch):
    """All sets have the losses of DAB-DETR."""
    model = build(changed(config_of(), {**SMALL, "transformer.decoder.num_layers": 6})).train()
    suffixes = {"", *(f"_{number}" for number in range(31))}
    assert set(model(batch)) == {f"loss_{kind}{suffix}" for kind in ("class", "bbox", "giou") for suffix in suffixes}


def test_evaluation_and_parameter_names_are_those_of_dab_detr(batch):
    model = build_randomised(without_dropout(changed(config_of(), SMALL))).double()
    plain = build(without_dropout(changed(config_of(), {**SMALL, RECOLLECTION: None}))).double()
    assert parameter_patterns(model) == parameter_patterns(plain)
    plain.load_state_dict(model.state_dict())
    with torch.no_grad():
        for actual, expected in zip(model.eval()(batch), plain.eval()(batch), strict=True):
            assert_close(actual["instances"].scores, expected["instances"].scores, rtol=0, atol=0)
    sets, plain_sets = (predict(detector.train(), batch, targets=True) for detector in (model, plain))
    assert_close(sets[""].boxes, plain_sets[""].boxes)
    assert_close(sets["_0"].boxes, plain_sets["_0"].boxes)
    assert set(sets) - set(plain_sets) == {"_1"}  # the output of the second layer for the initial queries


def test_memory_padding_belongs_to_the_right_image_in_every_set(batch):
    """The predictions for an image, and so its losses, do not depend on the batch: sets do not mix up images."""
    model = build_randomised(without_dropout(changed(config_of(), SMALL))).double().eval()
    together = predict(model, batch, targets=True, as_published=False)
    for index, record in enumerate(batch):
        alone = predict(model, [record], targets=True, as_published=False)
        for name, expected in alone.items():
            assert_close(together[name].boxes[index], expected.boxes[0])


DETECTORS = {
    "dino": {"denoising.num_pairs": 6},
    "relation_detr": {"denoising.num_pairs": 6, "num_queries_one2many": 12},
    "group_detr": {"queries.layout.num_groups": 2},
    "detr": {},
    "conditional_detr": {},
    "dn_detr": {},
    "deformable_detr": {},
}


@pytest.mark.parametrize("name", first_always(DETECTORS, 3))
def test_other_detectors_support_recollection(name, batch):
    cfg = get_config(f"projects/{name}/configs/models/{name}_r50.py").model
    model = build(changed(cfg, {**SMALL, **DETECTORS[name], RECOLLECTION: [[0], [0, 1]]})).train()
    losses = model(batch)
    assert {"loss_class", "loss_class_0", "loss_class_1"} <= set(losses)
    require_all_gradients(model, losses)


SMALL_CONFIGS = {
    "sqr_dab_detr_r50": lambda: without_dropout(changed(config_of(), SMALL_SINGLE_LEVEL)),
    "sqr_dino_r50": lambda: small_deformable(config_of("sqr_dino_r50"), **{"denoising.num_pairs": 5}),
}


def test_the_loss_falls(tmp_path):
    _, inputs = four_images(tmp_path)
    _, losses = trained(SMALL_CONFIGS["sqr_dab_detr_r50"](), inputs, 10)
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL_CONFIGS)
def test_four_images_are_overfitted(name, tmp_path):
    assert overfitted_ap50(SMALL_CONFIGS[name](), tmp_path, 600) > 0.9
