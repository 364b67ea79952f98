"""What the overview of projects says of H-Deformable DETR, beside what it counts: tools/benchmark/overview.py."""

CONFIG = "models/h_deformable_detr_r50.py"
CHECKPOINT = "h_deformable_detr_r50_12ep"
COMPARED_WITH = ("detrex", "HDETR/H-Deformable-DETR")
