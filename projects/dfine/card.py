"""What the overview of projects says of D-FINE, beside what it counts: tools/benchmark/overview.py."""

CONFIG = "models/dfine_s.py"
IMAGE_SIZE = (640, 640)
CHECKPOINT = "dfine_s"
COMPARED_WITH = ("Peterande/D-FINE", "transformers")
