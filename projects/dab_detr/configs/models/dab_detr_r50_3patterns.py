"""DAB-DETR with three queries at each anchor, told apart by a learned pattern (Anchor DETR's idea)."""

from .dab_detr_r50 import model

model.num_patterns = 3
