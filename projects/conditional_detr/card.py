"""What the overview of projects says of Conditional DETR, beside what it counts: tools/benchmark/overview.py."""

CONFIG = "models/conditional_detr_r50.py"
CHECKPOINT = "conditional_detr_r50_50ep"
COMPARED_WITH = ("detrex", "Atten4Vis/ConditionalDETR", "transformers")
