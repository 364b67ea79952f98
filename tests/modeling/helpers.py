"""Small batches for the tests of matching and losses."""

import torch

from detrex_lite.modeling import Predictions, Targets


def random_targets(sizes, num_classes=4, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    total = sum(sizes)
    centre = 0.25 + 0.5 * torch.rand(total, 2, generator=generator, dtype=dtype)
    size = 0.05 + 0.4 * torch.rand(total, 2, generator=generator, dtype=dtype)
    labels = torch.randint(num_classes, (total,), generator=generator)
    return Targets(labels, torch.cat([centre, size], dim=1), list(sizes))


def random_predictions(batch, queries, num_logits=5, seed=1, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(batch, queries, num_logits, generator=generator, dtype=dtype)
    boxes = torch.randn(batch, queries, 4, generator=generator, dtype=dtype).sigmoid()
    return Predictions(logits, boxes)


def image_of(targets, index):
    """The targets of one image of a batch."""
    labels = targets.labels.split(targets.sizes)[index]
    boxes = targets.boxes.split(targets.sizes)[index]
    return Targets(labels, boxes, [targets.sizes[index]])
