"""What the overview of projects says of SQR, beside what it counts: tools/benchmark/overview.py."""

CONFIG = "models/sqr_dab_detr_r50.py"
CHECKPOINT = "sqr_dab_detr_r50_50ep"
COMPARED_WITH = ("detrex",)
