"""shapes.py with masks, where the background is an object of a fourth class, which is stuff.

Boxes and masks are evaluated only for the shapes.
"""

from detrex_lite.config import LazyCall as L
from detrex_lite.data import load_shapes, load_shapes_panoptic
from detrex_lite.evaluation import CocoEvaluator, CombinedEvaluator, PanopticEvaluator

from .shapes import dataloader, dataset

dataloader.train.dataset = L(load_shapes_panoptic)(root="${dataset.root}", split="train")
dataloader.test.dataset = L(load_shapes_panoptic)(root="${dataset.root}", split="val")
dataloader.evaluator = L(CombinedEvaluator)(
    evaluators=[
        L(CocoEvaluator)(
            dataset=L(load_shapes)(root="${dataset.root}", split="val", masks=True),
            further_classes=1,
            output_dir="${train.output_dir}/evaluation",
        ),
        L(PanopticEvaluator)(dataset="${dataloader.test.dataset}", output_dir="${train.output_dir}/evaluation"),
    ]
)
