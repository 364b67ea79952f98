"""What the overview of projects says of Co-DETR, beside what it counts: tools/benchmark/overview.py."""

CONFIG = "models/co_dino_r50_5scale.py"
PUBLISHED_AP = (52.1, "https://github.com/Sense-X/Co-DETR")
COMPARED_WITH = ()
