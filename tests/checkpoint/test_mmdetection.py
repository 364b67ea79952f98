"""Checkpoints of mmdetection: the names of its models, and tensors that differ in more than their name."""

import re

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

from detrex_lite.checkpoint import CheckpointError, convert_state_dict, load_checkpoint, model_state
from detrex_lite.checkpoint.key_maps.mmdetection import MergedPatches
from detrex_lite.config import get_config
from detrex_lite.testing import SMALL, build, changed

from .models import random_state, renamed
from .published_names import state as published

# The necks of mmdetection have no bias before a norm.
NECK = {"neck.bias": False}
REFINE = {**NECK, "with_box_refine": True}
TWO_STAGE = {**REFINE, "as_two_stage": True}

# name -> (model config, changes)
DETECTORS = {
    "detr": ("detr/configs/models/detr_r50.py", {}),
    "conditional_detr": ("conditional_detr/configs/models/conditional_detr_r50.py", {}),
    "dab_detr": ("dab_detr/configs/models/dab_detr_r50.py", {}),
    "dab_detr with patterns": ("dab_detr/configs/models/dab_detr_r50.py", {"num_patterns": 3}),
    "deformable_detr": ("deformable_detr/configs/models/deformable_detr_r50.py", NECK),
    "deformable_detr refine": ("deformable_detr/configs/models/deformable_detr_r50.py", REFINE),
    "deformable_detr two stages": ("deformable_detr/configs/models/deformable_detr_r50.py", TWO_STAGE),
    "dino": ("dino/configs/models/dino_r50.py", NECK),
    "dino 5 levels": ("dino/configs/models/dino_r50_5scale.py", NECK),
    # The names assume six decoder layers, as in all published models.
    "ddq_detr": ("ddq_detr/configs/models/ddq_detr_r50.py", {"transformer.decoder.num_layers": 6}),
    "ddq_detr 5 levels": ("ddq_detr/configs/models/ddq_detr_r50_5scale.py", {"transformer.decoder.num_layers": 6}),
    "ddq_detr without a branch": ("ddq_detr/configs/models/ddq_detr_r50_no_dense.py", {}),
}

# Rules from this project's names to those of version 3: the inverse of the key maps, written independently.
TO_LAYERS = (
    (r"^transformer\.(encoder|decoder)", r"\1"),
    (r"^(encoder|decoder)\.layers\.(\d)\.ffns\.0\.layers\.0", r"\1.layers.\2.ffn.layers.0.0"),
    (r"^(encoder|decoder)\.layers\.(\d)\.ffns\.0\.layers\.1", r"\1.layers.\2.ffn.layers.1"),
    (r"^(encoder|decoder)\.layers\.(\d)\.ffns\.0\.activations\.0", r"\1.layers.\2.ffn.layers.0.1"),
    (r"layers\.(\d)\.attentions\.0", r"layers.\1.self_attn"),
    (r"layers\.(\d)\.attentions\.1", r"layers.\1.cross_attn"),
    (r"_attn\.(query|key)_(content|pos|pos_sine)_proj", lambda match: f"_attn.{match[1][0]}{match[2]}_proj"),
)
WRAPPED = (r"(self_attn|cross_attn)\.(in_proj_|out_proj\.)", r"\1.attn.\2")
WRAPPED_IN_ENCODER = (r"^encoder(.*)self_attn\.(in_proj_|out_proj\.)", r"encoder\1self_attn.attn.\2")
VALUES_OF_DECODER = (r"^decoder(.*)_attn\.value_proj", r"decoder\1_attn.v_proj")
TO_SINGLE_LEVEL = (
    *TO_LAYERS,
    (r"^input_proj\.", "neck.convs.0.conv."),
    (r"^heads\.norm\.", "decoder.post_norm."),
    (r"^heads\.class_embed\.0\.", "bbox_head.fc_cls."),
    (r"^queries\.(embedding|boxes)\.", "query_embedding."),
    (r"^queries\.patterns\.", "patterns."),
)
TO_FFN_BOX_HEAD = (
    (r"^heads\.bbox_embed\.0\.layers\.0\.", "bbox_head.reg_ffn.layers.0.0."),
    (r"^heads\.bbox_embed\.0\.layers\.1\.", "bbox_head.reg_ffn.layers.1."),
    (r"^heads\.bbox_embed\.0\.layers\.2\.", "bbox_head.fc_reg."),
)
TO_MULTI_SCALE = (
    *TO_LAYERS,
    WRAPPED,
    (r"^(neck\.\w+\.\d)\.0\.", r"\1.conv."),
    (r"^(neck\.\w+\.\d)\.1\.", r"\1.gn."),
    (r"^transformer\.level_embeds$", "level_embed"),
    (r"^queries\.proposals\.enc_output\.", "memory_trans_fc."),
    (r"^queries\.proposals\.enc_output_norm\.", "memory_trans_norm."),
    (r"^queries\.pos_trans\.", "pos_trans_fc."),
    (r"^queries\.pos_trans_norm\.", "pos_trans_norm."),
    (r"^queries\.reference_points\.", "reference_points_fc."),
    (r"^queries\.(embedding|content)\.", "query_embedding."),
    (r"^denoising\.label_embedding\.", "dn_query_generator.label_embedding."),
    (r"^heads\.norm\.", "decoder.norm."),
    (r"^heads\.class_embed\.", "bbox_head.cls_branches."),
    (
        r"^heads\.bbox_embed\.(\d)\.layers\.(\d)",
        lambda match: f"bbox_head.reg_branches.{match[1]}.{2 * int(match[2])}",
    ),
)
RULES = {
    "detr": (*TO_SINGLE_LEVEL, WRAPPED, *TO_FFN_BOX_HEAD),
    "conditional_detr": (*TO_SINGLE_LEVEL, WRAPPED_IN_ENCODER, VALUES_OF_DECODER, *TO_FFN_BOX_HEAD),
    "dab_detr": (
        *TO_SINGLE_LEVEL,
        WRAPPED_IN_ENCODER,
        VALUES_OF_DECODER,
        (r"^heads\.bbox_embed\.0\.", "bbox_head.fc_reg."),
    ),
    "deformable_detr": TO_MULTI_SCALE,
    "dino": TO_MULTI_SCALE,
    "ddq_detr": (
        (r"^queries\.content_projection\.", "query_map."),
        (r"^branch\.heads\.class_embed\.6\.", "bbox_head.cls_branches.7."),
        (r"^branch\.heads\.class_embed\.", "bbox_head.aux_cls_branches."),
        (r"^branch\.heads\.bbox_embed\.6\.layers\.(\d)", lambda match: f"bbox_head.reg_branches.7.{2 * int(match[1])}"),
        (
            r"^branch\.heads\.bbox_embed\.(\d)\.layers\.(\d)",
            lambda match: f"bbox_head.aux_reg_branches.{match[1]}.{2 * int(match[2])}",
        ),
        *TO_MULTI_SCALE,
    ),
}


def small(detector):
    path, changes = DETECTORS[detector]
    return build(changed(get_config(f"projects/{path}").model, {**SMALL, "num_classes": 80, **changes}))


def weights(model):
    """Random weights, with equal values under all names of a shared parameter."""
    state = random_state(model)
    first = {}
    for name, value in model.state_dict(keep_vars=True).items():
        state[name] = state[first.setdefault(id(value), name)]
    return state


def foreign_names(detector, state):
    """The weights as mmdetection stores them: a head that the layers of a single-level detector share occurs once."""
    project = detector.split()[0]
    if project in ("detr", "conditional_detr", "dab_detr"):
        state = {name: value for name, value in state.items() if not re.search(r"_embed\.[1-9]\.", name)}
    state = {name: value for name, value in state.items() if not name.startswith("branch.heads.norm.")}
    foreign = renamed(state, *RULES[project])
    # After a training step, the box heads of the dense branch are stored under the decoder as well.
    repeated = {name.replace("bbox_head", "decoder"): value for name, value in foreign.items() if ".aux_reg_" in name}
    return {**foreign, **repeated}


@pytest.mark.parametrize("detector", DETECTORS)
def test_converting_to_mmdetection_and_back_restores_all_weights(detector):
    model = small(detector)
    state = weights(model)
    foreign = foreign_names(detector, state)
    converted = convert_state_dict(state, "mmdetection")
    assert converted.keys() == foreign.keys()
    assert all(torch.equal(converted[name], value) for name, value in foreign.items())

    stored = {"meta": {"epoch": 12}, "state_dict": {**foreign, "data_preprocessor.mean": torch.zeros(3, 1, 1)}}
    report = load_checkpoint(model, stored)
    assert report.key_map == "mmdetection"
    assert (report.missing, report.unexpected, report.mismatched) == ([], [], [])
    for name, value in model.state_dict().items():
        assert_close(value, state[name].to(value.dtype), rtol=0, atol=0)


# published names -> (model config, changes)
PUBLISHED = {
    "mmdet/detr_r50_8xb2-150e_coco": DETECTORS["detr"],
    "mmdet/conditional-detr_r50_8xb2-50e_coco": DETECTORS["conditional_detr"],
    "mmdet/dab-detr_r50_8xb2-50e_coco": DETECTORS["dab_detr"],
    "mmdet/deformable-detr_r50_16xb2-50e_coco": DETECTORS["deformable_detr"],
    "mmdet/deformable-detr-refine_r50_16xb2-50e_coco": DETECTORS["deformable_detr refine"],
    "mmdet/deformable-detr-refine-twostage_r50_16xb2-50e_coco": DETECTORS["deformable_detr two stages"],
    "mmdet/dino-4scale_r50_8xb2-12e_coco": DETECTORS["dino"],
    "mmdet/dino-4scale_r50_improved_8xb2-12e_coco": DETECTORS["dino"],
    "mmdet/dino-5scale_swin-l_8xb2-12e_coco": ("dino/configs/models/dino_swin_large_384_5scale.py", NECK),
    "mmdet/dino-5scale_swin-l_8xb2-36e_coco": ("dino/configs/models/dino_swin_large_384_5scale.py", NECK),
    "mmdet2/detr_r50_8x2_150e_coco": DETECTORS["detr"],
    "mmdet2/detr_r50_8x2_150e_coco_2020": DETECTORS["detr"],
    "mmdet2/deformable_detr_r50_16x2_50e_coco": DETECTORS["deformable_detr"],
    "mmdet2/deformable_detr_refine_r50_16x2_50e_coco": DETECTORS["deformable_detr refine"],
    "mmdet2/deformable_detr_twostage_refine_r50_16x2_50e_coco": DETECTORS["deformable_detr two stages"],
}


@pytest.mark.parametrize("variant", PUBLISHED)
def test_published_checkpoints_load_completely(variant):
    if "swin" in variant:
        pytest.importorskip("timm")
    path, changes = PUBLISHED[variant]
    cfg = get_config(f"projects/{path}").model
    with torch.device("meta"):
        model = build(changed(cfg, changes))
    report = load_checkpoint(model, published(variant, device="cpu"))
    assert report.key_map == "mmdetection"
    assert (report.missing, report.unexpected, report.mismatched) == ([], [], [])


def test_missing_biases_of_a_neck_are_reported():
    state = convert_state_dict(small("deformable_detr").state_dict(), "mmdetection")
    cfg = get_config("projects/deformable_detr/configs/models/deformable_detr_r50.py").model
    report = load_checkpoint(build(changed(cfg, {**SMALL, "num_classes": 80})), state)
    assert report.missing == [*(f"neck.convs.{level}.0.bias" for level in range(3)), "neck.extra_convs.0.0.bias"]


def test_converting_a_detector_unknown_to_mmdetection_raises_an_error():
    cfg = get_config("projects/dino/configs/models/dino_r50.py").model
    relation = {"_target_": "detrex_lite.modeling.PositionRelation", "num_heads": 4}
    model = build(changed(cfg, {**SMALL, **NECK, "transformer.decoder.relation": relation}))
    with pytest.raises(
        CheckpointError, match=r"mmdetection has no equivalent detector: .*transformer\.decoder\.relation"
    ):
        convert_state_dict(model.state_dict(), "mmdetection")


def test_patch_merging_of_swin_is_converted():
    image, weight, scale, shift = torch.randn(1, 3, 4, 6), torch.randn(6, 12), torch.randn(12), torch.randn(12)
    # In this project: cells column by column, each with all channels.
    cells = torch.cat([image[:, :, row::2, column::2] for column in (0, 1) for row in (0, 1)], dim=1)
    conversion, name = MergedPatches(), "backbone.model.layers.1.downsample.reduction.weight"
    assert conversion.applies(name, ())
    assert not conversion.applies("backbone.model.layers.1.blocks.0.norm1.weight", ())

    def merged(columns, weight, scale, shift):
        """columns: (1, 12, 6)"""
        return F.linear(F.layer_norm(columns.transpose(1, 2), (12,), scale, shift), weight)

    # In mmdetection: nn.Unfold, which keeps the cells of each channel together.
    stored = [conversion.write(name, value) for value in (weight, scale, shift)]
    assert_close(merged(nn.Unfold(2, stride=2)(image), *stored), merged(cells.flatten(2), weight, scale, shift))
    for value, stored_value in zip((weight, scale, shift), stored, strict=True):
        assert not torch.equal(value, stored_value)
        assert_close(conversion.read(stored_value, value.shape), value)
    # A wrong shape is kept, to be reported as it is stored.
    assert conversion.read(weight[:, :8], weight.shape).shape == (6, 8)


def test_converting_a_swin_detector_to_mmdetection_and_back_restores_all_weights():
    pytest.importorskip("timm")
    cfg = get_config("projects/dino/configs/models/dino_swin_tiny_224.py").model
    changes = {name: value for name, value in SMALL.items() if not name.startswith("backbone.")}
    model = build(changed(cfg, {**changes, **NECK, "num_classes": 80}))
    state = weights(model)
    foreign = convert_state_dict(state, "mmdetection")
    assert "backbone.stages.2.blocks.5.attn.w_msa.relative_position_bias_table" in foreign
    report = load_checkpoint(model, foreign)
    assert (report.missing, report.unexpected, report.mismatched) == ([], [], [])
    for name, value in model.state_dict().items():
        assert_close(value, state[name].to(value.dtype), rtol=0, atol=0)


def test_the_running_mean_of_mmengine_is_in_state_dict():
    mean, last = {"a.weight": torch.zeros(2)}, {"a.weight": torch.ones(2)}
    averaged = {"steps": torch.tensor(7), "module.a.weight": last["a.weight"]}
    stored = {"meta": {}, "message_hub": {}, "state_dict": mean, "ema_state_dict": averaged}
    assert model_state(stored)["a.weight"].sum() == 0
    assert model_state(stored, prefer_ema=False)["a.weight"].sum() == 2
    del stored["message_hub"]  # then the checkpoint is not of mmengine
    assert model_state(stored)["a.weight"].sum() == 2
