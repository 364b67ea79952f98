"""DAB-Deformable-DETR: DAB-DETR (Liu et al., ICLR 2022) with Deformable DETR's attention."""

from .dab_deformable_detr import DabDeformableDETR

__all__ = ["DabDeformableDETR"]
