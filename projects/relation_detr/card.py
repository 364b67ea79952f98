"""What the overview of projects says of Relation-DETR, beside what it counts: tools/benchmark/overview.py."""

CONFIG = "models/relation_detr_r50.py"
CHECKPOINT = "relation_detr_r50_12ep"
COMPARED_WITH = ("xiuqhou/Relation-DETR",)
