"""Initial values that several detectors share."""

import math

from torch import nn

from ..layers import MLP

PRIOR_PROBABILITY = 0.01  # of an object


def xavier_uniform(module: nn.Module) -> None:
    """Draw all weights of a module anew, but for vectors (biases, norms), as DETR's repository does."""
    for parameter in module.parameters():
        if parameter.dim() > 1:
            nn.init.xavier_uniform_(parameter)


def expect_few_objects(class_head: nn.Linear) -> None:
    """Bias a sigmoid class head to a small probability, so that the focal loss of the many negatives begins small.

    Lin et al., ICCV 2017, section 4.1.
    """
    nn.init.constant_(class_head.bias, -math.log((1 - PRIOR_PROBABILITY) / PRIOR_PROBABILITY))


def begin_at_reference(box_head: MLP) -> None:
    """Zero the last layer of a box head, so that boxes begin where their references are."""
    for parameter in box_head.layers[-1].parameters():
        nn.init.zeros_(parameter)
