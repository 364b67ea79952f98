"""DETA, a config of Deformable DETR, and the use of its parts in other detectors. Models are small."""

import pytest
import torch
from torch.testing import assert_close

from detrex_lite.config import LazyCall as L
from detrex_lite.config import get_config
from detrex_lite.modeling import NMS, IoUAssigner, Targets
from detrex_lite.modeling.deformable import LevelwiseNMS
from detrex_lite.testing import (
    SMALL,
    DeformableContract,
    TwoStageContract,
    build,
    build_on_meta,
    build_randomised,
    changed,
    parameter_patterns,
    predict,
    require_all_gradients,
)
from tests.suites import first_always

from .overfitting import four_images, overfitted_ap50, small_deformable, trained
from .published import PROJECTS

CONFIGS = PROJECTS / "deta" / "configs"


def small_config(name="deta_r50", **changes):
    cfg = get_config(f"projects/deta/configs/models/{name}.py").model
    # The contract expects the tokens of four levels.
    levels = {"transformer.num_feature_levels": 4, "queries.selection.num_per_level": 100}
    return changed(cfg, {**SMALL, **levels, **changes})


class TestDETA(DeformableContract):
    other_suffixes = frozenset({"_enc"})

    def config(self, **changes):
        return small_config(**changes)


class TestTwoStages(TwoStageContract):
    def config(self, **changes):
        return small_config(**changes)


@pytest.mark.parametrize("path", first_always(sorted(CONFIGS.glob("**/*.py"))), ids=lambda path: path.stem)
def test_every_config_builds(path):
    model, cfg = build_on_meta(path)
    assert model.queries.token_contents
    assert (model.queries.selection is None) == ("baseline" in path.stem)
    if "small" not in path.stem:
        assert (cfg.num_queries, cfg.transformer.num_feature_levels) == (900, 5)


@pytest.fixture
def matched(batch):
    """A model, its predictions for a batch, the objects and their matches."""
    model = build_randomised(small_config(**{"criterion.matchers._enc.iou_threshold": 0.3})).double().train()
    images = model.preprocess(batch, as_published=True)
    targets = Targets.from_inputs(batch, num_classes=model.num_classes, like=images.tensor)
    outputs = model.predict(images, targets)
    return model, outputs, targets, model.criterion.match(outputs, targets)


def test_anchors_and_first_boxes_are_assigned_to_objects(matched):
    _, outputs, targets, matches = matched
    assert matches[""] is matches["_0"]
    assert_close(outputs["_0"].reference, outputs[""].reference, rtol=0, atol=0)
    anchors = outputs["_enc"].reference
    assert anchors.shape == outputs["_enc"].boxes.shape
    sides = anchors[0, :, 2:].unique(dim=0)
    expected = [0.05, 0.1, 0.2, 0.4, 1.0]  # the last is the side of tokens that are not proposed
    assert_close(sides, torch.tensor(expected, dtype=sides.dtype)[:, None].expand(5, 2), rtol=1e-6, atol=0)
    assert set(matches["_enc"].target.tolist()) == set(range(len(targets)))


def test_losses_are_divided_by_the_number_of_objects(matched):
    """They are not divided by the number of assigned queries."""
    model, outputs, targets, matches = matched
    match = matches["_enc"]
    assert len(match.query) > len(targets)
    distances = outputs["_enc"].boxes[match.image, match.query] - targets.boxes[match.target]
    losses = model.criterion(outputs, targets)
    assert_close(losses["loss_bbox_enc"], 5 * distances.abs().sum() / len(targets))


def test_contents_are_projected_tokens_without_gradients(batch):
    model = build_randomised(small_config()).train()
    predict(model, batch)["_0"].logits.square().sum().backward()
    assert model.queries.pix_trans.weight.grad.any()
    assert model.queries.proposals.enc_output.weight.grad is None


def test_evaluation_suppresses_duplicate_detections(batch):
    model = build_randomised(small_config(**{"postprocessor.suppression.iou_threshold": 0.5})).eval()
    model.heads.bbox_embed[1].layers[-1].bias.data[2:] = 5.0  # large boxes, which overlap
    with torch.no_grad():
        fewer = model(batch)
        model.postprocessor.suppression = NMS(1.0, 100)
        for suppressed, unsuppressed in zip(fewer, model(batch), strict=True):
            assert 0 < len(suppressed["instances"]) < len(unsuppressed["instances"])


def test_the_baseline_is_matched_one_to_one():
    cfg = get_config("projects/deta/configs/models/deta_r50_improved_baseline.py").model
    assert type(build(changed(cfg, dict(SMALL))).criterion.matcher).__name__ == "HungarianMatcher"


def test_parameter_names_are_stable():
    additional = {"queries.pix_trans.*", "queries.pix_trans_norm.*"}
    two_stages = get_config("projects/deformable_detr/configs/models/deformable_detr_r50.py").model
    two_stages = changed(two_stages, {**SMALL, "with_box_refine": True, "as_two_stage": True})
    assert parameter_patterns(build(small_config())) == parameter_patterns(build(two_stages)) | additional


def with_assigner(name, **changes):
    cfg = get_config(f"projects/{name}.py").model
    assign = L(IoUAssigner)(iou_threshold=0.6, num_samples=100, positive_fraction=0.25)
    return changed(cfg, {**SMALL, "criterion.matcher": assign, **changes})


SELECTION = {"queries.selection": L(LevelwiseNMS)(iou_threshold=0.9, num_per_level=30)}
SUPPRESSION = {"postprocessor.suppression": L(NMS)(iou_threshold=0.5)}
DETECTORS = {
    "dino": ("dino/configs/models/dino_r50", {**SELECTION, **SUPPRESSION, "denoising.num_pairs": 6}),
    "groups": ("dab_deformable_detr/configs/models/dab_deformable_detr_r50", {"queries.layout.num_groups": 2}),
    "one level": ("dab_detr/configs/models/dab_detr_r50", SUPPRESSION),
    "no boxes": ("detr/configs/models/detr_r50", {**SUPPRESSION, "criterion.matcher.of_predictions": True}),
}


@pytest.mark.parametrize("name", first_always(DETECTORS))
def test_other_detectors_support_the_parts_of_deta(name, batch):
    config, changes = DETECTORS[name]
    model = build(with_assigner(config, **changes)).train()
    require_all_gradients(model, model(batch))
    model.eval()
    with torch.no_grad():
        assert len(model(batch)) == len(batch)


def overfitting_config():
    sizes = {"num_queries": 30, "queries.selection.num_per_level": 50, "postprocessor.num_detections": 90}
    return small_deformable(get_config("projects/deta/configs/models/deta_r50.py").model, **sizes)


def test_the_loss_falls(tmp_path):
    _, inputs = four_images(tmp_path)
    _, losses = trained(overfitting_config(), inputs, 10)
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.slow
def test_four_images_are_overfitted(tmp_path):
    assert overfitted_ap50(overfitting_config(), tmp_path, 600) > 0.9
