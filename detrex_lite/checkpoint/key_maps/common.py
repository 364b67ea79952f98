"""What key maps of several projects have in common."""

import dataclasses
from collections.abc import Mapping

from torch import Tensor

from .conversions import COCO_IDS, COCO_STUFF_IDS, NUM_PANOPTIC_IDS, AnyRows, CocoRows
from .key_map import KeyMap, Rules

_CLASSES = "heads.class_embed.#."


def refines_boxes(state: Mapping[str, Tensor]) -> bool:
    """Whether the layers of a decoder move boxes on: it starts with boxes, or has a box head of its own for each."""
    if any(name.startswith(("queries.boxes.", "queries.proposals.")) for name in state):
        return True
    first, second = (state.get(f"heads.bbox_embed.{index}.layers.0.weight") for index in (0, 1))
    return first is not None and second is not None and not bool((first == second).all())


def has_proposals(state: Mapping[str, Tensor]) -> bool:
    """Whether a detector has two stages."""
    return any(name.startswith("queries.proposals.") for name in state)


def under(prefix: str, rules: Rules) -> Rules:
    """The same rules for the other project's names with `prefix` before them."""
    return tuple((f"{prefix}{theirs}", ours) for theirs, ours in rules)


def layers(stack: str, names: Mapping[str, str]) -> Rules:
    """What layers are made of.

    Args:
        stack: "encoder", "decoder", or "@" for both.
        names: name there -> name here.
    """
    return tuple(
        (f"{stack}.layers.#.{theirs}.", f"transformer.{stack}.layers.#.{ours}.") for theirs, ours in names.items()
    )


def levels(theirs: str, num_maps: int) -> Rules:
    """The projections of up to five levels: of so many maps of the backbone, and after them those made of the last."""
    here = [f"convs.{level}" if level < num_maps else f"extra_convs.{level - num_maps}" for level in range(5)]
    return tuple((f"{theirs}.{level}.", f"neck.{name}.") for level, name in enumerate(here))


def with_masks(detr: KeyMap, head: Rules) -> tuple[KeyMap, KeyMap]:
    """DETR's detector inside of one that segments as well: with the mask head, and without, for detectors of boxes.

    Args:
        detr: the map of the detector.
        head: rules of the mask head.
    """
    rules = under("detr.", detr.rules)
    signature = tuple(f"detr.{template}" for template in detr.signature)
    things, every = CocoRows(_CLASSES), CocoRows(_CLASSES, ids=(*COCO_IDS, *COCO_STUFF_IDS), num_ids=NUM_PANOPTIC_IDS)
    of_segments = dataclasses.replace(
        detr, signature=signature, rules=(*rules, *head), conversions=(AnyRows((things, every)),)
    )
    return of_segments, dataclasses.replace(of_segments, rules=rules, ignored=("bbox_attention.", "mask_head."))


# Of the paper's mask head; transformers had the same names in version 4.
MASK_HEAD: Rules = (
    ("bbox_attention.q_linear.", "mask_head.query_proj."),
    ("bbox_attention.k_linear.", "mask_head.key_proj."),
    *((f"mask_head.lay{number + 1}.", f"mask_head.convs.{number}.") for number in range(5)),
    *((f"mask_head.gn{number + 1}.", f"mask_head.norms.{number}.") for number in range(5)),
    *((f"mask_head.adapter{number + 1}.", f"mask_head.adapters.{number}.") for number in range(3)),
    ("mask_head.out_lay.", "mask_head.predict."),
)

# The projections of conditional attention, as its authors call them: q, k and v of content, position and sine position.
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
# Of the transformer.
PROPOSALS: Rules = (
    ("enc_output.", "queries.proposals.enc_output."),
    ("enc_output_norm.", "queries.proposals.enc_output_norm."),
    ("pos_trans.", "queries.pos_trans."),
    ("pos_trans_norm.", "queries.pos_trans_norm."),
    ("pix_trans.", "queries.pix_trans."),
    ("pix_trans_norm.", "queries.pix_trans_norm."),
)
# Of Anchor DETR, in detrex as in the paper's repository. The decoder's norms are numbered in the order of definition,
# which begins with cross-attention.
_OF_ANCHOR_DETR = {"self_attn": "attentions.0", "ffn.linear1": "ffns.0.layers.0", "ffn.linear2": "ffns.0.layers.1"}
ANCHOR_DETR: Rules = (
    ("backbone.body.", "backbone."),
    *(
        (f"transformer.{stack}_layers.#.{theirs}.", f"transformer.{stack}.layers.#.{ours}.")
        for stack, names in (
            ("encoder", {"norm1": "norms.0", "ffn.norm2": "norms.1"}),
            ("decoder", {"cross_attn": "attentions.1", "norm2": "norms.0", "norm1": "norms.1", "ffn.norm2": "norms.2"}),
        )
        for theirs, ours in (_OF_ANCHOR_DETR | names).items()
    ),
    *(
        (f"transformer.adapt_pos{dimensions}d.{theirs}.", f"position_embedding.{head}_head.layers.{ours}.")
        for dimensions, head in ((1, "axis"), (2, "point"))
        for theirs, ours in ((0, 0), (2, 1))
    ),
    ("transformer.pattern.", "queries.patterns."),
    ("transformer.position.weight", "queries.points"),
    *under("transformer.", HEADS),
)
