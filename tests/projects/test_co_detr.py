"""Co-DINO and Co-Deformable-DETR, which are configs, and collaborative heads in other detectors. Models are small."""

import copy

import pytest
import torch
from torch._subclasses.fake_tensor import DynamicOutputShapeException
from torch.testing import assert_close

from detrex_lite.checkpoint import load_checkpoint
from detrex_lite.config import get_config
from detrex_lite.layers import convert_to_deploy
from detrex_lite.modeling import SoftNMS, Targets
from detrex_lite.projects.dab_deformable_detr.modeling import DabDeformableDETR
from detrex_lite.projects.deformable_detr.modeling import DeformableDETR
from detrex_lite.projects.dino.modeling import DINO
from detrex_lite.testing import (
    SMALL,
    DeformableContract,
    DenoisingContract,
    build,
    build_on_meta,
    build_randomised,
    changed,
    losses_on_a_fake_gpu,
    predict,
    require_all_gradients,
    without_dropout,
)
from tests.suites import first_always

from .overfitting import four_images, overfitted_ap50, small_deformable, trained
from .published import PROJECTS

CONFIGS = PROJECTS / "co_detr" / "configs"
SMALL_HEADS = {"collaboration.heads.rcnn.hidden_dim": 32, "collaboration.heads.rcnn.roi_samples": 40}
HEAD_LOSSES = {
    *(f"loss_rcnn_head_{kind}" for kind in ("rpn_class", "rpn_bbox", "class", "giou")),
    *(f"loss_atss_head_{kind}" for kind in ("class", "giou", "centerness")),
}


def small_config(name="co_dino_r50", **changes):
    cfg = get_config(f"projects/co_detr/configs/models/{name}.py").model
    head_sizes = {} if changes.get("collaboration", SMALL_HEADS) is None else SMALL_HEADS
    pairs = {"denoising.num_pairs": 6} if "dino" in name else {}
    return changed(cfg, {**SMALL, **head_sizes, **pairs, **changes})


class CollaborativeContract(DeformableContract):
    aux_suffixes = frozenset({"_0", "_0_rcnn", "_0_atss"})
    other_suffixes = frozenset({"_enc", "_rcnn", "_atss"})

    def expected_losses(self, *, aux_loss=True):
        return super().expected_losses(aux_loss=aux_loss) | HEAD_LOSSES

    @pytest.mark.slow
    def test_the_forward_pass_of_training_never_waits_for_a_gpu(self, batch):
        """Collaborative heads synchronise, as matching does: later computations depend on the number of positives."""
        losses = losses_on_a_fake_gpu(build(self.config(collaboration=None)).train(), batch)
        assert set(losses) == {name for name in self.expected_losses() if not ("rcnn" in name or "atss" in name)}
        with pytest.raises(DynamicOutputShapeException):
            losses_on_a_fake_gpu(build(self.config()).train(), batch)


class TestCoDINO(CollaborativeContract, DenoisingContract):
    num_groups = 3  # six pairs, and at most two objects in an image
    aux_suffixes = CollaborativeContract.aux_suffixes | {"_dn_0"}
    other_suffixes = CollaborativeContract.other_suffixes | {"_dn"}

    def config(self, **changes):
        return small_config(**changes)

    @pytest.mark.slow
    def test_denoising_leaves_the_other_queries_alone(self, batch):
        """The inherited test removes objects, and so the positive queries. It runs without collaborative heads."""
        alone = TestCoDINO()
        alone.config = lambda: small_config(collaboration=None)
        DenoisingContract.test_denoising_leaves_the_other_queries_alone(alone, batch)


@pytest.mark.slow
class TestCoDeformableDETR(CollaborativeContract):
    def config(self, **changes):
        return small_config("co_deformable_detr_r50", **changes)


@pytest.mark.parametrize("path", first_always(sorted(CONFIGS.glob("**/*.py"))), ids=lambda path: path.stem)
def test_every_config_builds(path):
    model, cfg = build_on_meta(path)
    has_five_levels = "5scale" in path.stem
    is_small = "small" in path.stem
    levels = 3 if is_small else 5 if has_five_levels else 4
    assert cfg.transformer.num_feature_levels == levels == len(model.collaboration.heads["atss"].box_scales) - 1
    assert model.collaboration.finest_stride == (4 if has_five_levels else 8)
    assert model.collaboration.weight == (6 if is_small else 12)
    assert isinstance(model, DeformableDETR if "deformable" in path.stem else DINO)


@pytest.fixture(scope="module")
def pair():
    """A detector with collaborative heads, and the same detector without them, in float64."""
    model = build_randomised(without_dropout(small_config())).double()
    alone = build(without_dropout(small_config(collaboration=None))).double()
    alone.load_state_dict(
        {name: value for name, value in model.state_dict().items() if not name.startswith("collaboration.")}
    )
    return model, alone


def test_evaluation_does_not_use_the_heads(pair, batch):
    model, alone = (copy.deepcopy(detector).eval() for detector in pair)
    with torch.no_grad():
        before = alone(batch)
        for parameter in model.collaboration.parameters():
            parameter.fill_(torch.nan)
        assert not [name for name in predict(model, batch) if "rcnn" in name or "atss" in name]
        deployed = convert_to_deploy(copy.deepcopy(model))
        assert deployed.collaboration is None
        for detector in (model, deployed):
            for actual, expected in zip(detector(batch), before, strict=True):
                assert_close(actual["instances"].scores, expected["instances"].scores, rtol=0, atol=0)
                boxes = actual["instances"].pred_boxes.tensor
                assert_close(boxes, expected["instances"].pred_boxes.tensor, rtol=0, atol=0)


def test_a_checkpoint_without_the_heads_lacks_training_only_weights(pair):
    model, alone = copy.deepcopy(pair[0]), pair[1]
    report = load_checkpoint(model, alone.state_dict())
    assert report.missing
    assert all(name.startswith("collaboration.") for name in report.missing)
    assert all(name.startswith(model.training_only) for name in report.missing)


def test_positive_queries_do_not_change_other_predictions(pair, batch):
    named = []
    for model in pair:
        torch.manual_seed(0)  # the same noise
        named.append(predict(model.train(), batch, targets=True))
    assert set(named[0]) - set(named[1]) == {"_rcnn", "_0_rcnn", "_atss", "_0_atss"}
    for suffix, expected in named[1].items():
        assert_close(named[0][suffix].logits, expected.logits)
        assert_close(named[0][suffix].boxes, expected.boxes)


def test_heads_have_gradients_in_the_encoder_and_positive_queries_in_the_decoder(batch):
    model = build_randomised(small_config(**{"collaboration.queries": None})).train()
    outputs, targets = outputs_and_targets(model, batch)
    losses = model.losses(outputs, targets)
    assert set(losses) == HEAD_LOSSES
    sum(losses.values()).backward()
    assert any(parameter.grad is not None for parameter in model.transformer.encoder.parameters())
    assert all(parameter.grad is None for parameter in model.transformer.decoder.parameters())
    model = build_randomised(small_config()).train()
    predict(model, batch, targets=True)["_atss"].logits.square().sum().backward()
    for part in (model.transformer.decoder.layers, model.collaboration.queries["atss"]):
        assert all(parameter.grad is not None for parameter in part.parameters())
    assert not any(parameter.grad.any() for parameter in model.collaboration.queries["rcnn"].parameters())


def outputs_and_targets(model, batch):
    images = model.preprocess(batch, as_published=True)
    targets = Targets.from_inputs(batch, num_classes=model.num_classes, like=images.tensor)
    return model.predict(images, targets), targets


def test_samples_and_positives_are_drawn_with_the_generator_of_torch(pair, batch):
    """Checkpoints contain the state of this generator, so a resumed training draws the same samples."""
    model, losses = copy.deepcopy(pair[0]).train(), []
    with torch.no_grad():
        for _ in range(2):
            torch.manual_seed(0)
            losses.append(model(batch))
    assert_close(*losses, rtol=0, atol=0)


def test_losses_of_positive_queries_are_divided_by_their_number(batch):
    """Positive queries have the objects that the head assigned to them as targets, and are not matched."""
    model = (
        build_randomised(small_config("co_deformable_detr_r50", **{"collaboration.query_weight": 0.5})).double().train()
    )
    outputs, targets = outputs_and_targets(model, batch)
    losses = model.criterion(outputs, targets)
    for name in ("_rcnn", "_0_rcnn", "_atss", "_0_atss"):
        predicted = outputs[name]
        match, objects = predicted.match, predicted.targets
        assert len(objects) == len(match.query) > len(targets)  # one-to-many
        distances = (predicted.boxes[match.image, match.query] - objects.boxes).abs()
        assert_close(losses[f"loss_bbox{name}"], 0.5 * 5 * distances.sum() / len(objects))
        one_hot = torch.zeros_like(predicted.logits)
        one_hot[match.image, match.query, objects.labels] = 1
        probability = predicted.logits.sigmoid()
        class_losses = torch.where(
            one_hot == 1,
            -0.25 * (1 - probability) ** 2 * probability.log(),
            -0.75 * probability**2 * (1 - probability).log(),
        )
        assert_close(losses[f"loss_class{name}"], 0.5 * 2 * class_losses.sum() / len(objects))


def test_a_head_can_be_omitted(batch):
    cfg = small_config()
    del cfg.collaboration.heads.rcnn, cfg.collaboration.queries.rcnn
    losses = build(cfg).train()(batch)
    assert {name for name in losses if "rcnn" in name} == set()
    assert {"loss_atss_head_class", "loss_class_atss"} <= set(losses)


def test_soft_nms_lowers_scores_of_overlapping_detections(batch):
    model = build(small_config()).eval()
    assert isinstance(model.postprocessor.suppression, SoftNMS)
    model.heads.bbox_embed[1].layers[-1].bias.data[2:] = 5.0  # large boxes, which overlap
    with torch.no_grad():
        lowered = model(batch)[0]["instances"].scores
        model.postprocessor.suppression = None
        assert lowered.sum() < model(batch)[0]["instances"].scores[: len(lowered)].sum()


def with_heads(path, **changes):
    cfg = get_config(f"projects/{path}.py").model
    cfg.collaboration = get_config("common/collaboration.py").collaboration
    return changed(cfg, {**SMALL, **SMALL_HEADS, **changes})


POSITIONS = {f"collaboration.queries.{name}.with_positions": True for name in ("rcnn", "atss")}
DETECTORS = {
    "dino": (DINO, "dino/configs/models/dino_r50", {"denoising.num_pairs": 6}),
    "deformable_detr": (DeformableDETR, "deformable_detr/configs/models/deformable_detr_r50", POSITIONS),
    "dab_deformable_detr": (
        DabDeformableDETR,
        "dab_deformable_detr/configs/models/dab_deformable_detr_r50",
        {"queries.layout.num_groups": 2},
    ),
    "h_deformable_detr": (
        DeformableDETR,
        "h_deformable_detr/configs/models/h_deformable_detr_r50",
        {**POSITIONS, "num_queries_one2many": 14},
    ),
    "stable_dino": (DINO, "stable_dino/configs/models/stable_dino_r50", {"denoising.num_pairs": 6}),
    "align_detr": (DINO, "align_detr/configs/models/align_detr_r50", {"denoising.num_pairs": 6}),
    "maskdino": (
        DINO,
        "maskdino/configs/models/maskdino_r50",
        {"collaboration.finest_stride": 8, "denoising.num_positives": 6},
    ),
}


@pytest.mark.parametrize("name", first_always(DETECTORS, 2))
def test_other_detectors_support_the_heads(name, batch):
    kind, path, changes = DETECTORS[name]
    model = build(with_heads(path, **changes)).train()
    assert type(model) is kind
    losses = model(batch)
    assert HEAD_LOSSES | {"loss_class_0_rcnn", "loss_class_atss"} <= set(losses)
    require_all_gradients(model, losses)
    with torch.no_grad():
        assert len(model.eval()(batch)) == len(batch)


def test_detectors_with_another_forward_pass_reject_the_heads():
    with pytest.raises(ValueError, match="FocusDETR .* collaborative heads"):
        build(
            with_heads("focus_detr/configs/models/focus_detr_r50", **{"transformer.encoder.layer_shares": [1.0, 1.0]})
        )


@pytest.mark.parametrize(("name", "with_positions"), [("co_dino_r50", True), ("co_deformable_detr_r50", False)])
def test_positions_must_be_given_exactly_if_the_decoder_needs_them(name, with_positions):
    changes = {f"collaboration.queries.{head}.with_positions": with_positions for head in ("rcnn", "atss")}
    with pytest.raises(ValueError, match="query positions"):
        build(small_config(name, **changes))


def overfitting_config():
    cfg = get_config("projects/co_detr/configs/models/co_dino_small.py").model
    return small_deformable(cfg, **{"denoising.num_pairs": 10})


def test_the_loss_falls(tmp_path):
    _, inputs = four_images(tmp_path)
    _, losses = trained(overfitting_config(), inputs, 10)
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.slow
def test_four_images_are_overfitted(tmp_path):
    assert overfitted_ap50(overfitting_config(), tmp_path, 600) > 0.9
