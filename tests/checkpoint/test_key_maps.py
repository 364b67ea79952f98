import re

import pytest
import torch
from torch.testing import assert_close

from detrex_lite.checkpoint import KEY_MAPS, CheckpointError, convert_state_dict, load_checkpoint
from detrex_lite.checkpoint.key_maps import COCO_IDS, KeyMap, split_part, translate
from detrex_lite.checkpoint.key_maps.conversions import CocoRows, LinearAsConvolution, ObjectnessRows
from detrex_lite.config import get_config, instantiate

from .models import TO_DETECTRON2_RESNET, random_state, renamed


@pytest.mark.parametrize(
    ("template", "to", "name", "expected"),
    [
        ("a.#.norm1.", "b.#.norms.0.", "a.12.norm1.weight", "b.12.norms.0.weight"),
        ("a.@_head.#.", "heads.@.#.", "a.class_head.5.weight", "heads.class.5.weight"),
        ("level", "levels", "level", "levels"),
        ("level", "levels", "level.weight", None),  # without a dot at the end a template matches whole names only
        ("a.", "b.", "c.a.weight", None),
        ("a.#.", "b.#.", "a.x.weight", None),
    ],
)
def test_translate_applies_a_template(template, to, name, expected):
    assert translate(name, template, to) == expected


def test_the_first_matching_rule_translates_a_name():
    key_map = KeyMap("mine", (), (("a.norm.", "x.bn."), ("a.", "x.")), ignored=("a.fc.",))
    assert [key_map.rename(key) for key in ("a.norm.weight", "a.conv.weight", "a.fc.bias", "b")] == [
        "x.bn.weight",
        "x.conv.weight",
        None,
        "b",
    ]
    assert [key_map.rename_back(name) for name in ("x.bn.weight", "x.conv.weight")] == [
        "a.norm.weight",
        "a.conv.weight",
    ]


def test_split_part_reads_index_and_number_of_parts():
    assert split_part("in_proj_weight[1/3]") == ("in_proj_weight", 1, 3)
    assert split_part("in_proj_weight") == ("in_proj_weight", 0, 1)


def test_coco_has_80_classes_up_to_id_90():
    assert len(COCO_IDS) == 80
    assert (COCO_IDS[0], COCO_IDS[11], COCO_IDS[-1]) == (1, 13, 90)  # 12 is the first unused id


def test_rows_by_coco_id_become_rows_by_class_and_back():
    rows = torch.arange(92.0)[:, None].expand(92, 4)
    heads = CocoRows("heads.class_embed.#.")
    assert heads.applies("heads.class_embed.3.bias", ())
    assert not heads.applies("queries.embedding.weight", ())
    assert heads.read(rows, torch.Size([81, 4]))[:, 0].tolist() == [*COCO_IDS, 91]  # softmax: plus "no object"
    assert heads.read(rows[:91], torch.Size([80, 4]))[:, 0].tolist() == list(COCO_IDS)
    for value, shape in ((rows, (92, 4)), (rows[:80], (80, 4)), (rows, (21, 4)), (rows, (80, 4))):
        assert heads.read(value, torch.Size(shape)) is value
    label_embedding = CocoRows("denoising.label_embedding.", spare=1)
    assert label_embedding.read(rows, torch.Size([80, 4]))[:, 0].tolist() == list(COCO_IDS)

    for conversion, size in ((heads, 80), (heads, 81), (label_embedding, 80)):
        weight, bias = torch.randn(size, 4), torch.randn(size)
        written = conversion.write("heads.class_embed.0.weight", weight)
        assert written.shape[0] == 91 + (size - 80) + conversion.spare
        assert_close(conversion.read(written, weight.shape), weight)
        assert written[0].abs().max() == 0
        written = conversion.write("heads.class_embed.0.bias", bias)
        assert_close(conversion.read(written, bias.shape), bias)
        assert written[12].sigmoid() == 0  # classes of unused ids are never detected
    other_classes = torch.randn(7, 4)
    assert heads.write("heads.class_embed.0.weight", other_classes) is other_classes


def test_the_objectness_row_of_the_encoder_is_kept():
    names = ["queries.proposals.enc_output.weight", *(f"heads.class_embed.{index}.weight" for index in range(3))]
    rows = ObjectnessRows()
    assert [rows.applies(name, names) for name in names] == [False, False, False, True]
    assert not any(rows.applies(name, names[1:]) for name in names)  # one stage: the encoder has no head
    assert rows.read(torch.arange(91.0), torch.Size([80])).tolist() == [0, *COCO_IDS[1:]]
    assert_close(rows.read(rows.write("bias", torch.arange(80.0)), torch.Size([80])), torch.arange(80.0))


def test_a_1x1_convolution_becomes_a_linear_layer():
    conversion = LinearAsConvolution("transformer.decoder.relation.pos_proj.weight")
    weight = torch.randn(8, 64, 1, 1)
    assert_close(conversion.read(weight, torch.Size([8, 64])), weight[..., 0, 0])
    assert_close(conversion.write("any", weight[..., 0, 0]), weight)
    # A wrong shape is kept, to be reported as it is stored.
    assert conversion.read(weight[:4], torch.Size([8, 64])).shape == (4, 64, 1, 1)


# Rules from this project's names to those of other projects: the inverse of the key maps, written independently.
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
    (r"^branch\.heads\.(class|bbox)_embed\.0", r"transformer.hybrid_\1_head"),
    (r"^branch\.content", "transformer.hybrid_tgt_embed"),
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
TO_DETREX_ANCHOR = (
    (r"^backbone\.", "backbone.body."),
    (r"\.(encoder|decoder)\.layers\.", r".\1_layers."),
    (r"attentions\.0", "self_attn"),
    (r"attentions\.1", "cross_attn"),
    (r"ffns\.0\.layers\.0", "ffn.linear1"),
    (r"ffns\.0\.layers\.1", "ffn.linear2"),
    (r"(encoder_layers\.\d)\.norms\.0", r"\1.norm1"),
    (r"(encoder_layers\.\d)\.norms\.1", r"\1.ffn.norm2"),
    (r"(decoder_layers\.\d)\.norms\.0", r"\1.norm2"),
    (r"(decoder_layers\.\d)\.norms\.1", r"\1.norm1"),
    (r"(decoder_layers\.\d)\.norms\.2", r"\1.ffn.norm2"),
    (r"^position_embedding\.axis_head\.layers\.", "transformer.adapt_pos1d."),
    (r"^position_embedding\.point_head\.layers\.", "transformer.adapt_pos2d."),
    (r"(adapt_pos\dd)\.1\.", r"\1.2."),
    (r"^queries\.points", "transformer.position.weight"),
    (r"^queries\.patterns", "transformer.pattern"),
    (r"^heads\.", "transformer."),
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
    (r"memory_fusion\.layers", "fusion_layer"),
    *TO_DETREX_DEFORMABLE,
)
# In detrex, plain attention wraps torch's module; conditional attention does not.
PLAIN = ((r"(transformer\.\w+\.layers\.\d\.attentions\.\d)\.", r"\1.attn."),)
PLAIN_ENCODER = ((r"(transformer\.encoder\.layers\.\d\.attentions\.0)\.", r"\1.attn."),)


def small(project, **changes):
    """A detector of a project with few channels and layers, where names do not depend on these."""
    cfg = get_config(f"projects/{project}/configs/models/{project}_r50.py").model
    cfg.update(**{"embed_dim": 32, "num_queries": 7, **changes})
    cfg.position_embedding.num_pos_feats = 16
    cfg.backbone.depth = 18
    cfg.transformer.encoder.num_layers = 2
    cfg.transformer.encoder.layer.ffn.feedforward_dim = 48
    return instantiate(cfg)


def with_heads_under_the_decoder(state, pattern):
    """`state` with the heads stored under the decoder as well, as in detectors that refine boxes in each layer."""
    names = [name for name in state if re.match(rf"{pattern}\.", name)]
    return state | {f"transformer.decoder.{name}": state[name] for name in names}


def with_shared_values(model, state):
    """`state` with equal values under all names of a shared parameter, such as heads that layers share."""
    first_name = {}
    for name, value in model.state_dict().items():
        first = first_name.setdefault((value.data_ptr(), value.shape) if value.numel() else name, name)
        state[name] = state[first]
    return state


def assert_loads_completely(model, state, foreign, key_map, source="auto"):
    report = load_checkpoint(model, foreign, source)
    assert report.key_map == key_map
    assert (report.missing, report.unexpected, report.mismatched) == ([], [], [])
    loaded = model.state_dict()
    assert loaded.keys() == state.keys()
    for name, value in state.items():
        assert_close(loaded[name], value.to(loaded[name].dtype), rtol=0, atol=0)


VARIANTS = {
    "one_stage": {},
    "refine": {"with_box_refine": True},
    "two_stage": {"with_box_refine": True, "as_two_stage": True},
}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("source", ["auto", "deformable_detr"])
def test_a_checkpoint_of_deformable_detr_loads_completely(variant, source):
    model = small("deformable_detr", **VARIANTS[variant])
    state = with_shared_values(model, random_state(model))
    # The class heads have 91 rows; heads are also stored under the decoder if it refines boxes.
    foreign = renamed(state, *TO_DEFORMABLE_DETR)
    rows = {}
    for name, value in list(foreign.items()):
        if name.startswith("class_embed."):
            key = value.data_ptr()
            if key not in rows:
                rows[key] = torch.randn(91, *value.shape[1:], dtype=value.dtype)
                objectness = name.startswith("class_embed.6.")
                rows[key][[0, *COCO_IDS[1:]] if objectness else list(COCO_IDS)] = value
            foreign[name] = rows[key]
    repeated = {"one_stage": "nothing", "refine": "bbox_embed", "two_stage": "(bbox|class)_embed"}[variant]
    foreign = {"model": with_heads_under_the_decoder(foreign, repeated), "epoch": 49}
    assert_loads_completely(model, state, foreign, "deformable_detr", source)


# project -> (changes, rules, pattern of the heads that are also stored under the decoder)
DETREX_FAMILIES = {
    "detr": ({}, (*PLAIN, *TO_DETREX_SINGLE_LEVEL), "nothing"),
    "conditional_detr": ({}, (*PLAIN_ENCODER, *TO_DETREX_SINGLE_LEVEL), "nothing"),
    "group_detr": ({}, (*PLAIN_ENCODER, *TO_DETREX_SINGLE_LEVEL), "nothing"),
    "dab_detr": ({"num_patterns": 3}, (*PLAIN_ENCODER, *TO_DETREX_SINGLE_LEVEL), "bbox_embed"),
    "dn_detr": ({}, (*PLAIN_ENCODER, *TO_DETREX_SINGLE_LEVEL), "bbox_embed"),
    "anchor_detr": ({}, TO_DETREX_ANCHOR, "nothing"),
    "deformable_detr": (VARIANTS["two_stage"], TO_DETREX_DEFORMABLE, "(bbox|class)_embed"),
    "h_deformable_detr": ({"num_queries_one2many": 5}, TO_DETREX_DEFORMABLE, "(bbox|class)_embed"),
    "deta": ({}, TO_DETREX_DEFORMABLE, "(bbox|class)_embed"),
    "dab_deformable_detr": ({}, TO_DETREX_DEFORMABLE, "bbox_embed"),
    "dn_deformable_detr": ({}, TO_DETREX_DEFORMABLE, "bbox_embed"),
    "dino": ({}, TO_DETREX_DINO, "(bbox|class)_embed"),
    "stable_dino": ({}, TO_DETREX_DINO, "(bbox|class)_embed"),
}


@pytest.mark.parametrize("project", DETREX_FAMILIES)
def test_a_checkpoint_of_detrex_loads_completely(project):
    changes, rules, repeated = DETREX_FAMILIES[project]
    model = small(project, **changes)
    state = with_shared_values(model, random_state(model))
    # Heads that layers share are stored once.
    if project in ("detr", "conditional_detr", "group_detr", "dab_detr", "dn_detr"):
        stored = {name: value for name, value in state.items() if not re.search(r"_embed\.[1-9]\.", name)}
    else:
        stored = state
    foreign = with_heads_under_the_decoder(renamed(stored, *rules), repeated)
    assert_loads_completely(model, state, {"model": foreign}, "detrex")


def test_a_checkpoint_of_relation_detr_loads_completely():
    model = small("relation_detr", num_queries_one2many=5)
    state = random_state(model)
    foreign = renamed(state, *TO_RELATION_DETR)
    name = "transformer.decoder.position_relation_embedding.pos_proj.0.weight"
    foreign[name] = foreign[name][..., None, None]
    assert_loads_completely(model, state, foreign, "relation_detr")
    # In a model without the training branch, the weights of the branch are unexpected.
    report = load_checkpoint(small("relation_detr", num_queries_one2many=0), foreign)
    assert report.missing == []
    assert all(key.startswith("transformer.hybrid_") for key in report.unexpected)
    assert report.unexpected


# project -> (changes, the formats that support the detector)
FORMATS = {
    "detr": ({}, ["detrex", "detr"]),
    "conditional_detr": ({}, ["detrex", "conditional_detr"]),
    "dab_detr": ({"num_patterns": 3}, ["detrex", "dab_detr"]),
    "dn_detr": ({}, ["detrex", "dab_detr"]),
    "group_detr": ({}, ["detrex", "conditional_detr"]),
    "anchor_detr": ({}, ["detrex", "anchor_detr"]),
    "deformable_detr": ({}, ["detrex", "deformable_detr"]),
    "deformable_detr two stages": (VARIANTS["two_stage"], ["detrex", "deformable_detr"]),
    "h_deformable_detr": ({"num_queries_one2many": 5}, ["detrex", "deformable_detr"]),
    "deta": ({}, ["detrex", "deformable_detr"]),
    "dab_deformable_detr": ({}, ["detrex", "deformable_detr"]),
    "dn_deformable_detr": ({}, ["detrex", "deformable_detr"]),
    "dino": ({}, ["detrex", "dino"]),
    "stable_dino": ({}, ["detrex"]),
    "relation_detr": ({"num_queries_one2many": 5}, ["relation_detr"]),
}


@pytest.mark.parametrize(
    ("project", "target"), [(project, target) for project, (_, targets) in FORMATS.items() for target in targets]
)
def test_converting_to_a_format_and_back_restores_all_weights(project, target):
    model = small(project.split()[0], **FORMATS[project][0])
    state = with_shared_values(model, random_state(model))
    foreign = convert_state_dict(state, target)
    assert not any(name.startswith(("heads.", "queries.", "denoising.")) for name in foreign)
    assert_loads_completely(model, state, foreign, target)


def test_converting_to_a_format_without_the_detector_raises_an_error():
    relation = small("relation_detr", num_queries_one2many=5)
    with pytest.raises(CheckpointError, match=r"dino has no equivalent detector: .*branch\."):
        convert_state_dict(relation.state_dict(), "dino")
    refining = small("deformable_detr", with_box_refine=True)
    with pytest.raises(CheckpointError, match="detr has no equivalent detector"):
        convert_state_dict(refining.state_dict(), "detr")
    with pytest.raises(CheckpointError, match="format 'detrx'; did you mean 'detrex'"):
        convert_state_dict(refining.state_dict(), "detrx")


@pytest.mark.parametrize("project", [project for project in FORMATS if " " not in project])
def test_no_key_map_of_another_project_recognises_the_names_of_this_project(project):
    names = small(project, **FORMATS[project][0]).state_dict()
    assert [key_map.name for key_map in KEY_MAPS if key_map.matches(names)] == ["detrex_lite"]
