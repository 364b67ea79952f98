"""What the overview of projects says of Deformable DETR, beside what it counts: tools/benchmark/overview.py."""

CONFIG = "models/deformable_detr_r50.py"
CHECKPOINT = "deformable_detr_r50_50ep"
COMPARED_WITH = ("detrex", "fundamentalvision/Deformable-DETR", "transformers")
