"""What the overview of projects says of RF-DETR, beside what it counts: tools/benchmark/overview.py."""

CONFIG = "models/rfdetr_nano.py"
IMAGE_SIZE = (384, 384)
CHECKPOINT = "rfdetr_nano"
COMPARED_WITH = ("roboflow/rf-detr", "transformers")
