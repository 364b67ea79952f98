"""Names of mmdetection 3, and of DETR and Deformable DETR in mmdetection 2."""

from dataclasses import dataclass
from functools import partial

from torch import Size, Tensor

from .common import PROJECTIONS, PROPOSALS, layers, under
from .key_map import Copy, KeyMap, Rules, matches


def _parts(stack: str, *names: str) -> Rules:
    """Make the rules of modules next to the layers of the encoder or decoder."""
    return tuple((f"{stack}.{name}.", f"transformer.{stack}.{name}.") for name in names)


# ResNets have torchvision's names in mmdetection, too.
_SWIN: Rules = (
    # Maps are downsampled at the end of a stage there, and at the beginning of the next stage here.
    *((f"backbone.stages.{n}.downsample.", f"backbone.model.layers.{n + 1}.downsample.") for n in range(3)),
    ("backbone.patch_embed.projection.", "backbone.model.patch_embed.proj."),
    ("backbone.patch_embed.", "backbone.model.patch_embed."),
    ("backbone.stages.#.blocks.#.attn.w_msa.", "backbone.model.layers.#.blocks.#.attn."),
    ("backbone.stages.#.blocks.#.ffn.layers.0.0.", "backbone.model.layers.#.blocks.#.mlp.fc1."),
    ("backbone.stages.#.blocks.#.ffn.layers.1.", "backbone.model.layers.#.blocks.#.mlp.fc2."),
    ("backbone.stages.", "backbone.model.layers."),
    ("backbone.norm#.", "backbone.norms.stage#."),
)

# Plain attention wraps torch's module; other attention blocks have their projections directly.
_PLAIN_ENCODER = layers("encoder", {"self_attn.attn": "attentions.0"})
_PLAIN_SELF_ATTENTION = layers("decoder", {"self_attn.attn": "attentions.0"})
_CONDITIONAL_DECODER = layers(
    "decoder",
    {
        f"{kind}_attn.{foreign}": f"attentions.{number}.{native}"
        for number, kind in enumerate(("self", "cross"))
        for foreign, native in {
            **{f"{foreign}_proj": f"{native}_proj" for foreign, native in PROJECTIONS.items()},
            "out_proj": "out_proj",
        }.items()
    },
)
_FFN_AND_NORMS = {
    "ffn.layers.0.0": "ffns.0.layers.0",
    "ffn.layers.0.1": "ffns.0.activations.0",  # of a PReLU, which has a weight
    "ffn.layers.1": "ffns.0.layers.1",
    "norms": "norms",
}
_LAYERS: Rules = (*layers("encoder", _FFN_AND_NORMS), *layers("decoder", _FFN_AND_NORMS))

_SINGLE_LEVEL: Rules = (
    *_PLAIN_ENCODER,
    *_LAYERS,
    *_SWIN,
    ("neck.convs.0.conv.", "input_proj."),
    ("decoder.post_norm.", "heads.norm."),
    ("bbox_head.fc_cls.", "heads.class_embed.0."),
)
# DETR and Conditional DETR: a box head of three linear layers, two of which are an FFN.
_BOX_HEAD: Rules = (
    ("bbox_head.reg_ffn.layers.0.0.", "heads.bbox_embed.0.layers.0."),
    ("bbox_head.reg_ffn.layers.1.", "heads.bbox_embed.0.layers.1."),
    ("bbox_head.fc_reg.", "heads.bbox_embed.0.layers.2."),
)
_NECK_AND_HEADS: Rules = (
    ("neck.@.#.conv.", "neck.@.#.0."),
    ("neck.@.#.gn.", "neck.@.#.1."),
    ("bbox_head.cls_branches.#.", "heads.class_embed.#."),
    # Box heads are sequences with activations between the linear layers.
    *((f"bbox_head.reg_branches.#.{2 * layer}.", f"heads.bbox_embed.#.layers.{layer}.") for layer in range(3)),
)
_MULTI_SCALE: Rules = (
    *layers("encoder", {"self_attn": "attentions.0"}),
    *_PLAIN_SELF_ATTENTION,
    *layers("decoder", {"cross_attn": "attentions.1"}),
    *_LAYERS,
    *_SWIN,
    *_NECK_AND_HEADS,
    ("level_embed", "transformer.level_embeds"),
    ("memory_trans_fc.", "queries.proposals.enc_output."),
    ("memory_trans_norm.", "queries.proposals.enc_output_norm."),
)


@dataclass(frozen=True)
class MergedPatches:
    """Swin's merging of four neighbouring cells.

    In mmdetection, the input channels are ordered by channel and then by cell, row by row; here by cell, column by
    column, and then by channel. The conversion permutes the last dimension of a weight or bias.
    """

    template: str = "backbone.model.layers.#.downsample."

    def applies(self, name: str, names: object) -> bool:
        return matches(name, self.template)

    def read(self, value: Tensor, shape: Size) -> Tensor:
        if value.shape != shape:
            return value
        by_channel = value.unflatten(-1, (-1, 2, 2))  # (.., channel, row, column)
        return by_channel.movedim(-3, -1).transpose(-3, -2).flatten(-3)

    def write(self, name: str, value: Tensor) -> Tensor:
        by_cell = value.unflatten(-1, (2, 2, -1))  # (.., column, row, channel)
        return by_cell.transpose(-3, -2).movedim(-1, -3).flatten(-3)


_format = partial(KeyMap, "mmdetection", entry="state_dict")
_version_3 = partial(
    _format,
    ignored=("data_preprocessor.",),  # mean and standard deviation of the pixels
    conversions=(MergedPatches(),),
)

DETR = _version_3(
    signature=("decoder.layers.#.cross_attn.attn.in_proj_weight", "bbox_head.fc_cls.weight"),
    rules=(
        *_PLAIN_SELF_ATTENTION,
        *layers("decoder", {"cross_attn.attn": "attentions.1"}),
        ("query_embedding.", "queries.embedding."),
        *_BOX_HEAD,
        *_SINGLE_LEVEL,
    ),
    one_head=True,
)

CONDITIONAL_DETR = _version_3(
    signature=("decoder.layers.#.cross_attn.qpos_sine_proj.weight", "bbox_head.fc_reg.weight"),
    rules=(
        *_CONDITIONAL_DECODER,
        *_parts("decoder", "query_scale", "ref_point_head"),
        ("query_embedding.", "queries.embedding."),
        *_BOX_HEAD,
        *_SINGLE_LEVEL,
    ),
    one_head=True,
)

DAB_DETR = _version_3(
    signature=("decoder.layers.#.cross_attn.qpos_sine_proj.weight", "bbox_head.fc_reg.layers.#.weight"),
    rules=(
        *_CONDITIONAL_DECODER,
        *_parts("encoder", "query_scale"),
        *_parts("decoder", "query_scale", "ref_point_head", "ref_anchor_head"),
        ("query_embedding.", "queries.boxes."),
        ("patterns.", "queries.patterns."),
        ("bbox_head.fc_reg.layers.", "heads.bbox_embed.0.layers."),
        *_SINGLE_LEVEL,
    ),
    one_head=True,
)

DEFORMABLE_DETR = _version_3(
    signature=("decoder.layers.#.cross_attn.sampling_offsets.weight", "bbox_head.cls_branches.#.weight"),
    rules=(
        ("query_embedding.", "queries.embedding."),
        ("reference_points_fc.", "queries.reference_points."),
        ("pos_trans_fc.", "queries.pos_trans."),
        ("pos_trans_norm.", "queries.pos_trans_norm."),
        *_MULTI_SCALE,
    ),
)

_DINO: Rules = (
    ("query_embedding.", "queries.content."),
    ("decoder.norm.", "heads.norm."),
    *_parts("decoder", "ref_point_head"),
    ("dn_query_generator.label_embedding.", "denoising.label_embedding."),
    *_MULTI_SCALE,
)
DINO = _version_3(
    signature=("decoder.layers.#.cross_attn.sampling_offsets.weight", "decoder.norm.weight"),
    rules=_DINO,
)

# The heads of the dense branch: those of six decoder layers, and the encoder's as the last one.
_DENSE_HEADS: Rules = (
    ("bbox_head.cls_branches.7.", "branch.heads.class_embed.6."),
    *((f"bbox_head.reg_branches.7.{2 * layer}.", f"branch.heads.bbox_embed.6.layers.{layer}.") for layer in range(3)),
    ("bbox_head.aux_cls_branches.#.", "branch.heads.class_embed.#."),
    *(
        (f"bbox_head.aux_reg_branches.#.{2 * layer}.", f"branch.heads.bbox_embed.#.layers.{layer}.")
        for layer in range(3)
    ),
)
DDQ_DETR = _version_3(
    signature=("query_map.weight", "bbox_head.cls_branches.#.weight"),
    rules=(*_DENSE_HEADS, ("query_map.", "queries.content_projection."), *_DINO),
    copies=(Copy("decoder.aux_reg_branches.", "bbox_head.aux_reg_branches."),),  # after training
    shared=(("branch.heads.norm.", "heads.norm."),),
)

# In version 2, everything but the backbone and the neck belongs to the head.
_HEAD = "bbox_head.transformer."


def _names_of_version_2(names: dict[str, str]) -> Rules:
    """Make the names of modules inside the layers of encoder and decoder, by the other project's names."""
    return under(_HEAD, layers("@", names))


_LAYERS_OF_VERSION_2: Rules = (
    *_names_of_version_2({"ffns.0.layers.0.0": "ffns.0.layers.0"}),
    *_names_of_version_2({name: name for name in ("attentions", "ffns", "norms")}),
)

DETR_OF_VERSION_2 = _format(
    signature=(f"{_HEAD}decoder.layers.#.norms.0.weight", "bbox_head.fc_cls.weight"),
    rules=(
        *_names_of_version_2({"attentions.0.attn": "attentions.0", "attentions.1.attn": "attentions.1"}),
        *_LAYERS_OF_VERSION_2,
        (f"{_HEAD}decoder.post_norm.", "heads.norm."),
        # Names of 2020, when the checkpoint of DETR was published
        *_names_of_version_2({"self_attn.attn": "attentions.0", "multihead_attn.attn": "attentions.1"}),
        *_names_of_version_2({"ffn.layers.0.0": "ffns.0.layers.0", "ffn.layers.1": "ffns.0.layers.1"}),
        (f"{_HEAD}decoder.norm.", "heads.norm."),
        ("bbox_head.input_proj.", "input_proj."),
        ("bbox_head.query_embedding.", "queries.embedding."),
        ("bbox_head.fc_cls.", "heads.class_embed.0."),
        *_BOX_HEAD,
    ),
    one_head=True,
)

DEFORMABLE_DETR_OF_VERSION_2 = _format(
    signature=(f"{_HEAD}decoder.layers.#.attentions.1.sampling_offsets.weight", "bbox_head.cls_branches.#.weight"),
    rules=(
        (f"{_HEAD}decoder.layers.#.attentions.0.attn.", "transformer.decoder.layers.#.attentions.0."),
        *_LAYERS_OF_VERSION_2,
        (f"{_HEAD}level_embeds", "transformer.level_embeds"),
        (f"{_HEAD}reference_points.", "queries.reference_points."),
        *under(_HEAD, PROPOSALS),
        ("bbox_head.query_embedding.", "queries.embedding."),
        *_NECK_AND_HEADS,
    ),
)

MAPS = (
    DETR,
    CONDITIONAL_DETR,
    DAB_DETR,
    DEFORMABLE_DETR,
    DINO,
    DDQ_DETR,
    DETR_OF_VERSION_2,
    DEFORMABLE_DETR_OF_VERSION_2,
)
