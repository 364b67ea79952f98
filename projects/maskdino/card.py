"""What the overview of projects says of Mask DINO, beside what it counts: tools/benchmark/overview.py."""

CONFIG = "models/maskdino_r50.py"
CHECKPOINT = "maskdino_r50_50ep"
COMPARED_WITH = ("detrex",)
