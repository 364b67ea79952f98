"""Boxes with edges predicted as distributions that layers refine (D-FINE, Peng et al., ICLR 2025, section 4.1).

Legend: B batch, Q queries, K classes, C channels, N bins of a distribution.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..layers import MLP, in_own_precision
from ..layers.convolution import Activation
from ..structures import box_cxcywh_to_xyxy, box_xyxy_to_cxcywh
from .heads import DetectionHeads, LayerStep, keep_last
from .predictions import LayerOutput

# Names of the distributions among the further outputs of a layer.
CORNERS = "corners"  # (B, Q, 4, N) logits, for left, top, right and bottom
INITIAL = "initial_boxes"  # (B, Q, 4) cxcywh, the origin of the distances


@dataclass(frozen=True)
class EdgeBins:
    """The distances by which the bins of a distribution move an edge: fine near zero, coarse far away (D-FINE, eq. 3).

    Attributes:
        reg_max: number of bins minus one; even.
        reg_scale: edges move by the distance times the side of the box over this number.
        up: the second to last bin is at a distance of `up * reg_scale`, the last bin at twice that.
    """

    reg_max: int = 32
    reg_scale: float = 4.0
    up: float = 0.5

    def __post_init__(self) -> None:
        if self.reg_max < 4 or self.reg_max % 2 or self.reg_scale <= 0 or self.up <= 0:
            raise ValueError(
                f"reg_max={self.reg_max}, reg_scale={self.reg_scale}, up={self.up}: reg_max must be an even number "
                "from 4 on, and the others must be positive"
            )

    def __len__(self) -> int:
        """Number of bins, N."""
        return self.reg_max + 1

    def values(self) -> list[float]:
        """Return the distance of each bin in ascending order; that of the middle bin is 0."""
        bound = self.up * self.reg_scale
        step = (bound + 1) ** (2 / (self.reg_max - 2))
        right = [step**index - 1 for index in range(1, self.reg_max // 2)]
        return [-2 * bound, *(-value for value in reversed(right)), 0.0, *right, 2 * bound]

    def boxes(self, initial: Tensor, distances: Tensor) -> Tensor:
        """Move the edges of boxes.

        Args:
            initial: (..., 4) cxcywh.
            distances: (..., 4) of left, top, right and bottom; positive values enlarge the box.

        Returns:
            (..., 4) cxcywh.
        """
        centre, size = initial[..., :2], initial[..., 2:]
        reach = 0.5 * self.reg_scale + distances
        unit = size / self.reg_scale
        return box_xyxy_to_cxcywh(torch.cat([centre - reach[..., :2] * unit, centre + reach[..., 2:] * unit], dim=-1))

    def distances(self, initial: Tensor, boxes: Tensor) -> Tensor:
        """Invert `boxes`: compute the distances that move the edges of the initial boxes to those of `boxes`.

        Args:
            initial: (..., 4) cxcywh.
            boxes: (..., 4) cxcywh.

        Returns:
            (..., 4) of left, top, right and bottom.
        """
        centre, size = initial[..., :2], initial[..., 2:]
        corners = box_cxcywh_to_xyxy(boxes)
        reach = torch.cat([centre - corners[..., :2], corners[..., 2:] - centre], dim=-1)
        unit = size / self.reg_scale + 1e-16
        return reach / torch.cat([unit, unit], dim=-1) - 0.5 * self.reg_scale


class LocationQuality(nn.Module):
    """Predicts the localisation quality of a box, as an addend of class logits (D-FINE's LQE, after GFLv2).

    Its input are the highest probabilities of each edge's distribution and their mean.

    Args:
        topk: number of highest probabilities.
        hidden_dim: hidden channels of the MLP.
        activation: of the MLP, see `MLP`.
    """

    def __init__(self, topk: int = 4, hidden_dim: int = 64, activation: Activation = nn.ReLU):
        super().__init__()
        self.topk = topk
        self.mlp = MLP(4 * (topk + 1), hidden_dim, 1, num_layers=2, activation=activation)
        _begin_with_zero(self.mlp)

    def forward(self, corners: Tensor) -> Tensor:
        """corners: (B, Q, 4, N) logits. Returns (B, Q, 1)."""
        highest = corners.softmax(-1).topk(self.topk, dim=-1).values
        return self.mlp(torch.cat([highest, highest.mean(-1, keepdim=True)], dim=-1).flatten(-2))


class DistributionHeads(DetectionHeads):
    """D-FINE's heads: the first layer predicts a plain box, and layers accumulate logits of the distances of its edges.

    The first layer predicts a box as in DETR. Relative to this initial box, without its gradients, a distribution for
    each edge determines the boxes of all layers. A layer adds its logits to those of the previous layer; its head also
    gets the query of the previous layer, without gradients. The next layer attends to the box, without gradients.

    The plain box of the first layer, with the classes of that layer, is a further set of predictions, "_pre".

    Args:
        embed_dim, num_classes, num_layers, share_heads, for_encoder, norm, initial_size, extra, eps, activation: see
            `DetectionHeads`. References are updated by queries after `norm`, too.
        bins: the bins of the distributions.
        quality: adds the localisation quality to class logits; each layer has a copy. None for none.
        with_box_refine: must be True, since boxes are refined.
        look_forward_twice: must be False, since gradients flow through the accumulated logits.

    Raises:
        ValueError: for other values of the last two arguments.
    """

    bin_values: Tensor
    quality_embed: nn.ModuleList | None

    def __init__(
        self,
        *,
        embed_dim: int,
        num_classes: int,
        num_layers: int,
        bins: EdgeBins,
        quality: nn.Module | None = None,
        with_box_refine: bool = True,
        look_forward_twice: bool = False,
        share_heads: bool | None = None,
        for_encoder: bool = False,
        norm: nn.Module | None = None,
        initial_size: float = 0.0,
        extra: Mapping[str, nn.Module] | None = None,
        eps: float = 1e-5,
        activation: Activation = nn.ReLU,
    ):
        if not with_box_refine or look_forward_twice:
            raise ValueError(
                f"with_box_refine={with_box_refine}, look_forward_twice={look_forward_twice}: distribution heads "
                "refine boxes, and gradients flow through the accumulated logits; set True and False"
            )
        super().__init__(
            embed_dim=embed_dim,
            num_classes=num_classes,
            num_layers=num_layers,
            with_box_refine=True,
            share_heads=share_heads,
            for_encoder=for_encoder,
            norm=norm,
            extra=extra,
            eps=eps,
            activation=activation,
        )
        self.bins = bins
        self.register_buffer("bin_values", torch.tensor(bins.values()), persistent=False)
        of_layers = self._heads(MLP(embed_dim, embed_dim, 4 * len(bins), num_layers=3, activation=activation))
        self.bbox_embed = nn.ModuleList([*of_layers[:num_layers], *self.bbox_embed[num_layers:]])
        self.pre_bbox_embed = MLP(embed_dim, embed_dim, 4, num_layers=3, activation=activation)
        for box_head in (*self.bbox_embed, self.pre_bbox_embed):
            _begin_with_zero(box_head)
        if not for_encoder:
            nn.init.constant_(self.pre_bbox_embed.layers[-1].get_parameter("bias")[2:], initial_size)
        self.quality_embed = None
        if quality is not None:
            self.quality_embed = nn.ModuleList(
                quality if self.share_heads else copy.deepcopy(quality) for _ in range(num_layers)
            )

    def _apply(self, fn: Callable[..., Tensor], recurse: bool = True) -> "DistributionHeads":
        """Convert the values of bins from their full precision, so that they are rounded only once."""
        super()._apply(fn, recurse)
        self.bin_values = self.bin_values.new_tensor(self.bins.values())
        return self

    def start(self, query: Tensor, reference: Tensor | None) -> LayerStep:
        """See `DetectionHeads.start`.

        Raises:
            ValueError: always, because distributions accumulate from the first layer on.
        """
        raise ValueError(
            "distribution heads cannot start in a layer after the first: remove stage 0 from the lists of later layers "
            "in the decoder's recollection"
        )

    def step(self, index: int, query: Tensor, reference: Tensor | None, previous: LayerStep | None = None) -> LayerStep:
        """See `DetectionHeads.step`; `extra` has the distributions and, for the first layer, its plain boxes."""
        query = self._normalised(query)
        if previous is None:
            plain = self.boxes(in_own_precision(self.pre_bbox_embed, query), reference)
            initial = plain.detach()
            corners = self._corners(index, query)
            extra = {CORNERS: corners, "plain": plain}
        else:
            assert previous.base is not None
            assert previous.extra is not None
            initial = previous.base
            corners = self._corners(index, query + previous.query.detach()) + previous.extra[CORNERS]
            extra = {CORNERS: corners}
        # This is not a matrix product, which autocast would round.
        distances = (corners.softmax(-1) * self.bin_values.to(corners.dtype)).sum(-1)
        boxes = self.bins.boxes(initial, distances)
        return LayerStep(index, query, initial, boxes.detach(), boxes, boxes=boxes, extra=extra)

    def _corners(self, index: int, query: Tensor) -> Tensor:
        """Return the addend of a layer to the logits of distributions, (B, Q, 4, N)."""
        return in_own_precision(self.bbox_embed[index], query).unflatten(-1, (4, len(self.bins)))

    def read(self, steps: Sequence[LayerStep]) -> list[LayerOutput]:
        """See `DetectionHeads.read`; the set "_pre" comes last, if the first layer is among the steps."""
        outputs, plain = [], []
        for step in steps[-1:] if self.reads_last_layer_only else steps:
            assert step.boxes is not None
            assert step.base is not None
            assert step.extra is not None
            logits, extra = self.class_embed[step.layer](step.query), self._extra(step.layer, step.query)
            if "plain" in step.extra:
                plain.append(LayerOutput(logits, step.extra["plain"], extra, "_pre"))
            corners = step.extra[CORNERS]
            if self.quality_embed is not None:
                logits = logits + self.quality_embed[step.layer](corners)
            outputs.append(LayerOutput(logits, step.boxes, {**extra, CORNERS: corners, INITIAL: step.base}))
        return [*outputs, *plain]

    def keep_last_layer(self, num_layers: int) -> None:
        """See `DetectionHeads.keep_last_layer`."""
        if self.quality_embed is not None:
            keep_last(self.quality_embed, num_layers, self.num_layers)
        super().keep_last_layer(num_layers)

    def read_boxes(self, step: LayerStep) -> Tensor:
        """See `DetectionHeads.read_boxes`."""
        assert step.boxes is not None
        return step.boxes


def _begin_with_zero(mlp: nn.Module) -> None:
    """Initialise the last layer so that the output is zero."""
    last = mlp.get_submodule("layers")[-1]  # type: ignore[index]
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
