"""What the overview of projects says of Focus-DETR, beside what it counts: tools/benchmark/overview.py."""

CONFIG = "models/focus_detr_r50.py"
CHECKPOINT = "focus_detr_r50_4scale_12ep"
COMPARED_WITH = ("detrex",)
