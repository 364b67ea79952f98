"""Detectors agree with other implementations in float64: detections, losses, gradients. See README.md."""

import pytest
import torch

from detrex_lite.checkpoint import load_checkpoint
from detrex_lite.config import get_config
from detrex_lite.testing import build, changed, without_dropout

from .comparison import beyond_limits, differences
from .reference import DATA, Reference

NO_NOISE = {"denoising.label_noise_prob": 0.0, "denoising.box_noise_scale": 0.0}
CONTRASTIVE = {**NO_NOISE, "denoising.num_pairs": 10}
TWO_STAGE = {"with_box_refine": True, "as_two_stage": True}
ONE_TO_MANY = {"num_queries_one2many": 30}
# Settings of detrex where this project's config follows the paper's repository.
ATTEND_TO_PADDING = {"transformer.mask_memory_padding": False}
LEARN_PADDING = {"denoising.padding_in_loss": True}

# case -> (model config of a project, settings of the case besides small sizes)
DETREX = {
    "detr": ("detr/configs/models/detr_r50", {}),
    "conditional_detr": ("conditional_detr/configs/models/conditional_detr_r50", {}),
    "dab_detr": ("dab_detr/configs/models/dab_detr_r50", ATTEND_TO_PADDING),
    "dn_detr": ("dn_detr/configs/models/dn_detr_r50", {**NO_NOISE, **ATTEND_TO_PADDING, **LEARN_PADDING}),
    "group_detr": ("group_detr/configs/models/group_detr_r50", {"queries.layout.num_groups": 3}),
    "deformable_detr": ("deformable_detr/configs/models/deformable_detr_r50", {}),
    "deformable_detr_refine": ("deformable_detr/configs/models/deformable_detr_r50", {"with_box_refine": True}),
    "deformable_detr_two_stage": ("deformable_detr/configs/models/deformable_detr_r50", TWO_STAGE),
    "dab_deformable_detr": ("dab_deformable_detr/configs/models/dab_deformable_detr_r50", {}),
    "dn_deformable_detr": ("dn_deformable_detr/configs/models/dn_deformable_detr_r50", {**NO_NOISE, **LEARN_PADDING}),
    "h_deformable_detr": ("h_deformable_detr/configs/models/h_deformable_detr_r50", ONE_TO_MANY),
    "dino_4scale": ("dino/configs/models/dino_r50", CONTRASTIVE),
    "dino_5scale": ("dino/configs/models/dino_r50_5scale", CONTRASTIVE),
}
PAPERS = {
    "detr": ("detr/configs/models/detr_r50_paper", {}),
    "conditional_detr": ("conditional_detr/configs/models/conditional_detr_r50_paper", {}),
    "dab_detr": ("dab_detr/configs/models/dab_detr_r50_paper", {}),
    "dab_detr_3patterns": ("dab_detr/configs/models/dab_detr_r50_paper", {"num_patterns": 3}),
    "dn_detr": ("dn_detr/configs/models/dn_detr_r50_paper", NO_NOISE),
    "dn_detr_3patterns": ("dn_detr/configs/models/dn_detr_r50_paper", {**NO_NOISE, "num_patterns": 3}),
    "deformable_detr": ("deformable_detr/configs/models/deformable_detr_r50_paper", {}),
    "deformable_detr_refine": ("deformable_detr/configs/models/deformable_detr_r50_paper", {"with_box_refine": True}),
    "deformable_detr_two_stage": ("deformable_detr/configs/models/deformable_detr_r50_paper", TWO_STAGE),
    "dab_deformable_detr": ("dab_deformable_detr/configs/models/dab_deformable_detr_r50_paper", {}),
    "dn_deformable_detr": ("dn_deformable_detr/configs/models/dn_deformable_detr_r50_paper", NO_NOISE),
    "h_deformable_detr": ("h_deformable_detr/configs/models/h_deformable_detr_r50_paper", ONE_TO_MANY),
    "dino_4scale": ("dino/configs/models/dino_r50_paper", CONTRASTIVE),
    "dino_5scale": ("dino/configs/models/dino_r50_5scale_paper", CONTRASTIVE),
    "relation_detr": ("relation_detr/configs/models/relation_detr_r50", {**CONTRASTIVE, **ONE_TO_MANY}),
}
CASES = {f"detrex_{name}": case for name, case in DETREX.items()}
CASES |= {f"paper_{name}": case for name, case in PAPERS.items()}


@pytest.fixture(autouse=True)
def _float64():
    """Make tensors float64 that do not take their dtype from the weights."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def differences_of(name, changes=(), edit=lambda state: None):
    """The differences of a case, with `changes` of the config and after `edit` has changed the checkpoint."""
    reference = Reference.read(name)
    config, settings = CASES[name]
    cfg = without_dropout(get_config(f"projects/{config}.py").model)
    if name.startswith("detrex") and "num_detections" in cfg.postprocessor:
        settings = {**settings, "postprocessor.num_detections": reference.num_detections}
    if name.startswith("paper"):
        settings = {**settings, "postprocessor.clip_boxes": False}
    sizes = {
        "backbone.depth": reference.resnet_depth,
        "num_classes": reference.num_classes,
        "num_queries": 20,
        "transformer.encoder.num_layers": 2,
        "transformer.encoder.layer.ffn.feedforward_dim": 64,
        "transformer.decoder.num_layers": 3,
    }
    model = build(changed(cfg, {**sizes, **settings, **dict(changes)}))
    state = reference.state_dict()
    edit(state)
    report = load_checkpoint(model, state)
    assert report.missing == report.unexpected == report.mismatched == []
    return differences(model, report, reference)


def test_every_stored_case_is_tested():
    assert {path.stem for path in DATA.glob("*.npz")} == set(CASES)


@pytest.mark.parametrize("name", CASES)
def test_model_agrees_with_the_reference(name):
    assert beyond_limits(differences_of(name)) == {}


TRAINING = {"losses", "gradients"}
EVALUATION = {"scores", "boxes", "last logits", "last boxes"}


@pytest.mark.parametrize(
    ("name", "changes", "kinds"),
    [
        ("detrex_conditional_detr", {"position_embedding.temperature": 20}, EVALUATION | TRAINING),
        ("detrex_dab_detr", {"transformer.mask_memory_padding": True}, TRAINING),
        ("paper_dab_detr", {"criterion.losses.loss_giou.eps": 0.0}, TRAINING),
        ("paper_dab_deformable_detr", {"backbone.freeze_at": 1}, {"gradients"}),
        ("paper_dab_deformable_detr", {"postprocessor.num_detections": 300}, {"detections"}),
    ],
)
def test_a_wrong_setting_is_detected(name, changes, kinds):
    assert beyond_limits(differences_of(name, changes)).keys() - {"classes"} == kinds


def test_a_wrong_weight_is_detected():
    def edit(state):
        state["transformer.encoder.layers.1.ffns.0.layers.1.weight"][3, 5] += 1e-4

    too_large = beyond_limits(differences_of("detrex_dab_detr", edit=edit))
    assert too_large.keys() - {"classes"} == EVALUATION | TRAINING
