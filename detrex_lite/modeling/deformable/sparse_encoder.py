"""An encoder that refines only the foreground tokens (Focus-DETR, Zheng et al., ICCV 2023).

Legend: B batch, N tokens of all levels, K foreground tokens, S tokens that a layer refines, L levels, C channels.
"""

from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...layers import BaseTransformerLayer, TransformerLayerSequence
from ...structures import box_cxcywh_to_xyxy
from ..criterion import sigmoid_focal_loss
from ..initialisation import xavier_uniform
from ..multi_scale import TokenLevels
from ..predictions import at_least_float32
from ..targets import Targets
from .proposals import gather_tokens

# A level is responsible for boxes whose farthest side is 4 to 8 strides away; the finest level also for smaller boxes,
# and the coarsest level also for larger ones.
STRIDES_TO_SIDE = 8

Number = TypeVar("Number", int, Tensor)


class ForegroundScores(nn.Module):
    """Scores the probability that a token is part of an object; coarser levels modulate the scores of finer ones.

    Args:
        embed_dim: C; a multiple of 4.
        strides: of the levels, finest first.
        alpha, gamma: of the focal loss, see `sigmoid_focal_loss`.
        loss_weight: of the loss.
    """

    def __init__(
        self,
        *,
        embed_dim: int,
        strides: Sequence[int] = (8, 16, 32, 64),
        alpha: float = 0.25,
        gamma: float = 2.0,
        loss_weight: float = 1.5,
    ):
        super().__init__()
        self.strides = tuple(strides)
        self.alpha = alpha
        self.gamma = gamma
        self.loss_weight = loss_weight
        # Parameters of each level but the coarsest, coarse to fine.
        self.modulation = nn.Parameter(torch.empty(len(self.strides) - 1).uniform_(-0.3, 0.3))
        self.features = nn.Sequential(nn.LayerNorm(embed_dim), nn.Linear(embed_dim, embed_dim), nn.GELU())
        self.score = nn.Sequential(
            nn.Linear(embed_dim, embed_dim // 2),
            nn.GELU(),
            nn.Linear(embed_dim // 2, embed_dim // 4),
            nn.GELU(),
            nn.Linear(embed_dim // 4, 1),
        )
        xavier_uniform(self.features)
        xavier_uniform(self.score)

    def forward(self, tokens: Tensor, levels: TokenLevels) -> list[Tensor]:
        """Score tokens.

        As published, the mean of a level and the interpolation to the next level include padding.

        Args:
            tokens: (B, N, C), projected as for proposals.
            levels: the layout of the tokens.

        Returns:
            L maps (B, 1, h, w) of logits, finest first.
        """
        scores: list[Tensor] = []  # coarsest first
        for index, tokens_of_level in enumerate(reversed(levels.maps(tokens))):
            level = tokens_of_level
            if scores:
                above = F.interpolate(scores[-1], level.shape[-2:], mode="bilinear", align_corners=True)
                level = level + level * above * self.modulation[index - 1]
            local, of_all = self.features(level.flatten(2).transpose(1, 2)).chunk(2, dim=-1)
            of_all = of_all.mean(dim=1, keepdim=True).expand_as(local)
            score = self.score(torch.cat([local, of_all], dim=-1))
            scores.append(score.transpose(1, 2).unflatten(2, level.shape[-2:]))
        return scores[::-1]

    def loss(self, scores: Sequence[Tensor], targets: Targets, image_sizes: Sequence[tuple[int, int]]) -> Tensor:
        """Compute the focal loss; a token is positive inside a box of a size that its level is responsible for.

        The sum of each image is divided by its number of positive tokens, at least 1, and averaged over images.

        Args:
            scores: the result of `forward`.
            targets: the objects.
            image_sizes: height and width of each image in pixels, without padding.

        Returns:
            A scalar, weighted.
        """
        objects = targets.padded().boxes  # (B, T, 4)
        sizes = torch.tensor(image_sizes, dtype=objects.dtype).to(objects.device, non_blocking=True).flip(1)
        boxes = box_cxcywh_to_xyxy(objects) * sizes.repeat(1, 2)[:, None]
        numbers = torch.tensor(targets.sizes).to(objects.device, non_blocking=True)
        is_object = torch.arange(boxes.shape[1], device=boxes.device) < numbers[:, None]  # (B, T)
        positive = []
        for index, (level, stride) in enumerate(zip(scores, self.strides, strict=True)):
            y, x = (
                torch.arange(side, device=boxes.device, dtype=boxes.dtype) * stride + stride // 2
                for side in level.shape[-2:]
            )
            centres = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1).flatten(0, 1)[None, :, None]
            sides = torch.cat([centres - boxes[:, None, :, :2], boxes[:, None, :, 2:] - centres], dim=-1)
            farthest = sides.amax(-1)  # (B, cells, T)
            fits = (sides.amin(-1) > 0) & is_object[:, None]
            if index > 0:
                fits &= farthest > STRIDES_TO_SIDE / 2 * stride
            if index < len(self.strides) - 1:
                fits &= farthest <= STRIDES_TO_SIDE * stride
            positive.append(fits.any(-1))
        is_foreground = torch.cat(positive, dim=1)
        logits = at_least_float32(torch.cat([level.flatten(1) for level in scores], dim=1))
        losses = sigmoid_focal_loss(logits, is_foreground.to(logits.dtype), self.alpha, self.gamma).sum(1)
        return self.loss_weight * (losses / is_foreground.sum(1).clamp(min=1)).mean()


class SparseEncoderLayer(nn.Module):
    """Refines some tokens: the best ones attend to each other, then each samples a few points of all tokens.

    Args:
        self_attn: attention among the best tokens.
        attn: deformable attention to all tokens.
        ffn, norm: see `BaseTransformerLayer`.
        num_best: number of tokens that attend to each other.

    Raises:
        ValueError: when `num_best` is below 1.
    """

    def __init__(self, *, self_attn: nn.Module, attn: nn.Module, ffn: nn.Module, norm: nn.Module, num_best: int = 300):
        super().__init__()
        if num_best < 1:
            raise ValueError(f"num_best={num_best} is below 1")
        self.num_best = num_best
        self.among_best = BaseTransformerLayer(
            attn=self_attn, ffn=ffn, norm=norm, operation_order=["self_attn", "norm"]
        )
        self.read = BaseTransformerLayer(
            attn=attn, ffn=ffn, norm=norm, operation_order=["cross_attn", "norm", "ffn", "norm"]
        )

    def reset_parameters(self) -> None:
        """See `BaseTransformerLayer.reset_parameters`."""
        self.among_best.reset_parameters()
        self.read.reset_parameters()

    def forward(
        self,
        query: Tensor,
        tokens: Tensor,
        *,
        query_pos: Tensor,
        quality: Tensor,
        empty: Tensor | None,
        levels: TokenLevels,
        reference_points: Tensor,
    ) -> Tensor:
        """Refine.

        Args:
            query: (B, S, C), the tokens to refine.
            tokens: (B, N, C), the values of deformable attention.
            query_pos: (B, S, C).
            quality: (B, S), the scores that determine the best tokens.
            empty: (B, S) bool, True = no token; None when there is none.
            levels: the layout of `tokens`.
            reference_points: (B, S, L, 2), the locations of the tokens to refine, in 0..1 of the padded maps.

        Returns:
            (B, S, C).
        """
        if empty is not None:
            quality = quality.masked_fill(empty, float("-inf"))
        best = quality.topk(_at_most(self.num_best, quality.shape[1]), dim=1).indices
        refined = self.among_best(
            gather_tokens(query, best),
            query_pos=gather_tokens(query_pos, best),
            query_key_padding_mask=None if empty is None else empty.gather(1, best),
        )
        query = put_tokens(query, best, refined)
        points = {"reference_points": reference_points, "spatial_shapes": levels.spatial_shapes}
        return self.read(query, tokens, query_pos=query_pos, key_padding_mask=levels.padding, cross_attn_inputs=points)


class SparseEncoder(TransformerLayerSequence):
    """Each layer refines the tokens with the highest foreground scores, fewer in deeper layers, and keeps the others.

    As published, layers sample the encoder's input, not the result of the previous layers.

    Args:
        layer: a `SparseEncoderLayer`, of which `num_layers` copies are made, or a list of layers.
        num_layers: number of layers; optional with a list.
        foreground: scores tokens.
        foreground_share: fraction of an image's tokens that are foreground.
        layer_shares: fraction of the foreground that each layer refines. With images of different sizes it refers to
            the largest foreground, and an image refines at most its whole foreground.

    Raises:
        ValueError: when a fraction is not in (0, 1], or the number of fractions is not the number of layers.
    """

    def __init__(
        self,
        *,
        layer: nn.Module | Sequence[nn.Module],
        num_layers: int | None = None,
        foreground: ForegroundScores,
        foreground_share: float = 0.5,
        layer_shares: Sequence[float] = (1.0, 0.8, 0.6, 0.6, 0.4, 0.2),
    ):
        super().__init__(layer, num_layers)
        if len(layer_shares) != self.num_layers:
            raise ValueError(f"layer_shares has {len(layer_shares)} numbers for {self.num_layers} encoder layers")
        for share in (foreground_share, *layer_shares):
            if not 0 < share <= 1:
                raise ValueError(f"the fraction {share} of tokens must be above 0 and at most 1")
        self.foreground = foreground
        self.foreground_share = foreground_share
        self.layer_shares = tuple(layer_shares)

    def forward(
        self,
        tokens: Tensor,
        *,
        pos: Tensor,
        levels: TokenLevels,
        scores: Tensor,
        class_score: Callable[[Tensor], Tensor],
    ) -> Tensor:
        """Encode.

        Numbers of tokens are rounded down, and at least 1.

        Args:
            tokens: (B, N, C).
            pos: (B, N, C) or (1, N, C).
            levels: the layout of the tokens.
            scores: (B, N), foreground logits.
            class_score: maps tokens (B, S, C) to the logit of the best class of each, (B, S). Its product with the
                foreground score determines which tokens attend to each other.

        Returns:
            (B, N, C).
        """
        (batch, number), padding = scores.shape, levels.padding
        scores = at_least_float32(scores.detach())
        pos = pos.expand(batch, -1, -1)
        centres = levels.in_maps(levels.centres()).expand(batch, -1, -1, -1)
        # The number of refined tokens depends on padding, which is only known on the device; there are slots for all.
        max_foreground = _part(number, self.foreground_share) + 1
        foreground: Tensor | None = None  # (B, 1), number of foreground tokens of each image; None without padding
        if padding is not None:
            scores = scores.masked_fill(padding, scores.min())
            foreground = _part((~padding).sum(1, keepdim=True), self.foreground_share) + 1
        order = scores.topk(min(max_foreground, number), dim=1).indices
        output = tokens
        for layer, share in zip(self.layers, self.layer_shares, strict=True):
            indices = order[:, : max(_part(max_foreground, share), 1)]
            rank = torch.arange(indices.shape[1], device=indices.device)
            empty = None
            if foreground is not None:
                num_refined = _part(foreground.max(), share).clamp(min=1)
                empty = (rank >= num_refined).expand_as(indices)
            selected = gather_tokens(output, indices)
            with torch.no_grad():
                quality = class_score(selected) * scores.gather(1, indices)
            refined = layer(
                selected,
                tokens,
                query_pos=gather_tokens(pos, indices),
                quality=quality,
                empty=empty,
                levels=levels,
                reference_points=gather_tokens(centres, indices),
            )
            if foreground is not None and empty is not None:
                refined = torch.where((empty | (rank >= foreground))[..., None], selected, refined)
            output = put_tokens(output, indices, refined)
        return output


def _part(number: Number, share: float) -> Number:
    """Compute a fraction of an integer, rounded down, in integer arithmetic: exported graphs have symbolic sizes."""
    exact = Fraction(share).limit_denominator(1_000_000)
    return number * exact.numerator // exact.denominator


def _at_most(limit: int, number: int) -> int | torch.SymInt:
    """Return the minimum; in exported graphs `number` is symbolic."""
    return number.clamp(max=limit) if isinstance(number, Tensor) else torch.sym_min(number, limit)


def put_tokens(tokens: Tensor, indices: Tensor, values: Tensor) -> Tensor:
    """Replace the tokens (B, N, C) with indices (B, S) by `values` (B, S, C)."""
    return tokens.scatter(1, indices[..., None].expand_as(values), values.to(tokens.dtype))
