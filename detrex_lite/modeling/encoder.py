"""Helpers shared by encoders of one and of several feature maps."""

import copy

from torch import nn

from ..layers import BaseTransformerLayer, TransformerLayerSequence


def norm_after_pre_norm_layers(sequence: TransformerLayerSequence) -> nn.Module | None:
    """Create the final norm of a stack of pre-norm layers, a copy of their norm; None for post-norm layers."""
    last = sequence.layers[-1] if sequence.num_layers else None
    if isinstance(last, BaseTransformerLayer) and last.pre_norm:
        return copy.deepcopy(last.norms[-1])
    return None
