"""How other projects name the weights of the same models, and how these names translate to this project's.

A `KeyMap` is a list of rules, regular expressions over dotted names, applied one after the other. To read the
weights of another project, add a map to `KEY_MAPS`, or pass one as `source` to `load_checkpoint`.

Names here: ResNets have torchvision's names under `backbone.`, networks of timm have timm's under `backbone.model.`;
a transformer layer has `attentions.N`, `ffns.N` and `norms.N`, counted in the order of use.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

# COCO numbers its 80 classes from 1 to 90 and leaves these out.
COCO_UNUSED_IDS = frozenset({12, 26, 29, 30, 45, 66, 68, 69, 71, 83})
COCO_IDS = tuple(index for index in range(1, 91) if index not in COCO_UNUSED_IDS)

# Not weights: counters, constants and class weights that other projects store along with them.
NOT_WEIGHTS = re.compile(r"(^|\.)(num_batches_tracked|pixel_mean|pixel_std)$|^criterion\.empty_weight$")

Adapt = Callable[[str, Tensor, torch.Size], Tensor]


def _unchanged(name: str, value: Tensor, shape: torch.Size) -> Tensor:
    return value


@dataclass(frozen=True)
class KeyMap:
    """A translation of another project's names.

    Attributes:
        name: what `load_checkpoint(source=...)` calls it.
        signature: a regular expression that some key of every checkpoint of this kind matches.
        rules: (regular expression, replacement) pairs, applied in order; a key that matches an expression
            whose replacement is None is left out in silence.
        adapt: (name here, tensor, shape here) -> tensor, for weights that differ in more than their name.
    """

    name: str
    signature: str
    rules: tuple[tuple[str, str | None], ...]
    adapt: Adapt = _unchanged

    def matches(self, keys: Iterable[str]) -> bool:
        """Whether a checkpoint with these keys may be of this kind."""
        return any(re.search(self.signature, key) for key in keys)

    def rename(self, key: str) -> str | None:
        """This project's name for `key`; None when it is no weight that a detector has."""
        for pattern, replacement in self.rules:
            if replacement is None:
                if re.search(pattern, key):
                    return None
            else:
                key = re.sub(pattern, replacement, key)
        return key


def _detectron2_resnet(before: str) -> tuple[tuple[str, str | None], ...]:
    """From detectron2's names of a ResNet, kept under `before` (a regular expression), to torchvision's."""
    stages = tuple((rf"^{before}res{stage + 1}\.", f"backbone.layer{stage}.") for stage in (1, 2, 3, 4))
    return (
        (rf"^{before}stem\.fc\.", None),
        (rf"^{before}stem\.conv1\.norm\.", "backbone.bn1."),
        (rf"^{before}stem\.conv1\.", "backbone.conv1."),
        *stages,
        (r"^(backbone\.layer\d\.\d+)\.conv(\d)\.norm\.", r"\1.bn\2."),
        (r"^(backbone\.layer\d\.\d+)\.shortcut\.norm\.", r"\1.downsample.1."),
        (r"^(backbone\.layer\d\.\d+)\.shortcut\.", r"\1.downsample.0."),
    )


# Swin and ConvNeXt, which have their authors' names in detrex and timm's here.
_DETREX_SWIN_AND_CONVNEXT = (
    (r"^backbone\.layers\.\d+\.blocks\.\d+\.attn\.relative_position_index$", None),
    # A map is shrunk at the end of a stage there, and at the beginning of the next one here.
    *((rf"^backbone\.layers\.{n}\.downsample\.", f"backbone.model.layers.{n + 1}.downsample.") for n in range(3)),
    (r"^backbone\.(patch_embed|layers)\.", r"backbone.model.\1."),
    (r"^backbone\.downsample_layers\.0\.", "backbone.model.stem."),
    (r"^backbone\.downsample_layers\.(\d)\.", r"backbone.model.stages.\1.downsample."),
    (r"^backbone\.stages\.(\d)\.(\d+)\.", r"backbone.model.stages.\1.blocks.\2."),
    (r"^(backbone\.model\.stages\.\d\.blocks\.\d+)\.dwconv\.", r"\1.conv_dw."),
    (r"^(backbone\.model\.stages\.\d\.blocks\.\d+)\.pwconv(\d)\.", r"\1.mlp.fc\2."),
    (r"^backbone\.norm(\d)\.", r"backbone.norms.stage\1."),
)


def _contiguous_coco_classes(name: str, value: Tensor, shape: torch.Size) -> Tensor:
    """Of a class head with a row per COCO id (0..90), and in DETR one for no object (91), keep the 80 classes."""
    if name.startswith("heads.class_embed.") and (value.shape[0], shape[0]) in ((92, 81), (91, 80)):
        return value[[*COCO_IDS, *range(91, value.shape[0])]]
    return value


def _linear_as_convolution(name: str, value: Tensor, shape: torch.Size) -> Tensor:
    """The weight of a linear layer that is stored as that of a convolution of 1x1."""
    return value.flatten(1) if value.shape == (*shape, 1, 1) and len(shape) == 2 else value


# Names of parts that this project has given one vocabulary: heads, queries, and the norms after encoder and decoder.
_PARTS: tuple[tuple[str, str | None], ...] = (
    (r"^transformer\.decoder\.(bbox|class)_embed\.", None),  # the detector's own heads, under a second name
    (r"^(class|bbox)_embed\.(\d+)\.(?!\d)", r"heads.\1_embed.\2."),
    (r"^class_embed\.(weight|bias)$", r"heads.class_embed.0.\1"),  # one head for all layers
    (r"^bbox_embed\.layers\.", "heads.bbox_embed.0.layers."),
    (r"^transformer\.decoder\.(post_norm_layer|norm)\.", "heads.norm."),
    (r"^transformer\.encoder\.post_norm_layer\.", "transformer.encoder.norm."),
    (r"^query_embed(ding)?\.", "queries.embedding."),
    (r"^(anchor_box_embed|refpoint_embed)\.", "queries.boxes."),
    (r"^(transformer\.)?tgt_embed\.", "queries.content."),
    (r"^(transformer\.)?patterns\.", "queries.patterns."),
    (r"^transformer\.(reference_points|pos_trans|pos_trans_norm)\.", r"queries.\1."),
    (r"^transformer\.enc_output", "queries.proposals.enc_output"),
    (r"^(denoising_generator\.label_encoder|label_enc)\.", "denoising.label_embedding."),
)

DETREX_LITE = KeyMap("detrex_lite", signature="", rules=())

DETREX = KeyMap(
    "detrex",
    signature=r"^backbone\.(stem|res\d|body)\.|\.attentions\.\d+\.attn\.|\.ffns\.\d+\.layers\.\d+\.0\.",
    rules=(
        *_detectron2_resnet(r"backbone\."),
        (r"^backbone\.body\.", "backbone."),
        *_DETREX_SWIN_AND_CONVNEXT,
        (r"^(neck\.(?:extra_)?convs\.\d+)\.conv\.", r"\1.0."),
        (r"^(neck\.(?:extra_)?convs\.\d+)\.norm\.", r"\1.1."),
        (r"(\.attentions\.\d+)\.attn\.", r"\1."),
        *_PARTS,
        # A hidden layer there is a sequence of linear layer, activation and dropout. An activation with a
        # weight (PReLU) is one object in all of them, and stored once more beside them.
        (r"(\.ffns\.\d+)\.layers\.(\d+)\.0\.", r"\1.layers.\2."),
        (r"(\.ffns\.\d+)\.layers\.(\d+)\.1\.", r"\1.activations.\2."),
        (r"(\.ffns\.\d+)\.activation\.", r"\1.activations.0."),
    ),
)

# What DETR and its successors name alike.
_DETR_NAMES = (
    (r"^backbone\.0\.body\.", "backbone."),
    (r"(\.layers\.\d+)\.self_attn\.", r"\1.attentions.0."),
    (r"(\.layers\.\d+)\.linear1\.", r"\1.ffns.0.layers.0."),
    (r"(\.layers\.\d+)\.linear2\.", r"\1.ffns.0.layers.1."),
)

DETR = KeyMap(
    "detr",
    signature=r"^transformer\.(encoder\.layers\.\d+\.self_attn\.in_proj_|decoder\.layers\.\d+\.multihead_attn\.)",
    rules=(
        *_DETR_NAMES,
        (r"(\.layers\.\d+)\.multihead_attn\.", r"\1.attentions.1."),
        (r"(\.layers\.\d+)\.norm1\.", r"\1.norms.0."),
        (r"(\.layers\.\d+)\.norm2\.", r"\1.norms.1."),
        (r"(\.layers\.\d+)\.norm3\.", r"\1.norms.2."),
        *_PARTS,
    ),
    adapt=_contiguous_coco_classes,
)

# The decoder's norms are numbered in the order of definition in Deformable DETR, which begins with cross-attention.
_DEFORMABLE_LAYERS = (
    (r"(\.layers\.\d+)\.cross_attn\.", r"\1.attentions.1."),
    (r"(\.encoder\.layers\.\d+)\.norm1\.", r"\1.norms.0."),
    (r"(\.encoder\.layers\.\d+)\.norm2\.", r"\1.norms.1."),
    (r"(\.decoder\.layers\.\d+)\.norm2\.", r"\1.norms.0."),
    (r"(\.decoder\.layers\.\d+)\.norm1\.", r"\1.norms.1."),
    (r"(\.decoder\.layers\.\d+)\.norm3\.", r"\1.norms.2."),
)

DEFORMABLE_DETR = KeyMap(
    "deformable_detr",
    signature=r"^transformer\.(encoder|decoder)\.layers\.\d+\.(self|cross)_attn\.sampling_offsets\.",
    rules=(
        *_DETR_NAMES,
        # Three levels are the backbone's, or one; those after them are made of the last.
        (r"^input_proj\.([0-2])\.", r"neck.convs.\1."),
        (r"^input_proj\.3\.", "neck.extra_convs.0."),
        (r"^input_proj\.4\.", "neck.extra_convs.1."),
        *_PARTS,
        (r"^transformer\.level_embed$", "transformer.level_embeds"),
        *_DEFORMABLE_LAYERS,
    ),
    adapt=_contiguous_coco_classes,
)

RELATION_DETR = KeyMap(
    "relation_detr",
    signature=r"^transformer\.(hybrid|encoder)_class_head\.",
    rules=(
        *_DETR_NAMES,
        *_DEFORMABLE_LAYERS,
        (r"^neck\.convs\.3\.", "neck.extra_convs.0."),
        (r"^transformer\.decoder\.(class|bbox)_head\.", r"heads.\1_embed."),
        (r"^transformer\.encoder_(class|bbox)_head\.", r"heads.\1_embed.6."),  # after those of the six layers
        (r"^transformer\.hybrid_(class|bbox)_head\.", r"queries.hybrid.heads.\1_embed.0."),
        (r"^transformer\.hybrid_tgt_embed\.", "queries.hybrid.content."),
        (r"^(transformer\.decoder)\.position_relation_embedding\.pos_proj\.0\.", r"\1.relation.pos_proj."),
        (r"^transformer\.encoder\.memory_fusion\.", "transformer.encoder.memory_fusion.layers."),
        *_PARTS,
    ),
    adapt=_linear_as_convolution,
)

TORCHVISION = KeyMap(
    "torchvision",
    signature=r"^(conv1|layer1\.0\.conv1)\.weight$",
    rules=((r"^fc\.", None), (r"^(conv1|bn1|layer\d)\.", r"backbone.\1.")),
)

DETECTRON2 = KeyMap(
    "detectron2",
    signature=r"^(stem\.conv1|res2\.0\.conv1)\.weight$",
    rules=_detectron2_resnet(""),
)

KEY_MAPS: tuple[KeyMap, ...] = (DETREX_LITE, DETREX, DETR, DEFORMABLE_DETR, RELATION_DETR, TORCHVISION, DETECTRON2)
