"""A GPU that has shapes and no numbers: whatever would wait for a real one fails here, without one."""

from unittest import mock

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from detrex_lite.modeling import HungarianMatcher, Match, Targets


class _NoWayBack(TorchDispatchMode):
    """AssertionError when an operator takes numbers from the GPU to the CPU."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        before, after = (
            {one.device.type for one in tree_leaves(part) if isinstance(one, torch.Tensor)}
            for part in ((args, kwargs), out)
        )
        assert not ("cuda" in before and "cpu" in after), f"{func} reads from the GPU"
        return out


def losses_on_a_fake_gpu(model, batch):
    """The losses of `model`, whose weights are gone then. Ground truth is on the GPU, and matches are given.

    Raises:
        DataDependentOutputException, DynamicOutputShapeException, AssertionError: when the forward pass would wait.
    """

    def targets(cls, inputs, *, num_classes, like):
        sizes = [len(one["instances"].gt_classes) for one in inputs]
        labels = torch.zeros(sum(sizes), dtype=torch.int64, device=like.device)
        return Targets(labels, torch.zeros(sum(sizes), 4, device=like.device), sizes)

    def find(self, predictions, its):
        sets = [(one, its if one.targets is None else one.targets) for one in predictions.values()]
        return [
            Match(*torch.zeros(3, sum(own.sizes), dtype=torch.int64, device=one.logits.device)) for one, own in sets
        ]

    with FakeTensorMode(allow_non_fake_inputs=True), _NoWayBack():
        for module in model.modules():
            for name, one in module.named_parameters(recurse=False):
                module._parameters[name] = torch.nn.Parameter(
                    torch.empty(one.shape, dtype=one.dtype, device="cuda"), one.requires_grad
                )
            for name, one in module.named_buffers(recurse=False):
                module._buffers[name] = torch.empty(one.shape, dtype=one.dtype, device="cuda")
        with (
            mock.patch.object(Targets, "from_inputs", classmethod(targets)),
            mock.patch.object(HungarianMatcher, "_find", find),
        ):
            return model(batch)
