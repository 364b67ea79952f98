"""Names of D-FINE's repository, which DEIM's repository shares."""

from .key_map import KeyMap, Rules
from .rtdetr import AIFI, HEADS, layer

_BLOCK = "stages.#.blocks.#"
_CONVOLUTIONS = (
    "stem.@",
    "stages.#.downsample",
    f"{_BLOCK}.layers.#",
    f"{_BLOCK}.layers.#.@",
    f"{_BLOCK}.aggregation.#",
)
_HGNETV2: Rules = (
    *((f"{part}.bn.", f"backbone.{part}.norm.") for part in _CONVOLUTIONS),
    *((f"{part}.lab.", f"backbone.{part}.act.") for part in _CONVOLUTIONS),
    ("stem.", "backbone.stem."),
    ("stages.", "backbone.stages."),
)


def _fusion_blocks(foreign: str, native: str) -> Rules:
    """Make the rules of `RepNCSPELAN` blocks."""
    rules: list[tuple[str, str]] = [(f"{foreign}.cv1.", f"{native}.conv1."), (f"{foreign}.cv4.", f"{native}.conv2.")]
    for number, stage in (("cv2", "stages.0"), ("cv3", "stages.1")):
        rules += [
            (f"{foreign}.{number}.0.bottlenecks.#.conv1.", f"{native}.{stage}.0.blocks.#.branches.0."),
            (f"{foreign}.{number}.0.bottlenecks.#.conv2.", f"{native}.{stage}.0.blocks.#.branches.1."),
            (f"{foreign}.{number}.", f"{native}.{stage}."),
        ]
    return tuple(rules)


DFINE = KeyMap(
    "dfine",
    signature=("encoder.input_proj.#.conv.weight", "decoder.pre_bbox_head.layers.#.weight"),
    rules=(
        *((f"backbone.{foreign}", native) for foreign, native in _HGNETV2),
        ("encoder.input_proj.#.", "neck.projections.#."),
        *AIFI,
        ("encoder.lateral_convs.#.", "neck.laterals.#."),
        ("encoder.downsample_convs.#.0.cv1.", "neck.downsamples.#.pointwise."),
        ("encoder.downsample_convs.#.0.cv2.", "neck.downsamples.#.depthwise."),
        *_fusion_blocks("encoder.fpn_blocks.#", "neck.top_down.#"),
        *_fusion_blocks("encoder.pan_blocks.#", "neck.bottom_up.#"),
        *layer(
            "decoder.decoder.layers.#.",
            "transformer.decoder.layers.#.",
            {
                "self_attn": "attentions.0",
                "norm1": "norms.0",
                "cross_attn": "attentions.1.attention",
                "gateway": "attentions.1",
                "norm3": "norms.1",
            },
        ),
        ("decoder.decoder.lqe_layers.#.reg_conf.", "heads.quality_embed.#.mlp."),
        ("decoder.pre_bbox_head.", "heads.pre_bbox_embed."),
        ("decoder.enc_output.proj.", "queries.proposals.enc_output."),
        ("decoder.enc_output.norm.", "queries.proposals.enc_output_norm."),
        *HEADS,
    ),
    ignored=(
        # Anchors of images of 640 x 640, and constants that are in the config.
        "decoder.anchors",
        "decoder.valid_mask",
        "decoder.decoder.layers.#.cross_attn.num_points_scale",
        *(f"{part}{constant}" for part in ("decoder.", "decoder.decoder.") for constant in ("up", "reg_scale")),
    ),
)

# ImageNet weights of the backbone only.
HGNETV2 = KeyMap(
    "hgnetv2",
    signature=("stem.stem1.conv.weight", "stages.#.blocks.#.aggregation.#.bn.weight"),
    rules=_HGNETV2,
)

MAPS = (DFINE, HGNETV2)
