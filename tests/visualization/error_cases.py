"""A data set of shapes, and detections that contain every kind of error."""

import numpy as np
import torch

from detrex_lite.data import generate_shapes, load_shapes
from detrex_lite.evaluation import CocoEvaluator
from detrex_lite.structures import Boxes, Instances


def shapes_dataset(folder, num_images=12):
    generate_shapes(folder, num_train=1, num_val=num_images, empty_share=0.0)
    return load_shapes(folder, split="val")


def model_output(record, boxes, scores, classes):
    instances = Instances((record["height"], record["width"]))
    instances.pred_boxes = Boxes(torch.as_tensor(np.asarray(boxes), dtype=torch.float32).reshape(-1, 4))
    instances.scores = torch.as_tensor(np.asarray(scores), dtype=torch.float32)
    instances.pred_classes = torch.as_tensor(np.asarray(classes), dtype=torch.int64)
    return {"instances": instances}


def faulty_output(record, rng, num_classes):
    """Detect each object at random: correctly, with a wrong class, shifted, twice or not. Add a false positive."""
    boxes, scores, classes = [], [], []
    for box, class_index in zip(record["boxes"].numpy(), record["classes"].tolist(), strict=True):
        kind = rng.choice(["correct", "correct", "correct", "class", "shifted", "twice", "missed"])
        half_a_side = np.array([box[2] - box[0], 0, box[2] - box[0], 0]) / 2
        if kind != "missed":
            boxes.append(box + half_a_side if kind == "shifted" else box + rng.normal(0, 0.6, 4))
            classes.append((class_index + 1) % num_classes if kind == "class" else class_index)
            scores.append(rng.uniform(0.4, 0.95))
        if kind == "twice":
            boxes.append(box + 1)
            classes.append(class_index)
            scores.append(scores[-1] * 0.9)
    boxes.append([0.0, 0, 12, 12])
    classes.append(0)
    scores.append(rng.uniform(0.1, 0.6))
    return model_output(record, boxes, scores, classes)


def evaluate_faulty_outputs(dataset, output_dir=None, seed=0):
    """An evaluator that has processed the faulty outputs of all images."""
    rng = np.random.default_rng(seed)
    evaluator = CocoEvaluator(dataset=dataset, output_dir=output_dir)
    for record in dataset:
        evaluator.process([record], [faulty_output(record, rng, dataset.num_classes)])
    evaluator.evaluate()
    return evaluator
