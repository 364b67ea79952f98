"""What the overview of projects says of DINO, beside what it counts: tools/benchmark/overview.py."""

CONFIG = "models/dino_r50.py"
CHECKPOINT = "dino_r50_4scale_12ep"
COMPARED_WITH = ("detrex", "IDEA-Research/DINO")
