"""DDQ-DETR as a whole, and its parts in other detectors. Models are small."""

import pytest
import torch
from torch.testing import assert_close

from detrex_lite.config import LazyCall as L
from detrex_lite.config import get_config
from detrex_lite.layers import convert_to_deploy
from detrex_lite.modeling import AlignmentFocalLoss, AlignmentGIoULoss, Targets
from detrex_lite.modeling.deformable import DistinctProposals, DistinctQueryDecoder
from detrex_lite.projects.dino.modeling import DINO
from detrex_lite.testing import (
    NUM_QUERIES,
    SMALL,
    DeformableContract,
    DenoisingContract,
    TwoStageContract,
    build,
    build_on_meta,
    build_randomised,
    changed,
    predict,
    require_all_gradients,
    without_dropout,
)
from tests.suites import first_always

from .overfitting import four_images, overfitted_ap50, small_deformable, trained
from .published import PROJECTS

CONFIGS = PROJECTS / "ddq_detr" / "configs"
NO_BRANCH = {"branch": None, "criterion.matchers": None, "criterion.own_losses": None}


def small_config(name="ddq_detr_r50", **changes):
    cfg = get_config(f"projects/ddq_detr/configs/models/{name}.py").model
    return changed(cfg, {**SMALL, "denoising.num_pairs": 6, **changes})


class TestDDQDETR(DenoisingContract, DeformableContract):
    num_groups = 3  # six pairs, and at most two objects in an image
    aux_suffixes = frozenset({"_0", "_dn_0", "_0_dense"})
    other_suffixes = frozenset({"_dn", "_enc", "_dense", "_enc_dense"})

    def config(self, **changes):
        return small_config(**changes)

    def expected_losses(self, *, aux_loss=True):
        names = super().expected_losses(aux_loss=aux_loss)
        return {name for name in names if not (name.startswith("loss_bbox") and name.endswith("_dense"))}


class TestTwoStages(TwoStageContract):
    def config(self, **changes):
        return small_config(**NO_BRANCH, **changes)

    def test_two_stages_need_refinement(self):
        with pytest.raises(ValueError, match="with_box_refine=True"):  # look_forward_twice needs it, too
            build(self.config(with_box_refine=False))


@pytest.mark.parametrize("path", first_always(sorted(CONFIGS.glob("**/*.py"))), ids=lambda path: path.stem)
def test_every_config_builds(path):
    model, cfg = build_on_meta(path)
    assert model.queries.content is None
    if "no_dense" not in path.stem:
        assert model.branch.num_queries == cfg.num_queries * 3 // 2
        assert model.branch.heads.norm is model.heads.norm
        assert model.branch.heads.class_embed[0] is not model.heads.class_embed[0]


def test_the_dense_branch_matches_every_object_four_times(batch):
    model = build_randomised(small_config(num_queries=20)).train()
    images = model.preprocess(batch, as_published=True)
    targets = Targets.from_inputs(batch, num_classes=model.num_classes, like=images.tensor)
    outputs = model.predict(images, targets)
    matches = model.criterion.match(outputs, targets)
    assert outputs["_dense"].logits.shape[1] == outputs["_enc_dense"].logits.shape[1] == 30
    for name in ("_dense", "_0_dense", "_enc_dense"):
        assert matches[name].target.bincount().tolist() == [4, 4, 4]
    assert matches["_enc"].target.bincount().tolist() == [1, 1, 1]


def test_the_branch_does_not_change_the_distinct_queries_and_is_for_training_only(batch):
    model = build_randomised(without_dropout(small_config())).double().train()
    single = build(without_dropout(small_config(**NO_BRANCH))).double().train()
    shared = {name: value for name, value in model.state_dict().items() if not name.startswith("branch.")}
    single.load_state_dict(shared)
    named = []
    for detector in (model, single):
        torch.manual_seed(0)  # the same noise
        named.append(predict(detector, batch, targets=True))
    assert set(named[0]) - set(named[1]) == {"_dense", "_0_dense", "_enc_dense"}
    for suffix, expected in named[1].items():
        assert_close(named[0][suffix].logits, expected.logits)
        assert_close(named[0][suffix].boxes, expected.boxes)
    with torch.no_grad():
        for actual, plain in zip(model.eval()(batch), single.eval()(batch), strict=True):
            assert_close(actual["instances"].scores, plain["instances"].scores)


def test_projected_contents_have_no_gradients_in_the_encoder(batch):
    model = build_randomised(small_config()).train()
    predict(model, batch)["_0"].logits.square().sum().backward()
    assert model.queries.content_projection.weight.grad.any()
    assert model.queries.proposals.enc_output.weight.grad is None


def test_a_deployed_model_detects_the_same(batch):
    model = build_randomised(small_config(**{"transformer.decoder.iou_threshold": 0.5})).eval()
    model.heads.bbox_embed[0].layers[-1].bias.data[2:] = 5.0  # large boxes, which overlap
    with torch.no_grad():
        before = model(batch)
        assert any(len(image["instances"]) < NUM_QUERIES * 5 for image in before)
        model = convert_to_deploy(model)
        assert model.branch is None
        for expected, actual in zip(before, model(batch), strict=True):
            assert_close(expected["instances"].scores, actual["instances"].scores)


def test_a_dense_branch_needs_projected_contents():
    with pytest.raises(ValueError, match="project_contents=True"):
        build(small_config(**{"queries.project_contents": False}))


def test_dino_supports_distinct_queries(batch):
    cfg = get_config("projects/dino/configs/models/dino_r50.py").model
    changes = {
        "denoising.num_pairs": 6,
        "transformer.decoder._target_": DistinctQueryDecoder,
        "queries.selection": L(DistinctProposals)(iou_threshold=0.8),
    }
    model = build(changed(cfg, {**SMALL, **changes})).train()
    assert type(model) is DINO
    require_all_gradients(model, model(batch))
    model.eval()
    with torch.no_grad():
        before = model(batch)
        for expected, actual in zip(before, convert_to_deploy(model)(batch), strict=True):
            assert_close(expected["instances"].scores, actual["instances"].scores)


def test_the_one_to_many_branch_of_another_detector_supports_the_losses(batch):
    cfg = get_config("projects/h_deformable_detr/configs/models/h_deformable_detr_r50.py").model
    branch_losses = L(dict)(loss_class=L(AlignmentFocalLoss)(), loss_giou=L(AlignmentGIoULoss)())
    cfg = changed(cfg, {**SMALL, "num_queries_one2many": 21, "criterion.own_losses": L(dict)(_one2many=branch_losses)})
    model = build(cfg).train()
    losses = model(batch)
    assert "loss_bbox" in losses
    assert {name for name in losses if "one2many" in name} == {
        f"loss_{kind}{suffix}_one2many" for kind in ("class", "giou") for suffix in ("", "_0")
    }
    require_all_gradients(model, losses)


def overfitting_config():
    cfg = get_config("projects/ddq_detr/configs/models/ddq_detr_r50.py").model
    return small_deformable(cfg, **{"denoising.num_pairs": 10})


def test_the_loss_falls(tmp_path):
    _, inputs = four_images(tmp_path)
    _, losses = trained(overfitting_config(), inputs, 10)
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.slow
def test_four_images_are_overfitted(tmp_path):
    assert overfitted_ap50(overfitting_config(), tmp_path, 600) > 0.9
