"""DN-Deformable-DETR (DN-DETR, Li et al., CVPR 2022): DAB-Deformable-DETR, denoising, and an indicator.

What differs from the published implementations: see `GroupDenoising` and `DeformableDETR`.
"""

from torch import Tensor

from detrex_lite.modeling import add_indicator
from detrex_lite.projects.dab_deformable_detr.modeling import DabDeformableDETR


class DNDeformableDETR(DabDeformableDETR):
    """DAB-Deformable-DETR whose learned contents leave a channel to the indicator of `GroupDenoising`.

    See `DabDeformableDETR` for the arguments. With `denoising=None` the indicator is there as well, so that weights of
    both kinds have the same shapes. Proposals, with two stages, have contents of all channels and no indicator.
    """

    def add_learned_queries(self, num_queries: int, embed_dim: int) -> None:
        """See `DabDeformableDETR.add_learned_queries`; contents are (Q, C - 1)."""
        super().add_learned_queries(num_queries, embed_dim - 1)

    def learned_queries(self) -> tuple[Tensor, Tensor]:
        """See `DabDeformableDETR.learned_queries`."""
        content, boxes = super().learned_queries()
        return add_indicator(content, denoising=False), boxes
