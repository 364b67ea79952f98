"""Prediction heads, which turn the queries of decoder layers and the tokens of an encoder into classes and boxes.

Only this module defines the encoding of boxes: an offset from a reference in logit space (Deformable DETR, Zhu et al.,
ICLR 2021, appendix A.3). Subclasses may decode it differently.

Legend: B batch, Q queries, N tokens, K classes, C channels, L decoder layers.
"""

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..layers import MLP, in_own_precision
from ..layers.convolution import Activation
from ..structures import inverse_sigmoid
from .predictions import LayerOutput

PRIOR_PROBABILITY = 0.01  # initial probability of an object


class LayerStep(NamedTuple):
    """The result of a decoder layer, for the next layer and for `DetectionHeads.read`.

    Attributes:
        layer: index of the layer, from 0.
        query: (B, Q, C), the output of the layer.
        base: (B, Q, 2) points or (B, Q, 4) cxcywh boxes in 0..1 that the layer's boxes refer to; None without
            references.
        reference: the references that the next layer attends to; without gradients when boxes are refined.
        refined: `reference` with gradients, for heads that look forward twice; None without refinement.
        offsets: (B, Q, 4), the output of the box head, if it has been computed already.
        boxes: (B, Q, 4), the output of `read_boxes`, if it has been called already.
        extra: further results that a subclass passes to the next layer or to `read`.
    """

    layer: int
    query: Tensor
    base: Tensor | None
    reference: Tensor | None
    refined: Tensor | None = None
    offsets: Tensor | None = None
    boxes: Tensor | None = None
    extra: Mapping[str, Tensor] | None = None


class DetectionHeads(nn.Module):
    """A class head and a box head for each decoder layer and, with two stages, a pair for the encoder's tokens.

    Under autocast, box heads still compute in the precision of their weights, because boxes need it.

    A decoder calls `step` after each layer to update the references, and `read` once at the end. Results that no layer
    needs are computed in `read`, for all layers at once if they share their heads.

    Args:
        embed_dim: C.
        num_classes: K.
        num_layers: L, the number of decoder layers.
        background: score "no object" as the last class, under a softmax (DETR), instead of each class under a sigmoid.
        with_box_refine: whether each layer's boxes, without gradients, are the references of the next layer. Otherwise
            all layers predict boxes relative to the initial references.
        look_forward_twice: with refinement, let the box loss of a layer also train the previous layer, whose boxes it
            refines (DINO, Zhang et al., ICLR 2023, section 3.5); the references of attention do not change.
        lite_refinement: with refinement, let each layer refine the initial references, which all layers attend to,
            instead of the boxes of the previous layer (LW-DETR, Chen et al., 2024, "lite_refpoint_refine" in its
            repository).
        share_heads: whether all layers share their heads. None: unless boxes are refined, as in Deformable DETR.
        for_encoder: whether there is another pair of heads, for `propose`.
        encoder_groups: with `for_encoder`, the number of groups of queries with a separate pair; only the pair of the
            first group is used in evaluation.
        norm: applied to queries before classes and boxes are predicted; references are updated by queries without this
            norm. None for no norm.
        references: whether boxes are relative to points or boxes, which also set their initial values; False for boxes
            that are predicted directly (DETR).
        initial_size: initial logit of the sides of boxes, for references that have no size or a random one; unused with
            `for_encoder`, where references are proposals.
        extra: further heads by name, (B, Q, C) to (B, Q, ...), which are copied like the other heads. Their outputs are
            `LayerOutput.extra`, for losses, costs and postprocessing.
        share_with_encoder: whether the encoder's heads are those that all layers share (Mask DINO).
        reads_initial: whether the initial queries are also decoded, by `read_initial`, as the first of the layers (Mask
            DINO).
        eps: of the inverse sigmoid of references. detrex, DAB-DETR, DN-DETR and DINO use 1e-3; Deformable DETR,
            Conditional DETR and H-Deformable DETR use 1e-5.
        activation: of the MLPs that predict boxes, see `MLP`.
    Attributes:
        reads_last_layer_only: whether `read` skips the layers before the last, see `keep_last_layer`.

    Raises:
        ValueError: for looking forward twice or lite refinement without refinement, both of them together, refinement
            without references, or several groups of encoder heads without `for_encoder`.
    """

    def __init__(
        self,
        *,
        embed_dim: int,
        num_classes: int,
        num_layers: int,
        background: bool = False,
        with_box_refine: bool = False,
        look_forward_twice: bool = False,
        lite_refinement: bool = False,
        share_heads: bool | None = None,
        for_encoder: bool = False,
        encoder_groups: int = 1,
        norm: nn.Module | None = None,
        references: bool = True,
        initial_size: float = 0.0,
        extra: Mapping[str, nn.Module] | None = None,
        share_with_encoder: bool = False,
        reads_initial: bool = False,
        eps: float = 1e-3,
        activation: Activation = nn.ReLU,
    ):
        super().__init__()
        if look_forward_twice and not with_box_refine:
            raise ValueError("look_forward_twice=True needs with_box_refine=True: it applies to refined boxes")
        if lite_refinement and (look_forward_twice or not with_box_refine):
            raise ValueError(
                "lite_refinement=True needs with_box_refine=True and look_forward_twice=False: all layers refine the "
                "initial references, not the boxes of another layer"
            )
        if encoder_groups < 1 or (encoder_groups > 1 and not for_encoder):
            raise ValueError(
                f"encoder_groups={encoder_groups} must be at least 1, and values above 1 need for_encoder=True"
            )
        if share_with_encoder and not (share_heads and for_encoder):
            raise ValueError("share_with_encoder=True needs share_heads=True and for_encoder=True")
        if with_box_refine and not references:
            raise ValueError("with_box_refine=True needs references=True, since it refines the references")
        self.embed_dim = embed_dim
        self.num_classes = num_classes
        self.num_layers = num_layers
        self.background = background
        self.with_box_refine = with_box_refine
        self.look_forward_twice = look_forward_twice
        self.lite_refinement = lite_refinement
        self.share_heads = not with_box_refine if share_heads is None else share_heads
        self.for_encoder = for_encoder
        self.share_with_encoder = share_with_encoder
        self.reads_initial = reads_initial
        self.encoder_groups = encoder_groups
        self.references = references
        self.initial_size = initial_size
        self.eps = eps
        self.norm = norm
        self.reads_last_layer_only = False
        class_head = nn.Linear(embed_dim, num_classes + background)
        box_head = MLP(embed_dim, embed_dim, 4, num_layers=3, activation=activation)
        self.class_embed: Any = self._heads(class_head)
        self.bbox_embed: Any = self._heads(box_head)
        self.extra_embed: Any = nn.ModuleDict({name: self._heads(head) for name, head in (extra or {}).items()})
        self.group_heads: Any = nn.ModuleDict({str(group): self._of_group() for group in range(1, encoder_groups)})
        self.reset_parameters()

    def _heads(self, head: nn.Module) -> nn.ModuleList:
        """Copy a head for each layer (the same object if they are shared) and for the encoder, in this order."""
        of_layers = [head if self.share_heads else copy.deepcopy(head) for _ in range(self.num_layers)]
        if not self.for_encoder:
            return nn.ModuleList(of_layers)
        return nn.ModuleList([*of_layers, head if self.share_with_encoder else copy.deepcopy(head)])

    def _of_group(self) -> nn.ModuleDict:
        """Copy the encoder's heads for one more group."""
        extra = nn.ModuleDict({name: copy.deepcopy(heads[-1]) for name, heads in self.extra_embed.items()})
        of_boxes, of_classes = copy.deepcopy(self.bbox_embed[-1]), copy.deepcopy(self.class_embed[-1])
        return nn.ModuleDict({"class_embed": of_classes, "bbox_embed": of_boxes, "extra_embed": extra})

    def reset_parameters(self) -> None:
        """Set boxes to their references, and a low prior for objects (Lin et al., ICCV 2017, section 4.1)."""
        groups = self.group_heads.values()
        if not self.background:
            for class_head in [*self.class_embed, *(heads["class_embed"] for heads in groups)]:
                nn.init.constant_(class_head.bias, -math.log((1 - PRIOR_PROBABILITY) / PRIOR_PROBABILITY))
        if not self.references:
            return
        last_layers = [
            box_head.layers[-1] for box_head in [*self.bbox_embed, *(heads["bbox_embed"] for heads in groups)]
        ]
        for layer in last_layers:
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        if last_layers and not self.for_encoder:
            nn.init.constant_(last_layers[0].bias[2:], self.initial_size)

    def boxes(self, offsets: Tensor, reference: Tensor | None) -> Tensor:
        """Decode boxes.

        Args:
            offsets: (..., 4), the output of a box head.
            reference: (..., 4) cxcywh in 0..1; or (..., 2) points, for which the head predicts the whole size; or None,
                for which it predicts the whole box.

        Returns:
            (..., 4) cxcywh in 0..1, in float32 at least.
        """
        offsets = offsets.to(torch.promote_types(offsets.dtype, torch.float32))
        return offsets.sigmoid() if reference is None else refine(offsets, reference, self.eps)

    def start(self, query: Tensor, reference: Tensor | None) -> LayerStep:
        """Make the step that takes the place of the previous layer when a later layer decodes the initial queries.

        Args:
            query: (B, Q, C), the initial queries.
            reference: (B, Q, 2) or (B, Q, 4), their references; None without references.

        Returns:
            A step whose reference has no gradients when boxes are refined, as the steps of all layers.
        """
        moves = self.with_box_refine and not self.lite_refinement
        attended = reference.detach() if moves and reference is not None else reference
        return LayerStep(-1, query, reference, attended, reference)

    def step(self, index: int, query: Tensor, reference: Tensor | None, previous: LayerStep | None = None) -> LayerStep:
        """Update the references after a layer.

        Args:
            index: index of the layer, from 0.
            query: (B, Q, C), the output of the layer.
            reference: (B, Q, 2) or (B, Q, 4), which the layer attended to; None without references.
            previous: the step of the previous layer; None for the first layer.
        """
        base = reference
        if previous is not None and self.look_forward_twice:
            base = previous.refined
        if not self.with_box_refine or self.lite_refinement or index == self.num_layers - 1:
            return LayerStep(index, query, base, reference)
        offsets = in_own_precision(self.bbox_embed[index], query)
        refined = self.boxes(offsets, reference)
        # Queries after the norm have different offsets than the queries that update references.
        return LayerStep(index, query, base, refined.detach(), refined, offsets if self.norm is None else None)

    def read(self, steps: Sequence[LayerStep]) -> list[LayerOutput]:
        """Predict the classes and boxes of all layers.

        Args:
            steps: the results of `step`, in the order of the layers.
        """
        if self.reads_last_layer_only:
            steps = steps[-1:]
        if self.share_heads and len(steps) > 1 and _of_one_shape(steps):
            return self._read_together(steps)
        return [self._read(step) for step in steps]

    def read_boxes(self, step: LayerStep) -> Tensor:
        """Return the boxes of a layer, (B, Q, 4), before `read`."""
        return self._boxes_of(step, None if step.offsets is not None else self._normalised(step.query))

    def _boxes_of(self, step: LayerStep, hidden: Tensor | None) -> Tensor:
        offsets = step.offsets
        if offsets is None:
            assert hidden is not None
            offsets = in_own_precision(self.bbox_embed[step.layer], hidden)
        return self.boxes(offsets, step.base)

    def _read(self, step: LayerStep) -> LayerOutput:
        hidden = self._normalised(step.query)
        boxes = self._boxes_of(step, hidden) if step.boxes is None else step.boxes
        scored = self.scored(hidden)
        return LayerOutput(self.class_embed[step.layer](scored), boxes, self._extra(step.layer, scored))

    def _extra(self, index: int, hidden: Tensor) -> dict[str, Tensor]:
        return {name: heads[index](hidden) for name, heads in self.extra_embed.items()}

    def _read_together(self, steps: Sequence[LayerStep]) -> list[LayerOutput]:
        """Compute all layers in one product: on a GPU, launching a kernel takes as long as computing it."""
        hidden = self._normalised(torch.stack([step.query for step in steps]))
        bases = [step.base for step in steps]
        base = bases[0]
        if any(step_base is not base for step_base in bases):
            base = torch.stack([value for value in bases if value is not None])
        boxes = self.boxes(in_own_precision(self.bbox_embed[0], hidden), base)
        scored = self.scored(hidden)
        extra = {name: values.unbind() for name, values in self._extra(0, scored).items()}
        layers = zip(self.class_embed[0](scored).unbind(), boxes.unbind(), strict=True)
        return [
            LayerOutput(*layer, {name: values[index] for name, values in extra.items()})
            for index, layer in enumerate(layers)
        ]

    def scored(self, hidden: Tensor) -> Tensor:
        """Return the input of class heads and further heads, a hook for subclasses: here `hidden` itself.

        Args:
            hidden: (..., C), queries after the norm, or encoded tokens.
        """
        return hidden

    def read_initial(self, query: Tensor, reference: Tensor | None) -> list[LayerOutput]:
        """Decode the initial queries, if `reads_initial`: one output, whose boxes are the references.

        Args:
            query: (B, Q, C), contents.
            reference: (B, Q, 4) cxcywh in 0..1.

        Raises:
            ValueError: when references are not boxes.
        """
        if not self.reads_initial or self.reads_last_layer_only:
            return []
        if reference is None or reference.shape[-1] != 4:
            raise ValueError("reads_initial=True needs references that are boxes, which are the initial predictions")
        scored = self.scored(query)
        return [LayerOutput(self.class_embed[0](scored), reference, self._extra(0, scored))]

    def _normalised(self, query: Tensor) -> Tensor:
        return query if self.norm is None else self.norm(query)

    def keep_last_layer(self, num_layers: int) -> None:
        """Drop the parts that inference does not use: heads after the last layer that runs, and earlier class heads.

        Args:
            num_layers: number of layers that run.
        """
        self.reads_last_layer_only = True
        for heads in (self.class_embed, *self.extra_embed.values()):
            keep_last(heads, num_layers, self.num_layers)
        del self.bbox_embed[num_layers : self.num_layers]
        self.num_layers = num_layers

    def score_tokens(self, memory: Tensor, *, group: int = 0) -> Tensor:
        """Compute the logit of the best class of encoded tokens, which determines the choice of proposals.

        Args:
            memory: (B, N, C).
            group: see `propose`.

        Returns:
            (B, N).
        """
        class_head, _, _ = self._encoder_heads(group)
        return class_head(memory).max(-1).values

    def propose(self, memory: Tensor, anchors: Tensor, proposes: Tensor, *, group: int = 0) -> LayerOutput:
        """Predict the classes and boxes of encoded tokens.

        Args:
            memory: (B, N, C).
            anchors: (B, N, 4) or (1, N, 4) cxcywh in 0..1, a box around each token.
            proposes: (B, N) or (1, N) bool, False for tokens without a proposal: their boxes are (1, 1, 1, 1), as
                published.
            group: the group whose heads are used, in 0..encoder_groups - 1.

        Raises:
            ValueError: when there are no heads for the encoder.
        """
        class_head, box_head, extra_heads = self._encoder_heads(group)
        boxes = self.proposed_boxes(in_own_precision(box_head, memory), anchors, proposes)
        scored = self.scored(memory)
        return LayerOutput(class_head(scored), boxes, {name: head(scored) for name, head in extra_heads.items()})

    def proposed_boxes(self, offsets: Tensor, anchors: Tensor, proposes: Tensor) -> Tensor:
        """Decode the boxes of proposals.

        Args:
            offsets: (B, N, 4), the output of the encoder's box head.
            anchors, proposes: see `propose`.

        Returns:
            (B, N, 4) cxcywh in 0..1.
        """
        return (offsets + proposed_from(anchors, proposes)).sigmoid()

    def _encoder_heads(self, group: int) -> tuple[nn.Module, nn.Module, dict[str, nn.Module]]:
        """Return the class head, the box head and the further heads of a group's proposals."""
        if not self.for_encoder:
            raise ValueError("these heads were built with for_encoder=False: they have none for the encoder's tokens")
        if group:
            heads: Any = self.group_heads[str(group)]
            return heads["class_embed"], heads["bbox_embed"], dict(heads["extra_embed"].items())
        return (
            self.class_embed[-1],
            self.bbox_embed[-1],
            {name: module_list[-1] for name, module_list in self.extra_embed.items()},
        )


def proposed_from(anchors: Tensor, proposes: Tensor) -> Tensor:
    """Compute the logits of the reference boxes of proposals, (B, N, 4) or (1, N, 4); see `DetectionHeads.propose`."""
    return torch.logit(anchors).masked_fill(~proposes[..., None], float("inf"))


def keep_last(heads: nn.ModuleList, num_layers: int, num_heads: int) -> None:
    """Keep only the head of the last of `num_layers` among the first `num_heads` heads; later heads stay."""
    del heads[num_layers:num_heads]
    for index in range(num_layers - 1):
        heads[index] = nn.Identity()


def _of_one_shape(steps: Sequence[LayerStep]) -> bool:
    """Whether layers can be stacked: initial references may be points where later ones are boxes."""
    query, base = steps[0].query, steps[0].base
    return all(
        step.query.shape == query.shape and (step.base is None or base is None or step.base.shape == base.shape)
        for step in steps
    )


def refine(offsets: Tensor, reference: Tensor, eps: float = 1e-3) -> Tensor:
    """Move a reference in logit space (Deformable DETR, Zhu et al., ICLR 2021, appendix A.3).

    Args:
        offsets: (..., 4), the output of a box head.
        reference: (..., 4) cxcywh in 0..1; or (..., 2) points, for which the head predicts the whole size.
        eps: of the inverse sigmoid.

    Returns:
        (..., 4) cxcywh in 0..1, in float32 at least.
    """
    offsets = offsets.to(torch.promote_types(offsets.dtype, torch.float32))
    logits = inverse_sigmoid(reference.to(offsets.dtype), eps)
    if reference.shape[-1] == 2:
        logits = torch.cat([logits, torch.zeros_like(logits)], dim=-1)
    return (offsets + logits).sigmoid()
