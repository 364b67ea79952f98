"""DAB-Deformable-DETR: DAB-DETR (Liu et al., ICLR 2022) with Deformable DETR's attention."""

# What detectors that extend this one need of the one that this extends: they import one project.
from detrex_lite.projects.deformable_detr.modeling import StartingQueries

from .dab_deformable_detr import DabDeformableDETR
from .transformer import DabDeformableDetrTransformer, DabDeformableDetrTransformerDecoder

__all__ = [
    "DabDeformableDETR",
    "DabDeformableDetrTransformer",
    "DabDeformableDetrTransformerDecoder",
    "StartingQueries",
]
