"""Names of detrex, with three kinds of attention in the decoder and two vocabularies for the rest of the detector."""

from .backbones import convnext, detectron2_resnet, swin
from .common import ANCHOR_DETR, HEADS, ONE_HEAD, PROPOSALS, has_proposals, refines_boxes, under
from .key_map import Copy, KeyMap, Rules

# Second names of the heads, under the decoder that uses them.
BOX_HEADS_OF_DECODER = Copy("transformer.decoder.bbox_embed.", "bbox_embed.", when=refines_boxes)
CLASS_HEADS_OF_DECODER = Copy("transformer.decoder.class_embed.", "class_embed.", when=has_proposals)

_BACKBONES: Rules = (
    *detectron2_resnet("backbone."),
    ("backbone.body.", "backbone."),
    *swin("backbone."),
    *convnext("backbone."),
)

_HIDDEN = "transformer.decoder.layers.#.ffns.#.layers.0.0.weight"
_FFN: Rules = (
    # The hidden layer is a sequence of linear layer, activation (with a weight if it is a PReLU) and dropout.
    ("transformer.@.layers.#.ffns.#.layers.0.0.", "transformer.@.layers.#.ffns.#.layers.0."),
    ("transformer.@.layers.#.ffns.#.layers.0.1.", "transformer.@.layers.#.ffns.#.activations.0."),
)
_PRELU = Copy("transformer.@.layers.#.ffns.#.activation.", "transformer.@.layers.#.ffns.#.layers.0.1.")


def _plain_attention(stack: str, number: str) -> Rules:
    """Make the rules of attention that wraps torch's module; other attention blocks have their projections directly."""
    foreign, native = (f"transformer.{stack}.layers.#.attentions.{number}.{wrapper}" for wrapper in ("attn.", ""))
    return ((f"{foreign}in_proj_@", f"{native}in_proj_@"), (f"{foreign}out_proj.", f"{native}out_proj."))


_SINGLE_LEVEL: Rules = (
    *_BACKBONES,
    *_FFN,
    ("transformer.encoder.post_norm_layer.", "transformer.encoder.norm."),
    ("transformer.decoder.post_norm_layer.", "heads.norm."),
    ("query_embed.", "queries.embedding."),
    ("anchor_box_embed.", "queries.boxes."),
    ("transformer.patterns.", "queries.patterns."),
    ("denoising_generator.label_encoder.", "denoising.label_embedding."),
    *ONE_HEAD,
)

_AROUND_BACKBONES: Rules = (
    ("neck.@.#.conv.", "neck.@.#.0."),
    ("neck.@.#.norm.", "neck.@.#.1."),
    *_FFN,
    *_plain_attention("decoder", "0"),
    *under("transformer.", PROPOSALS),
    *HEADS,
)
_MULTI_SCALE: Rules = (*_BACKBONES, *_AROUND_BACKBONES)

# DETR
PLAIN = KeyMap(
    "detrex",
    signature=("transformer.decoder.layers.#.attentions.#.attn.in_proj_weight", "query_embed.weight"),
    rules=(*_plain_attention("encoder", "#"), *_plain_attention("decoder", "#"), *_SINGLE_LEVEL),
    copies=(_PRELU,),
    one_head=True,
)

# Conditional DETR, DAB-DETR, DN-DETR and Group DETR
CONDITIONAL = KeyMap(
    "detrex",
    signature=("transformer.decoder.layers.#.attentions.#.query_content_proj.weight", _HIDDEN),
    rules=(*_plain_attention("encoder", "#"), *_SINGLE_LEVEL),
    copies=(_PRELU, BOX_HEADS_OF_DECODER),
    one_head=True,
)

# Deformable, DAB-Deformable, DN-Deformable and H-Deformable DETR
DEFORMABLE = KeyMap(
    "detrex",
    signature=("transformer.decoder.layers.#.attentions.1.sampling_offsets.weight", _HIDDEN),
    rules=(
        ("query_embedding.", "queries.embedding."),
        ("refpoint_embed.", "queries.boxes."),
        ("tgt_embed.", "queries.content."),
        ("transformer.reference_points.", "queries.reference_points."),
        ("denoising_generator.label_encoder.", "denoising.label_embedding."),
        ("label_encoder.", "denoising.label_embedding."),  # in the paper's checkpoint, converted by detrex
        *_MULTI_SCALE,
    ),
    copies=(_PRELU, BOX_HEADS_OF_DECODER, CLASS_HEADS_OF_DECODER),
)

_DINO: Rules = (
    ("transformer.decoder.norm.", "heads.norm."),
    ("transformer.tgt_embed.", "queries.content."),
    ("transformer.encoder.fusion_layer.#.", "transformer.encoder.memory_fusion.layers.#."),  # Stable-DINO
    ("label_enc.", "denoising.label_embedding."),
)
DINO = KeyMap(
    "detrex",
    signature=(
        "transformer.decoder.layers.#.attentions.1.sampling_offsets.weight",
        "transformer.decoder.norm.weight",
        _HIDDEN,
    ),
    rules=(*_DINO, *_MULTI_SCALE),
    copies=(_PRELU, BOX_HEADS_OF_DECODER, CLASS_HEADS_OF_DECODER),
)

# A second head that scores encoded tokens, for each of six encoder layers, under two names.
_TOKEN_SCORES = tuple(
    Copy(f"{module}.{layer}.", "class_embed.6.", when=has_proposals)
    for module in ("enhance_MCSP_layerlist", "transformer.encoder.enhance_MCSP")
    for layer in range(6)
)
_SPARSE_LAYER = "transformer.encoder.layers.#."
FOCUS = KeyMap(
    "detrex",
    signature=(*DINO.signature, "transformer.enc_mask_predictor.layer1.1.weight"),
    rules=(
        ("transformer.alpha", "transformer.encoder.foreground.modulation"),
        ("transformer.enc_mask_predictor.layer1.", "transformer.encoder.foreground.features."),
        ("transformer.enc_mask_predictor.layer2.", "transformer.encoder.foreground.score."),
        (f"{_SPARSE_LAYER}attentions.0.attn.in_proj_@", f"{_SPARSE_LAYER}among_best.attentions.0.in_proj_@"),
        (f"{_SPARSE_LAYER}attentions.0.attn.out_proj.", f"{_SPARSE_LAYER}among_best.attentions.0.out_proj."),
        (f"{_SPARSE_LAYER}norm2.", f"{_SPARSE_LAYER}among_best.norms.0."),
        (f"{_SPARSE_LAYER}attentions.1.", f"{_SPARSE_LAYER}read.attentions.0."),
        (f"{_SPARSE_LAYER}norms.", f"{_SPARSE_LAYER}read.norms."),
        (f"{_SPARSE_LAYER}ffns.#.layers.0.0.", f"{_SPARSE_LAYER}read.ffns.#.layers.0."),
        (f"{_SPARSE_LAYER}ffns.", f"{_SPARSE_LAYER}read.ffns."),
        *DINO.rules,
    ),
    copies=(*DINO.copies, *_TOKEN_SCORES),
)

# These backbones have detrex's names in this project; some names are also those of Swin or ConvNeXt in detrex.
DINO_WITH_SAME_BACKBONE = tuple(
    KeyMap(
        "detrex",
        signature=(*DINO.signature, of_backbone),
        rules=(*_DINO, *_AROUND_BACKBONES),
        copies=DINO.copies,
        ignored=("backbone.net.rope_@.", "backbone.net.blocks.#.attn.rope."),  # angles, which are constants
    )
    for of_backbone in (
        "backbone.layers.#.blocks.#.modulation.f.weight",  # FocalNet
        "backbone.levels.#.blocks.#.dcn.offset.weight",  # InternImage
        "backbone.net.blocks.#.attn.proj.weight",  # ViTDet and EVA
    )
)

ANCHOR = KeyMap(
    "detrex",
    signature=("transformer.adapt_pos2d.0.weight", "input_proj.0.weight"),
    rules=ANCHOR_DETR,
)

MAPS = (PLAIN, CONDITIONAL, ANCHOR, DEFORMABLE, *DINO_WITH_SAME_BACKBONE, FOCUS, DINO)
