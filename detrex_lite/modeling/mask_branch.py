"""Features that masks are computed from, for any detector with several feature levels.

Legend: B batch, C channels, h x w cells of the finest map.
"""

import copy
from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import did_you_mean


class MaskBranch(nn.Module):
    """Fuses a fine map of the backbone with the finest map of the encoder (Mask DINO, Li et al., CVPR 2023, eq. 1).

    It is the detector's `mask_branch`; its counterpart in the heads is `heads.extra.mask_embedding`.

    Args:
        in_channels: maps the backbone's feature names to channels.
        in_feature: the backbone's map.
        embed_dim: C, of the encoder and of masks.
        norm: the normalisation of both convolutions, each of which gets a copy.
        stride: of `in_feature`, in pixels.

    Raises:
        ValueError: when the backbone has no such map.
    """

    def __init__(
        self, *, in_channels: Mapping[str, int], in_feature: str, embed_dim: int, norm: nn.Module, stride: int = 4
    ):
        super().__init__()
        if in_feature not in in_channels:
            raise ValueError(f"the backbone has no feature map {in_feature!r}{did_you_mean(in_feature, in_channels)}")
        self.in_feature = in_feature
        self.embed_dim = embed_dim
        self.stride = stride
        channels = in_channels[in_feature]
        self.lateral = nn.Sequential(nn.Conv2d(channels, embed_dim, 1, bias=False), copy.deepcopy(norm))
        self.smooth = nn.Sequential(
            nn.Conv2d(embed_dim, embed_dim, 3, padding=1, bias=False), copy.deepcopy(norm), nn.ReLU()
        )
        self.project = nn.Conv2d(embed_dim, embed_dim, 1)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw weights that preserve the scale of the input, as the paper's repository."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_uniform_(module.weight, a=1)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, lateral: Tensor, encoded: Tensor) -> Tensor:
        """lateral: (B, C, h, w), the result of `lateral`; encoded: (B, C, h', w'). Returns (B, C, h, w)."""
        enlarged = F.interpolate(encoded, lateral.shape[-2:], mode="bilinear", align_corners=False)
        return self.project(self.smooth(lateral + enlarged))
