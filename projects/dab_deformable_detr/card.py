"""What the overview of projects says of DAB-Deformable-DETR, beside what it counts: tools/benchmark/overview.py."""

CONFIG = "models/dab_deformable_detr_r50.py"
CHECKPOINT = "dab_deformable_detr_r50_50ep"
COMPARED_WITH = ("detrex", "IDEA-Research/DAB-DETR")
