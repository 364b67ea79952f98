"""Names of the papers' own repositories."""

from .backbones import swin, torchvision_swin
from .common import ANCHOR_DETR as _ANCHOR_DETR
from .common import HEADS, MASK_HEAD, ONE_HEAD, PROJECTIONS, PROPOSALS, layers, levels, under, with_masks
from .conversions import CocoRows, LinearAsConvolution, ObjectnessRows
from .detrex import BOX_HEADS_OF_DECODER, CLASS_HEADS_OF_DECODER
from .key_map import KeyMap, Rules

_FFN = {"linear1": "ffns.0.layers.0", "linear2": "ffns.0.layers.1", "activation": "ffns.0.activations.0"}
_ENCODER = under(
    "transformer.",
    layers("encoder", {"self_attn": "attentions.0", "norm1": "norms.0", "norm2": "norms.1", **_FFN}),
)
_DECODER_NORMS = {"norm1": "norms.0", "norm2": "norms.1", "norm3": "norms.2"}


def _decoder(names: dict[str, str]) -> Rules:
    """Make the names of modules inside the decoder's layers except the FFN, by the other project's names."""
    return under("transformer.", layers("decoder", {**names, **_FFN}))


# The projections belong to the decoder layer: sa_ of self-attention, ca_ of cross-attention.
_CONDITIONAL_DECODER = _decoder(
    {
        **{
            f"{kind}_{foreign}_proj": f"attentions.{number}.{native}_proj"
            for number, kind in enumerate(("sa", "ca"))
            for foreign, native in PROJECTIONS.items()
        },
        "self_attn.out_proj": "attentions.0.out_proj",
        "cross_attn.out_proj": "attentions.1.out_proj",
        **_DECODER_NORMS,
    },
)
# In Deformable DETR the decoder's norms are numbered in the order of definition, which begins with cross-attention.
_DEFORMABLE_DECODER = _decoder(
    {
        "self_attn": "attentions.0",
        "cross_attn": "attentions.1",
        "norm2": "norms.0",
        "norm1": "norms.1",
        "norm3": "norms.2",
    },
)

_RESNET: Rules = (("backbone.0.body.", "backbone."),)

_SINGLE_LEVEL: Rules = (
    *_RESNET,
    ("input_proj.", "input_proj."),  # "detr.input_proj." in models with masks
    *_ENCODER,
    ("transformer.decoder.norm.", "heads.norm."),
    ("query_embed.", "queries.embedding."),
    ("refpoint_embed.", "queries.boxes."),
    ("transformer.patterns.", "queries.patterns."),
    ("label_enc.", "denoising.label_embedding."),
    *ONE_HEAD,
)

_MULTI_SCALE: Rules = (
    *_RESNET,
    *_ENCODER,
    *_DEFORMABLE_DECODER,
    ("transformer.level_embed", "transformer.level_embeds"),
    *under("transformer.", PROPOSALS),
    *HEADS,
)
# The label embedding has a row per id, followed by "no object" in DN-DETR and an unused row in DINO.
_CLASS_ROWS = CocoRows("heads.class_embed.#.")
_LABEL_ROWS = CocoRows("denoising.label_embedding.")
_SPARE_LABEL_ROWS = CocoRows("denoising.label_embedding.", spare=1)

DETR = KeyMap(
    "detr",
    signature=("transformer.decoder.layers.#.multihead_attn.in_proj_weight", "query_embed.weight"),
    rules=(
        *_decoder({"self_attn": "attentions.0", "multihead_attn": "attentions.1", **_DECODER_NORMS}),
        *_SINGLE_LEVEL,
    ),
    conversions=(_CLASS_ROWS,),
    one_head=True,
)
DETR_WITH_MASKS = with_masks(DETR, MASK_HEAD)  # DETRsegm

CONDITIONAL_DETR = KeyMap(
    "conditional_detr",
    signature=("transformer.decoder.layers.#.ca_qpos_sine_proj.weight", "query_embed.weight"),
    rules=(*_CONDITIONAL_DECODER, *_SINGLE_LEVEL),
    conversions=(_CLASS_ROWS,),
    one_head=True,
)

# DAB-DETR and DN-DETR
DAB_DETR = KeyMap(
    "dab_detr",
    signature=("transformer.decoder.layers.#.ca_qpos_sine_proj.weight", "refpoint_embed.weight"),
    rules=(*_CONDITIONAL_DECODER, *_SINGLE_LEVEL),
    copies=(BOX_HEADS_OF_DECODER,),
    conversions=(_CLASS_ROWS, _LABEL_ROWS),
    one_head=True,
)

ANCHOR_DETR = KeyMap(
    "anchor_detr",
    signature=("transformer.adapt_pos2d.0.weight", "input_proj.0.0.weight"),
    rules=(("input_proj.0.#.", "input_proj.#."), *_ANCHOR_DETR),
    conversions=(_CLASS_ROWS,),
)

# Deformable DETR and, built on its code, DAB-Deformable, DN-Deformable and H-Deformable DETR
DEFORMABLE_DETR = KeyMap(
    "deformable_detr",
    signature=("transformer.decoder.layers.#.cross_attn.sampling_offsets.weight", "input_proj.0.0.weight"),
    rules=(
        ("query_embed.", "queries.embedding."),
        ("refpoint_embed.", "queries.boxes."),
        ("tgt_embed.", "queries.content."),
        ("transformer.reference_points.", "queries.reference_points."),
        ("label_enc.", "denoising.label_embedding."),
        *levels("input_proj", 3),
        *swin("backbone.0.body."),
        *_MULTI_SCALE,
    ),
    copies=(BOX_HEADS_OF_DECODER, CLASS_HEADS_OF_DECODER),
    conversions=(ObjectnessRows(), _CLASS_ROWS, _LABEL_ROWS),
)


def _dino(num_maps: int) -> KeyMap:
    """Make the map of DINO with `num_maps` maps of a backbone."""
    return KeyMap(
        "dino",
        signature=("transformer.enc_out_class_embed.weight", "input_proj.0.0.weight"),
        rules=(
            ("transformer.enc_out_class_embed.", "heads.class_embed.encoder."),
            ("transformer.enc_out_bbox_embed.", "heads.bbox_embed.encoder."),
            ("transformer.decoder.norm.", "heads.norm."),
            ("transformer.tgt_embed.", "queries.content."),
            ("label_enc.", "denoising.label_embedding."),
            *levels("input_proj", num_maps),
            *swin("backbone.0."),
            *_MULTI_SCALE,
        ),
        copies=(BOX_HEADS_OF_DECODER, CLASS_HEADS_OF_DECODER),
        conversions=(_CLASS_ROWS, _SPARE_LABEL_ROWS),
    )


DINO = _dino(3)
DINO_5_SCALE = _dino(4)

_RELATION_DETR: Rules = (
    *((f"transformer.decoder.{head}_head.#.", f"heads.{head}_embed.#.") for head in ("class", "bbox")),
    *((f"transformer.encoder_{head}_head.", f"heads.{head}_embed.encoder.") for head in ("class", "bbox")),
    *((f"transformer.hybrid_{head}_head.", f"branch.heads.{head}_embed.0.") for head in ("class", "bbox")),
    ("transformer.hybrid_tgt_embed.", "branch.content."),
    ("transformer.tgt_embed.", "queries.content."),
    ("transformer.decoder.position_relation_embedding.pos_proj.0.", "transformer.decoder.relation.pos_proj."),
    ("transformer.encoder.memory_fusion.#.", "transformer.encoder.memory_fusion.layers.#."),
    ("transformer.decoder.norm.", "heads.norm."),
    ("denoising_generator.label_encoder.", "denoising.label_embedding."),
    *under("transformer.", PROPOSALS),
    *_ENCODER,
    *_DEFORMABLE_DECODER,
)


def _relation_detr(
    backbone: Rules, *, num_features: int, signature: tuple[str, ...] = (), ignored: tuple[str, ...] = ()
) -> KeyMap:
    """Make the map of Relation-DETR: of the neck's convolutions, those after `num_maps` are the extra ones here."""
    return KeyMap(
        "relation_detr",
        signature=("transformer.encoder_class_head.weight", "transformer.decoder.class_head.0.weight", *signature),
        rules=(
            *levels("neck.convs", num_features),
            *backbone,
            *_RELATION_DETR,
        ),
        ignored=("_classes_", *ignored),  # names of the classes
        conversions=(
            LinearAsConvolution("transformer.decoder.relation.pos_proj.weight"),
            _CLASS_ROWS,
            CocoRows("branch.heads.class_embed.0."),
            _LABEL_ROWS,
        ),
    )


RELATION_DETR = _relation_detr((), num_features=3)

RELATION_DETR_SWIN = _relation_detr(
    torchvision_swin("backbone.0."),
    num_features=3,
    signature=("backbone.0.features.#.#.attn.qkv.weight",),
    ignored=("backbone.0.features.#.#.attn.relative_position_index",),
)

RELATION_DETR_FOCALNET = _relation_detr(
    (
        ("backbone.0.patch_embed.", "backbone.patch_embed."),
        ("backbone.0.layers.", "backbone.layers."),
        ("backbone.1.norm#.", "backbone.norm#."),
    ),
    num_features=4,
    signature=("backbone.0.layers.#.blocks.#.modulation.f.weight",),
)

MAPS = (
    DETR,
    *DETR_WITH_MASKS,
    CONDITIONAL_DETR,
    DAB_DETR,
    ANCHOR_DETR,
    DEFORMABLE_DETR,
    DINO,
    DINO_5_SCALE,
    RELATION_DETR_SWIN,
    RELATION_DETR_FOCALNET,
    RELATION_DETR,
)
