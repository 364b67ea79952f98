"""Names of Hugging Face's transformers: DETR, Conditional DETR, DAB-DETR, Deformable DETR, RT-DETR, D-FINE.

Version 5 of transformers changed names in the models, and kept those of version 4 in the files of `save_pretrained`.
Both are read. Weights are written as the state dict of a model of version 5, with a timm backbone
(`use_timm_backbone=True`).
"""

from functools import partial

from .backbones import transformers_resnet
from .common import HEADS, MASK_HEAD, PROPOSALS, has_proposals, layers, levels, refines_boxes, under, with_masks
from .conversions import CocoRows, ObjectnessRows
from .key_map import Copy, KeyMap, Rules
from .rtdetr import fusion_blocks

_MLP = {"mlp.fc1": "ffns.0.layers.0", "mlp.fc2": "ffns.0.layers.1"}
_FC = {"fc1": "ffns.0.layers.0", "fc2": "ffns.0.layers.1"}  # in version 4, and in DAB-DETR's encoder
_OUTPUTS = ("o_proj", "out_proj")  # in versions 5 and 4
_ENCODER_NORMS = {"self_attn_layer_norm": "norms.0", "final_layer_norm": "norms.1"}
_DECODER_NORMS = {
    "self_attn_layer_norm": "norms.0",
    "encoder_attn_layer_norm": "norms.1",
    "final_layer_norm": "norms.2",
}
# The projections of conditional attention; in version 4 their names are sa_qcontent_proj, etc.
_PROJECTIONS = {
    "q_content": "query_content",
    "q_pos": "query_pos",
    "q_pos_sine": "query_pos_sine",
    "k_content": "key_content",
    "k_pos": "key_pos",
    "v": "value",
}


def _layers(stack: str, names: dict[str, str]) -> Rules:
    """Make the rules of modules inside the layers of encoder or decoder, by the other project's names."""
    return under("model.", layers(stack, names))


def attention(stack: str, foreign: str, number: int) -> Rules:
    """Make the rules of an attention block in the layers of encoder or decoder."""
    return _projections(f"model.{stack}.layers.#.{foreign}", f"transformer.{stack}.layers.#.attentions.{number}")


def _projections(foreign: str, native: str) -> Rules:
    """Make the rules of attention with three input projections, which are one parameter here, and an output one."""
    return (
        *((f"{foreign}.{part}_proj.@", f"{native}.in_proj_@[{index}/3]") for index, part in enumerate("qkv")),
        *((f"{foreign}.{output}.", f"{native}.out_proj.") for output in _OUTPUTS),
    )


_ENCODER: Rules = (
    *attention("encoder", "self_attn", 0),
    *_layers("encoder", {**_MLP, **_FC, **_ENCODER_NORMS}),
)

_COMMON: Rules = (
    *transformers_resnet("model.backbone.model."),
    *transformers_resnet("model.backbone.conv_encoder.model."),
    ("model.query_position_embeddings.", "queries.embedding."),
)
_SINGLE_LEVEL: Rules = (
    *_COMMON,
    ("model.input_projection.", "input_proj."),
    ("model.decoder.layernorm.", "heads.norm."),
    ("class_labels_classifier.", "heads.class_embed.0."),
    ("bbox_predictor.", "heads.bbox_embed.0."),
)
_POSITIONS: Rules = (
    ("model.@.query_scale.", "transformer.@.query_scale."),
    ("model.decoder.ref_@_head.", "transformer.decoder.ref_@_head."),
)

_CLASS_ROWS = CocoRows("heads.class_embed.#.")
# Names of backbones.
_CONVOLUTION = {"convolution": "conv", "normalization": "norm"}

_format = partial(KeyMap, "transformers", entry="", exhaustive=True)

DETR = _format(
    signature=("model.decoder.layers.#.encoder_attn.q_proj.weight", "class_labels_classifier.weight"),
    rules=(
        *_ENCODER,
        *attention("decoder", "self_attn", 0),
        *attention("decoder", "encoder_attn", 1),
        *_layers("decoder", {**_MLP, **_FC, **_DECODER_NORMS}),
        *_SINGLE_LEVEL,
    ),
    conversions=(_CLASS_ROWS,),
    one_head=True,
)


def _mask_head() -> Rules:
    """Make the rules of the mask head of DetrForSegmentation."""
    rules = [(f"bbox_attention.{name[0]}_proj.", f"mask_head.{name}_proj.") for name in ("query", "key")]
    blocks = ["conv1", "conv2", *(f"fpn_stages.{step}.refine" for step in range(3))]
    for number, block in enumerate(blocks):
        rules += [(f"mask_head.{block}.{part}.", f"mask_head.{part}s.{number}.") for part in ("conv", "norm")]
    return (
        *rules,
        ("mask_head.fpn_stages.#.fpn_adapter.", "mask_head.adapters.#."),
        ("mask_head.output_conv.", "mask_head.predict."),
        *MASK_HEAD,
    )


DETR_WITH_MASKS = with_masks(DETR, _mask_head())


def _conditional_attention(foreign: str, number: int, old_prefix: str) -> Rules:
    """before: the prefix of the projections' names in version 4, where they belonged to the layer."""
    native = {part: f"attentions.{number}.{projection}_proj" for part, projection in _PROJECTIONS.items()}
    return _layers(
        "decoder",
        {
            **{f"{foreign}.{output}": f"attentions.{number}.out_proj" for output in _OUTPUTS},
            **{f"{foreign}.{part}_proj": name for part, name in native.items()},
            **{f"{old_prefix}_{part.replace('_', '', 1)}_proj": name for part, name in native.items()},
        },
    )


CONDITIONAL_DETR = _format(
    signature=("model.decoder.ref_point_head.layers.#.weight", "class_labels_classifier.weight"),
    rules=(
        *_ENCODER,
        *_conditional_attention("self_attn", 0, "sa"),
        *_conditional_attention("encoder_attn", 1, "ca"),
        *_layers("decoder", {**_MLP, **_FC, **_DECODER_NORMS}),
        *_POSITIONS,
        *_SINGLE_LEVEL,
    ),
    conversions=(_CLASS_ROWS,),
    one_head=True,
)

DAB_DETR = _format(
    signature=("model.query_refpoint_embeddings.weight", "model.decoder.ref_point_head.layers.#.weight"),
    rules=(
        *transformers_resnet("model.backbone.conv_encoder.model._backbone."),
        *_layers(
            "encoder",
            {
                "self_attn.out_proj": "attentions.0.out_proj",  # the same name in both versions
                "activation_fn": "ffns.0.activations.0",
                **_FC,
                **_ENCODER_NORMS,
            },
        ),
        *attention("encoder", "self_attn", 0),
        *_layers(
            "decoder",
            {
                "self_attn.self_attn.output_proj": "attentions.0.out_proj",
                "cross_attn.cross_attn.output_proj": "attentions.1.out_proj",
                "self_attn.self_attn_@_proj": "attentions.0.@_proj",
                "cross_attn.cross_attn_@_proj": "attentions.1.@_proj",
                "self_attn.self_attn_layer_norm": "norms.0",
                "cross_attn.cross_attn_layer_norm": "norms.1",
                "mlp.final_layer_norm": "norms.2",
                "mlp.activation_fn": "ffns.0.activations.0",
                **_MLP,
            },
        ),
        ("model.query_refpoint_embeddings.", "queries.boxes."),
        ("model.patterns.", "queries.patterns."),
        ("class_embed.@", "heads.class_embed.0.@"),
        *_POSITIONS,
        *_SINGLE_LEVEL,
    ),
    copies=(Copy("model.decoder.bbox_embed.", "bbox_predictor."),),
    conversions=(_CLASS_ROWS,),
    one_head=True,
)

DEFORMABLE_DETR = _format(
    signature=("model.decoder.layers.#.encoder_attn.sampling_offsets.weight", "model.level_embed"),
    rules=(
        *_layers("encoder", {"self_attn": "attentions.0", **_MLP, **_FC, **_ENCODER_NORMS}),
        *attention("decoder", "self_attn", 0),
        *_layers("decoder", {"encoder_attn": "attentions.1", **_MLP, **_FC, **_DECODER_NORMS}),
        *levels("model.input_proj", 3),
        ("model.level_embed", "transformer.level_embeds"),
        ("model.reference_points.", "queries.reference_points."),
        *under("model.", PROPOSALS),
        *_COMMON,
        *HEADS,
    ),
    copies=(
        Copy("model.decoder.bbox_embed.", "bbox_embed.", when=refines_boxes),
        Copy("model.decoder.class_embed.", "class_embed.", when=has_proposals),
    ),
    conversions=(ObjectnessRows(), _CLASS_ROWS),
    repeated_heads=True,
)


def _hybrid_encoder_and_decoder(mlp: dict[str, str]) -> Rules:
    """Make the rules shared by RT-DETR and D-FINE. Attention within a level has the names of versions 5 and 4.

    Args:
        mlp: modules of FFNs in version 5, by the other project's names.
    """
    rules: list[tuple[str, str]] = []
    for foreign, native in (("0", "conv"), ("1", "norm")):
        rules += [
            (f"model.encoder_input_proj.#.{foreign}.", f"neck.projections.#.{native}."),
            (f"model.decoder_input_proj.#.{foreign}.", f"neck.outputs.#.{native}."),
        ]
    for encoder in ("aifi", "encoder"):
        foreign_prefix, native_prefix = f"model.encoder.{encoder}.#.layers.#.", "neck.encoders.#.layers.#."
        rules += _projections(f"{foreign_prefix}self_attn", f"{native_prefix}attentions.0")
        names = {**mlp, **_FC, **_ENCODER_NORMS}
        rules += [(f"{foreign_prefix}{foreign}.", f"{native_prefix}{native}.") for foreign, native in names.items()]
    return (
        *rules,
        ("model.encoder.lateral_convs.#.", "neck.laterals.#."),
        *attention("decoder", "self_attn", 0),
        *_layers("decoder", {**mlp, **_FC}),
        ("model.decoder.query_pos_head.", "transformer.decoder.position_head."),
        ("model.denoising_class_embed.", "denoising.label_embedding."),
        ("model.weight_embedding.", "queries.content."),
        ("model.enc_output.0.", "queries.proposals.enc_output."),
        ("model.enc_output.1.", "queries.proposals.enc_output_norm."),
        ("model.enc_score_head.", "heads.class_embed.encoder."),
        ("model.enc_bbox_head.", "heads.bbox_embed.encoder."),
        ("model.decoder.class_embed.#.", "heads.class_embed.#."),
        ("model.decoder.bbox_embed.#.", "heads.bbox_embed.#."),
        *HEADS,  # some files contain them twice
    )


def _rtdetr() -> KeyMap:
    """Make the map of RT-DETR and RT-DETRv2."""
    stages, native_stages = "model.backbone.model.encoder.stages", "backbone.stages"
    rules: list[tuple[str, str]] = []
    for foreign, native in _CONVOLUTION.items():
        rules += [
            (f"model.backbone.model.embedder.embedder.#.{foreign}.", f"backbone.stem.#.{native}."),
            (f"{stages}.#.layers.#.layer.#.{foreign}.", f"{native_stages}.#.#.convs.#.{native}."),
            # Shortcuts of the other stages have a pooling layer before the convolution.
            (f"{stages}.0.layers.#.shortcut.{foreign}.", f"{native_stages}.0.#.shortcut.{native}."),
            (f"{stages}.#.layers.#.shortcut.1.{foreign}.", f"{native_stages}.#.#.shortcut.{native}."),
        ]
    return _format(
        signature=("model.decoder.query_pos_head.layers.#.weight", "model.encoder_input_proj.#.0.weight"),
        rules=(
            *rules,
            *fusion_blocks("model.encoder.fpn_blocks.#", "neck.top_down.#"),
            *fusion_blocks("model.encoder.pan_blocks.#", "neck.bottom_up.#"),
            ("model.encoder.downsample_convs.#.", "neck.downsamples.#."),
            *_layers("decoder", {"encoder_attn": "attentions.1", **_DECODER_NORMS}),
            *_hybrid_encoder_and_decoder(_MLP),
        ),
        ignored=("model.decoder.layers.#.encoder_attn.n_points_scale",),
    )


def _dfine() -> KeyMap:
    """Make the map of D-FINE, and of DEIM based on it."""
    rules: list[tuple[str, str]] = []
    for foreign, native in {**_CONVOLUTION, "lab": "act"}.items():
        rules += [(f"model.backbone.model.embedder.@.{foreign}.", f"backbone.stem.@.{native}.")]
        for part in ("#.downsample", "#.blocks.#.layers.#", "#.blocks.#.layers.#.@", "#.blocks.#.aggregation.#"):
            rules += [(f"model.backbone.model.encoder.stages.{part}.{foreign}.", f"backbone.stages.{part}.{native}.")]
    for foreign, native in (("fpn_blocks", "top_down"), ("pan_blocks", "bottom_up")):
        foreign_prefix, native_prefix = f"model.encoder.{foreign}.#", f"neck.{native}.#"
        rules += [
            *fusion_blocks(f"{foreign_prefix}.csp_rep1", f"{native_prefix}.stages.0.0"),
            *fusion_blocks(f"{foreign_prefix}.csp_rep2", f"{native_prefix}.stages.1.0"),
            (f"{foreign_prefix}.conv1.", f"{native_prefix}.conv1."),
            (f"{foreign_prefix}.conv2.", f"{native_prefix}.stages.0.1."),
            (f"{foreign_prefix}.conv3.", f"{native_prefix}.stages.1.1."),
            (f"{foreign_prefix}.conv4.", f"{native_prefix}.conv2."),
        ]
    return _format(
        signature=("model.decoder.pre_bbox_head.layers.#.weight", "model.encoder_input_proj.#.0.weight"),
        rules=(
            *rules,
            ("model.encoder.downsample_convs.#.conv1.", "neck.downsamples.#.pointwise."),
            ("model.encoder.downsample_convs.#.conv2.", "neck.downsamples.#.depthwise."),
            *_layers(
                "decoder",
                {
                    "encoder_attn": "attentions.1.attention",
                    "gateway": "attentions.1",
                    "self_attn_layer_norm": "norms.0",
                    "final_layer_norm": "norms.1",
                },
            ),
            ("model.decoder.pre_bbox_head.", "heads.pre_bbox_embed."),
            ("model.decoder.lqe_layers.#.reg_conf.", "heads.quality_embed.#.mlp."),
            *_hybrid_encoder_and_decoder({"mlp.layers": "ffns.0.layers"}),
        ),
        ignored=(
            "model.decoder.layers.#.encoder_attn.num_points_scale",
            "model.decoder.up",
            "model.decoder.reg_scale",
        ),
    )


RTDETR = _rtdetr()
DFINE = _dfine()

MAPS = (DETR, *DETR_WITH_MASKS, CONDITIONAL_DETR, DAB_DETR, DEFORMABLE_DETR, RTDETR, DFINE)
