"""Masks from where queries attend to (DETR, Carion et al., ECCV 2020, figure 8).

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

HIDDEN = "hidden"  # of `LayerOutput.extra`: (B, Q, C), queries as heads read them

QUERIES_AT_ONCE = 32  # their masks are made one after the other anyway: each has norms of its own
NORM_GROUPS = 8


class AttentionMaskHead(nn.Module):
    """Attention maps of queries, made finer step by step with the maps of the backbone.

    Args:
        in_channels: feature name -> channels of what the backbone gives.
        in_features: the maps that are joined, coarsest first; masks have the resolution of the last one.
        embed_dim: C, of the transformer.
        num_heads: H, of the attention maps.

    Raises:
        ValueError: when the backbone gives no map of that name.
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
                raise ValueError(f"the backbone gives no feature map {name!r}{did_you_mean(name, in_channels)}")
        self.in_features = tuple(in_features)
        self.embed_dim = embed_dim
        self.num_heads = num_heads
        self.query_proj = nn.Linear(embed_dim, embed_dim)
        self.key_proj = nn.Linear(embed_dim, embed_dim)
        # The first two convolutions see the transformer's map, each further one a finer map.
        before = embed_dim + num_heads
        widths = [before, *(embed_dim // 2 ** (step + 1) for step in range(len(in_features) + 1))]
        self.convs, self.norms, self.adapters = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        for width in widths:
            self.convs.append(nn.Conv2d(before, width, 3, padding=1))
            self.norms.append(nn.GroupNorm(math.gcd(NORM_GROUPS, width), width))
            before = width
        for name, width in zip(in_features, widths[1:], strict=False):
            self.adapters.append(nn.Conv2d(in_channels[name], width, 1))
        self.predict = nn.Conv2d(before, 1, 3, padding=1)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Xavier-uniform projections and He-uniform convolutions with biases of zero, as the paper's repository."""
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
        """Masks of all queries.

        Args:
            queries: (B, Q, C), the decoder's result.
            encoded: (B, C, h, w), the encoder's result.
            projected: (B, C, h, w), what the encoder got.
            pyramid: the maps `in_features`, finest last.

        Returns:
            (B, Q, h', w') logits, of the size of the finest map.
        """
        attention = self.attention(queries, encoded, projected.mask)
        attention_maps = ImageBatch(
            attention.flatten(1, 2), projected.image_sizes, projected.mask, as_published=projected.as_published
        )
        return without_padding(self._masks, *pyramid[::-1], projected, attention_maps)

    def attention(self, queries: Tensor, encoded: Tensor, padding: Tensor | None) -> Tensor:
        """Where queries attend to: (B, Q, H, h, w), which sums to 1 over the cells that are no padding."""
        query = self.query_proj(queries).unflatten(-1, (self.num_heads, -1))  # (B, Q, H, C / H)
        key = self.key_proj(encoded.flatten(2).mT).unflatten(-1, (self.num_heads, -1))  # (B, h * w, H, C / H)
        scores = torch.einsum("bqhc,bnhc->bqhn", query * query.shape[-1] ** -0.5, key)
        if padding is not None:
            scores = scores.masked_fill(padding.flatten(1)[:, None, None], float("-inf"))
        # Over all heads together, as in the paper's repository.
        return scores.flatten(2).softmax(-1).unflatten(-1, (self.num_heads, *encoded.shape[-2:]))

    def _masks(self, *maps: Tensor) -> Tensor:
        """The finer maps, finest first, the transformer's map and attention (B, Q * H, h, w) to (B, Q, h', w')."""
        *pyramid, projected, attention = maps
        attention = attention.unflatten(1, (-1, self.num_heads))
        adapted = [adapter(one) for adapter, one in zip(self.adapters, pyramid[::-1], strict=True)]
        return torch.cat([self._of_some(part, projected, adapted) for part in attention.split(QUERIES_AT_ONCE, 1)], 1)

    def _of_some(self, attention: Tensor, projected: Tensor, adapted: Sequence[Tensor]) -> Tensor:
        """attention: (B, q, H, h, w). Returns (B, q, h', w')."""
        number = attention.shape[1]

        def repeated(one: Tensor) -> Tensor:  # (B, C, h, w) for each query: (B * q, C, h, w)
            return one[:, None].expand(-1, number, -1, -1, -1).flatten(0, 1)

        hidden = torch.cat([repeated(projected), attention.flatten(0, 1)], dim=1)
        for step, (convolution, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            if step > 1:
                finer = adapted[step - 2]
                hidden = repeated(finer) + F.interpolate(hidden, finer.shape[-2:], mode="nearest")
            hidden = F.relu(norm(convolution(hidden)))
        return self.predict(hidden).squeeze(1).unflatten(0, (-1, number))
