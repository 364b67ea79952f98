"""DINO (Zhang et al., ICLR 2023, figure 2): DAB-Deformable-DETR in two stages with three ideas, each in its place.

- Contrastive denoising (section 3.3): `detrex_lite.modeling.ContrastiveDenoising`, as `denoising`.
- Mixed query selection (section 3.4): `DINOTransformer`.
- Look forward twice (section 3.5): `look_forward_twice` of the decoder.

What differs from the paper's repository is what differs in `DeformableDETR`, and that a batch without objects trains
the label embedding with zeros instead of skipping it.
"""

from detrex_lite.projects.dab_deformable_detr.modeling import DabDeformableDETR


class DINO(DabDeformableDETR):
    """Backbone, neck, encoder, proposals, decoder of boxes, heads; see `DabDeformableDETR` for the arguments."""
