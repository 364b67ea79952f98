"""What the overview of projects says of PnP-DETR, beside what it counts: tools/benchmark/overview.py."""

CONFIG = "models/pnp_detr_r50.py"
PUBLISHED_AP = None
COMPARED_WITH = ("detrex",)
