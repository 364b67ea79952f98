"""What the overview of projects says of DN-Deformable-DETR, beside what it counts: tools/benchmark/overview.py."""

CONFIG = "models/dn_deformable_detr_r50.py"
CHECKPOINT = "dn_deformable_detr_r50_50ep"
COMPARED_WITH = ("detrex", "IDEA-Research/DN-DETR")
