"""Replacement of the blocks of a model by subclasses that are faster on a CPU, and its reversal."""

from typing import TypeVar

from torch import nn

from ...layers import FFN, ConditionalCrossAttention, MultiheadAttention
from .modules import (
    AcceleratedConditionalCrossAttention,
    AcceleratedDropout,
    AcceleratedFFN,
    AcceleratedLinear,
    AcceleratedMultiheadAttention,
    is_untouched,
)

Model = TypeVar("Model", bound=nn.Module)

ACCELERATED: dict[type[nn.Module], type[nn.Module]] = {
    nn.Linear: AcceleratedLinear,
    nn.Dropout: AcceleratedDropout,
    FFN: AcceleratedFFN,
    MultiheadAttention: AcceleratedMultiheadAttention,
    ConditionalCrossAttention: AcceleratedConditionalCrossAttention,
}
"""Maps each block to its accelerated subclass. ConditionalSelfAttention profits from its linear layers alone."""

PLAIN = {accelerated: plain for plain, accelerated in ACCELERATED.items()}


def accelerate(model: Model) -> Model:
    """Make a model faster on a CPU, in place; results stay the same up to rounding and the random draws of dropout.

    Only the classes of modules change. The modules remain the same objects, with the same names, parameters and
    buffers, so that state dicts, optimizers, copies and pickles are not affected. Only modules whose class is exactly
    one of those in `ACCELERATED` are converted. A module with hooks (including pruning and weight_norm),
    parametrizations or a replaced `forward` is left unchanged, and so is a module that contains one. Hooks may also be
    added later, since an accelerated FFN checks for them in each call. On other devices, under autocast (except for
    dropout) and when compiled, an accelerated model runs the plain implementation.

    Two operations need the plain model, see `restore`: double backward through an FFN, and
    `torch.ao.quantization.quantize_dynamic`, which looks for exact classes.

    Args:
        model: in any mode.

    Returns:
        `model`.
    """
    for module in model.modules():
        accelerated = ACCELERATED.get(type(module))
        if accelerated is not None and all(is_untouched(inner) for inner in module.modules()):
            module.__class__ = accelerated
    return model


def restore(model: Model) -> Model:
    """Undo `accelerate`, in place. Returns `model`."""
    for module in model.modules():
        plain = PLAIN.get(type(module))
        if plain is not None:
            module.__class__ = plain
    return model
