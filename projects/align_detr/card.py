"""What the overview of projects says of Align-DETR, beside what it counts: tools/benchmark/overview.py."""

CONFIG = "models/align_detr_r50.py"
CHECKPOINT = "align_detr_r50_4scale_12ep"
COMPARED_WITH = ("detrex",)
