"""Mask DINO with a ResNet-50 for panoptic segmentation: 133 classes of COCO, things and then stuff, all with boxes.

Queries start from the boxes of proposals, not from the boxes around their masks.
"""

from detrex_lite.config import LazyCall as L
from detrex_lite.modeling import MaskFormerPanoptic

from .maskdino_r50 import model

model.num_classes = 133
model.queries.mask_boxes = False
model.postprocessor.num_things = 80
model.panoptic_postprocessor = L(MaskFormerPanoptic)(num_things=80, threshold=0.25, overlap=0.8, temperature=0.06)
