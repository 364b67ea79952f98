"""Mask DINO's heads (Li et al., CVPR 2023)."""

from torch import Tensor

from detrex_lite.modeling import DetectionHeads


class MaskDINOHeads(DetectionHeads):
    """Heads that the encoder and all layers share, and that read classes and masks from queries normalised once more.

    Boxes are read from queries after the decoder's norm, classes and mask embeddings from the norm of that. Encoded
    tokens and the contents that the decoder begins with go through it once.
    """

    def scored(self, hidden: Tensor) -> Tensor:
        """See `DetectionHeads.scored`."""
        assert self.norm is not None
        return self.norm(hidden)
