"""What the overview of projects says of DAB-DETR, beside what it counts: tools/benchmark/overview.py."""

CONFIG = "models/dab_detr_r50.py"
CHECKPOINT = "dab_detr_r50_50ep"
COMPARED_WITH = ("detrex", "IDEA-Research/DAB-DETR", "transformers")
