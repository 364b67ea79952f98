"""Mask DINO's heads (Li et al., CVPR 2023)."""

from torch import Tensor

from detrex_lite.modeling import DetectionHeads


class MaskDINOHeads(DetectionHeads):
    """Heads that the encoder and all layers share; classes and masks are predicted from queries normalised twice.

    Boxes are predicted from queries after the decoder's norm; classes and mask embeddings after applying this norm once
    more. Encoded tokens and the initial contents of the decoder are normalised once.
    """

    def scored(self, hidden: Tensor) -> Tensor:
        """See `DetectionHeads.scored`."""
        assert self.norm is not None
        return self.norm(hidden)
