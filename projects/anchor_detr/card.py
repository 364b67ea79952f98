"""What the overview of projects says of Anchor DETR, beside what it counts: tools/benchmark/overview.py."""

CONFIG = "models/anchor_detr_r50.py"
CHECKPOINT = "anchor_detr_r50_50ep"
COMPARED_WITH = ("detrex", "megvii-research/AnchorDETR")
