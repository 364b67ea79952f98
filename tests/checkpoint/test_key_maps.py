import pytest
import torch

from detrex_lite.checkpoint import KEY_MAPS
from detrex_lite.checkpoint.key_maps import COCO_IDS

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
TABLES = {"detrex": DETREX, "detr": DETR, "torchvision": TORCHVISION, "detectron2": DETECTRON2}


@pytest.mark.parametrize("name", TABLES)
def test_names_translate(name):
    assert {key: BY_NAME[name].rename(key) for key in TABLES[name]} == TABLES[name]


@pytest.mark.parametrize("name", TABLES)
def test_a_map_recognises_its_own_names_and_no_others(name):
    foreign = {other for other in TABLES if BY_NAME[other].matches(TABLES[name])}
    assert foreign == {name}


def test_no_foreign_map_recognises_this_projects_names():
    own = {name for name in DETREX.values() if name} | {name for name in DETR.values() if name}
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
