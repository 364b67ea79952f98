"""COCO 2017 panoptic: every segment of things and stuff is an object with a mask; otherwise the same as coco_detr.py.

Its 133 classes are the categories in the order of their ids, things first. Boxes and masks of things are evaluated with
the instance annotations, as published; their classes are the first 80.
"""

from detrex_lite.config import LazyCall as L
from detrex_lite.data import load_dataset
from detrex_lite.evaluation import CocoEvaluator, CombinedEvaluator, PanopticEvaluator

from .coco_detr import dataloader

dataloader.train.dataset.name = "coco_2017_train_panoptic"
dataloader.test.dataset.name = "coco_2017_val_panoptic"
dataloader.evaluator = L(CombinedEvaluator)(
    evaluators=[
        L(CocoEvaluator)(
            dataset=L(load_dataset)(name="coco_2017_val", masks=True),
            further_classes=53,
            output_dir="${train.output_dir}/evaluation",
        ),
        L(PanopticEvaluator)(dataset="${dataloader.test.dataset}", output_dir="${train.output_dir}/evaluation"),
    ]
)
