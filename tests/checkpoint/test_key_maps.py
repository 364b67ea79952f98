import re

import pytest
import torch
from torch.testing import assert_close

from detrex_lite.checkpoint import KEY_MAPS, load_checkpoint
from detrex_lite.checkpoint.key_maps import COCO_IDS
from detrex_lite.config import get_config, instantiate

from .models import TO_DETECTRON2_RESNET, random_state, renamed

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
    "transformer.encoder.post_norm_layer.weight": "transformer.encoder.norm.weight",
    "transformer.decoder.post_norm_layer.weight": "heads.norm.weight",  # DETR's
    "transformer.decoder.norm.weight": "heads.norm.weight",  # DINO's
    "transformer.decoder.query_scale.layers.0.weight": "transformer.decoder.query_scale.layers.0.weight",
    "transformer.decoder.ref_point_head.layers.1.bias": "transformer.decoder.ref_point_head.layers.1.bias",
    "transformer.level_embeds": "transformer.level_embeds",
    "neck.convs.0.conv.weight": "neck.convs.0.0.weight",
    "neck.extra_convs.0.norm.bias": "neck.extra_convs.0.1.bias",
    "input_proj.weight": "input_proj.weight",
    "query_embed.weight": "queries.embedding.weight",  # DETR's
    "query_embedding.weight": "queries.embedding.weight",  # Deformable DETR's
    "anchor_box_embed.weight": "queries.boxes.weight",  # DAB-DETR's
    "refpoint_embed.weight": "queries.boxes.weight",  # DAB-Deformable-DETR's
    "tgt_embed.weight": "queries.content.weight",  # DAB-Deformable-DETR's
    "transformer.tgt_embed.weight": "queries.content.weight",  # DINO's
    "transformer.patterns.weight": "queries.patterns.weight",
    "transformer.reference_points.weight": "queries.reference_points.weight",
    "transformer.pos_trans.bias": "queries.pos_trans.bias",
    "transformer.pos_trans_norm.weight": "queries.pos_trans_norm.weight",
    "transformer.enc_output.weight": "queries.proposals.enc_output.weight",
    "transformer.enc_output_norm.bias": "queries.proposals.enc_output_norm.bias",
    "class_embed.weight": "heads.class_embed.0.weight",  # one head for all layers
    "bbox_embed.layers.2.bias": "heads.bbox_embed.0.layers.2.bias",
    "class_embed.6.weight": "heads.class_embed.6.weight",  # a head for each layer, and the encoder's
    "bbox_embed.5.layers.0.weight": "heads.bbox_embed.5.layers.0.weight",
    "transformer.decoder.bbox_embed.layers.0.weight": None,  # the same heads once more
    "transformer.decoder.class_embed.6.bias": None,
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
    "transformer.encoder.norm.weight": "transformer.encoder.norm.weight",
    "transformer.decoder.norm.weight": "heads.norm.weight",
    "class_embed.bias": "heads.class_embed.0.bias",
    "bbox_embed.layers.2.bias": "heads.bbox_embed.0.layers.2.bias",
    "query_embed.weight": "queries.embedding.weight",
}
DEFORMABLE_DETR = {
    "backbone.0.body.conv1.weight": "backbone.conv1.weight",
    "backbone.0.body.layer4.0.downsample.1.running_var": "backbone.layer4.0.downsample.1.running_var",
    "input_proj.0.0.weight": "neck.convs.0.0.weight",
    "input_proj.2.1.bias": "neck.convs.2.1.bias",
    "input_proj.3.0.bias": "neck.extra_convs.0.0.bias",
    "input_proj.4.1.weight": "neck.extra_convs.1.1.weight",
    "query_embed.weight": "queries.embedding.weight",
    "transformer.level_embed": "transformer.level_embeds",
    "transformer.reference_points.bias": "queries.reference_points.bias",
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
    "transformer.enc_output.weight": "queries.proposals.enc_output.weight",
    "transformer.enc_output_norm.bias": "queries.proposals.enc_output_norm.bias",
    "transformer.pos_trans.weight": "queries.pos_trans.weight",
    "transformer.pos_trans_norm.bias": "queries.pos_trans_norm.bias",
    "class_embed.6.weight": "heads.class_embed.6.weight",
    "bbox_embed.5.layers.2.bias": "heads.bbox_embed.5.layers.2.bias",
}
RELATION_DETR = {
    "backbone.layer1.0.downsample.1.running_mean": "backbone.layer1.0.downsample.1.running_mean",
    "neck.convs.2.0.weight": "neck.convs.2.0.weight",
    "neck.convs.3.1.bias": "neck.extra_convs.0.1.bias",
    "denoising_generator.label_encoder.weight": "denoising.label_embedding.weight",
    "transformer.level_embeds": "transformer.level_embeds",
    "transformer.tgt_embed.weight": "queries.content.weight",
    "transformer.enc_output.weight": "queries.proposals.enc_output.weight",
    "transformer.enc_output_norm.bias": "queries.proposals.enc_output_norm.bias",
    "transformer.encoder.layers.0.self_attn.sampling_offsets.bias": (
        "transformer.encoder.layers.0.attentions.0.sampling_offsets.bias"
    ),
    "transformer.encoder.layers.0.linear1.weight": "transformer.encoder.layers.0.ffns.0.layers.0.weight",
    "transformer.encoder.layers.0.norm1.weight": "transformer.encoder.layers.0.norms.0.weight",
    "transformer.encoder.layers.0.norm2.weight": "transformer.encoder.layers.0.norms.1.weight",
    "transformer.encoder.memory_fusion.0.weight": "transformer.encoder.memory_fusion.layers.0.weight",
    "transformer.encoder.memory_fusion.3.bias": "transformer.encoder.memory_fusion.layers.3.bias",
    "transformer.decoder.layers.0.self_attn.in_proj_weight": (
        "transformer.decoder.layers.0.attentions.0.in_proj_weight"
    ),
    "transformer.decoder.layers.0.cross_attn.value_proj.bias": (
        "transformer.decoder.layers.0.attentions.1.value_proj.bias"
    ),
    "transformer.decoder.layers.0.norm1.bias": "transformer.decoder.layers.0.norms.1.bias",  # of cross-attention
    "transformer.decoder.layers.0.norm2.bias": "transformer.decoder.layers.0.norms.0.bias",  # of self-attention
    "transformer.decoder.layers.0.norm3.bias": "transformer.decoder.layers.0.norms.2.bias",
    "transformer.decoder.norm.weight": "heads.norm.weight",
    "transformer.decoder.query_scale.layers.0.weight": "transformer.decoder.query_scale.layers.0.weight",
    "transformer.decoder.ref_point_head.layers.1.weight": "transformer.decoder.ref_point_head.layers.1.weight",
    "transformer.decoder.position_relation_embedding.pos_proj.0.weight": (
        "transformer.decoder.relation.pos_proj.weight"
    ),
    "transformer.decoder.class_head.5.weight": "heads.class_embed.5.weight",
    "transformer.decoder.bbox_head.0.layers.2.bias": "heads.bbox_embed.0.layers.2.bias",
    "transformer.encoder_class_head.bias": "heads.class_embed.6.bias",
    "transformer.encoder_bbox_head.layers.0.weight": "heads.bbox_embed.6.layers.0.weight",
    "transformer.hybrid_class_head.weight": "queries.hybrid.heads.class_embed.0.weight",
    "transformer.hybrid_bbox_head.layers.1.bias": "queries.hybrid.heads.bbox_embed.0.layers.1.bias",
    "transformer.hybrid_tgt_embed.weight": "queries.hybrid.content.weight",
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
    "relation_detr": RELATION_DETR,
    "torchvision": TORCHVISION,
    "detectron2": DETECTRON2,
}


@pytest.mark.parametrize("name", TABLES)
def test_names_translate(name):
    assert {key: BY_NAME[name].rename(key) for key in TABLES[name]} == TABLES[name]


@pytest.mark.parametrize("name", TABLES)
def test_a_map_recognises_its_own_names_and_no_others(name):
    foreign = {other for other in TABLES if BY_NAME[other].matches(TABLES[name])}
    # Relation-DETR is a Deformable DETR, too: `load_checkpoint` takes the map that finds the most places.
    assert foreign == ({name, "deformable_detr"} if name == "relation_detr" else {name})


def test_no_foreign_map_recognises_this_projects_names():
    own = {name for table in (DETREX, DETR, DEFORMABLE_DETR, RELATION_DETR) for name in table.values() if name}
    assert [key_map.name for key_map in KEY_MAPS if key_map.matches(own)] == ["detrex_lite"]


def test_coco_has_80_classes_up_to_id_90():
    assert len(COCO_IDS) == 80
    assert (COCO_IDS[0], COCO_IDS[11], COCO_IDS[-1]) == (1, 13, 90)  # 12 is the first id that COCO left out


def test_coco_class_rows_become_contiguous_only_where_the_model_is_contiguous():
    rows = torch.arange(92.0)[:, None].expand(92, 4)
    adapt = BY_NAME["detr"].adapt
    kept = adapt("heads.class_embed.0.weight", rows, torch.Size([81, 4]))[:, 0].tolist()
    assert kept == [*COCO_IDS, 91]
    assert adapt("heads.class_embed.0.weight", rows, torch.Size([92, 4])) is rows
    assert adapt("queries.embedding.weight", rows, torch.Size([81, 4])) is rows
    of_sigmoid = BY_NAME["deformable_detr"].adapt
    assert of_sigmoid("heads.class_embed.0.weight", rows[:91], torch.Size([80, 4]))[:, 0].tolist() == list(COCO_IDS)
    assert of_sigmoid("heads.class_embed.0.weight", rows[:80], torch.Size([80, 4])).shape == (80, 4)


def test_a_convolution_of_one_cell_becomes_a_linear_layer():
    adapt = BY_NAME["relation_detr"].adapt
    weight = torch.randn(8, 64, 1, 1)
    assert_close(adapt("transformer.decoder.relation.pos_proj.weight", weight, torch.Size([8, 64])), weight[..., 0, 0])
    assert adapt("input_proj.weight", weight, torch.Size([8, 64, 1, 1])) is weight
    assert adapt("other.weight", weight[:4], torch.Size([8, 64])).shape == (4, 64, 1, 1)  # reported as it is stored


# From this project's names to those of others: the reverse of the key maps, written down on its own.
TO_DEFORMABLE_LAYERS = (
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
TO_DEFORMABLE_DETR = (
    (r"^backbone\.", "backbone.0.body."),
    (r"^neck\.convs\.", "input_proj."),
    (r"^neck\.extra_convs\.0", "input_proj.3"),
    (r"^queries\.embedding", "query_embed"),
    (r"^queries\.(proposals\.)?", "transformer."),
    (r"^heads\.", ""),
    (r"level_embeds", "level_embed"),
    *TO_DEFORMABLE_LAYERS,
)
TO_RELATION_DETR = (
    (r"^neck\.extra_convs\.0", "neck.convs.3"),
    (r"^denoising\.label_embedding", "denoising_generator.label_encoder"),
    (r"^queries\.hybrid\.heads\.(class|bbox)_embed\.0", r"transformer.hybrid_\1_head"),
    (r"^queries\.hybrid\.content", "transformer.hybrid_tgt_embed"),
    (r"^queries\.content", "transformer.tgt_embed"),
    (r"^queries\.(proposals\.)?", "transformer."),
    (r"^heads\.(class|bbox)_embed\.6", r"transformer.encoder_\1_head"),
    (r"^heads\.(class|bbox)_embed", r"transformer.decoder.\1_head"),
    (r"^heads\.norm", "transformer.decoder.norm"),
    (r"memory_fusion\.layers", "memory_fusion"),
    (r"relation\.pos_proj", "position_relation_embedding.pos_proj.0"),
    *TO_DEFORMABLE_LAYERS,
)
TO_DETREX_SINGLE_LEVEL = (
    *TO_DETECTRON2_RESNET,
    (r"(ffns\.\d\.layers\.0)\.", r"\1.0."),
    (r"(ffns\.\d)\.activations\.0\.", r"\1.activation."),
    (r"^queries\.embedding", "query_embed"),
    (r"^queries\.boxes", "anchor_box_embed"),
    (r"^queries\.patterns", "transformer.patterns"),
    (r"^denoising\.label_embedding", "denoising_generator.label_encoder"),
    (r"^heads\.(class|bbox)_embed\.0\.", r"\1_embed."),
    (r"^heads\.norm", "transformer.decoder.post_norm_layer"),
    (r"^transformer\.encoder\.norm", "transformer.encoder.post_norm_layer"),
)
TO_DETREX_DEFORMABLE = (
    *TO_DETECTRON2_RESNET,
    (r"(decoder\.layers\.\d\.attentions\.0)\.", r"\1.attn."),
    (r"(ffns\.\d\.layers\.0)\.", r"\1.0."),
    (r"^(neck\.\w+\.\d)\.0\.", r"\1.conv."),
    (r"^(neck\.\w+\.\d)\.1\.", r"\1.norm."),
    (r"^queries\.embedding", "query_embedding"),
    (r"^queries\.boxes", "refpoint_embed"),
    (r"^queries\.content", "tgt_embed"),
    (r"^queries\.(proposals\.)?", "transformer."),
    (r"^denoising\.label_embedding", "denoising_generator.label_encoder"),
    (r"^heads\.(class|bbox)_embed", r"\1_embed"),
)
TO_DETREX_DINO = (
    (r"^queries\.content", "transformer.tgt_embed"),
    (r"^denoising\.label_embedding", "label_enc"),
    (r"^heads\.norm", "transformer.decoder.norm"),
    *TO_DETREX_DEFORMABLE,
)
# Plain attention has torch's module inside in detrex; conditional attention does not.
PLAIN = ((r"(transformer\.\w+\.layers\.\d\.attentions\.\d)\.", r"\1.attn."),)
PLAIN_ENCODER = ((r"(transformer\.encoder\.layers\.\d\.attentions\.0)\.", r"\1.attn."),)


def small(project, **changes):
    """A model config with few channels, as far as names do not depend on it."""
    cfg = get_config(f"projects/{project}/configs/models/{project}_r50.py").model
    cfg.update(**{"embed_dim": 32, "num_queries": 7, **changes})
    cfg.position_embedding.num_pos_feats = 16
    cfg.backbone.depth = 18
    cfg.transformer.encoder.num_layers = 2
    cfg.transformer.encoder.layer.ffn.feedforward_dim = 48
    return instantiate(cfg)


def again_under_the_decoder(state, pattern):
    """`state` with heads stored once more under the decoder, as they are where layers refine boxes."""
    names = [name for name in state if re.match(rf"{pattern}\.", name)]
    return state | {f"transformer.decoder.{name}": state[name] for name in names}


def consistent(model, state):
    """`state` with one value for each parameter that has several names, such as heads that layers share."""
    first_name = {}
    for name, value in model.state_dict().items():
        first = first_name.setdefault((value.data_ptr(), value.shape) if value.numel() else name, name)
        state[name] = state[first]
    return state


def assert_loads_completely(model, state, foreign, key_map, source="auto"):
    report = load_checkpoint(model, foreign, source)
    assert report.key_map == key_map
    assert (report.missing, report.unexpected, report.mismatched) == ([], [], [])
    own = model.state_dict()
    assert own.keys() == state.keys()
    for name, value in state.items():
        assert_close(own[name], value.to(own[name].dtype), rtol=0, atol=0)


VARIANTS = {
    "one_stage": {},
    "refine": {"with_box_refine": True},
    "two_stage": {"with_box_refine": True, "as_two_stage": True},
}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("source", ["auto", "deformable_detr"])
def test_a_checkpoint_of_deformable_detr_loads_completely(variant, source):
    model = small("deformable_detr", **VARIANTS[variant])
    state = consistent(model, random_state(model))
    # 91 classes, and heads once more under the decoder where it refines.
    foreign = renamed(state, *TO_DEFORMABLE_DETR)
    rows = {}
    for name, value in list(foreign.items()):
        if name.startswith("class_embed."):
            key = value.data_ptr()
            if key not in rows:
                rows[key] = torch.randn(91, *value.shape[1:], dtype=value.dtype)
                rows[key][list(COCO_IDS)] = value
            foreign[name] = rows[key]
    again = {"one_stage": "nothing", "refine": "bbox_embed", "two_stage": "(bbox|class)_embed"}[variant]
    foreign = {"model": again_under_the_decoder(foreign, again), "epoch": 49}
    assert_loads_completely(model, state, foreign, "deformable_detr", source)


# project -> (changes, rules, which heads are stored under the decoder, too)
DETREX_FAMILIES = {
    "detr": ({}, (*PLAIN, *TO_DETREX_SINGLE_LEVEL), "nothing"),
    "conditional_detr": ({}, (*PLAIN_ENCODER, *TO_DETREX_SINGLE_LEVEL), "nothing"),
    "group_detr": ({}, (*PLAIN_ENCODER, *TO_DETREX_SINGLE_LEVEL), "nothing"),
    "dab_detr": ({"num_patterns": 3}, (*PLAIN_ENCODER, *TO_DETREX_SINGLE_LEVEL), "bbox_embed"),
    "dn_detr": ({}, (*PLAIN_ENCODER, *TO_DETREX_SINGLE_LEVEL), "bbox_embed"),
    "deformable_detr": (VARIANTS["two_stage"], TO_DETREX_DEFORMABLE, "(bbox|class)_embed"),
    "h_deformable_detr": ({"num_queries_one2many": 5}, TO_DETREX_DEFORMABLE, "(bbox|class)_embed"),
    "dab_deformable_detr": ({}, TO_DETREX_DEFORMABLE, "bbox_embed"),
    "dn_deformable_detr": ({}, TO_DETREX_DEFORMABLE, "bbox_embed"),
    "dino": ({}, TO_DETREX_DINO, "(bbox|class)_embed"),
}


@pytest.mark.parametrize("project", DETREX_FAMILIES)
def test_a_checkpoint_of_detrex_loads_completely(project):
    changes, rules, again = DETREX_FAMILIES[project]
    model = small(project, **changes)
    state = consistent(model, random_state(model))
    if project in ("detr", "conditional_detr", "group_detr", "dab_detr", "dn_detr"):  # one head is stored once
        stored = {name: value for name, value in state.items() if not re.search(r"_embed\.[1-9]\.", name)}
    else:
        stored = state
    foreign = again_under_the_decoder(renamed(stored, *rules), again)
    assert_loads_completely(model, state, {"model": foreign}, "detrex")


def test_a_checkpoint_of_relation_detr_loads_completely():
    model = small("relation_detr", num_queries_one2many=5)
    state = random_state(model)
    foreign = renamed(state, *TO_RELATION_DETR)
    name = "transformer.decoder.position_relation_embedding.pos_proj.0.weight"
    foreign[name] = foreign[name][..., None, None]
    assert_loads_completely(model, state, foreign, "relation_detr")
    # Without the branch, which is for training, its weights are left over.
    report = load_checkpoint(small("relation_detr", num_queries_one2many=0), foreign)
    assert report.missing == []
    assert all(key.startswith("transformer.hybrid_") for key in report.unexpected)
    assert report.unexpected
