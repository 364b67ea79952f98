"""Queries as boxes (DAB-DETR, Liu et al., ICLR 2022, section 4): where every image's queries begin.

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
        centers: "learned" begins with logits from a normal distribution, most of them in the middle of the image;
            "random" begins with centres all over the image; "fixed" is "random" without gradients of the centres.
            The published commands of DAB-DETR's and DN-DETR's repositories have "learned" centres, with one exception.
            detrex says of its DAB-DETR that it freezes random centres, but trains them: that is "random".

    Raises:
        ValueError: without queries, or for centres of another kind.
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
        """Normally distributed logits, but uniformly distributed centres unless they are learned."""
        nn.init.normal_(self.weight)
        if self.centers != "learned":
            with torch.no_grad():
                self.weight[:, :2] = inverse_sigmoid(torch.rand_like(self.weight[:, :2]))

    def forward(self) -> Tensor:
        """(Q, 4) cxcywh in 0..1, in float32 at least."""
        weight = self.weight.to(torch.promote_types(self.weight.dtype, torch.float32))
        if self.centers == "fixed":
            weight = torch.cat([weight[:, :2].detach(), weight[:, 2:]], dim=-1)
        return weight.sigmoid()


def pair_with_patterns(patterns: Tensor, anchors: Tensor) -> tuple[Tensor, Tensor]:
    """A query for each pair of a pattern and an anchor, so that several objects may be found at one place.

    Args:
        patterns: (P, C), contents (Anchor DETR, Wang et al., AAAI 2022).
        anchors: (Q, 4) boxes or (Q, 2) points.

    Returns:
        Contents (P * Q, C) and anchors (P * Q, 4 or 2): all anchors with the first pattern, then with the second, ..
    """
    return patterns.repeat_interleave(len(anchors), dim=0), anchors.repeat(len(patterns), 1)
