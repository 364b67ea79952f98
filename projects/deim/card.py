"""What the overview of projects says of DEIM, beside what it counts: tools/benchmark/overview.py."""

CONFIG = "models/deim_dfine_s.py"
IMAGE_SIZE = (640, 640)
CHECKPOINT = "deim_dfine_s"
COMPARED_WITH = ("ShihuaHuang95/DEIM",)
