"""Checkpoints of Hugging Face's transformers, and agreement with its detectors, of which these are the weights."""

import re
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from detrex_lite.checkpoint import CheckpointError, convert_state_dict, load_checkpoint, save_atomic
from detrex_lite.checkpoint.key_maps import COCO_IDS
from detrex_lite.config import get_config
from detrex_lite.modeling.masks import MASK_LOGITS
from detrex_lite.structures import box_xyxy_to_cxcywh
from detrex_lite.testing import (
    NUM_CLASSES,
    NUM_QUERIES,
    SMALL,
    build,
    build_randomised,
    changed,
    make_batch,
    predict,
    without_dropout,
)

from .published_names import state, variants

transformers = pytest.importorskip("transformers", minversion="5")  # its names are what is written
transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()

# transformers has no eps there, also where the paper's repository has one.
NO_EPS = {"criterion.losses.loss_giou.eps": 0.0, "criterion.matcher.costs.giou.eps": 0.0}


@dataclass(frozen=True)
class Detector:
    """One detector as it is called and configured here and there.

    Attributes:
        project: whose model config is taken, that of the paper's repository, which transformers follows.
        variant: how the name of that config ends.
        task: how transformers' class ends.
        kind: how transformers' classes begin.
        changes: keys of the model config here.
        options: of transformers' config.
        stages: of the ResNet, that are read.
        auxiliary_loss: whether transformers computes losses of all layers. Its DETR and Conditional DETR compute
            another function then: what they normalise to predict with is what goes into the next layer, too.
        tolerance: how far it may be from transformers', which computes some things in float32 always.
    """

    project: str
    kind: str
    changes: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    stages: tuple[str, ...] = ("stage4",)
    auxiliary_loss: bool = True
    tolerance: float = 1e-6
    variant: str = "r50_paper"
    task: str = "ObjectDetection"

    def ours(self, **changes: Any) -> Any:
        cfg = get_config(f"projects/{self.project}/configs/models/{self.project}_{self.variant}.py").model
        return build_randomised(without_dropout(changed(cfg, {**SMALL, **NO_EPS, **self.changes, **changes}))).double()

    def theirs(self, *, timm: bool = False, **options: Any) -> Any:
        """Its backbone is a ResNet-18 of timm or of transformers."""
        if timm:
            backbone = {"use_timm_backbone": True, "backbone": "resnet18"}
        else:
            own = transformers.ResNetConfig(
                layer_type="basic",
                depths=[2, 2, 2, 2],
                hidden_sizes=[64, 128, 256, 512],
                embedding_size=64,
                out_features=list(self.stages),
            )
            backbone = {"use_timm_backbone": False, "backbone": None, "backbone_config": own}
        config = getattr(transformers, f"{self.kind}Config")(
            **backbone,
            use_pretrained_backbone=False,
            encoder_layers=2,
            decoder_layers=2,
            encoder_ffn_dim=96,
            decoder_ffn_dim=96,
            auxiliary_loss=self.auxiliary_loss,
            **{
                "encoder_attention_heads": 4,
                "decoder_attention_heads": 4,
                "num_labels": NUM_CLASSES,
                "num_queries": NUM_QUERIES,
                **self.options,
                **options,
            },
        )
        torch.manual_seed(0)
        model = getattr(transformers, f"{self.kind}For{self.task}")(config).double().eval()
        for (
            name,
            parameter,
        ) in model.named_parameters():  # fresh weights are too small and too alike to tell models apart
            if parameter.dim() == 1:
                nn.init.normal_(parameter, mean=float("norm.weight" in name), std=0.2)
            elif "embeddings" in name or "patterns" in name:
                nn.init.normal_(parameter)
            else:  # boxes must not run into the borders, where all are alike
                nn.init.xavier_normal_(parameter, gain=1.0 if "bbox" in name else 2.0)
        return model


def deformable(**variant):
    changes = {"with_box_refine": variant["refine"], "as_two_stage": variant["two_stage"]}
    options = {"d_model": 64, "class_cost": 2, "disable_custom_kernels": True, "two_stage_num_proposals": NUM_QUERIES}
    options |= {"with_box_refine": variant["refine"], "two_stage": variant["two_stage"]}
    # Two stages: it embeds proposals in float32.
    tolerance = 1e-5 if variant["two_stage"] else 1e-6
    return Detector(
        "deformable_detr", "DeformableDetr", changes, options, ("stage2", "stage3", "stage4"), tolerance=tolerance
    )


DETECTORS = {
    "detr": Detector("detr", "Detr", options={"d_model": 64}, auxiliary_loss=False),
    "detr, masks": Detector(
        "detr",
        "Detr",
        {"transformer.encoder.layer.attn.num_heads": 8},
        # Its mask head wants a multiple of 8 channels of the features and as many of attention together.
        {"d_model": 64, "encoder_attention_heads": 8, "decoder_attention_heads": 8},
        ("stage1", "stage2", "stage3", "stage4"),
        auxiliary_loss=False,
        variant="r50_panoptic",
        task="Segmentation",
    ),
    "conditional_detr": Detector(
        "conditional_detr",
        "ConditionalDetr",
        options={"d_model": 64},
        auxiliary_loss=False,
    ),
    "dab_detr": Detector(
        "dab_detr",
        "DabDetr",
        {"heads.eps": 1e-5, "num_patterns": 3},
        {"hidden_size": 64, "num_patterns": 3},
        tolerance=1e-4,
    ),
    "deformable_detr": deformable(refine=False, two_stage=False),
    "deformable_detr, refine": deformable(refine=True, two_stage=False),
    "deformable_detr, two stages": deformable(refine=True, two_stage=True),
}


@pytest.fixture(params=DETECTORS)
def detector(request):
    return DETECTORS[request.param]


@pytest.fixture
def float64():
    """transformers makes some constants in the default precision."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


def labels_of(batch):
    """The objects of a batch as transformers wants them: boxes cxcywh in 0..1 of each image."""
    labels = []
    for one in batch:
        height, width = one["instances"].image_size
        boxes = one["instances"].gt_boxes.tensor.double() / torch.tensor([width, height, width, height])
        objects = {"class_labels": one["instances"].gt_classes, "boxes": box_xyxy_to_cxcywh(boxes)}
        labels.append({**objects, "masks": one["instances"].gt_masks})
    return labels


def assert_equal_outputs(ours, theirs, tolerance):
    """Logits, boxes and losses of all layers, of images that are padded to one batch as published."""
    batch = make_batch()
    ours.train()
    with torch.no_grad():
        images = ours.preprocess(batch, as_published=True)
        named = predict(ours, batch, targets=True)
        losses = ours(batch)
        want = theirs(images.tensor, pixel_mask=(~images.mask).long(), labels=labels_of(batch))
    pairs = [("", want.logits, want.pred_boxes)]
    pairs += [(f"_{i}", one["logits"], one["pred_boxes"]) for i, one in enumerate(want.auxiliary_outputs or [])]
    if want.get("enc_outputs_class") is not None:
        pairs.append(("_enc", want.enc_outputs_class, want.enc_outputs_coord_logits.sigmoid()))
    for name, logits, boxes in pairs:
        for got, expected in (named[name].logits, logits), (named[name].boxes, boxes):
            assert_close(got, expected, rtol=tolerance, atol=tolerance, msg=lambda text, name=name: f"{name}: {text}")
            assert got.std(dim=(0, 1)).min() > 1e-3  # images and queries differ by far more than what is tolerated
    if "pred_masks" in want:
        assert_close(named[""].extra[MASK_LOGITS], want.pred_masks, rtol=tolerance, atol=tolerance)
        for name in ("loss_mask", "loss_dice"):
            assert_close(losses[name], want.loss_dict[name], rtol=10 * tolerance, atol=0)
    for name, there in {"class": "ce", "bbox": "bbox", "giou": "giou"}.items():
        for layer in ("", "_0") if want.auxiliary_outputs else ("",):
            got = losses[f"loss_{name}{layer}"] / ours.criterion.weights[f"loss_{name}"]
            assert_close(got, want.loss_dict[f"loss_{there}{layer}"], rtol=10 * tolerance, atol=0)


def assert_complete(report):
    assert report.key_map == "transformers"
    assert (report.missing, report.unexpected, report.mismatched) == ([], [], [])


@pytest.mark.usefixtures("float64")
def test_a_model_of_transformers_and_its_copy_here_agree(detector):
    """And what is written of the copy is the state dict of the model again."""
    theirs, ours = detector.theirs(timm=True), detector.ours()
    assert_complete(load_checkpoint(ours, theirs.state_dict()))
    assert_equal_outputs(ours, theirs, detector.tolerance)

    before = {name: value.clone() for name, value in theirs.state_dict().items()}
    for value in theirs.state_dict().values():
        value.zero_()
    theirs.load_state_dict(convert_state_dict(ours.state_dict(), "transformers"), strict=True)
    assert_close(theirs.state_dict(), before, rtol=0, atol=0)


@pytest.mark.usefixtures("float64")
def test_a_folder_that_transformers_saved_loads(detector, tmp_path):
    """Its files have other names than its models, and hold shared tensors once. The backbone is its own."""
    theirs, ours = detector.theirs(), detector.ours()
    theirs.save_pretrained(tmp_path, max_shard_size="30MB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    assert_complete(load_checkpoint(ours, tmp_path))
    assert_equal_outputs(ours, theirs, detector.tolerance)


def test_a_written_file_is_one_of_from_pretrained(tmp_path):
    """Also where layers have class heads of their own, which fresh models of transformers share."""
    detector = DETECTORS["deformable_detr, refine"]
    ours, theirs = detector.ours(), detector.theirs(timm=True)
    load_checkpoint(ours, theirs.state_dict())
    for head in ours.heads.class_embed:
        nn.init.normal_(head.weight)
    theirs.config.save_pretrained(tmp_path)
    save_atomic(convert_state_dict(ours.state_dict(), "transformers"), tmp_path / "model.safetensors")
    read = type(theirs).from_pretrained(tmp_path, dtype=torch.float64)
    for head, there in zip(ours.heads.class_embed, read.class_embed, strict=True):
        assert_close(there.weight, head.weight, rtol=0, atol=0)
    again = detector.ours()
    assert_complete(load_checkpoint(again, read.state_dict()))
    for name, value in ours.state_dict().items():
        assert_close(again.state_dict()[name], value, rtol=0, atol=0)


@pytest.mark.parametrize(("name", "rows"), [("detr", 92), ("deformable_detr", 91), ("deformable_detr, two stages", 91)])
def test_rows_of_coco_ids_become_those_of_classes(name, rows):
    detector = DETECTORS[name]
    theirs, ours = detector.theirs(num_labels=91), detector.ours(num_classes=80)
    weights = theirs.state_dict()
    assert_complete(load_checkpoint(ours, weights))
    stored = {key: value for key, value in weights.items() if re.search(r"class_(embed|labels_classifier)", key)}
    assert {len(value) for value in stored.values()} == {rows}
    ids = [*COCO_IDS, 91] if rows == 92 else list(COCO_IDS)
    first = weights["class_labels_classifier.weight" if rows == 92 else "class_embed.0.weight"]
    assert_close(ours.heads.class_embed[0].weight, first[ids], rtol=0, atol=0)
    if "two stages" in name:  # the encoder's scores are those of objectness, in row 0
        assert_close(ours.heads.class_embed[2].weight[0], weights["class_embed.2.weight"][0], rtol=0, atol=0)


def test_class_heads_that_are_stored_once_are_every_layers():
    """As transformers stores those of a Deformable DETR that refines boxes."""
    detector = DETECTORS["deformable_detr, refine"]
    weights = detector.theirs().state_dict()
    once = {name: value for name, value in weights.items() if not name.startswith("class_embed.1.")}
    ours = detector.ours()
    report = load_checkpoint(ours, once)
    assert_complete(report)
    assert report.loaded["class_embed.0.bias"] == ["heads.class_embed.0.bias", "heads.class_embed.1.bias"]
    assert_close(ours.heads.class_embed[1].weight, weights["class_embed.0.weight"], rtol=0, atol=0)
    with pytest.raises(CheckpointError, match=r"class_embed\.0\.weight"):  # of other classes: nothing is repeated
        load_checkpoint(detector.ours(num_classes=3), once)
    other_classes = detector.ours(num_classes=3)
    report = load_checkpoint(other_classes, once, fine_tune=True)
    assert {one.name for one in report.mismatched} == {f"heads.class_embed.0.{name}" for name in ("weight", "bias")}
    assert report.missing == ["heads.class_embed.1.weight", "heads.class_embed.1.bias"]
    two_layers = {name: value for name, value in once.items() if not name.startswith("class_embed.")}
    assert "heads.class_embed.1.weight" in load_checkpoint(detector.ours(), two_layers, fine_tune=True).missing


# Variant of the published names -> project, changes
PUBLISHED = {
    "detr_r50": ("detr", {}),
    "detr_r50_no_timm": ("detr", {}),
    "detr_r101": ("detr", {"backbone.depth": 101}),
    "detr_r50_panoptic": ("detr", {"num_classes": 250}),
    "conditional_detr_r50": ("conditional_detr", {}),
    "dab_detr_r50": ("dab_detr", {}),
    "dab_detr_r50_safetensors": ("dab_detr", {}),
    "deformable_detr_r50": ("deformable_detr", {}),
    "deformable_detr_r50_safetensors": ("deformable_detr", {}),
    "deformable_detr_r50_refine": ("deformable_detr", {"with_box_refine": True}),
    "deformable_detr_r50_two_stage": ("deformable_detr", {"with_box_refine": True, "as_two_stage": True}),
}


def test_all_published_names_of_transformers_are_tried():
    assert {name for name in variants() if name.startswith("transformers/")} == {f"transformers/{n}" for n in PUBLISHED}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_checkpoints_load_completely(name):
    project, changes = PUBLISHED[name]
    cfg = get_config(f"projects/{project}/configs/models/{project}_r50.py").model
    with torch.device("meta"):
        model = build(changed(cfg, changes))
    assert_complete(load_checkpoint(model, state(f"transformers/{name}", device="cpu")))


PRE_NORM = {
    "transformer.encoder.layer.operation_order": ["norm", "self_attn", "norm", "ffn"],
    "transformer.decoder.layer.operation_order": ["norm", "self_attn", "norm", "cross_attn", "norm", "ffn"],
}


@pytest.mark.parametrize(
    ("project", "changes", "named"),
    [
        ("detr", PRE_NORM, r"transformer\.encoder\.norm"),
        ("dn_detr", {}, r"denoising\.label_embedding"),
        ("dab_deformable_detr", {}, r"neck\."),
        ("dino", {}, r"neck\."),
    ],
)
def test_detectors_that_transformers_does_not_have_are_refused(project, changes, named):
    cfg = get_config(f"projects/{project}/configs/models/{project}_r50.py").model
    model = build(changed(cfg, {**SMALL, **changes}))
    with pytest.raises(CheckpointError, match=f"transformers has no equivalent detector: .*{named}"):
        convert_state_dict(model.state_dict(), "transformers")
