"""Names of RT-DETR and RT-DETRv2 in RT-DETR's repository."""

from .key_map import KeyMap, Rules

_BACKBONE: Rules = (
    *((f"backbone.conv1.conv1_{number}.", f"backbone.stem.{number - 1}.") for number in (1, 2, 3)),
    *(
        (f"backbone.res_layers.#.blocks.#.branch2{letter}.", f"backbone.stages.#.#.convs.{index}.")
        for index, letter in enumerate("abc")
    ),
    # Shortcuts of the other stages have a pooling layer before the convolution.
    ("backbone.res_layers.0.blocks.#.short.", "backbone.stages.0.#.shortcut."),
    ("backbone.res_layers.#.blocks.#.short.conv.", "backbone.stages.#.#.shortcut."),
)


def layer(foreign: str, native: str, names: dict[str, str]) -> Rules:
    """Make the rules of a transformer layer, from the prefixes in both projects and its modules' names."""
    names = {**names, "linear1": "ffns.0.layers.0", "linear2": "ffns.0.layers.1"}
    return tuple((f"{foreign}{name}.", f"{native}{inner}.") for name, inner in names.items())


def fusion_blocks(foreign: str, native: str) -> Rules:
    """Make the rules of `CSPRepLayer` blocks."""
    return (
        (f"{foreign}.bottlenecks.#.conv1.", f"{native}.blocks.#.branches.0."),
        (f"{foreign}.bottlenecks.#.conv2.", f"{native}.blocks.#.branches.1."),
        (f"{foreign}.", f"{native}."),
    )


# Attention within a level.
AIFI: Rules = layer(
    "encoder.encoder.#.layers.#.",
    "neck.encoders.#.layers.#.",
    {"self_attn": "attentions.0", "norm1": "norms.0", "norm2": "norms.1"},
)
_ENCODER: Rules = (
    *AIFI,
    ("encoder.lateral_convs.#.", "neck.laterals.#."),
    ("encoder.downsample_convs.#.", "neck.downsamples.#."),
    *fusion_blocks("encoder.fpn_blocks.#", "neck.top_down.#"),
    *fusion_blocks("encoder.pan_blocks.#", "neck.bottom_up.#"),
)
HEADS: Rules = (
    ("decoder.input_proj.#.", "neck.outputs.#."),
    ("decoder.query_pos_head.", "transformer.decoder.position_head."),
    ("decoder.denoising_class_embed.", "denoising.label_embedding."),
    ("decoder.tgt_embed.", "queries.content."),
    ("decoder.enc_score_head.", "heads.class_embed.encoder."),
    ("decoder.enc_bbox_head.", "heads.bbox_embed.encoder."),
    ("decoder.dec_score_head.#.", "heads.class_embed.#."),
    ("decoder.dec_bbox_head.#.", "heads.bbox_embed.#."),
)
_DECODER: Rules = (
    *layer(
        "decoder.decoder.layers.#.",
        "transformer.decoder.layers.#.",
        {
            "self_attn": "attentions.0",
            "cross_attn": "attentions.1",
            "norm1": "norms.0",
            "norm2": "norms.1",
            "norm3": "norms.2",
        },
    ),
    *HEADS,
)


def _rtdetr(name: str, projection: tuple[str, str], proposals: tuple[str, str]) -> KeyMap:
    """Make the map of a version.

    Args:
        name: of the map.
        projection: the names of convolution and norm in the projections of the encoder's input.
        proposals: the names of the linear layer and the norm in `enc_output`.
    """
    return KeyMap(
        name,
        signature=(f"encoder.input_proj.#.{projection[0]}.weight", f"decoder.enc_output.{proposals[0]}.weight"),
        rules=(
            *(
                (f"encoder.input_proj.#.{foreign}.", f"neck.projections.#.{native}.")
                for foreign, native in zip(projection, ("conv", "norm"), strict=True)
            ),
            *(
                (f"decoder.enc_output.{foreign}.", f"queries.proposals.{native}.")
                for foreign, native in zip(proposals, ("enc_output", "enc_output_norm"), strict=True)
            ),
            *_BACKBONE,
            *_ENCODER,
            *_DECODER,
        ),
        ignored=(
            # Anchors of images of 640 x 640, and constants.
            "decoder.anchors",
            "decoder.valid_mask",
            "decoder.decoder.layers.#.cross_attn.num_points_scale",
            # Deployed models have these in addition to the branches that they were fused from.
            "encoder.fpn_blocks.#.bottlenecks.#.conv.",
            "encoder.pan_blocks.#.bottlenecks.#.conv.",
        ),
    )


RTDETR = _rtdetr("rtdetr", ("0", "1"), ("0", "1"))
RTDETR_V2 = _rtdetr("rtdetrv2", ("conv", "norm"), ("proj", "norm"))

# ImageNet weights of the backbone only.
PRESNET = KeyMap(
    "presnet",
    signature=("conv1.conv1_1.conv.weight", "res_layers.0.blocks.0.branch2a.conv.weight"),
    rules=tuple((foreign.removeprefix("backbone."), native) for foreign, native in _BACKBONE),
)

MAPS = (RTDETR, RTDETR_V2, PRESNET)
