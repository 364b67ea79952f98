"""Initial values that several parts of detectors share."""

from torch import nn


def xavier_uniform(module: nn.Module) -> None:
    """Draw all matrices of a module from Xavier's uniform distribution, but no vectors (biases, norms), as DETR does.

    A part calls it on layers that it has made itself, never on parts that it was given: their initial values are their
    own.
    """
    for parameter in module.parameters():
        if parameter.dim() > 1:
            nn.init.xavier_uniform_(parameter)
