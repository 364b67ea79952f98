"""Mask DINO with a Swin-L for panoptic segmentation: the model of maskdino_r50_panoptic.py on that backbone."""

from detrex_lite.config import LazyCall as L
from detrex_lite.modeling import MaskFormerPanoptic

from .maskdino_swin_large_384 import model

model.num_classes = 133
model.queries.mask_boxes = False
model.postprocessor.num_things = 80
model.panoptic_postprocessor = L(MaskFormerPanoptic)(num_things=80, threshold=0.25, overlap=0.8, temperature=0.06)
