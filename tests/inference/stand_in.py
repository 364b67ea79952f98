"""A detector small enough to know every result: it finds the one coloured rectangle on a black image."""

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
    """Finds the box around all that is bright, twice; its class is the strongest channel (R, G, B).

    The scores are weights, so that only a loaded checkpoint gives any. `calls` are the shapes of the images
    of each call. With masks, each object's is what is bright.
    """

    def __init__(self, *, num_classes, with_masks=False):
        super().__init__()
        self.num_classes = num_classes
        self.with_masks = with_masks
        self.scores = nn.Parameter(torch.zeros(2))
        self.calls = []

    def forward(self, batched_inputs):
        assert not self.training
        self.calls.append([tuple(one["image"].shape) for one in batched_inputs])
        return [{"instances": self.find(**one)} for one in batched_inputs]

    def find(self, image, height, width):
        assert image.dtype == torch.uint8
        bright = image.amax(0) > 100
        rows, columns = bright.nonzero().unbind(1)
        box = torch.stack([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]).float()
        box *= torch.tensor([width / image.shape[2], height / image.shape[1]] * 2)
        strongest = image.float().mean(dim=(1, 2)).argmax()
        found = Instances(
            (height, width),
            pred_boxes=Boxes(box.expand(2, 4)),
            scores=self.scores.detach(),
            pred_classes=strongest.expand(2),
        )
        if self.with_masks:
            masks = nn.functional.interpolate(bright[None, None].float(), (height, width))[0] > 0.5
            found.pred_masks = masks.expand(2, -1, -1)
        return found


WEIGHTS = {"scores": torch.tensor([0.9, 0.3])}
