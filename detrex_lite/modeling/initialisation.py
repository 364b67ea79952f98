"""Initial values that several detectors share."""

import math

from torch import nn

PRIOR_PROBABILITY = 0.01  # of an object


def expect_few_objects(class_head: nn.Linear) -> None:
    """Bias a sigmoid class head to a small probability, so that the focal loss of the many negatives begins small.

    Lin et al., ICCV 2017, section 4.1.
    """
    nn.init.constant_(class_head.bias, -math.log((1 - PRIOR_PROBABILITY) / PRIOR_PROBABILITY))
