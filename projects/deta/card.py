"""What the overview of projects says of DETA, beside what it counts: tools/benchmark/overview.py."""

CONFIG = "models/deta_r50.py"
CHECKPOINT = "deta_r50_12ep"
COMPARED_WITH = ("detrex",)
