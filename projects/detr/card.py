"""What the overview of projects says of DETR, beside what it counts: tools/benchmark/overview.py."""

CONFIG = "models/detr_r50.py"
CHECKPOINT = "detr_r50_500ep_paper"
COMPARED_WITH = ("detrex", "facebookresearch/detr", "transformers")
