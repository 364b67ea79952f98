"""What the overview of projects says of LW-DETR, beside what it counts: tools/benchmark/overview.py."""

CONFIG = "models/lwdetr_tiny.py"
IMAGE_SIZE = (640, 640)
CHECKPOINT = "lwdetr_tiny_60ep"
COMPARED_WITH = ("Atten4Vis/LW-DETR", "transformers")
