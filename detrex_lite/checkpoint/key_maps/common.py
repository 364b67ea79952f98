"""Shared parts of the key maps of several projects."""

import dataclasses
from collections.abc import Mapping

from torch import Tensor

from .conversions import COCO_IDS, COCO_STUFF_IDS, NUM_PANOPTIC_IDS, AnyRows, CocoRows
from .key_map import KeyMap, Rules

_CLASSES = "heads.class_embed.#."


def refines_boxes(state: Mapping[str, Tensor]) -> bool:
    """Whether the decoder refines boxes: it starts with boxes, or each layer has a separate box head."""
    if any(name.startswith(("queries.boxes.", "queries.proposals.")) for name in state):
        return True
    first, second = (state.get(f"heads.bbox_embed.{index}.layers.0.weight") for index in (0, 1))
    return first is not None and second is not None and not bool((first == second).all())


def has_proposals(state: Mapping[str, Tensor]) -> bool:
    """Whether a detector has two stages."""
    return any(name.startswith("queries.proposals.") for name in state)


def under(prefix: str, rules: Rules) -> Rules:
    """Add `prefix` to the other project's names in the rules."""
    return tuple((f"{prefix}{foreign}", native) for foreign, native in rules)


def layers(stack: str, names: Mapping[str, str]) -> Rules:
    """Make the rules of transformer layers.

    Args:
        stack: "encoder", "decoder", or "@" for both.
        names: maps the other project's names to this project's.
    """
    return tuple(
        (f"{stack}.layers.#.{foreign}.", f"transformer.{stack}.layers.#.{native}.") for foreign, native in names.items()
    )


def levels(foreign: str, num_maps: int) -> Rules:
    """Make the rules of up to five levels: projections of `num_maps` backbone maps, then of the additional levels."""
    native = [f"convs.{level}" if level < num_maps else f"extra_convs.{level - num_maps}" for level in range(5)]
    return tuple((f"{foreign}.{level}.", f"neck.{name}.") for level, name in enumerate(native))


def with_masks(detr: KeyMap, head: Rules) -> tuple[KeyMap, KeyMap]:
    """Make the maps of a DETR inside a segmentation model: with the mask head, and without, for box detectors.

    Args:
        detr: the map of the detector.
        head: rules of the mask head.
    """
    rules = under("detr.", detr.rules)
    signature = tuple(f"detr.{template}" for template in detr.signature)
    thing_rows, panoptic_rows = (
        CocoRows(_CLASSES),
        CocoRows(_CLASSES, ids=(*COCO_IDS, *COCO_STUFF_IDS), num_ids=NUM_PANOPTIC_IDS),
    )
    of_segments = dataclasses.replace(
        detr, signature=signature, rules=(*rules, *head), conversions=(AnyRows((thing_rows, panoptic_rows)),)
    )
    return of_segments, dataclasses.replace(of_segments, rules=rules, ignored=("bbox_attention.", "mask_head."))


# Names of the paper's mask head, which transformers also used in version 4.
MASK_HEAD: Rules = (
    ("bbox_attention.q_linear.", "mask_head.query_proj."),
    ("bbox_attention.k_linear.", "mask_head.key_proj."),
    *((f"mask_head.lay{number + 1}.", f"mask_head.convs.{number}.") for number in range(5)),
    *((f"mask_head.gn{number + 1}.", f"mask_head.norms.{number}.") for number in range(5)),
    *((f"mask_head.adapter{number + 1}.", f"mask_head.adapters.{number}.") for number in range(3)),
    ("mask_head.out_lay.", "mask_head.predict."),
)

# The projections of conditional attention in its authors' code: q, k and v of content, position and sine position.
PROJECTIONS = {
    "qcontent": "query_content",
    "qpos": "query_pos",
    "qpos_sine": "query_pos_sine",
    "kcontent": "key_content",
    "kpos": "key_pos",
    "v": "value",
}

ONE_HEAD: Rules = (
    ("class_embed.@", "heads.class_embed.0.@"),
    ("bbox_embed.layers.", "heads.bbox_embed.0.layers."),
)
HEADS: Rules = (
    ("class_embed.#.", "heads.class_embed.#."),
    ("bbox_embed.#.", "heads.bbox_embed.#."),
)
# Names inside the transformer.
PROPOSALS: Rules = (
    ("enc_output.", "queries.proposals.enc_output."),
    ("enc_output_norm.", "queries.proposals.enc_output_norm."),
    ("pos_trans.", "queries.pos_trans."),
    ("pos_trans_norm.", "queries.pos_trans_norm."),
    ("pix_trans.", "queries.pix_trans."),
    ("pix_trans_norm.", "queries.pix_trans_norm."),
)
# Names of Anchor DETR, in detrex as in the paper's repository. The decoder's norms are numbered in the order of
# definition, which begins with cross-attention.
_OF_ANCHOR_DETR = {"self_attn": "attentions.0", "ffn.linear1": "ffns.0.layers.0", "ffn.linear2": "ffns.0.layers.1"}
ANCHOR_DETR: Rules = (
    ("backbone.body.", "backbone."),
    *(
        (f"transformer.{stack}_layers.#.{foreign}.", f"transformer.{stack}.layers.#.{native}.")
        for stack, names in (
            ("encoder", {"norm1": "norms.0", "ffn.norm2": "norms.1"}),
            ("decoder", {"cross_attn": "attentions.1", "norm2": "norms.0", "norm1": "norms.1", "ffn.norm2": "norms.2"}),
        )
        for foreign, native in (_OF_ANCHOR_DETR | names).items()
    ),
    *(
        (f"transformer.adapt_pos{dimensions}d.{foreign}.", f"position_embedding.{head}_head.layers.{native}.")
        for dimensions, head in ((1, "axis"), (2, "point"))
        for foreign, native in ((0, 0), (2, 1))
    ),
    ("transformer.pattern.", "queries.patterns."),
    ("transformer.position.weight", "queries.points"),
    *under("transformer.", HEADS),
)
