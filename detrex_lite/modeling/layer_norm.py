"""Layer normalisation of feature maps."""

from torch import Tensor, nn


class LayerNorm2d(nn.LayerNorm):
    """Normalises the channels of each cell of maps (B, C, h, w); its arguments are those of `nn.LayerNorm`."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)
