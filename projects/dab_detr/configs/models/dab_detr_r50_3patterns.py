"""DAB-DETR with three queries at each anchor, distinguished by learned patterns (Anchor DETR's idea)."""

from .dab_detr_r50 import model

model.num_patterns = 3
