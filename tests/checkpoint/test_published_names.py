"""The lists of published names are readable and consistent with other facts about the models."""

import functools
import re
from collections import Counter
from pathlib import Path

import pytest
import torch
import torchvision
from torch import Tensor

from .published_names import aliases, checkpoints, source, state, variants

PROJECTS = Path(__file__).parents[2] / "projects"
VD = ("rtdetr/", "deim/")  # ResNet-vd, with another stem
RESNET = re.compile(r"[_-]r(50|101)(?=[_-]|$)")

# Rows of the class heads. The papers' repositories use COCO's ids up to 90; a softmax has a row for "no object", too.
CLASSES = {
    "detr": {92, 251},
    "deformable_detr": {91},
    "conditional_detr": {91},
    "dab_detr": {91},
    "anchor_detr": {91},
    "dn_detr": {91},
    "dino": {91},
    "deta": {91},
    "maskdino": {80, 133},
    "hdetr": {91},
    "relation": {91},
    "rtdetr": {80},
    "dfine": {80},
    "deim": {80},
    "lwdetr": {91},
    "rfdetr": {91},
    "detrex": {80, 81},
    "mmdet": {80, 81},
    "mmdet2": {80, 81},
    "transformers": {91, 92, 251},
}
CLASS_HEAD = re.compile(
    r"((?<!denoising_)class_embed|score_head|class_head|fc_cls|cls_branches|class_labels_classifier)(\.\d+)?\.weight$"
)


@functools.cache
def torchvision_resnet(depth: str) -> dict[str, Tensor]:
    with torch.device("meta"):
        return {"50": torchvision.models.resnet50, "101": torchvision.models.resnet101}[depth]().state_dict()


def shapes_of(tensors: dict[str, Tensor], part: str, *, axes: int) -> Counter[tuple[int, ...]]:
    return Counter(tuple(value.shape) for name, value in tensors.items() if part in name and value.ndim == axes)


def numel(tensors: dict[str, Tensor], without: str = "running_|num_batches_tracked") -> int:
    """The number of elements of the tensors; a tensor with several names counts once."""
    kept = {id(value): value.numel() for name, value in tensors.items() if not re.search(without, name)}
    return sum(kept.values())


@pytest.mark.parametrize("variant", variants())
def test_every_variant_is_readable(variant: str):
    tensors = state(variant)
    assert len(tensors) > 300
    assert all(value.is_meta and all(size > 0 for size in value.shape) for value in tensors.values())
    assert all(name == name.strip() and not name.startswith(("module.", "model.model.")) for name in tensors)
    assert any("backbone" in name for name in tensors)
    assert {value.dtype for value in tensors.values()} <= {torch.float32, torch.int64}
    kept = re.compile(r"(num_batches_tracked|relative_position_index|_classes_|reg_scale)$")
    assert all((value.dtype == torch.int64) == bool(kept.search(name)) for name, value in tensors.items())
    for name, first in aliases(variant).items():
        assert tensors[name] is tensors[first]
        assert name != first
    origin = source(variant)
    assert origin.name == variant
    assert "/" in origin.repository
    assert re.fullmatch(r"[0-9a-f]{7,40}|v?\d+\.\d+\.\d+", origin.commit)
    assert origin.config
    assert origin.entry in ("", "model", "state_dict", "ema_state", "ema.module")


@pytest.mark.parametrize("variant", variants())
def test_class_heads_have_the_rows_of_their_implementation(variant: str):
    rows = {value.shape[0] for name, value in state(variant).items() if CLASS_HEAD.search(name)}
    assert len(rows) == 1
    assert rows <= CLASSES[variant.split("/")[0]]


@pytest.mark.parametrize("variant", [name for name in variants() if RESNET.search(name) and not name.startswith(VD)])
def test_resnets_have_the_shapes_of_torchvision(variant: str):
    depth = RESNET.search(variant)
    assert depth is not None
    expected = torchvision_resnet(depth[1])
    tensors = state(variant)
    assert shapes_of(tensors, "backbone", axes=4) == shapes_of(expected, "", axes=4)
    for part in ("running_mean", "running_var"):
        assert shapes_of(tensors, part, axes=1) == shapes_of(expected, part, axes=1)


def test_variants_include_resnets_of_both_depths():
    counts = Counter(depth[1] for name in variants() if (depth := RESNET.search(name)))
    assert counts["50"] > 40
    assert counts["101"] >= 8


@pytest.mark.parametrize(
    ("paper", "conversions"),
    [
        ("detr/detr_r50", ["transformers/detr_r50", "transformers/detr_r50_no_timm"]),
        ("detr/detr_r101", ["transformers/detr_r101"]),
        ("detr/detr_r50_panoptic", ["transformers/detr_r50_panoptic"]),
        ("conditional_detr/conditional_detr_r50", ["transformers/conditional_detr_r50"]),
        ("dab_detr/dab_detr_r50", ["transformers/dab_detr_r50", "transformers/dab_detr_r50_safetensors"]),
        (
            "deformable_detr/deformable_detr_r50",
            ["transformers/deformable_detr_r50", "transformers/deformable_detr_r50_safetensors"],
        ),
        ("deformable_detr/deformable_detr_r50_refine", ["transformers/deformable_detr_r50_refine"]),
        ("deformable_detr/deformable_detr_r50_two_stage", ["transformers/deformable_detr_r50_two_stage"]),
    ],
)
def test_transformers_has_as_many_parameters_as_the_paper(paper: str, conversions: list[str]):
    assert {numel(state(conversion)) for conversion in conversions} == {numel(state(paper))}


@pytest.mark.parametrize(
    ("paper", "converted", "dropped"),
    [  # dropped: 11 unused classes of each head and of the label embedding
        ("detr/detr_r50", "detrex/converted_detr_r50", 11 * 257),
        ("detr/detr_r101", "detrex/converted_detr_r101", 11 * 257),
        ("conditional_detr/conditional_detr_r50", "detrex/conditional_detr_r50_50ep", 11 * 257),
        ("dab_detr/dab_detr_r50", "detrex/dab_detr_r50_50ep", 11 * 257),
        ("anchor_detr/anchor_detr_r50", "detrex/anchor_detr_r50_50ep", 11 * 257),
        ("dab_detr/dab_deformable_detr_r50", "detrex/dab_deformable_detr_r50_50ep", 6 * 11 * 257),
        ("deformable_detr/deformable_detr_r50", "detrex/deformable_detr_r50_50ep", 11 * 257),
        ("deformable_detr/deformable_detr_r50_two_stage", "detrex/deformable_detr_r50_two_stage_50ep", 7 * 11 * 257),
        ("dn_detr/dn_detr_r50", "detrex/dn_detr_r50_50ep", 11 * 257 + 11 * 255),
        ("hdetr/h_deformable_detr_swin_large", "detrex/h_deformable_detr_swin_large_two_stage_12ep", 7 * 11 * 257),
        ("detr/detr_r50", "mmdet/detr_r50_8xb2-150e_coco", 11 * 257),
        ("conditional_detr/conditional_detr_r50", "mmdet/conditional-detr_r50_8xb2-50e_coco", 11 * 257),
        ("dab_detr/dab_detr_r50", "mmdet/dab-detr_r50_8xb2-50e_coco", 11 * 257),
        ("detr/detr_r50", "mmdet2/detr_r50_8x2_150e_coco", 11 * 257),
        ("detr/detr_r50", "mmdet2/detr_r50_8x2_150e_coco_2020", 11 * 257),
        # The projections of mmdetection to the channels of the transformer have no bias before their normalisation.
        ("deformable_detr/deformable_detr_r50", "mmdet/deformable-detr_r50_16xb2-50e_coco", 11 * 257 + 4 * 256),
        ("deformable_detr/deformable_detr_r50", "mmdet2/deformable_detr_r50_16x2_50e_coco", 11 * 257 + 4 * 256),
    ],
)
def test_implementations_differ_only_in_unused_classes_and_biases(paper: str, converted: str, dropped: int):
    without = "running_|num_batches_tracked|empty_weight|relative_position_index|data_preprocessor"
    assert numel(state(paper), without) - numel(state(converted), without) == dropped


def test_the_running_mean_has_each_shared_tensor_once():
    model, average = "detrex/dino_r50_4scale_12ep", "detrex/dino_r50_4scale_12ep_ema_state"
    assert aliases(model)
    assert not aliases(average)
    assert set(state(model)) - set(state(average)) == {
        name for name in state(model) if name.startswith(("class_embed.", "bbox_embed."))
    }


def test_every_checkpoint_has_a_variant_and_a_project():
    rows = checkpoints()
    assert {row.origin for row in rows} == {"detrex", "paper", "transformers", "mmdet", "mmdet2"}
    for row in rows:
        assert row.name
        assert row.file
        assert row.variant in variants(), row
        assert (PROJECTS / row.project).is_dir(), row
        assert row.variant.startswith(f"{row.origin}/") or row.origin == "paper", row


def test_a_state_on_the_cpu_has_the_requested_dtype_and_almost_no_memory():
    tensors = state("detrex/dino_swin_tiny_224_4scale_12ep", torch.float16, "cpu")
    weight = tensors["backbone.patch_embed.proj.weight"]
    assert weight.shape == (96, 3, 4, 4)
    assert weight.dtype == torch.float16
    assert weight.untyped_storage().nbytes() == 2
    assert not weight.any()
    assert tensors["backbone.layers.0.blocks.0.attn.relative_position_index"].dtype == torch.int64


def test_the_error_for_an_unknown_variant_names_it():
    with pytest.raises(KeyError, match="no_such_model"):
        state("detr/no_such_model")
