"""Masks computed from the attention of queries (DETR, Carion et al., ECCV 2020, figure 8).

Legend: B batch, Q queries, C channels, H attention heads, h x w cells of the transformer's map.
"""

import math
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...errors import did_you_mean
from ...structures import ImageBatch
from ..detector import without_padding

HIDDEN = "hidden"  # name in `LayerOutput.extra`: (B, Q, C), the input of the heads

QUERIES_AT_ONCE = 32  # the norms treat each query separately, so masks can be computed in chunks
NORM_GROUPS = 8


class AttentionMaskHead(nn.Module):
    """Attention maps of queries, refined step by step with the maps of the backbone.

    Args:
        in_channels: maps the backbone's feature names to channels.
        in_features: the fused maps, coarsest first; masks have the resolution of the last one.
        embed_dim: C, of the transformer.
        num_heads: H, number of attention maps.

    Raises:
        ValueError: when the backbone has no map of that name.
    """

    def __init__(
        self,
        *,
        in_channels: Mapping[str, int],
        in_features: Sequence[str] = ("res4", "res3", "res2"),
        embed_dim: int = 256,
        num_heads: int = 8,
    ):
        super().__init__()
        for name in in_features:
            if name not in in_channels:
                raise ValueError(f"the backbone has no feature map {name!r}{did_you_mean(name, in_channels)}")
        self.in_features = tuple(in_features)
        self.embed_dim = embed_dim
        self.num_heads = num_heads
        self.query_proj = nn.Linear(embed_dim, embed_dim)
        self.key_proj = nn.Linear(embed_dim, embed_dim)
        # The first two convolutions read the transformer's map, each further one a finer map.
        in_width = embed_dim + num_heads
        widths = [in_width, *(embed_dim // 2 ** (step + 1) for step in range(len(in_features) + 1))]
        self.convs, self.norms, self.adapters = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        for width in widths:
            self.convs.append(nn.Conv2d(in_width, width, 3, padding=1))
            self.norms.append(nn.GroupNorm(math.gcd(NORM_GROUPS, width), width))
            in_width = width
        for name, width in zip(in_features, widths[1:], strict=False):
            self.adapters.append(nn.Conv2d(in_channels[name], width, 1))
        self.predict = nn.Conv2d(in_width, 1, 3, padding=1)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw Xavier-uniform projections and He-uniform convolutions with zero biases, as the paper's repository."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
            elif isinstance(module, nn.Conv2d):
                nn.init.kaiming_uniform_(module.weight, a=1)
            if isinstance(module, nn.Linear | nn.Conv2d) and module.bias is not None:
                nn.init.zeros_(module.bias)

    def forward(
        self, queries: Tensor, encoded: Tensor, projected: ImageBatch, pyramid: Sequence[ImageBatch]
    ) -> ImageBatch:
        """Predict the masks of all queries.

        Args:
            queries: (B, Q, C), the decoder's output.
            encoded: (B, C, h, w), the encoder's output.
            projected: (B, C, h, w), the encoder's input.
            pyramid: the maps `in_features`, finest last.

        Returns:
            (B, Q, h', w') logits, with the size of the finest map.
        """
        attention = self.attention(queries, encoded, projected.mask)
        attention_maps = ImageBatch(
            attention.flatten(1, 2), projected.image_sizes, projected.mask, as_published=projected.as_published
        )
        return without_padding(self._masks, *pyramid[::-1], projected, attention_maps)

    def attention(self, queries: Tensor, encoded: Tensor, padding: Tensor | None) -> Tensor:
        """Compute attention maps, (B, Q, H, h, w), which sum to 1 over all cells without padding and all heads."""
        query = self.query_proj(queries).unflatten(-1, (self.num_heads, -1))  # (B, Q, H, C / H)
        key = self.key_proj(encoded.flatten(2).mT).unflatten(-1, (self.num_heads, -1))  # (B, h * w, H, C / H)
        scores = torch.einsum("bqhc,bnhc->bqhn", query * query.shape[-1] ** -0.5, key)
        if padding is not None:
            scores = scores.masked_fill(padding.flatten(1)[:, None, None], float("-inf"))
        # The softmax runs over all heads together, as in the paper's repository.
        return scores.flatten(2).softmax(-1).unflatten(-1, (self.num_heads, *encoded.shape[-2:]))

    def _masks(self, *maps: Tensor) -> Tensor:
        """Compute masks (B, Q, h', w') from finer maps, finest first, projected map and attention (B, Q * H, h, w)."""
        *pyramid, projected, attention = maps
        attention = attention.unflatten(1, (-1, self.num_heads))
        adapted = [adapter(level_map) for adapter, level_map in zip(self.adapters, pyramid[::-1], strict=True)]
        return torch.cat(
            [self._masks_of_chunk(part, projected, adapted) for part in attention.split(QUERIES_AT_ONCE, 1)], 1
        )

    def _masks_of_chunk(self, attention: Tensor, projected: Tensor, adapted: Sequence[Tensor]) -> Tensor:
        """attention: (B, q, H, h, w). Returns (B, q, h', w')."""
        number = attention.shape[1]

        def repeat_per_query(level_map: Tensor) -> Tensor:  # (B, C, h, w) for each query: (B * q, C, h, w)
            return level_map[:, None].expand(-1, number, -1, -1, -1).flatten(0, 1)

        hidden = torch.cat([repeat_per_query(projected), attention.flatten(0, 1)], dim=1)
        for step, (convolution, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            if step > 1:
                finer = adapted[step - 2]
                hidden = repeat_per_query(finer) + F.interpolate(hidden, finer.shape[-2:], mode="nearest")
            hidden = F.relu(norm(convolution(hidden)))
        return self.predict(hidden).squeeze(1).unflatten(0, (-1, number))
