"""A trivial detector with known results: it detects the single coloured rectangle on a black image."""

import torch
from torch import nn

from detrex_lite.structures import Boxes, Instances

CONFIG = """
from detrex_lite.config import LazyCall as L
from detrex_lite.data import ResizeShortestEdge, DetrDatasetMapper
from tests.inference.stand_in import ColourDetector

model = L(ColourDetector)(num_classes=3)
resize = L(ResizeShortestEdge)(short_edge_length=64)
dataloader = dict(test=dict(mapper=L(DetrDatasetMapper)(augmentation=resize, is_train=False)))
train = dict(init_checkpoint="")
"""


class ColourDetector(nn.Module):
    """Returns the box around all bright pixels, twice; its class is the strongest channel (R, G, B).

    The scores are weights, so that they are only present in a loaded checkpoint. `calls` are the shapes of the images
    of each call. With masks, the mask of each object is the bright pixels.
    """

    def __init__(self, *, num_classes, with_masks=False):
        super().__init__()
        self.num_classes = num_classes
        self.with_masks = with_masks
        self.scores = nn.Parameter(torch.zeros(2))
        self.calls = []

    def forward(self, batched_inputs):
        assert not self.training
        self.calls.append([tuple(record["image"].shape) for record in batched_inputs])
        return [{"instances": self.find(**record)} for record in batched_inputs]

    def find(self, image, height, width):
        assert image.dtype == torch.uint8
        bright = image.amax(0) > 100
        rows, columns = bright.nonzero().unbind(1)
        box = torch.stack([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]).float()
        box *= torch.tensor([width / image.shape[2], height / image.shape[1]] * 2)
        strongest = image.float().mean(dim=(1, 2)).argmax()
        instances = Instances(
            (height, width),
            pred_boxes=Boxes(box.expand(2, 4)),
            scores=self.scores.detach(),
            pred_classes=strongest.expand(2),
        )
        if self.with_masks:
            masks = nn.functional.interpolate(bright[None, None].float(), (height, width))[0] > 0.5
            instances.pred_masks = masks.expand(2, -1, -1)
        return instances


WEIGHTS = {"scores": torch.tensor([0.9, 0.3])}
