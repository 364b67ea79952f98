"""A data set in memory with the interface that evaluators use, and model outputs for its images."""

import numpy as np
import torch

from detrex_lite.structures import Boxes, Instances, checked_segmentation


class MemoryDataset:
    """A data set whose images all have the same size.

    Args:
        objects: maps image ids to lists of (xyxy box, class) or (box, class, iscrowd, area).
        segmentations: maps image ids to lists of `segmentation` entries of COCO files; None for no masks.
    """

    name = "memory"
    height, width = 200, 300

    def __init__(
        self, objects, class_names=("cat", "dog"), category_ids=(7, 3), has_annotations=True, segmentations=None
    ):
        self.objects = objects
        self.segmentations = segmentations
        self.class_names = tuple(class_names)
        self.num_classes = len(self.class_names)
        self.category_ids = tuple(category_ids)
        self.image_ids = np.array(list(objects))
        self.has_annotations = has_annotations

    image_root = ""

    def __len__(self):
        return len(self.objects)

    def file_name(self, index):
        return f"{self.image_ids[index]}.jpg"

    def __getitem__(self, index):
        image_id = self.image_ids[index]
        rows = [self._complete(*row) for row in self.objects[int(image_id)]]
        masks = {}
        if self.segmentations is not None:
            shapes = self.segmentations[int(image_id)]
            masks = {
                "segmentations": [
                    checked_segmentation(segmentation, (self.height, self.width)) for segmentation in shapes
                ]
            }
        return {
            **masks,
            "file_name": f"{image_id}.jpg",
            "image_id": image_id,
            "height": self.height,
            "width": self.width,
            "boxes": torch.tensor([row[0] for row in rows], dtype=torch.float32).reshape(-1, 4),
            "classes": torch.tensor([row[1] for row in rows], dtype=torch.int64),
            "iscrowd": torch.tensor([row[2] for row in rows], dtype=torch.bool),
            "area": torch.tensor([row[3] for row in rows], dtype=torch.float32),
        }

    @staticmethod
    def _complete(box, class_index, iscrowd=False, area=None):
        return box, class_index, iscrowd, (box[2] - box[0]) * (box[3] - box[1]) if area is None else area


def model_input(image_id):
    return {"image_id": image_id, "file_name": f"{image_id}.jpg", "height": 200, "width": 300}


def model_output(boxes=(), scores=(), classes=(), masks=None):
    instances = Instances((200, 300))
    instances.pred_boxes = Boxes(torch.as_tensor(boxes, dtype=torch.float32).reshape(-1, 4))
    instances.scores = torch.as_tensor(scores, dtype=torch.float32)
    instances.pred_classes = torch.as_tensor(classes, dtype=torch.int64)
    if masks is not None:
        instances.pred_masks = torch.as_tensor(np.asarray(masks), dtype=torch.bool).reshape(-1, 200, 300)
    return {"instances": instances}


def perfect_output(dataset, image_id):
    objects = dataset.objects[image_id]
    return model_output([row[0] for row in objects], [0.9] * len(objects), [row[1] for row in objects])
