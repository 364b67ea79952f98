"""Initialisation shared by several parts of detectors."""

from torch import nn


def xavier_uniform(module: nn.Module) -> None:
    """Draw Xavier-uniform values for all matrices of a module, but not for vectors (biases, norms), as DETR does.

    A part applies it to layers that it has created, never to parts that it was given, which initialise themselves.
    """
    for parameter in module.parameters():
        if parameter.dim() > 1:
            nn.init.xavier_uniform_(parameter)
