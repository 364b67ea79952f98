"""What the overview of projects says of DDQ-DETR, beside what it counts: tools/benchmark/overview.py."""

CONFIG = "models/ddq_detr_r50.py"
PUBLISHED_AP = (51.4, "https://github.com/open-mmlab/mmdetection/tree/main/configs/ddq")
COMPARED_WITH = ()
