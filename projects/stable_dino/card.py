"""What the overview of projects says of Stable-DINO, beside what it counts: tools/benchmark/overview.py."""

CONFIG = "models/stable_dino_r50.py"
PUBLISHED_AP = (50.4, "https://github.com/IDEA-Research/Stable-DINO")
COMPARED_WITH = ("IDEA-Research/Stable-DINO",)
