"""DN-Deformable-DETR: DN-DETR (Li et al., CVPR 2022) with Deformable DETR's attention."""

from .dn_deformable_detr import DNDeformableDETR

__all__ = ["DNDeformableDETR"]
