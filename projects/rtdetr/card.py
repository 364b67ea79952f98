"""What the overview of projects says of RT-DETR and RT-DETRv2, beside what it counts: tools/benchmark/overview.py."""

CONFIG = "models/rtdetrv2_r18.py"
IMAGE_SIZE = (640, 640)
CHECKPOINT = "rtdetrv2_r18_120ep"
COMPARED_WITH = ("lyuwenyu/RT-DETR", "transformers")
