"""Checkpoints of Hugging Face's transformers, and agreement with its detectors."""

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

transformers = pytest.importorskip("transformers", minversion="5")  # written names are those of version 5
transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()

# transformers has no eps in GIoU, even where the paper's repository has one.
NO_EPS = {"criterion.losses.loss_giou.eps": 0.0, "criterion.matcher.costs.giou.eps": 0.0}


@dataclass(frozen=True)
class Detector:
    """The names and settings of a detector in this project and in transformers.

    Attributes:
        project: the project of the model config.
        kind: the first part of the names of transformers' classes.
        changes: keys of this project's model config -> values.
        options: arguments of transformers' config.
        stages: the stages of the ResNet that are used.
        auxiliary_loss: whether transformers computes the losses of all layers. Its DETR and Conditional DETR then
            compute another function: the next layer gets the normalised output of a layer, too.
        tolerance: the largest difference. transformers always computes some values in float32.
        variant: the end of the name of the model config. transformers follows the configs of the papers' repositories.
        task: the end of the name of transformers' class.
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

    def build_model(self, **changes: Any) -> Any:
        cfg = get_config(f"projects/{self.project}/configs/models/{self.project}_{self.variant}.py").model
        return build_randomised(without_dropout(changed(cfg, {**SMALL, **NO_EPS, **self.changes, **changes}))).double()

    def build_reference(self, *, timm: bool = False, **options: Any) -> Any:
        """Build the model of transformers, with a ResNet-18 of timm or of transformers as its backbone."""
        if timm:
            backbone = {"use_timm_backbone": True, "backbone": "resnet18"}
        else:
            resnet = transformers.ResNetConfig(
                layer_type="basic",
                depths=[2, 2, 2, 2],
                hidden_sizes=[64, 128, 256, 512],
                embedding_size=64,
                out_features=list(self.stages),
            )
            backbone = {"use_timm_backbone": False, "backbone": None, "backbone_config": resnet}
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
        # Initial weights are too small and too similar to distinguish models.
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1:
                nn.init.normal_(parameter, mean=float("norm.weight" in name), std=0.2)
            elif "embeddings" in name or "patterns" in name:
                nn.init.normal_(parameter)
            else:  # boxes must not reach the borders, where all are equal
                nn.init.xavier_normal_(parameter, gain=1.0 if "bbox" in name else 2.0)
        return model


def deformable(**variant):
    changes = {"with_box_refine": variant["refine"], "as_two_stage": variant["two_stage"]}
    options = {"d_model": 64, "class_cost": 2, "disable_custom_kernels": True, "two_stage_num_proposals": NUM_QUERIES}
    options |= {"with_box_refine": variant["refine"], "two_stage": variant["two_stage"]}
    # transformers embeds the proposals of two stages in float32.
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
        # The mask head of transformers needs a multiple of 8 channels of features and attention maps together.
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
    """transformers creates some constants in the default dtype."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


def labels_of(batch):
    """The objects of a batch in the format of transformers: boxes cxcywh in 0..1 of each image."""
    labels = []
    for record in batch:
        height, width = record["instances"].image_size
        boxes = record["instances"].gt_boxes.tensor.double() / torch.tensor([width, height, width, height])
        objects = {"class_labels": record["instances"].gt_classes, "boxes": box_xyxy_to_cxcywh(boxes)}
        labels.append({**objects, "masks": record["instances"].gt_masks})
    return labels


def assert_equal_outputs(model, reference, tolerance):
    """Compare logits, boxes and losses of all layers, for images that are padded to one batch as published."""
    batch = make_batch()
    model.train()
    with torch.no_grad():
        images = model.preprocess(batch, as_published=True)
        named = predict(model, batch, targets=True)
        losses = model(batch)
        expected_outputs = reference(images.tensor, pixel_mask=(~images.mask).long(), labels=labels_of(batch))
    pairs = [("", expected_outputs.logits, expected_outputs.pred_boxes)]
    pairs += [
        (f"_{index}", output["logits"], output["pred_boxes"])
        for index, output in enumerate(expected_outputs.auxiliary_outputs or [])
    ]
    if expected_outputs.get("enc_outputs_class") is not None:
        pairs.append(("_enc", expected_outputs.enc_outputs_class, expected_outputs.enc_outputs_coord_logits.sigmoid()))
    for name, logits, boxes in pairs:
        for actual, expected in (named[name].logits, logits), (named[name].boxes, boxes):
            assert_close(
                actual, expected, rtol=tolerance, atol=tolerance, msg=lambda text, name=name: f"{name}: {text}"
            )
            assert actual.std(dim=(0, 1)).min() > 1e-3  # images and queries must differ by much more than the tolerance
    if "pred_masks" in expected_outputs:
        assert_close(named[""].extra[MASK_LOGITS], expected_outputs.pred_masks, rtol=tolerance, atol=tolerance)
        for name in ("loss_mask", "loss_dice"):
            assert_close(losses[name], expected_outputs.loss_dict[name], rtol=10 * tolerance, atol=0)
    for name, reference_name in {"class": "ce", "bbox": "bbox", "giou": "giou"}.items():
        for layer in ("", "_0") if expected_outputs.auxiliary_outputs else ("",):
            actual = losses[f"loss_{name}{layer}"] / model.criterion.weights[f"loss_{name}"]
            assert_close(
                actual, expected_outputs.loss_dict[f"loss_{reference_name}{layer}"], rtol=10 * tolerance, atol=0
            )


def assert_complete(report):
    assert report.key_map == "transformers"
    assert (report.missing, report.unexpected, report.mismatched) == ([], [], [])


@pytest.mark.usefixtures("float64")
def test_a_model_with_the_weights_of_transformers_agrees_and_converts_back(detector):
    """Converting the loaded model back gives the state dict of the original."""
    reference, model = detector.build_reference(timm=True), detector.build_model()
    assert_complete(load_checkpoint(model, reference.state_dict()))
    assert_equal_outputs(model, reference, detector.tolerance)

    before = {name: value.clone() for name, value in reference.state_dict().items()}
    for value in reference.state_dict().values():
        value.zero_()
    reference.load_state_dict(convert_state_dict(model.state_dict(), "transformers"), strict=True)
    assert_close(reference.state_dict(), before, rtol=0, atol=0)


@pytest.mark.usefixtures("float64")
def test_a_folder_that_transformers_saved_loads(detector, tmp_path):
    """Files have other names than models and store shared tensors once. The ResNet is that of transformers."""
    reference, model = detector.build_reference(), detector.build_model()
    reference.save_pretrained(tmp_path, max_shard_size="30MB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    assert_complete(load_checkpoint(model, tmp_path))
    assert_equal_outputs(model, reference, detector.tolerance)


def test_from_pretrained_loads_a_written_file(tmp_path):
    """Layers have separate class heads, which are shared in new models of transformers."""
    detector = DETECTORS["deformable_detr, refine"]
    model, reference = detector.build_model(), detector.build_reference(timm=True)
    load_checkpoint(model, reference.state_dict())
    for head in model.heads.class_embed:
        nn.init.normal_(head.weight)
    reference.config.save_pretrained(tmp_path)
    save_atomic(convert_state_dict(model.state_dict(), "transformers"), tmp_path / "model.safetensors")
    read_back = type(reference).from_pretrained(tmp_path, dtype=torch.float64)
    for head, read_head in zip(model.heads.class_embed, read_back.class_embed, strict=True):
        assert_close(read_head.weight, head.weight, rtol=0, atol=0)
    reloaded = detector.build_model()
    assert_complete(load_checkpoint(reloaded, read_back.state_dict()))
    for name, value in model.state_dict().items():
        assert_close(reloaded.state_dict()[name], value, rtol=0, atol=0)


@pytest.mark.parametrize(("name", "rows"), [("detr", 92), ("deformable_detr", 91), ("deformable_detr, two stages", 91)])
def test_rows_of_coco_ids_are_reduced_to_rows_of_classes(name, rows):
    detector = DETECTORS[name]
    reference, model = detector.build_reference(num_labels=91), detector.build_model(num_classes=80)
    weights = reference.state_dict()
    assert_complete(load_checkpoint(model, weights))
    stored = {key: value for key, value in weights.items() if re.search(r"class_(embed|labels_classifier)", key)}
    assert {len(value) for value in stored.values()} == {rows}
    ids = [*COCO_IDS, 91] if rows == 92 else list(COCO_IDS)
    first = weights["class_labels_classifier.weight" if rows == 92 else "class_embed.0.weight"]
    assert_close(model.heads.class_embed[0].weight, first[ids], rtol=0, atol=0)
    if "two stages" in name:  # the encoder has an objectness score, in row 0
        assert_close(model.heads.class_embed[2].weight[0], weights["class_embed.2.weight"][0], rtol=0, atol=0)


def test_a_class_head_that_is_stored_once_is_loaded_into_every_layer():
    """transformers stores the heads of a Deformable DETR that refines boxes only once."""
    detector = DETECTORS["deformable_detr, refine"]
    weights = detector.build_reference().state_dict()
    stored = {name: value for name, value in weights.items() if not name.startswith("class_embed.1.")}
    model = detector.build_model()
    report = load_checkpoint(model, stored)
    assert_complete(report)
    assert report.loaded["class_embed.0.bias"] == ["heads.class_embed.0.bias", "heads.class_embed.1.bias"]
    assert_close(model.heads.class_embed[1].weight, weights["class_embed.0.weight"], rtol=0, atol=0)
    with pytest.raises(CheckpointError, match=r"class_embed\.0\.weight"):  # a head with other classes is not repeated
        load_checkpoint(detector.build_model(num_classes=3), stored)
    other_classes = detector.build_model(num_classes=3)
    report = load_checkpoint(other_classes, stored, fine_tune=True)
    assert {mismatch.name for mismatch in report.mismatched} == {
        f"heads.class_embed.0.{name}" for name in ("weight", "bias")
    }
    assert report.missing == ["heads.class_embed.1.weight", "heads.class_embed.1.bias"]
    two_layers = {name: value for name, value in stored.items() if not name.startswith("class_embed.")}
    assert "heads.class_embed.1.weight" in load_checkpoint(detector.build_model(), two_layers, fine_tune=True).missing


# variant of the published names -> (project, changes)
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


def test_all_published_names_of_transformers_are_tested():
    assert {name for name in variants() if name.startswith("transformers/")} == {
        f"transformers/{key}" for key in PUBLISHED
    }


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
    ("project", "changes", "unsupported"),
    [
        ("detr", PRE_NORM, r"transformer\.encoder\.norm"),
        ("dn_detr", {}, r"denoising\.label_embedding"),
        ("dab_deformable_detr", {}, r"neck\."),
        ("dino", {}, r"neck\."),
    ],
)
def test_converting_detectors_unknown_to_transformers_raises_an_error(project, changes, unsupported):
    cfg = get_config(f"projects/{project}/configs/models/{project}_r50.py").model
    model = build(changed(cfg, {**SMALL, **changes}))
    with pytest.raises(CheckpointError, match=f"transformers has no equivalent detector: .*{unsupported}"):
        convert_state_dict(model.state_dict(), "transformers")
