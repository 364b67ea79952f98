import re

import pytest
import torch
from torch.testing import assert_close

from detrex_lite.checkpoint import KEY_MAPS, load_checkpoint
from detrex_lite.checkpoint.key_maps import COCO_IDS
from detrex_lite.config import get_config, instantiate

from .models import random_state, renamed

BY_NAME = {key_map.name: key_map for key_map in KEY_MAPS}

DETREX = {
    "backbone.stem.conv1.weight": "backbone.conv1.weight",
    "backbone.stem.conv1.norm.running_mean": "backbone.bn1.running_mean",
    "backbone.res2.0.conv1.weight": "backbone.layer1.0.conv1.weight",
    "backbone.res5.2.conv3.norm.bias": "backbone.layer4.2.bn3.bias",
    "backbone.res3.0.shortcut.weight": "backbone.layer2.0.downsample.0.weight",
    "backbone.res3.0.shortcut.norm.running_var": "backbone.layer2.0.downsample.1.running_var",
    "backbone.body.layer3.5.bn2.weight": "backbone.layer3.5.bn2.weight",
    "transformer.encoder.layers.5.attentions.0.attn.in_proj_weight": (
        "transformer.encoder.layers.5.attentions.0.in_proj_weight"
    ),
    "transformer.decoder.layers.0.attentions.1.attn.out_proj.bias": (
        "transformer.decoder.layers.0.attentions.1.out_proj.bias"
    ),
    "transformer.decoder.layers.0.attentions.1.sampling_offsets.bias": (
        "transformer.decoder.layers.0.attentions.1.sampling_offsets.bias"
    ),
    "transformer.decoder.layers.0.ffns.0.layers.0.0.weight": ("transformer.decoder.layers.0.ffns.0.layers.0.weight"),
    "transformer.decoder.layers.0.ffns.0.layers.1.bias": "transformer.decoder.layers.0.ffns.0.layers.1.bias",
    "transformer.encoder.layers.1.ffns.0.layers.0.1.weight": (
        "transformer.encoder.layers.1.ffns.0.activations.0.weight"
    ),
    "transformer.encoder.layers.1.ffns.0.activation.weight": (
        "transformer.encoder.layers.1.ffns.0.activations.0.weight"
    ),
    "transformer.decoder.post_norm_layer.weight": "transformer.decoder.post_norm_layer.weight",
    "neck.convs.0.conv.weight": "neck.convs.0.0.weight",
    "neck.extra_convs.0.norm.bias": "neck.extra_convs.0.1.bias",
    "class_embed.0.weight": "class_embed.0.weight",
    "denoising_generator.label_encoder.weight": "denoising.label_embedding.weight",
    "label_enc.weight": "denoising.label_embedding.weight",
}
DETR = {
    "backbone.0.body.layer1.0.downsample.1.running_mean": "backbone.layer1.0.downsample.1.running_mean",
    "transformer.encoder.layers.0.self_attn.in_proj_weight": (
        "transformer.encoder.layers.0.attentions.0.in_proj_weight"
    ),
    "transformer.decoder.layers.3.multihead_attn.out_proj.weight": (
        "transformer.decoder.layers.3.attentions.1.out_proj.weight"
    ),
    "transformer.decoder.layers.3.linear1.bias": "transformer.decoder.layers.3.ffns.0.layers.0.bias",
    "transformer.decoder.layers.3.linear2.bias": "transformer.decoder.layers.3.ffns.0.layers.1.bias",
    "transformer.decoder.layers.3.norm1.bias": "transformer.decoder.layers.3.norms.0.bias",
    "transformer.decoder.layers.3.norm3.bias": "transformer.decoder.layers.3.norms.2.bias",
    "transformer.encoder.norm.weight": "transformer.encoder.post_norm_layer.weight",
    "transformer.decoder.norm.weight": "transformer.decoder.post_norm_layer.weight",
    "bbox_embed.layers.2.bias": "bbox_embed.layers.2.bias",
    "query_embed.weight": "query_embed.weight",
}
DEFORMABLE_DETR = {
    "backbone.0.body.conv1.weight": "backbone.conv1.weight",
    "backbone.0.body.layer4.0.downsample.1.running_var": "backbone.layer4.0.downsample.1.running_var",
    "input_proj.0.0.weight": "neck.convs.0.0.weight",
    "input_proj.2.1.bias": "neck.convs.2.1.bias",
    "input_proj.3.0.bias": "neck.extra_convs.0.0.bias",
    "input_proj.4.1.weight": "neck.extra_convs.1.1.weight",
    "query_embed.weight": "query_embedding.weight",
    "transformer.level_embed": "transformer.level_embeds",
    "transformer.reference_points.bias": "transformer.reference_points.bias",
    "transformer.encoder.layers.0.self_attn.sampling_offsets.weight": (
        "transformer.encoder.layers.0.attentions.0.sampling_offsets.weight"
    ),
    "transformer.encoder.layers.5.self_attn.output_proj.bias": (
        "transformer.encoder.layers.5.attentions.0.output_proj.bias"
    ),
    "transformer.encoder.layers.5.linear2.weight": "transformer.encoder.layers.5.ffns.0.layers.1.weight",
    "transformer.encoder.layers.5.norm1.weight": "transformer.encoder.layers.5.norms.0.weight",
    "transformer.encoder.layers.5.norm2.weight": "transformer.encoder.layers.5.norms.1.weight",
    "transformer.decoder.layers.1.self_attn.in_proj_bias": "transformer.decoder.layers.1.attentions.0.in_proj_bias",
    "transformer.decoder.layers.1.self_attn.out_proj.weight": (
        "transformer.decoder.layers.1.attentions.0.out_proj.weight"
    ),
    "transformer.decoder.layers.1.cross_attn.attention_weights.bias": (
        "transformer.decoder.layers.1.attentions.1.attention_weights.bias"
    ),
    "transformer.decoder.layers.1.cross_attn.value_proj.weight": (
        "transformer.decoder.layers.1.attentions.1.value_proj.weight"
    ),
    "transformer.decoder.layers.1.linear1.bias": "transformer.decoder.layers.1.ffns.0.layers.0.bias",
    "transformer.decoder.layers.1.norm1.weight": "transformer.decoder.layers.1.norms.1.weight",  # of cross-attention
    "transformer.decoder.layers.1.norm2.weight": "transformer.decoder.layers.1.norms.0.weight",  # of self-attention
    "transformer.decoder.layers.1.norm3.weight": "transformer.decoder.layers.1.norms.2.weight",
    "transformer.decoder.bbox_embed.1.layers.0.weight": None,
    "transformer.decoder.class_embed.6.bias": None,
    "transformer.enc_output.weight": "transformer.encoder_proposals.enc_output.weight",
    "transformer.enc_output_norm.bias": "transformer.encoder_proposals.enc_output_norm.bias",
    "transformer.pos_trans.weight": "transformer.pos_trans.weight",
    "transformer.pos_trans_norm.bias": "transformer.pos_trans_norm.bias",
    "class_embed.6.weight": "class_embed.6.weight",
    "bbox_embed.5.layers.2.bias": "bbox_embed.5.layers.2.bias",
}
TORCHVISION = {
    "conv1.weight": "backbone.conv1.weight",
    "bn1.running_var": "backbone.bn1.running_var",
    "layer4.2.conv3.weight": "backbone.layer4.2.conv3.weight",
    "fc.weight": None,
}
DETECTRON2 = {
    "stem.conv1.weight": "backbone.conv1.weight",
    "stem.conv1.norm.bias": "backbone.bn1.bias",
    "res2.0.conv1.weight": "backbone.layer1.0.conv1.weight",
    "res4.22.conv2.norm.running_mean": "backbone.layer3.22.bn2.running_mean",
    "res5.0.shortcut.norm.weight": "backbone.layer4.0.downsample.1.weight",
    "stem.fc.bias": None,
}
TABLES = {
    "detrex": DETREX,
    "detr": DETR,
    "deformable_detr": DEFORMABLE_DETR,
    "torchvision": TORCHVISION,
    "detectron2": DETECTRON2,
}


@pytest.mark.parametrize("name", TABLES)
def test_names_translate(name):
    assert {key: BY_NAME[name].rename(key) for key in TABLES[name]} == TABLES[name]


@pytest.mark.parametrize("name", TABLES)
def test_a_map_recognises_its_own_names_and_no_others(name):
    foreign = {other for other in TABLES if BY_NAME[other].matches(TABLES[name])}
    assert foreign == {name}


def test_no_foreign_map_recognises_this_projects_names():
    own = {name for table in (DETREX, DETR, DEFORMABLE_DETR) for name in table.values() if name}
    assert [key_map.name for key_map in KEY_MAPS if key_map.matches(own)] == ["detrex_lite"]


def test_coco_has_80_classes_up_to_id_90():
    assert len(COCO_IDS) == 80
    assert (COCO_IDS[0], COCO_IDS[11], COCO_IDS[-1]) == (1, 13, 90)  # 12 is the first id that COCO left out


def test_coco_class_rows_become_contiguous_only_where_the_model_is_contiguous():
    rows = torch.arange(92.0)[:, None].expand(92, 4)
    adapt = BY_NAME["detr"].adapt
    kept = adapt("class_embed.weight", rows, torch.Size([81, 4]))[:, 0].tolist()
    assert kept == [*COCO_IDS, 91]
    assert adapt("class_embed.weight", rows, torch.Size([92, 4])) is rows
    assert adapt("query_embed.weight", rows, torch.Size([81, 4])) is rows
    of_sigmoid = BY_NAME["deformable_detr"].adapt
    assert of_sigmoid("class_embed.0.weight", rows[:91], torch.Size([80, 4]))[:, 0].tolist() == list(COCO_IDS)
    assert of_sigmoid("class_embed.0.weight", rows[:80], torch.Size([80, 4])).shape == (80, 4)


# From this project's names to those of Deformable DETR: the reverse of the key map, written down on its own.
TO_DEFORMABLE_DETR = (
    (r"^backbone\.", "backbone.0.body."),
    (r"^neck\.convs\.", "input_proj."),
    (r"^neck\.extra_convs\.0", "input_proj.3"),
    (r"^query_embedding", "query_embed"),
    (r"level_embeds", "level_embed"),
    (r"encoder_proposals\.", ""),
    (r"attentions\.0", "self_attn"),
    (r"attentions\.1", "cross_attn"),
    (r"ffns\.0\.layers\.0", "linear1"),
    (r"ffns\.0\.layers\.1", "linear2"),
    (r"(encoder\.layers\.\d)\.norms\.0", r"\1.norm1"),
    (r"(encoder\.layers\.\d)\.norms\.1", r"\1.norm2"),
    (r"(decoder\.layers\.\d)\.norms\.0", r"\1.norm2"),
    (r"(decoder\.layers\.\d)\.norms\.1", r"\1.norm1"),
    (r"(decoder\.layers\.\d)\.norms\.2", r"\1.norm3"),
)
VARIANTS = {
    "one_stage": {},
    "refine": {"with_box_refine": True},
    "two_stage": {"with_box_refine": True, "as_two_stage": True},
}


def small_deformable_detr(**changes):
    cfg = get_config("projects/deformable_detr/configs/models/deformable_detr_r50.py").model
    cfg.update(embed_dim=32, num_queries=7, **changes)
    cfg.backbone.depth = 18
    cfg.transformer.encoder.update(num_layers=2, feedforward_dim=48)
    cfg.transformer.decoder.num_layers = 2
    return instantiate(cfg)


def as_deformable_detr(state, variant):
    """`state` as that project saves it: 91 classes, and heads once more under the decoder where it refines."""
    foreign = renamed(state, *TO_DEFORMABLE_DETR)
    for name, value in list(foreign.items()):
        if name.startswith("class_embed."):
            foreign[name] = torch.randn(91, *value.shape[1:], dtype=value.dtype)
            foreign[name][list(COCO_IDS)] = value
    again = {"one_stage": "nothing", "refine": "bbox_embed", "two_stage": "(bbox|class)_embed"}[variant]
    foreign |= {f"transformer.decoder.{name}": foreign[name] for name in foreign if re.match(rf"{again}\.", name)}
    return {"model": foreign, "epoch": 49}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("source", ["auto", "deformable_detr"])
def test_a_checkpoint_of_deformable_detr_loads_completely(variant, source):
    model = small_deformable_detr(**VARIANTS[variant])
    state = random_state(model)
    if variant == "one_stage":  # all layers share one head, which is stored once per layer
        state |= {name: state[name.replace("_embed.1.", "_embed.0.")] for name in state if "_embed.1." in name}
    checkpoint = as_deformable_detr(state, variant)
    report = load_checkpoint(model, checkpoint, source)
    assert report.key_map == "deformable_detr"
    assert (report.missing, report.unexpected, report.mismatched) == ([], [], [])
    own = model.state_dict()
    assert own.keys() == state.keys()
    for name, value in state.items():
        assert_close(own[name], value.to(own[name].dtype), rtol=0, atol=0)
