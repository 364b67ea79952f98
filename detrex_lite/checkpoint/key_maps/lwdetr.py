"""Names of LW-DETR and RF-DETR in their own repositories and in transformers, and of their pre-trained backbones."""

from .backbones import transformers_cae, transformers_dinov2
from .common import ONE_HEAD, layers, under
from .conversions import CocoRows
from .key_map import KeyMap, Rules
from .transformers import attention

# Group 0 is used in evaluation, and has the names of the two stages in other detectors.
_TWO_STAGES: Rules = tuple(
    rule
    for group, proposals, heads in (
        ("0", "queries.proposals", "heads.@_embed.encoder"),
        ("#", "queries.group_proposals.#", "heads.group_heads.#.@_embed"),
    )
    for rule in (
        (f"enc_output.{group}.", f"{proposals}.enc_output."),
        (f"enc_output_norm.{group}.", f"{proposals}.enc_output_norm."),
        *((f"enc_out_{head}_embed.{group}.", f"{heads.replace('@', head)}.") for head in ("class", "bbox")),
    )
)
_CLASS_ROWS = (CocoRows("heads.class_embed.#."), CocoRows("heads.group_heads.#.class_embed."))


def _projector(prefix: str) -> Rules:
    """Make the rules of the neck in both repositories, under the prefix `prefix`."""
    c2f = {"conv": "conv", "bn": "norm"}
    return (
        *(
            rule
            for part, native in c2f.items()
            for rule in (
                (f"{prefix}stages.#.0.cv#.{part}.", f"neck.fusions.#.conv#.{native}."),
                (f"{prefix}stages.#.0.m.#.cv1.{part}.", f"neck.fusions.#.bottlenecks.#.0.{native}."),
                (f"{prefix}stages.#.0.m.#.cv2.{part}.", f"neck.fusions.#.bottlenecks.#.1.{native}."),
                (f"{prefix}stages_sampling.#.#.#.{part}.", f"neck.resamplers.#.#.#.{native}."),
            )
        ),
        (f"{prefix}stages.#.1.", "neck.norms.#."),
        (f"{prefix}stages_sampling.#.#.#.", "neck.resamplers.#.#.#."),
    )


_DETECTOR: Rules = (
    *_projector("backbone.0.projector."),
    *under(
        "transformer.",
        layers(
            "decoder",
            {
                "self_attn": "attentions.0",
                "cross_attn": "attentions.1",
                "linear1": "ffns.0.layers.0",
                "linear2": "ffns.0.layers.1",
                "norm1": "norms.0",
                "norm2": "norms.1",
                "norm3": "norms.2",
            },
        ),
    ),
    ("transformer.decoder.norm.", "heads.norm."),
    *under("transformer.", _TWO_STAGES),
    ("query_feat.", "queries.content."),
    ("refpoint_embed.", "queries.box_offsets."),
    *ONE_HEAD,
)

LW_DETR = KeyMap(
    "lwdetr",
    signature=("backbone.0.encoder.blocks.#.attn.q_bias", "transformer.enc_out_class_embed.0.weight"),
    rules=(("backbone.0.encoder.", "backbone."), *_DETECTOR),
    conversions=_CLASS_ROWS,
    one_head=True,
)

_DINOV2 = "backbone.0.encoder.encoder."
RF_DETR = KeyMap(
    "rfdetr",
    signature=(f"{_DINOV2}embeddings.cls_token", "transformer.enc_out_class_embed.0.weight"),
    rules=(*transformers_dinov2(_DINOV2, version=4), *_DETECTOR),
    ignored=(f"{_DINOV2}embeddings.mask_token",),  # used in pre-training only
    conversions=_CLASS_ROWS,
    one_head=True,
)

_COMMON_OF_TRANSFORMERS: Rules = (
    *attention("decoder", "self_attn", 0),
    *under(
        "model.",
        layers(
            "decoder",
            {
                "cross_attn": "attentions.1",
                "mlp.fc1": "ffns.0.layers.0",
                "mlp.fc2": "ffns.0.layers.1",
                "self_attn_layer_norm": "norms.0",
                "cross_attn_layer_norm": "norms.1",
                "layer_norm": "norms.2",
            },
        ),
    ),
    ("model.decoder.layernorm.", "heads.norm."),
    ("model.decoder.ref_point_head.", "transformer.decoder.ref_point_head."),
    *under("model.", _TWO_STAGES),
    ("model.query_feat.", "queries.content."),
    ("model.reference_point_embed.", "queries.box_offsets."),
    *ONE_HEAD,
)


def _level(prefix: str, level: str) -> Rules:
    """Make the rules of a level's modules in transformers, under the prefix `prefix`; `level` is its number here."""
    fusion = f"neck.fusions.{level}."
    return (
        *(
            (f"{prefix}projector_layer.bottlenecks.#.conv{number + 1}.", f"{fusion}bottlenecks.#.{number}.")
            for number in (0, 1)
        ),
        (f"{prefix}projector_layer.", fusion),
        (f"{prefix}sampling_layers.#.layers.#.", f"neck.resamplers.{level}.#.#."),
        (f"{prefix}layer_norm.", f"neck.norms.{level}."),
    )


LW_DETR_OF_TRANSFORMERS = KeyMap(
    "transformers",
    signature=("model.backbone.backbone.encoder.layer.#.gamma_1", "model.enc_out_class_embed.0.weight"),
    rules=(
        *transformers_cae("model.backbone.backbone."),
        *_level("model.backbone.projector.scale_layers.#.", "#"),
        *_COMMON_OF_TRANSFORMERS,
    ),
    conversions=_CLASS_ROWS,
    one_head=True,
    entry="",
    exhaustive=True,
)

RF_DETR_OF_TRANSFORMERS = KeyMap(
    "transformers",
    signature=("model.backbone.backbone.embeddings.cls_token", "model.enc_out_class_embed.0.weight"),
    rules=(
        *transformers_dinov2("model.backbone.backbone."),
        *_level("model.backbone.projector.", "0"),
        *_COMMON_OF_TRANSFORMERS,
    ),
    ignored=("model.backbone.backbone.embeddings.mask_token",),
    conversions=_CLASS_ROWS,
    one_head=True,
    entry="",
    exhaustive=True,
)

MAPS = (LW_DETR, RF_DETR, LW_DETR_OF_TRANSFORMERS, RF_DETR_OF_TRANSFORMERS)
