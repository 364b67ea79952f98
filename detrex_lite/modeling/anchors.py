"""Queries as anchor boxes (DAB-DETR, Liu et al., ICLR 2022, section 4).

Legend: B batch, Q queries, P patterns, C channels.
"""

import torch
from torch import Tensor, nn

from ..errors import did_you_mean
from ..structures import inverse_sigmoid

CENTERS = ("learned", "random", "fixed")


class AnchorBoxes(nn.Module):
    """Q learned boxes, the same for all images, kept as logits.

    Args:
        num_queries: Q.
        centers: initial values of the box centres. "learned" draws logits from a normal distribution, so that most
            centres are near the middle of the image; "random" distributes them uniformly over the image; "fixed" is
            "random" without gradients. The published commands of the DAB-DETR and DN-DETR repositories use "learned",
            with one exception. detrex describes the centres of its DAB-DETR as frozen but trains them, which is
            "random".

    Raises:
        ValueError: when `num_queries` is below 1 or `centers` is unknown.
    """

    def __init__(self, num_queries: int, centers: str = "learned"):
        super().__init__()
        if num_queries < 1:
            raise ValueError(f"num_queries={num_queries}: a detector has at least one query")
        if centers not in CENTERS:
            raise ValueError(f"unknown centers={centers!r}{did_you_mean(centers, CENTERS)}")
        self.centers = centers
        self.weight = nn.Parameter(torch.empty(num_queries, 4))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw normally distributed logits; centres are uniformly distributed unless they are "learned"."""
        nn.init.normal_(self.weight)
        if self.centers != "learned":
            with torch.no_grad():
                self.weight[:, :2] = inverse_sigmoid(torch.rand_like(self.weight[:, :2]))

    def forward(self) -> Tensor:
        """Return the boxes, (Q, 4) cxcywh in 0..1, in float32 at least."""
        weight = self.weight.to(torch.promote_types(self.weight.dtype, torch.float32))
        if self.centers == "fixed":
            weight = torch.cat([weight[:, :2].detach(), weight[:, 2:]], dim=-1)
        return weight.sigmoid()


def pair_with_patterns(patterns: Tensor, anchors: Tensor) -> tuple[Tensor, Tensor]:
    """Combine each pattern with each anchor, so that several objects can be detected at one anchor.

    Args:
        patterns: (P, C), contents (Anchor DETR, Wang et al., AAAI 2022).
        anchors: (Q, 4) boxes or (Q, 2) points.

    Returns:
        Contents (P * Q, C) and anchors (P * Q, 4 or 2): all anchors with the first pattern, then with the second, ...
    """
    return patterns.repeat_interleave(len(anchors), dim=0), anchors.repeat(len(patterns), 1)
