"""What encoders of one feature map and of several share."""

import copy

from torch import nn

from ..layers import BaseTransformerLayer, TransformerLayerSequence


def norm_after_pre_norm_layers(sequence: TransformerLayerSequence) -> nn.Module | None:
    """A norm as those of the layers where these normalise before their blocks, so that the result is normalised."""
    last = sequence.layers[-1] if sequence.num_layers else None
    if isinstance(last, BaseTransformerLayer) and last.pre_norm:
        return copy.deepcopy(last.norms[-1])
    return None
