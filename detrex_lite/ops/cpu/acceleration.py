"""Exchanging the blocks of a model for those that are faster on a CPU, and back."""

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
"""Block -> what it is exchanged for. ConditionalSelfAttention gains by its linear layers alone."""

PLAIN = {accelerated: plain for plain, accelerated in ACCELERATED.items()}


def accelerate(model: Model) -> Model:
    """Make a model faster on a CPU, in place: with the same results up to rounding, and another draw of dropout.

    Modules change their classes and stay the same objects, with the same names, parameters and buffers: state dicts,
    optimizers, copies and pickles are not concerned. Only modules of exactly the classes in `ACCELERATED` are
    exchanged. Those that are called in an unusual way, or contain a module that is, are left as they are: with hooks
    (which includes pruning and weight_norm), with parametrizations, or with a `forward` of their own. What
    is added to them later works, too: an accelerated FFN looks for it in each call. On other devices, under autocast
    (but for dropout) and when compiled, an accelerated model does what a plain one does.

    Not on an accelerated model: double backward through an FFN, and `torch.ao.quantization.quantize_dynamic`, which
    looks for exact classes. See `restore`.

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
