"""LW-DETR-small: four more blocks, feature maps of four blocks, and 300 queries."""

from .lwdetr_tiny import model

model.backbone.depth = 10
model.backbone.global_blocks = [2, 4, 5, 8]
model.backbone.out_blocks = [2, 4, 5, 9]
model.num_queries = 300
model.postprocessor.num_detections = 300
