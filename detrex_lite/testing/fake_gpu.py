"""A fake GPU whose tensors have shapes but no values: synchronising with it fails, without a real GPU."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ..modeling import Detector, Match, Predictions, Targets
from ..modeling.targets import IMAGE_SIZE, MASKS


class _NoReadback(TorchDispatchMode):
    """Raises an AssertionError when an operator transfers values from the GPU to the CPU."""

    def __torch_dispatch__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        input_devices, output_devices = (
            {tensor.device.type for tensor in tree_leaves(part) if isinstance(tensor, Tensor)}
            for part in ((args, kwargs), out)
        )
        assert not ("cuda" in input_devices and "cpu" in output_devices), f"{func} reads from the GPU"
        return out


class _TrivialMatcher:
    """A `Matcher` that returns as many pairs as objects without reading values. Real ones synchronise once per step."""

    def __call__(self, predictions: Mapping[str, Predictions], targets: Targets) -> dict[str, Match]:
        matches = {}
        for name, predicted in predictions.items():
            objects = predicted.targets if isinstance(predicted.targets, Targets) else targets
            pairs = torch.zeros(
                3, len(objects) * predicted.num_groups, dtype=torch.int64, device=predicted.logits.device
            )
            matches[name] = Match(
                pairs[0], pairs[1], pairs[2], sizes=[pairs.shape[1], *[0] * (len(predicted.logits) - 1)]
            )
        return matches


def losses_on_a_fake_gpu(model: Detector, batch: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
    """Compute the losses of a detector on a fake GPU; values are meaningless, names and devices are not.

    Args:
        model: a detector whose criterion has a `matcher`, such as `SetCriterion`; its weights are lost.
        batch: in detectron2's format.

    Raises:
        DataDependentOutputException, DynamicOutputShapeException, AssertionError: when the forward pass of training
            would synchronise with a GPU, except in the matching.
    """
    criterion: Any = model.criterion
    criterion.matcher = _TrivialMatcher()
    criterion.matchers = dict.fromkeys(getattr(criterion, "matchers", ()), criterion.matcher)
    with FakeTensorMode(allow_non_fake_inputs=True), _NoReadback():
        _move(model)
        images = model.preprocess(batch, as_published=True)
        sizes = [len(record["instances"].gt_classes) for record in batch]
        labels = torch.zeros(sum(sizes), dtype=torch.int64, device=images.tensor.device)
        extra = {}
        if getattr(criterion, "needs_masks", False):
            extra[MASKS] = labels.new_zeros(sum(sizes), *images.tensor.shape[-2:], dtype=torch.bool)
        if getattr(criterion, "needs_image_sizes", False):
            extra[IMAGE_SIZE] = torch.zeros(sum(sizes), 2, device=images.tensor.device)
        targets = Targets(labels, torch.zeros(sum(sizes), 4, device=images.tensor.device), sizes, extra)
        outputs = model.predict(images, targets)
        return model.criterion(outputs, targets) | model.losses(outputs, targets)


def _move(model: nn.Module) -> None:
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            empty = torch.empty(parameter.shape, dtype=parameter.dtype, device="cuda")
            setattr(module, name, nn.Parameter(empty, parameter.requires_grad))
        for name, buffer in list(module.named_buffers(recurse=False)):
            setattr(module, name, torch.empty(buffer.shape, dtype=buffer.dtype, device="cuda"))
