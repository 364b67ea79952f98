"""Attention with a gated residual connection (D-FINE, Peng et al., ICLR 2025, section 4.2).

Legend: B batch, Q queries, N keys, C channels.
"""

from typing import Any

import torch
from torch import Tensor, nn


class GatedAttention(nn.Module):
    """`norm(g1 * identity + g2 * attention)`, which replaces `norm(identity + attention)`.

    The gates g1 and g2, in 0..1 for each channel, are computed from both inputs by a linear layer and a sigmoid. In a
    `BaseTransformerLayer` the block is not followed by a "norm": D-FINE's order is ("self_attn", "norm", "cross_attn",
    "ffn", "norm").

    Args:
        attention: any attention with an identity connection.
        embed_dim: C.
    """

    def __init__(self, attention: nn.Module, embed_dim: int):
        super().__init__()
        self.attention = attention
        self.gate = nn.Linear(2 * embed_dim, 2 * embed_dim)
        self.norm = nn.LayerNorm(embed_dim)
        self._reset_gate()

    def _reset_gate(self) -> None:
        nn.init.zeros_(self.gate.weight)
        nn.init.zeros_(self.gate.bias)

    def reset_parameters(self) -> None:
        """Draw new initial values for the attention; both gates start at 0.5."""
        self._reset_gate()
        reset = getattr(self.attention, "reset_parameters", None)
        if callable(reset):
            reset()

    def forward(
        self,
        query: Tensor,
        key: Tensor | None = None,
        value: Tensor | None = None,
        identity: Tensor | None = None,
        **inputs: Any,
    ) -> Tensor:
        """Attend.

        Args:
            query: (B, Q, C).
            key, value: (B, N, C), see the attention.
            identity: (B, Q, C), which is gated against the attention; `query` when None.
            inputs: further arguments of the attention.

        Returns:
            (B, Q, C).
        """
        identity = query if identity is None else identity
        attended = self.attention(query, key, value, identity=query.new_zeros(()), **inputs)
        gates = self.gate(torch.cat([identity, attended], dim=-1)).sigmoid()
        identity_gate, attention_gate = gates.chunk(2, dim=-1)
        return self.norm(identity_gate * identity + attention_gate * attended)
